"""What every metric needs of one image: the pixels that its predictions and its true segments share.

Objects of a map do not overlap, so that all intersections of an image come from one histogram of (prediction, truth)
pairs. Metrics are written on these small tables, whatever they were counted from. Host-side NumPy.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, UInt8

from jaxseg.types import IGNORED, ClassList

_IDS = 1 << 16
_FOREIGN = 256
_SMALL = 1 << 12
_BINS = 1 << 22


@dataclass(frozen=True)
class Truth:
    """The true segments of one image: objects, groups, stuff and background, and what is ignored ("void").

    A pixel of a class with instances that has no instance id belongs to the group of that class: objects that nobody
    told apart. A void pixel with an instance id is foreign: of an object whose class nobody evaluates.

    Attributes:
      index: segment of each pixel.
      class_id: class of each segment; 255 is void.
      object: which are objects.
      group: which are groups; at most one a class.
      foreign: the foreign part of what is void.
      area: pixels of each segment, at least 1.
    """

    index: Int[np.ndarray, "H W"]
    class_id: Int[np.ndarray, " s"]
    object: Bool[np.ndarray, " s"]
    group: Bool[np.ndarray, " s"]
    foreign: Bool[np.ndarray, " s"]
    area: Int[np.ndarray, " s"]

    @classmethod
    def of(
        cls,
        semantic: UInt8[np.ndarray | Array, "H W"],
        instance: Integer[np.ndarray | Array, "H W"],
        classes: ClassList,
    ) -> "Truth":
        """Segments of two label maps.

        An object's class is the most frequent one of its pixels that are not void. Where that is background or stuff,
        its pixels count as such.

        Args:
          semantic: class ids; 255 is void.
          instance: 0, or the id of the object, 1 to 65535; ids need not be contiguous.
          classes: which have instances.

        Raises:
          ValueError: the maps differ in shape, or hold an id out of range.
        """
        semantic, instance = np.asarray(semantic), np.asarray(instance)
        if instance.shape != semantic.shape:
            raise ValueError(f"`semantic` must have the shape of `instance`: got {semantic.shape}, {instance.shape}.")
        if instance.size and not 0 <= int(instance.min()) <= int(instance.max()) < _IDS:
            raise ValueError(f"`instance` must hold ids 0 to {_IDS - 1}: got {instance.min()} to {instance.max()}.")
        number, ids = _compressed(instance)
        pair = (number.astype(np.int32) << 8) | semantic
        votes = np.bincount(pair.ravel(), minlength=ids << 8).reshape(ids, 256)
        code = _codes(votes, classes)
        # Segments that occur are numbered in the order of their codes.
        present, place = np.unique(code[votes > 0], return_inverse=True)
        table = np.zeros(votes.shape, np.int32)
        table[votes > 0] = place
        is_object = present > _FOREIGN
        class_id = np.where(present == _FOREIGN, IGNORED, present)
        class_id[is_object] = _majority(votes)[present[is_object] - _FOREIGN]
        things = np.isin(class_id, list(classes.things))
        area = np.bincount(place, votes[votes > 0], minlength=len(present)).astype(np.int64)
        return cls(table.ravel()[pair], class_id, is_object, things & ~is_object, present == _FOREIGN, area)


def _compressed(instance: Integer[np.ndarray, "H W"]) -> tuple[Integer[np.ndarray, "H W"], int]:
    """Instance ids without large gaps, 0 still none, and one more than the largest: tables over them stay small."""
    largest = int(instance.max(initial=0))
    if largest < _SMALL:
        return instance, largest + 1
    present = np.bincount(instance.ravel()) > 0
    present[0] = False
    place = np.cumsum(present) * present
    return place.astype(np.uint16)[instance], int(present.sum()) + 1


def _majority(votes: Int[np.ndarray, "i 256"]) -> Int[np.ndarray, " i"]:
    """Class of most pixels of each instance that are not void."""
    return votes[:, :IGNORED].argmax(axis=1)


def _codes(votes: Int[np.ndarray, "i 256"], classes: ClassList) -> Int[np.ndarray, "i 256"]:
    """Segment of each pair of an instance and a class: the class, `_FOREIGN`, or `_FOREIGN` + the instance."""
    rows, columns = np.indices(votes.shape)
    known = np.isin(_majority(votes), list(classes.things)) & votes[:, :IGNORED].any(axis=1)
    known[0] = False
    code = np.where(known[:, None] & (columns != IGNORED), _FOREIGN + rows, columns)
    code[1:, IGNORED] = _FOREIGN
    return code


@dataclass(frozen=True)
class Counts:
    """Pixels that the predictions of one image share with its true segments.

    Attributes:
      truth_class: class of each segment; 255 is void.
      truth_object: which are objects.
      truth_group: which are groups.
      truth_foreign: which is the foreign part of what is void.
      truth_area: pixels of each segment.
      class_id: class of each predicted object, in falling order of score.
      score: its score.
      area: pixels of its mask; may be 0.
      common: pixels of each mask in each segment.
      semantic: pixels of each segment by predicted class.
      rest: pixels outside of every mask, by predicted class, in each segment.
      stuff: ids of the classes without instances.
    """

    truth_class: Int[np.ndarray, " s"]
    truth_object: Bool[np.ndarray, " s"]
    truth_group: Bool[np.ndarray, " s"]
    truth_foreign: Bool[np.ndarray, " s"]
    truth_area: Int[np.ndarray, " s"]
    class_id: Int[np.ndarray, " p"]
    score: Float[np.ndarray, " p"]
    area: Int[np.ndarray, " p"]
    common: Int[np.ndarray, "p s"]
    semantic: Int[np.ndarray, "s c"]
    rest: Int[np.ndarray, "c s"]
    stuff: tuple[int, ...]

    @classmethod
    def of(
        cls,
        semantic: UInt8[np.ndarray | Array, "H W"],
        instance: Integer[np.ndarray | Array, "H W"],
        class_id: Integer[np.ndarray | Array, " n"],
        score: Float[np.ndarray | Array, " n"],
        valid: Bool[np.ndarray | Array, " n"],
        truth: Truth,
        classes: ClassList,
    ) -> "Counts":
        """Counts of predicted maps.

        Args:
          semantic: predicted class ids.
          instance: 0, or the id of the predicted object; id i + 1 is row i of the next three.
          class_id: class of each object; rows of class 0 are left out.
          score: its score; any range, only the order counts. Of equal ones the first row comes first.
          valid: which rows are objects.
          truth: true segments of the same image.
          classes: of both.

        Raises:
          ValueError: the maps differ in shape, an instance id has no row, or a class id does not exist.
        """
        semantic, instance = np.asarray(semantic), np.asarray(instance)
        _require_shape("semantic", semantic, truth)
        _require_shape("instance", instance, truth)
        kinds, scores = np.asarray(class_id).astype(np.int64), np.asarray(score).astype(np.float64)
        if instance.max(initial=0) > len(kinds):
            raise ValueError(f"`instance` must hold ids up to {len(kinds)}, one a row: got {instance.max()}.")
        rows = np.flatnonzero(np.asarray(valid) & (kinds > 0))
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        # Pixels of rows that do not count are outside of every mask.
        place = np.zeros(len(kinds) + 1, np.int32)
        place[rows + 1] = 1 + np.arange(len(rows))
        count = len(classes)
        code = place[instance] * np.int32(count) + _checked(semantic, truth, classes)
        joint = _joint(code, (len(rows) + 1) * count, truth).reshape(len(rows) + 1, count, -1)
        common = joint[1:].sum(axis=1)
        return cls(
            *_segments(truth), kinds[rows], scores[rows], common.sum(axis=1), common, joint.sum(axis=0).T, joint[0],
            classes.stuff,
        )  # fmt: skip

    @classmethod
    def of_masks(
        cls,
        semantic: UInt8[np.ndarray | Array, "H W"] | None,
        masks: Iterable[np.ndarray],
        class_id: Integer[np.ndarray | Array, " n"],
        score: Float[np.ndarray | Array, " n"],
        truth: Truth,
        classes: ClassList,
    ) -> "Counts":
        """Counts of masks, which may overlap.

        Args:
          semantic: predicted class ids; None where there are none, and nothing is counted by class then.
          masks: (H, W) bool or uint8 of each object, not 0 inside; may be a generator, which holds one mask at a time.
          class_id: class of each object; those of class 0 are left out.
          score: its score; any range, only the order counts.
          truth: true segments of the same image.
          classes: of both.

        Raises:
          ValueError: a shape differs, there are more or fewer masks than classes, or a class id does not exist.
        """
        kinds, scores = np.asarray(class_id).astype(np.int64), np.asarray(score).astype(np.float64)
        covered = np.zeros(truth.index.shape, bool)
        common = np.zeros((len(kinds), len(truth.area)), np.int64)
        for row, mask in enumerate(masks):
            if row >= len(kinds):
                raise ValueError(f"`masks` must be as many as `class_id`: got more than {len(kinds)}.")
            _require_shape("masks", mask, truth)
            box = _box(mask)
            inside = mask[box] != 0
            common[row] = np.bincount(truth.index[box][inside], minlength=common.shape[1])
            if kinds[row] > 0:
                covered[box] |= inside
        if len(kinds) and row + 1 < len(kinds):
            raise ValueError(f"`masks` must be as many as `class_id`: got {row + 1} for {len(kinds)}.")
        rows = np.flatnonzero(kinds > 0)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        by_class = rest = np.zeros((len(classes), common.shape[1]), np.int64)
        if semantic is not None:
            semantic = np.asarray(semantic)
            _require_shape("semantic", semantic, truth)
            by_class = _joint(_checked(semantic, truth, classes), len(classes), truth)
            rest = _joint(semantic, len(classes), truth, ~covered)
        common = common[rows]
        return cls(*_segments(truth), kinds[rows], scores[rows], common.sum(1), common, by_class.T, rest, classes.stuff)

    @property
    def void(self) -> Bool[np.ndarray, " s"]:
        """Which segments are void."""
        return self.truth_class == IGNORED


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that a mask reaches: most masks are small."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8) if mask.dtype == bool else mask)
    return slice(y, y + height), slice(x, x + width)


def _segments(truth: Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return truth.class_id, truth.object, truth.group, truth.foreign, truth.area


def _require_shape(name: str, array: np.ndarray, truth: Truth) -> None:
    if array.shape != truth.index.shape:
        raise ValueError(f"`{name}` must have the shape of the truth: got {array.shape} with {truth.index.shape}.")


def _checked(semantic: UInt8[np.ndarray, "H W"], truth: Truth, classes: ClassList) -> UInt8[np.ndarray, "H W"]:
    """The predicted classes, if all exist; so must those of the truth."""
    known = truth.class_id[truth.class_id != IGNORED]
    for name, largest in (("truth", known.max(initial=0)), ("semantic", semantic.max(initial=0))):
        if largest >= len(classes):
            raise ValueError(f"`{name}` must hold class ids below {len(classes)}: got {largest}. Check the class list.")
    return semantic


def _joint(
    codes: Integer[np.ndarray, "H W"], count: int, truth: Truth, where: Bool[np.ndarray, "H W"] | None = None
) -> Int[np.ndarray, "m s"]:
    """Pixels of every pair of a code, 0 to count - 1, and a true segment."""
    columns = len(truth.area)
    chosen, index = (codes.ravel(), truth.index.ravel()) if where is None else (codes[where], truth.index[where])
    if count * columns <= _BINS:
        return np.bincount(chosen * np.int32(columns) + index, minlength=count * columns).reshape(count, columns)
    # Most codes do not occur: an object has one class. Those that do are numbered first.
    present = np.bincount(chosen, minlength=count) > 0
    rows = (np.cumsum(present) - 1).astype(np.int64)[chosen]
    table = np.zeros((count, columns), np.int64)
    table[present] = np.bincount(rows * columns + index, minlength=int(present.sum()) * columns).reshape(-1, columns)
    return table
