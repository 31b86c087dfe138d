"""A loss term of one's own: how well objects of whatever class are told from background.

python train.py --config examples/own_loss.py --workdir runs/own_loss
"""

from dataclasses import replace
from pathlib import Path
from runpy import run_path

import jax
import jax.numpy as jnp

from jaxseg.config import Losses, Schedule, Term
from jaxseg.types import Outputs, Sum, Targets


def foreground(outputs: Outputs, targets: Targets, smooth: float) -> Sum:
    """One less the overlap (Dice) of predicted and true foreground of one image, and the image's count."""
    counted = targets.semantic != 255
    truth = counted & (targets.semantic > 0)
    predicted = jnp.where(counted, 1 - jax.nn.softmax(outputs.semantic)[..., 0], 0.0)
    overlap = (2 * jnp.sum(predicted * truth) + smooth) / (jnp.sum(predicted) + jnp.sum(truth) + smooth)
    there = jnp.any(truth).astype(jnp.float32)
    return Sum(there * (1 - overlap), there)


config = replace(
    run_path(str(Path(__file__).parents[1] / "configs" / "shapes.py"))["config"],
    name="own_loss",
    losses=Losses(
        terms=(Term("foreground", f"{__file__}:foreground", weight=0.5, constants=(("smooth", 1.0),)),),
        schedules=(Schedule("foreground", ((0.0, 0.0), (0.2, 1.0))),),
    ),
)
