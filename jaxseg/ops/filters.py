"""Filters of images."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped


def median(image: Shaped[Array, "H W c"]) -> Shaped[Array, "H W c"]:
    """Median of the 3 x 3 pixels around each, channel by channel; beyond the border the outermost pixels go on.

    Noise of single pixels goes, edges stay where they are.

    Args:
      image: of any ordered dtype.

    Returns:
      The filtered image, of the same dtype.
    """
    height, width, channels = image.shape
    # Rows of interleaved channels: all that is compared lies in contiguous slices.
    wide = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge").reshape(height + 2, -1)
    columns = _sorted(*(wide[i : i + height] for i in range(3)))
    # The median of nine is that of the greatest low, the middle middle and the lowest high of three sorted columns.
    row = [[column[:, i * channels : (i + width) * channels] for i in range(3)] for column in columns]
    parts = (_sorted(*row[0])[2], _sorted(*row[1])[1], _sorted(*row[2])[0])
    return _sorted(*parts)[1].reshape(image.shape)


def _sorted(a: Array, b: Array, c: Array) -> tuple[Array, Array, Array]:
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    return jnp.minimum(low, c), jnp.maximum(low, jnp.minimum(high, c)), jnp.maximum(high, c)
