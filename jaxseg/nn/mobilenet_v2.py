"""MobileNetV2 (Sandler et al., CVPR 2018), laid out and padded as in torchvision."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.nn.layers import Convolution, Norm, divisible, stages

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion t, output channels c, repeats n and first stride s of each stage."""

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's RGB in [0, 1]."""

DEVIATION = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's RGB in [0, 1]."""


class InvertedResidual(nn.Module):
    """Expands the channels, filters each on its own, projects them linearly, and adds the input where shapes allow.

    Attributes:
      features: output channels.
      expansion: hidden channels per input channel; 1 leaves out the expanding convolution.
      stride: of the depthwise convolution.
      dilation: of the depthwise convolution.
      residual: add the input if it has as many channels; False where the published block has a stride.
      norm: batch norm's settings.
      dtype: of the computation.
    """

    features: int
    expansion: int = 6
    stride: int = 1
    dilation: int = 1
    residual: bool = True
    norm: Norm = Norm()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b oh ow o"]:
        """Runs the block; h and w shrink by the stride."""
        conv = partial(Convolution, activation=nn.relu6, norm=self.norm, dtype=self.dtype)
        hidden = x.shape[-1] * self.expansion
        y = x if self.expansion == 1 else conv(hidden, name="expand")(x, train)
        y = conv(hidden, 3, self.stride, self.dilation, depthwise=True, name="depthwise")(y, train)
        y = conv(self.features, activation=None, name="project")(y, train)
        return x + y if self.residual and x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """Inverted residuals that return their features by stride; submodules are named as torchvision's, features_0 to 18.

    Attributes:
      stride: output stride, 32, 16 or 8; below 32 the last strides become dilation.
      width: multiplier of the channels.
      head: end with the 1x1 convolution to 1280 channels that classification uses, in place of the last features.
      norm: batch norm's settings.
      dtype: of the computation.
    """

    stride: int = 32
    width: float = 1.0
    head: bool = False
    norm: Norm = Norm()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b H W 3"], train: bool) -> dict[int, Float[Array, "b _h _w _c"]]:
        """Runs the encoder.

        Args:
          images: RGB in [0, 1]; H and W are multiples of the output stride.
          train: normalize with the batch's statistics and update the running ones.

        Returns:
          The last features of each stride: 2, 4, 8 and so on to the output stride.

        Raises:
          ValueError: the output stride is none of 32, 16 and 8.
        """
        stem, *plan = stages((2, *(s for _, _, _, s in STAGES)), self.stride)
        settings: dict[str, Any] = {"norm": self.norm, "dtype": self.dtype}
        conv: Any = partial(Convolution, activation=nn.relu6, **settings)
        x = (images - jnp.array(MEAN)) / jnp.array(DEVIATION)
        x = conv(divisible(32 * self.width), 3, stem.stride, name="features_0")(x, train)
        features, index = {}, 0
        for stage, (t, c, n, s) in zip(plan, STAGES, strict=True):
            for i in range(n):
                index += 1
                shape = (stage.stride, stage.first) if i == 0 else (1, stage.rest)
                block: Any = partial(InvertedResidual, residual=i > 0 or s == 1, name=f"features_{index}", **settings)
                x = block(divisible(c * self.width), t, *shape)(x, train)
            features[stage.total] = x
        if self.head:
            features[plan[-1].total] = conv(divisible(1280 * max(1.0, self.width)), name="features_18")(x, train)
        return features
