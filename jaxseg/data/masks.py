"""From COCO's annotations of one image to its label maps.

The polygons of an annotation are united; its parts need not touch and may have holes. A pixel that several
objects claim belongs to the one with the smallest mask, among equals to the first listed. Below the objects lie
instances of classes without instances, which leave their class alone, and below these crowds and annotations of no
known category, which training ignores; evaluation knows crowds of classes with instances. Pixels of panoptic id 0 are
ignored.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data import Label, images, layouts
from jaxseg.data.documents import identifies, shown
from jaxseg.data.layouts import DataError, Fault
from jaxseg.types import IGNORED

OBJECTS = (1 << 16) - 1
"""Most objects of an image, whose ids have 16 bits."""

CODE = 1 << 23
"""Longest run-length code that is read, in characters or runs."""

OUTLINE = 1 << 24
"""Longest outline of a polygon, in fifths of a pixel: pycocotools takes 24 bytes for each."""

WORK = 1 << 31
"""Most pixels of an image's masks together, and fifths of a pixel of their outlines."""

LEVEL = images.PIXELS + 1
"""Above any mask's area, which ranks objects; other annotations rank one or two levels higher."""


class Kind(NamedTuple):
    """What a category is learnt as.

    Attributes:
      class_id: 0 where it is background.
      thing: whether the class has instances.
    """

    class_id: int
    thing: bool


class Annotation(NamedTuple):
    """One annotation as it is written, or one of a panoptic annotation's segments; any field may hold anything.

    Attributes:
      id: what messages call it.
      category: id of a category.
      crowd: 1 for a group that nobody told apart.
      segmentation: polygons or a run-length code; of a segment None.
    """

    id: Any
    category: Any
    crowd: Any
    segmentation: Any = None


class Item(NamedTuple):
    """One image and what is written about it.

    Attributes:
      name: its file name in the annotation file, without the suffix.
      image: file.
      size: (height, width) as written, which may be anything; (None, None) where nothing is.
      annotations: of instances a tuple of annotations, of panoptic labels what ``segments_info`` holds.
      kinds: of the annotation file's categories, by their ids.
      document: annotation file.
      label: PNG of a panoptic label.
      id: of the image in the annotation file.
    """

    name: str
    image: Path
    size: tuple[Any, Any]
    annotations: Any
    kinds: Mapping[Any, Kind]
    document: Path
    label: Path | None = None
    id: Any = None


class _Wrong(Exception):
    """What is wrong with an annotation, as a phrase whose subject it is."""


def draw(item: Item, size: tuple[int, int]) -> tuple[Label, tuple[Fault, ...]]:
    """Label maps of an image's instances.

    Args:
      item: the image; its annotations are tried one after the other.
      size: (height, width) of its pixels.

    Returns:
      Class ids and instance ids, (H, W) each; faults where an annotation names no known category.

    Raises:
      DataError: of kind "label", where an annotation has no mask or cannot be drawn.
    """
    canvas, strange = _Canvas(size), []
    for annotation in item.annotations:
        try:
            kind = _kind(annotation, item.kinds)
            if kind and not kind.class_id:
                continue
            if kind is None:
                strange.append(annotation)
            if not _has_mask(annotation.segmentation):
                raise _Wrong("has no segmentation, only a box")
            canvas.paint(_runs(annotation.segmentation, canvas), kind, bool(annotation.crowd))
        except _Wrong as error:
            raise DataError("label", f"{_named(item, [annotation])} {error}. Mend it, or remove it.") from error
    return canvas.label(), tuple(_without_category(item, strange))


def _named(item: Item, annotations: Sequence[Annotation]) -> str:
    others = f" (and {len(annotations) - 1} more)" if len(annotations) > 1 else ""
    return f"{item.document}: annotation {shown(annotations[0].id)} of {item.image}{others}"


def _without_category(item: Item, annotations: Sequence[Annotation]) -> Iterator[Fault]:
    if annotations:
        text = (
            f"is of category id {shown(annotations[0].category)}, which is not listed. List it, or mend the annotation."
        )
        yield Fault("class", f"{_named(item, annotations)} {text}")


def _kind(annotation: Annotation, kinds: Mapping[Any, Kind]) -> Kind | None:
    """What the annotation is learnt as; None where nobody knows its category."""
    if type(annotation.crowd) is not int or annotation.crowd not in (0, 1):
        raise _Wrong(f"has iscrowd {shown(annotation.crowd)}, which must be 0 or 1")
    return kinds.get(annotation.category) if identifies(annotation.category) else None


def _has_mask(segmentation: Any) -> bool:
    return any(part != [] for part in segmentation) if isinstance(segmentation, list) else segmentation is not None


class _Canvas:
    """Label maps in the making, with their columns one after the other, as run-length codes count."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.height, self.width = size
        self.pixels = self.height * self.width
        self.semantic = np.zeros(self.pixels, np.uint8)
        self.instance = np.zeros(self.pixels, np.uint16)
        # Of what was painted there: an object's area, above all areas for stuff, more for crowds, most for nothing.
        self.rank = np.full(self.pixels, 3 * LEVEL, np.int32)
        self.objects = 0
        self.work = 0

    def afford(self, work: int) -> None:
        """Refuses the annotation at which an image would take minutes."""
        self.work += work
        if self.work > WORK:
            raise _Wrong(f"is the one at which the masks of this image cover more than {WORK >> 20} million pixels")

    def paint(self, runs: np.ndarray, kind: Kind | None, crowd: bool) -> None:
        """Draws a mask over what ranks below it.

        Args:
          runs: (n,) int64 lengths, of what is outside and inside by turns.
          kind: of its class; None to ignore its pixels.
          crowd: whether it is a group of its class; one of stuff is ignored.
        """
        starts, lengths = np.cumsum(runs)[: len(runs) // 2 * 2 : 2], runs[1::2]
        area = int(lengths.sum())
        self.afford(area)
        single = kind is not None and not crowd
        rank = area + LEVEL * (not kind.thing) if kind and single else 2 * LEVEL
        inside = np.arange(area, dtype=np.int32)
        inside += np.repeat((starts - np.cumsum(lengths) + lengths).astype(np.int32), lengths)
        inside = inside[self.rank[inside] > rank]
        self.rank[inside] = rank
        self.semantic[inside] = kind.class_id if kind and (single or kind.thing) else IGNORED
        self.instance[inside] = self._next() if kind and kind.thing and single else 0

    def _next(self) -> int:
        self.objects += 1
        if self.objects > OBJECTS:
            raise _Wrong(f"is one of more than {OBJECTS} objects in an image")
        return self.objects

    def label(self) -> Label:
        """What was drawn: (H, W) uint8 class ids and (H, W) uint16 instance ids."""
        shape = (self.width, self.height)
        semantic, instance = self.semantic.reshape(shape).T, self.instance.reshape(shape).T
        return Label(np.ascontiguousarray(semantic), layouts.numbered(np.ascontiguousarray(instance)))


def _runs(segmentation: Any, canvas: _Canvas) -> np.ndarray:
    """(n,) int64 lengths of a mask's runs, column by column, outside and inside by turns; they sum up to its pixels."""
    if isinstance(segmentation, list):
        return _outlined(segmentation, canvas)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise _Wrong("has a segmentation that is neither a list of polygons nor a run-length code with size and counts")
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, list) or list(map(type, size)) != [int, int] or size != [canvas.height, canvas.width]:
        raise _Wrong(f"has a run-length code of size {shown(size)}, but the image is {[canvas.height, canvas.width]}")
    if isinstance(counts, str):
        return _complete(_decompressed(counts), canvas.pixels)
    if not isinstance(counts, list) or len(counts) > CODE:
        raise _Wrong(f"has a run-length code whose counts are {shown(counts)}")
    if not all(type(count) is int and 0 <= count <= canvas.pixels for count in counts):
        raise _Wrong("has a run-length code with counts that are not whole numbers from 0 to the image's pixels")
    return _complete(np.array(counts, np.int64), canvas.pixels)


def _complete(runs: np.ndarray, pixels: int) -> np.ndarray:
    if not runs.size or runs.min() < 0 or runs.max() > pixels or runs.sum() != pixels:
        raise _Wrong(f"has a run-length code that does not cover the {pixels} pixels of the image, no more and no less")
    return runs


def _decompressed(code: str) -> np.ndarray:
    """Numbers of a compressed run-length code.

    A character holds five bits and whether more follow, the lowest bits come first and the highest bit is the sign;
    from the fourth on, numbers are differences to the last but one.
    """
    if len(code) > CODE or not code.isascii():
        raise _Wrong(f"has a run-length code that is none: {shown(code)}")
    digits = np.frombuffer(code.encode(), np.uint8).astype(np.int64) - 48
    if not digits.size or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise _Wrong(f"has a run-length code that is none: {shown(code)}")
    last = np.flatnonzero(digits & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > 7:
        raise _Wrong(f"has a run-length code with a number beyond reason: {shown(code)}")
    digit = np.arange(digits.size) - np.repeat(first, length)
    numbers = np.add.reduceat((digits & 31) << 5 * digit, first) - ((digits[last] >> 4 & 1) << 5 * length)
    numbers[1::2], numbers[2::2] = np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])
    return numbers


def _outlined(polygons: Sequence[Any], canvas: _Canvas) -> np.ndarray:
    """Runs of the union of polygons."""
    from pycocotools import mask

    for polygon in polygons:
        _check_polygon(polygon, canvas)
    codes = mask.frPyObjects(polygons, canvas.height, canvas.width)
    return _complete(_decompressed(mask.merge(codes)["counts"].decode()), canvas.pixels)


def _check_polygon(polygon: Any, canvas: _Canvas) -> None:
    """Refuses what pycocotools would trust; it rounds to fifths of a pixel and walks along the outline in these."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise _Wrong(f"has a polygon that is no list of three or more pairs x, y: {shown(polygon)}")
    for value, side in zip(polygon, itertools.cycle((canvas.width, canvas.height))):
        if type(value) not in (int, float) or not -2 * side <= value <= 3 * side:
            raise _Wrong(f"has a polygon with the coordinate {shown(value)}, which is none or far outside of the image")
    points = np.array(polygon, np.float64).reshape(-1, 2)
    steps = np.abs(points - np.roll(points, -1, axis=0)).max(axis=1)
    length = int(5 * steps.sum()) + 2 * len(points)
    if length > OUTLINE:
        raise _Wrong(f"has a polygon whose outline is longer than {OUTLINE // 5} pixels")
    canvas.afford(length)


def panoptic(item: Item, size: tuple[int, int]) -> tuple[Label, tuple[Fault, ...]]:
    """Label maps of an image's panoptic label.

    Args:
      item: the image, its segments and their PNG.
      size: (height, width) of its pixels.

    Returns:
      Class ids and instance ids, (H, W) each; faults where a segment names no known category, or is not described.

    Raises:
      DataError: an unreadable PNG, one of another size, or segments that are described wrongly.
    """
    path = item.label or item.image
    segments, ids = _segments(item), _segment_ids(path, size, item.image.name)
    kinds = {key: _kind(segment, item.kinds) for key, segment in segments.items()}
    ignored = Kind(IGNORED, False)
    values = [ignored, *(_crowd(kind) if segments[key].crowd else kind or ignored for key, kind in kinds.items())]
    things = np.array([kind.thing for kind in values])
    columns = np.array([kind.class_id for kind in values], np.uint8), (np.cumsum(things) * things).astype(np.uint16)
    label, stranger = _looked_up(ids, np.array([0, *segments], np.int32), *columns)
    strange = [segments[key] for key, kind in kinds.items() if kind is None]
    return label, (*_undescribed(stranger, path, item), *_without_category(item, strange))


def _crowd(kind: Kind | None) -> Kind:
    """Of a class with instances a group, without an instance; of any other, or of none, ignored."""
    return Kind(kind.class_id, False) if kind and kind.thing else Kind(IGNORED, False)


def _looked_up(
    ids: np.ndarray, listed: np.ndarray, semantic: np.ndarray, instance: np.ndarray
) -> tuple[Label, int | None]:
    """Label maps by the values of listed ids, (n,) each, and the first id that is not listed, which is ignored."""
    order = np.argsort(listed)
    label, stranger = Label(np.empty(ids.shape, np.uint8), np.empty(ids.shape, np.uint16)), None
    # Row by row, because positions take eight bytes a pixel, several times.
    for y, row in enumerate(ids):
        place = order[np.minimum(np.searchsorted(listed, row, sorter=order), len(listed) - 1)]
        known = listed[place] == row
        label.semantic[y] = np.where(known, semantic[place], IGNORED)
        label.instance[y] = np.where(known, instance[place], 0)
        if stranger is None and not known.all():
            stranger = int(row[~known][0])
    return Label(label.semantic, layouts.numbered(label.instance)), stranger


def _undescribed(segment: int | None, path: Path, item: Item) -> Iterator[Fault]:
    if segment is not None:
        text = (
            f"{path} holds segment {segment}, which {item.document} does not describe. Describe it, or paint it black."
        )
        yield Fault("class", text)


def _segment_ids(path: Path, size: tuple[int, int], image_name: str) -> np.ndarray:
    """(H, W) int32 ids of a panoptic PNG: red + 256 green + 65536 blue."""
    content = images.file_content(path, "label")
    images.verified(content, str(path), "label")
    pixels = images.decoded(content, str(path), "label")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DataError("label", f"{path} is not an RGB image of 8 bits, which panoptic labels are. Export it again.")
    images.require_size(pixels, str(path), size, image_name)
    ids = pixels[..., 0].astype(np.int32)
    for channel in (1, 2):
        ids = (ids << 8) | pixels[..., channel]
    return ids


def _segments(item: Item) -> dict[int, Annotation]:
    """Segments of a panoptic annotation by their ids, in their order."""
    segments: dict[int, Annotation] = {}
    for entry in item.annotations if isinstance(item.annotations, list) else [item.annotations]:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or not 0 < entry["id"] < 1 << 24:
            text = f"describes the segment {shown(entry)}. Give it an id from 1 to {(1 << 24) - 1}."
            raise DataError("label", f"{item.document}: the annotation of {item.image} {text}")
        segment = Annotation(entry["id"], entry.get("category_id"), entry.get("iscrowd", 0))
        try:
            _check_segment(segment, segments, item.kinds)
        except _Wrong as error:
            raise DataError("label", f"{_named(item, [segment])} {error}. Mend it, or remove it.") from error
        segments[segment.id] = segment
    return segments


def _check_segment(segment: Annotation, others: Mapping[int, Annotation], kinds: Mapping[Any, Kind]) -> None:
    _kind(segment, kinds)
    if segment.id in others:
        raise _Wrong("is described twice")
    if len(others) >= OBJECTS:
        raise _Wrong(f"is one of more than {OBJECTS} segments in an image")
