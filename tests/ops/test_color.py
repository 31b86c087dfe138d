"""Lab against scikit-image, on bytes and on floats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.color import rgb2lab

from jaxseg.ops import color


def _every_seventh_color() -> np.ndarray:
    levels = np.append(np.arange(0, 255, 7), 255).astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)


def test_bytes_agree_with_scikit_image():
    image = _every_seventh_color()
    lab = color.rgb_to_lab(jnp.asarray(image))
    assert lab.dtype == jnp.float32
    np.testing.assert_allclose(lab, rgb2lab(image), atol=0.02)


def test_floats_agree_with_scikit_image():
    image = np.random.default_rng(0).random((50, 60, 3)).astype(np.float32)
    np.testing.assert_allclose(color.rgb_to_lab(jnp.asarray(image)), rgb2lab(image), atol=0.02)


def test_bytes_and_the_floats_they_stand_for_have_one_color():
    image = _every_seventh_color()
    from_floats = color.rgb_to_lab(jnp.asarray(image, jnp.float32) / 255.0)
    np.testing.assert_allclose(color.rgb_to_lab(jnp.asarray(image)), from_floats, atol=1e-3)


@pytest.mark.parametrize(("rgb", "lab"), [((0, 0, 0), (0, 0, 0)), ((255, 255, 255), (100, 0, 0))])
def test_black_and_white_have_no_hue(rgb: tuple, lab: tuple):
    np.testing.assert_allclose(color.rgb_to_lab(jnp.asarray(rgb, jnp.uint8)), lab, atol=0.02)


def test_batches_map_like_single_images():
    image = jnp.asarray(np.random.default_rng(1).integers(0, 256, (2, 4, 5, 3)), jnp.uint8)
    np.testing.assert_array_equal(jax.vmap(color.rgb_to_lab)(image), color.rgb_to_lab(image))


def test_planes_are_the_channels():
    image = jnp.asarray(np.random.default_rng(2).integers(0, 256, (3, 4, 3)), jnp.uint8)
    np.testing.assert_array_equal(jnp.stack(color.lab_planes(image), axis=-1), color.rgb_to_lab(image))
