"""Boundary metrics against loops over pixels and against the definitions of the public code."""

import cv2
import numpy as np
import pytest

from jaxseg.metrics import boundaries
from jaxseg.metrics.boundaries import Boundaries


def _blob(seed, shape=(23, 31)):
    """A random mask of some smoothness, which may touch the edge of the image."""
    noise = np.random.default_rng(seed).random(shape)
    return cv2.GaussianBlur(noise, (0, 0), 1 + seed % 3) > 0.5


def _band(mask, distance):
    """Pixels with one outside of the mask, or of the image, in the square around them."""
    height, width = mask.shape
    found = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        for v in range(y - distance, y + distance + 1):
            for u in range(x - distance, x + distance + 1):
                inside = 0 <= v < height and 0 <= u < width
                found[y, x] |= not inside or not mask[v, u]
    return found


def _official_band(mask, distance):
    """`mask_to_boundary` of the public boundary IoU, but for how the distance is found."""
    height, width = mask.shape
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)
    return (mask.astype(np.uint8) - eroded[1 : height + 1, 1 : width + 1]).astype(bool)


def _official_contour(mask):
    """`seg2bmap` of the public DAVIS evaluation, at the mask's own size."""
    right, below, both = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1], below[:-1, :], both[:-1, :-1] = mask[:, 1:], mask[1:, :], mask[1:, 1:]
    found = (mask ^ right) | (mask ^ below) | (mask ^ both)
    found[-1, :], found[:, -1], found[-1, -1] = mask[-1, :] ^ right[-1, :], mask[:, -1] ^ below[:, -1], False
    return found


def _f(truth, prediction, tolerance):
    """Each contour pixel looks for the nearest one of the other contour."""
    theirs, ours = (np.argwhere(_official_contour(mask)) for mask in (truth, prediction))
    if not len(theirs) or not len(ours):
        return float(len(theirs) == len(ours))
    apart = ((ours[:, None] - theirs[None]) ** 2).sum(-1) <= tolerance**2
    precision, recall = apart.any(1).mean(), apart.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("distance", [1, 2, 5])
def test_the_band_is_that_of_a_loop_and_of_the_public_code(seed, distance):
    mask = _blob(seed)
    assert 0 < mask.sum() < mask.size
    found = boundaries.band(mask, distance)
    np.testing.assert_array_equal(found, _official_band(mask, distance))
    np.testing.assert_array_equal(found, _band(mask, distance))


@pytest.mark.parametrize("seed", range(6))
def test_contours_are_those_of_the_public_code(seed):
    np.testing.assert_array_equal(boundaries.contour(_blob(seed)), _official_contour(_blob(seed)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tolerance", [0, 1, 2, 3])
def test_the_f_measure_is_that_of_a_loop(seed, tolerance):
    truth, prediction = _blob(seed), _blob(seed + 10)
    assert boundaries.f_measure(truth, prediction, tolerance) == pytest.approx(_f(truth, prediction, tolerance))


def test_a_shift_costs_what_one_expects():
    """A square of 10 x 10, moved by 2 to the right; bands are 1 wide and have 36 pixels."""
    truth, moved = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    truth[4:14, 4:14], moved[4:14, 6:16] = True, True
    # The upper and lower rows share 8 pixels each; the left side of one and the right side of the other share none.
    assert boundaries.boundary_iou(truth, moved, 1) == pytest.approx(16 / (36 + 36 - 16))
    assert boundaries.iou(truth, moved) == pytest.approx(80 / 120)
    assert boundaries.f_measure(truth, moved, 2) == 1.0
    assert boundaries.f_measure(truth, moved, 1) < 0.8


def test_empty_masks():
    empty, full = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    assert boundaries.boundary_iou(empty, empty, 2) == boundaries.f_measure(empty, empty, 2) == 1.0
    assert boundaries.boundary_iou(full, empty, 2) == 0.0
    assert boundaries.boundary_iou(full, full, 1) == 1.0
    # The whole image has a band along its edge, and no contour.
    assert boundaries.band(full, 1).sum() == 20 - 2 * 3
    assert not boundaries.contour(full).any()
    middle = np.pad(np.ones((2, 2), bool), 1)
    assert boundaries.f_measure(middle, np.zeros_like(middle), 3) == 0.0


def test_the_usual_distance_is_two_percent_of_the_diagonal():
    assert boundaries.usual_distance((1024, 2048)) == 46
    assert boundaries.usual_distance((480, 640)) == 16
    assert boundaries.usual_distance((5, 5)) == 1


def _maps(seed, shape=(40, 48)):
    """Objects of random blobs, overlapping ones drawn over, and the same with other ids, moved and one lost."""
    rng = np.random.default_rng(seed)
    truth, moved = np.zeros(shape, np.uint16), np.zeros(shape, np.uint16)
    for i in range(1, 5):
        y, x = rng.integers(0, 28), rng.integers(0, 36)
        truth[y : y + 12, x : x + 10] = 7 * i
        moved[y + 1 : y + 12, x : x + 11] = 5 - i
    moved[moved == 2] = 0
    return moved, truth, rng.random(shape) < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_each_object_meets_the_prediction_most_like_it(seed):
    prediction, truth, void = _maps(seed)
    found = Boundaries.of(prediction, truth, void, (1, 3))
    masks = [(prediction == p) & ~void for p in np.unique(prediction[prediction > 0])]
    expected = []
    for i in np.unique(truth[(truth > 0) & ~void]):
        own = (truth == i) & ~void
        best = max(masks, key=lambda mask, own=own: boundaries.iou(own, mask))
        best = best if (best & own).any() else np.zeros_like(own)
        bands = [boundaries.boundary_iou(own, best, d) for d in (1, 3)]
        expected.append((boundaries.iou(own, best), bands, [_f(own, best, t) for t in boundaries.TOLERANCES]))
    assert found.objects == len(expected) > 2
    assert found.iou == pytest.approx(sum(row[0] for row in expected))
    np.testing.assert_allclose(found.boundary_iou, np.sum([row[1] for row in expected], axis=0))
    np.testing.assert_allclose(found.f, np.sum([row[2] for row in expected], axis=0))


def test_sums_merge_and_divide_once():
    parts = [Boundaries.of(*_maps(seed), (2,)) for seed in range(3)]
    total = parts[0] + parts[1] + parts[2].merge(Boundaries.empty(1))
    assert total.objects == sum(part.objects for part in parts)
    assert total.compute()["iou"] == pytest.approx(sum(part.iou for part in parts) / total.objects)
    assert np.isnan(Boundaries.empty(1).compute()["boundary_iou"]).all()


def test_relabelling_and_the_truth_itself():
    _, truth, void = _maps(1)
    found = Boundaries.of(np.where(truth > 0, 100 - truth, 0), truth, void, (1, 4)).compute()
    assert found["iou"] == 1.0
    assert (found["boundary_iou"] == 1.0).all()
    assert (found["f"] == 1.0).all()
