"""Instance AP as Cityscapes defines it. Host-side NumPy on the counts of an image, with matches that merge.

Objects under 100 pixels and groups cost no recall; predictions on them, on void and on the group of their class are
left out. IoU must exceed a threshold. Written from the definition of the official tool
(``cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling``), and equal to it in its odd corners, which are
named where they are met.

References:
  Cordts et al., The Cityscapes dataset for semantic urban scene understanding, CVPR 2016, section 4.2.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxseg.metrics.coco import Curve, row_of
from jaxseg.metrics.counts import Counts
from jaxseg.metrics.sums import Ranked

THRESHOLDS = np.arange(0.5, 1.0, 0.05)
"""What IoU must exceed; the official tool's own floats, for some differ from the decimals in the last place."""

SMALLEST = 100
"""Pixels that an object needs to count."""

SIZES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
"""Mean pixels of an object of each class, which the benchmark fixes for the instance-weighted IoU."""


@dataclasses.dataclass(frozen=True)
class ImageMatches:
    """Predictions of one image, what became of each at each threshold, and the objects to be found.

    Attributes:
      class_id: class of each prediction.
      score: its score.
      right: it is the most confident match of an object that counts.
      wrong: it is another match of such an object, or matches nothing that would excuse it. Neither: left out.
      truth_class: class of each object that counts.
    """

    class_id: Int[np.ndarray, " p"]
    score: Float[np.ndarray, " p"]
    right: Bool[np.ndarray, "t p"]
    wrong: Bool[np.ndarray, "t p"]
    truth_class: Int[np.ndarray, " g"]


def matches(counts: Counts, smallest: int = SMALLEST) -> ImageMatches:
    """Matches the predictions of one image with its objects at every threshold.

    Args:
      counts: of the image; masks may overlap.
      smallest: pixels that an object needs to count.

    Returns:
      The predictions that own a pixel, and what became of them.
    """
    kept = counts.area > 0
    kinds, area, common = counts.class_id[kept], counts.area[kept], counts.common[kept]
    small = counts.truth_object & (counts.truth_area < smallest)
    counted = counts.truth_object & ~small
    # Predictions meet segments of their own class only, groups among them: a group is matched like an object.
    met = (counts.truth_object | counts.truth_group)[None, :] & (kinds[:, None] == counts.truth_class[None, :])
    iou = np.where(met, common / np.maximum(area[:, None] + counts.truth_area[None, :] - common, 1), 0.0)
    over = iou[None] > THRESHOLDS[:, None, None]
    first = _first(over & counted[None, None])
    # A group of fewer pixels than an object needs is counted twice, as the official tool does.
    weight = counts.truth_group.astype(np.int64) + (small | (counts.truth_group & (counts.truth_area < smallest)))
    excused = (common * met * weight[None, :]).sum(axis=1) + common[:, counts.void & ~counts.truth_foreign].sum(axis=1)
    alone = ~over.any(axis=2) & (excused / area <= THRESHOLDS[:, None])
    later = (over & counted[None, None]).any(axis=2) & ~first
    return ImageMatches(kinds, counts.score[kept], first, later | alone, counts.truth_class[counted])


def _first(over: Bool[np.ndarray, "t p s"]) -> Bool[np.ndarray, "t p"]:
    """Which prediction is the first, and so the most confident, to match a segment."""
    return (over & (np.cumsum(over, axis=1) == 1)).any(axis=2)


class AveragePrecision(Ranked):
    """`ImageMatches` of any number of images, in any order."""

    def compute(self, classes: int) -> dict[str, float | Float[np.ndarray, " c"]]:
        """AP and AP50, over the classes and of each.

        Args:
          classes: number of classes with background.

        Returns:
          Fractions in [0, 1]: ``ap`` and ``ap50``, means over the classes that have objects, NaN without any; and
          both with ``_class`` (c,), NaN where a class has none.
        """
        found = np.stack([self._average(c) for c in range(classes)])
        return {
            "ap": _mean(found),
            "ap50": _mean(found[:, 0]),
            "ap_class": found.mean(axis=1),
            "ap50_class": found[:, 0],
        }

    def curve(self, class_id: int, threshold: float = 0.5) -> Curve:
        """The precision-recall curve of one class.

        Args:
          class_id: the class.
          threshold: one of the ten IoU thresholds, 0.5 to 0.95.

        Returns:
          One point a distinct score, in falling order.

        Raises:
          ValueError: `threshold` is not one of the ten.
        """
        row = row_of(threshold)
        score, right, wrong, truths = self._pool(class_id)
        recall, precision, at = _rates(score, right[row], wrong[row], truths)
        return Curve(recall[::-1], precision[::-1], at[::-1])

    def _pool(self, class_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Scores, verdicts and number of objects of one class."""
        none = np.zeros((len(THRESHOLDS), 0), bool)
        score, right, wrong, truths = [np.zeros(0)], [none], [none], 0
        for image in self.images:
            own = image.class_id == class_id
            score.append(image.score[own])
            right.append(image.right[:, own])
            wrong.append(image.wrong[:, own])
            truths += int((image.truth_class == class_id).sum())
        return np.concatenate(score), np.concatenate(right, axis=1), np.concatenate(wrong, axis=1), truths

    def _average(self, class_id: int) -> Float[np.ndarray, " t"]:
        """AP of one class at each threshold; NaN where it has no object."""
        score, right, wrong, truths = self._pool(class_id)
        if not truths:
            return np.full(len(THRESHOLDS), np.nan)
        return np.array([_area(*_rates(score, r, w, truths)[:2]) for r, w in zip(right, wrong, strict=True)])


def _rates(
    score: Float[np.ndarray, " p"], right: Bool[np.ndarray, " p"], wrong: Bool[np.ndarray, " p"], truths: int
) -> tuple[Float[np.ndarray, " u"], Float[np.ndarray, " u"], Float[np.ndarray, " u"]]:
    """Recall and precision of the predictions from each distinct score on, in rising order, and those scores."""
    counted = right | wrong
    values, which = np.unique(score[counted], return_inverse=True)
    hits = np.bincount(which, right[counted], minlength=len(values))[::-1].cumsum()[::-1]
    total = np.bincount(which, minlength=len(values))[::-1].cumsum()[::-1]
    return hits / (truths or np.nan), hits / np.maximum(total, 1), values


def _area(recall: Float[np.ndarray, " u"], precision: Float[np.ndarray, " u"]) -> float:
    """Area under the curve as the official tool sums it: no envelope, and each precision over half of both steps.

    The curve ends at an artificial point of recall 0 and precision 1.
    """
    if not recall.size:
        return 0.0
    recall, precision = np.append(recall, 0.0), np.append(precision, 1.0)
    ends = np.concatenate([recall[:1], recall, [0.0]])
    return float(np.dot(precision, (ends[:-2] - ends[2:]) / 2))


def _mean(values: Float[np.ndarray, "..."]) -> float:
    """Mean of the values that are not NaN; NaN where none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
