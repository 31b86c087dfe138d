"""Objects over their image: tinted, outlined and named."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Array, Int, Integer, UInt8, UInt16

from jaxseg.types import IGNORED, ClassList, Instances
from jaxseg.visualize.colors import class_colors, colors_of, looked_up, plain_palette
from jaxseg.visualize.maps import hatched, paint
from jaxseg.visualize.text import inked

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
        picture = hatched(picture, ignored)
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
    colors = colors_of(tracks)
    if tracks[1:].all():
        return colors
    choices, neighbors = plain_palette(-(-(count + 24) // 256) * 256), _neighbors(objects.rank, count)
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


def _filled(
    image: UInt8[np.ndarray, "H W 3"],
    semantic: UInt8[np.ndarray, "H W"],
    objects: _Objects,
    colors: UInt8[np.ndarray, "n 3"],
    classes: ClassList | None,
    alpha: float,
) -> UInt8[np.ndarray, "H W 3"]:
    """The image with objects and stuff tinted, and what is neither a little darker, so that colors stand out."""
    tint, tinted = looked_up(objects.rank, colors), objects.rank > 0
    if classes is not None and classes.stuff:
        stuff = cv2.LUT(semantic, np.isin(np.arange(256), classes.stuff).astype(np.uint8)).view(bool) & ~tinted
        paint(tint, looked_up(semantic, class_colors(classes)), stuff)
        tinted |= stuff
    picture = cv2.convertScaleAbs(image, alpha=0.85)
    paint(picture, cv2.addWeighted(image, 1.0 - alpha, tint, alpha, 0.0), tinted)
    return picture


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
    paint(picture, looked_up(index * ~touching, light), outline | touching)


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
    letters = [inked(part, size) for part in parts if part]
    starts = np.cumsum([BAR + 2, *(piece.shape[1] + size // 2 for piece in letters)]).tolist()
    ink = np.zeros((letters[0].shape[0] + 4, starts[-1] - size // 2 + 3, 1), np.uint16)
    for x, piece in zip(starts[:-1], letters, strict=True):
        ink[2:-2, x : x + piece.shape[1], 0] = piece
    return (255 - ink) * 100 // 255, ink
