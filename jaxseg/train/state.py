"""The state of a run and its optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Int

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


def schedule(settings: config.Optimizer, steps: int) -> optax.Schedule:
    """Linear warm-up to the peak rate, then the configured decay to 0 at the last step."""
    warmup = round(settings.warmup * steps)
    rest = max(steps - warmup, 1)
    peak = settings.learning_rate
    decay = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "poly": lambda: optax.polynomial_schedule(peak, 0.0, 0.9, rest),
        "constant": lambda: optax.constant_schedule(peak),
    }[settings.decay]()
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), decay], [warmup])


def optimizer(settings: config.Optimizer, steps: int, frozen: tuple[str, ...] = ()) -> optax.GradientTransformation:
    """Clipping, then AdamW or SGD, with weight decay on kernels only: norms and biases have one axis.

    Args:
      settings: how parameters are updated.
      steps: of the whole run.
      frozen: submodules of the encoder that keep their parameters.
    """
    rate = schedule(settings, steps)
    mask = _kernels
    if settings.name == "adamw":
        update = optax.adamw(rate, weight_decay=settings.weight_decay, mask=mask)
    else:
        momentum = optax.trace(SGD_MOMENTUM, nesterov=True)
        decay = optax.add_decayed_weights(settings.weight_decay, mask)
        update = optax.chain(momentum, decay, optax.scale_by_learning_rate(rate))
    chain = [optax.clip_by_global_norm(settings.clip), update]
    if frozen or settings.encoder_rate != 1:
        chain.append(optax.stateless(lambda updates, _: _rated(updates, settings.encoder_rate, frozen)))
    return optax.chain(*chain)


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _rated(updates: Any, rate: float, frozen: tuple[str, ...]) -> Any:
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

    def build(key: Array) -> TrainState:
        variables = network.init(key, jnp.zeros((1, *size, 3)), train=False)
        params, stats = variables["params"], variables.get("batch_stats", {})
        if uncertain:
            params = {**params, LOG_VARIANCE: dict.fromkeys(uncertain, jnp.zeros(()))}
        kept = {"params": params, "batch_stats": stats} if average else {}
        none = jnp.zeros((), jnp.int32)
        return TrainState(none, params, stats, update.init(params), kept, none, none)

    return jax.jit(build)(jax.random.key(seed))


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
