"""An encoder that cannot bear an image of one color: the fault of many a normalization."""

import jax.numpy as jnp

from tests.tiny_encoder import TinyEncoder


class FragileEncoder(TinyEncoder):
    """Divides by the image's standard deviation, which may be 0."""

    def __call__(self, images, train):
        centered = images - images.mean((1, 2, 3), keepdims=True)
        deviation = jnp.sqrt(jnp.square(centered).mean((1, 2, 3), keepdims=True))
        return super().__call__(centered / deviation, train)
