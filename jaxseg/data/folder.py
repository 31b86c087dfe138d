"""A folder of images with instance maps.

The folder holds ``SPLIT/images/NAME.{png,jpg,jpeg,bmp,tif,tiff}`` and ``SPLIT/instances/NAME.png`` for the splits
train, val and, if you like, test. Without split folders, ``images`` and ``instances`` lie at the root, and a hash of
each name puts about one image in ten into val. A pixel of an instance map is class * divisor + n, 0 is background; any
mix of image sizes will do.

``classes.json`` at the root may list the classes, from id 1 on: names, or objects with ``name`` and, where they apply,
``isthing`` (0 for a class without instances) and ``color`` (red, green, blue), as COCO's categories are written.
Without it `Data.classes` is that list.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseg.config import Data, UserError
from jaxseg.data import Label, documents, images, layouts
from jaxseg.data.layouts import Fault, Labelled
from jaxseg.types import IGNORED, ClassList

SPLITS = ("train", "val", "test")
CLASSES = "classes.json"
FORMAT = 4
"""Raised whenever the same files would be prepared differently."""


@dataclass(frozen=True)
class Coding:
    """What the pixels of instance maps mean.

    Attributes:
      ids: class that each class of the map is learnt as, from 1 on; 0 where it is background.
      things: whether each of them has instances.
      divisor: pixel = class * divisor + n.
      zero_is_instance: whether n = 0 is an object.
      ignored: pixel values that are ignored.
    """

    ids: tuple[int, ...]
    things: tuple[bool, ...]
    divisor: int
    zero_is_instance: bool
    ignored: tuple[int, ...]


class Pair(NamedTuple):
    """An image and its label.

    Attributes:
      name: file name of the image without its suffix.
      image: file.
      label: file.
    """

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Layout(layouts.Layout):
    """What a folder holds.

    Attributes:
      coding: meaning of the pixels.
    """

    splits: Mapping[str, tuple[Pair, ...]]
    coding: Coding

    def fingerprint(self) -> str:
        """Changes whenever a file is added, removed, renamed or rewritten, or a setting means something else."""
        files = {
            split: layouts.file_states(p for pair in pairs for p in pair[1:]) for split, pairs in self.splits.items()
        }
        return layouts.fingerprint(FORMAT, layouts.meaning(self.classes), self.coding, files)

    def read(self, item: Pair) -> Labelled:
        """Opens one pair.

        Raises:
          DataError: an unreadable or truncated file, or sizes that differ.
        """
        content, pixels = images.image(images.file_content(item.image, "unreadable"), str(item.image))
        raw = images.label_map(images.file_content(item.label, "label"), str(item.label))
        images.require_size(raw, str(item.label), pixels.shape[:2], item.image.name)
        label, faults = decode(raw, self.coding, item.label)
        return Labelled(content, images.digest(pixels), *layouts.both(label, self.classes), faults)


def layout(data: Data) -> Layout:
    """Lists a folder, without opening its images.

    Args:
      data: settings; root, classes, stuff, colors and folder are read.

    Returns:
      The splits that it holds.

    Raises:
      UserError: no such folder, no images, no class list, or two images of one name.
    """
    root = Path(data.root).expanduser()
    if not data.root or not root.is_dir():
        raise UserError(f"The data folder {data.root or '(none given)'} does not exist. Set --data.root.")
    faults: list[Fault] = []
    found = {split: _pairs(root / split, faults) for split in SPLITS if (root / split / "images").is_dir()}
    if not found:
        if not (root / "images").is_dir():
            raise UserError(
                f"{root} has neither train/images nor images. Put the images there, and labels in instances beside."
            )
        found = layouts.split_by_name(_pairs(root, faults), str(root))
    known, classes = _classes(data, root)
    place = {name: i for i, name in enumerate(classes.names)}
    coding = Coding(
        ids=tuple(place.get(name, 0) for name in known.names[1:]),
        things=tuple(place.get(name, 0) in classes.things for name in known.names[1:]),
        **dataclasses.asdict(data.folder),
    )
    return Layout(str(root), classes, found, coding, faults=tuple(faults))


def _classes(data: Data, root: Path) -> tuple[ClassList, ClassList]:
    """Every class of the maps in the order of their ids, and those that are learnt."""
    listed = root / CLASSES
    if listed.is_file():
        known = documents.class_list(documents.load(listed), str(listed))
    elif data.classes:
        known = ClassList.of(data.classes, data.stuff)
    else:
        raise UserError(f"The classes of {root} have no names. Give them as --data.classes, or list them in {listed}.")
    return known, layouts.choose(data, known, known.names[1:])


def _pairs(root: Path, faults: list[Fault]) -> tuple[Pair, ...]:
    suffixes = images.SUFFIXES
    found = [p for p in (root / "images").iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".")]
    if not found:
        raise UserError(f"{root / 'images'} holds no image. Put {', '.join(s[1:] for s in suffixes)} files there.")
    pairs: dict[str, Pair] = {}
    for image in sorted(found, key=lambda path: (path.stem, path.name)):
        if not documents.printable(image.stem):
            faults.append(layouts.strange_name(str(image)))
            continue
        if image.stem in pairs:
            raise UserError(f"{image} and {pairs[image.stem].image.name} share one label. Rename one of them.")
        pairs[image.stem] = Pair(image.stem, image, root / "instances" / f"{image.stem}.png")
    for name in sorted({path.stem for path in (root / "instances").glob("*.png")} - {path.stem for path in found}):
        faults.append(Fault("missing", f"{root / 'instances' / name}.png has no image. Add one, or remove the label."))
    for pair in list(pairs.values()):
        if not pair.label.is_file():
            text = f"{pair.image} has no label. Add {pair.label}, all 0 where the image shows no object."
            faults.append(Fault("missing", text))
            del pairs[pair.name]
    return tuple(pairs.values())


def decode(raw: np.ndarray, coding: Coding, path: Path) -> tuple[Label, tuple[Fault, ...]]:
    """Label maps of an instance map.

    Args:
      raw: (H, W) uint8 or uint16, pixel = class * divisor + n, 0 background.
      coding: its meaning.
      path: named in faults.

    Returns:
      Class ids, and instance ids 1..n in the order of the pixel values, with groups as evaluation knows them; a fault
      where a value's class is not in the list, whose pixels are ignored.
    """
    values = np.flatnonzero(np.bincount(raw.ravel(), minlength=2))
    class_id, n = values // coding.divisor, values % coding.divisor
    ignored = np.isin(values, coding.ignored)
    known = (class_id >= 1) & (class_id <= len(coding.ids)) & ~ignored
    strange = (values > 0) & ~known & ~ignored
    ids, things = np.array((0, *coding.ids), np.uint8), np.array((False, *coding.things))
    row = np.where(known, class_id, 0)
    group = things[row] & (n == 0) & (not coding.zero_is_instance)
    objects = things[row] & ~group
    semantic, instance = np.zeros(values[-1] + 1, np.uint8), np.zeros(values[-1] + 1, np.uint16)
    semantic[values] = np.where(ignored | strange, IGNORED, ids[row])
    instance[values[objects]] = np.arange(1, objects.sum() + 1)
    return Label(semantic[raw], instance[raw]), _strange(values[strange], coding, path)


def _strange(values: np.ndarray, coding: Coding, path: Path) -> tuple[Fault, ...]:
    if not values.size:
        return ()
    message = (
        f"{path} holds {values[0]}, which means class {values[0] // coding.divisor} of 1 to {len(coding.ids)} "
        f"(divisor {coding.divisor}). Mend the label, name the class in --data.classes, or list the value in "
        "--data.folder.ignored."
    )
    return (Fault("class", message),)
