"""Linear resizing against JAX's own."""

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
