"""One update on one device: raw images and label maps in, new state and metrics out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxseg import config, targets
from jaxseg.losses import total
from jaxseg.ops import superpixels
from jaxseg.train.state import TrainState
from jaxseg.types import Batch, Targets


class Recipe(NamedTuple):
    """What fixes a step's program; numbers that may change without recompiling are arguments of the step.

    Attributes:
      network: maps images (b, H, W, 3) to outputs.
      update: the optimizer.
      superpixel: size k of a grid element, pixels.
      targets: what the heads are asked for.
      normalize: divisor of the center loss.
      clustering: "centers", or "all_to_all" for the baseline, which has neither center loss nor superpixels.
      axis_name: devices to reduce over; None for a lone device.
    """

    network: nn.Module
    update: optax.GradientTransformation
    superpixel: int
    targets: config.TargetSettings
    normalize: str = "positives"
    clustering: str = "centers"
    axis_name: str | None = None


class Numbers(NamedTuple):
    """Traced numbers of the loss.

    Attributes:
      weights: of each term, by name.
      hyper: constants of the terms.
      compactness: of the superpixels.
    """

    weights: Mapping[str, Float[Array, ""] | float]
    hyper: total.Hyperparameters
    compactness: Float[Array, ""] | float


def make_targets(batch: Batch, recipe: Recipe, compactness: Float[Array, ""] | float) -> Targets:
    """Superpixels and grid targets of a batch."""
    k, wanted = recipe.superpixel, recipe.targets
    if recipe.clustering == "all_to_all":
        assignment = jnp.full(batch.image.shape[:-1], superpixels.OWN, jnp.uint8)
    else:
        # A loop, not vmap: XLA would fuse the chain of minima into each of its three consumers, and compute it thrice.
        assignment = jax.lax.map(lambda image: superpixels.assign(image, k, compactness), batch.image)

    def one(semantic: Array, instance: Array, assignment: Array) -> Targets:
        return targets.make(
            semantic, instance, assignment, k, wanted.max_instances, style=wanted.center, radius=wanted.radius
        )

    return jax.vmap(one)(batch.semantic, batch.instance, assignment)


def step(
    state: TrainState, batch: Batch, numbers: Numbers, recipe: Recipe
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update; pure.

    Every loss is the global sum divided by the global count, so that N devices with B images each do what one device
    does with N B images.

    Args:
      state: before the update.
      batch: this device's examples.
      numbers: traced weights and constants.
      recipe: static parts.

    Returns:
      The new state, and global scalars: "loss", each term by its name, "gradient_norm", and the number of instances
      that "vanished" on the grid or did not fit ("overflow").
    """
    truth = make_targets(batch, recipe, numbers.compactness)
    terms = loss_terms(numbers.hyper, recipe.clustering, recipe.normalize)

    def loss(params: Any) -> tuple[Float[Array, ""], tuple]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        outputs, changed = recipe.network.apply(variables, batch.image, train=True, mutable=["batch_stats"])
        sums = total.evaluate(terms, outputs, truth)
        counts = _psum({name: s.count for name, s in sums.items()}, recipe.axis_name)
        share = {name: total.Sum(s.total, jax.lax.stop_gradient(counts[name])) for name, s in sums.items()}
        value, means = total.combine(share, numbers.weights)
        return value, (means | {"loss": value}, changed.get("batch_stats", {}))

    gradients, (scalars, stats) = jax.grad(loss, has_aux=True)(state.params)
    gradients, scalars = _psum((gradients, scalars), recipe.axis_name)
    counted = {"vanished": truth.vanished.sum(), "overflow": truth.overflow.sum()}
    scalars |= _psum(counted, recipe.axis_name) | {"gradient_norm": optax.tree.norm(gradients)}
    updates, opt_state = recipe.update.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, stats, opt_state), scalars


def loss_terms(
    hyper: total.Hyperparameters, clustering: str = "centers", normalize: str = "positives"
) -> dict[str, total.Term]:
    """The loss terms that a run is trained with, by name; arguments are those of `Recipe`."""
    return total.baseline_terms(hyper) if clustering == "all_to_all" else total.paper_terms(hyper, normalize)


def _psum(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def numbers(
    settings: config.Losses, frequencies: ArrayLike, compactness: float, clustering: str = "centers"
) -> Numbers:
    """The traced numbers of a config.

    Args:
      settings: weights and constants.
      frequencies: (c,) share of each class among the labelled pixels of the training set.
      compactness: of the superpixels.
      clustering: which loss terms there are; see `Recipe`.
    """
    from jaxseg.losses import semantic

    hyper = total.Hyperparameters(
        class_weights=semantic.class_weights(jnp.asarray(frequencies), power=settings.class_weight_power),
        alpha=settings.alpha,
        gamma=settings.gamma,
        attraction_margin=settings.attraction_margin,
        repulsion_margin=settings.repulsion_margin,
    )
    weights = {name: jnp.float32(getattr(settings, name)) for name in loss_terms(hyper, clustering)}
    return Numbers(weights, jax.tree.map(jnp.float32, hyper), jnp.float32(compactness))
