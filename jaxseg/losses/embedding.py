"""Embedding losses: elements to their instance's center, centers away from one another, centers near the origin.

Each is a mean within the image, so its count is 1, or 0 for an image that has too few instances to define it; such an
image does not dilute the mean of the batch. Hinges are not squared. What stands for an instance is the embedding at its
center, as in the paper; with ``anchor="mean"`` it is the mean embedding of its elements (De Brabandere et al., 2017),
which is what a network without centers is trained for. That paper's own terms, with squared hinges, are `variance`,
`distance` and `regularization` with this anchor.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg.losses import Scalar
from jaxseg.types import Outputs, Sum, Targets

ANCHORS = ("center", "mean")
"""What stands for an instance: the embedding at its center, or the mean of its elements' embeddings."""


def attraction(outputs: Outputs, targets: Targets, margin: Scalar, anchor: str = "center") -> Sum:
    r"""Hinged distance of every element to the embedding at its instance's center.

    .. math:: \frac{1}{K} \sum_k \frac{1}{P_k} \sum_{p \in k} [\,\|e_{k,c} - e_{k,p}\| - \delta_a]^+

    Args:
      outputs: embeddings (h, w, d); the other heads are not read.
      targets: instance of each element and center of each instance, on the same grid.
      margin: delta_a, in embedding units, >= 0.
      anchor: what stands for an instance, one of `ANCHORS` (static).

    Returns:
      (loss, 1), or (0, 0) without instances.

    Raises:
      ValueError: no such anchor.

    References:
      Milioto et al., ICRA 2019, eq. 3; De Brabandere et al., 2017, eq. 1 (the mean; its hinge is squared).
    """
    return _attraction(outputs, targets, margin, anchor, squared=False)


def repulsion(outputs: Outputs, targets: Targets, margin: Scalar, anchor: str = "center") -> Sum:
    r"""Hinged closeness of the embeddings at the centers of every two instances, averaged over ordered pairs.

    .. math:: \frac{1}{K (K - 1)} \sum_{k_A \ne k_B} [\delta_r - \|e_{k_A,c} - e_{k_B,c}\|\,]^+

    Args:
      outputs: embeddings (h, w, d); the other heads are not read.
      targets: center of each instance, on the same grid.
      margin: delta_r, in embedding units, >= 0.
      anchor: what stands for an instance, one of `ANCHORS` (static).

    Returns:
      (loss, 1), or (0, 0) with fewer than two instances.

    Raises:
      ValueError: no such anchor.

    References:
      Milioto et al., ICRA 2019, eq. 4.
    """
    return _repulsion(outputs, targets, margin, anchor, squared=False)


def regularization(outputs: Outputs, targets: Targets, anchor: str = "center") -> Sum:
    r"""Distance of the embeddings at the centers from the origin.

    .. math:: \frac{1}{K} \sum_k \|e_{k,c}\|

    Args:
      outputs: embeddings (h, w, d); the other heads are not read.
      targets: center of each instance, on the same grid.
      anchor: what stands for an instance, one of `ANCHORS` (static).

    Returns:
      (loss, 1), or (0, 0) without instances.

    Raises:
      ValueError: no such anchor.

    References:
      Milioto et al., ICRA 2019, section III-A.3 (its weight there is 0.001); De Brabandere et al., 2017, eq. 3.
    """
    norms = _norm(_anchors(outputs, targets, anchor))
    instances = jnp.sum(targets.valid, dtype=jnp.float32)
    return _mean(jnp.where(targets.valid, norms, 0.0) / jnp.maximum(instances, 1.0), instances >= 1)


def variance(outputs: Outputs, targets: Targets, margin: Scalar) -> Sum:
    r"""Squared hinge of every element's distance to its instance's mean embedding.

    .. math:: \frac{1}{K} \sum_k \frac{1}{P_k} \sum_{p \in k} ([\,\|\mu_k - e_{k,p}\| - \delta_v]^+)^2

    Args:
      outputs: embeddings (h, w, d); the other heads are not read.
      targets: instance of each element, on the same grid.
      margin: delta_v, in embedding units, >= 0; 0.5 in their experiments.

    Returns:
      (loss, 1), or (0, 0) without instances.

    References:
      De Brabandere et al., 2017, eq. 1.
    """
    return _attraction(outputs, targets, margin, "mean", squared=True)


def distance(outputs: Outputs, targets: Targets, margin: Scalar) -> Sum:
    r"""Squared hinge of the closeness of the mean embeddings of every two instances, averaged over ordered pairs.

    .. math:: \frac{1}{K (K - 1)} \sum_{k_A \ne k_B} ([2 \delta_d - \|\mu_{k_A} - \mu_{k_B}\|\,]^+)^2

    Args:
      outputs: embeddings (h, w, d); the other heads are not read.
      targets: instance of each element, on the same grid.
      margin: delta_d, half the distance that is far enough, in embedding units, >= 0; 1.5 in their experiments.

    Returns:
      (loss, 1), or (0, 0) with fewer than two instances.

    References:
      De Brabandere et al., 2017, eq. 2.
    """
    return _repulsion(outputs, targets, 2 * margin, "mean", squared=True)


def _attraction(outputs: Outputs, targets: Targets, margin: Scalar, anchor: str, squared: bool) -> Sum:
    """Mean over instances of the mean hinge of their elements."""
    row = jnp.maximum(targets.instance - 1, 0)
    member = targets.instance > 0
    sizes = jnp.zeros(targets.valid.shape, jnp.float32).at[row].add(member.astype(jnp.float32))
    instances = jnp.sum(targets.valid, dtype=jnp.float32)
    # The two means as one weighted sum over elements: no array of instances by elements, no scatter of losses.
    weights = member / jnp.maximum(instances * sizes, 1.0)[row]
    distances = _norm(_anchors(outputs, targets, anchor)[row] - outputs.embedding)
    return _mean(weights * _hinge(distances - margin, squared), instances >= 1)


def _repulsion(outputs: Outputs, targets: Targets, margin: Scalar, anchor: str, squared: bool) -> Sum:
    """Mean hinge over ordered pairs of instances."""
    centers = _anchors(outputs, targets, anchor)
    # Differences, not |a|^2 - 2ab + |b|^2: the expansion cancels exactly where the hinge acts.
    distances = _norm(centers[:, None] - centers[None])
    pairs = targets.valid[:, None] & targets.valid[None] & ~jnp.eye(targets.valid.size, dtype=bool)
    number = jnp.sum(pairs, dtype=jnp.float32)
    hinges = jnp.where(pairs, _hinge(margin - distances, squared), 0.0)
    return _mean(hinges / jnp.maximum(number, 1.0), number >= 1)


def _hinge(values: Float[Array, "*b"], squared: bool) -> Float[Array, "*b"]:
    positive = jax.nn.relu(values)
    return positive**2 if squared else positive


def _anchors(outputs: Outputs, targets: Targets, anchor: str) -> Float[Array, "n d"]:
    """What stands for each instance; unused rows hold the embedding of element (0, 0), or 0."""
    if anchor not in ANCHORS:
        raise ValueError(f'`anchor` must be "center" or "mean": got {anchor!r}.')
    if anchor == "center":
        return outputs.embedding[targets.center[:, 0], targets.center[:, 1]]
    # Elements without an instance go to a row past the end, which is dropped.
    row = jnp.where(targets.instance > 0, targets.instance - 1, targets.valid.size).ravel()
    values = outputs.embedding.reshape(-1, outputs.embedding.shape[-1])
    sizes = jnp.zeros(targets.valid.shape, jnp.float32).at[row].add(1.0, mode="drop")
    sums = jnp.zeros((targets.valid.size, values.shape[-1])).at[row].add(values, mode="drop")
    return sums / jnp.maximum(sizes, 1.0)[:, None]


def _norm(vectors: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """Euclidean norm over the last axis with gradient 0 at 0, where every center meets itself."""
    squares = jnp.sum(vectors**2, axis=-1)
    positive = squares > 0
    # Both branches of the outer `where` are differentiated: sqrt must not see the 0, or its gradient is NaN.
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def _mean(terms: Float[Array, "..."], defined: Bool[Array, ""]) -> Sum:
    """Sum of terms that are already divided, counted as one image where it is defined."""
    return Sum(jnp.sum(terms), defined.astype(terms.dtype))
