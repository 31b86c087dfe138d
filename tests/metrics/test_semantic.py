"""Laws of the confusion counts, and parity with a loop over the pixels."""

import numpy as np
import pytest

from jaxseg.metrics import Confusion


def _maps(seed, classes=4, shape=(9, 7)):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, shape).astype(np.uint8)
    truth[rng.random(shape) < 0.2] = 255
    return rng.integers(0, classes, shape).astype(np.uint8), truth


def _naive(prediction, truth, classes):
    counts = np.zeros((classes, classes), np.int64)
    for p, t in zip(prediction.ravel(), truth.ravel(), strict=True):
        if t != 255:
            counts[t, p] += 1
    return counts


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_a_loop_over_pixels(seed):
    prediction, truth = _maps(seed)
    np.testing.assert_array_equal(Confusion.of(prediction, truth, 4).counts, _naive(prediction, truth, 4))


def test_merging_equals_counting_together():
    (p0, t0), (p1, t1) = _maps(0), _maps(1)
    apart = Confusion.of(p0, t0, 4) + Confusion.of(p1, t1, 4)
    together = Confusion.of(np.stack([p0, p1]), np.stack([t0, t1]), 4)
    np.testing.assert_array_equal(apart.counts, together.counts)
    np.testing.assert_array_equal(Confusion.empty(4).update(p0, t0).update(p1, t1).counts, together.counts)
    np.testing.assert_array_equal(apart.merge(Confusion.empty(4)).counts, together.counts)


def test_a_perfect_prediction_scores_one():
    _, truth = _maps(2)
    confusion = Confusion.of(np.where(truth == 255, 0, truth).astype(np.uint8), truth, 4)
    np.testing.assert_array_equal(confusion.iou(), np.ones(4))
    assert confusion.mean_iou() == 1.0
    assert confusion.accuracy() == 1.0


def test_ignored_padding_changes_nothing():
    prediction, truth = _maps(3)
    padded = Confusion.of(np.pad(prediction, 3), np.pad(truth, 3, constant_values=255), 4)
    np.testing.assert_array_equal(padded.counts, Confusion.of(prediction, truth, 4).counts)


def test_iou_by_hand():
    truth = np.array([[0, 1, 1, 2], [0, 1, 255, 2]], np.uint8)
    prediction = np.array([[0, 1, 0, 1], [0, 1, 2, 2]], np.uint8)
    confusion = Confusion.of(prediction, truth, 4)
    # 0: 2 of {2 true, 1 more predicted}; 1: 2 of {3 true, 1 more}; 2: 1 of {2 true}; 3 occurs nowhere.
    np.testing.assert_allclose(confusion.iou(), [2 / 3, 2 / 4, 1 / 2, np.nan])
    assert confusion.mean_iou() == pytest.approx(0.5)
    assert confusion.accuracy() == pytest.approx(5 / 7)


def test_a_class_only_predicted_scores_zero():
    confusion = Confusion.of(np.array([[1, 0]], np.uint8), np.array([[0, 0]], np.uint8), 3)
    np.testing.assert_array_equal(confusion.iou(), [0.5, 0.0, np.nan])
    assert confusion.mean_iou() == 0.0


def test_nothing_counted_is_nan():
    nothing = np.full((2, 2), 255, np.uint8)
    confusion = Confusion.of(nothing, nothing, 3)
    assert np.isnan(confusion.mean_iou())
    assert np.isnan(confusion.accuracy())
    assert np.isnan(confusion.iou()).all()


def test_errors_name_the_map_and_the_id():
    zero = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="`truth` must hold class ids below 3: got 7"):
        Confusion.of(zero, zero + np.uint8(7), 3)
    with pytest.raises(ValueError, match="`prediction` must hold class ids below 3: got 255"):
        Confusion.of(zero + np.uint8(255), zero, 3)
    with pytest.raises(ValueError, match="`classes` must be 1 to 255"):
        Confusion.empty(256)
    with pytest.raises(ValueError, match="`other` must count the same classes"):
        _ = Confusion.empty(2) + Confusion.empty(3)
