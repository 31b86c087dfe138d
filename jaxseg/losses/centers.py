"""Center losses: focal losses on the confidence that an element is an instance's center."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.losses import Scalar
from jaxseg.types import IGNORED, Outputs, Sum, Targets

NORMALIZATIONS = ("positives", "elements")
"""What the focal loss is divided by: positive elements (RetinaNet), or all elements that it counts."""


def focal(
    outputs: Outputs,
    targets: Targets,
    alpha: Scalar,
    gamma: Scalar,
    normalize: str = "positives",
) -> Sum:
    r"""Focal loss of each element's center confidence.

    .. math::
      -\alpha (1 - \hat{y})^\gamma \log \hat{y} \text{ where } y = 1, \quad
      -(1 - \alpha)\, (1 - y)^4\, \hat{y}^\gamma \log(1 - \hat{y}) \text{ elsewhere}

    The factor (1 - y)^4 is 1 where targets are points or discs, as in the paper; on the flank of a Gaussian it spares
    elements near a center. Left out are ignored elements, and those of an instance that found no row, whose center may
    well be there.

    Args:
      outputs: center logits (h, w); the other heads are not read.
      targets: confidence and class of each element, and which are unknown, on the same grid.
      alpha: weight of the positives, in [0, 1]. The paper prints 0.01; with that no confidence comes near 0.7.
      gamma: focusing exponent, >= 0; 2 in the paper.
      normalize: what to count, one of `NORMALIZATIONS` (static).

    Returns:
      Summed loss, and the number of positives (0 for an image without, whose negatives still weigh on the batch's
      sum) or of elements.

    Raises:
      ValueError: `normalize` is neither.

    References:
      Milioto et al., ICRA 2019, eq. 5; Lin et al., Focal loss for dense object detection, 2017; Law and Deng,
      CornerNet, ECCV 2018, eq. 1 (the factor).
    """
    return _focal(outputs, targets, alpha, (1 - alpha) * (1 - targets.confidence) ** 4, gamma, normalize)


def penalty_reduced_focal(
    outputs: Outputs,
    targets: Targets,
    gamma: Scalar = 2.0,
    beta: Scalar = 4.0,
    normalize: str = "positives",
) -> Sum:
    r"""Focal loss of each element's center confidence that spares the surroundings of centers.

    .. math::
      -(1 - \hat{y})^\gamma \log \hat{y} \text{ where } y = 1, \quad
      -(1 - y)^\beta\, \hat{y}^\gamma \log(1 - \hat{y}) \text{ elsewhere}

    For the soft targets of `targets.make` with ``style="gaussian"``; with points and discs beta changes nothing.
    Positives and negatives weigh the same: with a beta of 4 it is twice `focal` with an alpha of 0.5. Left out is what
    `focal` leaves out.

    Args:
      outputs: center logits (h, w); the other heads are not read.
      targets: confidence and class of each element, and which are unknown, on the same grid.
      gamma: focusing exponent, >= 0; alpha in CornerNet, 2 there.
      beta: exponent of what is spared, >= 0; 4 in CornerNet.
      normalize: what to count, one of `NORMALIZATIONS` (static); CornerNet's is the positives.

    Returns:
      Summed loss, and the number of positives or of elements, as of `focal`.

    Raises:
      ValueError: `normalize` is neither.

    References:
      Law and Deng, CornerNet, ECCV 2018, eq. 1.
    """
    return _focal(outputs, targets, 1.0, (1 - targets.confidence) ** beta, gamma, normalize)


def _focal(
    outputs: Outputs, targets: Targets, on: Scalar, off: Float[Array, "h w"], gamma: Scalar, normalize: str
) -> Sum:
    """Focal loss with a weight for positives, and one for each element that is none."""
    if normalize not in NORMALIZATIONS:
        raise ValueError(f'`normalize` must be "positives" or "elements": got {normalize!r}.')
    counted = (targets.semantic != IGNORED) & ~targets.unknown
    positive = counted & (targets.confidence >= 1)
    # Powers as exponentials of log-sigmoids: exact in both tails, and differentiable for a gamma of 0 or below 1.
    log_on, log_off = jax.nn.log_sigmoid(outputs.center), jax.nn.log_sigmoid(-outputs.center)
    loss_on = -on * jnp.exp(gamma * log_off) * log_on
    loss_off = -off * jnp.exp(gamma * log_on) * log_off
    loss = jnp.where(counted, jnp.where(positive, loss_on, loss_off), 0.0)
    return Sum(jnp.sum(loss), jnp.sum(positive if normalize == "positives" else counted, dtype=loss.dtype))
