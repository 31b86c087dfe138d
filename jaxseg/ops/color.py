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


def _response(ratio: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """f(t) of `rgb_to_lab`, as numerator and denominator.

    The cube root comes from a guess by a third of the exponent's bits and one step of Halley's, to about 2e-5 relative:
    `jnp.cbrt` costs ten times this on CPU.
    """
    bits = jax.lax.bitcast_convert_type(ratio, jnp.int32).astype(jnp.float32)
    guess = jax.lax.bitcast_convert_type((bits * (1 / 3)).astype(jnp.int32) + 0x2A5137A0, jnp.float32)
    cube, bright = guess * guess * guess, ratio > 0.008856
    return (
        jnp.where(bright, guess * (cube + 2.0 * ratio), 7.787 * ratio + 16.0 / 116.0),
        jnp.where(bright, 2.0 * cube + ratio, 1.0),
    )


def lab_planes(
    image: UInt8[Array, "*b 3"] | Float[Array, "*b 3"],
) -> tuple[Float[Array, "*b"], Float[Array, "*b"], Float[Array, "*b"]]:
    """The three planes L, a, b of `rgb_to_lab`: what vectorizes best, because nothing is interleaved.

    Each plane ends in a division. XLA on CPU does not repeat a division in everything that reads its result, so that
    three planes are stored and nothing behind them; what ends in cheaper operations it computes anew for each reader.

    Args:
      image: sRGB, uint8 or float in [0, 1].

    Returns:
      L in [0, 100], a and b in about [-128, 128], each float32.
    """
    red, green, blue = (_linear(image[..., i]) for i in range(3))
    ratios = (weights[0] * red + weights[1] * green + weights[2] * blue for weights in _XYZ_OVER_WHITE)
    (x, over_x), (y, over_y), (z, over_z) = map(_response, ratios)
    return (
        (116.0 * y - 16.0 * over_y) / over_y,
        500.0 * (x * over_y - y * over_x) / (over_x * over_y),
        200.0 * (y * over_z - z * over_y) / (over_y * over_z),
    )


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
