"""Generated scenes: what their labels promise."""

import hashlib

import cv2
import numpy as np
import pytest

from jaxseg.config import Data, Shapes
from jaxseg.data import shapes

SIZE = (128, 256)
SEEDS = range(60)


def _scenes(classes: int = 8) -> list:
    return [shapes.scene(np.random.default_rng(seed), SIZE, classes) for seed in SEEDS]


def test_types_and_sizes():
    image, semantic, instance = shapes.scene(np.random.default_rng(0), (64, 96), 8)[:3]
    assert (image.shape, image.dtype) == ((64, 96, 3), np.uint8)
    assert (semantic.shape, semantic.dtype) == ((64, 96), np.uint8)
    assert (instance.shape, instance.dtype) == ((64, 96), np.uint16)


def test_every_id_is_one_visible_object_of_one_class():
    for _, semantic, instance, *_ in _scenes():
        ids, pixels = np.unique(instance, return_counts=True)
        np.testing.assert_array_equal(ids, np.arange(len(ids)))
        assert len(ids) - 1 <= shapes.MOST_OBJECTS
        assert (pixels[1:] >= shapes.FEWEST_PIXELS).all()
        for i in ids[1:]:
            found = np.unique(semantic[instance == i])
            assert len(found) == 1
            assert 1 <= found[0] <= 8


def test_background_and_ignored_pixels_have_no_instance():
    scenes = _scenes()
    for scene in scenes:
        np.testing.assert_array_equal(scene.instance > 0, (scene.semantic > 0) & (scene.semantic < 255))
    share = np.mean([(scene.semantic == 255).any() for scene in scenes])
    assert 0.1 < share < 0.5


def test_classes_limits_what_is_drawn():
    found = {int(c) for scene in _scenes(classes=3) for c in np.unique(scene.semantic)}
    assert found == {0, 1, 2, 3, 255}


def test_all_classes_occur_about_equally_often():
    counts = np.zeros(9)
    for scene in _scenes():
        for i in range(1, scene.instance.max() + 1):
            counts[scene.semantic[scene.instance == i][0]] += 1
    assert counts[1:].min() > 0.4 * counts[1:].mean()


def test_lower_objects_are_larger():
    rows, areas = [], []
    for scene in _scenes():
        for i in range(1, scene.instance.max() + 1):
            mask = scene.instance == i
            rows.append(np.nonzero(mask)[0].mean())
            areas.append(np.log(mask.sum()))
    assert np.corrcoef(rows, areas)[0, 1] > 0.4


def test_some_objects_touch_a_neighbor_of_their_class():
    def touches(scene) -> bool:
        a, b = scene.instance[:, :-1], scene.instance[:, 1:]
        same = scene.semantic[:, :-1] == scene.semantic[:, 1:]
        return bool((same & (a != b) & (a > 0) & (b > 0)).any())

    assert np.mean([touches(scene) for scene in _scenes()]) > 0.2


def test_hue_belongs_to_the_class_but_not_always():
    off = []
    for scene in _scenes():
        hsv = cv2.cvtColor(scene.image, cv2.COLOR_RGB2HSV)
        for i in range(1, scene.instance.max() + 1):
            mask = scene.instance == i
            usual = (scene.semantic[mask][0] - 1) / 8
            angle = np.exp(1j * np.pi * hsv[..., 0][mask] / 90).mean() * np.exp(-2j * np.pi * usual)
            off.append(abs(np.angle(angle)) / (2 * np.pi))
    assert np.median(off) < 1 / 16
    assert 0.05 < np.mean(np.array(off) > 0.15) < 0.25


def test_a_scene_depends_on_seed_split_and_index_alone():
    first = shapes.generate(3, "train", 5, SIZE)
    again = shapes.generate(3, "train", 5, SIZE)
    others = [
        shapes.generate(4, "train", 5, SIZE),
        shapes.generate(3, "val", 5, SIZE),
        shapes.generate(3, "train", 6, SIZE),
    ]
    assert first.name == "train_000005"
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all((first.image != other.image).any() for other in others)


@pytest.mark.parametrize(
    ("size", "classes", "message"),
    [((16, 64), 8, "`size` must be at least 32 x 32: got 16 x 64."), ((64, 64), 9, "`classes` must be 1 to 8: got 9.")],
)
def test_bad_arguments_are_refused(size, classes, message):
    with pytest.raises(ValueError, match=message):
        shapes.scene(np.random.default_rng(0), size, classes)


def test_shapes_that_are_stuff_have_no_instances():
    data = Data(builder="shapes", classes=shapes.CLASSES, stuff=("disc",), shapes=Shapes(size=SIZE, train=8, val=1))
    layout = shapes.layout(data)
    labels = [layout.read(item).label for item in layout.splits["train"]]
    assert any((label.semantic == 1).any() for label in labels)
    for label in labels:
        assert not label.instance[label.semantic == 1].any()
        np.testing.assert_array_equal(np.unique(label.instance), np.arange(label.instance.max() + 1))


def test_scenes_are_those_that_were_always_drawn():
    """What prepared data holds is known by its settings. Labels alone: processors may round colors in other ways."""
    digest = hashlib.sha256()
    for i in range(20):
        example = shapes.generate(i, shapes.SPLITS[i % 2], i, SIZE)
        digest.update(example.semantic.tobytes() + example.instance.tobytes())
    assert digest.hexdigest() == "b5d9c60a619d3ae64e8b736c98d3b2a811f7a4887893183f5980e5a26fa8b07f"
