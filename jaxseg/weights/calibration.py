"""Gives folded weights their batch norm back: statistics measured on images, and the function left as it was."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, UInt8

from jaxseg.nn import classifier
from jaxseg.weights.stored import Weights, flat


def calibrate(weights: Weights, batches: Iterable[np.ndarray]) -> Weights:
    r"""Measures what each batch norm is given, and makes it normalize that without changing the network's function.

    With mean mu and variance v of a convolution's output z, and s and b the scale and bias of before,

    .. math:: a z + c = \frac{z - \mu}{\sqrt{v + \epsilon}} \, a \sqrt{v + \epsilon} + (c + a \mu)

    so that the new scale is :math:`a \sqrt{v + \epsilon}` and the new bias :math:`c + a \mu`, for the affine function
    a z + c that the old batch norm was. Nothing changes in prediction but rounding; in training, batches like the
    images are normalized as they are in prediction. All layers are measured in one pass, for the function stays the
    same.

    Args:
      weights: with batch norms of any statistics.
      batches: (b, H, W, 3) uint8 images, one shape all; at least one.

    Returns:
      Weights of the same function.

    Raises:
      ValueError: no batch.
    """
    module = classifier.from_config(weights.settings, max(weights.outputs, 1))
    variables = _with_logits(weights)
    measure = jax.jit(lambda variables, images: _moments(module, variables, images))
    total: Any = None
    count = 0
    for images in batches:
        # In float64: the variance is a difference of large numbers.
        moments = jax.tree.map(lambda x: np.asarray(x, np.float64), measure(variables, images))
        total = moments if total is None else jax.tree.map(np.add, total, moments)
        count += 1
    if total is None:
        raise ValueError("`batches` must hold at least one batch of images: got none.")
    arrays = flat(weights.variables) | _normalizing(flat(weights.variables), total, count, weights)
    return Weights(weights.settings, traverse_util.unflatten_dict(arrays, sep="/"), weights.source, weights.classes)


def _with_logits(weights: Weights) -> dict[str, Any]:
    """Variables that a classifier can be run with."""
    params = dict(weights.variables["params"])
    if "logits" not in params:
        settings = classifier.from_config(weights.settings, 1)
        shapes = jax.eval_shape(lambda: settings.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), False))
        params["logits"] = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes["params"]["logits"])
    return {**weights.variables, "params": params}


def _moments(module: nn.Module, variables: Any, images: UInt8[Array, "b H W 3"]) -> dict[str, tuple[Array, Array]]:
    """Mean and mean square of each batch norm's input, by its path."""
    found: dict[str, tuple[Array, Array]] = {}

    def watch(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, nn.BatchNorm):
            x = args[0].astype(jnp.float32)
            found["/".join(context.module.path)] = x.mean((0, 1, 2)), jnp.square(x).mean((0, 1, 2))
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        module.apply(variables, images, False)
    return found


def _normalizing(
    arrays: Mapping[str, np.ndarray], total: Mapping[str, tuple[np.ndarray, np.ndarray]], count: int, weights: Weights
) -> dict[str, np.ndarray]:
    """Parameters and statistics of batch norms that normalize what was measured."""
    epsilon = weights.settings.conventions.epsilon
    new: dict[str, np.ndarray] = {}
    for path, (first, second) in total.items():
        mean = first / count
        var = np.maximum(second / count - mean**2, 0.0)
        names = {part: f"params/{path}/{part}" for part in ("scale", "bias")}
        names |= {part: f"batch_stats/{path}/{part}" for part in ("mean", "var")}
        old = {part: np.asarray(arrays[name], np.float64) for part, name in names.items()}
        gain = old["scale"] / np.sqrt(old["var"] + epsilon)
        shift = old["bias"] - gain * old["mean"]
        changed = {"scale": gain * np.sqrt(var + epsilon), "bias": shift + gain * mean, "mean": mean, "var": var}
        new |= {names[part]: value.astype(np.float32) for part, value in changed.items()}
    return new
