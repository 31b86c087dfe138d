"""One update on one device, whatever is learnt: a batch in, new state and scalars out."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxseg.losses import total
from jaxseg.train import state as states
from jaxseg.train.state import Rates, TrainState
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
      rates: of the optimizer; None for those that it was made with.
      schedules: of terms whose weight changes: steps, ascending, and what the weight is multiplied by there.
      limit: updates in a row without a finite loss and gradient that may be skipped before all stops.
    """

    weights: Mapping[str, Float[Array, ""] | float]
    hyper: Any
    average: Float[Array, ""] | float = 0.0
    rates: Rates | None = None
    schedules: Mapping[str, tuple[Float[Array, " n"], Float[Array, " n"]]] = {}
    limit: Int[Array, ""] | int = 0


class Task(Protocol):
    """What fixes a step's program; numbers that may change without recompiling are arguments of the step."""

    @property
    def network(self) -> nn.Module:
        """What is trained; its encoder is its submodule "encoder"."""

    @property
    def update(self) -> optax.GradientTransformation:
        """The optimizer; its update may take ``rates``, as that of `state.optimizer` does."""

    @property
    def axis_name(self) -> str | None:
        """Devices to reduce over; None for a lone device."""

    @property
    def uncertain(self) -> tuple[tuple[str, str], ...]:
        """Terms that are divided by a learnt uncertainty, and whose; none where all weights are given."""

    def on(self, axis_name: str) -> "Task":
        """The same, reducing over the devices of a mapped axis."""

    def prepare(self, batch: Any, numbers: Numbers) -> Any:
        """What the losses compare with; nothing is differentiated here."""

    def evaluate(
        self,
        params: Any,
        batch_stats: Any,
        batch: Any,
        truth: Any,
        numbers: Numbers,
        chosen: Mapping[str, Bool[Array, ""]] | None = None,
    ) -> Evaluated:
        """Loss terms of a batch; ``chosen`` says by name which of them are differentiated, None all."""


def step(
    state: TrainState, batch: Any, numbers: Numbers, task: Task, accumulate: int = 1
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update; pure.

    Every loss is the global sum divided by the global count, so that N devices with B images each do what one device
    does with N B images, all at once or in parts. An update whose loss or gradient is not finite changes nothing but
    the counters; once more than `Numbers.limit` came in a row, no later one changes anything either.

    Args:
      state: before the update.
      batch: this device's examples.
      numbers: traced weights and constants.
      task: static parts.
      accumulate: parts that the examples are computed in, one after another, which takes less memory; divides their
        number. Batch norm normalizes each part by itself (over all devices) and moves its statistics after each.

    Returns:
      The new state, and global scalars: "loss", each term by its name and without its weight, "gradient_norm",
      "skipped" and "in_a_row" of the new state, what the task measures, "weight/TERM" of terms with a schedule, and
      "log_variance/TASK" of uncertainties.
    """
    given = scheduled(numbers, state.step)
    weights = effective(state, given, task)
    if accumulate == 1:
        with jax.named_scope("targets"):
            truth = task.prepare(batch, numbers)
        gradients, (scalars, stats, measured) = _gradient(
            state, state.batch_stats, batch, truth, numbers._replace(weights=weights), task
        )
    else:
        gradients, (scalars, stats, measured) = _accumulated(
            state, batch, numbers._replace(weights=weights), task, accumulate
        )
    gradients, scalars, measured = _psum((gradients, scalars, measured), task.axis_name)
    if task.uncertain:
        # Of means over all devices and parts, so that each uncertainty is added once.
        known = state.params[states.LOG_VARIANCE]
        value, moved = jax.value_and_grad(total.uncertain)(known, scalars, given, task.uncertain)
        gradients, scalars = gradients | {states.LOG_VARIANCE: moved}, scalars | {"loss": value}
        scalars |= {f"{states.LOG_VARIANCE}/{name}": s for name, s in known.items()}
    scalars |= {f"weight/{name}": given[name] for name in numbers.schedules}
    scalars |= {name: _logged(value) for name, value in measured.items()}
    with jax.named_scope("optimizer"):
        scalars |= {"gradient_norm": optax.tree.norm(gradients)}
        rule = optax.with_extra_args_support(task.update)
        updates, opt_state = rule.update(gradients, state.opt_state, state.params, rates=numbers.rates)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average:
            average = states.averaged(average, {"params": params, "batch_stats": stats}, numbers.average, state.step)
        after = dataclasses.replace(state, params=params, batch_stats=stats, opt_state=opt_state, average=average)
        finite = jnp.isfinite(scalars["loss"]) & jnp.isfinite(scalars["gradient_norm"])
        after = _guarded(state, after, finite, numbers.limit)
    return after, scalars | {"skipped": after.skipped, "in_a_row": after.in_a_row}


def scheduled(numbers: Numbers, step: Int[Array, ""]) -> Mapping[str, Array | float]:
    """Weights of the terms at an update, after which there will be one more than ``step``."""

    def at(name: str, weight: Array | float) -> Array | float:
        return weight * jnp.interp(step, *numbers.schedules[name]) if name in numbers.schedules else weight

    return {name: at(name, weight) for name, weight in numbers.weights.items()}


def effective(state: TrainState, weights: Mapping[str, Array | float], task: Task) -> Mapping[str, Array | float]:
    """The same, with what uncertainties make of them."""
    if not task.uncertain:
        return weights
    known, whose = state.params[states.LOG_VARIANCE], dict(task.uncertain)
    return {name: w * jnp.exp(-known[whose[name]]) if name in whose else w for name, w in weights.items()}


def _gradient(
    state: TrainState,
    stats: Any,
    batch: Any,
    truth: Any,
    numbers: Numbers,
    task: Task,
    counts: Mapping[str, Array] | None = None,
) -> tuple[Any, tuple]:
    """This device's part of the gradient; with it the scalars, the statistics, and what the task measures.

    ``counts`` are the divisors of the terms; None for those of these examples on all devices.
    """

    def loss(params: Any) -> tuple[Float[Array, ""], tuple]:
        sums, changed, measured = task.evaluate(params, stats, batch, truth, numbers)
        known = _psum({name: s.count for name, s in sums.items()}, task.axis_name) if counts is None else counts
        share = {name: Sum(s.total, jax.lax.stop_gradient(known[name])) for name, s in sums.items()}
        value, means = total.combine(share, numbers.weights)
        return value, (means | {"loss": value}, changed, measured)

    return jax.grad(loss, has_aux=True)(state.params)


def _accumulated(state: TrainState, batch: Any, numbers: Numbers, task: Task, parts: int) -> tuple[Any, tuple]:
    """The same, of examples computed in parts.

    The divisors are counted first. No network runs for that unless a term's count depends on its outputs: what nothing
    depends on is not compiled.
    """
    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    with jax.named_scope("targets"):
        truths = jax.lax.map(lambda part: task.prepare(part, numbers), split)

    def count(both: tuple[Any, Any]) -> dict[str, Array]:
        sums = task.evaluate(state.params, state.batch_stats, *both, numbers).sums
        return {name: s.count for name, s in sums.items()}

    counted = jax.lax.map(count, (split, truths))
    counts = _psum(_summed(counted), task.axis_name)

    def add(before: tuple[Any, Any], both: tuple[Any, Any]) -> tuple[tuple[Any, Any], tuple]:
        gradients, stats = before
        more, (scalars, stats, measured) = _gradient(state, stats, *both, numbers, task, counts)
        return (jax.tree.map(jnp.add, gradients, more), stats), (scalars, measured)

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    (gradients, stats), (scalars, measured) = jax.lax.scan(add, (zeros, state.batch_stats), (split, truths))
    return gradients, (_summed(scalars), stats, _summed(measured))


def _guarded(before: TrainState, after: TrainState, finite: Array, limit: Array | int) -> TrainState:
    """The state after an update, or the one before where that update must not count."""
    running = before.in_a_row <= limit
    kept = jax.tree.map(lambda new, old: jnp.where(finite & running, new, old), after, before)
    row = jnp.where(running, jnp.where(finite, 0, before.in_a_row + 1), before.in_a_row)
    skipped = before.skipped + (running & ~finite).astype(jnp.int32)
    return dataclasses.replace(kept, step=before.step + running.astype(jnp.int32), skipped=skipped, in_a_row=row)


def _summed(tree: Any) -> Any:
    """Sums over the parts."""
    return jax.tree.map(lambda x: x.sum(0), tree)


def _logged(value: Sum | Array) -> Array:
    return value.mean() if isinstance(value, Sum) else value


def _psum(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
