"""Colors of ids: easy to tell apart, the same everywhere."""

import functools

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8, UInt16

from jaxseg.types import ClassList

GOLDEN = 0.6180339887498949
"""Hues this far apart on the color circle never come close to repeating soon."""

TONES = ((0.90, 0.72), (0.60, 0.85), (0.85, 1.00), (0.50, 1.00))
"""Saturation and value that consecutive colors cycle through: the first nine are at least 50 apart in CIELAB."""


def palette(n: int) -> UInt8[np.ndarray, "n 3"]:
    """Colors of n ids that are easy to tell apart; the first, for background or none, is nearly black.

    Args:
      n: number of colors, at least 1.

    Returns:
      RGB; the color of an id does not depend on n.

    Raises:
      ValueError: `n` is not positive.
    """
    if n < 1:
        raise ValueError(f"`n` must be at least 1: got {n}.")
    return colors_of(np.arange(n))


def colors_of(ids: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3"]:
    """The palette's colors of some ids."""
    saturation, value = np.array(TONES)[ids % len(TONES)].T
    colors = _rgb(0.2 + GOLDEN * (ids - 1), saturation, value)
    colors[ids == 0] = 24
    return colors


@functools.lru_cache(maxsize=8)
def plain_palette(n: int) -> list[tuple[int, ...]]:
    """The palette as plain numbers, which a loop over objects compares faster."""
    return [tuple(color) for color in palette(n).tolist()]


def class_colors(classes: ClassList | None = None) -> UInt8[np.ndarray, "256 3"]:
    """Color of every class id: the list's own, and those of the palette beyond it."""
    colors = palette(256)
    if classes is not None and classes.colors:
        colors[: len(classes.colors)] = classes.colors
    return colors


def _rgb(
    hue: Float[np.ndarray, "*n"], saturation: Float[np.ndarray, "*n"], value: Float[np.ndarray, "*n"]
) -> UInt8[np.ndarray, "*n 3"]:
    """HSV in turns and [0, 1] to RGB: each channel is the value less a trapezoid of the hue."""
    phase = (np.array([5.0, 3.0, 1.0]) + 6.0 * hue[..., None]) % 6.0
    trapezoid = np.clip(np.minimum(phase, 4.0 - phase), 0.0, 1.0)
    return np.rint(255.0 * value[..., None] * (1.0 - saturation[..., None] * trapezoid)).astype(np.uint8)


def looked_up(
    index: UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"], colors: UInt8[np.ndarray, "n 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """The color of every pixel's index. Four bytes a color are looked up as one number, ten times as fast as three."""
    table = np.zeros((len(colors), 4), np.uint8)
    table[:, :3] = colors
    packed = np.take(table.view(np.uint32)[:, 0], index, mode="clip")
    return cv2.cvtColor(packed.view(np.uint8).reshape(*index.shape, 4), cv2.COLOR_RGBA2RGB)
