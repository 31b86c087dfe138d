"""What is wrong with a data set, and what it holds: one pass over every file."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxseg.config import Data
from jaxseg.data import Label
from jaxseg.data.layouts import DataError, Fault, Labelled, Layout
from jaxseg.types import IGNORED

Result = TypeVar("Result")

Progress = Callable[[Any, int, str], Iterator[Any]]
"""Items, their number and a description to the same items; may draw a bar."""


THREADS = 8
"""Most images that are opened at once."""

BAND = 1 << 20
"""Pixels of a label that are looked at in one piece."""


class Record(NamedTuple):
    """What an image holds, at its stored size.

    Attributes:
      name: of the image.
      digest: of its published pixels.
      size: (height, width), pixels.
      pixels: class id (255: ignored) to number of pixels.
      instances: class id, pixels and half-open box (y0, x0, y1, x1) of each object.
    """

    name: str
    digest: str
    size: tuple[int, int]
    pixels: dict[int, int]
    instances: list[tuple[int, int, int, int, int, int]]

    @classmethod
    def of(cls, name: str, labelled: Labelled) -> "Record":
        """The record of one image."""
        semantic = labelled.label.semantic
        counts = np.bincount(semantic.ravel(), minlength=256)
        pixels = {int(i): int(counts[i]) for i in np.flatnonzero(counts)}
        height, width = semantic.shape
        return cls(name, labelled.digest, (height, width), pixels, objects(labelled.label))


class Examined(NamedTuple):
    """One image, opened.

    Attributes:
      labelled: None where it cannot be used.
      record: the same.
      faults: what is wrong with it.
    """

    labelled: Labelled | None
    record: Record | None
    faults: tuple[Fault, ...]


def objects(label: Label) -> list[tuple[int, int, int, int, int, int]]:
    """Class id, pixels and half-open box (y0, x0, y1, x1) of each object, in the order of the ids.

    Args:
      label: maps of one image.
    """
    count = int(label.instance.max(initial=0)) + 1
    area, class_id = np.zeros(count, np.int64), np.zeros(count, np.int64)
    low, high = np.full((2, count), 1 << 30), np.zeros((2, count), np.int64)
    height = max(1, BAND // label.instance.shape[1])
    for start in range(0, label.instance.shape[0], height):
        band = label.instance[start : start + height]
        rows, columns = np.nonzero(band)
        ids = band[rows, columns]
        area += np.bincount(ids, minlength=count)
        class_id[ids] = label.semantic[start + rows, columns]
        for axis, places in enumerate((start + rows, columns)):
            np.minimum.at(low[axis], ids, places)
            np.maximum.at(high[axis], ids, places + 1)
    area[0] = 0
    table = np.stack([class_id, area, *low, *high], axis=-1)[area > 0]
    return [(c, a, y0, x0, y1, x1) for c, a, y0, x0, y1, x1 in table.tolist()]


def examine(layout: Layout, item: Any) -> Examined:
    """Opens one item; whatever is wrong with it is a fault."""
    try:
        labelled = layout.read(item)
    except DataError as error:
        return Examined(None, None, (Fault(error.kind, str(error)),))
    return Examined(labelled, Record.of(item.name, labelled), labelled.faults)


def ahead(work: Callable[[Any], Result], items: Iterable[Any]) -> Iterator[Result]:
    """Results of items, in order, made by a thread a core up to `THREADS`; OpenCV and NumPy let each other run.

    Few are made ahead, however slow the consumer is: photographs take up to a hundred megabytes each.
    """
    size = min(os.cpu_count() or 1, THREADS)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(size) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > size + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def examined(layout: Layout, items: Sequence[Any]) -> Iterator[Examined]:
    """Opens items, in order, a few ahead."""
    return ahead(partial(examine, layout), items)


def survey(layout: Layout, progress: Progress) -> Iterator[tuple[str, Examined]]:
    """Opens every image of a data set.

    Args:
      layout: the data set.
      progress: may draw a bar.

    Returns:
      Split and image, in order.
    """
    for split, items in layout.splits.items():
        images = progress(examined(layout, items), len(items), f"reading {split}")
        yield from ((split, image) for image in images)


def content(records: Mapping[str, Sequence[Record]]) -> str:
    """Hexadecimal digits that change with any picture or label, but not with where or when its file was written.

    Two labels of one picture that hold the same classes and objects of the same pixels and boxes count as equal.
    """
    return hashlib.sha256(repr({split: list(rows) for split, rows in records.items()}).encode()).hexdigest()[:16]


def without(splits: Collection[str], title: str) -> list[Fault]:
    """Splits that training needs and that are not there.

    Args:
      splits: those that are.
      title: of the data set.
    """
    return [
        Fault("empty", f"{title} has no {split} split. Add it, or let the others be split by name.")
        for split in ("train", "val")
        if split not in splits
    ]


def across(records: Mapping[str, Sequence[Record]]) -> list[Fault]:
    """What is wrong with the splits as a whole: pictures that two of them share, and splits without any object.

    Labels of a test set may be withheld: one that is wholly ignored is not a fault.

    Args:
      records: of every image of each split.
    """
    faults, seen = [], dict[str, tuple[str, str]]()
    for split, rows in records.items():
        withheld = split == "test" and all(set(row.pixels) == {IGNORED} for row in rows)
        if not withheld and not any(row.instances for row in rows):
            named = f" ({split}/{rows[0].name} for one)" if rows else ""
            text = f"No image of {split} shows an object{named}. Label some, or check how labels are coded."
            faults.append(Fault("empty", text))
        for row in rows:
            where, name = seen.setdefault(row.digest, (split, row.name))
            if where != split:
                text = f"{split}/{row.name} is the same picture as {where}/{name}. Remove one: {split} would flatter."
                faults.append(Fault("duplicate", text))
    return faults


def crowded(records: Sequence[Record], data: Data, limit: int, size: tuple[int, int] | None = None) -> list[Fault]:
    """Images of which a training crop may show more objects than its targets hold.

    Args:
      records: of the training images.
      data: settings; crop and augment are read.
      limit: most objects in a training example.
      size: (height, width) that the network sees every frame at; None for frames of their own size.

    Returns:
      A fault an image, the most crowded first. Boxes stand in for masks, which errs to the safe side.
    """
    found = []
    for row in records:
        if len(row.instances) > limit:
            count = most_in_crop(row, data, size)
            if count > limit:
                found.append((count, row.name))
    return [
        Fault(
            "crowded",
            f"A crop of train/{name} shows up to {count} objects, but --targets.max-instances is {limit}. Raise it to "
            f"{max(count for count, _ in found)}.",
        )
        for count, name in sorted(found, key=lambda pair: (-pair[0], pair[1]))
    ]


def most_in_crop(record: Record, data: Data, size: tuple[int, int] | None = None) -> int:
    """Most boxes that a crop touches, over all its places, at the scale that shows most.

    Args:
      record: of the image.
      data: settings; crop and augment are read.
      size: (height, width) that the network sees every frame at; None for frames of their own size.
    """
    counts = []
    for crop in {data.crop, data.crop[::-1]} if data.augment.transpose else {data.crop}:
        window = []
        for axis in range(2):
            factor = data.augment.scale[0] * (size[axis] / record.size[axis] if size else 1)
            window.append(min(record.size[axis], int(np.ceil(crop[axis] / factor))))
        counts.append(_most_in_window(record, (window[0], window[1])))
    return max(counts)


def _most_in_window(record: Record, window: tuple[int, int]) -> int:
    """A box counts at a rectangle of places: their number is the sum of the corners' differences."""
    places = [record.size[axis] - window[axis] + 1 for axis in range(2)]
    steps = np.zeros((places[0] + 1, places[1] + 1), np.int32)
    boxes = np.array([row[2:] for row in record.instances]).reshape(-1, 4)
    top, left = (np.clip(boxes[:, axis] - window[axis] + 1, 0, places[axis]) for axis in range(2))
    bottom, right = (np.clip(boxes[:, 2 + axis], 0, places[axis]) for axis in range(2))
    for rows, columns, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
        np.add.at(steps, (rows, columns), sign)
    return int(steps.cumsum(0).cumsum(1)[:-1, :-1].max())


def class_pixels(records: Sequence[Record], classes: int) -> np.ndarray:
    """Labelled pixels of each class.

    Args:
      records: of a split.
      classes: number of classes, background included.

    Returns:
      (classes,) int64; ignored pixels are not counted.
    """
    counts = np.zeros(256, np.int64)
    for record in records:
        for class_id, number in record.pixels.items():
            counts[class_id] += number
    return counts[:classes]


def ignored_share(records: Sequence[Record]) -> float:
    """Share of the pixels that no loss counts (void, crowds, groups)."""
    whole = sum(row.size[0] * row.size[1] for row in records)
    return sum(row.pixels.get(IGNORED, 0) for row in records) / max(whole, 1)
