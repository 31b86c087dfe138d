"""Timing: the columns of the paper's Table I on this hardware, from generated frames and untrained parameters.

Superpixels, CNN and clustering (with upsampling) are compiled and timed apart, as the paper does; "total" is the whole
inference as one program, which is what users call. Compile times are those of an empty compilation cache.
"""

import dataclasses
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console
from rich.table import Table

from jaxseg import config, segment, targets
from jaxseg.apps import files, model

WARMUP = 3

DIFFERENT = 8
"""Most different frames in a benchmark; more would only take memory."""


def benchmark(settings: config.Config, frames: int, batch: int, output: Path | None) -> dict[str, Any]:
    """Times superpixels, CNN, clustering with upsampling, and the whole program; each stage is compiled apart.

    An untrained network finds no objects, so clustering is timed on the outputs that a perfect network would give for
    the same frames: a real one costs all-to-all clustering more, for every stray element opens a cluster. The whole
    program runs the untrained network's own. The baseline has no superpixels.

    Args:
      settings: the run whose network and sizes are timed.
      frames: calls to time, over up to 8 different frames (or batches of them) in turn.
      batch: frames in a call.
      output: also write the figures there, as JSON.

    Returns:
      Milliseconds a call, p50 and p99, and seconds to compile, by stage; frames a second of the whole program, and of
      the stages one after the other; the hardware and the versions.

    Raises:
      UserError: the file cannot be written.
    """
    if not settings.data.classes:
        # Left to a data set that need not be there: one class is timed.
        settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, classes=("object",)))
    size = settings.model.size or settings.data.crop
    if output:
        files.require_file(output)
    scenes = _scenes(size, min(frames, DIFFERENT) * batch, len(settings.data.classes))
    groups = [[array[i : i + batch] for array in scenes] for i in range(0, len(scenes[0]), batch)]
    stages = _stages(settings, size)
    inputs = {name: [prepare(*g) for g in groups] for name, (_, prepare) in stages.items()}
    compiled = {name: _compiled(run, inputs[name][0]) for name, (run, _) in stages.items()}
    times = {name: _time(run, inputs[name], frames) for name, (run, _) in compiled.items()}
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
        "compile_seconds": {name: seconds for name, (_, seconds) in compiled.items()},
        "fps": 1000 * batch / times["total"]["p50"],
        "fps_serial": 1000 * batch / sum(value["p50"] for name, value in times.items() if name != "total"),
    }
    if output:
        files.write_json(output, figures)
    _show(figures)
    return figures


def _scenes(size: tuple[int, int], count: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from jaxseg.data import shapes

    scenes = [shapes.scene(np.random.default_rng(i), size, min(classes, 8)) for i in range(count)]
    return (
        np.stack([s.image for s in scenes]),
        np.stack([s.semantic for s in scenes]),
        np.stack([s.instance for s in scenes]),
    )


def _stages(settings: config.Config, size: tuple[int, int]) -> dict[str, tuple[Callable, Callable]]:
    """Name to (function, what turns a batch of frames and their two label maps into its argument)."""
    capacity, thresholds = model.capacity(settings), model.thresholds(settings)
    plan = segment.geometry(size, capacity)
    network = model.network(settings)
    values = variables(settings)
    classes = len(settings.data.classes) + 1

    def superpixels(frames: Any) -> Any:
        return segment.each(lambda f: segment.assign(f, plan, capacity, thresholds), frames)

    def perfect(frame: Any, semantic: Any, instance: Any) -> Any:
        assignment = segment.assign(frame, plan, capacity, thresholds)
        truth = targets.make(semantic, instance, assignment, plan.cell, capacity.slots, style="point", radius=0.0)
        return segment.oracle(truth, classes, settings.model.embedding), assignment

    def finish(pair: Any) -> Any:
        return segment.each(lambda o, a: segment.finish(o, a, plan, capacity, thresholds), *pair)

    def frames_only(frames: Any, *_: Any) -> Any:
        return jax.device_put(frames)

    def with_variables(frames: Any, *_: Any) -> Any:
        return values, jax.device_put(frames)

    def cnn(pair: Any) -> Any:
        return network.apply(pair[0], pair[1], train=False)

    def total(pair: Any) -> Any:
        return segment.segment(network, pair[0], pair[1], capacity, thresholds)

    stages: dict[str, tuple[Callable, Callable]] = {
        "superpixels": (superpixels, frames_only),
        "cnn": (cnn, with_variables),
        "clustering": (finish, jax.jit(jax.vmap(perfect))),
        "total": (total, with_variables),
    }
    if capacity.clustering == "all_to_all":
        del stages["superpixels"]
    return stages


def _compiled(run: Callable, example: Any) -> tuple[Callable, float]:
    """The function compiled for an input, and the seconds that takes without a cache."""
    cached = jax.config.values["jax_enable_compilation_cache"]
    _use_cache(False)
    try:
        start = time.perf_counter()
        program = jax.jit(run).lower(example).compile()
        return program, time.perf_counter() - start
    finally:
        _use_cache(cached)


def _use_cache(enabled: bool) -> None:
    """JAX asks only once, at its first compilation, whether to use the cache; so it has to forget the answer."""
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()


def variables(settings: config.Config) -> Any:
    """Untrained parameters and statistics of a config's network."""
    network = model.network(settings)
    side = settings.model.encoder_stride
    return jax.jit(lambda key: network.init(key, jnp.zeros((1, side, side, 3)), train=False))(jax.random.key(0))


def _parameters(settings: config.Config) -> int:
    return sum(p.size for p in jax.tree.leaves(jax.eval_shape(lambda: variables(settings))["params"]))


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
    stages, found, seconds = (
        ("superpixels", "cnn", "clustering", "total"),
        figures["milliseconds"],
        figures["compile_seconds"],
    )
    table = Table("", *("CNN" if name == "cnn" else name for name in stages), "FPS", "FPS serial", title=title)
    for quantile in ("p50", "p99"):
        row = [f"{found[name][quantile]:.2f}" if name in found else "-" for name in stages]
        rates = (f"{figures['fps']:.1f}", f"{figures['fps_serial']:.1f}") if quantile == "p50" else ()
        table.add_row(f"{quantile}, ms", *row, *rates)
    table.add_row("compile, s", *(f"{seconds[name]:.1f}" if name in seconds else "-" for name in stages))
    Console(soft_wrap=True).print(table)
