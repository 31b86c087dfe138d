"""Whether latency depends on the scene: the whole program over many different frames, hard ones among them.

python benchmarks/latency.py [--config FILE] [--frames 1000] [--worst 5] [--section.setting value ...]

An untrained network finds nothing, and nothing found is quick. So the program that is timed runs superpixels and
network on the frame and adds the network's outputs, times 0, to given ones: those that a perfect network would give for
the frame's scene, or such as no network gives, made to be hard on components and grouping. Frames are of a few kinds in
turn, each different: scenes, crowds, empty, all classes mixed, and hard ones. Each is timed three times in a row: the
first call is what a camera would see, the best of the three is without most of what else the machine does. Right after
it one and the same frame is timed twice: a machine that is slow for a while is slow for both, so that the ratio of the
best calls shows what the scene does. Says p50, p99 and the worst frames of the whole, and of what comes beside and
behind the network, whose time is where a scene can show. Prints a table on stderr, a line of JSON on stdout.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import turns  # isort: skip (before JAX)
import frames
import jax
import numpy as np

from jaxseg import cli, config, segment, targets
from jaxseg.apps import benchmark, model
from jaxseg.data import shapes
from jaxseg.types import Outputs, Thresholds

CONFIG = Path(__file__).parents[1] / "configs/cityscapes_mnv2_os4.py"
REPEATS = 3


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--frames", type=int, default=1000, help="at least 1")
    parser.add_argument("--worst", type=int, default=5, help="how many of the slowest frames to name")
    options, rest = parser.parse_known_args()
    settings = cli.override(cli.read_segmentation(options.config), rest)
    rows, worst = _measured(settings, max(options.frames, 1), options.worst)
    keys = ("program", "calls", "frames", "p50_ms", "p99_ms", "p99_over_p50", "worst_ms")
    turns.table(tuple(key.replace("_", " ") for key in keys), [tuple(row[key] for key in keys) for row in rows])
    for program, names in worst.items():
        print(f"slowest of {program}: {', '.join(names)}", file=sys.stderr)
    about = {"config": settings.name, "size": settings.model.size or settings.data.crop}
    print(json.dumps({**turns.about(), **about, "rows": rows, "worst": worst}))


def _measured(settings: config.Config, count: int, worst: int) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    size = settings.model.size or settings.data.crop
    whole, behind = _programs(settings, size)
    values = benchmark.variables(settings)
    times: dict[str, list[tuple[list[float], str]]] = {"whole program": [], "without network": [], "one frame": []}
    for i, (name, frame, outputs) in enumerate(_frames(settings, size, count)):
        placed = jax.block_until_ready(jax.device_put((frame, outputs)))
        if i == 0:
            same = placed
            jax.block_until_ready((whole(values, *placed), behind(*placed)))
        times["whole program"].append((_timed(whole, values, *placed), name))
        times["one frame"].append((_timed(whole, values, *same, repeats=2), f"beside {name}"))
        times["without network"].append((_timed(behind, *placed), name))
    rows, slowest = [], {}
    pairs = zip(times["whole program"], times["one frame"], strict=True)
    ratios = [(min(mine) / min(same), name) for (mine, name), (same, _) in pairs]
    rows.append({"program": "whole / one frame", "calls": "best / best", **_quantiles([ratio for ratio, _ in ratios])})
    slowest["whole / one frame"] = [f"{name} {ratio:.2f}" for ratio, name in sorted(ratios, reverse=True)[:worst]]
    for program, found in times.items():
        for calls, choose in (("first", lambda t: t[0]), ("best", min)):
            chosen = [(choose(t), name) for t, name in found]
            rows.append({"program": program, "calls": calls, **_quantiles([t for t, _ in chosen])})
            slowest[f"{program}, {calls}"] = [f"{name} {t:.1f} ms" for t, name in sorted(chosen, reverse=True)[:worst]]
    return rows, slowest


def _timed(run: Callable, *arguments: Any, repeats: int = REPEATS) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(1000 * (time.perf_counter() - start))
    return times


def _quantiles(times: list[float]) -> dict[str, Any]:
    p50, p99 = np.percentile(times, (50, 99))
    figures = {"p50_ms": p50, "p99_ms": p99, "p99_over_p50": p99 / p50, "worst_ms": max(times)}
    return {"frames": len(times), **{name: round(float(value), 3) for name, value in figures.items()}}


def _programs(settings: config.Config, size: tuple[int, int]) -> tuple[Callable, Callable]:
    """The whole program on given outputs, and its part without the network; both of one frame."""
    network, capacity = model.network(settings), model.capacity(settings)
    thresholds = jax.tree.map(np.float32, model.thresholds(settings))
    plan = segment.geometry(size, capacity)

    def behind(frame: Any, outputs: Outputs, numbers: Thresholds) -> Any:
        assignment = segment.assign(frame, plan, capacity, numbers)
        return segment.finish(outputs, assignment, plan, capacity, numbers)

    def whole(values: Any, frame: Any, outputs: Outputs, numbers: Thresholds) -> Any:
        found = network.apply(values, frame[None], train=False)
        return behind(frame, jax.tree.map(lambda given, x: given + 0 * x[0], outputs, found), numbers)

    compiled = jax.jit(whole), jax.jit(behind)
    return partial(compiled[0], numbers=thresholds), partial(compiled[1], numbers=thresholds)


def _frames(settings: config.Config, size: tuple[int, int], count: int) -> Iterator[tuple[str, np.ndarray, Outputs]]:
    """Name, frame and given outputs of each."""
    capacity, thresholds = model.capacity(settings), model.thresholds(settings)
    plan, classes = segment.geometry(size, capacity), len(settings.data.classes) + 1
    dimensions = settings.model.embedding

    @jax.jit
    def perfect(frame: Any, semantic: Any, instance: Any) -> Outputs:
        assignment = segment.assign(frame, plan, capacity, thresholds)
        truth = targets.make(semantic, instance, assignment, plan.cell, capacity.slots)
        return segment.oracle(truth, classes, dimensions)

    hard = dict(frames.components(*plan.grid))
    kinds = ("scene", "crowd", "empty", "mixed", *hard)
    for i in range(count):
        kind, seed = kinds[i % len(kinds)], i // len(kinds)
        rng = np.random.default_rng((i, seed))
        if kind in ("scene", "crowd"):
            scene = (
                shapes.scene(rng, size, min(classes - 1, 8))
                if kind == "scene"
                else frames.crowd(i, size, classes=min(classes - 1, 4))
            )
            outputs = perfect(scene.image, scene.semantic, scene.instance)
            yield f"{kind} {seed}", scene.image, jax.tree.map(np.asarray, outputs)
            continue
        flat = kind == "empty"
        image = np.broadcast_to(rng.integers(0, 256, 3), (*size, 3)) if flat else rng.integers(0, 256, (*size, 3))
        confident = np.zeros(plan.grid, bool) if flat else rng.random(plan.grid) < 0.3
        confident = confident if kind not in hard else hard[kind][seed % len(hard[kind])]
        yield f"{kind} {seed}", image.astype(np.uint8), _given(rng, confident, classes, dimensions, kind == "mixed")


def _given(rng: np.random.Generator, confident: np.ndarray, classes: int, dimensions: int, mixed: bool) -> Outputs:
    """Outputs with these elements confident, in one class or in all, and embeddings at random."""
    semantic = rng.integers(1, classes, confident.shape) if mixed else np.full(confident.shape, int(confident.any()))
    embedding = rng.normal(size=(*confident.shape, dimensions)).astype(np.float32)
    center = np.where(confident, 5 + rng.random(confident.shape), -5).astype(np.float32)
    return Outputs(10 * np.eye(classes, dtype=np.float32)[semantic], embedding, center)


if __name__ == "__main__":
    main()
