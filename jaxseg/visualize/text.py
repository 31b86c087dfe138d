"""Text on pictures, by Pillow, which is imported when needed."""

import functools
from typing import Any

import numpy as np
from jaxtyping import UInt8


@functools.lru_cache(maxsize=1024)
def inked(text: str, size: int) -> UInt8[np.ndarray, "h w"]:
    """How much ink each pixel of a line of text has; all lines of one size are of one height."""
    from PIL import Image, ImageDraw

    font = font_of(size)
    _, top, _, bottom = font.getbbox("Hg", anchor="ls")
    image = Image.new("L", (max(1, round(font.getlength(text))), bottom - top))
    ImageDraw.Draw(image).text((0, -top), text, fill=255, font=font, anchor="ls")
    return np.array(image)


@functools.lru_cache(maxsize=16)
def font_of(size: int) -> Any:
    """Pillow's own font, that many pixels high."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def drawable(picture: UInt8[np.ndarray, "H W 3"], size: int) -> tuple[Any, Any, Any]:
    """A Pillow image, something to draw on it with, and a font of that many pixels."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    return image, ImageDraw.Draw(image, "RGBA"), font_of(size)
