"""Darknet-53, the encoder of YOLOv3 (Redmon and Farhadi, YOLOv3: An Incremental Improvement, 2018)."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.nn.layers import Convolution, Norm, divisible, freeze, rematerialized, stages, standardized

CHANNELS = (64, 128, 256, 512, 1024)
"""Output channels of the five stages at width 1."""

BLOCKS = (1, 2, 8, 8, 4)
"""Residual blocks of the five stages, as published."""

SLOPE = 0.1
"""Of Darknet's leaky ReLU below zero."""

MEAN, STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
"""Darknet's images are RGB in [0, 1]."""


def convolutions(blocks: tuple[int, ...] = BLOCKS) -> tuple[tuple[str, ...], ...]:
    """Paths of the convolutions' parameters in the order of Darknet's weight files.

    Args:
      blocks: residual blocks of each stage.

    Returns:
      One path a convolution, such as ("block_2_0", "expand").
    """
    order: list[tuple[str, ...]] = [("stem",)]
    for stage, count in enumerate(blocks):
        order.append((f"down_{stage}",))
        order += [(f"block_{stage}_{i}", part) for i in range(count) for part in ("reduce", "expand")]
    return tuple(order)


class Residual(nn.Module):
    """Halves the channels, restores them with a 3x3 window, and adds the input.

    Attributes:
      dilation: distance between the taps of the 3x3 window.
      slope: of leaky ReLU below zero.
      norm: batch norm's settings.
      dtype: of the computation.
    """

    dilation: int = 1
    slope: float = SLOPE
    norm: Norm = Norm()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """Runs the block."""
        activation = partial(nn.leaky_relu, negative_slope=self.slope)
        conv = partial(Convolution, activation=activation, norm=self.norm, dtype=self.dtype)
        channels = x.shape[-1]
        y = conv(channels // 2, name="reduce")(x, train)
        y = conv(channels, size=3, dilation=self.dilation, name="expand")(y, train)
        return x + y


class Darknet53(nn.Module):
    """Residual network of 52 convolutions that returns its features by stride.

    Attributes:
      stride: output stride, 32, 16 or 8; below 32 the last strides become dilation.
      width: multiplier of the channels.
      blocks: residual blocks of each stage.
      mean: subtracted from RGB in [0, 1].
      std: what is divided by then.
      padding: of windows at stride 2, see `layers.pads`.
      slope: of leaky ReLU below zero.
      frozen: number of first stages that are neither trained nor normalize with the batch; the stem is of the first.
      norm: batch norm's settings.
      dtype: of the computation.
      remat: store the blocks' inputs alone for the gradient.
    """

    stride: int = 32
    width: float = 1.0
    blocks: tuple[int, ...] = BLOCKS
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    padding: str = "symmetric"
    slope: float = SLOPE
    frozen: int = 0
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
          The last features of each stride: 1, 2, 4, 8 and so on to the output stride.

        Raises:
          ValueError: the output stride is none of 32, 16 and 8.
        """
        plan = stages((2,) * len(CHANNELS), self.stride)
        conv: Any = partial(
            Convolution,
            size=3,
            activation=partial(nn.leaky_relu, negative_slope=self.slope),
            padding=self.padding,
            dtype=self.dtype,
        )
        x = standardized(images, self.mean, self.std)
        x = conv(divisible(32 * self.width), norm=freeze(self.norm, self.frozen > 0), name="stem")(x, train)
        x = lax.stop_gradient(x) if self.frozen else x  # The decoders may see the features of stride 1.
        features, kind = {1: x}, rematerialized(Residual, self.remat)
        for i, (stage, channels, count) in enumerate(zip(plan, CHANNELS, self.blocks, strict=True)):
            norm = freeze(self.norm, i < self.frozen)
            down: Any = partial(conv, divisible(channels * self.width), name=f"down_{i}", norm=norm)
            x = down(stride=stage.stride, dilation=stage.first, published=stage.published)(x, train)
            for j in range(count):
                block = kind(stage.rest, self.slope, norm, self.dtype, name=f"block_{i}_{j}")
                x = block(x, train)
            features[stage.total] = x = lax.stop_gradient(x) if i < self.frozen else x
        return features

    def frozen_modules(self) -> tuple[str, ...]:
        """Names of the submodules that are not trained."""
        if not self.frozen:
            return ()
        return tuple(path[0] for path in convolutions(self.blocks[: self.frozen]))
