"""Center loss: the focal loss on the confidence that an element is an instance's center."""

import jax
import jax.numpy as jnp

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
    if normalize not in NORMALIZATIONS:
        raise ValueError(f'`normalize` must be "positives" or "elements": got {normalize!r}.')
    counted = (targets.semantic != IGNORED) & ~targets.unknown
    positive = counted & (targets.confidence >= 1)
    # Powers as exponentials of log-sigmoids: exact in both tails, and differentiable for a gamma of 0 or below 1.
    log_on, log_off = jax.nn.log_sigmoid(outputs.center), jax.nn.log_sigmoid(-outputs.center)
    loss_on = -alpha * jnp.exp(gamma * log_off) * log_on
    loss_off = -(1 - alpha) * (1 - targets.confidence) ** 4 * jnp.exp(gamma * log_on) * log_off
    loss = jnp.where(counted, jnp.where(positive, loss_on, loss_off), 0.0)
    return Sum(jnp.sum(loss), jnp.sum(positive if normalize == "positives" else counted, dtype=loss.dtype))
