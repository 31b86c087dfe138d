"""A sweep beside the same runs alone: whether they agree, and how long both take.

python benchmarks/sweep.py --config FILE [--vary losses.alpha=0.25,0.9 ...] [--seeds 2] [--steps 60] [--together 0 4]
    [--section.setting value ...]

Runs `train.py` for each combination of values and seeds, half of them before and half of them after `jaxseg sweep`,
which makes all of them, once for each number of --together (runs that a device computes at once; 0 leaves the choice to
the program). Each side begins with an empty cache of compiled programs; the runs alone share one, as a user's do. Data
is prepared before. Updates are the first ones of a run of the config, with its warm-up.

"seconds" are those of the whole commands, compiling and checkpoints included; the sweep also measures its runs on the
validation images: its ratio leaves the seconds of that out. "a step" is the time of an update of one run once all is
compiled, by TensorBoard's clock, from the tenth on; of a sweep, divided by the runs that train side by side.

For "agreement" all commands are given again, with every loss logged: the largest relative difference of the first ten,
over all runs. Where a run alone has several devices, it sums a batch in another order than one in a sweep, which has
one: JAX_NUM_CPU_DEVICES=1 (CUDA_VISIBLE_DEVICES=0) gives both one. Prints a table on stderr, a line of JSON on stdout.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import turns

from jaxseg import cli
from jaxseg.apps.experiments import plan
from jaxseg.config import flatten

ROOT = Path(__file__).parents[1]
FIRST = 10
"""Losses that are compared, steps that are not timed, and how far apart losses are logged otherwise."""

Curve = dict[int, tuple[float, float]]
"""Step to loss and seconds of the clock."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "shapes.py")
    parser.add_argument(
        "--vary", action="append", default=[], help="as in jaxseg sweep (default: losses.alpha=0.25,0.9)"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60, help="updates of a run: at least 20, in tens")
    parser.add_argument("--together", type=int, nargs="+", default=[0])
    options, rest = parser.parse_known_args()
    options.vary = options.vary or ["losses.alpha=0.25,0.9"]
    if options.steps < 2 * FIRST or options.steps % FIRST:
        sys.exit("--steps must be a multiple of 10, and at least 20.")
    rest += ["--train.steps", str(options.steps), "--train.save-every", str(options.steps)]
    rest += ["--train.picture-every", "0", *_warmup(options.config, options.steps, rest)]
    _command(["data", "prepare", "--config", str(options.config), *rest], {})
    with tempfile.TemporaryDirectory() as scratch:
        rows = _measured(options, rest, Path(scratch))
    titles = ("", "seconds", "measuring, s", "a step, ms", "ratio, seconds", "ratio, a step", "agreement")
    keys = ("seconds", "measuring", "step_ms", "ratio_seconds", "ratio_step", "agreement")
    shown = [(row["name"], *(row.get(key) for key in keys[:-1]), _scientific(row.get("agreement"))) for row in rows]
    turns.table(titles, shown)
    about = {"config": options.config.stem, "vary": options.vary, "seeds": options.seeds, "steps": options.steps}
    print(json.dumps({**turns.about(), **about, "settings": rest, "rows": rows}))


def _scientific(value: float | None) -> str | None:
    return None if value is None else f"{value:.0e}"


def _warmup(config: Path, steps: int, rest: list[str]) -> list[str]:
    """Settings that give a short run the learning rates of the whole run's first updates."""
    if any(word.startswith("--optimizer") for word in rest):
        return []
    settings = cli.read_segmentation(config)
    rising = settings.optimizer.warmup * settings.train.steps
    if rising <= steps:
        return []
    rate = settings.optimizer.learning_rate * steps / rising
    return ["--optimizer.warmup", "1", "--optimizer.learning-rate", f"{rate:.6g}"]


def _measured(options: argparse.Namespace, rest: list[str], scratch: Path) -> list[dict[str, Any]]:
    """A row for the runs alone, and one for each sweep."""
    known = flatten(cli.read_segmentation(options.config))
    names = [word.split("=")[0].replace("-", "_") for word in options.vary]
    values = list(itertools.product(*(word.split("=")[1].split(",") for word in options.vary)))
    changes = [
        [w for name, text in zip(names, texts, strict=True) for w in plan.words(name, text, known.get(name))]
        + ["--seed", str(seed)]
        for texts, seed in itertools.product(values, range(options.seeds))
    ]
    vary = [w for word in options.vary for w in ("--vary", word)] + ["--seeds", str(options.seeds)]
    config = ["--config", str(options.config), *rest]

    def alone(runs: range, every: int) -> float:
        """Makes some of the runs; seconds it took."""
        cache = {"JAX_COMPILATION_CACHE_DIR": str(scratch / "cache")}
        log = ["--train.log-every", str(every)]
        folders = [scratch / f"alone{i}_{every}" for i in runs]
        return sum(
            _command(["train", *config, *log, "--workdir", str(folder), *changes[i]], cache)
            for i, folder in zip(runs, folders, strict=True)
        )

    def sweep(together: int, every: int) -> float:
        """Makes all of them; seconds it took."""
        cache = {"JAX_COMPILATION_CACHE_DIR": str(scratch / f"cache{together}")}
        command = ["sweep", *config, *vary, "--train.log-every", str(every), "--together", str(together)]
        return _command([*command, "--workdir", str(scratch / f"sweep{together}_{every}")], cache)

    half, count = len(changes) // 2, len(changes)
    seconds = alone(range(half), FIRST)
    spent = {together: sweep(together, FIRST) for together in options.together}
    seconds += alone(range(half, count), FIRST)
    alone(range(count), 1)
    for together in options.together:
        sweep(together, 1)
    curves = {every: [_curve(scratch / f"alone{i}_{every}") for i in range(count)] for every in (1, FIRST)}
    steps = [_step(curve) for curve in curves[FIRST]]
    first = {"name": f"{count} runs alone", "seconds": seconds, "step_ms": 1000 * statistics.median(steps)}
    return [first, *(_row(scratch, together, spent[together], curves[1], first) for together in options.together)]


def _row(scratch: Path, together: int, spent: float, alone: list[Curve], first: dict[str, Any]) -> dict[str, Any]:
    """What came of a sweep, beside the runs alone."""
    folder = scratch / f"sweep{together}_{FIRST}"
    found = json.loads((folder / "sweep.json").read_text())
    curves = [_curve(folder / run["folder"]) for run in found["runs"]]
    beside = _beside(curves)
    step = statistics.median(_step(curve) / n for curve, n in zip(curves, beside, strict=True))
    every = [_curve(scratch / f"sweep{together}_1" / run["folder"]) for run in found["runs"]]
    differences = [
        abs(mine[i][0] - theirs[i][0]) / abs(theirs[i][0])
        for mine, theirs in zip(every, alone, strict=True)
        for i in range(1, FIRST + 1)
    ]
    training, measuring = (sum(run[key] for run in found["runs"]) for key in ("seconds", "measuring"))
    return {
        "name": f"sweep, --together {together}" if together else "sweep",
        "seconds": spent,
        "training": training,
        "measuring": measuring,
        "step_ms": 1000 * step,
        "ratio_seconds": first["seconds"] / (spent - measuring),
        "ratio_step": first["step_ms"] / (1000 * step),
        "agreement": max(differences),
    }


def _beside(curves: list[Curve]) -> list[int]:
    """How many runs trained at the time at which each did."""
    spans = [(curve[min(curve)][1], curve[max(curve)][1]) for curve in curves]
    middles = [sum(span) / 2 for span in spans]
    return [sum(low <= middle <= high for low, high in spans) for middle in middles]


def _step(curve: Curve) -> float:
    """Seconds of a step, once all is compiled."""
    return (curve[max(curve)][1] - curve[FIRST][1]) / (max(curve) - FIRST)


def _command(words: list[str], environment: dict[str, str]) -> float:
    """Runs a command of the project; seconds it took."""
    print(f"jaxseg {' '.join(words)}", file=sys.stderr, flush=True)
    command = [sys.executable, "-c", "from jaxseg import cli; cli.main()", *words]
    begun = time.perf_counter()
    run = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    return time.perf_counter() - begun


def _curve(workdir: Path) -> Curve:
    """The loss of each step, and when it was written."""
    from tensorboardX.proto import event_pb2

    found: Curve = {}
    for file in sorted((workdir / "tensorboard").iterdir()):
        content = file.read_bytes()
        while content:
            # Length of the event, its checksum, the event, its checksum.
            size = int.from_bytes(content[:8], "little")
            event, content = event_pb2.Event.FromString(content[12 : 12 + size]), content[16 + size :]
            losses = [value.simple_value for value in event.summary.value if value.tag == "train/loss"]
            found |= {event.step: (losses[0], event.wall_time)} if losses else {}
    return found


if __name__ == "__main__":
    main()
