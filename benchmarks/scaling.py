"""How training scales with devices, and where the time of a step goes: the same table on a laptop and on a pod.

python benchmarks/scaling.py --config FILE [--per-device 2] [--devices 1 2 ...] [--steps 10] [--rounds 5]
    [--coordinator HOST:PORT --processes N --process I] [--section.setting value ...]

Every device gets the same number of images, however many devices there are. Prints a table on stderr and a line of JSON
on stdout. On a machine without accelerators JAX_NUM_CPU_DEVICES makes more devices than it has cores; they share these.
In a run of several processes each gives the same command, and the counts are those of all processes together.

Rounds of four kinds take turns, over all counts of devices, so that whatever else the machine does weighs on all alike;
figures are medians over the rounds, of seconds a step:

  whole     the loop of train.py: batches from the input pipeline, updates
  saving    the same while a checkpoint is written
  fixed     updates with one batch again and again
  alone     the same without any sum over devices, so that each trains a network of its own

"input" is whole - fixed: what the pipeline does not hide behind the update. "communication" is fixed - alone: sums over
devices and waiting for the slowest. "checkpoint" is saving - whole, over the steps between two checkpoints. "compute"
is the rest, with the transfer of a batch to the devices. A difference that noise makes negative counts as 0.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxseg import cli

KINDS = ("whole", "saving", "fixed", "alone")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="a config of segmentation or classification")
    parser.add_argument("--per-device", type=int, default=2, help="images of a device in an update")
    parser.add_argument("--devices", type=int, nargs="+", help="counts of devices (default: 1, 2, 4, ... and all)")
    parser.add_argument("--steps", type=int, default=10, help="updates in a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each kind")
    parser.add_argument("--coordinator", default="")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    options, rest = parser.parse_known_args()
    settings = cli.override(cli.read_config(options.config), rest)

    from jaxseg import runtime
    from jaxseg.train import parallel

    runtime.prepare()
    parallel.prepare_host()
    parallel.connect(options.coordinator, options.processes, options.process)
    from jaxseg.apps import train

    settings, layout = train.resolved(settings)
    import jax

    counts = sorted(set(options.devices or _counts(len(jax.devices()), parallel.place()[1])))
    with tempfile.TemporaryDirectory() as scratch:
        runs = [_Run(settings, layout, n, options.per_device, Path(scratch) / str(n)) for n in counts]
        seconds = _measured(runs, options.steps, options.rounds)
    rows = _rows(runs, seconds, options.steps)
    if parallel.lead():
        _show(rows)
        print(json.dumps({**_machine(settings, options), "rows": rows}))


def _counts(devices: int, processes: int) -> list[int]:
    """Powers of two of devices in each process, and all."""
    here = devices // processes
    return [processes * n for n in [2**i for i in range(here.bit_length()) if 2**i < here] + [here]]


class _Run:
    """Training on some of the devices, ready to go on for a few steps in each of the ways."""

    def __init__(self, settings: Any, layout: Any, count: int, per_device: int, workdir: Path) -> None:
        import jax

        from jaxseg.apps import model, train
        from jaxseg.train import parallel

        self.count, self.batch, self.workdir = count, count * per_device, workdir
        self.settings = dataclasses.replace(
            settings, train=dataclasses.replace(settings.train, batch=self.batch, steps=10**9)
        )
        job = train.job(self.settings, layout, workdir, False)
        of_each = count // parallel.place()[1]
        every = [d for p in range(parallel.place()[1]) for d in _of_process(p)[:of_each]]
        if count % parallel.place()[1] or len(every) != count:
            sys.exit(f"--devices {count}: there are {len(jax.devices())} devices in {parallel.place()[1]} processes.")
        self.devices, self.numbers = every, job.numbers
        begin = model.begin(model.module(self.settings), self.settings)
        lone = job.task._replace(network=model.module(self.settings), axis_name=None)
        self.updates = {"together": parallel.train_step(job.task, every), "alone": _lone_step(lone, every)}
        self.states = {name: parallel.replicate(begin, every) for name in self.updates}
        self.batches: Iterator[Any] = job.batches(0)
        self.fixed = next(self.batches)

    def go(self, kind: str, steps: int) -> float:
        """Seconds of some steps, until the devices have done them."""
        import jax

        from jaxseg.train import parallel
        from jaxseg.train.checkpoint import Checkpoints

        name = "alone" if kind == "alone" else "together"
        update, saves = self.updates[name], kind == "saving" and parallel.lead()
        jax.block_until_ready(self.states[name])
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(Checkpoints(self.workdir, keep=1)) if saves else None
            begun = time.perf_counter()
            if checkpoints is not None:
                checkpoints.save(parallel.unreplicate(self.states[name]))
            for _ in range(steps):
                batch = self.fixed if kind in ("fixed", "alone") else next(self.batches)
                parts = parallel.shard(batch, self.devices)
                self.states[name], scalars = update(self.states[name], parts, self.numbers)
            jax.block_until_ready(scalars)
        return time.perf_counter() - begun


def _of_process(process: int) -> list[Any]:
    import jax

    return [d for d in jax.devices() if d.process_index == process]


def _lone_step(task: Any, devices: list[Any]) -> Callable:
    """The update on each device by itself."""
    import jax

    from jaxseg.train.step import step

    return jax.pmap(
        lambda state, batch, numbers: step(state, batch, numbers, task),
        in_axes=(0, 0, None),
        donate_argnums=(0,),
        devices=devices,
    )


def _measured(runs: list[_Run], steps: int, rounds: int) -> dict[int, dict[str, list[float]]]:
    """Seconds a step, by count of devices and kind of round."""
    found: dict[int, dict[str, list[float]]] = {run.count: {kind: [] for kind in KINDS} for run in runs}
    for i in range(rounds + 1):
        for run in runs:
            for kind in KINDS:
                seconds = run.go(kind, steps if i else 2)
                if i:  # The first round compiles.
                    found[run.count][kind].append(seconds / steps)
    return found


def _rows(runs: list[_Run], seconds: dict[int, dict[str, list[float]]], steps: int) -> list[dict[str, Any]]:
    """The table; efficiency is the rate of a device against that with the fewest devices."""
    rows = [_row(run, seconds[run.count], steps) for run in runs]
    for row in rows:
        row["efficiency"] = (
            row["images_per_second"] / row["devices"] / rows[0]["images_per_second"] * rows[0]["devices"]
        )
    return rows


def _row(run: _Run, seconds: dict[str, list[float]], steps: int) -> dict[str, Any]:
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    save = max(0.0, medians["saving"] - medians["whole"]) * steps
    checkpoint = save / run.settings.train.save_every
    step = medians["whole"] + checkpoint
    shares = {
        "input": max(0.0, medians["whole"] - medians["fixed"]) / step,
        "communication": max(0.0, medians["fixed"] - medians["alone"]) / step,
        "checkpoint": checkpoint / step,
    }
    return {
        "devices": run.count,
        "batch": run.batch,
        "images_per_second": run.batch / step,
        "shares": {"compute": 1 - sum(shares.values()), **shares},
        "seconds_a_step": medians,
        "seconds_a_checkpoint": save,
    }


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for title in ("devices", "images", "images/s", "efficiency", *rows[0]["shares"]):
        table.add_column(title, justify="right")
    for row in rows:
        shares = (f"{100 * share:.1f} %" for share in row["shares"].values())
        rate, efficiency = f"{row['images_per_second']:.1f}", f"{100 * row['efficiency']:.0f} %"
        table.add_row(str(row["devices"]), str(row["batch"]), rate, efficiency, *shares)
    Console(stderr=True, width=110).print(table)


def _machine(settings: Any, options: argparse.Namespace) -> dict[str, Any]:
    import jax

    return {
        "config": settings.name,
        "size": list(settings.data.crop),
        "per_device": options.per_device,
        "steps": options.steps,
        "rounds": options.rounds,
        "save_every": settings.train.save_every,
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "processes": jax.process_count(),
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    main()
