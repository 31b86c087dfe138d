"""Per-class IoU from one confusion matrix. Host-side NumPy: counts add up over images and processes."""

import dataclasses

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jaxseg.types import IGNORED


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Pixel counts of every (truth, prediction) pair of classes; ``+`` merges two.

    Attributes:
      counts: row is the true class, column the predicted one.
    """

    counts: Int[np.ndarray, "c c"]

    @classmethod
    def empty(cls, classes: int) -> "Confusion":
        """The neutral element of ``+``.

        Args:
          classes: number of classes with background, 1 to 255.

        Raises:
          ValueError: `classes` is out of range.
        """
        if not 1 <= classes <= IGNORED:
            raise ValueError(f"`classes` must be 1 to 255 (id 255 means ignored): got {classes}.")
        return cls(np.zeros((classes, classes), np.int64))

    @classmethod
    def of(
        cls, prediction: UInt8[np.ndarray | Array, "*b"], truth: UInt8[np.ndarray | Array, "*b"], classes: int
    ) -> "Confusion":
        """Counts of one image, or of any stack of them; pixels whose truth is 255 do not count.

        Args:
          prediction: class ids, 0 to classes - 1 wherever the truth is not ignored.
          truth: class ids; 255 is ignored.
          classes: number of classes with background, 1 to 255.

        Returns:
          The confusion of these pixels alone.

        Raises:
          ValueError: a counted pixel has a class id that does not exist.
        """
        empty = cls.empty(classes)
        # All 256 x 256 pairs are counted first: one pass, and ids out of range show up as counts outside the corner.
        pairs = np.asarray(truth).astype(np.uint16) * 256 + np.asarray(prediction)
        table = np.bincount(pairs.ravel(), minlength=256 * 256).reshape(256, 256)[:IGNORED]
        for name, beyond in (("truth", table[classes:].any(axis=1)), ("prediction", table[:, classes:].any(axis=0))):
            if beyond.any():
                got = classes + int(beyond.argmax())
                raise ValueError(f"`{name}` must hold class ids below {classes}: got {got}. Check the class list.")
        return cls(empty.counts + table[:classes, :classes])

    def update(
        self, prediction: UInt8[np.ndarray | Array, "*b"], truth: UInt8[np.ndarray | Array, "*b"]
    ) -> "Confusion":
        """These counts and those of further pixels; see ``of``."""
        return self + Confusion.of(prediction, truth, len(self.counts))

    def __add__(self, other: "Confusion") -> "Confusion":
        if self.counts.shape != other.counts.shape:
            raise ValueError(
                f"`other` must count the same classes: got {len(other.counts)} classes with {len(self.counts)}."
            )
        return Confusion(self.counts + other.counts)

    def merge(self, other: "Confusion") -> "Confusion":
        """The counts of both; the same as ``+``."""
        return self + other

    def iou(self) -> Float[np.ndarray, " c"]:
        r"""Intersection over union of each class, NaN where a class is neither in the truth nor predicted.

        .. math:: IoU_c = \frac{TP_c}{TP_c + FP_c + FN_c}
        """
        hits = np.diagonal(self.counts)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - hits
        return np.where(union > 0, hits / np.maximum(union, 1), np.nan)

    def mean_iou(self) -> float:
        """Mean IoU over the thing classes (ids 1 and up) that occur; NaN where none does."""
        present = self.iou()[1:]
        present = present[~np.isnan(present)]
        return float(present.mean()) if present.size else float("nan")

    def accuracy(self) -> float:
        """Share of the counted pixels, background included, whose class is right; NaN where none is counted."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")
