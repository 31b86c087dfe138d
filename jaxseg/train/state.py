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


@struct.dataclass
class TrainState:
    """All that changes during training; what is saved and resumed.

    Attributes:
      step: updates done; also the position in the data.
      params: trainable parameters, float32.
      batch_stats: running statistics of batch normalisation, float32.
      opt_state: of the optimizer.
    """

    step: Int[Array, "*d"]
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What the network's `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


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


def optimizer(settings: config.Optimizer, steps: int) -> optax.GradientTransformation:
    """Clipping, then AdamW or SGD, with weight decay on kernels only: norms and biases have one axis."""
    rate = schedule(settings, steps)
    mask = _kernels
    if settings.name == "adamw":
        update = optax.adamw(rate, weight_decay=settings.weight_decay, mask=mask)
    else:
        momentum = optax.trace(SGD_MOMENTUM, nesterov=True)
        decay = optax.add_decayed_weights(settings.weight_decay, mask)
        update = optax.chain(momentum, decay, optax.scale_by_learning_rate(rate))
    return optax.chain(optax.clip_by_global_norm(settings.clip), update)


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)


def create(network: nn.Module, update: optax.GradientTransformation, seed: int, size: tuple[int, int]) -> TrainState:
    """A new state.

    Args:
      network: maps images (b, H, W, 3) to outputs.
      update: the optimizer.
      seed: of the initial parameters.
      size: (height, width) of images, pixels; parameters do not depend on it.
    """

    def build(key: Array) -> TrainState:
        variables = network.init(key, jnp.zeros((1, *size, 3)), train=False)
        params, stats = variables["params"], variables.get("batch_stats", {})
        return TrainState(jnp.zeros((), jnp.int32), params, stats, update.init(params))

    return jax.jit(build)(jax.random.key(seed))


def parameters(state: TrainState) -> int:
    """Number of trainable values."""
    return sum(p.size for p in jax.tree.leaves(state.params))
