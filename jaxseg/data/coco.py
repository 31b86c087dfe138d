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

How overlapping masks share pixels is said in `masks`.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from jaxseg.config import Coco, Data, UserError
from jaxseg.data import documents, images, layouts, masks
from jaxseg.data.documents import identifies, shown
from jaxseg.data.layouts import DataError, Fault, Labelled
from jaxseg.data.masks import Annotation, Item, Kind
from jaxseg.types import ClassList

SPLITS = ("train", "val", "test")
FORMAT = 3
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
        return layouts.fingerprint(FORMAT, layouts.meaning(self.classes), self.settings, self.states, files)

    def official_ids(self, split: str) -> tuple[dict[str, Any], dict[int, Any]]:
        """What the annotation file calls things.

        Args:
          split: "train", "val" or "test".

        Returns:
          The id of each image by its name, and of each category by its class id.
        """
        items = self.splits[split]
        kinds = items[0].kinds.items() if items else ()
        return {item.name: item.id for item in items}, {kind.class_id: key for key, kind in kinds if kind.class_id}

    def read(self, item: Item) -> Labelled:
        """Opens one image and draws its label; safe to call from several threads.

        Args:
          item: of one of the splits.

        Returns:
          The image with its label, (H, W) each; with groups for evaluation, where there are crowds.

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
        label, faults = masks.draw(item, size) if item.label is None else masks.panoptic(item, size)
        return Labelled(content, images.digest(pixels), *layouts.both(label, self.classes), faults)


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
    if not isinstance(entry, dict) or not identifies(entry.get("id")):
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
    return Item(str(name.with_suffix("")), folder / name, size, tuple(group), kinds, document, id=entry["id"])


def _images(document: _Document) -> dict[Any, dict[str, Any]]:
    """Entries of images by their ids, in order of the images' names."""
    of: dict[Any, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for place, entry in enumerate(document.images):
        if not isinstance(entry, dict) or not identifies(entry.get("id")):
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
        known = identifies(key) and key in groups
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
