"""Darknet-53, the encoder of YOLOv3 (Redmon and Farhadi, 2018)."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.nn.layers import Convolution, Norm, divisible, stages

CHANNELS = (64, 128, 256, 512, 1024)
"""Output channels of the five stages at width 1."""

leaky_relu = partial(nn.leaky_relu, negative_slope=0.1)


def convolutions(blocks: tuple[int, ...] = (1, 2, 8, 8, 4)) -> tuple[tuple[str, ...], ...]:
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
      norm: batch norm's settings.
      dtype: of the computation.
    """

    dilation: int = 1
    norm: Norm = Norm()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """Runs the block."""
        conv = partial(Convolution, activation=leaky_relu, norm=self.norm, dtype=self.dtype)
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
      norm: batch norm's settings.
      dtype: of the computation.
    """

    stride: int = 32
    width: float = 1.0
    blocks: tuple[int, ...] = (1, 2, 8, 8, 4)
    norm: Norm = Norm()
    dtype: DTypeLike = jnp.float32

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
        settings: dict[str, Any] = {"norm": self.norm, "dtype": self.dtype}
        conv: Any = partial(Convolution, size=3, activation=leaky_relu, **settings)
        x = conv(divisible(32 * self.width), name="stem")(images, train)
        features = {1: x}
        for i, (stage, channels, count) in enumerate(zip(plan, CHANNELS, self.blocks, strict=True)):
            channels = divisible(channels * self.width)
            x = conv(channels, stride=stage.stride, dilation=stage.first, name=f"down_{i}")(x, train)
            for j in range(count):
                x = Residual(stage.rest, name=f"block_{i}_{j}", **settings)(x, train)
            features[stage.total] = x
        return features
