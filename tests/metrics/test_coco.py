"""Parity with pycocotools on random scenes, and the laws that AP obeys."""

import dataclasses

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxseg.metrics import Counts, Truth, coco
from jaxseg.metrics.coco import THRESHOLDS, AveragePrecision
from jaxseg.types import ClassList

CLASSES = 4
LIST = ClassList.of(("a", "b", "c"))
SLOTS = 12
SIZE = 24


def matches(prediction, class_id, score, valid, truth, semantic, area=(0, np.inf)):
    """The matches of one image from its maps."""
    predicted = np.concatenate([[0], class_id])[prediction].astype(np.uint8)
    segments = Truth.of(semantic, truth, LIST)
    return coco.matches(Counts.of(predicted, prediction, class_id, score, valid, segments, LIST), area)


@dataclasses.dataclass
class Scene:
    """One image: what `matches` takes."""

    prediction: np.ndarray
    class_id: np.ndarray
    score: np.ndarray
    valid: np.ndarray
    truth: np.ndarray
    semantic: np.ndarray

    def matches(self, area=(0, np.inf)):
        """The matches of this image."""
        return matches(*(getattr(self, field.name) for field in dataclasses.fields(self)), area=area)


def _blobs(rng, count):
    """A map of up to `count` ellipses, later over earlier."""
    yy, xx = np.mgrid[:SIZE, :SIZE]
    instance = np.zeros((SIZE, SIZE), np.int32)
    for i in range(count):
        (cy, cx), (ry, rx) = rng.uniform(0, SIZE, 2), rng.uniform(1.5, 6, 2)
        instance[((yy - cy) / ry) ** 2 + ((xx - cx) / rx) ** 2 < 1] = i + 1
    return instance


def _shaken(rng, truth):
    """The truth with every object shifted a little, some lost, and some invented."""
    prediction = _blobs(rng, int(rng.integers(0, 3))) if rng.random() < 0.5 else np.zeros_like(truth)
    for i in rng.permutation(np.unique(truth[truth > 0])):
        moved = np.roll(truth == i, rng.integers(-1, 2, 2), (0, 1))
        if rng.random() < 0.85:
            prediction[moved] = 3 + i
    return prediction


def _scene(rng):
    """Up to eight objects with non-contiguous ids, some score ties, and often an ignored region."""
    kind = rng.choice(["both", "no truth", "no prediction", "perfect"], p=[0.8, 0.07, 0.07, 0.06])
    truth = _blobs(rng, 0 if kind == "no truth" else int(rng.integers(0, 8)))
    label = rng.integers(1, CLASSES, 10)
    semantic = np.where(truth > 0, label[truth], 0).astype(np.uint8)
    prediction = truth.copy() if kind == "perfect" else _shaken(rng, _blobs(rng, 4) if kind == "no truth" else truth)
    if kind == "no prediction":
        prediction[:] = 0
    if rng.random() < 0.6:
        y, x = rng.integers(0, SIZE - 8, 2)
        semantic[y : y + 8, x : x + 12] = 255
    if rng.random() < 0.5:
        y, x = rng.integers(0, SIZE - 8, 2)
        place = np.s_[y : y + 9, x : x + 7]
        truth[place], semantic[place] = 0, rng.integers(1, CLASSES)  # a group
    class_id = np.concatenate([rng.integers(1, CLASSES, 3), label[1:]])[:SLOTS]
    class_id = np.where(rng.random(SLOTS) < 0.2, rng.integers(1, CLASSES, SLOTS), class_id).astype(np.uint8)
    score = rng.choice([0.3, 0.5, 0.7, 0.9], SLOTS).astype(np.float32)
    valid = (np.bincount(prediction.ravel(), minlength=SLOTS + 1)[1:] > 0) | (rng.random(SLOTS) < 0.05)
    return Scene(prediction, class_id, score, valid, (truth * 7).astype(np.uint16), semantic)


def _annotation(mask, number, image, category, **more):
    rle = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    box = masks.toBbox(rle).tolist()
    return {"id": number, "image_id": image, "category_id": category, "segmentation": rle, "bbox": box,
            "area": float(mask.sum()), "iscrowd": 0, **more}  # fmt: skip


def _oracle(scenes, classes, area):
    """Precision (t, r, c - 1) and recall (t, c - 1) of pycocotools over one range of areas."""
    truths, found = [], []
    for image, scene in enumerate(scenes, start=1):
        kept = np.where(scene.semantic == 255, 0, scene.truth)
        for i in np.unique(kept[kept > 0]):
            category = int(np.bincount(scene.semantic[kept == i]).argmax())
            truths.append(_annotation(kept == i, len(truths) + 1, image, category))
        for c in range(1, classes):
            group = (scene.semantic == c) & (scene.truth == 0)
            if group.any():
                truths.append(_annotation(group, len(truths) + 1, image, c, iscrowd=1))
        if (scene.semantic == 255).any():
            for c in range(1, classes):
                truths.append(_annotation(scene.semantic == 255, len(truths) + 1, image, c, iscrowd=1))
        for i in np.flatnonzero(scene.valid):
            mask, category = scene.prediction == i + 1, int(scene.class_id[i])
            found.append(_annotation(mask, len(found) + 1, image, category, score=float(scene.score[i])))
    evaluation = COCOeval(_coco(truths, len(scenes), classes), _coco(found, len(scenes), classes), "segm")
    evaluation.params.maxDets = [SLOTS]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[area[0], min(area[1], 1e10)]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, 0], evaluation.eval["recall"][:, :, 0, 0]


def _coco(annotations, images, classes):
    coco = COCO()
    coco.dataset = {"images": [{"id": i, "height": SIZE, "width": SIZE} for i in range(1, images + 1)],
                    "annotations": annotations, "categories": [{"id": c} for c in range(1, classes)]}  # fmt: skip
    coco.createIndex()
    return coco


def _expected(scenes, classes, area=(0, np.inf)):
    precision, recall = _oracle(scenes, classes, area)
    precision, recall = np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)
    return {"ap": precision.mean((0, 1)), "ap50": precision[0].mean(0), "ar": recall.mean(0), "recall50": recall[0]}


def _pooled(scenes, area=(0, np.inf)):
    return sum((AveragePrecision.of(scene.matches(area)) for scene in scenes), AveragePrecision.empty())


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(90))
def test_equals_pycocotools(seed):
    """244 scenes; a third of the seeds each with all areas, the small ones and the large ones."""
    rng = np.random.default_rng(seed)
    scenes = [_scene(rng) for _ in range(rng.integers(1, 5))]
    area = ((0, np.inf), (0, 40), (40, np.inf))[seed % 3]
    result = _pooled(scenes, area).compute(CLASSES)
    for name, value in _expected(scenes, CLASSES, area).items():
        np.testing.assert_allclose(result[f"{name}_class"], [np.nan, *value], rtol=0, atol=1e-9)
        mean = value[~np.isnan(value)].mean() if (~np.isnan(value)).any() else np.nan
        np.testing.assert_allclose(result[name], mean, rtol=0, atol=1e-9)


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(20))
def test_class_agnostic_equals_pycocotools_on_one_class(seed):
    rng = np.random.default_rng(1000 + seed)
    scenes = [_scene(rng) for _ in range(3)]
    one = [
        dataclasses.replace(
            scene,
            class_id=np.ones_like(scene.class_id),
            semantic=np.where((scene.semantic > 0) & (scene.semantic < 255), 1, scene.semantic).astype(np.uint8),
        )
        for scene in scenes
    ]
    result = _pooled(scenes).compute(CLASSES)
    for name, value in _expected(one, 2).items():
        np.testing.assert_allclose(result[f"{name}_agnostic"], value[0], rtol=0, atol=1e-9)


def _row(*ids):
    return np.array([ids], np.int32)


def _simple(prediction, truth, semantic, class_id=(1, 1), score=(0.9, 0.8)):
    return matches(
        _row(*prediction), np.array(class_id), np.array(score), np.array([True, True]), _row(*truth),
        np.array([semantic], np.uint8),
    )  # fmt: skip


def test_of_two_truths_at_exactly_one_half_the_last_is_taken():
    # Prediction 1 covers truths 1 and 2, IoU 0.5 with either; prediction 2 has no overlap.
    found = _simple((1, 1, 2), (1, 2, 0), (1, 1, 0))
    np.testing.assert_array_equal(found.by_class.matched[:, 0], THRESHOLDS == 0.5)
    assert not found.by_class.matched[:, 1].any()


def test_a_truth_is_taken_once_and_by_the_best_score():
    # Both predictions have IoU 0.5 with the only truth; the second has the higher score and comes first.
    found = _simple((1, 2), (5, 5), (1, 1), score=(0.2, 0.7))
    np.testing.assert_array_equal(found.score, [0.7, 0.2])
    np.testing.assert_array_equal(found.by_class.matched[0], [True, False])
    assert AveragePrecision.of(found).compute(2)["ap50"] == pytest.approx(1.0)


def test_a_wrong_class_counts_only_when_classes_are_one():
    result = AveragePrecision.of(_simple((1, 1, 0), (3, 3, 0), (2, 2, 0))).compute(3)
    assert result["ap50"] == 0.0
    assert result["ap50_agnostic"] == 1.0
    assert np.isnan(result["ap50_class"][1])
    assert result["ap50_class"][2] == 0.0


def test_a_prediction_on_ignored_pixels_is_neither_right_nor_wrong():
    # Prediction 1 lies half in the ignored region: left out at 0.5, a false positive above.
    found = _simple((1, 1, 2, 2), (0, 0, 4, 4), (0, 255, 1, 1))
    np.testing.assert_array_equal(found.by_class.ignored[:, 0], THRESHOLDS == 0.5)
    result = AveragePrecision.of(found).compute(2)
    assert result["ap50"] == pytest.approx(1.0)
    assert result["ap"] == pytest.approx(0.55)


def test_a_truth_wholly_ignored_is_no_truth():
    result = AveragePrecision.of(_simple((0, 0), (4, 4), (255, 255))).compute(2)
    assert result["truths_class"].sum() == 0
    assert np.isnan(result["ap"])


def test_a_perfect_prediction_scores_one():
    truth = np.pad(np.repeat(np.repeat(np.arange(1, 7).reshape(2, 3), 4, 0), 4, 1), 2)
    label = np.array([0, 1, 2, 3, 1, 2, 1])
    found = matches(truth, label[1:], np.linspace(0.1, 0.6, 6), np.ones(6, bool), truth, label[truth].astype(np.uint8))
    result = AveragePrecision.of(found).compute(CLASSES)
    for name in ("ap", "ap50", "ar", "recall50", "ap_agnostic", "ap50_agnostic"):
        assert result[name] == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_array_equal(result["truths_class"], [0, 3, 2, 1])
    np.testing.assert_array_equal(result["predictions_class"], [0, 3, 2, 1])


def _assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-12, err_msg=name)


def test_ignored_padding_and_unused_rows_change_nothing():
    rng = np.random.default_rng(3)
    scenes = [_scene(rng) for _ in range(6)]
    padded = [
        Scene(
            np.pad(s.prediction, 5), np.pad(s.class_id, (0, 4)), np.pad(s.score, (0, 4)), np.pad(s.valid, (0, 4)),
            np.pad(s.truth, 5), np.pad(s.semantic, 5, constant_values=255),
        )
        for s in scenes
    ]  # fmt: skip
    _assert_same(_pooled(scenes).compute(CLASSES), _pooled(padded).compute(CLASSES))


def test_relabelling_ids_changes_nothing():
    rng = np.random.default_rng(4)
    scenes = [_scene(rng) for _ in range(6)]
    for scene in scenes:
        scene.score = rng.permutation(SLOTS).astype(np.float32)  # no ties, whose order the rows decide
    order = rng.permutation(SLOTS)
    place = np.concatenate([[0], np.argsort(order) + 1])
    moved = [
        Scene(place[s.prediction], s.class_id[order], s.score[order], s.valid[order], (s.truth * 3), s.semantic)
        for s in scenes
    ]
    _assert_same(_pooled(scenes).compute(CLASSES), _pooled(moved).compute(CLASSES))


def test_merging_equals_counting_together():
    rng = np.random.default_rng(5)
    found = [_scene(rng).matches() for _ in range(6)]
    together = AveragePrecision.of(*found).compute(CLASSES)
    halves = AveragePrecision.of(*found[:2]).merge(AveragePrecision.of(*found[2:]) + AveragePrecision.empty())
    _assert_same(together, halves.compute(CLASSES))
    assert together["images"] == 6


def test_nothing_at_all_is_nan():
    result = AveragePrecision.empty().compute(3)
    assert np.isnan(result["ap"])
    assert np.isnan(result["ap50_agnostic"])
    assert result["images"] == 0
    assert AveragePrecision.empty().curve().recall.shape == (0,)


def test_the_curve_ends_at_the_recall_and_integrates_to_the_ap():
    rng = np.random.default_rng(6)
    found = _pooled([_scene(rng) for _ in range(8)])
    curve, result = found.curve(1), found.compute(CLASSES)
    assert (np.diff(curve.recall) >= 0).all()
    assert (np.diff(curve.score) <= 0).all()
    assert curve.recall[-1] == pytest.approx(result["recall50_class"][1])
    best = [curve.precision[curve.recall >= r].max(initial=0.0) for r in np.linspace(0, 1, 101)]
    assert np.mean(best) == pytest.approx(result["ap50_class"][1])


def test_errors_name_the_argument():
    zero, none = np.zeros((2, 2), np.int32), np.zeros(0)
    label = np.zeros((2, 2), np.uint8)
    rows = (none.astype(int), none, none.astype(bool))
    with pytest.raises(ValueError, match="`instance` must hold ids up to 0, one a row: got 3"):
        Counts.of(label, zero + 3, *rows, Truth.of(label, zero, LIST), LIST)
    found = AveragePrecision.of(_simple((1, 2), (1, 2), (2, 2)))
    with pytest.raises(ValueError, match="`classes` must exceed every class id: got 2 with id 2"):
        found.compute(2)
    with pytest.raises(ValueError, match="`threshold` must be one of"):
        found.curve(threshold=0.52)
