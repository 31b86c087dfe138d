"""MobileNetV2 (Sandler et al., CVPR 2018), laid out as in torchvision; padded as there, or as in TensorFlow."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.nn.layers import Convolution, Norm, divisible, freeze, rematerialized, stages, standardized

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion t, output channels c, repeats n and first stride s of each stage."""

NUMBERS = (1, 2, 3, 4, 4, 5, 5)
"""Which stage of the encoder each row belongs to: stage i ends at the published stride 2**i."""

FIRST = (1, 2, 4, 7, 11, 14, 17)
"""Number of the first block of each row, as torchvision counts its features."""

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's RGB in [0, 1]."""

STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's RGB in [0, 1]."""


class InvertedResidual(nn.Module):
    """Expands the channels, filters each on its own, projects them linearly, and adds the input where shapes allow.

    Attributes:
      features: output channels.
      expansion: hidden channels per input channel; 1 leaves out the expanding convolution.
      stride: of the depthwise convolution.
      dilation: of the depthwise convolution.
      padding: of the depthwise convolution, see `layers.pads`.
      published: stride of the published block, where that became dilation; 0 for ``stride``.
      residual: add the input if it has as many channels; False where the published block has a stride.
      norm: batch norm's settings.
      dtype: of the computation.
    """

    features: int
    expansion: int = 6
    stride: int = 1
    dilation: int = 1
    padding: str = "symmetric"
    published: int = 0
    residual: bool = True
    norm: Norm = Norm()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b oh ow o"]:
        """Runs the block; h and w shrink by the stride."""
        conv = partial(Convolution, activation=nn.relu6, norm=self.norm, dtype=self.dtype)
        hidden = x.shape[-1] * self.expansion
        y = x if self.expansion == 1 else conv(hidden, name="expand")(x, train)
        taps: Any = partial(conv, hidden, 3, self.stride, self.dilation, self.padding, self.published)
        y = taps(depthwise=True, name="depthwise")(y, train)
        y = conv(self.features, activation=None, name="project")(y, train)
        return x + y if self.residual and x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """Inverted residuals that return their features by stride; submodules are named as torchvision's, features_0 to 18.

    Attributes:
      stride: output stride, 32, 16 or 8; below 32 the last strides become dilation.
      width: multiplier of the channels.
      mean: subtracted from RGB in [0, 1].
      std: what is divided by then.
      padding: of windows at stride 2, see `layers.pads`.
      frozen: number of first stages that are neither trained nor normalize with the batch; a stage ends where the
        published stride doubles.
      head: end with the 1x1 convolution to 1280 channels that classification uses, in place of the last features.
      norm: batch norm's settings.
      dtype: of the computation.
      remat: store the blocks' inputs alone for the gradient.
    """

    stride: int = 32
    width: float = 1.0
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    padding: str = "symmetric"
    frozen: int = 0
    head: bool = False
    norm: Norm = Norm()
    dtype: DTypeLike = jnp.float32
    remat: bool = False

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
        conv: Any = partial(Convolution, activation=nn.relu6, padding=self.padding, dtype=self.dtype)
        norm = freeze(self.norm, self.frozen > 0)
        x = standardized(images, self.mean, self.std)
        x = conv(divisible(32 * self.width), 3, stem.stride, norm=norm, name="features_0")(x, train)
        features, kind = {}, rematerialized(InvertedResidual, self.remat)
        for (t, c, n, s), stage, number, first in zip(STAGES, plan, NUMBERS, FIRST, strict=True):
            norm = freeze(self.norm, number <= self.frozen)
            block: Any = partial(kind, divisible(c * self.width), t, norm=norm, dtype=self.dtype)
            opening = partial(block, stage.stride, stage.first, self.padding, stage.published, residual=s == 1)
            x = opening(name=f"features_{first}")(x, train)
            for i in range(first + 1, first + n):
                x = block(dilation=stage.rest, name=f"features_{i}")(x, train)
            features[stage.total] = x = lax.stop_gradient(x) if number <= self.frozen else x
        if self.head:
            channels = divisible(1280 * max(1.0, self.width))
            features[plan[-1].total] = conv(channels, norm=self.norm, name="features_18")(x, train)
        return features

    def frozen_modules(self) -> tuple[str, ...]:
        """Names of the submodules that are not trained."""
        if not self.frozen:
            return ()
        last = max(
            f + n for f, number, (_, _, n, _) in zip(FIRST, NUMBERS, STAGES, strict=True) if number <= self.frozen
        )
        return tuple(f"features_{i}" for i in range(last))
