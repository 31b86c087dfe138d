"""The state of a run and its optimizer."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from jaxseg import config

SGD_MOMENTUM = 0.9

ENCODER = "encoder"
"""Name of the encoder in every network's parameters."""


LOG_VARIANCE = "log_variance"
"""Name of the tasks' uncertainties beside the network's parameters, where weights of losses are learnt."""


@struct.dataclass
class TrainState:
    """All that changes during training; what is saved and resumed.

    Attributes:
      step: updates done; also the position in the data.
      params: trainable parameters, float32: of the network, and of the loss where it has any.
      batch_stats: running statistics of batch normalisation, float32.
      opt_state: of the optimizer.
      average: moving average of params and batch_stats, as a dict of both; empty where none is kept.
      skipped: updates that were left out, because their loss or gradient was not finite; their steps count.
      in_a_row: how many of these came last, one after another.
    """

    step: Int[Array, "*d"]
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any
    skipped: Int[Array, "*d"]
    in_a_row: Int[Array, "*d"]

    @property
    def variables(self) -> dict[str, Any]:
        """What the network's `apply` takes to predict: the moving average, where one is kept."""
        kept = self.average or {"params": self.params, "batch_stats": self.batch_stats}
        if LOG_VARIANCE not in kept["params"]:
            return kept
        return {**kept, "params": {name: p for name, p in kept["params"].items() if name != LOG_VARIANCE}}


class Rates(NamedTuple):
    """Traced numbers of the optimizer; those of `config.Optimizer`.

    Attributes:
      learning_rate: peak of the schedule.
      weight_decay: decoupled.
      clip: global norm that gradients are scaled down to.
      encoder_rate: multiplier of the rate for the encoder.
    """

    learning_rate: Float[Array, ""] | float
    weight_decay: Float[Array, ""] | float
    clip: Float[Array, ""] | float
    encoder_rate: Float[Array, ""] | float

    @classmethod
    def of(cls, settings: config.Optimizer) -> "Rates":
        """The numbers of a config."""
        return cls(*(jnp.float32(getattr(settings, name)) for name in cls._fields))


def schedule(settings: config.Optimizer, steps: int) -> optax.Schedule:
    """Linear warm-up to the peak rate, then the configured decay to 0 at the last step."""
    shape = _shape(settings, steps)
    return lambda step: settings.learning_rate * shape(step)


def _shape(settings: config.Optimizer, steps: int) -> optax.Schedule:
    """The schedule as fractions of its peak."""
    warmup = round(settings.warmup * steps)
    rest = max(steps - warmup, 1)
    decay = {
        "cosine": lambda: optax.cosine_decay_schedule(1.0, rest),
        "poly": lambda: optax.polynomial_schedule(1.0, 0.0, 0.9, rest),
        "constant": lambda: optax.constant_schedule(1.0),
    }[settings.decay]()
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, max(warmup, 1)), decay], [warmup])


def optimizer(
    settings: config.Optimizer, steps: int, frozen: tuple[str, ...] = ()
) -> optax.GradientTransformationExtraArgs:
    """Clipping, then AdamW or SGD, with weight decay on kernels only: norms and biases have one axis.

    Its update takes the argument ``rates``: the `Rates` of an update, which may be traced; None for the config's.

    Args:
      settings: how parameters are updated.
      steps: of the whole run.
      frozen: submodules of the encoder that keep their parameters.
    """
    own = partial(Rates.of, settings)

    def update(
        gradients: Any, state: Any, params: Any = None, *, rates: Rates | None = None, **_: Any
    ) -> tuple[Any, Any]:
        return _chain(settings, steps, frozen, rates or own()).update(gradients, state, params)

    def init(params: Any) -> Any:
        return _chain(settings, steps, frozen, own()).init(params)

    return optax.GradientTransformationExtraArgs(init, update)


def _chain(
    settings: config.Optimizer, steps: int, frozen: tuple[str, ...], rates: Rates
) -> optax.GradientTransformation:
    """The optimizer with the numbers of an update."""
    shape = _shape(settings, steps)
    rule = optax.scale_by_adam() if settings.name == "adamw" else optax.trace(SGD_MOMENTUM, nesterov=True)
    decay = optax.add_decayed_weights(rates.weight_decay, _kernels)
    rate = optax.scale_by_learning_rate(lambda step: rates.learning_rate * shape(step))
    chain = [optax.clip_by_global_norm(rates.clip), optax.chain(rule, decay, rate)]
    # Not where it would do nothing: checkpoints know the links of the chain.
    if frozen or settings.encoder_rate != 1:
        chain.append(optax.stateless(lambda updates, _: _rated(updates, rates.encoder_rate, frozen)))
    return optax.chain(*chain)


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _rated(updates: Any, rate: Array | float, frozen: tuple[str, ...]) -> Any:
    """Updates with those of the encoder scaled, and none for its frozen submodules."""

    def one(path: tuple, update: Array) -> Array:
        top, part = (getattr(key, "key", "") for key in path[:2])
        return update * (0.0 if part in frozen else rate) if top == ENCODER else update

    return jax.tree_util.tree_map_with_path(one, updates)


def create(
    network: nn.Module,
    update: optax.GradientTransformation,
    seed: int,
    size: tuple[int, int],
    average: bool = False,
    uncertain: tuple[str, ...] = (),
) -> TrainState:
    """A new state.

    Args:
      network: maps images (b, H, W, 3) to outputs.
      update: the optimizer.
      seed: of the initial parameters.
      size: (height, width) of images, pixels; parameters do not depend on it.
      average: whether a moving average is kept.
      uncertain: tasks whose uncertainty is learnt; each begins with a log-variance of 0.
    """
    what = (network, update, size, average, uncertain)
    try:
        hash(what)
    except TypeError:  # An encoder from elsewhere may have an array among its fields.
        return jax.jit(lambda key: _created(key, *what))(jax.random.key(seed))
    return _created_by_seed(jax.random.key(seed), *what)


def _created(
    key: Array,
    network: nn.Module,
    update: optax.GradientTransformation,
    size: tuple[int, int],
    average: bool,
    uncertain: tuple[str, ...],
) -> TrainState:
    """`create` from a key; pure."""
    variables = network.init(key, jnp.zeros((1, *size, 3)), train=False)
    params, stats = variables["params"], variables.get("batch_stats", {})
    if uncertain:
        params = {**params, LOG_VARIANCE: dict.fromkeys(uncertain, jnp.zeros(()))}
    kept = {"params": params, "batch_stats": stats} if average else {}
    none = jnp.zeros((), jnp.int32)
    return TrainState(none, params, stats, update.init(params), kept, none, none)


_created_by_seed = jax.jit(_created, static_argnums=(1, 2, 3, 4, 5))
"""Compiled once for all seeds."""


def averaged(before: Any, variables: Any, decay: Array | float, step: Array) -> Any:
    r"""The moving average after an update, with a decay that is smaller in the beginning, when all is far from settled.

    .. math:: a \leftarrow d a + (1 - d) v, \quad d = \min(\text{decay}, (1 + t) / (10 + t))

    Args:
      before: the average.
      variables: after the update, in the same structure.
      decay: in [0, 1).
      step: t, updates done before.

    References:
      TensorFlow, tf.train.ExponentialMovingAverage with num_updates.
    """
    fade = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, v: a + (1.0 - fade) * (v - a), before, variables)


def parameters(state: TrainState) -> int:
    """Number of trainable values."""
    return sum(p.size for p in jax.tree.leaves(state.params))
