"""COCO mask AP. Host-side NumPy on the counts of an image, with matches that merge.

Matching, precision and interpolation are those of pycocotools, with every prediction counted. A group is one "crowd"
region of its class, and what is void one of every class: they cost no recall, and predictions mostly inside one are
left out. Several crowds of one class count as one region.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxseg.metrics.counts import Counts
from jaxseg.metrics.sums import Ranked

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds that AP is averaged over."""

RECALLS = np.linspace(0.0, 1.0, 101)
"""Recalls at which precision is sampled."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of each prediction at each of the ten IoU thresholds.

    Attributes:
      matched: it took a truth: a true positive.
      ignored: it is neither true nor false: it lies in a crowd, took a truth that does not count, or is itself of an
        area that does not count.
    """

    matched: Bool[np.ndarray, "t p"]
    ignored: Bool[np.ndarray, "t p"]


@dataclasses.dataclass(frozen=True)
class ImageMatches:
    """Predictions of one image in falling order of score, what became of them, and the truths.

    Attributes:
      class_id: class of each prediction.
      score: its score.
      by_class: verdicts where only truths of its own class count.
      agnostic: verdicts where all classes are one.
      truth_class: class of each truth that counts.
    """

    class_id: Int[np.ndarray, " p"]
    score: Float[np.ndarray, " p"]
    by_class: Verdict
    agnostic: Verdict
    truth_class: Int[np.ndarray, " g"]


def matches(counts: Counts, area: tuple[float | int, float | int] = (0, np.inf)) -> ImageMatches:
    """Matches the predictions of one image with its objects, in order of score, at every IoU threshold.

    Args:
      counts: of the image.
      area: smallest and largest object that counts, pixels, both inclusive. Others are left out: predictions that take
        one, and predictions without a truth that are themselves of another area.

    Returns:
      The predictions and what became of them.
    """
    columns = np.flatnonzero(counts.truth_object)
    kinds, sizes = counts.truth_class[columns], counts.truth_area[columns]
    common, of_own = counts.common[:, columns], counts.class_id[:, None] == kinds[None, :]
    iou = common / np.maximum(counts.area[:, None] + sizes[None, :] - common, 1)
    outside, away = _outside(sizes, area), _outside(counts.area, area)
    own_group = counts.truth_group[None, :] & (counts.truth_class[None, :] == counts.class_id[:, None])
    return ImageMatches(
        counts.class_id,
        counts.score,
        _greedy(np.where(of_own, iou, 0.0), outside, _share(counts, own_group), away),
        _greedy(iou, outside, _share(counts, counts.truth_group[None, :]), away),
        kinds[~outside],
    )


def _outside(sizes: Int[np.ndarray, " n"], area: tuple[float | int, float | int]) -> Bool[np.ndarray, " n"]:
    return (sizes < area[0]) | (sizes > area[1])


def _share(counts: Counts, group: Bool[np.ndarray, "_ s"]) -> Float[np.ndarray, " p"]:
    """Share of each prediction inside one crowd: that of its class, or what is void."""
    inside = np.maximum((counts.common * group).sum(axis=1), counts.common[:, counts.void].sum(axis=1))
    return inside / np.maximum(counts.area, 1)


def _greedy(
    iou: Float[np.ndarray, "p g"],
    outside: Bool[np.ndarray, " g"],
    crowd: Float[np.ndarray, " p"],
    away: Bool[np.ndarray, " p"],
) -> Verdict:
    """Each prediction in turn takes the free truth it overlaps most; of equals the last, as pycocotools does.

    Truths that count come before those that do not, and these before crowds, which are never taken.
    """
    limits = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    free = np.ones((len(limits), iou.shape[1]), bool)
    matched = np.zeros((len(limits), iou.shape[0]), bool)
    left_out = (crowd[None, :] >= limits) | away[None, :]
    candidate = iou >= limits[0]
    for row in np.flatnonzero(candidate.any(axis=1)):
        near = np.flatnonzero(candidate[row])[::-1]  # at most two, for truths do not overlap
        fits = free[:, near] & (iou[row, near][None, :] >= limits)
        rank = np.where(fits, iou[row, near][None, :] - 2.0 * outside[near][None, :], -np.inf)
        best = near[rank.argmax(axis=1)]
        taken = fits.any(axis=1) & ~(outside[best] & (crowd[row] >= iou[row, best]))
        matched[:, row] = taken & ~outside[best]
        left_out[:, row] |= taken & outside[best]
        free[taken, best[taken]] = False
    return Verdict(matched, ~matched & left_out)


@dataclasses.dataclass(frozen=True)
class Curve:
    """Precision and recall at one IoU threshold as the score threshold falls.

    Attributes:
      recall: share of the truths found; NaN where there are none.
      precision: share of the predictions so far that are right, not interpolated.
      score: score of the last prediction counted.
    """

    recall: Float[np.ndarray, " p"]
    precision: Float[np.ndarray, " p"]
    score: Float[np.ndarray, " p"]


def row_of(threshold: float) -> int:
    """Which of the ten IoU thresholds this is.

    Args:
      threshold: 0.5, 0.55 ... 0.95.

    Raises:
      ValueError: it is none of them.
    """
    near = np.abs(THRESHOLDS - threshold)
    row = int(near.argmin())
    if near[row] > 1e-6:
        raise ValueError(f"`threshold` must be one of 0.50, 0.55 ... 0.95: got {threshold}.")
    return row


@dataclasses.dataclass(frozen=True)
class _Pool:
    """The predictions of many images in falling order of score, of one class or of all as one."""

    score: Float[np.ndarray, " p"]
    matched: Bool[np.ndarray, "t p"]
    ignored: Bool[np.ndarray, "t p"]
    truths: int

    def rates(self) -> tuple[Float[np.ndarray, "t p"], Float[np.ndarray, "t p"]]:
        """Recall and precision after each prediction."""
        hits = np.cumsum(self.matched, axis=1, dtype=np.float64)
        false = np.cumsum(~self.matched & ~self.ignored, axis=1, dtype=np.float64)
        return hits / (self.truths or np.nan), hits / np.maximum(hits + false, 1.0)

    def average(self) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
        """AP and final recall at each threshold; NaN where there is no truth."""
        nan = np.full(len(THRESHOLDS), np.nan)
        if not self.truths:
            return nan, nan
        recall, precision = self.rates()
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # One zero at the end is what recalls that are never reached read.
        envelope = np.pad(envelope, ((0, 0), (0, 1)))
        ap = [e[np.searchsorted(r, RECALLS, side="left")].mean() for r, e in zip(recall, envelope, strict=True)]
        return np.array(ap), self.matched.sum(axis=1) / self.truths


class AveragePrecision(Ranked):
    """`ImageMatches` of any number of images. Scores that tie across images rank in the images' order."""

    def compute(self, classes: int) -> dict[str, float | int | Float[np.ndarray, " c"] | Int[np.ndarray, " c"]]:
        r"""AP, AP50 and recalls, over the classes and of each.

        .. math:: AP_c = \frac{1}{10} \sum_{t} \frac{1}{101} \sum_{r} \max_{r' \ge r} p_{c,t}(r')

        Args:
          classes: number of classes with background, at least 1.

        Returns:
          Fractions in [0, 1]: ``ap``, ``ap50``, ``ar`` (recall averaged over the IoU thresholds) and ``recall50`` as
          means over the classes that have truth, NaN without any; the same four with ``_class`` (c,), NaN where a class
          has no truth; the same four with ``_agnostic``, where all classes are one. Counts: ``images``, and
          ``truths_class`` and ``predictions_class`` (c,).

        Raises:
          ValueError: `classes` is not positive, or a class id lies beyond it.
        """
        counts = self._counts(classes)
        found = [self._pool(c).average() for c in range(classes)]
        values = _summary(np.stack([ap for ap, _ in found]), np.stack([recall for _, recall in found]))
        ap, recall = self._pool(None).average()
        agnostic = _summary(ap[None], recall[None])
        return {
            **{name: _mean(value) for name, value in values.items()},
            **{f"{name}_class": value for name, value in values.items()},
            **{f"{name}_agnostic": float(value[0]) for name, value in agnostic.items()},
            **counts,
        }

    def curve(self, class_id: int | None = None, threshold: float = 0.5) -> Curve:
        """The precision-recall curve of one class, or of all as one.

        Args:
          class_id: the class; None takes all classes as one.
          threshold: one of the ten IoU thresholds, 0.5 to 0.95.

        Returns:
          One point a prediction that is not ignored, in falling order of score.

        Raises:
          ValueError: `threshold` is not one of the ten.
        """
        row = row_of(threshold)
        pool = self._pool(class_id)
        recall, precision = pool.rates()
        counted = ~pool.ignored[row]
        return Curve(recall[row, counted], precision[row, counted], pool.score[counted])

    def _counts(self, classes: int) -> dict[str, int | Int[np.ndarray, " c"]]:
        """Images, and truths and predictions of each class."""
        if classes < 1:
            raise ValueError(f"`classes` must be at least 1: got {classes}.")
        none = np.zeros(0, np.int64)
        truths = np.bincount(np.concatenate([none, *(image.truth_class for image in self.images)]), minlength=classes)
        predictions = np.bincount(np.concatenate([none, *(image.class_id for image in self.images)]), minlength=classes)
        largest = max(len(truths), len(predictions)) - 1
        if largest >= classes:
            raise ValueError(f"`classes` must exceed every class id: got {classes} with id {largest}.")
        return {"images": len(self.images), "truths_class": truths, "predictions_class": predictions}

    def _pool(self, class_id: int | None) -> _Pool:
        """All predictions of one class, or of all as one, in falling order of score."""
        score, truths = [np.zeros(0)], 0
        matched, ignored = [np.zeros((len(THRESHOLDS), 0), bool)], [np.zeros((len(THRESHOLDS), 0), bool)]
        for image in self.images:
            keep = slice(None) if class_id is None else image.class_id == class_id
            verdict = image.agnostic if class_id is None else image.by_class
            score.append(image.score[keep])
            matched.append(verdict.matched[:, keep])
            ignored.append(verdict.ignored[:, keep])
            truths += len(image.truth_class) if class_id is None else int((image.truth_class == class_id).sum())
        scores = np.concatenate(score)
        order = np.argsort(-scores, kind="stable")
        return _Pool(
            scores[order], np.concatenate(matched, axis=1)[:, order], np.concatenate(ignored, axis=1)[:, order], truths
        )


def _summary(ap: Float[np.ndarray, "c t"], recall: Float[np.ndarray, "c t"]) -> dict[str, Float[np.ndarray, " c"]]:
    """AP and recall of each class, averaged over the thresholds and at 0.5."""
    return {"ap": ap.mean(axis=1), "ap50": ap[:, 0], "ar": recall.mean(axis=1), "recall50": recall[:, 0]}


def _mean(values: Float[np.ndarray, " c"]) -> float:
    """Mean of the values that are not NaN; NaN where none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
