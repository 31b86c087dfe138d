"""Pictures of maps: classes, confidence, superpixels, embeddings."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, UInt8

from jaxseg.types import IGNORED, ClassList
from jaxseg.visualize.colors import class_colors, looked_up
from jaxseg.visualize.text import drawable

HEAT = ((0, 0, 4), (65, 15, 110), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))
"""Colors of 0, 0.2 ... 1 in a heat map: darker is always less, in print too."""

EDGE = (255, 224, 32)
"""Color of the lines between superpixels."""


def paint(
    picture: UInt8[np.ndarray, "H W 3"], content: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]
) -> None:
    """Replaces the masked pixels, in place."""
    cv2.copyTo(content, mask.view(np.uint8), picture)


def hatched(picture: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Diagonal gray stripes over the masked pixels, whose image stays faintly visible."""
    height, width = mask.shape
    period = max(4, round(min(height, width) / 48))
    line = np.where(np.arange(height + width) % period < max(1, period // 3), np.uint8(176), np.uint8(104))
    stripes = np.lib.stride_tricks.sliding_window_view(line, width)[:height]
    gray = cv2.cvtColor(np.ascontiguousarray(stripes), cv2.COLOR_GRAY2RGB)
    result = picture.copy()
    paint(result, cv2.addWeighted(picture, 0.35, gray, 0.65, 0.0), mask)
    return result


def semantic_colors(
    semantic: UInt8[np.ndarray | Array, "H W"],
    image: UInt8[np.ndarray | Array, "H W 3"] | None = None,
    *,
    alpha: float = 0.6,
    classes: ClassList | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Every class in its color; ignored pixels are hatched gray.

    Args:
      semantic: class ids; 255 is ignored.
      image: what to lay the colors over; None shows them alone.
      alpha: their opacity over the image, in [0, 1].
      classes: whose colors; those of ``palette`` without it.
    """
    semantic = np.ascontiguousarray(semantic)
    table = class_colors(classes)
    table[IGNORED] = table[0]
    colors = looked_up(semantic, table)
    if image is not None:
        colors = cv2.addWeighted(np.ascontiguousarray(image), 1.0 - alpha, colors, alpha, 0.0)
    return hatched(colors, semantic == IGNORED)


def heatmap(
    confidence: Float[np.ndarray | Array, "H W"],
    image: UInt8[np.ndarray | Array, "H W 3"] | None = None,
    *,
    alpha: float = 0.7,
) -> UInt8[np.ndarray, "H W 3"]:
    """Confidence from nearly black (0) over red to pale yellow (1).

    Args:
      confidence: in [0, 1]; what lies outside, or is not finite, reads as the nearest bound or 0.
      image: what to lay the colors over; None shows them alone.
      alpha: their opacity over the image, in [0, 1].
    """
    value = np.clip(np.nan_to_num(np.asarray(confidence, np.float64), nan=0.0), 0.0, 1.0)
    stops = np.linspace(0.0, 1.0, len(HEAT))
    colors = np.stack([np.interp(value, stops, channel) for channel in np.array(HEAT, np.float64).T], axis=-1)
    if image is not None:
        colors = (1.0 - alpha) * np.asarray(image) + alpha * colors
    return np.rint(colors).astype(np.uint8)


def superpixel_edges(
    image: UInt8[np.ndarray | Array, "H W 3"],
    ids: Integer[np.ndarray | Array, "H W"],
    color: tuple[int, int, int] = EDGE,
) -> UInt8[np.ndarray, "H W 3"]:
    """The image with a line one pixel wide wherever the superpixel changes.

    Args:
      image: RGB.
      ids: superpixel of each pixel; any numbering.
      color: RGB of the line.
    """
    ids = np.asarray(ids)
    edges = np.zeros(ids.shape, bool)
    edges[:-1] = ids[1:] != ids[:-1]
    edges[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    return np.where(edges[..., None], np.array(color, np.uint8), np.asarray(image))


def embedding_colors(
    embedding: Float[np.ndarray | Array, "h w d"], objects: Integer[np.ndarray | Array, "h w"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Embeddings projected to RGB: elements that are near one another have colors that are.

    The colors' channels are the three directions along which the elements of objects differ most. Every object counts
    the same, whatever its size. Turning, moving or scaling the space of embeddings changes no color.

    Args:
      embedding: embedding of each element; what is not finite reads as 0.
      objects: 0, or the id of the object that owns the element. What is 0 is dimmed, and has no say in the choice of
        directions; None, or a map without objects, is a map that one object fills.

    References:
      Milioto et al., ICRA 2019, figure 3, whose projection is random.
    """
    values = np.asarray(embedding, np.float64)
    shape, values = values.shape[:2], np.nan_to_num(values, posinf=0.0, neginf=0.0).reshape(-1, values.shape[-1])
    ids = np.ones(len(values), np.int64) if objects is None else np.asarray(objects, np.int64).ravel()
    owned = ids > 0 if (ids > 0).any() else np.ones_like(ids, bool)
    _, object_, size = np.unique(ids[owned], return_inverse=True, return_counts=True)
    weights = 1.0 / size[object_] / len(size)
    directions, middle = _principal(values[owned], weights)
    projected = (values - middle) @ directions
    low, high = _quantiles(projected[owned], weights, (0.02, 0.98))
    # Directions of little extent are drawn so: noise in full color would read as a difference.
    extent = np.maximum(high - low, 0.3 * (high - low).max())
    scaled = np.clip(0.5 + (projected - (low + high) / 2) / np.where(extent > 0, extent, 1.0), 0.0, 1.0)
    colors = 40.0 + 215.0 * scaled
    colors[~owned] *= 0.35
    return np.rint(colors).astype(np.uint8).reshape(*shape, 3)


def _principal(
    values: Float[np.ndarray, "n d"], weights: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "d 3"], Float[np.ndarray, " d"]]:
    """Directions of the largest variance, those that are lacking 0, and the mean.

    The long tail of the values along a direction is its positive side.
    """
    mean = weights @ values
    centered = values - mean
    _, vectors = np.linalg.eigh((centered * weights[:, None]).T @ centered)
    directions = np.zeros((values.shape[1], 3))
    found = vectors[:, ::-1][:, :3]
    directions[:, : found.shape[1]] = found * np.where(weights @ (centered @ found) ** 3 < 0, -1.0, 1.0)
    return directions, mean


def _quantiles(
    values: Float[np.ndarray, "n c"], weights: Float[np.ndarray, " n"], shares: tuple[float, float]
) -> Float[np.ndarray, "2 c"]:
    """Of each column the smallest value up to which this share of the weights lies."""
    order = np.argsort(values, axis=0)
    reached = np.cumsum(weights[order], axis=0)
    first = [np.minimum((reached < share).sum(axis=0), len(values) - 1) for share in shares]
    return np.take_along_axis(values, np.take_along_axis(order, np.stack(first), axis=0), axis=0)


def marked(
    image: UInt8[np.ndarray | Array, "H W 3"], points: Float[np.ndarray | Array, "n 2"]
) -> UInt8[np.ndarray, "H W 3"]:
    """The image with a ring around each point.

    Args:
      image: RGB.
      points: (y, x), pixels.
    """
    picture = np.array(image, np.uint8)
    radius = max(3, round(min(picture.shape[:2]) / 60))
    for y, x in np.rint(np.asarray(points, np.float64) * 16).astype(int).tolist():
        # Four bits of the numbers are fractions of a pixel.
        cv2.circle(picture, (x, y), 16 * radius, (16, 16, 16), 3, cv2.LINE_AA, 4)
        cv2.circle(picture, (x, y), 16 * radius, (255, 255, 255), 1, cv2.LINE_AA, 4)
    return picture


def side_by_side(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], titles: Sequence[str] = (), *, gap: int = 8
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Images in a row on a dark ground, each under its title, aligned at the top.

    Args:
      images: RGB, at least one; sizes may differ.
      titles: none, or one an image.
      gap: pixels between images.

    Raises:
      ValueError: no image, or another number of titles than of images.
    """
    if not images or len(titles) not in (0, len(images)):
        raise ValueError(f"`titles` must be none or one an image: got {len(titles)} with {len(images)} images.")
    height = max(image.shape[0] for image in images)
    size = max(11, round(height / 32))
    bar = 2 * size if titles else 0
    starts = np.cumsum([0, *(image.shape[1] + gap for image in images)])
    canvas = np.full((bar + height, int(starts[-1]) - gap, 3), 24, np.uint8)
    for x, image in zip(starts[:-1], images, strict=True):
        canvas[bar : bar + image.shape[0], x : x + image.shape[1]] = image
    if not titles:
        return canvas
    picture, draw, font = drawable(canvas, size)
    for x, title in zip(starts[:-1], titles, strict=True):
        draw.text((int(x) + size // 2, bar // 2), title, fill=(240, 240, 240, 255), font=font, anchor="lm")
    return np.array(picture)
