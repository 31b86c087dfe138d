"""Random changes of training examples on the host: pure functions of a NumPy generator and one example.

Arrays are never changed in place; a function returns views or new arrays. An example's label at its published size
(``full``) does not follow its changes and is left out. OpenCV flips and transposes, because NumPy's copies of mirrored
color images take as long as half of their decoding.
"""

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np

from jaxseg.config import Color, Data, RandomWindow
from jaxseg.data import Example
from jaxseg.types import IGNORED

AT_INSTANCE = 0.5
"""Probability that a crop is placed to show a randomly chosen object."""

REMAINS = 16
"""Fewest pixels that a crop may leave of an object, for it to count as one: an element of the grid of 4 x 4 pixels."""

# NTSC's luma and chroma: saturation scales the plane of the last two rows, hue turns it.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_RGB = np.linalg.inv(_YIQ)


def augment(rng: np.random.Generator, example: Example, data: Data, size: tuple[int, int] | None = None) -> Example:
    """Training example of the crop's size: scale and crop, transpose, color, padding, flips, in this order.

    Nothing but the arguments decides what comes out.

    Args:
      rng: source of all randomness.
      example: of any size.
      data: settings; crop and augment are read, and classes where classes swap under mirroring.
      size: (height, width) that the network sees every frame at, to which scales are relative; None for its own.

    Returns:
      Contiguous example of size ``data.crop``, its objects numbered from 1 without gaps; what lies beyond the image is
      black, ignored, and without instances.
    """
    settings = data.augment
    scaled = random_scale(rng, size or example.semantic.shape, settings.scale)
    turned = settings.transpose and rng.random() < 0.5
    example = random_crop(rng, example, data.crop[::-1] if turned else data.crop, scaled)
    if turned:
        example = transpose(example)
    example = example._replace(image=random_color(rng, example.image, settings))
    example = random_pad(rng, example, data.crop)
    if settings.flip_horizontal and rng.random() < 0.5:
        example = flip_horizontal(example, _pairs(data))
    if settings.flip_vertical and rng.random() < 0.5:
        example = flip_vertical(example)
    return _each(np.ascontiguousarray, example)


def random_scale(rng: np.random.Generator, size: tuple[int, int], scale: tuple[float, float]) -> tuple[int, int]:
    """Changes a size by a factor that is uniform on a logarithmic scale.

    Args:
      rng: source of all randomness.
      size: (height, width) at factor 1.
      scale: lowest and highest factor.

    Returns:
      (height, width), each at least 1.
    """
    low, high = scale
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def random_crop(
    rng: np.random.Generator, example: Example, size: tuple[int, int], scaled: tuple[int, int] | None = None
) -> Example:
    """Cuts a window out where the scaled image exceeds the size; half of the time one that shows some object.

    The window is cut at whole pixels of the example and resized then, so that nothing is resized only to be thrown
    away. Its scale is therefore off by up to half a pixel over its extent, for image and labels alike.

    Args:
      rng: source of all randomness.
      example: of any size.
      size: (height, width) that the result does not exceed.
      scaled: (height, width) that the whole example is resized to; None for its own.

    Returns:
      The window, identified (see `identify`); where an object was cut, and fewer than `REMAINS` pixels of it are left,
      these are ignored.
    """
    whole, wanted = example.semantic.shape, scaled or example.semantic.shape
    kept = min(size[0], wanted[0]), min(size[1], wanted[1])
    instance = example.instance
    if kept != wanted:
        point = _point_of_instance(rng, instance) if rng.random() < AT_INSTANCE else None
        lengths = tuple(max(1, round(whole[axis] * kept[axis] / wanted[axis])) for axis in range(2))
        example = _cut(example, _random_window(rng, whole, lengths, point))
    result = resize(example, kept)
    pixels = count(result.instance)
    few = (int(i) for i in np.flatnonzero(pixels[1:] < REMAINS) + 1 if pixels[i])
    # Only what is small is compared with the whole: there is little of it, and the whole need not be counted.
    remains = [i for i in few if np.count_nonzero(example.instance == i) < np.count_nonzero(instance == i)]
    return identify(result, pixels, remains)


def _point_of_instance(rng: np.random.Generator, instance: np.ndarray) -> tuple[int, int] | None:
    """A random pixel of a random object, so that small objects are shown as often as large ones."""
    ids = np.flatnonzero(count(instance)[1:]) + 1
    if not ids.size:
        return None
    pixels = np.flatnonzero(instance == rng.choice(ids))
    y, x = divmod(int(rng.choice(pixels)), instance.shape[1])
    return y, x


def count(instance: np.ndarray) -> np.ndarray:
    """Pixels of each id.

    Args:
      instance: (H, W) uint16.

    Returns:
      (highest id + 1,) float32, exact below 2**24. NumPy's bincount takes five times as long for the ids of an image.
    """
    ids = int(instance.max()) + 1
    return cv2.calcHist([instance], [0], None, [ids], [0, ids]).ravel()


def _random_window(
    rng: np.random.Generator, whole: tuple[int, ...], size: tuple[int, ...], point: tuple[int, int] | None
) -> tuple[slice, ...]:
    """Window of a size within the whole that holds the point, if there is one."""
    window = []
    for axis in range(2):
        low, high = 0, whole[axis] - size[axis]
        if point is not None:
            low, high = max(low, point[axis] - size[axis] + 1), min(high, point[axis])
        start = int(rng.integers(low, high + 1))
        window.append(slice(start, start + size[axis]))
    return tuple(window)


def resize(example: Example, size: tuple[int, int]) -> Example:
    """Image bilinearly, and by averages where it shrinks below half; labels by the nearest pixel.

    Down to half its size, bilinear sampling lets every pixel count, and is several times as fast as averages.

    Args:
      example: of any size.
      size: (height, width) wanted.

    Returns:
      The resized example; its labels keep their values.
    """
    height, width = example.semantic.shape
    if (height, width) == tuple(size):
        return example
    image = resized(example.image, size)
    # INTER_NEAREST would take the pixel's corner instead of its center, and shift labels against the image.
    semantic = cv2.resize(example.semantic, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    instance = cv2.resize(example.instance, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return Example(image, semantic, instance, example.name)


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image bilinearly, and by averages where it shrinks below half; see `resize`."""
    height, width = image.shape[:2]
    skips = 2 * size[0] < height or 2 * size[1] < width
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if skips else cv2.INTER_LINEAR)


def random_window(
    rng: np.random.Generator, image: np.ndarray, size: tuple[int, int], settings: RandomWindow
) -> np.ndarray:
    """Classification's training crop: a window of random area and aspect, resized, mirrored and colored at random.

    Where ten windows in a row do not fit the image, the largest in its middle of an allowed aspect is taken.

    Args:
      rng: source of all randomness.
      image: (H, W, 3) uint8 RGB.
      size: (height, width) of the result.
      settings: ranges; the aspect is uniform on a logarithmic scale, the area on a linear one.

    Returns:
      (height, width, 3) uint8, contiguous.

    References:
      Szegedy et al., Going Deeper with Convolutions, CVPR 2015, section 6.
    """
    window = image[_window(rng, image.shape[:2], settings)]
    changed = resized(window, size)
    if settings.flip_horizontal and rng.random() < 0.5:
        changed = cv2.flip(changed, 1)
    return np.ascontiguousarray(random_color(rng, changed, settings))


def _window(rng: np.random.Generator, whole: tuple[int, ...], settings: RandomWindow) -> tuple[slice, slice]:
    height, width = whole
    low, high = np.log(settings.aspect)
    for _ in range(10):
        area = height * width * rng.uniform(*settings.area)
        aspect = np.exp(rng.uniform(low, high))
        h, w = round(np.sqrt(area / aspect)), round(np.sqrt(area * aspect))
        if 1 <= h <= height and 1 <= w <= width:
            y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            return slice(y, y + h), slice(x, x + w)
    return _middle(whole, float(np.clip(width / height, *settings.aspect)), 1.0)


def _middle(whole: tuple[int, ...], aspect: float, share: float) -> tuple[slice, slice]:
    """The largest window of an aspect (width over height) in the middle, with its sides scaled by a share."""
    height, width = whole
    h = min(height, width / aspect) * share
    sides = max(1, min(height, round(h))), max(1, min(width, round(h * aspect)))
    y, x = ((length - side) // 2 for length, side in zip(whole, sides, strict=True))
    return slice(y, y + sides[0]), slice(x, x + sides[1])


def middle(image: np.ndarray, size: tuple[int, int], margin: float) -> np.ndarray:
    """Classification's evaluation crop: the middle of an image, resized: by averages where it shrinks, else bilinearly.

    Args:
      image: (H, W, 3) uint8 RGB.
      size: (height, width) of the result.
      margin: the window's share of the largest one that the image holds, along each side, in (0, 1].

    Returns:
      (height, width, 3) uint8, contiguous.
    """
    window = np.ascontiguousarray(image[_middle(image.shape[:2], size[1] / size[0], margin)])
    if window.shape[:2] == tuple(size):
        return window
    shrinks = size[0] < window.shape[0]
    return cv2.resize(window, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def identify(example: Example, pixels: np.ndarray, remains: Sequence[int] = ()) -> Example:
    """Numbers the objects from 1 without gaps, in the order of their ids.

    Args:
      example: its ids may have gaps.
      pixels: how many pixels of the example each id has, from id 0 on.
      remains: ids that are ignored instead, and belong to no instance then.

    Returns:
      The renumbered example.
    """
    if remains:
        ignored = np.zeros(len(pixels), bool)
        ignored[list(remains)] = True
        semantic = np.where(ignored.take(example.instance), np.uint8(IGNORED), example.semantic)
        example, pixels = example._replace(semantic=semantic), np.where(ignored, 0, pixels)
    kept = pixels > 0
    kept[0] = False
    new = np.where(kept, np.cumsum(kept), 0).astype(np.uint16)
    if not remains and np.array_equal(new[kept], np.flatnonzero(kept)):
        return example
    return example._replace(instance=new.take(example.instance))


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
    """Swaps rows and columns. No classes swap: do not use it with classes that have a side."""
    return _each(cv2.transpose, example)


def flip_horizontal(example: Example, pairs: Sequence[tuple[int, int]] = ()) -> Example:
    """Mirrors left and right, and swaps the classes that this turns into one another.

    Only this mirroring swaps classes. So a data set whose classes have a side (left hand, right hand) should go without
    vertical flips and transposes, which mirror too: both flips together turn the image by half, which leaves a left
    hand a left hand.

    Args:
      example: of any size.
      pairs: ids of the classes that swap; each id at most once.

    Returns:
      The mirrored example.
    """
    flipped = _each(partial(cv2.flip, flipCode=1), example)
    if not pairs:
        return flipped
    swapped = np.arange(256, dtype=np.uint8)
    for a, b in pairs:
        swapped[a], swapped[b] = b, a
    return flipped._replace(semantic=swapped.take(flipped.semantic))


def _pairs(data: Data) -> list[tuple[int, int]]:
    """Class ids of the pairs of names."""
    return [(data.classes.index(a) + 1, data.classes.index(b) + 1) for a, b in data.augment.flip_pairs]


def flip_vertical(example: Example) -> Example:
    """Mirrors top and bottom. No classes swap: do not use it with classes that have a side."""
    return _each(partial(cv2.flip, flipCode=0), example)


def _cut(example: Example, window: tuple[slice, ...]) -> Example:
    return _each(lambda array: array[window], example)


def _each(change: Callable[[np.ndarray], np.ndarray], example: Example) -> Example:
    return Example(change(example.image), change(example.semantic), change(example.instance), example.name)


def random_color(rng: np.random.Generator, image: np.ndarray, settings: Color) -> np.ndarray:
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
    return cv2.transform(image, matrix)


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
