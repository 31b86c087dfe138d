"""Per-class IoU from one confusion matrix, and IoU with objects weighted by size.

Host-side NumPy: counts add up over images and processes.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jaxseg.metrics.counts import Counts
from jaxseg.metrics.sums import Sums
from jaxseg.types import IGNORED, ClassList


@dataclasses.dataclass(frozen=True)
class Confusion(Sums):
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

    @classmethod
    def of_counts(cls, counts: Counts) -> "Confusion":
        """Counts of one image whose segments were counted already; a group counts as its class.

        Args:
          counts: of the image.
        """
        table = np.zeros((counts.semantic.shape[1],) * 2, np.int64)
        np.add.at(table, counts.truth_class[~counts.void], counts.semantic[~counts.void])
        return cls(table)

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
        return super().__add__(other)

    def iou(self) -> Float[np.ndarray, " c"]:
        r"""Intersection over union of each class, NaN where a class is neither in the truth nor predicted.

        .. math:: IoU_c = \frac{TP_c}{TP_c + FP_c + FN_c}
        """
        hits = np.diagonal(self.counts)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - hits
        return np.where(union > 0, hits / np.maximum(union, 1), np.nan)

    def mean_iou(self) -> float:
        """Mean IoU over the classes but background that occur; NaN where none does."""
        present = self.iou()[1:]
        present = present[~np.isnan(present)]
        return float(present.mean()) if present.size else float("nan")

    def accuracy(self) -> float:
        """Share of the counted pixels, background included, whose class is right; NaN where none is counted."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")


@dataclasses.dataclass(frozen=True)
class InstanceIoU(Sums):
    """What the instance-weighted IoU of each class divides; ``+`` merges two.

    Attributes:
      hit: share of each object's pixels that have its class, summed over objects.
      objects: number of objects.
      pixels: of all objects.
      wrong: pixels predicted as the class on another class, void left out.
    """

    hit: Float[np.ndarray, " c"]
    objects: Int[np.ndarray, " c"]
    pixels: Int[np.ndarray, " c"]
    wrong: Int[np.ndarray, " c"]

    @classmethod
    def empty(cls, classes: int) -> "InstanceIoU":
        """The neutral element of ``+``.

        Args:
          classes: number of classes with background.
        """
        return cls(np.zeros(classes), *(np.zeros(classes, np.int64) for _ in range(3)))

    @classmethod
    def of(cls, counts: Counts) -> "InstanceIoU":
        """Counts of one image. Groups are no objects; on a group of its own class a prediction is not wrong.

        Args:
          counts: of the image.
        """
        classes = counts.semantic.shape[1]
        rows = np.flatnonzero(counts.truth_object)
        kinds, area = counts.truth_class[rows], counts.truth_area[rows]
        table = Confusion.of_counts(counts).counts
        return cls(
            np.bincount(kinds, counts.semantic[rows, kinds] / area, minlength=classes).astype(np.float64),
            np.bincount(kinds, minlength=classes),
            np.bincount(kinds, area, minlength=classes).astype(np.int64),
            table.sum(axis=0) - np.diagonal(table),
        )

    def compute(self, classes: ClassList, sizes: Mapping[str, float] | None = None) -> Float[np.ndarray, " c"]:
        r"""Instance-weighted IoU of each class: every object weighs as much as one of mean size.

        .. math::
          iIoU_c = \frac{s_c \sum_i h_i}{s_c\, n_c + FP_c}, \quad h_i \text{ the share of object } i \text{ that is hit}

        Args:
          classes: the class list.
          sizes: mean pixels s_c of an object of each class, by name; None takes those of the objects counted.

        Returns:
          Fractions in [0, 1]; NaN for background, for stuff, and where a class is neither in the truth nor predicted.

        Raises:
          ValueError: `sizes` lacks a class with instances.

        References:
          Cordts et al., The Cityscapes dataset for semantic urban scene understanding, CVPR 2016, section 4.1.
        """
        missing = [name for name in classes.things.values() if sizes is not None and name not in sizes]
        if missing:
            raise ValueError(f"`sizes` must name every class with instances: {missing[0]} is missing.")
        values = np.full(len(classes), np.nan)
        for i, name in classes.things.items():
            size = sizes[name] if sizes is not None else self.pixels[i] / max(self.objects[i], 1)
            total = size * self.objects[i] + self.wrong[i]
            values[i] = size * self.hit[i] / total if total else np.nan
        return values
