"""Reading what a user names on the command line: images, folders, globs."""

import glob
from pathlib import Path

import numpy as np

from jaxseg import config

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def paths(text: str) -> list[Path]:
    """Image files that one input names, in order; a file that is missing is reported when it is read."""
    path = Path(text)
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    if any(c in text for c in "*?[") and not path.is_file():
        return [Path(p) for p in sorted(glob.glob(text, recursive=True)) if Path(p).is_file()]
    return [path]


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 RGB (H, W, 3); gray, palette, RGBA and 16-bit files are converted.

    Raises:
      UserError: no such file, or one that cannot be decoded completely.
    """
    from PIL import Image, ImageOps

    if not path.is_file():
        raise config.UserError(f"{path} does not exist. Check the path.")
    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):
                image = Image.fromarray(np.clip((np.asarray(image, np.int64) + 128) // 257, 0, 255).astype(np.uint8))
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise config.UserError(f"{path} cannot be read as an image: {error}. Replace or remove it.") from error
