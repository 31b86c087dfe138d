"""One update on one device, whatever is learnt: a batch in, new state and scalars out."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from jaxseg.losses import total
from jaxseg.train import state as states
from jaxseg.train.state import TrainState
from jaxseg.types import Sum


class Evaluated(NamedTuple):
    """What a task makes of a batch.

    Attributes:
      sums: loss terms by name, summed over the batch.
      batch_stats: running statistics after it.
      measured: what else is logged, by name: counts, and means as sums.
    """

    sums: Mapping[str, Sum]
    batch_stats: Any
    measured: Mapping[str, Sum | Array]


class Numbers(NamedTuple):
    """Traced numbers of an update.

    Attributes:
      weights: of each loss term, by name.
      hyper: constants of the task.
      average: decay of the moving average, for states that keep one.
    """

    weights: Mapping[str, Float[Array, ""] | float]
    hyper: Any
    average: Float[Array, ""] | float = 0.0


class Task(Protocol):
    """What fixes a step's program; numbers that may change without recompiling are arguments of the step."""

    @property
    def network(self) -> nn.Module:
        """What is trained; its encoder is its submodule "encoder"."""

    @property
    def update(self) -> optax.GradientTransformation:
        """The optimizer."""

    @property
    def axis_name(self) -> str | None:
        """Devices to reduce over; None for a lone device."""

    def on(self, axis_name: str) -> "Task":
        """The same, reducing over the devices of a mapped axis."""

    def prepare(self, batch: Any, numbers: Numbers) -> Any:
        """What the losses compare with; nothing is differentiated here."""

    def evaluate(self, params: Any, batch_stats: Any, batch: Any, truth: Any, numbers: Numbers) -> Evaluated:
        """Loss terms of a batch."""


def step(state: TrainState, batch: Any, numbers: Numbers, task: Task) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update; pure.

    Every loss is the global sum divided by the global count, so that N devices with B images each do what one device
    does with N B images.

    Args:
      state: before the update.
      batch: this device's examples.
      numbers: traced weights and constants.
      task: static parts.

    Returns:
      The new state, and global scalars: "loss", each term by its name, "gradient_norm", and what the task measures.
    """
    axis_name, truth = task.axis_name, task.prepare(batch, numbers)

    def loss(params: Any) -> tuple[Float[Array, ""], tuple]:
        sums, stats, measured = task.evaluate(params, state.batch_stats, batch, truth, numbers)
        counts = _psum({name: s.count for name, s in sums.items()}, axis_name)
        share = {name: Sum(s.total, jax.lax.stop_gradient(counts[name])) for name, s in sums.items()}
        value, means = total.combine(share, numbers.weights)
        return value, (means | {"loss": value}, stats, measured)

    gradients, (scalars, stats, measured) = jax.grad(loss, has_aux=True)(state.params)
    gradients, scalars, measured = _psum((gradients, scalars, measured), axis_name)
    scalars |= {name: _logged(value) for name, value in measured.items()}
    scalars |= {"gradient_norm": optax.tree.norm(gradients)}
    updates, opt_state = task.update.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average:
        average = states.averaged(average, {"params": params, "batch_stats": stats}, numbers.average, state.step)
    return TrainState(state.step + 1, params, stats, opt_state, average), scalars


def _logged(value: Sum | Array) -> Array:
    return value.mean() if isinstance(value, Sum) else value


def _psum(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
