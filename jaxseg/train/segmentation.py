"""What a segmentation network learns: superpixels and targets of a batch, and the loss terms on them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxseg import config, targets
from jaxseg.losses import own as owns
from jaxseg.losses import semantic, total
from jaxseg.ops import superpixels
from jaxseg.train.state import Rates
from jaxseg.train.step import Evaluated, Numbers
from jaxseg.types import Batch, Targets

TASKS = MappingProxyType(
    {
        "semantic": "semantic",
        "attraction": "embedding",
        "repulsion": "embedding",
        "regularization": "embedding",
        "center": "center",
    }
)
"""Which task the paper's terms are of."""


class Hyperparameters(NamedTuple):
    """Traced constants.

    Attributes:
      losses: of the paper's loss terms.
      compactness: of the superpixels.
      radius: of the centers that the center head is asked for, see `targets.make`.
      own: of other terms, by the names of term and argument.
    """

    losses: total.Hyperparameters
    compactness: Float[Array, ""] | float
    radius: Float[Array, ""] | float
    own: Mapping[str, Mapping[str, Float[Array, ""] | float]] = {}


class Recipe(NamedTuple):
    """What fixes the program of a segmentation step; a `step.Task`.

    Attributes:
      network: maps images (b, H, W, 3) to outputs.
      update: the optimizer.
      superpixel: size k of a grid element, pixels.
      targets: what the heads are asked for; the radius is traced instead, see `Hyperparameters`.
      normalize: divisor of the center loss.
      clustering: "centers", or "all_to_all" for the baseline, which has neither center loss nor superpixels.
      own: loss terms beside the paper's.
      uncertain: term and task, where the tasks' uncertainties are learnt; see `uncertain`.
      axis_name: devices to reduce over; None for a lone device.
    """

    network: nn.Module
    update: optax.GradientTransformation
    superpixel: int
    targets: config.TargetSettings
    normalize: str = "positives"
    clustering: str = "centers"
    own: tuple[owns.Own, ...] = ()
    uncertain: tuple[tuple[str, str], ...] = ()
    axis_name: str | None = None

    def on(self, axis_name: str) -> "Recipe":
        """The same, reducing over the devices of a mapped axis."""
        return self._replace(axis_name=axis_name)

    def prepare(self, batch: Batch, numbers: Numbers) -> Targets:
        """Superpixels and grid targets."""
        return make_targets(batch, self, numbers.hyper.compactness, numbers.hyper.radius)

    def evaluate(
        self,
        params: Any,
        batch_stats: Any,
        batch: Batch,
        truth: Targets,
        numbers: Numbers,
        chosen: Mapping[str, Bool[Array, ""]] | None = None,
    ) -> Evaluated:
        """Loss terms; measured are the instances that "vanished" on the grid or did not fit ("overflow")."""
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, changed = self.network.apply(variables, batch.image, train=True, mutable=["batch_stats"])
        hyper = numbers.hyper
        terms = loss_terms(hyper.losses, self.clustering, self.normalize)
        terms |= owns.terms(self.own, hyper.own, hyper.losses)
        counted = {"vanished": truth.vanished.sum(), "overflow": truth.overflow.sum()}
        with jax.named_scope("losses"):
            sums = total.evaluate(terms, outputs, truth, chosen)
        return Evaluated(sums, changed.get("batch_stats", {}), counted)


def make_targets(
    batch: Batch, recipe: Recipe, compactness: Float[Array, ""] | float, radius: Float[Array, ""] | float
) -> Targets:
    """Superpixels and grid targets of a batch."""
    k, wanted = recipe.superpixel, recipe.targets
    if recipe.clustering == "all_to_all":
        assignment = jnp.full(batch.image.shape[:-1], superpixels.OWN, jnp.uint8)
    else:
        # One image after another: what a batch needs on the way would leave a processor's caches.
        assignment = jax.lax.map(lambda image: superpixels.assign(image, k, compactness), batch.image)

    def one(semantic: Array, instance: Array, assignment: Array) -> Targets:
        return targets.make(semantic, instance, assignment, k, wanted.max_instances, style=wanted.center, radius=radius)

    return jax.vmap(one)(batch.semantic, batch.instance, assignment)


def loss_terms(
    hyper: total.Hyperparameters, clustering: str = "centers", normalize: str = "positives"
) -> dict[str, total.Term]:
    """The paper's loss terms that a run is trained with, by name; arguments are those of `Recipe`."""
    return total.baseline_terms(hyper) if clustering == "all_to_all" else total.paper_terms(hyper, normalize)


def uncertain(own: Sequence[owns.Own] = ()) -> tuple[tuple[str, str], ...]:
    """Term and task of the paper's terms, and of others that name a task."""
    return (*TASKS.items(), *((term.name, term.task) for term in own if term.task != "none"))


def numbers(
    settings: config.Losses,
    frequencies: ArrayLike,
    compactness: float,
    clustering: str = "centers",
    average: float = 0.0,
    steps: int = 1,
    radius: float = config.TargetSettings.radius,
    rates: Rates | None = None,
) -> Numbers:
    """The traced numbers of a config.

    Args:
      settings: weights and constants.
      frequencies: (c,) share of each class among the labelled pixels of the training set.
      compactness: of the superpixels.
      clustering: which loss terms there are; see `Recipe`.
      average: decay of the moving average.
      steps: of the whole run, of which schedules name fractions.
      radius: of the centers that the center head is asked for.
      rates: of the optimizer; None for those that it was made with.
    """
    hyper = total.Hyperparameters(
        class_weights=semantic.class_weights(jnp.asarray(frequencies), power=settings.class_weight_power),
        class_correction=settings.class_correction,
        alpha=settings.alpha,
        gamma=settings.gamma,
        attraction_margin=settings.attraction_margin,
        repulsion_margin=settings.repulsion_margin,
    )
    weights = {name: getattr(settings, name) for name in loss_terms(hyper, clustering)}
    weights |= {term.name: term.weight for term in settings.terms}
    own = {term.name: dict(term.constants) for term in settings.terms}
    schedules = {
        schedule.name: _schedule(schedule, steps) for schedule in settings.schedules if schedule.name in weights
    }
    weights, constants = jax.tree.map(jnp.float32, (weights, Hyperparameters(hyper, compactness, radius, own)))
    return Numbers(weights, constants, jnp.float32(average), rates, schedules)


def _schedule(settings: config.Schedule, steps: int) -> tuple[Array, Array]:
    """Steps, and what the weight is multiplied by there."""
    fractions, multipliers = jnp.asarray(settings.points, jnp.float32).T
    return fractions * steps, multipliers
