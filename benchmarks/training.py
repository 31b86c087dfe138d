"""What a training step costs and where its time goes: images/s, memory, page faults, compiling.

python benchmarks/training.py [--config FILE ...] [--batch 2] [--steps 4] [--fresh] [--section.setting value ...]

Steps of a config at its crop on generated scenes that lie on the device, so that reading does not count (pipeline.py
times that). Compiling is timed with an empty cache and with the one that this leaves, each in a process of its own.
Page faults and time are those of the program as its commands run, and, with --fresh, of one that leaves memory to the
system as any program does. Shares are of the time of all operations, in a profile of a step. Prints a table on stderr,
a line of JSON on stdout.
"""

import argparse
import glob
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

FRESH = "JAXSEG_BENCHMARK_FRESH"
if FRESH not in os.environ:
    import turns
else:
    from jaxseg import runtime

    runtime.set_flags()

CONFIGS = Path(__file__).parents[1] / "configs"
DEFAULT = [CONFIGS / "cityscapes_mnv2_os4.py", CONFIGS / "cityscapes_dn53_os4.py"]
MIB = 2**20

PARTS = {
    "targets": r"[/(]targets",
    "losses": r"[/(]losses",
    "optimizer": r"optimizer",
    "backward": r"transpose\(",
    "forward": r"Network",
}
"""Where an operation belongs, by its name; the first that fits."""


def main() -> None:
    """Measures each config in processes of its own, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, nargs="+", default=DEFAULT)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--fresh", action="store_true", help="also with memory left to the system")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.one:
        print(json.dumps(_measured(options.config[0], options.batch, options.steps, rest)))
        return
    rows = [_row(path, options, rest) for path in options.config]
    keys = [key for key in rows[0] if key not in ("config", "size", "shares")]
    shown = [(key.replace("_", " "), *(row[key] for row in rows)) for key in keys]
    shown += [(f"{part}, %", *(row["shares"].get(part, 0.0) for row in rows)) for part in [*PARTS, "other"]]
    turns.table(("", *(f"{row['config']}, {row['size'][1]} x {row['size'][0]}" for row in rows)), shown)
    print(json.dumps({**turns.about(), "batch": options.batch, "steps": options.steps, "rows": rows}))


def _row(path: Path, options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", "--config", str(path), "--batch", str(options.batch)]
    command += ["--steps", str(options.steps), *rest]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        row, again = (_run(command, environment) for _ in range(2))
        row["compile_again_s"] = again["compile_s"]
        if options.fresh:
            left = _run(command, environment | {FRESH: "1"})
            row |= {f"{key}_left_alone": left[key] for key in ("step_ms", "faults_a_step")}
    print(f"{path.stem}: {row['step_ms']:.0f} ms a step", file=sys.stderr, flush=True)
    return row


def _run(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(command)}\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def _measured(path: Path, batch: int, steps: int, rest: list[str]) -> dict[str, Any]:
    import frames
    import jax
    import numpy as np

    from jaxseg import cli
    from jaxseg.apps import model
    from jaxseg.apps.tasks import segmentation
    from jaxseg.train.step import step
    from jaxseg.types import Batch

    settings = cli.override(cli.read_segmentation(path), rest)
    size, classes = settings.data.crop, len(settings.data.classes) + 1
    scenes = [frames.crowd(i, size, 4, min(max(classes - 1, 1), 8)) for i in range(batch)]
    images, semantic, instance = (np.stack(part) for part in zip(*(scene[:3] for scene in scenes), strict=True))
    placed = jax.device_put(Batch(images, semantic, instance))
    network = model.module(settings)
    task = segmentation.recipe(settings, network)
    numbers = segmentation.numbers(settings, np.full(classes, 1 / classes, np.float32))
    state = jax.jit(lambda: model.begin(network, settings))()
    update = jax.jit(lambda state, batch: step(state, batch, numbers, task), donate_argnums=0)
    start = time.perf_counter()
    compiled = update.lower(state, placed).compile()
    seconds = time.perf_counter() - start
    state, _ = jax.block_until_ready(compiled(state, placed))
    times, faults = [], []
    for _ in range(steps):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        state, _ = jax.block_until_ready(compiled(state, placed))
        times.append(1000 * (time.perf_counter() - start))
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    plan = compiled.memory_analysis()
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    milliseconds = statistics.median(times)
    return {
        "config": settings.name,
        "size": size,
        "step_ms": round(milliseconds, 1),
        "images_per_second": round(1000 * batch / milliseconds, 2),
        "memory_mib": round((plan.argument_size_in_bytes + results + plan.temp_size_in_bytes) / MIB),
        "faults_a_step": statistics.median(faults),
        "compile_s": round(seconds, 1),
        "shares": _shares(compiled, state, placed),
    }


def _shares(compiled: Any, state: Any, batch: Any) -> dict[str, float]:
    """Percent of the operations' time in each part of a step."""
    import jax

    names = names_of(compiled.as_text())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(compiled(state, batch))
        (file,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        times: Counter[str] = Counter()
        for plane in jax.profiler.ProfileData.from_file(file).planes:
            for line in plane.lines:
                for event in line.events:
                    operation = str(dict(event.stats).get("hlo_op", ""))
                    if operation and not operation.startswith(("while", "conditional", "call")):
                        times[_part(names.get(operation, ""))] += event.duration_ns
    total = sum(times.values()) or 1
    return {part: round(100 * spent / total, 1) for part, spent in times.most_common()}


def names_of(text: str) -> dict[str, str]:
    """Where each operation of an optimized HLO module comes from; a fusion without a name has that of what it holds."""
    names, held, calls, computation = {}, {}, {}, ""
    for line in text.splitlines():
        opening = re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        computation = opening.group(1) if opening else computation
        operation, name = re.match(r"^\s+(?:ROOT )?%?([\w.\-]+) = ", line), re.search(r'op_name="([^"]*)"', line)
        if operation and name:
            names[operation.group(1)] = held[computation] = name.group(1)
        elif operation and (called := re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", line)):
            calls[operation.group(1)] = called.group(1)
    return {operation: held.get(called, "") for operation, called in calls.items()} | names


def _part(name: str) -> str:
    return next((part for part, pattern in PARTS.items() if re.search(pattern, name)), "other")


if __name__ == "__main__":
    main()
