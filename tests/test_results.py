"""Finished masks in other forms: what each says must be what the maps say."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from jaxseg import results, visualize
from jaxseg.types import ClassList, Instances, Segmentation

CLASSES = ClassList.of(("person", "road", "car"), ("road",))


def found(instance, semantic=None, slots=None, tracks=0):
    """A result of these maps; objects have class 1 or 3 by turns, and are not round."""
    instance = np.asarray(instance, np.uint16)
    n = slots or int(instance.max()) + 1
    area = np.array([(instance == i + 1).sum() for i in range(n)], np.int32)
    box = np.zeros((n, 4), np.int32)
    for i in np.flatnonzero(area):
        y, x = np.nonzero(instance == i + 1)
        box[i] = y.min(), x.min(), y.max() + 1, x.max() + 1
    class_id = np.where(area > 0, 1 + 2 * (np.arange(n) % 2), 0).astype(np.uint8)
    if semantic is None:
        semantic = np.concatenate([[0], class_id])[instance]
    rows = Instances(
        valid=area > 0,
        class_id=class_id,
        score=np.where(area > 0, 1 / (1.0 + np.arange(n)), 0).astype(np.float32),
        center=(box[:, :2] + box[:, 2:]) / np.float32(2),
        box=box,
        area=area,
        embedding=np.zeros((n, 4), np.float32),
        track_id=np.where(area > 0, tracks + np.arange(n) * (tracks > 0), 0).astype(np.int32),
    )
    return results.Result(semantic.astype(np.uint8), instance, rows, np.int32(0))


def blobs(seed, size=(40, 56), objects=9):
    """Overlapping discs and noise: parts, holes and pixels that touch by a corner alone."""
    rng, instance = np.random.default_rng(seed), np.zeros(size, np.uint16)
    y, x = np.mgrid[: size[0], : size[1]]
    for i in range(1, objects + 1):
        at, radius = rng.uniform((0, 0), size), rng.uniform(2, 14)
        instance[(y - at[0]) ** 2 + (x - at[1]) ** 2 < radius**2] = i
    noise = rng.random(size) < 0.1
    instance[noise] = rng.integers(0, objects + 1, noise.sum())
    return instance


def signed_area(ring):
    y, x = ring.T.astype(np.int64)
    return int((np.roll(y, -1) * x - np.roll(x, -1) * y).sum()) // 2


@pytest.mark.parametrize("seed", range(4))
def test_polygons_are_the_masks(seed):
    one = found(blobs(seed))
    outlines = one.polygons()
    assert len(outlines) == one.instances.valid.sum() == len(one.boxes())
    for rings, row in zip(outlines, np.flatnonzero(one.instances.valid), strict=True):
        assert sum(map(signed_area, rings)) == one.instances.area[row]
        # Filled at four times the size, by the even-odd rule: nothing depends on how borders are drawn.
        canvas = np.zeros([4 * n for n in one.instance.shape], np.uint8)
        cv2.fillPoly(canvas, [4 * ring[:, ::-1].astype(np.int32) for ring in rings], 1)
        np.testing.assert_array_equal(canvas[2::4, 2::4], one.instance == row + 1)


def test_a_polygon_has_corners_only_and_runs_clockwise():
    instance = np.zeros((6, 8), int)
    instance[1:5, 2:7] = 1
    instance[2:4, 3:5] = 0
    rings = sorted(found(instance).polygons()[0], key=signed_area)
    assert [signed_area(ring) for ring in rings] == [-4, 20]
    assert sorted(map(tuple, rings[1].tolist())) == [(1, 2), (1, 7), (5, 2), (5, 7)]
    assert sorted(map(tuple, rings[0].tolist())) == [(2, 3), (2, 5), (4, 3), (4, 5)]
    assert signed_area(np.array([[0, 0], [0, 1], [1, 1], [1, 0]])) == 1, "right, then down: clockwise with y downward"


def test_pixels_that_touch_by_a_corner_have_rings_of_their_own():
    rings = found(np.eye(3, dtype=int)).polygons()[0]
    assert [signed_area(ring) for ring in rings] == [1, 1, 1]
    around = found(1 - np.eye(3, dtype=int)).polygons()[0]
    assert sum(map(signed_area, around)) == 6


@pytest.mark.parametrize("seed", range(3))
def test_coco_codes_are_those_of_the_official_encoder(seed):
    one = found(blobs(seed))
    entries = one.coco(17, {1: 90, 3: 70})
    for entry, row in zip(entries, np.flatnonzero(one.instances.valid), strict=True):
        official = rle.encode(np.asfortranarray(one.instance == row + 1, dtype=np.uint8))
        assert entry["segmentation"] == {"size": list(official["size"]), "counts": official["counts"].decode()}
        assert entry["image_id"] == 17
        assert entry["category_id"] == {1: 90, 3: 70}[int(one.instances.class_id[row])]
        assert entry["score"] == one.instances.score[row]
    truth = COCO()
    truth.dataset = {"images": [{"id": 17}], "annotations": [], "categories": [{"id": 70}, {"id": 90}]}
    truth.createIndex()
    loaded = truth.loadRes(entries)
    assert [a["area"] for a in loaded.loadAnns(loaded.getAnnIds())] == [int(a) for a in one.instances.area if a]


def test_codes_of_whole_and_empty_frames():
    whole = found(np.ones((3, 4), int)).coco(1)
    assert whole[0]["segmentation"]["counts"] == rle.encode(np.ones((3, 4), np.uint8, order="F"))["counts"].decode()
    empty = found(np.zeros((3, 4), int))
    assert empty.coco(1) == empty.polygons() == empty.objects(CLASSES) == []
    assert empty.boxes().shape == (0, 4)
    assert empty.panoptic(CLASSES).segments == []


def test_a_panoptic_map_has_objects_and_stuff():
    instance = blobs(0)
    semantic = found(instance).semantic.copy()
    free = instance == 0
    semantic[free & (np.arange(56) < 30)] = 2  # road
    semantic[free & (np.arange(56) > 50)] = 1  # a person that no center took
    one = found(instance, semantic)
    ids, segments = one.panoptic(CLASSES)
    assert (ids[free & (semantic != 2)] == 0).all()
    assert [s["id"] for s in segments] == sorted(set(np.unique(ids)) - {0})
    for segment in segments:
        mask = ids == segment["id"]
        x, y, width, height = segment["bbox"]
        assert segment["area"] == mask.sum() == mask[y : y + height, x : x + width].sum()
        assert set(semantic[mask]) == {segment["category_id"]}
        assert segment["isthing"] == ("score" in segment) == (segment["category_id"] != 2)
    assert len(segments) == one.instances.valid.sum() + 1
    assert {s["category_id"] for s in one.panoptic(CLASSES, {1: 5, 2: 6, 3: 7}).segments} == {5, 6, 7}


def test_the_panoptic_png_reads_as_cocos_does():
    panoptic = found(blobs(1)).panoptic(CLASSES)
    red, green, blue = np.moveaxis(panoptic.rgb().astype(np.int64), -1, 0)
    np.testing.assert_array_equal(red + 256 * green + 256**2 * blue, panoptic.ids)


def test_objects_say_what_the_rows_say():
    one = found(blobs(2), tracks=40)
    listed = one.objects(CLASSES)
    assert [o["track"] for o in listed] == [40 + o["id"] - 1 for o in listed]
    for entry in listed:
        assert entry["area"] == (one.instance == entry["id"]).sum()
        assert entry["class"] == CLASSES.names[entry["class_id"]]
    assert "track" not in found(blobs(2)).objects(CLASSES)[0]


def test_it_draws_itself():
    one, image = found(blobs(0)), np.full((40, 56, 3), 90, np.uint8)
    wanted = visualize.overlay(image, one.semantic, one.instance, one.instances, CLASSES, alpha=0.7)
    np.testing.assert_array_equal(one.draw(image, CLASSES, alpha=0.7), wanted)
    np.testing.assert_array_equal(jax.device_put(one).draw(jnp.asarray(image), CLASSES, alpha=0.7), wanted)


def test_a_batch_is_taken_apart():
    parts = [found(blobs(i), slots=12) for i in range(3)]
    batch = jax.tree.map(lambda *x: np.stack(x), *parts)
    for part, one in zip(parts, jax.device_put(batch).unstack(), strict=True):
        jax.tree.map(np.testing.assert_array_equal, part, one)
        assert isinstance(one.semantic, np.ndarray)
    assert len(parts[0].unstack()) == 1
    for method in (batch.boxes, batch.polygons, lambda: batch.coco(1), lambda: batch.panoptic(CLASSES)):
        with pytest.raises(ValueError, match=r"This is a batch of 3 frames: take one of `unstack\(\)`."):
            method()


def test_every_function_is_a_method():
    public = {"unstacked", "objects", "boxes", "polygons", "panoptic", "coco", "draw"}
    assert public <= set(vars(results))
    assert {name.removesuffix("ed") if name == "unstacked" else name for name in public} <= set(dir(results.Result))


def test_a_result_is_a_segmentation_with_methods():
    one = found(blobs(0))
    plain = Segmentation(**vars(one))
    assert isinstance(one, Segmentation)
    assert not hasattr(plain, "draw")
    again = results.result(plain)
    assert jax.tree.structure(again) == jax.tree.structure(one)
    assert isinstance(jax.jit(lambda x: x)(again), results.Result)
    assert results.objects(plain, CLASSES) == one.objects(CLASSES)
