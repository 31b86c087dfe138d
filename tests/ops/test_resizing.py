"""Resizing against JAX's own."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops import resizing


@pytest.mark.parametrize(
    ("given", "wanted"), [((64, 96), (32, 48)), ((50, 75), (48, 40)), ((30, 41), (64, 70)), ((9, 1), (1, 3))]
)
def test_it_is_what_jax_computes(given, wanted):
    frames = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, *given, 3), np.uint8))
    found = jax.jit(resizing.linear, static_argnums=1)(frames, wanted)
    expected = jax.image.resize(frames.astype(jnp.float32) / 255, (2, *wanted, 3), "linear", antialias=True)
    assert found.shape == (2, *wanted, 3)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_an_image_of_one_color_stays_so():
    frames = jnp.full((1, 37, 53, 1), 255, jnp.uint8)
    np.testing.assert_allclose(jax.jit(resizing.linear, static_argnums=1)(frames, (20, 90)), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "wanted"), [((60, 80), (50, 75)), ((50, 75), (60, 80)), ((7, 9), (14, 9)), ((5, 1), (2, 3))]
)
def test_nearest_pixels_are_those_of_exact_arithmetic(given, wanted):
    """The pixel whose cell holds the middle of the wanted one."""
    pixels = np.random.default_rng(0).integers(0, 1 << 16, given, np.uint16)
    rows, columns = (
        [math.floor((2 * i + 1) * g / Fraction(2 * w)) for i in range(w)] for g, w in zip(given, wanted, strict=True)
    )
    expected = pixels[np.ix_(rows, columns)]
    nearest = jax.jit(resizing.nearest, static_argnums=(1, 2))
    np.testing.assert_array_equal(nearest(pixels, wanted, 0), expected)
    np.testing.assert_array_equal(nearest(pixels[None, ..., None], wanted, 1), expected[None, ..., None])
    theirs = jax.image.resize(pixels, wanted, "nearest")
    assert (theirs == expected).mean() > 0.7  # It rounds to one or the other side where two are equally near.
