"""The decoder that all three outputs share in form: upsample, merge the encoder's features, refine."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.nn.layers import Convolution, Norm, convolution, divisible, normalize, rematerialized, upsample

WIDTHS = (16, 32, 48, 96, 96, 96)
"""Default channels at stride 1, 2, 4, 8, 16 and 32."""


class Merge(nn.Module):
    """Concatenates upsampled features with the encoder's and squashes them with a 1x1 convolution.

    The 1x1 convolution commutes with the upsampling, so its share of the coarse features is computed before they grow:
    the same result for a quarter of the work, and only the squashed channels are upsampled.

    Attributes:
      features: output channels.
      norm: batch norm's settings.
      dtype: of the computation.
    """

    features: int
    norm: Norm = Norm()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], skip: Float[Array, "b 2*h 2*w s"] | None, train: bool
    ) -> Float[Array, "b 2*h 2*w o"]:
        """Runs the block on coarse features and the encoder's features of the finer stride, if it has any."""
        coarse, fine = x.shape[-1], 0 if skip is None else skip.shape[-1]
        shape = (1, 1, coarse + fine, self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32).astype(self.dtype)
        y = upsample(convolution(x.astype(self.dtype), kernel[:, :, :coarse]))
        if skip is not None:
            y = y + convolution(skip.astype(self.dtype), kernel[:, :, coarse:])
        return nn.relu(normalize(y, train, self.norm, self.dtype))


class Decoder(nn.Module):
    """Brings an encoder's features to the superpixel grid and predicts there.

    From the coarsest features, repeats: upsample x2, concatenate the encoder's features of that stride where there are
    any, squash with a 1x1 convolution, refine with two 3x3 convolutions. A last 1x1 convolution in float32 predicts.

    Attributes:
      channels: of the prediction.
      stride: of the prediction, in pixels: the superpixel size k. Without a step left to go, squashes and refines once.
      widths: channels at stride 1, 2, 4 and so on.
      width: multiplier of the widths.
      scale: standard deviation of the initial prediction's kernel, relative to one that keeps variance.
      bias: initial bias of the prediction.
      norm: batch norm's settings.
      dtype: of the computation up to the last layer.
      remat: store the layers' inputs alone for the gradient.

    References:
      Milioto et al., ICRA 2019, section III-A.
    """

    channels: int
    stride: int = 4
    widths: tuple[int, ...] = WIDTHS
    width: float = 1.0
    scale: float = 0.1
    bias: float = 0.0
    norm: Norm = Norm()
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, features: dict[int, Float[Array, "b _h _w _c"]], train: bool) -> Float[Array, "b h w o"]:
        """Runs the decoder.

        Args:
          features: the encoder's, by stride; the largest stride is where decoding starts.
          train: normalize with the batch's statistics and update the running ones.

        Returns:
          The prediction at the decoder's stride, float32.
        """
        settings: dict[str, Any] = {"norm": self.norm, "dtype": self.dtype}
        reached = max(features)
        x = features[reached]
        if reached == self.stride:
            x = Convolution(self._width(reached), name=f"squash_{reached}", **settings)(x, train)
            x = self._refine(x, reached, train)
        while reached > self.stride:
            reached //= 2
            merge = rematerialized(Merge, self.remat)(self._width(reached), name=f"squash_{reached}", **settings)
            x = self._refine(merge(x, features.get(reached), train), reached, train)
        kernel = nn.initializers.variance_scaling(self.scale**2, "fan_in", "truncated_normal")
        bias = nn.initializers.constant(self.bias)
        return nn.Dense(self.channels, kernel_init=kernel, bias_init=bias, name="predict")(x.astype(jnp.float32))

    def _width(self, stride: int) -> int:
        return divisible(self.widths[stride.bit_length() - 1] * self.width)

    def _refine(self, x: Array, stride: int, train: bool) -> Array:
        kind = rematerialized(Convolution, self.remat)
        for i in range(2):
            name = f"refine_{stride}_{i}"
            x = kind(x.shape[-1], 3, norm=self.norm, dtype=self.dtype, name=name)(x, train)
        return x
