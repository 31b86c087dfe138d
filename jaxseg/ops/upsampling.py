"""Bilinear upsampling of label maps from the grid, without superpixels: what these are compared with."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped


def bilinear(grid: Shaped[Array, "h w"], size: int) -> Shaped[Array, "H W"]:
    """Gives each pixel the label with the most bilinear weight among the four elements around it.

    That is the argmax of the label's bilinearly enlarged one-hot maps, without making them. Beyond the border the
    outermost elements go on. Ties go to the pixel's own element, then to its vertical neighbor. At sizes 1 and 2 the
    own element always has the most weight.

    Args:
      grid: label of each element.
      size: pixels along a side of an element, at least 1.

    Returns:
      Label of each pixel, (h * size, w * size).

    Raises:
      ValueError: if `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"`size` must be at least 1: got {size}.")
    (own_row, near_row, down), (own_column, near_column, right) = (_axis(n, size) for n in grid.shape)
    rows, neighbors = jnp.take(grid, own_row, axis=0), jnp.take(grid, near_row, axis=0)
    labels = [jnp.take(part, at, axis=1) for at in (own_column, near_column) for part in (rows, neighbors)]
    weights = [y[:, None] * x[None, :] for x in (1 - right, right) for y in (1 - down, down)]
    best, most = labels[0], _votes(labels, weights, labels[0])
    for label in labels[1:]:
        votes = _votes(labels, weights, label)
        # Sums of the same weights in one order are equal; a margin keeps rounding from deciding a tie.
        best = jnp.where(votes > most + 1e-6, label, best)
        most = jnp.maximum(votes, most)
    return best


def _axis(elements: int, size: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Own element, next nearest element and that one's weight, of each pixel along an axis."""
    place = (np.arange(elements * size) + 0.5) / size - 0.5
    own = np.arange(elements * size) // size
    near = np.clip(own + np.sign(place - own).astype(int), 0, elements - 1)
    return own, near, np.abs(place - own).astype(np.float32)


def _votes(labels: list[Array], weights: list[np.ndarray], label: Array) -> Array:
    """Weight of the elements that agree with a label, at each pixel."""
    votes = jnp.zeros(label.shape, jnp.float32)
    for other, weight in zip(labels, weights, strict=True):
        votes = votes + jnp.where(other == label, weight, 0.0)
    return votes
