"""Pictures of maps and masks, for people. NumPy and OpenCV, on the host; Pillow, for text, is imported when needed.

Every function takes one image and returns a new uint8 RGB image (H, W, 3).
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, UInt8, UInt16

from jaxseg.types import IGNORED, ClassList, Instances, Outputs, Segmentation

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

STEP = 4
"""Pixels between the places that are tried for a text."""

TAKEN = 255
"""What a pixel under a text holds, where others are placed; objects that are named are fewer."""

BAR = 3
"""Width of the colored bar before a text, pixels."""


CELLS = 40
"""Superpixels along the longer side of the part that is shown enlarged."""

EDGE = (255, 224, 32)
"""Color of the lines between superpixels."""


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
    return _palette(np.arange(n))


def _palette(ids: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3"]:
    saturation, value = np.array(TONES)[ids % len(TONES)].T
    colors = _rgb(0.2 + GOLDEN * (ids - 1), saturation, value)
    colors[ids == 0] = 24
    return colors


@functools.lru_cache(maxsize=8)
def _choices(n: int) -> list[tuple[int, ...]]:
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
    named keep the color of their track instead, and "#" and its id are written behind their class.

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
      ids: whether to write the id of each object that has no track behind its class.

    Raises:
      ValueError: the maps differ in shape from the image.
    """
    image, semantic, instance = (np.ascontiguousarray(array) for array in (image, semantic, instance))
    if not image.shape[:2] == semantic.shape == instance.shape:
        raise ValueError(
            f"`semantic` and `instance` must have the image's shape: got {semantic.shape} and {instance.shape} with "
            f"{image.shape[:2]}."
        )
    ignored = semantic == IGNORED if semantic.max(initial=0) == IGNORED else None
    objects = _objects(instance if ignored is None else np.where(ignored, 0, instance))
    class_id = _classes(objects, semantic, instances)
    colors = class_colors(classes)[class_id] if by_class else _object_colors(objects, instances)
    picture = _filled(image, semantic, objects, colors, classes, alpha)
    if ignored is not None:
        picture = _hatched(picture, ignored)
    _outline(picture, objects.rank, colors)
    if labels and classes is not None and len(objects.ids) - 1 <= CROWDED and min(instance.shape) >= SMALL:
        _name(picture, objects, colors, _texts(objects.ids, class_id, instances, classes.names, ids))
    return picture


class _Objects(NamedTuple):
    """What an instance map holds.

    Attributes:
      ids: those that occur, ascending, after 0.
      rank: position of every pixel's id among them.
      boxes: half-open box (y0, x0, y1, x1) around each.
    """

    ids: Int[np.ndarray, " n"]
    rank: UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]
    boxes: Int[np.ndarray, "n 4"]


def _objects(instance: Integer[np.ndarray, "H W"]) -> _Objects:
    """Finds the objects by the map's runs, stretches of one id in a row, which are far fewer than its pixels."""
    begins = np.ones(instance.shape, bool)
    np.not_equal(instance[:, 1:], instance[:, :-1], out=begins[:, 1:])
    runs = np.flatnonzero(begins)
    length, value = np.diff(runs, append=instance.size), instance.ravel()[runs]
    order = np.argsort(value, kind="stable")
    ordered = value[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    ids = ordered[first].astype(np.int64)
    y, x = np.divmod(runs[order], instance.shape[1])
    low = np.minimum.reduceat(np.stack([y, x]), first, axis=1)
    high = np.maximum.reduceat(np.stack([y + 1, x + length[order]]), first, axis=1)
    boxes = np.concatenate([low, high]).T
    if ids[0] != 0:
        ids, boxes = np.concatenate([[0], ids]), np.concatenate([np.zeros((1, 4), np.int64), boxes])
    rank = np.searchsorted(ids, value).astype(np.uint8 if len(ids) <= 256 else np.uint16)
    return _Objects(ids, np.repeat(rank, length).reshape(instance.shape), boxes)


def _classes(
    objects: _Objects, semantic: UInt8[np.ndarray, "H W"], instances: Instances | None
) -> Int[np.ndarray, " n"]:
    """Class of each object: its row's, or the most frequent label of its pixels."""
    if instances is not None:
        return np.concatenate([[0], np.asarray(instances.class_id)])[objects.ids].astype(np.int64)
    count = len(objects.ids)
    votes = np.bincount((objects.rank.astype(np.int64) * 256 + semantic).ravel(), minlength=count * 256)
    votes = votes.reshape(count, 256)
    votes[0] = 0
    return votes.argmax(axis=1)


def _object_colors(objects: _Objects, instances: Instances | None) -> UInt8[np.ndarray, "n 3"]:
    """One color an object: its track's, or the first of the palette from its id on that no neighbor resembles."""
    count, tracks = len(objects.ids), _tracks(objects.ids, instances)
    colors = _palette(tracks)
    if tracks[1:].all():
        return colors
    choices, neighbors = _choices(-(-(count + 24) // 256) * 256), _neighbors(objects.rank, count)
    chosen = [tuple(color) for color in colors.tolist()]
    for i in np.flatnonzero(tracks[1:] == 0) + 1:
        # Among more than these, no color could be far from all.
        rivals = [chosen[j] for j in neighbors[i] if j < i or tracks[j]][:16]
        chosen[i] = _unlike(choices[i : i + 24], rivals)
    return np.array(chosen, np.uint8)


def _tracks(ids: Int[np.ndarray, " n"], instances: Instances | None) -> Int[np.ndarray, " n"]:
    """Track of each object, 0 where it has none."""
    if instances is None:
        return np.zeros_like(ids)
    return np.concatenate([[0], np.asarray(instances.track_id)])[ids].astype(np.int64)


def _unlike(options: Sequence[tuple[int, ...]], rivals: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The first color that is far enough from all rivals, or else the farthest."""

    def distance(option: tuple[int, ...]) -> int:
        return min((sum(abs(a - b) for a, b in zip(option, rival, strict=True)) for rival in rivals), default=765)

    return next((option for option in options if distance(option) >= 240), None) or max(options, key=distance)


def _neighbors(index: UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"], count: int) -> list[set[int]]:
    """For each object the objects within a few pixels of it, along rows and columns of a coarser map."""
    stride = max(1, round(min(index.shape) / 120))
    coarse = index[::stride, ::stride]
    found = []
    for step in (1, 2):
        for a, b in ((coarse[step:], coarse[:-step]), (coarse[:, step:], coarse[:, :-step])):
            differ = a != b
            found.append(a[differ].astype(np.int64) * count + b[differ])
    near: list[set[int]] = [set() for _ in range(count)]
    for pair in np.unique(np.concatenate(found)).tolist():
        i, j = divmod(pair, count)
        near[i].add(j)
        near[j].add(i)
    return [others - {0} for others in near]


def _colored(
    index: UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"], colors: UInt8[np.ndarray, "n 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """The color of every pixel's index. Four bytes a color are looked up as one number, ten times as fast as three."""
    table = np.zeros((len(colors), 4), np.uint8)
    table[:, :3] = colors
    packed = np.take(table.view(np.uint32)[:, 0], index, mode="clip")
    return cv2.cvtColor(packed.view(np.uint8).reshape(*index.shape, 4), cv2.COLOR_RGBA2RGB)


def _filled(
    image: UInt8[np.ndarray, "H W 3"],
    semantic: UInt8[np.ndarray, "H W"],
    objects: _Objects,
    colors: UInt8[np.ndarray, "n 3"],
    classes: ClassList | None,
    alpha: float,
) -> UInt8[np.ndarray, "H W 3"]:
    """The image with objects and stuff tinted, and what is neither a little darker, so that colors stand out."""
    tint, tinted = _colored(objects.rank, colors), objects.rank > 0
    if classes is not None and classes.stuff:
        stuff = cv2.LUT(semantic, np.isin(np.arange(256), classes.stuff).astype(np.uint8)).view(bool) & ~tinted
        _paint(tint, _colored(semantic, class_colors(classes)), stuff)
        tinted |= stuff
    picture = cv2.convertScaleAbs(image, alpha=0.85)
    _paint(picture, cv2.addWeighted(image, 1.0 - alpha, tint, alpha, 0.0), tinted)
    return picture


def _paint(
    picture: UInt8[np.ndarray, "H W 3"], content: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]
) -> None:
    """Replaces the masked pixels, in place."""
    cv2.copyTo(content, mask.view(np.uint8), picture)


def _hatched(picture: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Diagonal gray stripes over the masked pixels, whose image stays faintly visible."""
    height, width = mask.shape
    period = max(4, round(min(height, width) / 48))
    line = np.where(np.arange(height + width) % period < max(1, period // 3), np.uint8(176), np.uint8(104))
    stripes = np.lib.stride_tricks.sliding_window_view(line, width)[:height]
    gray = cv2.cvtColor(np.ascontiguousarray(stripes), cv2.COLOR_GRAY2RGB)
    hatched = picture.copy()
    _paint(hatched, cv2.addWeighted(picture, 0.35, gray, 0.65, 0.0), mask)
    return hatched


def _outline(
    picture: UInt8[np.ndarray, "H W 3"],
    index: UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"],
    colors: UInt8[np.ndarray, "n 3"],
) -> None:
    """Draws a light rim of its own color inside each object, and a dark line where it ends."""
    light = (0.45 * 255 + 0.55 * colors.astype(np.float64)).astype(np.uint8)
    light[0] = 16
    low, high = _extremes(index, _cross(max(1, round(min(index.shape) / 300))))
    outline = (low != high) & (index > 0)
    # The line lies outside the objects, where it costs them nothing, and on one side of the border where two touch.
    if min(index.shape) >= SMALL:
        low, high = _extremes(index, _cross(1))
        outline |= (high > 0) & (index == 0)
    low, high = _extremes(index, np.array([[0, 0, 0], [0, 1, 1], [0, 1, 0]], np.uint8))
    touching = (low != high) & (low > 0)
    _paint(picture, _colored(index * ~touching, light), outline | touching)


def _cross(reach: int) -> UInt8[np.ndarray, "n n"]:
    return cv2.getStructuringElement(cv2.MORPH_CROSS, (2 * reach + 1, 2 * reach + 1))


def _extremes(index: Integer[np.ndarray, "H W"], around: UInt8[np.ndarray, "n n"]) -> tuple[Any, Any]:
    """Smallest and largest index among the pixels around each, itself included."""
    return cv2.erode(index, around), cv2.dilate(index, around)


def _texts(
    ids: Int[np.ndarray, " n"],
    class_id: Int[np.ndarray, " n"],
    instances: Instances | None,
    class_names: Sequence[str],
    with_ids: bool,
) -> list[tuple[str, str]]:
    """What to write on each object: class and track (or id), and its score in percent, where there are such."""
    tracks = _tracks(ids, instances)
    numbers = np.where(tracks > 0, tracks, ids if with_ids else 0)
    names = [class_names[c] if c < len(class_names) else f"class {c}" for c in class_id]
    names = [f"{name} #{number}" if number else name for name, number in zip(names, numbers, strict=True)]
    if instances is None:
        return [(name, "") for name in names]
    score = np.concatenate([[0.0], np.asarray(instances.score, np.float64)])[ids]
    return [(name, f"{100 * value:.0f}%") for name, value in zip(names, score, strict=True)]


def _name(
    picture: UInt8[np.ndarray, "H W 3"],
    objects: _Objects,
    colors: UInt8[np.ndarray, "n 3"],
    texts: Sequence[tuple[str, str]],
) -> None:
    """Writes each text on a dark plate with a bar in its object's color.

    At least half of a plate lies on its object, and none on another. A score is left out where there is room for the
    name alone. Small objects choose first.
    """
    size = max(9, round(min(picture.shape[:2]) / 36))
    room = objects.rank[::STEP, ::STEP].copy()
    extent = objects.boxes[:, 2:] - objects.boxes[:, :2]
    for i in np.argsort(extent.prod(axis=1), kind="stable").tolist():
        if i == 0 or extent[i, 0] < size:
            continue
        for parts in (texts[i], texts[i][:1]):
            gain, ink = _plate(parts, size)
            share, y, x = _place(room, i, objects.boxes[i].tolist(), ink.shape[:2], picture.shape[:2])
            if share >= 0.5:
                part = picture[y : y + ink.shape[0], x : x + ink.shape[1]]
                part[...] = part * gain // 255 + ink
                part[:, :BAR] = colors[i]
                room[y // STEP : -(-(y + ink.shape[0]) // STEP), x // STEP : -(-(x + ink.shape[1]) // STEP)] = TAKEN
                break


def _place(
    room: Integer[np.ndarray, "h w"], i: int, box: Sequence[int], plate: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[float, int, int]:
    """Where a plate covers most of object i, rather near the middle of its box; how much of the plate, y and x.

    Args:
      room: every STEP-th pixel of the map of objects, TAKEN under a plate.
      i: the object.
      box: around it, in pixels.
      plate: (height, width), pixels.
      shape: of the picture.
    """
    starts, stops, cells, middle = [], [], [], []
    for low, high, side, limit in zip(box[:2], box[2:], plate, shape, strict=True):
        start = max(0, min(low, (low + high - side) // 2, limit - side))
        starts.append(start // STEP)
        stops.append(-(-max(high, start + side) // STEP))
        cells.append(-(-side // STEP))
        middle.append((low + high - side) / 2 / STEP)
    part = room[starts[0] : stops[0], starts[1] : stops[1]]
    if part.shape[0] < cells[0] or part.shape[1] < cells[1]:
        return 0.0, 0, 0  # The plate is larger than the picture.
    (h, w), area = cells, cells[0] * cells[1]
    own = np.where(part == TAKEN, np.float32(-area), part == i)
    sums = cv2.integral(own)
    share = (sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]) / area
    away = [abs(np.arange(n) + s - m) / c for n, s, m, c in zip(share.shape, starts, middle, part.shape, strict=True)]
    y, x = np.unravel_index(np.argmax(share - 0.2 * (away[0][:, None] + away[1][None, :])), share.shape)
    top, left = ((int(at) + s) * STEP for at, s in zip((y, x), starts, strict=True))
    return float(share[y, x]), min(top, shape[0] - plate[0]), min(left, shape[1] - plate[1])


def _plate(parts: Sequence[str], size: int) -> tuple[UInt16[np.ndarray, "h w 1"], UInt16[np.ndarray, "h w 1"]]:
    """Light text on a dark plate: what a pixel under it is multiplied with (over 255), and what is added then.

    Spaces alone would not keep a score apart from the number before it.
    """
    letters = [_letters(part, size) for part in parts if part]
    starts = np.cumsum([BAR + 2, *(piece.shape[1] + size // 2 for piece in letters)]).tolist()
    ink = np.zeros((letters[0].shape[0] + 4, starts[-1] - size // 2 + 3, 1), np.uint16)
    for x, piece in zip(starts[:-1], letters, strict=True):
        ink[2:-2, x : x + piece.shape[1], 0] = piece
    return (255 - ink) * 100 // 255, ink


@functools.lru_cache(maxsize=1024)
def _letters(text: str, size: int) -> UInt8[np.ndarray, "h w"]:
    """How much ink each pixel of a line of text has; all lines of one size are of one height."""
    from PIL import Image, ImageDraw

    font = _font(size)
    _, top, _, bottom = font.getbbox("Hg", anchor="ls")
    image = Image.new("L", (max(1, round(font.getlength(text))), bottom - top))
    ImageDraw.Draw(image).text((0, -top), text, fill=255, font=font, anchor="ls")
    return np.array(image)


@functools.lru_cache(maxsize=16)
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _canvas(picture: UInt8[np.ndarray, "H W 3"], size: int) -> tuple[Any, Any, Any]:
    """A Pillow image, something to draw on it with, and a font of that many pixels."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    return image, ImageDraw.Draw(image, "RGBA"), _font(size)


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
    colors = _colored(semantic, table)
    if image is not None:
        colors = cv2.addWeighted(np.ascontiguousarray(image), 1.0 - alpha, colors, alpha, 0.0)
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
        if x + 2 * size + _letters(name, size).shape[1] > bar.shape[1]:
            break
        bar[size // 2 : -(size // 2), x + size : x + 2 * size - 2] = color
        x = _write(bar, name, size, x + 2 * size + 2)
    return np.concatenate([bar, picture])


def _write(bar: UInt8[np.ndarray, "h w 3"], text: str, size: int, x: int) -> int:
    """Writes light text into the middle of a dark bar, from x on; where it ends."""
    ink = _letters(text, size)[:, : bar.shape[1] - x]
    y = (bar.shape[0] - ink.shape[0]) // 2
    part = bar[y : y + ink.shape[0], x : x + ink.shape[1]]
    np.maximum(part, (ink * 0.94).astype(np.uint8)[..., None], out=part)
    return x + ink.shape[1]


def _stacked(tiles: Sequence[UInt8[np.ndarray, "h w 3"]], columns: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """Pictures of one size in rows, on a dark ground."""
    padded = [np.pad(tile, ((0, 8), (0, 8), (0, 0)), constant_values=24) for tile in tiles]
    rows = [np.concatenate(padded[i : i + columns], axis=1) for i in range(0, len(padded), columns)]
    return np.concatenate(rows)[:-8, :-8]


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
