"""Semantic loss: cross-entropy weighted by how rare a class is."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.losses import Scalar
from jaxseg.types import IGNORED, Outputs, Sum, Targets


def class_weights(frequencies: Float[Array, " c"], epsilon: Scalar = 1.02, power: Scalar = 1.0) -> Float[Array, " c"]:
    r"""Weight of each class by its frequency, bounded by epsilon.

    .. math:: w_c = \log(f_c + \epsilon)^{-\text{power}}

    Args:
      frequencies: share of each class among the labeled pixels of the training set, in [0, 1].
      epsilon: > 1; 1.02 bounds the weights by 50.
      power: 1 as in the paper, 0.5 for its root, 0 for uniform weights. High weights cost mask sharpness.

    Returns:
      Weights, all positive.

    References:
      Milioto et al., ICRA 2019, eq. 2; the exponent is ours.
    """
    return jnp.log(frequencies + epsilon) ** -power


def cross_entropy(outputs: Outputs, targets: Targets, class_weights: Float[Array, " c"]) -> Sum:
    r"""Cross-entropy of each element's class, weighted by class.

    .. math:: -\frac{1}{P} \sum_p w_{c(p)} \log \hat{y}_{p, c(p)}

    Args:
      outputs: class logits (h, w, c); the other heads are not read.
      targets: class ids on the same grid; 255 is left out.
      class_weights: weight of each class, >= 0.

    Returns:
      Summed loss and the number of elements that are not ignored (whatever their weights).

    References:
      Milioto et al., ICRA 2019, eq. 1.
    """
    logits = outputs.semantic
    counted = targets.semantic != IGNORED
    # A mask, not an index: the gradient of indexing is a scatter, which is slow. An ignored label matches no class.
    is_class = targets.semantic[..., None] == jnp.arange(logits.shape[-1])[None, None]
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    loss = -jnp.sum(jnp.where(is_class, class_weights[None, None] * log_probs, 0.0))
    return Sum(loss, jnp.sum(counted, dtype=loss.dtype))
