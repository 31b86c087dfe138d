"""Embedding losses: elements to their instance's center, centers away from one another, centers near the origin.

Each is a mean within the image, so its count is 1, or 0 for an image that has too few instances to define it; such an
image does not dilute the mean of the batch. Hinges are not squared.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg.losses import Scalar
from jaxseg.types import Outputs, Sum, Targets


def attraction(outputs: Outputs, targets: Targets, margin: Scalar) -> Sum:
    r"""Hinged distance of every element to the embedding at its instance's center.

    .. math:: \frac{1}{K} \sum_k \frac{1}{P_k} \sum_{p \in k} [\,\|e_{k,c} - e_{k,p}\| - \delta_a]^+

    Args:
      outputs: embeddings (h, w, d); the other heads are not read.
      targets: instance of each element and center of each instance, on the same grid.
      margin: delta_a, in embedding units, >= 0.

    Returns:
      (loss, 1), or (0, 0) without instances.

    References:
      Milioto et al., ICRA 2019, eq. 3.
    """
    row = jnp.maximum(targets.instance - 1, 0)
    member = targets.instance > 0
    sizes = jnp.zeros(targets.valid.shape, jnp.float32).at[row].add(member.astype(jnp.float32))
    instances = jnp.sum(targets.valid, dtype=jnp.float32)
    # The two means as one weighted sum over elements: no array of instances by elements, no scatter of losses.
    weights = member / jnp.maximum(instances * sizes, 1.0)[row]
    distances = _norm(_at_centers(outputs, targets)[row] - outputs.embedding)
    return _mean(weights * jax.nn.relu(distances - margin), instances >= 1)


def repulsion(outputs: Outputs, targets: Targets, margin: Scalar) -> Sum:
    r"""Hinged closeness of the embeddings at the centers of every two instances, averaged over ordered pairs.

    .. math:: \frac{1}{K (K - 1)} \sum_{k_A \ne k_B} [\delta_r - \|e_{k_A,c} - e_{k_B,c}\|\,]^+

    Args:
      outputs: embeddings (h, w, d); the other heads are not read.
      targets: center of each instance, on the same grid.
      margin: delta_r, in embedding units, >= 0.

    Returns:
      (loss, 1), or (0, 0) with fewer than two instances.

    References:
      Milioto et al., ICRA 2019, eq. 4.
    """
    centers = _at_centers(outputs, targets)
    # Differences, not |a|^2 - 2ab + |b|^2: the expansion cancels exactly where the hinge acts.
    distances = _norm(centers[:, None] - centers[None])
    pairs = targets.valid[:, None] & targets.valid[None] & ~jnp.eye(targets.valid.size, dtype=bool)
    number = jnp.sum(pairs, dtype=jnp.float32)
    return _mean(jnp.where(pairs, jax.nn.relu(margin - distances), 0.0) / jnp.maximum(number, 1.0), number >= 1)


def regularization(outputs: Outputs, targets: Targets) -> Sum:
    r"""Distance of the embeddings at the centers from the origin.

    .. math:: \frac{1}{K} \sum_k \|e_{k,c}\|

    Args:
      outputs: embeddings (h, w, d); the other heads are not read.
      targets: center of each instance, on the same grid.

    Returns:
      (loss, 1), or (0, 0) without instances.

    References:
      Milioto et al., ICRA 2019, section III-A.3 (its weight there is 0.001); De Brabandere et al., 2017, eq. 3.
    """
    norms = _norm(_at_centers(outputs, targets))
    instances = jnp.sum(targets.valid, dtype=jnp.float32)
    return _mean(jnp.where(targets.valid, norms, 0.0) / jnp.maximum(instances, 1.0), instances >= 1)


def _at_centers(outputs: Outputs, targets: Targets) -> Float[Array, "n d"]:
    """Embedding at each instance's center; unused rows hold that of element (0, 0)."""
    return outputs.embedding[targets.center[:, 0], targets.center[:, 1]]


def _norm(vectors: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """Euclidean norm over the last axis with gradient 0 at 0, where every center meets itself."""
    squares = jnp.sum(vectors**2, axis=-1)
    positive = squares > 0
    # Both branches of the outer `where` are differentiated: sqrt must not see the 0, or its gradient is NaN.
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def _mean(terms: Float[Array, "..."], defined: Bool[Array, ""]) -> Sum:
    """Sum of terms that are already divided, counted as one image where it is defined."""
    return Sum(jnp.sum(terms), defined.astype(terms.dtype))
