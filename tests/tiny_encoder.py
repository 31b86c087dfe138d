"""An encoder from outside the package, small enough for tests to train."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.layers import Convolution, Norm


class TinyEncoder(nn.Module):
    """Three strided convolutions."""

    stride: int = 8
    width: float = 1.0
    norm: Norm = Norm()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train):
        features, x = {}, images
        for stride in (2, 4, 8):
            x = Convolution(8, 3, 2, norm=self.norm, dtype=self.dtype)(x, train)
            features[stride] = x
        return features
