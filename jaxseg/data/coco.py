"""COCO annotations with their images.

**Annotation files.** ``SPLIT`` is train, val or test. A file that ``data.coco`` names is taken; else the first of

- ``SPLIT/instances.json``, ``SPLIT/_annotations.coco.json``, ``SPLIT/annotations.json`` (``valid/`` will do for val),
- ``annotations/instances_SPLIT*.json``, ``instances_SPLIT*.json``, ``SPLIT.json``;
- for panoptic annotations ``SPLIT/panoptic.json``, ``annotations/panoptic_SPLIT*.json``, ``panoptic_SPLIT*.json``.

Without any of them a lone ``instances.json``, ``annotations.json``, ``_annotations.coco.json`` or
``annotations/instances_default.json`` (panoptic: ``panoptic.json``) at the root is split by a hash of image names, and
so is a file that ``data.coco.train`` names where there is none for val and test.

**Images** lie in the first of these folders that holds one of them: the annotation file's folder, ``images`` in it,
``images`` at the root, ``SPLIT``, ``NAME`` and ``images/NAME`` for a file called instances_NAME.json, and the root.
PNGs of panoptic annotations lie in the folder ``panoptic_NAME`` or ``panoptic`` beside their JSON, or in
``SPLIT/panoptic``. A path that leaves its folder is refused.

**Classes** are found by the names of categories: their ids may differ from file to file. Categories that are not learnt
are background, as if nobody had annotated them; without ``data.classes`` all are learnt, of instances those with
``isthing`` 0 excepted.

**Masks.** The polygons of an annotation are united; its parts need not touch and may have holes. A pixel that several
objects claim belongs to the one with the smallest mask, among equals to the first listed. Below the objects lie
instances of classes without instances, which leave their class alone, and below these crowds and annotations of no
known category, which are ignored. Pixels of panoptic id 0 are ignored.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from jaxseg.config import Coco, Data, UserError
from jaxseg.data import Label, documents, images, layouts
from jaxseg.data.documents import shown
from jaxseg.data.layouts import DataError, Fault, Labelled
from jaxseg.types import IGNORED, ClassList

SPLITS = ("train", "val", "test")
FORMAT = 1
"""Raised whenever the same files would be prepared differently."""

FILES = {
    "instances": (
        "{}/instances.json",
        "{}/_annotations.coco.json",
        "{}/annotations.json",
        "annotations/instances_{}*.json",
        "instances_{}*.json",
        "{}.json",
    ),
    "panoptic": ("{}/panoptic.json", "annotations/panoptic_{}*.json", "panoptic_{}*.json"),
}
LONE = {
    "instances": ("instances.json", "annotations.json", "_annotations.coco.json", "annotations/instances_default.json"),
    "panoptic": ("panoptic.json",),
}

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
    """

    name: str
    image: Path
    size: tuple[Any, Any]
    annotations: Any
    kinds: Mapping[Any, Kind]
    document: Path
    label: Path | None = None


class _Map(NamedTuple):
    """A panoptic annotation: where its PNG lies, and what is written about its segments."""

    path: PurePosixPath
    segments: Any


@dataclass(frozen=True)
class Layout(layouts.Layout):
    """What annotation files list.

    Attributes:
      settings: which annotations.
      states: of the annotation files, before they were read.
    """

    splits: Mapping[str, tuple[Item, ...]]
    settings: Coco
    states: tuple[str, ...]

    def fingerprint(self) -> str:
        """Changes whenever a file is added, removed, renamed or rewritten, or a setting means something else."""
        files = {
            split: layouts.file_states(path for item in items for path in (item.image, item.label) if path)
            for split, items in self.splits.items()
        }
        return layouts.fingerprint(FORMAT, self.classes, self.settings, self.states, files)

    def read(self, item: Item) -> Labelled:
        """Opens one image and draws its label; safe to call from several threads.

        Args:
          item: of one of the splits.

        Returns:
          The image with its label, (H, W) each.

        Raises:
          DataError: an unreadable or truncated file, a size that is not the written one, or a wrong annotation.
        """
        _check_claim(item)
        content, pixels = images.image(images.file_content(item.image, "unreadable"), str(item.image))
        size = (pixels.shape[0], pixels.shape[1])
        if item.size not in ((None, None), size):
            raise DataError(
                "size",
                f"{item.document} says that {item.image} is {item.size[0]} x {item.size[1]} (height x width), but it "
                f"is {size[0]} x {size[1]}. Make them equal.",
            )
        label, faults = draw(item, size) if item.label is None else panoptic(item, size)
        return Labelled(content, images.digest(pixels), label, faults=faults)


def layout(data: Data) -> Layout:
    """Lists COCO data, without opening its images.

    Args:
      data: settings; root, classes, stuff, colors and coco are read.

    Returns:
      The splits that there are annotations of.

    Raises:
      UserError: no such folder, no or several annotation files, a file of another form, or two images of one name.
    """
    root = Path(data.root).expanduser()
    if not data.root or not root.is_dir():
        raise UserError(f"The data folder {data.root or '(none given)'} does not exist. Set --data.root.")
    files = _files(data.coco, root)
    states = tuple(layouts.file_states([path]) for path in files.values())
    opened = {split: _Document.open(path) for split, path in files.items()}
    known = _known(opened.values())
    left_out = {"background"} | (
        {known.names[i] for i in known.stuff} if data.coco.annotations == "instances" else set()
    )
    classes = layouts.choose(data, known, [name for name in known.names[1:] if name not in left_out])
    faults: list[Fault] = []
    splits = {split: _items(document, root, split, classes, data.coco, faults) for split, document in opened.items()}
    if "" in splits:
        splits = layouts.split_by_name(splits[""], str(files[""]))
    return Layout(str(root), classes, splits, data.coco, states, faults=tuple(faults))


def _files(settings: Coco, root: Path) -> dict[str, Path]:
    """Annotation file of each split; of the split "" where one file is to be split."""
    found = {split: path for split in SPLITS if (path := _file(settings, root, split))}
    if found.keys() == {"train"} and settings.train:
        return {"": found["train"]}
    if found:
        return found
    patterns = LONE[settings.annotations]
    lone = [root / name for name in patterns if (root / name).is_file()]
    if not lone:
        raise UserError(
            f"{root} holds no {settings.annotations} annotations. Put them in {FILES[settings.annotations][0]} or "
            f"{patterns[0]}, or name the file with --data.coco.train.".replace("{}", "train")
        )
    return {"": _only(lone, "train")}


def _file(settings: Coco, root: Path, split: str) -> Path | None:
    given = getattr(settings, split)
    if given:
        if not os.path.isfile(root / given):
            raise UserError(f"{root / given} does not exist. Set --data.coco.{split} to a file, from {root}.")
        return root / given
    for pattern in FILES[settings.annotations]:
        folders = (split, "valid") if split == "val" and pattern.startswith("{}/") else (split,)
        matches = [path for folder in folders for path in root.glob(pattern.format(folder)) if path.is_file()]
        if matches:
            return _only(sorted(matches), split)
    return None


def _only(matches: Sequence[Path], split: str) -> Path:
    if len(matches) > 1:
        names = ", ".join(map(str, matches))
        raise UserError(f"Several files may hold the annotations: {names}. Choose one with --data.coco.{split}.")
    return matches[0]


def _identifies(value: Any) -> bool:
    """Whether it is an id; True would equal 1."""
    return type(value) in (int, str)


@dataclass(frozen=True)
class _Document:
    """An annotation file; its lists are known to be lists, and its categories to be what they should."""

    path: Path
    images: list[Any]
    annotations: list[Any]
    categories: Mapping[Any, dict[str, Any]]

    @classmethod
    def open(cls, path: Path) -> "_Document":
        content = documents.load(path)
        parts = [content.get(k) if isinstance(content, dict) else None for k in ("images", "annotations", "categories")]
        if not all(isinstance(part, list) for part in parts) or not parts[0]:
            raise UserError(f"{path} is no COCO file: it lacks a list of images, annotations or categories. Mend it.")
        return cls(path, parts[0], parts[1] or [], _categories(path, parts[2] or []))


def _categories(path: Path, entries: Sequence[Any]) -> dict[Any, dict[str, Any]]:
    """Categories by their ids, in their order."""
    of: dict[Any, dict[str, Any]] = {}
    names: set[str] = set()
    for place, entry in enumerate(entries):
        if not _is_category(entry):
            raise UserError(
                f"{path}: category number {place} is {shown(entry)}. Give it an id, a name, and if you like isthing "
                "(0 or 1) and color (red, green, blue)."
            )
        if entry["id"] in of or entry["name"] in names:
            raise UserError(f"{path} lists category {shown(entry['name'])} or its id twice. Merge or rename them.")
        of[entry["id"]] = entry
        names.add(entry["name"])
    return dict(sorted(of.items(), key=lambda pair: (isinstance(pair[0], str), pair[0])))


def _is_category(entry: Any) -> bool:
    if not isinstance(entry, dict) or not _identifies(entry.get("id")):
        return False
    name, thing, color = entry.get("name"), entry.get("isthing", 1), entry.get("color", [0, 0, 0])
    named = isinstance(name, str) and bool(name) and documents.printable(name)
    colored = isinstance(color, list) and len(color) == 3 and all(type(v) is int and 0 <= v <= 255 for v in color)
    return named and colored and type(thing) is int and thing in (0, 1)


def _known(opened: Iterable[_Document]) -> ClassList:
    """Every category, in the order of the first file's ids; later files append what they have beside."""
    entries: dict[str, dict[str, Any]] = {}
    for document in opened:
        for entry in document.categories.values():
            entries.setdefault(entry["name"], entry)
    stuff = tuple(name for name, entry in entries.items() if entry.get("isthing", 1) == 0)
    colors = [tuple(entry.get("color", ())) for entry in entries.values()]
    return ClassList.of(tuple(entries), stuff, tuple(colors) if all(colors) else ())  # type: ignore[arg-type]


def _items(
    document: _Document, root: Path, split: str, classes: ClassList, settings: Coco, faults: list[Fault]
) -> tuple[Item, ...]:
    """Items of an annotation file in order of their names; what is missing is appended to the faults."""
    place = {name: i for i, name in enumerate(classes.names[1:], 1)}
    of = {key: place.get(entry["name"], 0) for key, entry in document.categories.items()}
    kinds = {key: Kind(i, i in classes.things) for key, i in of.items()}
    entries = _images(document)
    groups = _groups(document, entries, settings.annotations, faults)
    folder = _image_folder(document, root, split, [entry["file_name"] for entry in entries.values()])
    items = [_item(entry, groups[key], folder, kinds, document.path) for key, entry in entries.items()]
    kept = [item for item in items if _is_there(item.image, document.path, faults)]
    return tuple(_with_labels(kept, root, split, faults) if settings.annotations == "panoptic" else kept)


def _item(entry: dict[str, Any], group: list[Any], folder: Path, kinds: Mapping[Any, Kind], document: Path) -> Item:
    name = PurePosixPath(entry["file_name"])
    size = (entry.get("height"), entry.get("width"))
    return Item(str(name.with_suffix("")), folder / name, size, tuple(group), kinds, document)


def _images(document: _Document) -> dict[Any, dict[str, Any]]:
    """Entries of images by their ids, in order of the images' names."""
    of: dict[Any, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for place, entry in enumerate(document.images):
        if not isinstance(entry, dict) or not _identifies(entry.get("id")):
            raise UserError(f"{document.path}: image number {place} is {shown(entry)}. Give it an id and a file_name.")
        path = _inside(entry.get("file_name"), document.path)
        name = str(path.with_suffix(""))
        if name in names or entry["id"] in of:
            other = names.get(name, f"another of id {shown(entry['id'])}")
            raise UserError(f"{document.path} lists {path} beside {other}. Give each image its own id and name.")
        of[entry["id"]], names[name] = entry, str(path)
    return dict(sorted(of.items(), key=lambda pair: str(PurePosixPath(pair[1]["file_name"]).with_suffix(""))))


def _inside(name: Any, document: Path) -> PurePosixPath:
    """A path that stays in its folder."""
    path = PurePosixPath(name) if isinstance(name, str) and len(name) < 1000 and documents.printable(name) else None
    if path is None or path.is_absolute() or not path.name or ".." in path.parts or "\\" in str(path):
        raise UserError(
            f"{document} names the file {shown(name)}. Write a path from the images' folder, with / and without .., "
            "that shows on one line."
        )
    return path


def _groups(document: _Document, entries: Mapping[Any, Any], form: str, faults: list[Fault]) -> dict[Any, list[Any]]:
    """Annotations of each image, in their order."""
    groups: dict[Any, list[Any]] = {key: [] for key in entries}
    strangers: list[Any] = []
    for place, entry in enumerate(document.annotations):
        annotation = _annotation(entry, form, place, document.path)
        key = entry.get("image_id")
        known = _identifies(key) and key in groups
        (groups[key] if known else strangers).append(annotation if known else key)
    if strangers:
        text = f"{document.path} holds {len(strangers)} annotations of images that it does not list, "
        faults.append(Fault("label", f"{text}the first of image id {shown(strangers[0])}. List them, or remove these."))
    return groups


def _annotation(entry: Any, form: str, place: int, document: Path) -> Any:
    if not isinstance(entry, dict):
        raise UserError(f"{document}: annotation number {place} is {shown(entry)}. Write an object.")
    found = "panoptic" if "segments_info" in entry else "instances"
    if found != form:
        raise UserError(
            f"{document}: annotation number {place} is of {found}, not {form}. Set --data.coco.annotations {found}, or "
            "export them again."
        )
    if form == "panoptic":
        return _Map(_inside(entry.get("file_name"), document), entry["segments_info"])
    return Annotation(entry.get("id"), entry.get("category_id"), entry.get("iscrowd", 0), entry.get("segmentation"))


def _image_folder(document: _Document, root: Path, split: str, names: Sequence[str]) -> Path:
    beside = document.path.parent
    candidates = [beside, beside / "images", root / "images"]
    candidates += [root / split] if split else []
    form, _, name = document.path.stem.partition("_")
    candidates += [root / name, root / "images" / name] if form in FILES and name else []
    folder = _folder([*candidates, root], names)
    if folder is None:
        raise UserError(
            f"None of the {len(names)} images that {document.path} lists is there, {shown(names[0])} for one. "
            f"Put them in {beside / 'images'}."
        )
    return folder


def _folder(candidates: Sequence[Path], names: Iterable[str | PurePosixPath]) -> Path | None:
    """The first of the folders that holds the first of the files that any of them holds."""
    return next((folder for name in names for folder in candidates if os.path.isfile(folder / name)), None)


def _is_there(path: Path, document: Path, faults: list[Fault]) -> bool:
    # Unlike Path.is_file it says no, too, to names longer than a file system allows.
    there = os.path.isfile(path)
    if not there:
        faults.append(Fault("missing", f"{path}, which {document} lists, is missing. Add it, or take it off the list."))
    return there


def _with_labels(items: Sequence[Item], root: Path, split: str, faults: list[Fault]) -> Iterator[Item]:
    """The items that have a panoptic label, with its segments in place of the annotations."""
    beside = items[0].document.parent
    candidates = [beside / items[0].document.stem, beside / "panoptic"] + ([root / split / "panoptic"] if split else [])
    folder = _folder(candidates, (part.path for item in items for part in item.annotations))
    if folder is None:
        raise UserError(f"{items[0].document} has no label PNGs. Put those that it lists in {candidates[0]}.")
    for item in items:
        if len(item.annotations) != 1:
            number = f"{len(item.annotations)} annotations" if item.annotations else "no annotation"
            text = f"{item.document} holds {number} of {item.image}. Write one."
            faults.append(Fault("label" if item.annotations else "missing", text))
        elif _is_there(folder / item.annotations[0].path, item.document, faults):
            path, segments = item.annotations[0]
            yield item._replace(annotations=segments, label=folder / path)


def _check_claim(item: Item) -> None:
    """Refuses a written size that no image has."""
    if item.size == (None, None):
        return
    if not all(type(side) is int and side >= 1 for side in item.size) or item.size[0] * item.size[1] > images.PIXELS:
        raise DataError(
            "size",
            f"{item.document} says that {item.image} has height {shown(item.size[0])} and width {shown(item.size[1])}. "
            f"Write its size in pixels, at most {images.PIXELS >> 20} million.",
        )


class _Wrong(Exception):
    """What is wrong with an annotation, as a phrase whose subject it is."""


def draw(item: Item, size: tuple[int, int]) -> tuple[Label, tuple[Fault, ...]]:
    """Label maps of an image's instances.

    Args:
      item: the image; its annotations are tried one after the other.
      size: (height, width) of its pixels.

    Returns:
      Class ids and instance ids, (H, W) each; faults where an annotation names no known category or has no mask.

    Raises:
      DataError: of kind "label", where an annotation cannot be drawn.
    """
    canvas, bare, strange = _Canvas(size), [], []
    for annotation in item.annotations:
        try:
            kind = _kind(annotation, item.kinds)
            if kind and not kind.class_id:
                continue
            if kind is None:
                strange.append(annotation)
            if not _has_mask(annotation.segmentation):
                bare.append(annotation)
                continue
            canvas.paint(_runs(annotation.segmentation, canvas), None if annotation.crowd else kind)
        except _Wrong as error:
            raise DataError("label", f"{_named(item, [annotation])} {error}. Mend it, or remove it.") from error
    return canvas.label(), (*_without_mask(item, bare), *_without_category(item, strange))


def _named(item: Item, annotations: Sequence[Annotation]) -> str:
    others = f" (and {len(annotations) - 1} more)" if len(annotations) > 1 else ""
    return f"{item.document}: annotation {shown(annotations[0].id)} of {item.image}{others}"


def _without_mask(item: Item, annotations: Sequence[Annotation]) -> Iterator[Fault]:
    if annotations:
        text = "has no segmentation, only a box. Draw its outline, or remove it."
        yield Fault("label", f"{_named(item, annotations)} {text}")


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
    return kinds.get(annotation.category) if _identifies(annotation.category) else None


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

    def paint(self, runs: np.ndarray, kind: Kind | None) -> None:
        """Draws a mask over what ranks below it.

        Args:
          runs: (n,) int64 lengths, of what is outside and inside by turns.
          kind: of its class; None to ignore its pixels.
        """
        starts, lengths = np.cumsum(runs)[: len(runs) // 2 * 2 : 2], runs[1::2]
        area = int(lengths.sum())
        self.afford(area)
        rank = 2 * LEVEL if kind is None else area + LEVEL * (not kind.thing)
        inside = np.arange(area, dtype=np.int32)
        inside += np.repeat((starts - np.cumsum(lengths) + lengths).astype(np.int32), lengths)
        inside = inside[self.rank[inside] > rank]
        self.rank[inside] = rank
        self.semantic[inside] = IGNORED if kind is None else kind.class_id
        self.instance[inside] = self._next() if kind and kind.thing else 0

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
    segments, ids = _segments(item), _segment_ids(path, size)
    kinds = {key: _kind(segment, item.kinds) for key, segment in segments.items()}
    ignored = Kind(IGNORED, False)
    values = [ignored, *(ignored if segments[key].crowd else kind or ignored for key, kind in kinds.items())]
    things = np.array([kind.thing for kind in values])
    columns = np.array([kind.class_id for kind in values], np.uint8), (np.cumsum(things) * things).astype(np.uint16)
    label, stranger = _looked_up(ids, np.array([0, *segments], np.int32), *columns)
    strange = [segments[key] for key, kind in kinds.items() if kind is None]
    return label, (*_undescribed(stranger, path, item), *_without_category(item, strange))


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
        yield Fault("label", text)


def _segment_ids(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) int32 ids of a panoptic PNG: red + 256 green + 65536 blue."""
    content = images.file_content(path, "label")
    images.verified(content, str(path), "label")
    pixels = images.decoded(content, str(path), "label")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DataError("label", f"{path} is not an RGB image of 8 bits, which panoptic labels are. Export it again.")
    if pixels.shape[:2] != size:
        raise DataError(
            "size",
            f"{path} is {pixels.shape[0]} x {pixels.shape[1]} (height x width), but its image is {size[0]} x "
            f"{size[1]}. Make them equal.",
        )
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
