"""Timing: the columns of the paper's Table I on this hardware, from generated frames and untrained parameters."""

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxseg import config, segment, targets
from jaxseg.apps import files, model

WARMUP = 3


def benchmark(settings: config.Config, frames: int, batch: int, output: Path | None) -> dict[str, Any]:
    """Times superpixels, CNN, grouping with upsampling, and the whole program; each stage is compiled apart.

    An untrained network finds no objects, so grouping is timed on the outputs that a perfect network would give for the
    same frames. The whole program runs the untrained network's own.

    Args:
      settings: the run whose network and sizes are timed.
      frames: different frames (or batches of them) to time.
      batch: frames in a call.
      output: also write the figures there, as JSON.

    Returns:
      Milliseconds a call, p50 and p99, by stage, with the hardware and the versions.

    Raises:
      UserError: the file cannot be written.
    """
    size = settings.model.size or settings.data.crop
    images, labels, instances = _scenes(size, min(frames, 8) * batch, len(settings.data.classes))
    stages = _stages(settings, images[:batch], labels[:batch], instances[:batch])
    groups = [slice(i, i + batch) for i in range(0, len(images), batch)]
    times = {name: _time(run, [prepare(images[g]) for g in groups], frames) for name, (run, prepare) in stages.items()}
    figures = {
        "config": settings.name,
        "size": list(size),
        "batch": batch,
        "frames": frames,
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "jax": jax.__version__,
        "parameters": _parameters(settings),
        "milliseconds": times,
        "fps": 1000 * batch / times["whole"]["p50"],
    }
    if output:
        files.write_json(output, figures)
    _show(figures)
    return figures


def _scenes(size: tuple[int, int], count: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from jaxseg.data import shapes

    scenes = [shapes.scene(np.random.default_rng(i), size, min(classes, 8)) for i in range(count)]
    image, semantic, instance = (np.stack([s[i] for s in scenes]) for i in range(3))
    return image, semantic, instance


def _stages(settings: config.Config, images: Any, labels: Any, instances: Any) -> dict[str, tuple[Callable, Callable]]:
    """Name to (compiled function, what turns a batch of frames into its argument)."""
    capacity, thresholds = model.capacity(settings), model.thresholds(settings)
    plan = segment.geometry(images.shape[1:3], capacity)
    network = model.network(settings)
    variables = _variables(settings)
    classes = len(settings.data.classes) + 1

    def superpixels(frames: Any) -> Any:
        return jax.vmap(lambda f: segment.assign(f, plan, capacity, thresholds))(frames)

    def perfect(frame: Any, semantic: Any, instance: Any) -> Any:
        assignment = segment.assign(frame, plan, capacity, thresholds)
        truth = targets.make(semantic, instance, assignment, plan.cell, capacity.slots, style="point", radius=0.0)
        return segment.oracle(truth, classes, settings.model.embedding), assignment

    def finish(pair: Any) -> Any:
        return jax.vmap(lambda o, a: segment.finish(o, a, plan, capacity, thresholds))(*pair)

    forward = jax.jit(lambda v, f: network.apply(v, f, train=False))
    oracle = jax.jit(jax.vmap(perfect))(images, labels, instances)
    return {
        "superpixels": (jax.jit(superpixels), jax.device_put),
        "cnn": (
            lambda f: forward(variables, f),
            jax.device_put,
        ),
        "grouping": (jax.jit(finish), lambda _: oracle),
        "whole": (lambda f: segment.jitted(network, variables, f, capacity, thresholds), jax.device_put),
    }


def _variables(settings: config.Config) -> Any:
    network = model.network(settings)
    side = settings.model.encoder_stride
    return jax.jit(lambda key: network.init(key, jnp.zeros((1, side, side, 3)), train=False))(jax.random.key(0))


def _parameters(settings: config.Config) -> int:
    return sum(p.size for p in jax.tree.leaves(jax.eval_shape(lambda: _variables(settings))["params"]))


def _time(run: Callable, inputs: list[Any], frames: int) -> dict[str, float]:
    for i in range(WARMUP):
        jax.block_until_ready(run(inputs[i % len(inputs)]))
    times = []
    for i in range(frames):
        start = time.perf_counter()
        jax.block_until_ready(run(inputs[i % len(inputs)]))
        times.append(1000 * (time.perf_counter() - start))
    return {"p50": float(np.percentile(times, 50)), "p99": float(np.percentile(times, 99))}


def _show(figures: dict[str, Any]) -> None:
    height, width = figures["size"]
    title = f"{figures['config']}: {width} x {height}, batch {figures['batch']}, {figures['device']}"
    table = Table("ms", *figures["milliseconds"], "frames/s", title=title)
    for quantile in ("p50", "p99"):
        row = [f"{stage[quantile]:.2f}" for stage in figures["milliseconds"].values()]
        table.add_row(quantile, *row, f"{figures['fps']:.1f}" if quantile == "p50" else "")
    Console(soft_wrap=True).print(table)
