"""The median against NumPy's."""

import jax
import numpy as np
import pytest

from jaxseg.ops import filters


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(7, 9, 3), (1, 5, 1), (2, 2, 3)])
def test_the_median_is_that_of_nine_pixels(shape, dtype):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    nine = [padded[y : y + shape[0], x : x + shape[1]] for y in range(3) for x in range(3)]
    found = jax.jit(filters.median)(image)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.median(nine, axis=0))


def test_noise_goes_and_edges_stay():
    image = np.zeros((6, 8, 1), np.uint8)
    image[:, 4:] = 200
    noisy = image.copy()
    noisy[2, 1], noisy[4, 6] = 255, 0
    np.testing.assert_array_equal(jax.jit(filters.median)(noisy), image)
