"""Moving scenes with known identities: the shapes of generated scenes drive by, turn, grow and hide one another.

Speeds are in pixels a frame of an image 128 high and scale with the image, as sizes do.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from jaxseg.data import Example, drawing, shapes
from jaxseg.data.drawing import CLASSES, Shape
from jaxseg.types import IGNORED

FASTEST = 2.5
STANDING = 0.2
SPINNING = 0.5
ARRIVAL = 0.06
"""Chance that a frame brings a newcomer while there is room for one."""

SWAY = 0.25
"""Most that the camera pans to either side, in widths of the image."""

_TEXTURE = 96
_STREAM = len(shapes.SPLITS)
"""Where the scenes of data sets have their split's number: no sequence shares its randomness with one of them."""


@dataclass(frozen=True)
class _Mover:
    """An object at one moment.

    Attributes:
      identity: from 1 on, for the whole sequence.
      shape: in pixels of the image.
      velocity: (y, x), pixels a frame.
      spin: radians a frame.
      growth: of the logarithm of its size, a frame.
      texture: what it looks like, (96, 96, 3) over twice its radius.
    """

    identity: int
    shape: Shape
    velocity: tuple[float, float]
    spin: float
    growth: float
    texture: np.ndarray


def sequence(
    seed: int, index: int, frames: int, size: tuple[int, int], classes: int = len(CLASSES), objects: int = 8
) -> Iterator[Example]:
    """Frames of one moving scene: a function of the arguments alone; fewer frames are the first of more.

    The camera sways from side to side over a street. Objects keep their class, color and texture; they drift, some turn
    or grow, nearer ones hide those behind; who leaves the image is gone, and newcomers enter at its sides.

    Args:
      seed: of all sequences, >= 0.
      index: of the sequence, >= 0.
      frames: how many to draw.
      size: (height, width) in pixels, each at least 32.
      classes: how many of ``CLASSES`` occur, 1 to 8.
      objects: most at a time.

    Yields:
      Image, class ids and instance ids: an id is an object's identity in all frames. Of objects with fewer than 12
      visible pixels these are ignored (255 in the class ids).

    Raises:
      ValueError: if size or classes is out of its range.
    """
    shapes.check(size, classes)
    rng = np.random.default_rng([seed, _STREAM, index])
    horizon, most = rng.uniform(0.15, 0.45) * size[0], int(SWAY * size[1])
    street = drawing.background(rng, (size[0], size[1] + 2 * most), horizon)
    camera, noise = drawing.camera(rng, size), np.float32(rng.uniform(1, 10))
    period, phase = rng.uniform(300, 800), rng.uniform(0, 2 * np.pi)
    pans = [round(most * (1 + np.sin(2 * np.pi * t / period + phase))) for t in range(-1, frames)]
    movers = [_mover(rng, i + 1, size, classes, horizon) for i in range(int(rng.integers(objects // 2, objects + 1)))]
    born = len(movers)
    for t in range(frames):
        moved = [_moved(rng, mover, pans[t] - pans[t + 1], size, horizon) for mover in movers]
        movers = [mover for mover in moved if not _gone(mover, size)]
        if len(movers) < objects and rng.random() < ARRIVAL:
            born += 1
            movers.append(_arriving(_mover(rng, born, size, classes, horizon), size))
        image, semantic, instance = _drawn(street[:, pans[t + 1] : pans[t + 1] + size[1]], movers)
        grain = rng.standard_normal(image.shape, np.float32) * noise
        yield Example(drawing.expose(image, camera, grain), semantic, instance, f"{index:06d}_{t:06d}")


def _mover(rng: np.random.Generator, identity: int, size: tuple[int, int], classes: int, horizon: float) -> _Mover:
    """Somebody anywhere in the image."""
    shape, scale = shapes.random_shape(rng, size, classes, horizon), size[0] / 128
    speed = 0.0 if rng.random() < STANDING else rng.uniform(0.3, FASTEST) * rng.choice([-1, 1])
    texture = np.zeros((_TEXTURE, _TEXTURE, 3), np.float32)
    color = drawing.object_color(rng, shape.class_id, classes)
    drawing.paint(rng, texture, np.ones(texture.shape[:2], bool), color)
    return _Mover(
        identity,
        shape,
        velocity=(rng.normal(0, 0.15) * scale, speed * scale),
        spin=rng.normal(0, 0.03) if rng.random() < SPINNING else 0.0,
        growth=rng.normal(0, 0.003),
        texture=texture,
    )


def _arriving(mover: _Mover, size: tuple[int, int]) -> _Mover:
    """The same just outside one side of the image, on its way in."""
    speed = max(abs(mover.velocity[1]), 0.4 * size[0] / 128)
    side = 1 if mover.velocity[1] >= 0 else -1
    x = -0.6 * mover.shape.size if side > 0 else size[1] - 1 + 0.6 * mover.shape.size
    shape = replace(mover.shape, center=(mover.shape.center[0], x))
    return replace(mover, shape=shape, velocity=(mover.velocity[0], side * speed))


def _moved(rng: np.random.Generator, mover: _Mover, pan: int, size: tuple[int, int], horizon: float) -> _Mover:
    """One frame later: where it drives to, plus what the camera's pan shifts all by."""
    scale, shape = size[0] / 128, mover.shape
    limit = np.array([0.2, 1.0]) * FASTEST * scale
    vy, vx = np.clip(np.array(mover.velocity) + rng.normal(0, (0.02, 0.05)) * scale, -limit, limit).tolist()
    y, x = shape.center[0] + vy, shape.center[1] + vx + pan
    # It turns back at the horizon and before the viewer.
    vy = abs(vy) if y < horizon else -abs(vy) if y > 0.95 * size[0] else vy
    extent = shape.size * math.exp(mover.growth)
    extent = min(max(extent, shapes.SMALLEST * scale), shapes.LARGEST * scale)
    turned = replace(shape, center=(y, x), size=extent, angle=shape.angle + mover.spin)
    return replace(mover, shape=turned, velocity=(vy, vx))


def _gone(mover: _Mover, size: tuple[int, int]) -> bool:
    return not -0.75 * mover.shape.size < mover.shape.center[1] < size[1] + 0.75 * mover.shape.size


def _drawn(street: np.ndarray, movers: list[_Mover]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What there is to see, and whose each pixel is: those further down stand before the others."""
    image, size = street.copy(), (street.shape[0], street.shape[1])
    semantic, instance = np.zeros(size, np.uint8), np.zeros(size, np.uint16)
    for mover in sorted(movers, key=lambda mover: mover.shape.center[0] + mover.shape.size / 2):
        window, mask = drawing.rasterize(mover.shape, size)
        if mask.size:
            _paint(image[window], mask, mover, (window[0].start, window[1].start))
        semantic[window][mask] = mover.shape.class_id
        instance[window][mask] = mover.identity
    hidden = np.bincount(instance.ravel()) < shapes.FEWEST_PIXELS
    hidden[0] = False
    semantic[hidden[instance]], instance[hidden[instance]] = IGNORED, 0
    return image, semantic, instance


def _paint(view: np.ndarray, mask: np.ndarray, mover: _Mover, corner: tuple[int, int]) -> None:
    """Lays the texture over one object, turned and scaled as the object is, in place."""
    shape = mover.shape
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    turn = np.array([[cos, sin], [-sin, cos]]) * (_TEXTURE / (2 * 1.3 * shape.size / 2))
    start = turn @ (np.array(corner[::-1]) - np.array(shape.center[::-1])) + _TEXTURE / 2
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(
        mover.texture, np.column_stack([turn, start]), mask.shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT
    )
    np.copyto(view, laid, where=mask[..., None])
