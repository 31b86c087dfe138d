"""Pictures of maps and masks, for people. Host-side NumPy on one image; Pillow, for text, is imported when needed.

Every function returns a new uint8 RGB image (H, W, 3).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, UInt8

from jaxseg.types import IGNORED, ClassList, Instances

GOLDEN = 0.6180339887498949
"""Hues this far apart on the color circle never come close to repeating soon."""

TONES = ((0.90, 0.72), (0.60, 0.85), (0.85, 1.00), (0.50, 1.00))
"""Saturation and value that consecutive colors cycle through: the first nine are at least 50 apart in CIELAB."""

HEAT = ((0, 0, 4), (65, 15, 110), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))
"""Colors of 0, 0.2 ... 1 in a heat map: darker is always less, in print too."""

CROWDED = 40
"""With more objects than this, text would hide them."""

SMALL = 160
"""Images with a side below this many pixels get thin outlines and no text."""


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
    ids = np.arange(n)
    saturation, value = np.array(TONES)[ids % len(TONES)].T
    colors = _rgb(0.2 + GOLDEN * (ids - 1), saturation, value)
    colors[0] = 24
    return colors


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


def overlay(
    image: UInt8[np.ndarray | Array, "H W 3"],
    semantic: UInt8[np.ndarray | Array, "H W"],
    instance: Integer[np.ndarray | Array, "H W"],
    instances: Instances | None = None,
    classes: ClassList | None = None,
    *,
    alpha: float = 0.4,
    by_class: bool = False,
    labels: bool = True,
    ids: bool = False,
) -> UInt8[np.ndarray, "H W 3"]:
    """The image with each object in a color of its own, outlined and named; ignored pixels are hatched gray.

    Stuff is tinted in the color of its class. Neighbors get clearly different colors. Objects that a tracker has
    named keep the color of their track instead.

    Args:
      image: RGB.
      semantic: class ids; 255 is ignored.
      instance: 0, or the id of the object; contiguous or not.
      instances: the objects, row i for id i + 1; None for a ground truth, whose classes are read from ``semantic``.
      classes: names, colors, and which classes are stuff; without it there is no text, and no stuff.
      alpha: opacity of the fill, in [0, 1].
      by_class: one color a class (that of `class_colors`) in place of one an object.
      labels: whether to write class names and scores: only on objects they fit, never on more than 40 objects or on
        images under 160 pixels.
      ids: whether to write the id of each object behind its class.

    Raises:
      ValueError: the maps differ in shape from the image.
    """
    image, semantic, instance = np.asarray(image), np.asarray(semantic), np.asarray(instance)
    if not image.shape[:2] == semantic.shape == instance.shape:
        raise ValueError(
            f"`semantic` and `instance` must have the image's shape: got {semantic.shape} and {instance.shape} with "
            f"{image.shape[:2]}."
        )
    present, index = _contiguous(np.where(semantic == IGNORED, 0, instance))
    class_id = _classes(present, index, semantic, instances)
    colors = class_colors(classes)[class_id] if by_class else _object_colors(present, index, instances)
    picture = _filled(image, index, colors, alpha)
    if classes is not None and classes.stuff:
        stuff = (np.isin(semantic, classes.stuff) & (index == 0))[..., None]
        picture = np.where(stuff, semantic_colors(semantic, image, alpha=alpha, classes=classes), picture)
    picture = _hatched(picture, semantic == IGNORED)
    picture = _outlined(picture, index, colors, max(1, round(min(index.shape) / 300)))
    if not labels or classes is None or len(present) - 1 > CROWDED or min(index.shape) < SMALL:
        return picture
    texts = _texts(present, class_id, instances, classes.names)
    return _named(picture, index, [f"{t} #{i}" for t, i in zip(texts, present, strict=True)] if ids else texts)


def _contiguous(instance: Integer[np.ndarray, "H W"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, "H W"]]:
    """Ids that occur, 0 first, and the position of every pixel's id among them."""
    present = np.bincount(instance.ravel(), minlength=1) > 0
    present[0] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[instance]


def _classes(
    ids: Int[np.ndarray, " n"],
    index: Int[np.ndarray, "H W"],
    semantic: UInt8[np.ndarray, "H W"],
    instances: Instances | None,
) -> Int[np.ndarray, " n"]:
    """Class of each object: its row's, or the most frequent label of its pixels."""
    if instances is not None:
        return np.concatenate([[0], np.asarray(instances.class_id)])[ids].astype(np.int64)
    votes = np.bincount((index * 256 + semantic).ravel(), minlength=len(ids) * 256).reshape(len(ids), 256)
    votes[0] = 0
    return votes.argmax(axis=1)


def _object_colors(
    ids: Int[np.ndarray, " n"], index: Int[np.ndarray, "H W"], instances: Instances | None
) -> UInt8[np.ndarray, "n 3"]:
    """One color an object: its track's, or the first of the palette from its id on that no neighbor resembles."""
    tracks = None if instances is None else np.concatenate([[0], np.asarray(instances.track_id)])[ids]
    if tracks is not None and tracks.any():
        return palette(int(tracks.max()) + 1)[tracks]
    choices, shifts = palette(len(ids) + 24), np.arange(24)
    colors = choices[: len(ids)].copy()
    neighbors = _neighbors(index, len(ids))
    for i in range(1, len(ids)):
        near = colors[[j for j in neighbors[i] if j < i]].astype(np.float64)
        options = choices[i + shifts].astype(np.float64)
        far = np.abs(options[:, None] - near[None]).sum(axis=2).min(axis=1, initial=765.0)
        # The first that is far enough, or else the farthest.
        colors[i] = choices[i + int((far >= 240).argmax() if (far >= 240).any() else far.argmax())]
    return colors


def _neighbors(index: Int[np.ndarray, "H W"], count: int) -> list[set[int]]:
    """For each object the objects within a few pixels of it, along rows and columns."""
    reach = max(2, round(min(index.shape) / 60))
    near: list[set[int]] = [set() for _ in range(count)]
    for step in {1, reach // 2, reach} - {0}:
        for a, b in ((index[step:], index[:-step]), (index[:, step:], index[:, :-step])):
            pairs = np.unique(a.astype(np.int64)[a != b] * count + b[a != b])
            for i, j in zip(pairs // count, pairs % count, strict=True):
                near[i].add(int(j))
                near[j].add(int(i))
    return [others - {0} for others in near]


def _filled(
    image: UInt8[np.ndarray, "H W 3"], index: Int[np.ndarray, "H W"], colors: UInt8[np.ndarray, "n 3"], alpha: float
) -> UInt8[np.ndarray, "H W 3"]:
    """The image with every object tinted, and what is no object a little darker, so that colors stand out."""
    mixed = (1.0 - alpha) * image + alpha * colors[index]
    return np.rint(np.where(index[..., None] > 0, mixed, 0.85 * image)).astype(np.uint8)


def _hatched(picture: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Diagonal gray stripes over the masked pixels, whose image stays faintly visible."""
    height, width = mask.shape
    period = max(4, round(min(height, width) / 48))
    stripe = (np.arange(height)[:, None] + np.arange(width)[None, :]) % period < max(1, period // 3)
    gray = np.where(stripe, 176.0, 104.0)[..., None]
    return np.where(mask[..., None], np.rint(0.35 * picture + 0.65 * gray), picture).astype(np.uint8)


def _outlined(
    picture: UInt8[np.ndarray, "H W 3"], index: Int[np.ndarray, "H W"], colors: UInt8[np.ndarray, "n 3"], width: int
) -> UInt8[np.ndarray, "H W 3"]:
    """A light rim of its own color inside each object, and a dark line where it ends."""
    light = (0.45 * 255 + 0.55 * colors.astype(np.float64)).astype(np.uint8)
    around = _edges(index, width, both=True)
    picture = np.where((around & (index > 0))[..., None], light[index], picture)
    # The line lies outside the objects, where it costs them nothing, and on one side of the border where two touch.
    line = _edges(index, 1, both=True) & (index == 0) if min(index.shape) >= SMALL else np.zeros(index.shape, bool)
    touching = _edges(index, 1, both=False) & (index > 0) & (_shifted(index) > 0)
    return np.where((line | touching)[..., None], np.uint8(16), picture)


def _shifted(index: Int[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
    """Smaller of the ids below and to the right; the pixel's own beyond the border."""
    padded = np.pad(index, ((0, 1), (0, 1)), mode="edge")
    return np.minimum(padded[1:, :-1], padded[:-1, 1:])


def _edges(ids: Integer[np.ndarray, "H W"], width: int, *, both: bool) -> Bool[np.ndarray, "H W"]:
    """Pixels with another id at most ``width`` pixels on along a row or column; up and left as well if ``both``."""
    edges = np.zeros(ids.shape, bool)
    for step in range(1, width + 1):
        down, right = ids[step:] != ids[:-step], ids[:, step:] != ids[:, :-step]
        edges[:-step] |= down
        edges[:, :-step] |= right
        if both:
            edges[step:] |= down
            edges[:, step:] |= right
    return edges


def _texts(
    ids: Int[np.ndarray, " n"], class_id: Int[np.ndarray, " n"], instances: Instances | None, class_names: Sequence[str]
) -> list[str]:
    """Name of each object's class, with its score in percent where there is one."""
    names = [class_names[c] if c < len(class_names) else f"class {c}" for c in class_id]
    if instances is None:
        return names
    score = np.concatenate([[0.0], np.asarray(instances.score, np.float64)])[ids]
    return [f"{name} {100 * value:.0f}" for name, value in zip(names, score, strict=True)]


def _named(
    picture: UInt8[np.ndarray, "H W 3"], index: Int[np.ndarray, "H W"], texts: Sequence[str]
) -> UInt8[np.ndarray, "H W 3"]:
    """Each text on a dark plate in the middle of its object, left out where it is larger than the object's box."""
    image, draw, font = _canvas(picture, max(9, round(min(index.shape) / 36)))
    height, width = index.shape
    for i, (y0, x0, y1, x1) in _boxes(index, len(texts)):
        left, top, right, bottom = draw.textbbox((0, 0), texts[i], font=font)
        wide, high = right - left + 4, bottom - top + 4
        if wide > x1 - x0 or high > (y1 - y0) * 0.8 or wide > width:
            continue
        x = int(np.clip((x0 + x1 - wide) // 2, 0, width - wide))
        y = int(np.clip((y0 + y1 - high) // 2, 0, height - high))
        draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=(0, 0, 0, 150))
        draw.text((x + 2 - left, y + 2 - top), texts[i], fill=(255, 255, 255, 255), font=font)
    return np.array(image)


def _boxes(index: Int[np.ndarray, "H W"], count: int) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Half-open box (y0, x0, y1, x1) of each object, with its position; small objects last, to be drawn on top."""
    spans = []
    for axis in (0, 1):
        size = index.shape[axis]
        low, high = np.full(count, size), np.zeros(count, np.int64)
        # One pass over the distinct (line, object) pairs, however many objects there are.
        lines = np.broadcast_to(np.arange(size).reshape((-1, 1) if axis == 0 else (1, -1)), index.shape)
        pairs = np.flatnonzero(np.bincount((lines * count + index).ravel()))
        np.minimum.at(low, pairs % count, pairs // count)
        np.maximum.at(high, pairs % count, pairs // count + 1)
        spans.append((low, high))
    (y0, y1), (x0, x1) = spans
    order = np.argsort(-(y1 - y0) * (x1 - x0), kind="stable")
    return [(int(i), (int(y0[i]), int(x0[i]), int(y1[i]), int(x1[i]))) for i in order if i > 0 and y1[i] > y0[i]]


def _canvas(picture: UInt8[np.ndarray, "H W 3"], size: int) -> tuple[Any, Any, Any]:
    """A Pillow image, something to draw on it with, and a font of that many pixels."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    return image, ImageDraw.Draw(image, "RGBA"), ImageFont.load_default(size)


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
    semantic = np.asarray(semantic)
    colors = class_colors(classes)[np.where(semantic == IGNORED, 0, semantic)]
    if image is not None:
        colors = np.rint((1.0 - alpha) * np.asarray(image) + alpha * colors).astype(np.uint8)
    return _hatched(colors, semantic == IGNORED)


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
    color: tuple[int, int, int] = (255, 224, 32),
) -> UInt8[np.ndarray, "H W 3"]:
    """The image with a line one pixel wide wherever the superpixel changes.

    Args:
      image: RGB.
      ids: superpixel of each pixel; any numbering.
      color: RGB of the line.
    """
    edges = _edges(np.asarray(ids), 1, both=False)
    return np.where(edges[..., None], np.array(color, np.uint8), np.asarray(image))


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
    picture, draw, font = _canvas(canvas, size)
    for x, title in zip(starts[:-1], titles, strict=True):
        draw.text((int(x) + size // 2, bar // 2), title, fill=(240, 240, 240, 255), font=font, anchor="lm")
    return np.array(picture)
