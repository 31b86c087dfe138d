"""Panoptic quality. Host-side NumPy on the counts of an image; sums that merge.

A predicted segment is an object, or all pixels of a stuff class outside of every object. Pixels of a class with
instances that are in no object, and background, are no prediction. True background is no category, but not void: a
prediction there is wrong.

References:
  Kirillov et al., Panoptic segmentation, CVPR 2019.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from jaxseg.metrics.counts import Counts
from jaxseg.metrics.sums import Sums
from jaxseg.types import ClassList


@dataclasses.dataclass(frozen=True)
class PanopticQuality(Sums):
    """What PQ divides, of each class; ``+`` merges two.

    Attributes:
      iou: summed over the matched pairs.
      right: matched pairs.
      wrong: predicted segments without a match.
      missed: true segments without a match.
    """

    iou: Float[np.ndarray, " c"]
    right: Int[np.ndarray, " c"]
    wrong: Int[np.ndarray, " c"]
    missed: Int[np.ndarray, " c"]

    @classmethod
    def empty(cls, classes: int) -> "PanopticQuality":
        """The neutral element of ``+``.

        Args:
          classes: number of classes with background.
        """
        return cls(np.zeros(classes), *(np.zeros(classes, np.int64) for _ in range(3)))

    @classmethod
    def of(cls, counts: Counts) -> "PanopticQuality":
        """Counts of one image.

        A pair matches where its IoU exceeds one half; void does not count in the union. A predicted segment mostly
        on void and the group of its class is left out.

        Args:
          counts: of the image.
        """
        classes = counts.semantic.shape[1]
        kinds, common = _predicted(counts)
        area, void = common.sum(axis=1), common[:, counts.void].sum(axis=1)
        segment = ~counts.void & ~counts.truth_group & (counts.truth_class > 0)
        same = segment[None, :] & (kinds[:, None] == counts.truth_class[None, :])
        union = area[:, None] + counts.truth_area[None, :] - common - void[:, None]
        iou = np.where(same, common / np.maximum(union, 1), 0.0)
        match = iou > 0.5
        group = counts.truth_group[None, :] & (kinds[:, None] == counts.truth_class[None, :])
        excused = (void + (common * group).sum(axis=1)) / area > 0.5
        matched, found = match.any(axis=1), match.any(axis=0)
        return cls(
            np.bincount(kinds, np.where(match, iou, 0.0).sum(axis=1), minlength=classes).astype(np.float64),
            np.bincount(kinds[matched], minlength=classes),
            np.bincount(kinds[~matched & ~excused], minlength=classes),
            np.bincount(counts.truth_class[segment & ~found], minlength=classes),
        )

    def compute(self, classes: ClassList) -> dict[str, float | Float[np.ndarray, " c"]]:
        r"""Panoptic, segmentation and recognition quality.

        .. math:: PQ = \frac{\sum_{TP} IoU}{TP + FP / 2 + FN / 2} = SQ \cdot RQ

        Args:
          classes: the class list.

        Returns:
          Fractions in [0, 1]: ``pq``, ``sq`` and ``rq``, means over the classes that occur (in the truth or predicted),
          NaN without any; ``pq_things`` and ``pq_stuff``; the first three with ``_class`` (c,), NaN where a class does
          not occur.
        """
        weight = self.right + 0.5 * self.wrong + 0.5 * self.missed
        occurs = weight > 0
        occurs[0] = False
        with np.errstate(invalid="ignore", divide="ignore"):
            values = {
                "pq": np.where(occurs, self.iou / weight, np.nan),
                "sq": np.where(occurs, np.where(self.right > 0, self.iou / np.maximum(self.right, 1), 0.0), np.nan),
                "rq": np.where(occurs, self.right / weight, np.nan),
            }
        parts = {"things": list(classes.things), "stuff": list(classes.stuff)}
        return {
            **{name: _mean(value) for name, value in values.items()},
            **{f"pq_{part}": _mean(values["pq"][ids]) for part, ids in parts.items()},
            **{f"{name}_class": value for name, value in values.items()},
        }


def _predicted(counts: Counts) -> tuple[Int[np.ndarray, " q"], Int[np.ndarray, "q s"]]:
    """Class of each predicted segment that owns a pixel, and its pixels in each true segment."""
    stuff = np.array([i for i in counts.stuff if counts.rest[i].any()], np.int64)
    kept = counts.area > 0
    kinds = np.concatenate([counts.class_id[kept], stuff])
    return kinds, np.concatenate([counts.common[kept], counts.rest[stuff]])


def _mean(values: Float[np.ndarray, " c"]) -> float:
    """Mean of the values that are not NaN; NaN where none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
