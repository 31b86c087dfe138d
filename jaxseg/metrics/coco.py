"""COCO mask AP on instance maps. Host-side NumPy: one joint histogram an image, and matches that merge.

Objects of a map do not overlap, so all intersections of an image come from one count of (prediction, truth) id pairs.
Matching, precision and interpolation are those of pycocotools over all areas, with every prediction counted. Pixels
whose truth is 255 are one "crowd" region of every class: it costs no recall, and predictions mostly inside it are left
out.
"""

import dataclasses

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, UInt8

from jaxseg.types import IGNORED

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds that AP is averaged over."""

RECALLS = np.linspace(0.0, 1.0, 101)
"""Recalls at which precision is sampled."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of each prediction at each of the ten IoU thresholds.

    Attributes:
      matched: it took a truth: a true positive.
      ignored: it took no truth and lies in the ignored region: neither true nor false.
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
      truth_class: class of each truth.
    """

    class_id: Int[np.ndarray, " p"]
    score: Float[np.ndarray, " p"]
    by_class: Verdict
    agnostic: Verdict
    truth_class: Int[np.ndarray, " g"]


def matches(
    prediction_instance: Integer[np.ndarray | Array, "H W"],
    class_id: Integer[np.ndarray | Array, " n"],
    score: Float[np.ndarray | Array, " n"],
    valid: Bool[np.ndarray | Array, " n"],
    truth_instance: Integer[np.ndarray | Array, "H W"],
    truth_semantic: UInt8[np.ndarray | Array, "H W"],
) -> ImageMatches:
    """Matches the predictions of one image with its truths, in order of score, at every IoU threshold.

    A truth's class is the most frequent semantic label of its pixels that are not ignored. Predictions and truths of
    class 0 are left out.

    Args:
      prediction_instance: 0, or the id of the predicted object; id i + 1 is row i of the next three.
      class_id: class of each prediction.
      score: its score; any range, only the order counts.
      valid: which rows are predictions.
      truth_instance: 0, or the id of the true object; ids need not be contiguous.
      truth_semantic: class ids; 255 is ignored, whatever the instance id there.

    Returns:
      The predictions and what became of them.

    Raises:
      ValueError: the maps differ in shape, or an instance id has no row.
    """
    prediction_instance, truth_instance = np.asarray(prediction_instance), np.asarray(truth_instance)
    class_id, score = np.asarray(class_id).astype(np.int64), np.asarray(score).astype(np.float64)
    index, truth_class = _truths(truth_instance, np.asarray(truth_semantic))
    joint = _joint(prediction_instance, len(class_id), index, len(truth_class))
    rows = np.flatnonzero(np.asarray(valid) & (class_id > 0))
    rows = rows[np.argsort(-score[rows], kind="stable")]
    columns = np.flatnonzero(truth_class > 0)
    class_id, truth_class = class_id[rows], truth_class[columns]
    iou, crowd = _overlaps(joint, rows, columns)
    return ImageMatches(
        class_id,
        score[rows],
        _greedy(np.where(class_id[:, None] == truth_class[None, :], iou, 0.0), crowd),
        _greedy(iou, crowd),
        truth_class,
    )


def _truths(
    instance: Integer[np.ndarray, "H W"], semantic: UInt8[np.ndarray, "H W"]
) -> tuple[Int[np.ndarray, "H W"], Int[np.ndarray, " g"]]:
    """Contiguous truth ids 1..g (0 none, g + 1 ignored) of every pixel, and the class of each truth."""
    if instance.shape != semantic.shape:
        raise ValueError(
            f"`truth_semantic` must have the shape of `truth_instance`: got {semantic.shape} with {instance.shape}."
        )
    kept = np.where(semantic == IGNORED, 0, instance)
    present = np.bincount(kept.ravel(), minlength=1) > 0
    present[0] = False
    index = np.cumsum(present) * present
    count = int(present.sum())
    index = index[kept]
    votes = np.bincount((index * 256 + semantic).ravel(), minlength=(count + 1) * 256).reshape(count + 1, 256)
    index[semantic == IGNORED] = count + 1
    return index, votes[1:].argmax(axis=1)


def _joint(
    prediction: Integer[np.ndarray, "H W"], predictions: int, index: Int[np.ndarray, "H W"], truths: int
) -> Int[np.ndarray, "m k"]:
    """Pixels of every pair: predictions (0 is none) down, truths (0 is none, the last is ignored) across."""
    if prediction.shape != index.shape:
        raise ValueError(
            f"`prediction_instance` must have the shape of the truth: got {prediction.shape} with {index.shape}."
        )
    if prediction.max(initial=0) > predictions:
        raise ValueError(f"`prediction_instance` must hold ids up to {predictions}, one a row: got {prediction.max()}.")
    columns = truths + 2
    pairs = prediction.astype(np.int64) * columns + index
    return np.bincount(pairs.ravel(), minlength=(predictions + 1) * columns).reshape(predictions + 1, columns)


def _overlaps(
    joint: Int[np.ndarray, "m k"], rows: Int[np.ndarray, " p"], columns: Int[np.ndarray, " g"]
) -> tuple[Float[np.ndarray, "p g"], Float[np.ndarray, " p"]]:
    """IoU of each prediction with each truth, and the share of each prediction that is ignored."""
    area = joint.sum(axis=1)[rows + 1]
    common = joint[np.ix_(rows + 1, columns + 1)]
    union = area[:, None] + joint.sum(axis=0)[columns + 1][None, :] - common
    return common / np.maximum(union, 1), joint[rows + 1, -1] / np.maximum(area, 1)


def _greedy(iou: Float[np.ndarray, "p g"], crowd: Float[np.ndarray, " p"]) -> Verdict:
    """Each prediction in turn takes the free truth it overlaps most; of equals the last, as pycocotools does."""
    limits = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    free = np.ones((len(limits), iou.shape[1]), bool)
    matched = np.zeros((len(limits), iou.shape[0]), bool)
    candidate = iou >= limits[0]
    for row in np.flatnonzero(candidate.any(axis=1)):
        near = np.flatnonzero(candidate[row])[::-1]  # at most two, for masks do not overlap
        fits = free[:, near] & (iou[row, near][None, :] >= limits)
        best = near[np.where(fits, iou[row, near][None, :], -1.0).argmax(axis=1)]
        matched[:, row] = fits.any(axis=1)
        free[matched[:, row], best[matched[:, row]]] = False
    return Verdict(matched, ~matched & (crowd[None, :] >= limits))


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


@dataclasses.dataclass(frozen=True)
class AveragePrecision:
    """Matches of any number of images; ``+`` merges two. Scores that tie across images rank in the images' order.

    Attributes:
      images: the matches of each image.
    """

    images: tuple[ImageMatches, ...] = ()

    @classmethod
    def empty(cls) -> "AveragePrecision":
        """The neutral element of ``+``."""
        return cls()

    @classmethod
    def of(cls, *images: ImageMatches) -> "AveragePrecision":
        """The accumulator of these images."""
        return cls(images)

    def __add__(self, other: "AveragePrecision") -> "AveragePrecision":
        return AveragePrecision(self.images + other.images)

    def merge(self, other: "AveragePrecision") -> "AveragePrecision":
        """The images of both; the same as ``+``."""
        return self + other

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
        near = np.abs(THRESHOLDS - threshold)
        row = int(near.argmin())
        if near[row] > 1e-6:
            raise ValueError(f"`threshold` must be one of 0.50, 0.55 ... 0.95: got {threshold}.")
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
