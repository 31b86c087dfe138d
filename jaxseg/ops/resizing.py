"""Resizing of images and maps, by linear interpolation or to the nearest pixel."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

BAND = 32
"""Outputs of one product of matrices, on CPU."""


def linear(frames: UInt8[Array, "b H W c"], size: tuple[int, int]) -> Float[Array, "b h w c"]:
    """Images at another size, with a triangle as the filter: linear interpolation, or averages where they shrink.

    The same as `jax.image.resize` with antialiasing. On CPU the rows and columns that an output does not depend on are
    not multiplied with zeros.

    Args:
      frames: any number of channels.
      size: (height, width), pixels.

    Returns:
      Images in [0, 1].
    """

    def whole(frames: Array) -> Array:
        shape = (frames.shape[0], *size, frames.shape[3])
        return jax.image.resize(frames.astype(jnp.float32) / 255, shape, "linear", antialias=True)

    def in_bands(frames: Array) -> Array:
        return jax.lax.map(lambda frame: _in_bands(frame, size), frames)

    return jnp.clip(jax.lax.platform_dependent(frames, cpu=in_bands, default=whole), 0, 1)


def nearest(pixels: Shaped[Array, "..."], size: tuple[int, int], axis: int = 0) -> Shaped[Array, "..."]:
    """Pixels at another size, each that of the nearest one given; of two equally near ones the later.

    The same as `jax.image.resize`, whose places are rounded as each platform divides: here they are exact everywhere.

    Args:
      pixels: of any dtype.
      size: (height, width), pixels.
      axis: of the rows; that of the columns is the next.
    """
    for at, wanted in ((axis, size[0]), (axis + 1, size[1])):
        place = (2 * np.arange(wanted) + 1) * pixels.shape[at] // (2 * wanted)
        pixels = jnp.take(pixels, place, axis=at, mode="clip")
    return pixels


def _in_bands(frame: UInt8[Array, "H W c"], size: tuple[int, int]) -> Float[Array, "h w c"]:
    height, width, channels = frame.shape
    rows = frame.reshape(height, width * channels)
    parts = [weights @ rows[start:stop].astype(jnp.float32) for start, stop, weights in _bands(height, size[0])]
    short = jnp.concatenate(parts)
    # Channels stay where they are: each is weighted alone in a product with all of them, which beats a transposition.
    columns = []
    for start, stop, weights in _bands(width, size[1]):
        spread = np.kron(weights.T, np.eye(channels, dtype=np.float32))
        columns.append(short[:, start * channels : stop * channels] @ spread)
    return jnp.concatenate(columns, axis=1).reshape(*size, channels) / 255


def _bands(given: int, wanted: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """First input and the one after the last, and the weights, of each band of outputs along an axis."""
    weights = _weights(given, wanted)
    for start in range(0, wanted, BAND):
        band = weights[start : start + BAND]
        used = np.flatnonzero(band.any(axis=0))
        yield int(used[0]), int(used[-1]) + 1, band[:, used[0] : used[-1] + 1]


@functools.cache
def _weights(given: int, wanted: int) -> np.ndarray:
    """Weight of each of the given pixels in each of the wanted ones, (wanted, given) float32."""
    scale = given / wanted
    place = (np.arange(wanted) + 0.5) * scale - 0.5
    away = np.abs(place[:, None] - np.arange(given)[None, :]) / max(scale, 1.0)
    triangle = np.maximum(0.0, 1.0 - away)
    return (triangle / triangle.sum(axis=1, keepdims=True)).astype(np.float32)
