"""Random changes of training examples on the host: pure functions of a NumPy generator and one example."""

from collections.abc import Callable

import cv2
import numpy as np

from jaxseg.config import Augment, Data
from jaxseg.data import Example
from jaxseg.types import IGNORED

AT_INSTANCE = 0.5
"""Probability that a crop is placed to show a randomly chosen object."""

# NTSC's luma and chroma: saturation scales the plane of the last two rows, hue turns it.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_RGB = np.linalg.inv(_YIQ)


def augment(rng: np.random.Generator, example: Example, data: Data, size: tuple[int, int] | None = None) -> Example:
    """Training example of the crop's size: scale, transpose, crop, color, padding, flips, in this order.

    Args:
      rng: source of all randomness.
      example: of any size.
      data: settings; crop and augment are read.
      size: (height, width) that the network sees every frame at, to which scales are relative; None for its own.

    Returns:
      Example of size ``data.crop``; what lies beyond the image is black, ignored, and without instances.
    """
    settings = data.augment
    example = random_scale(rng, example, settings.scale, size)
    if settings.transpose and rng.random() < 0.5:
        example = transpose(example)
    example = random_crop(rng, example, data.crop)
    example = example._replace(image=random_color(rng, example.image, settings))
    example = random_pad(rng, example, data.crop)
    if settings.flip_horizontal and rng.random() < 0.5:
        example = flip_horizontal(example)
    if settings.flip_vertical and rng.random() < 0.5:
        example = flip_vertical(example)
    return _each(np.ascontiguousarray, example)


def random_scale(
    rng: np.random.Generator, example: Example, scale: tuple[float, float], size: tuple[int, int] | None = None
) -> Example:
    """Resizes by a factor that is uniform on a logarithmic scale.

    Args:
      rng: source of all randomness.
      example: of any size.
      scale: lowest and highest factor.
      size: (height, width) at factor 1; None for the example's own.

    Returns:
      The resized example; its labels keep their values.
    """
    low, high = scale
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    height, width = size or example.semantic.shape
    wanted = max(1, round(height * factor)), max(1, round(width * factor))
    return example if wanted == example.semantic.shape else resize(example, wanted)


def resize(example: Example, size: tuple[int, int]) -> Example:
    """Image by averages where it shrinks and bilinearly where it grows, labels by the nearest pixel.

    Args:
      example: of any size.
      size: (height, width) wanted.

    Returns:
      The resized example.
    """
    shrinks = size[0] < example.semantic.shape[0]
    image = cv2.resize(example.image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    # INTER_NEAREST would take the pixel's corner instead of its center, and shift labels against the image.
    semantic = cv2.resize(example.semantic, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    instance = cv2.resize(example.instance, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return Example(image, semantic, instance, example.name)


def random_crop(rng: np.random.Generator, example: Example, size: tuple[int, int]) -> Example:
    """Cuts a window out where the image exceeds the size; half of the time one that shows some object.

    Args:
      rng: source of all randomness.
      example: of any size.
      size: (height, width) that the result does not exceed.

    Returns:
      Views into the example.
    """
    shape = example.semantic.shape
    if shape[0] <= size[0] and shape[1] <= size[1]:
        return example
    point = _point_of_instance(rng, example.instance) if rng.random() < AT_INSTANCE else None
    window = []
    for axis in range(2):
        low, high = 0, max(0, shape[axis] - size[axis])
        if point is not None:
            low, high = max(low, point[axis] - size[axis] + 1), min(high, point[axis])
        start = int(rng.integers(low, high + 1))
        window.append(slice(start, start + size[axis]))
    return _cut(example, tuple(window))


def _point_of_instance(rng: np.random.Generator, instance: np.ndarray) -> tuple[int, int] | None:
    """A random pixel of a random object, so that small objects are shown as often as large ones."""
    ids = np.flatnonzero(np.bincount(instance.ravel())[1:]) + 1
    if not ids.size:
        return None
    pixels = np.flatnonzero(instance == rng.choice(ids))
    y, x = divmod(int(rng.choice(pixels)), instance.shape[1])
    return y, x


def random_pad(rng: np.random.Generator, example: Example, size: tuple[int, int]) -> Example:
    """Places an example that is smaller than the size somewhere on a black, ignored canvas.

    Args:
      rng: source of all randomness.
      example: no larger than the size.
      size: (height, width) of the result.

    Returns:
      Example of exactly that size.
    """
    height, width = example.semantic.shape
    if (height, width) == tuple(size):
        return example
    top, left = int(rng.integers(0, size[0] - height + 1)), int(rng.integers(0, size[1] - width + 1))
    window = slice(top, top + height), slice(left, left + width)
    image = np.zeros((*size, 3), np.uint8)
    semantic, instance = np.full(size, IGNORED, np.uint8), np.zeros(size, np.uint16)
    image[window], semantic[window], instance[window] = example[:3]
    return Example(image, semantic, instance, example.name)


def transpose(example: Example) -> Example:
    """Swaps rows and columns."""
    return _each(lambda array: np.swapaxes(array, 0, 1), example)


def flip_horizontal(example: Example) -> Example:
    """Mirrors left and right."""
    return _cut(example, (slice(None), slice(None, None, -1)))


def flip_vertical(example: Example) -> Example:
    """Mirrors top and bottom."""
    return _cut(example, (slice(None, None, -1), slice(None)))


def _cut(example: Example, window: tuple[slice, ...]) -> Example:
    return _each(lambda array: array[window], example)


def _each(change: Callable[[np.ndarray], np.ndarray], example: Example) -> Example:
    return Example(change(example.image), change(example.semantic), change(example.instance), example.name)


def random_color(rng: np.random.Generator, image: np.ndarray, settings: Augment) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue at random, as one affine map of the colors.

    Args:
      rng: source of all randomness.
      image: (H, W, 3) uint8 RGB.
      settings: how much, at most.

    Returns:
      (H, W, 3) uint8; the image itself where all four are 0.
    """
    brightness, contrast, saturation, hue = (
        rng.uniform(-most, most) for most in (settings.brightness, settings.contrast, settings.saturation, settings.hue)
    )
    if brightness == contrast == saturation == hue == 0:
        return image
    matrix = color_matrix(brightness, 1 + contrast, 1 + saturation, hue)
    return cv2.transform(np.ascontiguousarray(image), matrix)


def color_matrix(brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """Affine map of RGB in 0..255 that changes all four.

    Args:
      brightness: shift, as a fraction of the full range.
      contrast: factor on the distance from mid-gray.
      saturation: factor on the chroma.
      hue: turn of the chroma plane, as a fraction of a circle.

    Returns:
      (3, 4) float64; the last column is added.
    """
    cos, sin = np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)
    chroma = np.array([[1, 0, 0], [0, saturation * cos, -saturation * sin], [0, saturation * sin, saturation * cos]])
    linear = contrast * _RGB @ chroma @ _YIQ
    shift = 255 * brightness + 127.5 * (1 - contrast)
    return np.concatenate([linear, np.full((3, 1), shift)], axis=1)
