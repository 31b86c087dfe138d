"""Timing in turns, and what every benchmark says about the machine it ran on."""

import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxseg import runtime

runtime.prepare()  # As every command does, before JAX is imported. Peers in the process gain from kept memory too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # A GPU is shared with a peer.

TURN = 0.05
"""Seconds that a turn lasts at least."""

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

PACKAGES = ("jax", "numpy", "scipy", "scikit-learn", "opencv-contrib-python-headless", "fast-slic", "torch")


def times(runs: Mapping[str, Callable[[int], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each function in each round.

    In a round each has one turn, with the round's number as its argument, so that whatever else the machine does weighs
    on all. A turn repeats the call, twice at least, and counts the median without the first: threads that were asleep
    while another had its turn are awake by then, and each finds its own data in the caches.

    Args:
      runs: name to function.
      rounds: how many.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(0)  # Compiles, or warms up.
    for i in range(max(rounds, 2)):
        for name, run in runs.items():
            found[name].append(_turn(run, i))
    return found


def _turn(run: Callable[[int], Any], i: int) -> float:
    calls, begun = [], time.perf_counter()
    while len(calls) < 2 or time.perf_counter() - begun < TURN:
        start = time.perf_counter()
        run(i)
        calls.append(1000 * (time.perf_counter() - start))
    return statistics.median(calls[1:])


def ratio(ours: list[float], peer: list[float]) -> dict[str, Any]:
    """Peer / ours, round by round: median and quartiles."""
    ratios = [p / o for p, o in zip(peer, ours, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {"ratio": round(statistics.median(ratios), 3), "quartiles": [round(low, 3), round(high, 3)]}


def about() -> dict[str, Any]:
    """The machine, the day, and the versions of what was measured."""
    import jax

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": jax.devices()[0].device_kind,
        "processor": _processor(),
        "cores": CORES,
        "python": platform.python_version(),
        "flags": os.environ.get("XLA_FLAGS", ""),
        "versions": versions,
    }


def _processor() -> str:
    """Name, family and widest vectors of the processor, where the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    vectors = next((v for v in ("avx512_vbmi2", "avx512f", "avx2") if v in fields.get("flags", "").split()), "")
    return f"{fields.get('model name', platform.machine())}, family {fields.get('cpu family', '?')}, {vectors}"


def table(titles: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Prints rows of figures on stderr; what is not text stands to the right."""
    from rich.console import Console
    from rich.table import Table

    shown = Table()
    for i, title in enumerate(titles):
        shown.add_column(title, justify="left" if all(isinstance(row[i], str) for row in rows) else "right")
    for row in rows:
        shown.add_row(*("" if x is None else f"{x:.2f}" if isinstance(x, float) else str(x) for x in row))
    Console(stderr=True, width=130).print(shown)
    sys.stderr.flush()
