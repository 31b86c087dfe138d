"""Cityscapes as it is published: folders, or the zips that hold them, which are read without being extracted.

The root holds ``leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png`` and ``gtFine/SPLIT/CITY/NAME_gtFine_instanceIds.png`` for
the splits train, val and test, or zips with such members: any ``leftImg8bit*.zip`` and ``gtFine*.zip``. Where a split's
folder and zips both hold images (or labels), the folder's are taken. The coarse annotations of ``train_extra``
(``gtCoarse``) are more training images, where they are asked for. Images may have any size; all are stored at one.

A pixel of a label is the id of a class, or id * 1000 + n for the n-th object of a class that has instances; a pixel of
such a class without n belongs to a group that nobody told apart: training ignores it, evaluation knows it.
"""

import functools
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np

from jaxseg.config import Data, Problem, UserError
from jaxseg.data import Label, documents, images, layouts
from jaxseg.data.layouts import DataError, Fault, Labelled
from jaxseg.types import IGNORED, ClassList

FORMAT = 3
"""Raised whenever the same files would be prepared differently."""

IMAGES = "leftImg8bit"
SOURCES = {
    "train": (("train", "gtFine"), ("train_extra", "gtCoarse")),
    "val": (("val", "gtFine"),),
    "test": (("test", "gtFine"),),
}
"""Folder of the images and kind of the labels of each split; the first is fine, others are coarse."""

WITHHELD = ("test",)
"""Splits whose labels nobody needs to have."""


class Row(NamedTuple):
    """One class of the official table.

    Attributes:
      id: in label files.
      name: official name.
      color: red, green and blue.
      thing: whether it has instances.
    """

    id: int
    name: str
    color: tuple[int, int, int]
    thing: bool = False


EVALUATED = (
    Row(7, "road", (128, 64, 128)),
    Row(8, "sidewalk", (244, 35, 232)),
    Row(11, "building", (70, 70, 70)),
    Row(12, "wall", (102, 102, 156)),
    Row(13, "fence", (190, 153, 153)),
    Row(17, "pole", (153, 153, 153)),
    Row(19, "traffic light", (250, 170, 30)),
    Row(20, "traffic sign", (220, 220, 0)),
    Row(21, "vegetation", (107, 142, 35)),
    Row(22, "terrain", (152, 251, 152)),
    Row(23, "sky", (70, 130, 180)),
    Row(24, "person", (220, 20, 60), thing=True),
    Row(25, "rider", (255, 0, 0), thing=True),
    Row(26, "car", (0, 0, 142), thing=True),
    Row(27, "truck", (0, 0, 70), thing=True),
    Row(28, "bus", (0, 60, 100), thing=True),
    Row(31, "train", (0, 80, 100), thing=True),
    Row(32, "motorcycle", (0, 0, 230), thing=True),
    Row(33, "bicycle", (119, 11, 32), thing=True),
)
"""The classes that the benchmark counts. All other ids up to `LAST`, and -1, are void."""

FOREIGN = (1 << 16) - 1
"""Instance id of what is void but an object."""

LAST = 33
DIVISOR = 1000
VALUES = 1 << 16


class File(NamedTuple):
    """A file, or a member of a zip.

    Attributes:
      path: the file, or the zip.
      member: name inside the zip; empty for a file.
    """

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @property
    def inner(self) -> PurePosixPath:
        """Its path, wherever it lies."""
        return PurePosixPath(self.member or self.path.as_posix())


class Item(NamedTuple):
    """An image and its label.

    Attributes:
      name: file name of the image without its ending.
      image: where the image is.
      label: where its label is; None where it is withheld.
    """

    name: str
    image: File
    label: File | None


class Tables(NamedTuple):
    """What each of the 65536 pixel values means.

    Attributes:
      semantic: (65536,) uint8 class ids, 255 ignored.
      instance: (65536,) uint16, the value itself where it names an object, otherwise 0.
      foreign: (65536,) bool, whether it names an object of a class that the benchmark does not count.
      strange: (65536,) bool, whether the official table has no such class.
    """

    semantic: np.ndarray
    instance: np.ndarray
    foreign: np.ndarray
    strange: np.ndarray


@dataclass(frozen=True)
class Layout(layouts.Layout):
    """What the folders or zips hold.

    Attributes:
      size: (height, width) that images and their training labels are stored at.
    """

    splits: Mapping[str, tuple[Item, ...]]
    size: tuple[int, int]

    def fingerprint(self) -> str:
        """Changes whenever a file is added, removed, renamed or rewritten, or a setting means something else."""
        items = [item for split in self.splits.values() for item in split]
        paths = dict.fromkeys(file.path for item in items for file in item[1:] if file)
        names = {
            split: [(name, image.member, label and label.member) for name, image, label in rows]
            for split, rows in self.splits.items()
        }
        return layouts.fingerprint(FORMAT, layouts.meaning(self.classes), self.size, names, layouts.file_states(paths))

    def read(self, item: Item) -> Labelled:
        """Opens one item.

        Args:
          item: of this layout.

        Returns:
          Image and label at the stored size, and the label at the published one, always. An object has the same
          instance id in both; the smallest may be missing from the smaller one.

        Raises:
          DataError: an unreadable, truncated or encrypted file, or sizes that differ.
          UserError: a zip that is gone or damaged as a whole.
        """
        content, pixels = images.image(_content(item.image, "unreadable"), str(item.image))
        size = (pixels.shape[0], pixels.shape[1])
        full, faults = self._label(item, size)
        if size != self.size:
            content = images.png(_resized(pixels, self.size))
        label = Label(
            *(
                cv2.resize(array, self.size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
                for array in layouts.ungrouped(full, self.classes)
            )
        )
        return Labelled(content, images.digest(pixels), label, full, faults)

    def _label(self, item: Item, size: tuple[int, int]) -> tuple[Label, tuple[Fault, ...]]:
        """The label at its published size, which must be the image's; all ignored where it is withheld."""
        if item.label is None:
            return Label(np.full(size, IGNORED, np.uint8), np.zeros(size, np.uint16)), ()
        raw = images.label_map(_content(item.label, "label"), str(item.label))
        images.require_size(raw, str(item.label), size, item.image.inner.name)
        return decode(raw, self.classes, str(item.label))


def layout(data: Data) -> Layout:
    """Lists Cityscapes, without opening its images.

    Args:
      data: settings; root, classes, stuff, colors and cityscapes are read.

    Returns:
      The splits that it holds.

    Raises:
      UserError: no such folder, no images, two images of one name, or a zip that is damaged or hostile.
    """
    root = Path(data.root).expanduser()
    if not data.root or not root.is_dir():
        raise UserError(f"The data folder {data.root or '(none given)'} does not exist. Set --data.root.")
    classes = _classes(data)
    faults: list[Fault] = []
    listed = {split: _items(root, split, data.cityscapes.coarse, faults) for split in SOURCES}
    splits = {split: items for split, items in listed.items() if items is not None}
    if not splits:
        raise UserError(
            f"{root} holds no image of Cityscapes. Put leftImg8bit and gtFine there, as folders (SPLIT/CITY/"
            "NAME_leftImg8bit.png) or as the zips that are published (leftImg8bit_trainvaltest.zip)."
        )
    return Layout(str(root), classes, splits, data.cityscapes.size, faults=tuple(faults))


def decode(raw: np.ndarray, classes: ClassList, name: str) -> tuple[Label, tuple[Fault, ...]]:
    """Label maps of an instance map.

    Args:
      raw: (H, W) uint8 or uint16, pixel = id, or id * 1000 + n.
      classes: what to read it as; other evaluated classes are background.
      name: of the file, for messages.

    Returns:
      Class ids and instance ids 1..n in the order of the pixel values, (H, W) uint8 and uint16, with groups as
      evaluation knows them; a fault where a value's class is not in the official table, whose pixels are ignored.
    """
    tables = _tables(classes)
    instance = layouts.numbered(tables.instance[raw])
    instance[tables.foreign[raw]] = FOREIGN
    label = Label(tables.semantic[raw], instance)
    strange = np.flatnonzero((np.bincount(raw.ravel(), minlength=VALUES) > 0) & tables.strange)
    if not strange.size:
        return label, ()
    value = int(strange[0])
    message = (
        f"{name} holds {value}, which means class {value // DIVISOR if value >= DIVISOR else value} of 0 to {LAST}. "
        "Mend the label: a pixel is an id of Cityscapes' own, or id * 1000 + n."
    )
    return label, (Fault("class", message),)


@functools.lru_cache(maxsize=4)
def _tables(classes: ClassList) -> Tables:
    values = np.arange(VALUES)
    # Void id -1 and its objects -1000 + n are negative, which 16 bits wrap around.
    negative = values >= VALUES - DIVISOR
    alone = values < DIVISOR
    ids = np.where(alone, values, values // DIVISOR)
    semantic, instance = np.full(VALUES, IGNORED, np.uint8), np.zeros(VALUES, np.uint16)
    for row in EVALUATED:
        class_id = classes.names.index(row.name) if row.name in classes.names else 0
        thing, here = class_id in classes.things, ids == row.id
        semantic[here] = class_id
        instance[here & ~alone & thing] = values[here & ~alone & thing]
    foreign = ~alone & ~np.isin(ids, [row.id for row in EVALUATED]) & (ids <= LAST)
    return Tables(semantic, instance, foreign, (ids > LAST) & ~negative)


def _classes(data: Data) -> ClassList:
    known = ClassList.of(
        tuple(row.name for row in EVALUATED),
        tuple(row.name for row in EVALUATED if not row.thing),
        tuple(row.color for row in EVALUATED),
    )
    return layouts.choose(data, known, [row.name for row in EVALUATED if row.thing])


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each axis by the method that suits it: area means where it shrinks, then bilinear where it grows."""
    small = (min(pixels.shape[1], size[1]), min(pixels.shape[0], size[0]))
    pixels = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)


def _items(root: Path, split: str, coarse: bool, faults: list[Fault]) -> tuple[Item, ...] | None:
    """Items of a split in the order of their names; None where it has no image."""
    found: dict[str, File] = {}
    items: list[Item] = []
    for folder, kind in SOURCES[split][: 1 + coarse]:
        pictures = _files(root, IMAGES, folder, f"_{IMAGES}", images.SUFFIXES)
        if folder == "train_extra" and not pictures:
            raise UserError(
                f"{root} holds no leftImg8bit/train_extra, which --data.cityscapes.coarse asks for. "
                "Put leftImg8bit_trainextra.zip and gtCoarse.zip there."
            )
        _unique(found, pictures)
        labels = _files(root, kind, folder, f"_{kind}_instanceIds", (".png",)) if pictures else {}
        items += _paired(pictures, labels, folder, kind, faults)
    return tuple(sorted(items)) if found else None


def _unique(found: dict[str, File], more: Mapping[str, File]) -> None:
    """Adds files to those that were found.

    Raises:
      UserError: two of one name.
    """
    for name, file in more.items():
        if name in found:
            raise UserError(f"{file} and {found[name]} share one name. Rename or remove one of them.")
        found[name] = file


def _paired(
    pictures: Mapping[str, File], labels: Mapping[str, File], folder: str, kind: str, faults: list[Fault]
) -> Iterator[Item]:
    for name in sorted(set(labels) - set(pictures)):
        faults.append(Fault("missing", f"{labels[name]} has no image. Add one, or remove the label."))
    for name, image in pictures.items():
        if not documents.printable(name):
            faults.append(layouts.strange_name(str(image)))
        elif name in labels or folder in WITHHELD:
            yield Item(name, image, labels.get(name))
        else:
            wanted = f"{kind}/{folder}/{image.inner.parent.name}/{name}_{kind}_instanceIds.png"
            text = f"{image} has no label. Add {wanted} where the other labels are, or remove the image."
            faults.append(Fault("missing", text))


def _files(root: Path, top: str, split: str, ending: str, suffixes: tuple[str, ...]) -> dict[str, File]:
    """Name to file, of the files ``TOP/SPLIT/CITY/NAMEending.suffix``: those of the folder, or else of the zips.

    Raises:
      UserError: two of one name, or a zip that is damaged or hostile.
    """
    found: dict[str, File] = {}
    for path in sorted((root / top / split).glob("*/*")):
        _unique(found, _named(File(path), ending, suffixes))
    if not found:
        for path in sorted(root.glob(f"{top}*.zip")):
            for info in _archive(path).infolist():
                if PurePosixPath(info.filename).parts[:-2] == (top, split) and not info.is_dir():
                    _unique(found, _named(File(path, info.filename), ending, suffixes))
    return found


def _named(file: File, ending: str, suffixes: tuple[str, ...]) -> dict[str, File]:
    """The file by its name, if it has the ending."""
    inner = file.inner
    fits = inner.stem.endswith(ending) and inner.suffix.lower() in suffixes and not inner.name.startswith(".")
    return {inner.stem.removesuffix(ending): file} if fits else {}


def _archive(path: Path) -> zipfile.ZipFile:
    """A zip, open for reading from any thread.

    Raises:
      UserError: not a zip, or one with a member that would lie outside of it.
    """
    try:
        return _opened(path, layouts.file_states([path]), os.getpid())
    except UserError:
        raise
    except Exception as error:  # zipfile raises whatever its arithmetic runs into.
        raise UserError(f"{path} is not a zip that can be read: {_reason(error)}. Download it again.") from error


@functools.lru_cache(maxsize=16)
def _opened(path: Path, state: str, process: int) -> zipfile.ZipFile:
    """A zip, opened once in each state of its file, and in each process: forked ones would share a file position."""
    archive = zipfile.ZipFile(path)
    try:
        for info in archive.infolist():
            _check_member(path, info.orig_filename)
    except UserError:
        archive.close()
        raise
    return archive


def _check_member(path: Path, name: str) -> None:
    """Nothing is extracted; but a zip with such names was made to harm, or is not what it seems.

    Raises:
      UserError: the name leads out of the zip or means different files on different machines.
    """
    inside = not name.startswith("/") and ".." not in name.split("/")
    if not inside or "\\" in name or name[1:2] == ":" or not name.isprintable():
        shown = name if name.isprintable() else ascii(name)
        raise UserError(f"{path}:{shown} is no plain path inside the zip. Use the zip as it is published.")


def _content(file: File, kind: Problem) -> bytes:
    """Content of a file or member, if it is one and not too large.

    Raises:
      DataError: it cannot be read.
      UserError: its zip cannot be read.
    """
    if not file.member:
        return images.file_content(file.path, kind)
    archive = _archive(file.path)
    try:
        info = archive.getinfo(file.member)
        _check_claim(info, file, kind)
        with archive.open(info) as stream:
            return stream.read(info.file_size)
    except DataError:
        raise
    except Exception as error:  # zipfile raises whatever its arithmetic runs into.
        raise DataError(kind, f"{file} cannot be read: {_reason(error)}. Download {file.path.name} again.") from error


def _check_claim(info: zipfile.ZipInfo, file: File, kind: Problem) -> None:
    """Refuses what cannot or need not be decompressed.

    Raises:
      DataError: too large, encrypted, or packed in an unusual way.
    """
    if info.file_size > images.CONTENT:
        raise DataError(
            kind, f"{file} claims over {images.CONTENT >> 20} MiB, no image holds that. Replace {file.path.name}."
        )
    if info.flag_bits & 1:
        raise DataError(kind, f"{file} is encrypted. Replace {file.path.name} by one without a password.")
    # What zipfile makes of other methods has no bound: a megabyte of bzip2 may become gigabytes.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            kind, f"{file} is packed by method {info.compress_type}. Replace {file.path.name} by one that uses deflate."
        )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
