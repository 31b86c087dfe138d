"""The recipe of the scenes with eq. 3 pulling elements to their center, and no center to its elements."""

from dataclasses import replace
from pathlib import Path
from runpy import run_path

import jax
import jax.numpy as jnp

from jaxseg.config import Term
from jaxseg.types import Outputs, Sum, Targets

_recipe = run_path(str(Path(__file__).parents[2] / "configs" / "shapes.py"))["config"]


def attraction(outputs: Outputs, targets: Targets, margin: float) -> Sum:
    """`losses.embedding.attraction`, through whose centers no gradient passes."""
    y, x = targets.center[:, 0], targets.center[:, 1]
    centers = jax.lax.stop_gradient(outputs.embedding[y, x])
    row = targets.instance.ravel()
    apart = outputs.embedding.reshape(row.size, -1) - centers[jnp.maximum(row - 1, 0)]
    squared = jnp.sum(apart**2, axis=-1)
    distance = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
    hinge = jnp.maximum(distance - margin, 0.0)
    sums = jnp.zeros((len(y) + 1, 2)).at[row].add(jnp.stack([hinge, jnp.ones_like(hinge)], axis=-1))[1:]
    means = sums[:, 0] / jnp.maximum(sums[:, 1], 1.0)
    instances = jnp.sum(targets.valid, dtype=jnp.float32)
    mean = jnp.sum(jnp.where(targets.valid, means, 0.0)) / jnp.maximum(instances, 1.0)
    return Sum(mean, (instances > 0).astype(jnp.float32))


_term = Term("detached", "benchmarks/study/detached.py:attraction", constants=(("margin", 0.1),))
config = replace(_recipe, losses=replace(_recipe.losses, attraction=0.0, terms=(_term,)))
