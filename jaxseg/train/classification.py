"""What a classifier learns: cross-entropy with smoothed labels."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jaxseg.train.state import Rates
from jaxseg.train.step import Evaluated, Numbers
from jaxseg.types import ClassBatch, Sum


class Recipe(NamedTuple):
    """What fixes the program of a classification step; a `step.Task`. The only constant is the smoothing.

    Attributes:
      network: maps images (b, H, W, 3) to logits (b, c).
      update: the optimizer.
      uncertain: none: there is one loss.
      axis_name: devices to reduce over; None for a lone device.
    """

    network: nn.Module
    update: optax.GradientTransformation
    uncertain: tuple[tuple[str, str], ...] = ()
    axis_name: str | None = None

    def on(self, axis_name: str) -> "Recipe":
        """The same, reducing over the devices of a mapped axis."""
        return self._replace(axis_name=axis_name)

    def prepare(self, batch: ClassBatch, numbers: Numbers) -> Array:
        """The labels."""
        return batch.label

    def evaluate(
        self,
        params: Any,
        batch_stats: Any,
        batch: ClassBatch,
        truth: Array,
        numbers: Numbers,
        chosen: Mapping[str, Bool[Array, ""]] | None = None,
    ) -> Evaluated:
        """The loss, of one term; measured is "top1", the share of images whose class gets the largest logit."""
        variables = {"params": params, "batch_stats": batch_stats}
        logits, changed = self.network.apply(variables, batch.image, train=True, mutable=["batch_stats"])
        right = (logits.argmax(-1) == truth).astype(jnp.float32)
        top1 = Sum(right.sum(), jnp.float32(len(right)))
        sums = {"cross_entropy": cross_entropy(logits, truth, numbers.hyper)}
        return Evaluated(sums, changed.get("batch_stats", {}), {"top1": top1})


def cross_entropy(logits: Float[Array, "b c"], label: Array, smoothing: Array | float) -> Sum:
    r"""Cross-entropy with the share epsilon of the target spread over all classes.

    .. math:: -\sum_c \left((1 - \epsilon) [c = y] + \epsilon / C\right) \log p_c

    Args:
      logits: one row an image.
      label: (b,) class ids.
      smoothing: epsilon, in [0, 1).

    Returns:
      Sum over the images, and their number.

    References:
      Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7.
    """
    target = optax.smooth_labels(jnp.eye(logits.shape[-1])[label], smoothing)
    return Sum(optax.softmax_cross_entropy(logits, target).sum(), jnp.float32(len(logits)))


def numbers(smoothing: float, average: float = 0.0, rates: Rates | None = None) -> Numbers:
    """The traced numbers of a config: smoothing of the labels, decay of the moving average, rates of the optimizer."""
    return Numbers({"cross_entropy": jnp.float32(1.0)}, jnp.float32(smoothing), jnp.float32(average), rates)
