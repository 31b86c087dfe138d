"""Color spaces. Images are uint8 in 0..255 or floats in [0, 1]; channels come last."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

# Rows are X/Xn, Y/Yn and Z/Zn: linear sRGB to CIE XYZ, over the white of D65 (2 degrees) as the conversion needs them.
_XYZ_OVER_WHITE = (
    np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    / np.array([[0.95047], [1.0], [1.08883]])
).tolist()


def _inverse_gamma(value: Any, xp: ModuleType) -> Any:
    return xp.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)


# A byte has 256 values: a table spares a power per channel, which costs more than all the rest on CPU.
_LINEAR_OF_BYTE = _inverse_gamma(np.arange(256) / 255.0, np).astype(np.float32)


def _linear(channel: Array) -> Float[Array, "..."]:
    if channel.dtype == jnp.uint8:
        return jnp.asarray(_LINEAR_OF_BYTE)[channel]
    return _inverse_gamma(channel.astype(jnp.float32), jnp)


def _cube_root(value: Float[Array, "..."]) -> Float[Array, "..."]:
    """Cube root of positive floats to about 2e-5 relative: `jnp.cbrt` costs ten times this on CPU."""
    bits = jax.lax.bitcast_convert_type(value, jnp.int32)
    guess = jax.lax.bitcast_convert_type(jax.lax.div(bits, 3) + 0x2A5137A0, jnp.float32)
    cube = guess * guess * guess
    return guess * (cube + 2.0 * value) / (2.0 * cube + value)


def lab_planes(
    image: UInt8[Array, "*b 3"] | Float[Array, "*b 3"],
) -> tuple[Float[Array, "*b"], Float[Array, "*b"], Float[Array, "*b"]]:
    """The three planes L, a, b of `rgb_to_lab`: what vectorizes best, because nothing is interleaved.

    Args:
      image: sRGB, uint8 or float in [0, 1].

    Returns:
      L in [0, 100], a and b in about [-128, 128], each float32.
    """
    red, green, blue = (_linear(image[..., i]) for i in range(3))

    def response(weights: list[float]) -> Array:
        ratio = weights[0] * red + weights[1] * green + weights[2] * blue
        return jnp.where(ratio > 0.008856, _cube_root(ratio), 7.787 * ratio + 16.0 / 116.0)

    x, y, z = map(response, _XYZ_OVER_WHITE)
    return 116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)


def rgb_to_lab(image: UInt8[Array, "*b 3"] | Float[Array, "*b 3"]) -> Float[Array, "*b 3"]:
    r"""CIELAB of an sRGB image under D65 (2 degrees), within 0.02 of the exact formula.

    .. math:: L = 116 f(Y/Y_n) - 16, \quad a = 500 (f(X/X_n) - f(Y/Y_n)), \quad b = 200 (f(Y/Y_n) - f(Z/Z_n))

    with f(t) the cube root of t above 0.008856 and 7.787 t + 16/116 below.

    Args:
      image: sRGB, uint8 or float in [0, 1].

    Returns:
      L in [0, 100], a and b in about [-128, 128], float32.

    References:
      CIE 15:2004, Colorimetry; IEC 61966-2-1 for sRGB.
    """
    return jnp.stack(lab_planes(image), axis=-1)
