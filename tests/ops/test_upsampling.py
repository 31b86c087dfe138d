"""Bilinear upsampling of labels against the argmax of enlarged one-hot maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops import upsampling


def _weights(grid: np.ndarray, size: int) -> np.ndarray:
    """Bilinear weight of every label at every pixel, by loops."""
    h, w = grid.shape
    total = np.zeros((h * size, w * size, grid.max() + 1))
    for y in range(h * size):
        for x in range(w * size):
            v, u = (y + 0.5) / size - 0.5, (x + 0.5) / size - 0.5
            for i in (int(np.floor(v)), int(np.floor(v)) + 1):
                for j in (int(np.floor(u)), int(np.floor(u)) + 1):
                    weight = max(0, 1 - abs(v - i)) * max(0, 1 - abs(u - j))
                    total[y, x, grid[np.clip(i, 0, h - 1), np.clip(j, 0, w - 1)]] += weight
    return total


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_pixel_takes_the_label_of_most_weight(size: int):
    grid = np.random.default_rng(size).integers(0, 4, (5, 7))
    found = np.asarray(jax.jit(upsampling.bilinear, static_argnums=1)(grid, size))
    weights = _weights(grid, size)
    assert found.shape == (5 * size, 7 * size)
    taken = np.take_along_axis(weights, found[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(taken, weights.max(axis=-1), atol=1e-6)


def test_a_flip_of_a_map_without_ties_is_flipped():
    grid = jnp.asarray([[1, 1, 2, 2], [1, 2, 2, 2], [3, 3, 3, 2]])
    one = upsampling.bilinear(grid, 4)
    np.testing.assert_array_equal(upsampling.bilinear(grid[:, ::-1], 4)[:, ::-1], one)


def test_size_must_be_positive():
    with pytest.raises(ValueError, match="`size` must be at least 1: got 0"):
        upsampling.bilinear(jnp.zeros((2, 2), int), 0)
