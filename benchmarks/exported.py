"""An exported file beside the network it was made of: its size, how long it takes, and whether it says the same.

python benchmarks/exported.py [--config FILE | --workdir DIR] [--frame H W] [--frames 40] [--rounds 15] [--python PATH]

Without a work directory the network is untrained, and the threshold of centers so low that it finds objects. Frames are
generated scenes. Integers are to be equal on all of them, floats within 1e-5, alone and in batches of three. The calls
take turns. With --python, examples/run_exported.py is run by that interpreter, which may know JAX alone, and
its maps of the first frame are compared too. Prints a table on stderr, a line of JSON on stdout.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import turns  # isort: skip (before JAX)
import jax
import numpy as np

from jaxseg import cli, config
from jaxseg.apps import benchmark, export, exported, model
from jaxseg.data import shapes
from jaxseg.train import storage

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/cityscapes_mnv2_os4.py"


def main() -> None:
    """Exports, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--workdir", help="a trained network instead")
    parser.add_argument("--frame", type=int, nargs=2, metavar=("H", "W"))
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--python", help="interpreter that runs the example")
    options = parser.parse_args()
    trained = _network(options.config, options.workdir)
    with tempfile.TemporaryDirectory() as folder:
        figures = _measured(trained, Path(folder), options)
    turns.table(("what", "value"), [(name.replace("_", " "), str(value)) for name, value in figures.items()])
    print(json.dumps({**turns.about(), "config": trained.settings.name, **figures}))


def _network(file: Path, workdir: str | None) -> model.Model:
    if workdir:
        return model.load(storage.folder(workdir))
    settings = cli.override(cli.read_segmentation(file), ["--grouping.center", "0.1"])
    return model.Model(settings, model.network(settings), benchmark.variables(settings), 0)


def _measured(trained: model.Model, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    path, size = folder / "network", tuple(options.frame) if options.frame else None
    exporting, about = _timed(lambda: export.export(trained, path, size))
    loading, loaded = _timed(lambda: exported.load(path))
    height, width = loaded.frame
    kinds = min(len(trained.classes) - 1, 8)
    frames = np.stack([shapes.generate(0, "val", i, (height, width), kinds).image for i in range(options.frames)])
    figures = {
        "frame": [height, width],
        "platforms": about["platforms"],
        "megabytes": round(path.stat().st_size / 1e6, 2),
        "program_kilobytes": round(len(loaded.program.serialize()) / 1e3),
        "export_s": round(exporting, 2),
        "load_s": round(loading, 2),
        "compile_s": round(loaded.warmup(), 1),
        "compile_original_s": round(trained.warmup((height, width)), 1),
        **_compared(trained, loaded, frames),
    }
    placed = jax.device_put(list(frames))
    times = turns.times(
        {
            "original": lambda i: jax.block_until_ready(trained(placed[i % len(placed)])),
            "exported": lambda i: jax.block_until_ready(loaded(placed[i % len(placed)])),
        },
        options.rounds,
    )
    figures["original_ms"], figures["exported_ms"] = (round(float(np.median(t)), 2) for t in times.values())
    figures["original_over_exported"] = turns.ratio(times["exported"], times["original"])
    if options.python:
        figures["example_differs_in_pixels"] = _example(options.python, path, folder, frames[0], trained)
    return figures


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = run()
    return time.perf_counter() - begun, result


def _compared(trained: model.Model, loaded: exported.Exported, frames: np.ndarray) -> dict[str, Any]:
    """Values of integers that differ, the largest difference of floats, and how many objects there were."""
    differ, apart, objects = 0, 0.0, 0
    for some in [*frames, *(frames[i : i + 3] for i in range(0, len(frames) - 2, 3))]:
        ours, theirs = jax.device_get((trained(some), loaded(some)))
        objects += int(ours.instances.valid.sum())
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            if np.issubdtype(a.dtype, np.floating):
                apart = max(apart, float(np.abs(a - b).max()))
            else:
                differ += int((a != b).sum())
    return {"integers_that_differ": differ, "largest_difference_of_floats": apart, "objects": objects}


def _example(python: str, path: Path, folder: Path, frame: np.ndarray, trained: model.Model) -> int:
    """Pixels in which the maps of the example, run by an interpreter, differ."""
    np.save(folder / "frame.npy", frame)
    command = [python, str(ROOT / "examples/run_exported.py"), str(path), "frame.npy"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise config.UserError(f"{python} cannot run the example: {done.stderr.strip().splitlines()[-1]}. Mend it.")
    wanted = jax.device_get(trained(frame))
    with np.load(folder / "found.npz") as found:
        return sum(int((found[name] != getattr(wanted, name)).sum()) for name in ("semantic", "instance"))


if __name__ == "__main__":
    cli.guarded(lambda _: main(), sys.argv[1:])
