"""The five rows of the paper's Table I on this hardware, in float32 and bfloat16, one frame at a time and at best.

python benchmarks/table1.py [--config FILE ...] [--dtypes float32 bfloat16] [--most 16] [--frames 50] [--peer]
                            [--profile]

Runs `jaxseg benchmark` for each row: batch 1, then twice the batch until frames a second grow by less than 5 %, memory
runs out, or --most is reached. With --peer also the network alone in PyTorch (see cnn.py), eager and compiled, at batch
1. With --profile, how much of the superpixels' time runs while the network does. One line of JSON on stdout for each
run, as it is finished; a table on stderr at the end. On a machine with a GPU this is all that is needed; without one it
times the processor.
"""

import argparse
import contextlib
import glob
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import turns  # isort: skip (before JAX)
import jax
import numpy as np

from jaxseg import cli, config, segment
from jaxseg.apps import benchmark, model

HERE = Path(__file__).parent
NAMES = ("dn53_baseline", "dn53_os1", "dn53_os4", "mnv2_os1", "mnv2_os4")
ROWS = [HERE.parent / f"configs/cityscapes_{name}.py" for name in NAMES]
ENOUGH = 1.05
"""Least growth of frames a second for which a batch is doubled again."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, nargs="+", default=ROWS)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--most", type=int, default=16, help="largest batch")
    parser.add_argument("--frames", type=int, default=50, help="calls to time")
    parser.add_argument("--peer", action="store_true", help="also PyTorch, eager and compiled")
    parser.add_argument("--profile", action="store_true", help="whether superpixels run beside the network")
    options = parser.parse_args()
    rows = []
    for path in options.config:
        for dtype in options.dtypes:
            settings = cli.override(cli.read_segmentation(path), ["--model.dtype", dtype])
            for row in _batches(settings, options.most, options.frames):
                row["dtype"] = dtype
                if options.profile and row["batch"] == 1 and "superpixels" in row["milliseconds"]:
                    row["superpixels_beside_network"] = _beside(settings)
                print(json.dumps({**turns.about(), **row}), flush=True)
                rows.append(row)
            if options.peer:
                _peer(path, dtype)
    stages = ("superpixels", "cnn", "clustering", "total")
    shown = [
        (
            row["config"],
            row["dtype"],
            row["batch"],
            *(row["milliseconds"].get(stage, {}).get("p50") for stage in stages),
            row["milliseconds"]["total"]["p99"],
            row["fps"],
        )
        for row in rows
    ]
    turns.table(("config", "dtype", "batch", *(f"{stage}, ms" for stage in stages), "p99", "frames/s"), shown)


def _batches(settings: config.Config, most: int, frames: int) -> Iterator[dict[str, Any]]:
    batch, best = 1, 0.0
    while batch <= most:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                row = benchmark.benchmark(settings, frames, batch, None)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return
        yield row
        if row["fps"] < ENOUGH * best:
            return
        batch, best = 2 * batch, row["fps"]


def _peer(path: Path, dtype: str) -> None:
    """In a process of its own; no process here takes a GPU's memory before it needs it."""
    command = [sys.executable, str(HERE / "cnn.py"), "--config", str(path), "--compile", "--model.dtype", dtype]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"The peer of {path.stem} failed.\n{run.stderr}")
    print(run.stdout.strip(), flush=True)


def _beside(settings: config.Config) -> float | None:
    """Share of the superpixels' time in which an operation of the network runs too; None if the profile names none."""
    network, capacity = model.network(settings), model.capacity(settings)
    size = settings.model.size or settings.data.crop
    frame = jax.device_put(np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8))
    arguments = (benchmark.variables(settings), frame)
    numbers = jax.tree.map(np.float32, model.thresholds(settings))
    compiled = segment.jitted.lower(network, *arguments, capacity, numbers).compile()
    jax.block_until_ready(compiled(*arguments, numbers))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(compiled(*arguments, numbers))
        return _overlap(folder, compiled.as_text())


def _overlap(folder: str, text: str) -> float | None:
    from training import names_of

    names = names_of(text)
    spans: dict[str, list[tuple[float, float]]] = {"superpixels": [], "Network": []}
    (file,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
    for plane in jax.profiler.ProfileData.from_file(file).planes:
        for line in plane.lines:
            for event in line.events:
                operation = str(dict(event.stats).get("hlo_op", ""))
                if not operation or operation.startswith(("while", "conditional", "call")):
                    continue
                for part, found in spans.items():
                    if part in names.get(operation, ""):
                        found.append((event.start_ns, event.start_ns + event.duration_ns))
    mine, others = _united(spans["superpixels"]), _united(spans["Network"])
    total = sum(end - start for start, end in mine)
    both = sum(max(0, min(end, b) - max(start, a)) for start, end in mine for a, b in others)
    return round(both / total, 3) if total else None


def _united(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same time in spans that do not overlap."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


if __name__ == "__main__":
    main()
