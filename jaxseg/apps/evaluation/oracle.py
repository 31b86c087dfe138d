"""What each part of the method costs: the post-processing again, with one part at a time replaced by the truth."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, UInt8, UInt16

from jaxseg import segment, targets
from jaxseg.ops import resizing, superpixels
from jaxseg.types import IGNORED, Capacity, Outputs, Segmentation, Targets, Thresholds

SEMANTIC, CENTERS, EMBEDDINGS, UPSAMPLING = "semantic", "centers", "embeddings", "superpixel upsampling"
HEADS = (SEMANTIC, CENTERS, EMBEDDINGS)
FAR = 1000.0
"""Embedding distance that keeps elements without a true instance away from all instances."""

VARIANTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "network": (),
        SEMANTIC: (SEMANTIC,),
        CENTERS: (CENTERS,),
        EMBEDDINGS: (EMBEDDINGS,),
        UPSAMPLING: (UPSAMPLING,),
        "all heads": HEADS,
        "everything": (*HEADS, UPSAMPLING),
    }
)
"""What is replaced by the truth; "network" is the result that users get, "all heads" the ceiling."""


class Truth(NamedTuple):
    """The truth of one image on its canvas.

    Attributes:
      outputs: of a network that makes no mistake on the grid.
      targets: where its instances and their centers are.
      assignment: of superpixels that make no mistake where one of the nine has the pixel's label.
    """

    outputs: Outputs
    targets: Targets
    assignment: UInt8[Array, "H W"]


def variants_for(capacity: Capacity) -> dict[str, tuple[str, ...]]:
    """The variants that make sense: the all-to-all baseline has neither centers nor superpixels."""
    absent = {CENTERS, UPSAMPLING} if capacity.clustering == "all_to_all" else set()
    found = {name: tuple(p for p in parts if p not in absent) for name, parts in VARIANTS.items()}
    kept = {name: parts for name, parts in found.items() if not set(VARIANTS[name]) <= absent or name == "network"}
    return {name: parts for name, parts in kept.items() if not (name == "everything" and absent)}


@functools.partial(jax.jit, static_argnums=(0, 5))
def study(
    network: nn.Module,
    variables: Any,
    frame: UInt8[Array, "H W 3"],
    semantic: UInt8[Array, "H W"],
    instance: UInt16[Array, "H W"],
    capacity: Capacity,
    thresholds: Thresholds,
) -> Segmentation:
    """The frame segmented once for each of `variants_for`, in their order: a leading axis everywhere.

    Args:
      network: maps images to outputs.
      variables: its parameters and statistics.
      frame: RGB.
      semantic: true class ids; 255 is ignored.
      instance: true object ids, 0 is none.
      capacity: what fixes shapes.
      thresholds: numbers of the grouping.

    Returns:
      Results at the frame's size; the first is that of `segment.segment`.
    """
    plan = segment.geometry((frame.shape[0], frame.shape[1]), capacity)
    images, canvases = segment.inputs(frame[None], plan)
    outputs = jax.tree.map(lambda x: x[0], network.apply(variables, images, train=False))
    assignment = segment.assign(canvases[0], plan, capacity, thresholds)
    labels = on_canvas(semantic, instance, plan)
    truth = _truth(*labels, assignment, plan, capacity, outputs)

    def one(replaced: Bool[Array, " parts"]) -> Segmentation:
        mixed, through = _mixed(outputs, assignment, truth, replaced)
        return segment.finish(mixed, through, plan, capacity, thresholds)

    parts = (*HEADS, UPSAMPLING)
    table = np.array([[part in chosen for part in parts] for chosen in variants_for(capacity).values()])
    return jax.lax.map(one, jnp.asarray(table))


def on_canvas(
    semantic: UInt8[Array, "H W"], instance: UInt16[Array, "H W"], plan: segment.Geometry
) -> tuple[UInt8[Array, "H W"], UInt16[Array, "H W"]]:
    """Labels of a frame as superpixels see it: resized (nearest), or padded with what is ignored."""
    if plan.resized:
        return resizing.nearest(semantic, plan.canvas), resizing.nearest(instance, plan.canvas)
    pad = [(0, after - before) for before, after in zip(plan.frame, plan.canvas, strict=True)]
    return jnp.pad(semantic, pad, constant_values=IGNORED), jnp.pad(instance, pad)


def _truth(
    semantic: Array, instance: Array, assignment: Array, plan: segment.Geometry, capacity: Capacity, outputs: Outputs
) -> Truth:
    classes, dimensions = outputs.semantic.shape[-1], outputs.embedding.shape[-1]
    wanted = targets.make(semantic, instance, assignment, plan.cell, capacity.slots, "point")
    pixels = semantic.astype(jnp.int32) * (1 << 16) + instance
    labels, ids = targets.sample(semantic, instance, assignment, plan.cell)
    grid = labels.astype(jnp.int32) * (1 << 16) + ids
    better = superpixels.assign_matching(grid, pixels, assignment, plan.cell)
    return Truth(segment.oracle(wanted, classes, dimensions), wanted, better)


def _mixed(
    outputs: Outputs, assignment: Array, truth: Truth, replaced: Bool[Array, " parts"]
) -> tuple[Outputs, UInt8[Array, "H W"]]:
    """Outputs and assignment with some parts true. No element without an instance joins one by a true embedding."""
    semantic, centers, embeddings, upsampling = replaced
    away = outputs.embedding.at[..., 0].add(-FAR)
    known = jnp.where((truth.targets.instance > 0)[..., None], truth.outputs.embedding, away)
    mixed = Outputs(
        jnp.where(semantic, truth.outputs.semantic, outputs.semantic),
        jnp.where(embeddings, known, outputs.embedding),
        jnp.where(centers, truth.outputs.center, outputs.center),
    )
    return mixed, jnp.where(upsampling, truth.assignment, assignment)
