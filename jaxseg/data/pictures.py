"""Images of one class each: ImageNet as it is published, or a folder for each class.

"imagenet" reads the official files where they lie, and unpacks nothing to disk: ILSVRC2012_img_train.tar, which holds a
tar of each class, ILSVRC2012_img_val.tar, and ILSVRC2012_devkit_t12.tar.gz, which has the classes of the latter. Class
ids are the places of the WordNet ids in their alphabetic order, as everywhere in the field; the ILSVRC2012_ID of the
ground truth is another number.

"folders" reads train/CLASS/ and val/CLASS/; or CLASS/ alone, of which a hash of each name puts about one image in ten
into val. Class ids are the places of the folders' names in their alphabetic order.
"""

import abc
import dataclasses
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.config import Pictures, UserError
from jaxseg.data import documents, images, layouts, prepare
from jaxseg.data.layouts import DataError

SPLITS = ("train", "val", "test")
FORMAT = 1
"""Raised whenever the same files would be prepared differently."""

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
INNER = ("data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat")
"""Files of the devkit."""


class Picture(NamedTuple):
    """One image of a known class.

    Attributes:
      image: (H, W, 3) uint8 RGB.
      label: class id, from 0 on.
      name: what the data set calls it; unique within its split.
    """

    image: np.ndarray
    label: int
    name: str


class Raw(NamedTuple):
    """One image as it is published.

    Attributes:
      name: unique within its split.
      label: class id.
      content: of its file.
      file: what messages call it.
    """

    name: str
    label: int
    content: bytes
    file: str


class Item(NamedTuple):
    """One image of a folder.

    Attributes:
      name: CLASS/stem.
      label: class id.
      path: its file.
    """

    name: str
    label: int
    path: Path


@dataclass(frozen=True)
class PictureLayout(abc.ABC):
    """What a data set holds, without its images.

    Attributes:
      title: what messages call it: its folder.
      classes: names of its classes.
    """

    title: str
    classes: tuple[str, ...]

    @property
    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""

    @abc.abstractmethod
    def stream(self, split: str) -> Iterator[Raw | DataError]:
        """Images of a split, in a fixed order; in place of one that has no content to read, what is wrong with it.

        Raises:
          UserError: the split cannot be read to its end.
        """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever a file is added, removed, renamed or rewritten, or the classes change."""


@dataclass(frozen=True)
class Folders(PictureLayout):
    """A folder for each class.

    Attributes:
      items: images of each split, in order of their classes' names and their own.
    """

    items: Mapping[str, Sequence[Item]]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.items)

    def stream(self, split: str) -> Iterator[Raw | DataError]:
        """Images of a split, in order of their classes' names and their own."""
        for item in self.items[split]:
            try:
                content = images.file_content(item.path, "unreadable")
            except DataError as error:
                yield error
            else:
                yield Raw(item.name, item.label, content, str(item.path))

    def fingerprint(self) -> str:
        """Changes with the files and the classes."""
        states = {split: layouts.file_states(item.path for item in items) for split, items in self.items.items()}
        names = {split: [item.name for item in items] for split, items in self.items.items()}
        return layouts.fingerprint(FORMAT, self.classes, names, states)


@dataclass(frozen=True)
class ImageNet(PictureLayout):
    """The official tars.

    Attributes:
      root: their folder.
      truth: class of each validation image, in order of their names; -1 where the class is left out.
    """

    root: Path
    truth: tuple[int, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return "train", "val"

    def stream(self, split: str) -> Iterator[Raw | DataError]:
        """Images of a split, as they lie in its tar."""
        path = self.root / (TRAIN if split == "train" else VAL)
        try:
            with tarfile.open(path, "r:") as tar:
                yield from self._train(tar, path) if split == "train" else self._val(tar, path)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(f"{path} cannot be read: {error}. It is damaged or cut short: get it again.") from error

    def _train(self, tar: tarfile.TarFile, path: Path) -> Iterator[Raw]:
        missing = dict.fromkeys(self.classes)
        place = {name: i for i, name in enumerate(self.classes)}
        for member in _members(tar):
            name = Path(member.name).stem
            if name not in place:
                continue
            with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                for image in _members(inner):
                    missing.pop(name, None)
                    file = f"{path}/{member.name}/{image.name}"
                    yield Raw(f"{name}/{Path(image.name).stem}", place[name], _content(inner, image), file)
        if missing:
            raise UserError(f"{path} holds no image of class {next(iter(missing))}. Get it again.")

    def _val(self, tar: tarfile.TarFile, path: Path) -> Iterator[Raw]:
        seen = set()
        for member in _members(tar):
            stem = Path(member.name).stem
            number = stem.rpartition("_")[2]
            if not number.isdecimal() or not 1 <= int(number) <= len(self.truth):
                raise UserError(f"{path} holds {member.name!a}, whose class {DEVKIT} does not tell. Get both again.")
            seen.add(int(number))
            label = self.truth[int(number) - 1]
            if label >= 0:
                yield Raw(stem, label, _content(tar, member), f"{path}/{member.name}")
        if len(seen) != len(self.truth):
            raise UserError(f"{path} holds {len(seen)} images, but {DEVKIT} knows {len(self.truth)}. Get both again.")

    def fingerprint(self) -> str:
        """Changes with the tars and the classes."""
        files = layouts.file_states(self.root / name for name in (TRAIN, VAL, DEVKIT))
        return layouts.fingerprint(FORMAT, self.classes, files)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Files of an uncompressed tar, up to its end mark: tarfile also takes damage and a lost rest for the end."""
    yield from (member for member in tar if member.isfile())
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no mark shows its end")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Content of a file in a tar."""
    if member.size > images.CONTENT:
        raise tarfile.ReadError(f"{member.name!a} holds over {images.CONTENT >> 20} MiB")
    file = tar.extractfile(member)
    content = file.read() if file else b""
    if len(content) != member.size:
        raise tarfile.ReadError(f"{member.name!a} ends early")
    return content


def layout(data: Pictures) -> PictureLayout:
    """Lists a data set, without opening its images.

    Args:
      data: settings; builder, root and classes are read.

    Raises:
      UserError: no such folder, a file or class is missing, or there is nothing to learn.
    """
    root = Path(data.root).expanduser()
    if not data.root or not root.is_dir():
        raise UserError(f"The data folder {data.root or '(none given)'} does not exist. Set --data.root.")
    return _imagenet(data, root) if data.builder == "imagenet" else _folders(data, root)


def _folders(data: Pictures, root: Path) -> Folders:
    splits = [split for split in SPLITS if (root / split).is_dir()]
    if "train" in splits:
        classes = _chosen(data, _class_folders(root / "train"), root)
        found = {split: _items(root / split, classes, bool(data.classes)) for split in splits}
        if splits == ["train"]:
            found = layouts.split_by_name(found["train"], str(root))
    else:
        classes = _chosen(data, _class_folders(root), root)
        found = layouts.split_by_name(_items(root, classes, True), str(root))
    shown = {item.label for item in found["train"]}
    for i, name in enumerate(classes):
        if i not in shown:
            raise UserError(f"No training image shows class {name} of {root}. Add some, or remove its folder.")
    return Folders(str(root), classes, found)


def _class_folders(root: Path) -> tuple[str, ...]:
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise UserError(f"{root} holds no folder of a class. Put the images of each class into a folder of its name.")
    odd = [name for name in names if not documents.printable(name)]
    if odd:
        raise UserError(f"{odd[0]!a} in {root} has a name that does not show on one line. Rename it.")
    return tuple(names)


def _chosen(data: Pictures, known: Sequence[str], title: Path) -> tuple[str, ...]:
    """The classes to learn, of those that there are."""
    missing = [name for name in data.classes if name not in known]
    if missing:
        raise UserError(f"{missing[0]!r} is no class of {title}. Remove it from --data.classes, or add its images.")
    classes = data.classes or tuple(known)
    if len(classes) < 2:
        raise UserError(f"{title} holds one class, {classes[0]}, so that there is nothing to learn. Add another.")
    return classes


def _items(root: Path, classes: Sequence[str], rest_is_left_out: bool) -> tuple[Item, ...]:
    """Images of a split, in order of their classes' names and their own."""
    place, found = {name: i for i, name in enumerate(classes)}, dict[str, Item]()
    for name in _class_folders(root):
        if name not in place:
            if rest_is_left_out:
                continue
            raise UserError(f"{root / name} is of a class that train has not. Add it there, or remove it.")
        for path in _images(root / name):
            item = Item(f"{name}/{path.stem}", place[name], path)
            if item.name in found:
                raise UserError(f"{path} and {found[item.name].path.name} have one name. Rename one of them.")
            found[item.name] = item
    if not found:
        kinds = ", ".join(suffix[1:] for suffix in images.SUFFIXES)
        raise UserError(f"{root} holds no image in the folders of its classes. Put {kinds} files there.")
    return tuple(found.values())


def _images(folder: Path) -> list[Path]:
    """Image files in order of their names."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in images.SUFFIXES and path.name[0] != "."]
    odd = next((path for path in found if not documents.printable(path.name)), None)
    if odd:
        raise UserError(f"{odd.name!a} in {folder} has a name that does not show on one line. Rename it.")
    return sorted(found, key=lambda path: (path.stem, path.name))


def _imagenet(data: Pictures, root: Path) -> ImageNet:
    for name in (TRAIN, VAL, DEVKIT):
        if not (root / name).is_file():
            raise UserError(f"{root / name} is missing. Put the official file there, as it was downloaded.")
    numbers, wordnet = _devkit(root / DEVKIT)
    known = sorted(wordnet.values())
    classes = _chosen(data, known, root)
    place = {name: i for i, name in enumerate(classes)}
    try:
        truth = tuple(place.get(wordnet[number], -1) for number in numbers)
    except KeyError as error:
        raise UserError(f"{root / DEVKIT} names no class {error} of its ground truth. Get it again.") from error
    return ImageNet(str(root), classes, root, truth)


def _devkit(path: Path) -> tuple[list[int], dict[int, str]]:
    """ILSVRC2012_ID of each validation image, and the WordNet id of each ILSVRC2012_ID."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError(f"Reading {path} needs SciPy. Install it: pip install scipy") from error
    try:
        with tarfile.open(path, "r:gz") as tar:
            found = {name: _content(tar, member) for member in tar for name in INNER if member.name.endswith(name)}
        if absent := [name for name in INNER if name not in found]:
            raise tarfile.ReadError(f"it lacks {absent[0]}")
        truth, synsets = (found[name] for name in INNER)
        rows = loadmat(io.BytesIO(synsets), squeeze_me=True, struct_as_record=False)["synsets"]
        leaves = [row for row in np.atleast_1d(rows) if not row.num_children]
        return [int(line) for line in truth.split()], {int(row.ILSVRC2012_ID): str(row.WNID) for row in leaves}
    except Exception as error:  # Three formats within one another raise whatever they run into.
        raise UserError(f"{path} cannot be read: {str(error) or type(error).__name__}. Get it again.") from error


def resolve(data: Pictures) -> tuple[Pictures, PictureLayout]:
    """Lists a data set, and puts its classes into the settings.

    Args:
      data: settings.

    Returns:
      The same with classes as they are, and the listing.

    Raises:
      UserError: the data set cannot be listed.
    """
    try:
        found = layout(data)
    except OSError as error:
        raise UserError(f"{error.filename or data.root}: {error.strerror or error}. Check --data.root.") from error
    return dataclasses.replace(data, classes=found.classes), found


class Prepared:
    """Prepared pictures of one split by index. It can be pickled."""

    def __init__(self, stored: prepare.Stored) -> None:
        """Wraps what is stored of one split."""
        self._stored = stored

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index: int, /) -> Picture:
        stored = self._stored[index]
        return Picture(stored["image"], int(stored["label"]), stored["name"].decode())


@dataclass(frozen=True)
class PictureDataset:
    """A prepared data set.

    Attributes:
      title: what messages call it.
      classes: names of its classes.
      builder: of TFDS.
    """

    title: str
    classes: tuple[str, ...]
    builder: Any

    def split(self, name: str) -> Prepared:
        """Images of one split.

        Raises:
          UserError: the data set has no such split.
        """
        return Prepared(prepare.stored(self.builder, name, self.title))


def dataset(data: Pictures, layout: PictureLayout | None = None) -> PictureDataset:
    """Opens a data set; prepares it if it is new or has changed, as `prepare.dataset` does.

    What is prepared takes as much room as the images themselves. An interrupted preparation starts again.

    Args:
      data: settings.
      layout: their listing, where it is at hand.

    Returns:
      The data set.

    Raises:
      UserError: the data set cannot be read, or the cache cannot be written.
    """
    from jaxseg.data import builders

    found = layout or resolve(data)[1]
    content = prepare.content_of(str(Path(found.title).resolve()), found.fingerprint())
    name = "-".join((content, *sorted(set(data.accept))))
    settings = builders.Streamed(name=name, layout=found, accept=data.accept, progress=prepare.progress)

    def make() -> Any:
        return builders.Pictures(config=settings, data_dir=prepare.cache(data), file_format="array_record")

    return PictureDataset(found.title, found.classes, prepare.opened(make, data, kept=("classes",)))
