"""The paper's first finding: clustering around predicted centers beside clustering all elements with all.

python benchmarks/clustering.py --ours runs/dsb --baseline runs/dsb_baseline [--frames 40]

Both runs see the same validation images. Each network's own outputs are clustered and enlarged to masks, in turns,
image by image; networks are timed as well. Accuracy is read from the runs' val/metrics.json. Prints one line of JSON.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg import cli, segment
from jaxseg.apps import model
from jaxseg.apps.evaluation import sweep
from jaxseg.data import prepare

REPEATS = 3
"""Timed calls an image and network, after one that compiles; the fastest counts."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=Path, required=True, help="work directory of a run with centers")
    parser.add_argument("--baseline", type=Path, required=True, help="work directory of one clustered all to all")
    parser.add_argument("--frames", type=int, default=40, help="most validation images")
    known, rest = parser.parse_known_args()
    runs = {name: getattr(known, name) for name in ("ours", "baseline")}
    models = {n: model.load(path, cli.override(model.read_config(path), rest)) for n, path in runs.items()}
    source = prepare.source(models["ours"].settings.data, "val")
    chosen = np.linspace(0, len(source) - 1, min(known.frames, len(source))).round().astype(int)
    rows = [measure(models, source[int(i)].image) for i in chosen]
    print(json.dumps(summary(rows, runs)))


def measure(models: dict[str, model.Model], frame: np.ndarray) -> dict[str, dict[str, float]]:
    """Milliseconds of network and clustering for one frame, the two runs in turns."""
    stages = {name: _stages(trained, frame) for name, trained in models.items()}
    best: dict[str, dict[str, float]] = {name: {} for name in models}
    for turn in range(1 + REPEATS):
        for name, parts in stages.items():
            for part, run in parts.items():
                start = time.perf_counter()
                jax.block_until_ready(run())
                spent = 1000 * (time.perf_counter() - start)
                if turn:
                    best[name][part] = min(spent, best[name].get(part, spent))
    return best


_finish = jax.jit(segment.finish, static_argnums=(2, 3))


def _stages(trained: model.Model, frame: np.ndarray) -> dict[str, Callable[[], Any]]:
    capacity = model.capacity(trained.settings)
    numbers = jax.tree.map(np.float32, model.thresholds(trained.settings))
    plan = segment.geometry((frame.shape[0], frame.shape[1]), capacity)
    outputs, assignment = sweep.forward(trained.network, trained.variables, frame, capacity, numbers)
    return {
        "network": lambda: sweep.forward(trained.network, trained.variables, frame, capacity, numbers),
        "clustering": lambda: _finish(outputs, assignment, plan, capacity, numbers),
    }


def summary(rows: list[dict[str, dict[str, float]]], runs: dict[str, Path]) -> dict[str, Any]:
    """Medians, their ratio, and the accuracy of both."""
    found: dict[str, Any] = {"frames": len(rows)}
    for name, path in runs.items():
        metrics = json.loads((path / "val" / "metrics.json").read_text())
        times = {part: float(np.median([row[name][part] for row in rows])) for part in ("network", "clustering")}
        found[name] = {c: metrics[c] for c in ("ap50", "ap", "iou")} | {
            f"{p}_ms": round(t, 2) for p, t in times.items()
        }
    ratios = [row["baseline"]["clustering"] / row["ours"]["clustering"] for row in rows]
    found |= {"clustering_ratio": round(float(np.median(ratios)), 2), "jax": jax.__version__}
    return found | {"device": jax.devices()[0].device_kind, "machine": platform.machine(), "cores": os.cpu_count()}


if __name__ == "__main__":
    main()
