"""Reads and checks a folder of images with instance maps.

The folder holds ``SPLIT/images/NAME.{png,jpg,jpeg,bmp,tif,tiff}`` and ``SPLIT/instances/NAME.png`` for the splits
train, val and, if you like, test. Without split folders, ``images`` and ``instances`` lie at the root, and a hash of
each name puts about one image in ten into val. A pixel of an instance map is class * divisor + n, 0 is background; any
mix of image sizes will do.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxseg.config import Data, UserError
from jaxseg.types import IGNORED

SPLITS = ("train", "val", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
KEPT_AS_THEY_ARE = ("PNG", "JPEG")
FORMAT = 1
"""Raised whenever the same files would be prepared differently."""


@dataclass(frozen=True)
class Coding:
    """What the pixels of instance maps mean.

    Attributes:
      classes: names of the classes from id 1 on.
      divisor: pixel = class * divisor + n.
      zero_is_instance: whether n = 0 is an object.
      ignored: pixel values that are ignored.
    """

    classes: tuple[str, ...]
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
class Layout:
    """What a folder holds.

    Attributes:
      root: the folder.
      splits: pairs of each split, in order of their names.
      coding: meaning of the pixels.
    """

    root: Path
    splits: dict[str, tuple[Pair, ...]]
    coding: Coding

    def fingerprint(self) -> str:
        """Changes whenever a file is added, removed, renamed or rewritten, or a setting means something else."""
        digest = hashlib.sha256(repr((FORMAT, self.coding)).encode())
        for split, pairs in self.splits.items():
            for path in (path for pair in pairs for path in (pair.image, pair.label)):
                status = path.stat()
                state = (split, path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                digest.update(repr(state).encode())
        return digest.hexdigest()[:16]


class Label(NamedTuple):
    """Label maps of an image.

    Attributes:
      semantic: (H, W) uint8 class ids, 255 ignored.
      instance: (H, W) uint16, 1..n without gaps, 0 none.
    """

    semantic: np.ndarray
    instance: np.ndarray


def layout(data: Data) -> Layout:
    """Lists a folder, without opening its files.

    Args:
      data: settings; root, classes and folder are read.

    Returns:
      The splits that it holds.

    Raises:
      UserError: no such folder, no images, an image without a label, or two images of one name.
    """
    root = Path(data.root).expanduser()
    if not data.root or not root.is_dir():
        raise UserError(f"The data folder {data.root or '(none given)'} does not exist. Set --data.root.")
    found = {split: _pairs(root / split) for split in SPLITS if (root / split / "images").is_dir()}
    if not found:
        if not (root / "images").is_dir():
            raise UserError(
                f"{root} has neither train/images nor images. Put the images there, and labels in instances beside."
            )
        found = _split(root, _pairs(root))
    settings = data.folder
    coding = Coding(data.classes, settings.divisor, settings.zero_is_instance, tuple(settings.ignored))
    return Layout(root, found, coding)


def _pairs(root: Path) -> tuple[Pair, ...]:
    images = [p for p in (root / "images").iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    if not images:
        raise UserError(f"{root / 'images'} holds no image. Put {', '.join(s[1:] for s in SUFFIXES)} files there.")
    pairs: dict[str, Pair] = {}
    for image in sorted(images, key=lambda path: (path.stem, path.name)):
        pair = Pair(image.stem, image, root / "instances" / f"{image.stem}.png")
        if not pair.label.is_file():
            raise UserError(f"{image} has no label. Add {pair.label}, all 0 where the image shows no object.")
        if image.stem in pairs:
            raise UserError(f"{image} and {pairs[image.stem].image.name} share one label. Rename one of them.")
        pairs[image.stem] = pair
    return tuple(pairs.values())


def _split(root: Path, pairs: tuple[Pair, ...]) -> dict[str, tuple[Pair, ...]]:
    """By a hash of the name, so that adding images moves none; the smallest hash goes to val where that stays empty."""
    if len(pairs) < 2:
        raise UserError(
            f"{root} holds one image, which cannot be train and val. Add more, or make train and val folders."
        )
    order = {pair: int.from_bytes(hashlib.sha256(pair.name.encode()).digest()[:8]) / 2**64 for pair in pairs}
    ranked = sorted(order.values())
    threshold = min(max(0.1, ranked[0] * (1 + 1e-9)), ranked[-1])
    return {
        "train": tuple(p for p in pairs if order[p] >= threshold),
        "val": tuple(p for p in pairs if order[p] < threshold),
    }


def read(pair: Pair, coding: Coding) -> tuple[bytes, Label]:
    """File content of the image as it is to be stored, and its label maps.

    Args:
      pair: files.
      coding: meaning of the label's pixels.

    Returns:
      PNG or JPEG of 8 bits, gray or RGB, untouched where it is that already; the label.

    Raises:
      UserError: an unreadable or truncated file, sizes that differ, or a value that is no class.
    """
    content, size = _read_image(pair.image)
    raw = _read_label(pair.label)
    if raw.shape != size:
        raise UserError(
            f"{pair.label} is {raw.shape[0]} x {raw.shape[1]} (height x width), "
            f"but its image {pair.image.name} is {size[0]} x {size[1]}. Make them equal."
        )
    return content, decode(raw, coding, pair.label)


def check(data: Data) -> list[str]:
    """Reads every file of a folder and collects what is wrong with it.

    Args:
      data: settings.

    Returns:
      One line for each bad pair; empty if the folder can be trained on.

    Raises:
      UserError: the folder cannot even be listed.
    """
    found = layout(data)
    problems = []
    for pair in (pair for pairs in found.splits.values() for pair in pairs):
        try:
            read(pair, found.coding)
        except UserError as error:
            problems.append(str(error))
    return problems


def _verified(path: Path) -> tuple[bytes, str]:
    """Content and kind of an image file that decodes to its end."""
    try:
        content = path.read_bytes()
        # What Pillow warns of, it either survives or raises in the end; the user gets one line in that case.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            kind = image.format or ""
            # OpenCV fills what is missing of a truncated file with gray and says nothing.
            image.load()
    except UnidentifiedImageError:
        kind = ""
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read: {error}. Restore or remove it.") from error
    return content, kind


def _read_image(path: Path) -> tuple[bytes, tuple[int, int]]:
    content, kind = _verified(path)
    pixels = _imdecode(content, cv2.IMREAD_UNCHANGED, path)
    plain = pixels.dtype == np.uint8 and (pixels.ndim == 2 or pixels.shape[2] == 3)
    if plain and kind in KEPT_AS_THEY_ARE and b"Exif" not in content[:65536]:
        return content, pixels.shape[:2]
    if plain:
        # Turns the image the way its camera was held; unchanged pixels come back as they are.
        pixels = _imdecode(content, cv2.IMREAD_COLOR, path)
    return _png(_eight_bits(pixels, path)), pixels.shape[:2]


def _imdecode(content: bytes, flag: int, path: Path) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flag) if content else None
    if pixels is None:
        raise UserError(f"{path} is not an image that can be read. Restore it or remove it with its label.")
    return pixels


def _eight_bits(pixels: np.ndarray, path: Path) -> np.ndarray:
    """BGR or gray of 8 bits; an alpha channel is dropped, 16 bits are scaled by 1/257."""
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path} holds {pixels.dtype} values. Convert it to 8 or 16 bits a channel.")
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if pixels.shape[2] <= 2 else pixels[..., :3]
    return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes()


def _read_label(path: Path) -> np.ndarray:
    content, _ = _verified(path)
    raw = _imdecode(content, cv2.IMREAD_UNCHANGED, path)
    if raw.ndim != 2 or raw.dtype not in (np.uint8, np.uint16):
        channels = 1 if raw.ndim == 2 else raw.shape[2]
        raise UserError(
            f"{path} has {channels} channels of {raw.dtype}. Store one channel of 16 bits, class * divisor + n."
        )
    return raw


def decode(raw: np.ndarray, coding: Coding, path: Path) -> Label:
    """Label maps of an instance map.

    Args:
      raw: (H, W) uint8 or uint16, pixel = class * divisor + n, 0 background.
      coding: its meaning.
      path: named in errors.

    Returns:
      Class ids, and instance ids 1..n in the order of the pixel values.

    Raises:
      UserError: a value whose class is not in the list.
    """
    values = np.flatnonzero(np.bincount(raw.ravel(), minlength=2))
    ignored = np.isin(values, coding.ignored)
    class_ids = values // coding.divisor
    bad = values[(values > 0) & ~ignored & ((class_ids == 0) | (class_ids > len(coding.classes)))]
    if bad.size:
        raise UserError(
            f"{path} holds {bad[0]}, which means class {bad[0] // coding.divisor} of 1 to {len(coding.classes)} "
            f"(divisor {coding.divisor}). Mend the label, name the class in --data.classes, or list the value in "
            "--data.folder.ignored."
        )
    things = (values > 0) & ~ignored & (coding.zero_is_instance | (values % coding.divisor > 0))
    semantic, instance = np.zeros(values[-1] + 1, np.uint8), np.zeros(values[-1] + 1, np.uint16)
    semantic[values] = np.where(ignored, IGNORED, class_ids)
    instance[values[things]] = np.arange(1, things.sum() + 1)
    return Label(semantic[raw], instance[raw])
