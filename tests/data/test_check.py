"""Records, counts and faults of whole splits, against loops."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from jaxseg.config import Augment, Data
from jaxseg.data import Label, check, images, shapes
from jaxseg.data.layouts import Labelled, Layout
from jaxseg.types import ClassList


def _record(instance: np.ndarray, name: str = "a", seed: int = 0) -> check.Record:
    semantic = (instance > 0).astype(np.uint8)
    pixels = np.random.default_rng(seed).integers(0, 256, (*instance.shape, 3), np.uint8)
    label = Label(semantic, instance.astype(np.uint16))
    return check.Record.of(name, Labelled(b"", images.digest(pixels), label))


def _scattered(seed: int, size=(40, 50), count: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    instance = np.zeros(size, np.uint16)
    for i in range(count):
        y, x = rng.integers(0, size[0] - 6), rng.integers(0, size[1] - 6)
        instance[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = i + 1
    return instance


@pytest.mark.parametrize("seed", range(3))
def test_objects_are_those_of_the_maps(seed):
    scene = shapes.generate(0, "train", seed, (48, 64))
    found = check.objects(Label(scene.semantic, scene.instance))
    ids = np.unique(scene.instance)[1:]
    assert len(found) == len(ids) > 0
    for row, i in zip(found, ids, strict=True):
        y, x = np.nonzero(scene.instance == i)
        expected = (scene.semantic[y[0], x[0]], y.size, y.min(), x.min(), y.max() + 1, x.max() + 1)
        assert row == tuple(map(int, expected))


def test_an_image_without_objects():
    assert check.objects(Label(np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint16))) == []


@pytest.mark.parametrize("crop", [(16, 16), (16, 32), (64, 16), (64, 64)])
@pytest.mark.parametrize("transpose", [False, True])
def test_most_in_a_crop_is_what_the_fullest_place_shows(crop, transpose):
    for seed in range(4):
        instance = _scattered(seed)
        record = _record(instance)
        data = Data(crop=crop, augment=Augment(transpose=transpose))
        boxes = np.array([row[2:] for row in record.instances])
        most = 0
        for height, width in {crop, crop[::-1]} if transpose else {crop}:
            height, width = min(height, 40), min(width, 50)
            for y in range(40 - height + 1):
                for x in range(50 - width + 1):
                    shown = (
                        (boxes[:, 0] < y + height) & (boxes[:, 2] > y) & (boxes[:, 1] < x + width) & (boxes[:, 3] > x)
                    )
                    most = max(most, int(shown.sum()))
        assert check.most_in_crop(record, data) == most


def test_a_crop_shows_more_of_a_smaller_image():
    record = _record(_scattered(0))
    one = check.most_in_crop(record, Data(crop=(16, 16)))
    assert check.most_in_crop(record, Data(crop=(16, 16), augment=Augment(scale=(0.5, 1)))) > one
    assert check.most_in_crop(record, Data(crop=(16, 16)), (20, 25)) > one
    assert check.most_in_crop(record, Data(crop=(16, 16)), (400, 500)) < one


def test_crowded_images_are_named_the_fullest_first():
    rows = [_record(_scattered(0, count=n), name) for n, name in ((3, "few"), (9, "many"), (12, "most"))]
    found = check.crowded(rows, Data(crop=(48, 64)), 5)
    counts = [len(row.instances) for row in rows]
    assert [fault.message.split()[3] for fault in found] == ["train/most", "train/many"]
    assert all(fault.message.endswith(f"Raise it to {max(counts)}.") for fault in found)
    assert check.crowded(rows, Data(crop=(48, 64)), max(counts)) == []


def test_pictures_that_splits_share_are_named_whatever_their_files():
    instance = _scattered(0)
    rows = {"train": [_record(instance, "a", 1), _record(instance, "b", 2)], "val": [_record(instance, "c", 2)]}
    assert [fault.message.split(". ")[0] for fault in check.across(rows)] == ["val/c is the same picture as train/b"]
    twice = {"train": [_record(instance, "a", 1), _record(instance, "b", 1)]}
    assert check.across(twice) == []


def test_a_split_without_objects_is_a_fault_but_a_withheld_one_is_not():
    rows = {"test": [_record(np.zeros((4, 4)), "a")]}
    assert [fault.kind for fault in check.across(rows)] == ["empty"]
    withheld = rows["test"][0]._replace(pixels={255: 16})
    assert check.across({"test": [withheld]}) == []
    assert [fault.kind for fault in check.across({"val": [withheld]})] == ["empty"]


def test_gray_and_the_color_image_that_shows_it_are_one_picture():
    gray = np.random.default_rng(0).integers(0, 256, (8, 9), np.uint8)
    assert images.digest(gray) == images.digest(gray[..., None].repeat(3, -1))
    assert images.digest(gray) != images.digest(gray.reshape(9, 8))


def test_pixels_of_classes_and_the_share_that_is_ignored():
    row = _record(_scattered(0))._replace(pixels={0: 1500, 1: 300, 255: 200})
    np.testing.assert_array_equal(check.class_pixels([row, row], 3), [3000, 600, 0])
    assert check.ignored_share([row, row]) == 0.1
    assert check.ignored_share([]) == 0


def test_objects_of_a_label_that_is_looked_at_in_pieces(monkeypatch):
    scene = shapes.generate(0, "train", 1, (48, 64))
    label = Label(scene.semantic, scene.instance)
    whole = check.objects(label)
    monkeypatch.setattr(check, "BAND", 5 * 64)
    assert check.objects(label) == whole


def test_content_follows_pictures_and_labels_alone():
    record = _record(_scattered(0), "a", 1)
    assert check.content({"train": [record]}) == check.content({"train": [_record(_scattered(0), "a", 1)]})
    others = [_record(_scattered(1), "a", 1), _record(_scattered(0), "a", 2), _record(_scattered(0), "b", 1)]
    assert len({check.content({"train": [row]}) for row in (record, *others)}) == 4


def test_splits_that_training_needs():
    assert [fault.kind for fault in check.without({"val": ()}, "mydata")] == ["empty"]
    assert check.without({"val": ()}, "mydata")[0].message.startswith("mydata has no train split.")
    assert check.without({"train": (), "val": (), "test": ()}, "mydata") == []


class _Slow(Layout):
    """Counts what was opened."""

    opened = 0

    def fingerprint(self):
        return "slow"

    def read(self, item):
        type(self).opened += 1
        return Labelled(b"", "", Label(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint16)))


def test_few_images_are_opened_ahead_of_a_slow_consumer(monkeypatch):
    monkeypatch.setattr(check.os, "cpu_count", lambda: 64)
    items = [SimpleNamespace(name=str(i)) for i in range(100)]
    images_ = check.examined(_Slow("slow", ClassList.of(("a",)), {"train": items}), items)
    assert next(images_).record.name == "0"
    time.sleep(0.2)
    assert _Slow.opened <= check.THREADS + 2
    assert [image.record.name for image in images_] == [str(i) for i in range(1, 100)]
