"""What the method did with an image, side by side."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Array, Int, Integer, UInt8

from jaxseg.types import ClassList, Instances, Outputs, Segmentation
from jaxseg.visualize.colors import class_colors
from jaxseg.visualize.maps import EDGE, embedding_colors, heatmap, marked, semantic_colors, superpixel_edges
from jaxseg.visualize.objects import overlay
from jaxseg.visualize.text import inked

CELLS = 40
"""Superpixels along the longer side of the part that is shown enlarged."""


def views(
    image: UInt8[np.ndarray | Array, "H W 3"],
    found: Segmentation,
    outputs: Outputs,
    superpixels: Int[np.ndarray | Array, "H W"],
    classes: ClassList,
    *,
    side: int = 768,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """What the method did with an image, side by side: the paper's figures 3 to 5.

    The image; superpixels of a part, enlarged; classes; the centers' confidence, with the found centers marked;
    embeddings as RGB; objects. Of a network without centers, whose elements are squares, the second and fourth are left
    out.

    Args:
      image: RGB.
      found: the result, host arrays of the image's size.
      outputs: of the network, on the grid.
      superpixels: grid element (row * w + column) of each pixel.
      classes: names, colors, and which classes are stuff.
      side: pixels of the longer side of each view: smaller images are enlarged by whole factors up to it, larger ones
        are shrunk.
    """
    image, superpixels = np.ascontiguousarray(image), np.asarray(superpixels)
    whole = not np.isneginf(np.asarray(outputs.center)).all()
    shape = _shown(image.shape[:2], side)
    shown, semantic, instance, elements = (
        _resized(np.asarray(array), shape) for array in (image, found.semantic, found.instance, superpixels)
    )
    rows = found.instances
    window = _window(image.shape[:2], np.shape(outputs.center), rows)
    enlarged = image[window].shape != image.shape
    embeddings = embedding_colors(
        outputs.embedding, _owners(np.asarray(found.instance), superpixels, np.shape(outputs.center))
    )
    tiles = [
        _titled(_framed(shown, image.shape, window) if whole and enlarged else shown, "image"),
        _titled(semantic_colors(semantic, shown, classes=classes), "classes", _legend(semantic, classes)),
        _titled(embeddings.reshape(-1, 3)[elements], "embeddings as RGB"),
        _titled(overlay(shown, semantic, instance, rows, classes), f"objects: {np.sum(rows.valid)}"),
    ]
    if whole:
        part, cells = (_resized(array[window], shape) for array in (image, superpixels))
        confidence = (0.5 + 0.5 * np.tanh(np.asarray(outputs.center, np.float64) / 2.0)).ravel()[elements]
        heat = heatmap(confidence, shown, alpha=0.75)
        centers = (np.asarray(rows.center)[np.asarray(rows.valid)] + 0.5) * np.divide(shape, image.shape[:2]) - 0.5
        levels = [(f"{value:g}", heatmap(np.full((1, 1), value))[0, 0]) for value in (0.0, 0.5, 1.0)]
        tiles.insert(
            1, _titled(superpixel_edges(part, cells), "superpixels of the part" if enlarged else "superpixels")
        )
        tiles.insert(3, _titled(marked(heat, centers), "confidence of centers, found ones ringed", levels))
    return _stacked(tiles, len(tiles) // 2)


def _shown(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Size of an image of this one whose longer side is at most that; enlarged by whole factors only."""
    longest = max(shape)
    scale = side // longest if longest <= side else side / longest
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _resized(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An image or a map at another size: the nearest pixel, or the mean of those that a shrunk image joins."""
    if array.ndim == 3 and array.shape[0] > shape[0]:
        return cv2.resize(array, shape[::-1], interpolation=cv2.INTER_AREA)
    y, x = (np.arange(n) * m // n for n, m in zip(shape, array.shape, strict=False))
    return array[y[:, None], x]


def _window(shape: tuple[int, ...], grid: tuple[int, ...], rows: Instances) -> tuple[slice, slice]:
    """A part of an image, of its aspect and some superpixels long, around an object that it shows as a whole."""
    share = min(1.0, CELLS / max(grid))
    extent = [max(1, round(n * share)) for n in shape]
    valid, area = np.asarray(rows.valid), np.asarray(rows.area)
    chosen = np.argmin(np.where(valid, np.abs(np.log(np.maximum(area, 1) * 4 / np.prod(extent))), np.inf))
    middle = np.asarray(rows.box)[chosen].reshape(2, 2).mean(axis=0) if valid.any() else np.divide(shape, 2)
    starts = [int(np.clip(m - e / 2, 0, n - e)) for m, e, n in zip(middle, extent, shape, strict=True)]
    y, x = (slice(start, start + e) for start, e in zip(starts, extent, strict=True))
    return y, x


def _framed(
    shown: UInt8[np.ndarray, "H W 3"], shape: tuple[int, ...], window: tuple[slice, slice]
) -> UInt8[np.ndarray, "H W 3"]:
    """A resized image of that shape, with a line around a part of it."""
    picture = shown.copy()
    (y0, x0), (y1, x1) = (
        [int(at * n / m) for at, n, m in zip(corner, shown.shape, shape, strict=False)]
        for corner in ([part.start for part in window], [part.stop for part in window])
    )
    cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), (16, 16, 16), 4)
    cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), EDGE, 2)
    return picture


def _owners(
    instance: Integer[np.ndarray, "H W"], superpixels: Int[np.ndarray, "H W"], grid: tuple[int, ...]
) -> Int[np.ndarray, "h w"]:
    """Object of each grid element: that of a pixel of its superpixel."""
    owners = np.zeros(grid, np.int64)
    owners.reshape(-1)[superpixels] = instance
    return owners


def _legend(semantic: UInt8[np.ndarray, "H W"], classes: ClassList) -> list[tuple[str, np.ndarray]]:
    """Names and colors of the classes of a map, the largest first."""
    counts = np.bincount(semantic.ravel(), minlength=256)
    ids = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i] and 0 < i < len(classes)]
    colors = class_colors(classes)
    return [(classes.names[i], colors[i]) for i in ids]


def _titled(
    picture: UInt8[np.ndarray, "H W 3"], title: str, legend: Sequence[tuple[str, np.ndarray]] = ()
) -> UInt8[np.ndarray, "_ W 3"]:
    """A picture under its title and as much of its legend as there is room for."""
    size = max(12, round(max(picture.shape) / 48))
    bar = np.full((2 * size, picture.shape[1], 3), 24, np.uint8)
    x = _write(bar, title, size, size // 2)
    for name, color in legend:
        if x + 2 * size + inked(name, size).shape[1] > bar.shape[1]:
            break
        bar[size // 2 : -(size // 2), x + size : x + 2 * size - 2] = color
        x = _write(bar, name, size, x + 2 * size + 2)
    return np.concatenate([bar, picture])


def _write(bar: UInt8[np.ndarray, "h w 3"], text: str, size: int, x: int) -> int:
    """Writes light text into the middle of a dark bar, from x on; where it ends."""
    ink = inked(text, size)[:, : bar.shape[1] - x]
    y = (bar.shape[0] - ink.shape[0]) // 2
    part = bar[y : y + ink.shape[0], x : x + ink.shape[1]]
    np.maximum(part, (ink * 0.94).astype(np.uint8)[..., None], out=part)
    return x + ink.shape[1]


def _stacked(tiles: Sequence[UInt8[np.ndarray, "h w 3"]], columns: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """Pictures of one size in rows, on a dark ground."""
    padded = [np.pad(tile, ((0, 8), (0, 8), (0, 0)), constant_values=24) for tile in tiles]
    rows = [np.concatenate(padded[i : i + columns], axis=1) for i in range(0, len(padded), columns)]
    return np.concatenate(rows)[:-8, :-8]
