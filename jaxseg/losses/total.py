"""The weighted sum of named terms. A term is any function of (outputs, targets) of one image that returns a `Sum`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxseg.losses import Scalar, centers, embedding, semantic
from jaxseg.types import Outputs, Sum, Targets

Term = Callable[[Outputs, Targets], Sum]
"""A loss of one image before its division. Users write their own and add them to the mapping under a new name."""


@struct.dataclass
class Hyperparameters:
    """Numbers of the paper's losses. Traced: they may be swept with vmap and change without recompiling.

    Attributes:
      class_weights: weight of each class, >= 0; see `semantic.class_weights`.
      alpha: weight of the positives of the center loss, in [0, 1].
      gamma: focusing exponent of the center loss, >= 0.
      attraction_margin: embedding distance to the center below which an element is close enough, >= 0.
      repulsion_margin: embedding distance between centers above which they are far enough, >= 0.
      class_correction: how much of the class weights' bias stays inside the loss, in [0, 1]; see
        `semantic.cross_entropy`.
    """

    class_weights: Float[Array, "*b c"]
    alpha: float | int | Float[Array, "*b"]
    gamma: float | int | Float[Array, "*b"]
    attraction_margin: float | int | Float[Array, "*b"]
    repulsion_margin: float | int | Float[Array, "*b"]
    class_correction: float | int | Float[Array, "*b"] = 0.0


def paper_terms(hyper: Hyperparameters, normalize: str = "positives") -> dict[str, Term]:
    """The five terms of the paper, by name: semantic, attraction, repulsion, regularization, center.

    Args:
      hyper: their numbers.
      normalize: what the center loss is divided by, one of `centers.NORMALIZATIONS` (static).

    Returns:
      A new mapping: add to it, or leave out of it, what you like.
    """
    return {
        "semantic": _semantic(hyper),
        "attraction": partial(embedding.attraction, margin=hyper.attraction_margin),
        "repulsion": partial(embedding.repulsion, margin=hyper.repulsion_margin),
        "regularization": embedding.regularization,
        "center": partial(centers.focal, alpha=hyper.alpha, gamma=hyper.gamma, normalize=normalize),
    }


def baseline_terms(hyper: Hyperparameters) -> dict[str, Term]:
    """The terms of the baseline without centers, by name: semantic, attraction, repulsion, regularization.

    Args:
      hyper: their numbers.

    Returns:
      A new mapping, in which each instance's mean embedding takes the place of that at its center.

    References:
      Milioto et al., ICRA 2019, Table I, first row; De Brabandere et al., 2017.
    """
    return {
        "semantic": _semantic(hyper),
        "attraction": partial(embedding.attraction, margin=hyper.attraction_margin, anchor="mean"),
        "repulsion": partial(embedding.repulsion, margin=hyper.repulsion_margin, anchor="mean"),
        "regularization": partial(embedding.regularization, anchor="mean"),
    }


def _semantic(hyper: Hyperparameters) -> Term:
    return partial(semantic.cross_entropy, class_weights=hyper.class_weights, correction=hyper.class_correction)


def evaluate(
    terms: Mapping[str, Term],
    outputs: Outputs,
    targets: Targets,
    chosen: Mapping[str, Bool[Array, ""]] | None = None,
) -> dict[str, Sum]:
    """Every term, summed over a batch and not divided.

    Args:
      terms: function of one image, by name.
      outputs: predictions with a leading batch axis.
      targets: targets with the same leading axis.
      chosen: by name, which terms are differentiated by the outputs; gradients of others are 0, even where they would
        not be finite. None for all.

    Returns:
      Scalar sums by name: add them over accumulation steps and devices, then `combine` them.
    """

    def over_batch(name: str, term: Term) -> Sum:
        seen = outputs if chosen is None else _differentiated(outputs, chosen[name])
        return jax.tree.map(partial(jnp.sum, axis=0), jax.vmap(term)(seen, targets))

    return {name: over_batch(name, term) for name, term in terms.items()}


def _differentiated(outputs: Outputs, chosen: Bool[Array, ""]) -> Outputs:
    """The same values. On the way back a choice, where multiplication by 0 would make NaN of what is not finite."""
    return jax.tree.map(lambda x: jnp.where(chosen, x, jax.lax.stop_gradient(x)), outputs)


def combine(
    sums: Mapping[str, Sum], weights: Mapping[str, Scalar]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Divide every sum once, and add the means up by weight.

    Args:
      sums: what `evaluate` returned, added up over everything that makes one step.
      weights: weight of each term, by the same names.

    Returns:
      The total, and each term's mean without its weight.

    Raises:
      ValueError: the names differ.
    """
    if sums.keys() != weights.keys():
        raise ValueError(f"`weights` must name each term once: got {sorted(weights)} for terms {sorted(sums)}.")
    means = {name: value.mean() for name, value in sums.items()}
    total = jnp.sum(jnp.array([weights[name] * mean for name, mean in means.items()]))
    return total, means


def uncertain(
    log_variances: Mapping[str, Scalar],
    means: Mapping[str, Scalar],
    weights: Mapping[str, Scalar],
    tasks: Sequence[tuple[str, str]],
) -> Float[Array, ""]:
    r"""The loss of several tasks whose uncertainties are learnt with it.

    .. math:: \sum_t \left( e^{-s_t} L_t + s_t \right) + \sum_j w_j l_j, \quad L_t = \sum_{i \in t} w_i l_i

    with s the logarithm of each task's variance, and terms j of no task. Both equations of the paper, for regression
    (half of this) and for classification (with s / 2), come to tasks that weigh 1 / (2 L) once s has settled; this one
    comes to 1 / L for each. A task whose loss is not above 0 (it is switched off, or the batch says nothing about it)
    gives its s no gradient.

    Args:
      log_variances: s of each task.
      means: each term's mean.
      weights: of each term; other names among the means are not read.
      tasks: term and task, of terms that have one.

    References:
      Kendall, Gal and Cipolla, CVPR 2018, eq. 7 and 10, and section 3.2 for the logarithm.
    """
    whose = dict(tasks)
    # Added one by one: put into an array, sums over devices crash the compiler of jaxlib 0.11.2 for processors.
    losses: dict[str | None, Array] = {task: jnp.zeros(()) for task in (None, *log_variances)}
    for name, w in weights.items():
        losses[whose.get(name)] += w * means[name]
    value = losses[None]
    for task, s in log_variances.items():
        learnt = jnp.where(losses[task] > 0, s, jax.lax.stop_gradient(s))
        value += jnp.exp(-learnt) * losses[task] + learnt
    return value
