"""Quality of masks along their boundaries. Host-side NumPy and OpenCV on the maps of one image; sums that merge.

Boundary IoU compares the pixels of two masks that are near their contours; the boundary F-measure compares the
contours, with a tolerance. The edge of the image is a contour to the former, and none to the latter.

References:
  Cheng et al., Boundary IoU: improving object-centric image segmentation evaluation, CVPR 2021; its public code.
  Perazzi et al., A benchmark dataset and evaluation methodology for video object segmentation, CVPR 2016; its public
  code, which follows Martin et al., PAMI 2004.
"""

import dataclasses
import math
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from jaxseg.metrics.sums import Sums

TOLERANCES = (1, 2, 3)
"""Pixels by which contours may miss one another, in `Boundaries`."""


def usual_distance(size: tuple[int, int], ratio: float = 0.02) -> int:
    """Distance of the official boundary IoU: a share of the image's diagonal, at least 1 pixel.

    Args:
      size: (height, width), pixels.
      ratio: of distance and diagonal.
    """
    return max(1, round(ratio * math.hypot(*size)))


def band(mask: Bool[np.ndarray, "H W"], distance: int) -> Bool[np.ndarray, "H W"]:
    """Pixels of a mask within a distance of its contour: the mask without its erosion by a 3 x 3 square, repeated.

    Args:
      mask: of one object.
      distance: how often it is eroded: pixels, along rows, columns and diagonals alike, >= 1.
    """
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inner == 0)


def iou(truth: Bool[np.ndarray, "H W"], prediction: Bool[np.ndarray, "H W"]) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def boundary_iou(truth: Bool[np.ndarray, "H W"], prediction: Bool[np.ndarray, "H W"], distance: int) -> float:
    r"""Boundary IoU: IoU of what lies within a distance of the contours, inside the masks; 1 where both are empty.

    .. math:: \frac{|(G_d \cap G) \cap (P_d \cap P)|}{|(G_d \cap G) \cup (P_d \cap P)|}

    Args:
      truth: mask of one object.
      prediction: the same.
      distance: d, pixels, >= 1.
    """
    return iou(band(truth, distance), band(prediction, distance))


def contour(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels that differ from the one to the right, below, or diagonally below; the image's edge is no contour."""
    wide = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    inside = wide[:-1, :-1]
    return (inside != wide[:-1, 1:]) | (inside != wide[1:, :-1]) | (inside != wide[1:, 1:])


def f_measure(truth: Bool[np.ndarray, "H W"], prediction: Bool[np.ndarray, "H W"], tolerance: int) -> float:
    r"""Boundary F-measure: of the shares of either contour that lie near the other; 1 where neither has a contour.

    .. math:: F = \frac{2 P R}{P + R}

    Args:
      truth: mask of one object.
      prediction: the same.
      tolerance: largest distance, Euclidean, pixels, >= 0.
    """
    ours, theirs = contour(prediction), contour(truth)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    precision = np.count_nonzero(ours & _near(theirs, tolerance)) / np.count_nonzero(ours)
    recall = np.count_nonzero(theirs & _near(ours, tolerance)) / np.count_nonzero(theirs)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(pixels: Bool[np.ndarray, "H W"], tolerance: int) -> Bool[np.ndarray, "H W"]:
    y, x = np.mgrid[-tolerance : tolerance + 1, -tolerance : tolerance + 1]
    disk = (y**2 + x**2 <= tolerance**2).astype(np.uint8)
    return cv2.dilate(pixels.astype(np.uint8), disk) > 0


@dataclasses.dataclass(frozen=True)
class Boundaries(Sums):
    """How well boundaries of objects were found, summed over the true objects; ``+`` merges two.

    Attributes:
      objects: true objects.
      iou: of the masks.
      boundary_iou: of the masks, for each distance.
      f: of the contours, for each of `TOLERANCES`.
    """

    objects: int
    iou: float
    boundary_iou: Float[np.ndarray, " d"]
    f: Float[np.ndarray, " t"]

    @classmethod
    def empty(cls, distances: int) -> "Boundaries":
        """The neutral element of ``+``.

        Args:
          distances: how many there are.
        """
        return cls(0, 0.0, np.zeros(distances), np.zeros(len(TOLERANCES)))

    @classmethod
    def of(
        cls,
        prediction: Integer[np.ndarray | Array, "H W"],
        truth: Integer[np.ndarray | Array, "H W"],
        void: Bool[np.ndarray | Array, "H W"],
        distances: tuple[int, ...],
    ) -> "Boundaries":
        """Sums of one image.

        Each true object is compared with the predicted one that has the greatest IoU with it, or with an empty mask
        where none overlaps it. Predicted objects that are nobody's count nowhere.

        Args:
          prediction: 0, or the id of the object.
          truth: the same.
          void: pixels whose truth is not known; none belongs to a mask.
          distances: of the boundary IoU, pixels; `usual_distance` is the official one.
        """
        prediction, truth, void = np.asarray(prediction), np.asarray(truth), np.asarray(void)
        total = cls.empty(len(distances))
        for pair in _pairs(np.where(void, 0, prediction), np.where(void, 0, truth)):
            close = np.array([boundary_iou(*pair, distance) for distance in distances])
            total += cls(1, iou(*pair), close, np.array([f_measure(*pair, tolerance) for tolerance in TOLERANCES]))
        return total

    def compute(self) -> dict[str, float | Float[np.ndarray, " _"]]:
        """Means over the objects, in [0, 1]: ``iou``, ``boundary_iou`` (d,) and ``f`` (t,); NaN without objects."""
        if not self.objects:
            return {"iou": np.nan, "boundary_iou": 0 * self.boundary_iou + np.nan, "f": 0 * self.f + np.nan}
        return {name: getattr(self, name) / self.objects for name in ("iou", "boundary_iou", "f")}


def _pairs(
    prediction: Integer[np.ndarray, "H W"], truth: Integer[np.ndarray, "H W"]
) -> Iterator[tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]]:
    """Mask of each true object and of the prediction that is most like it, cut out with a pixel around both."""
    ours, theirs = _boxes(prediction), _boxes(truth)
    area = {i: np.count_nonzero(prediction[window] == i) for i, window in ours.items()}
    for i, window in theirs.items():
        here = truth[window] == i
        found, common = np.unique(prediction[window][here], return_counts=True)
        size = np.count_nonzero(here)
        shares = {p: n / (size + area[p] - n) for p, n in zip(found.tolist(), common.tolist(), strict=True) if p}
        best = max(shares, key=shares.__getitem__, default=None)
        around = _around([window] if best is None else [window, ours[best]])
        yield truth[around] == i, (prediction[around] == best if best else np.zeros_like(truth[around], bool))


def _boxes(ids: Integer[np.ndarray, "H W"]) -> dict[int, tuple[slice, slice]]:
    """Window of each object of a map."""
    from scipy import ndimage

    return {i + 1: window for i, window in enumerate(ndimage.find_objects(ids)) if window is not None}


def _around(windows: list[tuple[slice, slice]]) -> tuple[slice, slice]:
    """Smallest window around others, a pixel larger on each side: contours lie outside of a mask too."""
    spans = [(min(w[axis].start for w in windows), max(w[axis].stop for w in windows)) for axis in range(2)]
    return slice(max(spans[0][0] - 1, 0), spans[0][1] + 1), slice(max(spans[1][0] - 1, 0), spans[1][1] + 1)
