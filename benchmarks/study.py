"""The study behind the default recipe: one decision at a time, each variant a run of its own.

python benchmarks/study.py --results FILE.jsonl [--root FOLDER] [--weights FILE] [--only alpha k ...] [--seeds 0 1 2]
python benchmarks/study.py --results FILE.jsonl [MORE.jsonl ...] --plot docs/study

A variant is a config and what its command line changes; `train.py` trains it and `eval.py` measures it, each with one
processor core, in a work directory of its own, --jobs of them at once (as many as there are cores), and then under many
confidences, for a loss that makes centers less sure of themselves finds as much with a lower one. A line of JSON for
each goes to --results; what is there already is not run again, so that the command may be stopped and given again. A
line of other settings, whatever its command, is of an earlier recipe: it is named and left out of charts and tables.
--root is the folder of dsb2018, --weights an encoder checkpoint of MobileNetV2 from ImageNet; decisions that need what
is not given are left out. Decisions over whole runs, of a quarter of an hour each, are made where --only names them.
--list prints the commands and runs nothing.

--plot draws a chart of each decision: a point is a run, a bar the mean. It prints the tables of docs/study.md.
"""

import argparse
import hashlib
import json
import os
import queue
import shlex
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import turns

from jaxseg import cli, config

PROJECT = Path(__file__).parents[1]
FIGURES = {"ap": "AP", "ap50": "AP50", "iou": "mean IoU", "pq": "PQ", "ap50_agnostic": "AP50, classes as one"}
CONFIDENCE = "benchmarks/study/confidence.py"
BEST = ("ap", "ap50", "center")
"""What is kept of the best of many confidences."""
RUNS: Mapping[str, tuple[str, ...]] = {
    "shapes": ("--config", "configs/shapes.py", "--train.steps", "1800"),
    "dsb2018": ("--config", "configs/dsb2018_mnv2.py", "--train.steps", "600", "--data.crop", "128", "128"),
    "shapes, whole runs": ("--config", "configs/shapes.py"),
    "dsb2018, whole runs": ("--config", "configs/dsb2018_mnv2.py"),
}
"""Proxies of each data set, runs of a few minutes, which tell large differences apart and no small ones; whole runs."""

ALWAYS = ("--train.picture-every", "0", "--train.save-every", "600")


class Decision(NamedTuple):
    """What is compared.

    Attributes:
      title: the question.
      data: of `RUNS`.
      variants: what each changes on the command line, by what the table calls it. The recipe's own changes nothing.
      measured: the program that measures a variant, where it is not `eval.py`.
    """

    title: str
    data: str
    variants: Mapping[str, tuple[str, ...]]
    measured: Mapping[str, str] = MappingProxyType({})

    @property
    def whole(self) -> bool:
        """Whether its runs are as long as the recipe's."""
        return self.data.endswith("whole runs")


def _values(setting: str, *values: object) -> dict[str, tuple[str, ...]]:
    return {str(value): (f"--{setting}", *str(value).split()) for value in values}


OWN: dict[str, tuple[str, ...]] = {"the recipe": ()}

DECISIONS: Mapping[str, Decision] = {
    "alpha": Decision("alpha of eq. 5 (the recipe: 0.9)", "shapes", OWN | _values("losses.alpha", 0.01, 0.25, 0.99)),
    "normalize": Decision(
        "what eq. 5 is divided by (the recipe: positives)", "shapes", OWN | _values("losses.normalize", "elements")
    ),
    "gamma": Decision("gamma of eq. 5 (the recipe: 2)", "shapes", OWN | _values("losses.gamma", 0, 1)),
    "pi": Decision(
        "pi, the confidence that centers start from (the recipe: 0.1)",
        "shapes",
        OWN | _values("model.center-prior", 0.01, 0.5),
    ),
    "target": Decision(
        "what a center is (the recipe: a disc of radius 1.5)",
        "shapes",
        OWN
        | {
            "point": ("--targets.center", "point"),
            "disc of radius 2.5": ("--targets.radius", "2.5"),
            "Gaussian": ("--targets.center", "gaussian", "--targets.radius", "3"),
            "Gaussian, penalty-reduced focal": ("--config", "benchmarks/study/soft.py"),
        },
    ),
    "margins": Decision(
        "margins of eq. 3 and 4 (the recipe: 0.1, 1)",
        "shapes",
        OWN
        | {
            "0.3, 1": ("--losses.attraction-margin", "0.3"),
            "0, 1": ("--losses.attraction-margin", "0"),
            "0.1, 2": ("--losses.repulsion-margin", "2"),
        },
    ),
    "pull": Decision(
        "what pulls embeddings together (the recipe: eq. 3 and 4)",
        "shapes",
        OWN
        | {
            "centers held fast": ("--config", "benchmarks/study/detached.py"),
            "De Brabandere's terms": ("--config", "benchmarks/study/brabandere.py"),
        },
    ),
    "terms": Decision(
        "further terms of the classes (the recipe: none)",
        "shapes",
        OWN
        | {
            "Dice": ("--config", "benchmarks/study/dice.py"),
            "Lovász-softmax": ("--config", "benchmarks/study/lovasz_softmax.py"),
            "borders": ("--config", "benchmarks/study/boundary.py"),
        },
    ),
    "place": Decision(
        "pixels per unit of the position in the embedding (the recipe: none)",
        "shapes",
        OWN | _values("model.coordinates", 16, 32, 64),
    ),
    "embedding": Decision(
        "dimensions of the embedding (the recipe: 32)", "shapes", OWN | _values("model.embedding", 8, 16)
    ),
    "classes": Decision(
        "class weighting (the recipe: the root of eq. 2, its bias inside the loss)",
        "shapes",
        OWN
        | {
            "uniform": ("--losses.class-weight-power", "0"),
            "eq. 2 inside": ("--losses.class-weight-power", "1"),
            "eq. 2 as printed": ("--losses.class-weight-power", "1", "--losses.class-correction", "0"),
            "the same, corrected at inference": ("--losses.class-weight-power", "1", "--losses.class-correction", "0"),
            "its root, biased": ("--losses.class-correction", "0"),
            "its root, corrected at inference": ("--losses.class-correction", "0"),
        },
        {
            "the same, corrected at inference": "benchmarks/study/corrected.py",
            "its root, corrected at inference": "benchmarks/study/corrected.py",
        },
    ),
    "weights": Decision(
        "weights of the losses (the recipe: semantic 0.5, others 1)",
        "shapes",
        OWN
        | {
            "semantic 0.25": ("--losses.semantic", "0.25"),
            "semantic 1": ("--losses.semantic", "1"),
            "center 3": ("--losses.center", "3"),
            "embedding 3": ("--losses.attraction", "3", "--losses.repulsion", "3"),
            "learnt": ("--losses.weighting", "uncertainty"),
        },
    ),
    "crop": Decision(
        "crop, with as many pixels in all (the recipe: 64 x 128)",
        "shapes",
        OWN
        | {
            "128 x 256": ("--data.crop", "128", "256", "--train.steps", "450"),
            "64 x 128, batches of 4": ("--train.batch", "4", "--train.steps", "3600"),
        },
    ),
    "average": Decision(
        "moving average of the parameters (the recipe: none)", "shapes", OWN | _values("optimizer.average", 0.99)
    ),
    "rate": Decision(
        "learning rate (the recipe: 0.004)", "shapes", OWN | _values("optimizer.learning-rate", 0.002, 0.008)
    ),
    "encoder": Decision(
        "encoder (the recipe: Darknet with a quarter of its channels, stride 16)",
        "shapes",
        OWN
        | {
            "the same at stride 8": ("--model.encoder-stride", "8"),
            "MobileNetV2, width 0.5": (
                *("--model.encoder", "mobilenet_v2", "--model.encoder-width", "0.5"),
                "--model.encoder-blocks",
            ),
            "MobileNetV2 at stride 8": (
                *("--model.encoder", "mobilenet_v2", "--model.encoder-width", "0.5", "--model.encoder-stride", "8"),
                "--model.encoder-blocks",
            ),
        },
    ),
    "decoder": Decision(
        "width of the decoders (the recipe: 0.5)", "shapes", OWN | _values("model.decoder-width", 0.25, 1)
    ),
    "k": Decision(
        "superpixels (the recipe: k = 2)",
        "dsb2018",
        OWN | {"k = 4": ("--superpixels.size", "4"), "k = 8": ("--superpixels.size", "8")},
    ),
    "start": Decision(
        "encoder's start (the recipe: ImageNet)",
        "dsb2018",
        OWN
        | {
            "from scratch": ("--model.encoder-weights", "", "--optimizer.encoder-rate", "1"),
            "at the full rate": ("--optimizer.encoder-rate", "1"),
        },
    ),
    "position": Decision(
        "pixels per unit of the position in the embedding (the recipe: 16)",
        "dsb2018",
        OWN | _values("model.coordinates", 0, 8, 32),
    ),
    "colors": Decision(
        "random colors of training images (the recipe: saturation and hue)",
        "dsb2018",
        OWN
        | {
            "brightness and contrast too": ("--data.augment.brightness", "0.1", "--data.augment.contrast", "0.2"),
            "none": ("--data.augment.saturation", "0", "--data.augment.hue", "0"),
        },
    ),
    "scale": Decision(
        "sizes of training images (the recipe: 0.7 to 1.5 times their own)",
        "dsb2018",
        OWN | {"0.5 to 2": ("--data.augment.scale", "0.5", "2"), "their own": ("--data.augment.scale", "1", "1")},
    ),
    "nuclei-crop": Decision(
        "crop of the nuclei (the recipe: 128 x 128)",
        "dsb2018",
        OWN
        | {
            "192 x 192, as many pixels": ("--data.crop", "192", "192", "--train.steps", "267"),
            "192 x 192, as many updates": ("--data.crop", "192", "192"),
        },
    ),
    "nuclei-classes": Decision(
        "class weighting (the recipe: the root of eq. 2, its bias inside the loss)",
        "dsb2018",
        OWN
        | {
            "uniform": ("--losses.class-weight-power", "0"),
            "eq. 2 as printed": ("--losses.class-weight-power", "1", "--losses.class-correction", "0"),
        },
    ),
    "whole-shapes": Decision(
        "Whole runs of scenes",
        "shapes, whole runs",
        OWN
        | {
            "uniform class weights": ("--losses.class-weight-power", "0"),
            "alpha 0.25": ("--losses.alpha", "0.25"),
            "Gaussian targets": ("--targets.center", "gaussian", "--targets.radius", "3"),
        },
    ),
    "whole-nuclei": Decision(
        "Whole runs of nuclei",
        "dsb2018, whole runs",
        OWN
        | {
            "from scratch": ("--model.encoder-weights", "", "--optimizer.encoder-rate", "1"),
            "k = 4": ("--superpixels.size", "4"),
            "images of their own size": ("--data.augment.scale", "1", "1"),
        },
    ),
}


class Job(NamedTuple):
    """A run.

    Attributes:
      decision: its name.
      variant: what the table calls it.
      seed: of the run.
      command: of `train.py`, without the work directory.
      measure: the program that measures it.
    """

    decision: str
    variant: str
    seed: int
    command: tuple[str, ...]
    measure: str = "eval.py"

    @property
    def line(self) -> str:
        """The command as one types it, and what measures the run, where it is not `eval.py`."""
        after = "" if self.measure == "eval.py" else f" && python {self.measure}"
        return shlex.join(["python", "train.py", *self.command]) + after

    @property
    def settings(self) -> str:
        """Digits that change with any setting of the run, but where things are, and with what measures it."""
        words = list(self.command)
        place = words.index("--config")
        file, rest = PROJECT / words[place + 1], words[:place] + words[place + 2 :]
        found = config.flatten(cli.override(cli.read_segmentation(file), rest))
        away = {"data.root", "data.cache", "data.workers", "model.encoder_weights"}
        kept = {name: value for name, value in found.items() if name not in away}
        started = bool(found["model.encoder_weights"])
        other = () if self.measure == "eval.py" else (self.measure,)
        return hashlib.sha256(repr((sorted(kept.items()), started, *other)).encode()).hexdigest()[:12]

    def named(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """What a run of this command found, under this decision's name for it."""
        about = {"decision": self.decision, "variant": self.variant, "seed": self.seed}
        return {**found, **about, "settings": self.settings}


def jobs(only: Sequence[str], seeds: Sequence[int], root: str, weights: str) -> Iterator[Job]:
    """All runs, decision by decision."""
    nuclei = ("--data.root", root, "--model.encoder-weights", weights, "--optimizer.encoder-rate", "0.3")
    for name in only or (name for name, decision in DECISIONS.items() if not decision.whole):
        decision = DECISIONS[name]
        given = nuclei if decision.data.startswith("dsb2018") else ()
        if given and not (root and weights):
            continue
        start = (*RUNS[decision.data], *given, *ALWAYS)
        for seed in seeds:
            for variant, change in decision.variants.items():
                command = (*_overridden(start, change), "--seed", str(seed))
                yield Job(name, variant, seed, command, decision.measured.get(variant, "eval.py"))


def _overridden(start: Sequence[str], change: Sequence[str]) -> tuple[str, ...]:
    """A command line in which each setting comes once, for the later one counts."""
    settings: dict[str, tuple[str, ...]] = {}
    for word in (*start, *change):
        if word.startswith("--"):
            name = word
            settings[name] = ()
        else:
            settings[name] += (word,)
    return tuple(word for name, values in settings.items() for word in (name, *values))


def train_and_measure(job: Job, workdir: Path, core: int) -> dict[str, Any]:
    """One run on one core, from the start or from where it was stopped."""
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "OMP_NUM_THREADS": "1"}
    folder = workdir / f"{job.decision}-{job.variant}-{job.seed}-{job.settings}".replace(" ", "_").replace("/", "_")
    pin = ["taskset", "-c", str(core)] if shutil.which("taskset") else []
    seconds = []
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        commands: list[tuple[str, ...]] = [("train.py", *job.command), (job.measure,)]
        commands += [(CONFIDENCE,)] if job.measure == "eval.py" else []
        for command in commands:
            began = time.perf_counter()
            words = [*pin, sys.executable, *command, "--workdir", str(folder.absolute())]
            subprocess.run(words, cwd=PROJECT, env=env, stdout=log, stderr=log, check=True)
            seconds.append(round(time.perf_counter() - began, 1))
    found = json.loads(next(folder.rglob("metrics.json")).read_text())
    tried = folder / "confidence.json"
    return {
        "command": job.line,
        "seconds": dict(zip(("train", "eval", "confidence"), seconds, strict=False)),
        "figures": {name: found[name] for name in FIGURES},
        "confidence": json.loads(tried.read_text())["best"] if tried.is_file() else None,
    }


class Results:
    """What runs found, a line of JSON each; safe in threads."""

    def __init__(self, file: Path) -> None:
        """Reads what is there."""
        self._file, self._lock = file, threading.Lock()
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        self._have = {(line["decision"], line["variant"], line["settings"]) for line in lines}
        self.known = {line["settings"]: line for line in lines}

    def has(self, job: Job) -> bool:
        """Whether this decision has it."""
        return (job.decision, job.variant, job.settings) in self._have

    def keep(self, job: Job, found: Mapping[str, Any]) -> None:
        """Adds a line, and says so."""
        line = job.named(found)
        with self._lock, self._file.open("a") as file:
            self.known[job.settings] = line
            self._have.add((job.decision, job.variant, job.settings))
            print(json.dumps(line), file=file)
        print(f"{job.decision}: {job.variant}, seed {job.seed}: {_percent(line)}", file=sys.stderr, flush=True)


def run(todo: Sequence[Job], workdir: Path, results: Results, cores: Sequence[int]) -> int:
    """All runs that the results do not have, one at a time on each core; returns how many failed.

    The recipe's own run is part of many decisions, and made once.
    """
    missing = [job for job in todo if not results.has(job)]
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in {job.settings: job for job in reversed(missing) if job.settings not in results.known}.values():
        waiting.put(job)
    failed: list[Job] = []

    def work(core: int) -> None:
        while True:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                results.keep(job, train_and_measure(job, workdir, core))
            except Exception as error:  # Whatever became of one run, the others are made.
                failed.append(job)
                print(f"{job.decision}: {job.variant}, seed {job.seed}: {error}", file=sys.stderr, flush=True)

    threads = [threading.Thread(target=work, args=(core,)) for core in cores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in missing:
        if job.settings in results.known and not results.has(job):
            results.keep(job, results.known[job.settings])
    return len(failed)


def _percent(line: Mapping[str, Any]) -> str:
    shown = ((title, line["figures"][name]) for name, title in FIGURES.items())
    return ", ".join(f"{title} {100 * (value or 0):.1f}" for title, value in shown)


def grouped(lines: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[Mapping[str, float]]]:
    """Figures of each run of a decision, by variant, in the order of the decision; "best" before those of `BEST`."""
    found: dict[str, list[Mapping[str, float]]] = {variant: [] for variant in DECISIONS[name].variants}
    for line in lines:
        if line["decision"] == name and line["variant"] in found:
            best = line.get("confidence") or {}
            found[line["variant"]].append(line["figures"] | {f"best_{name}": best[name] for name in BEST if best})
    return {variant: runs for variant, runs in found.items() if runs}


def current(lines: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The lines whose settings are those that their decision and variant have now; others are named."""
    seeds = sorted({line["seed"] for line in lines})
    todo = jobs(list(DECISIONS), seeds, "FOLDER", "FILE")
    now = {(job.decision, job.variant, job.seed): job.settings for job in todo}
    for line in lines:
        place = line["decision"], line["variant"], line["seed"]
        if now.get(place) == line["settings"]:
            yield line
        else:
            print(f"left out, for it is of other settings: {', '.join(map(str, place))}", file=sys.stderr)


def markdown(name: str, variants: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """The table of a decision."""
    decision = DECISIONS[name]
    rows = [f"**{decision.title}**" + (f", {decision.data}" if not decision.whole else ""), ""]
    best = any("best_center" in one for runs in variants.values() for one in runs)
    titles = [" ", *FIGURES.values(), *["AP, AP50 at the best confidence"] * best, "runs"]
    rows += ["|" + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for variant, runs in variants.items():
        cells = [_cell([100 * (one[figure] or 0) for one in runs]) for figure in FIGURES]
        cells += [_best(runs)] * best
        rows.append(f"| {variant} | " + " | ".join(cells) + f" | {len(runs)} |")
    return "\n".join(rows)


def _best(runs: Sequence[Mapping[str, float]]) -> str:
    """AP and AP50 of each run at its own best confidence, and the range of these."""
    if not all("best_center" in one for one in runs):
        return "-"
    ap, ap50 = (_cell([100 * (one[f"best_{name}"] or 0) for one in runs]) for name in ("ap", "ap50"))
    centers = sorted({one["best_center"] for one in runs})
    return f"{ap}, {ap50} at " + " to ".join(f"{center:g}" for center in (centers[:1] + centers[1:][-1:]))


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


ROW, LEFT, WIDTH, TOP, BOTTOM = 30, 190, 460, 34, 62
SHOWN = {"ap50": "#0072b2", "ap": "#d55e00", "iou": "#009e73"}


def chart(name: str, variants: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Points of each variant on a row of its own, as SVG."""
    shown = (*SHOWN, *(f"best_{figure}" for figure in SHOWN))
    everything = [one for runs in variants.values() for one in runs]
    values = [100 * (one[figure] or 0) for one in everything for figure in shown if figure in one]
    low, high = 10 * int(min(values) // 10), 10 * (int(max(values) // 10) + 1)
    bottom = TOP + ROW * len(variants)
    best = ", circles: at the best confidence" if any("best_center" in one for one in everything) else ""

    def across(value: float) -> float:
        return LEFT + (value - low) / (high - low) * WIDTH

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 30} {bottom + BOTTOM}" width="680"'
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-weight="bold">{_text(DECISIONS[name].title)}'
        f'<tspan font-weight="normal" fill="#666">{best}</tspan></text>',
    ]
    for tick in range(low, high + 1, 10 if high - low > 30 else 5):
        parts.append(f'<path d="M{across(tick):.1f} {TOP}V{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{across(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick}</text>')
    for row, (variant, runs) in enumerate(variants.items()):
        parts += _row(variant, runs, TOP + ROW * (row + 0.5), across)
    for i, (figure, color) in enumerate(SHOWN.items()):
        x = LEFT + 130 * i
        parts.append(f'<circle cx="{x}" cy="{bottom + 40}" r="4" fill="{color}"/>')
        parts.append(f'<text x="{x + 10}" y="{bottom + 44}">{FIGURES[figure]}, percent</text>')
    return "".join(parts) + "</svg>\n"


def _row(
    variant: str, runs: Sequence[Mapping[str, float]], y: float, across: Callable[[float], float]
) -> Iterator[str]:
    yield f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{_text(variant)}</text>'
    for figure, color in SHOWN.items():
        points = [100 * (one[figure] or 0) for one in runs]
        yield f'<path d="M{across(statistics.mean(points)):.1f} {y - 9:.1f}v18" stroke="{color}" stroke-width="2"/>'
        for point in points:
            yield f'<circle cx="{across(point):.1f}" cy="{y:.1f}" r="4" fill="{color}" fill-opacity="0.6"/>'
        for best in [100 * (one[f"best_{figure}"] or 0) for one in runs if f"best_{figure}" in one]:
            yield f'<circle cx="{across(best):.1f}" cy="{y:.1f}" r="6" fill="none" stroke="{color}"/>'


def _text(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;")


def cores() -> list[int]:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return sorted(allowed(0)) if allowed else list(range(os.cpu_count() or 1))


def main() -> None:
    """Trains, lists or draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/study"), help="folder of the runs")
    parser.add_argument(
        "--results", type=Path, nargs="+", required=True, help="lines of JSON; new ones go to the first"
    )
    parser.add_argument("--root", default="", help="folder of dsb2018")
    parser.add_argument("--weights", default="", help="MobileNetV2 from ImageNet, of jaxseg weights import")
    parser.add_argument("--only", nargs="+", default=[], choices=DECISIONS, help="decisions; all proxies otherwise")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=len(cores()), help="runs at a time")
    parser.add_argument("--list", action="store_true", help="print the commands, and run nothing")
    parser.add_argument("--plot", type=Path, help="folder for the charts; runs nothing")
    given = parser.parse_args()
    if given.jobs < 1:
        parser.error("--jobs must be at least 1.")
    todo = list(jobs(given.only, given.seeds, given.root, given.weights))
    if given.list:
        for job in todo:
            print(f"{job.decision}: {job.variant}: {job.line}")
    elif given.plot:
        lines = [json.loads(line) for file in given.results for line in file.read_text().splitlines()]
        lines = list(current(lines))
        given.plot.mkdir(parents=True, exist_ok=True)
        for name in DECISIONS:
            if variants := grouped(lines, name):
                (given.plot / f"{name}.svg").write_text(chart(name, variants))
                print(markdown(name, variants), end=f"\n\n![]({given.plot.name}/{name}.svg)\n\n")
    else:
        print(json.dumps(turns.about()), file=sys.stderr)
        sys.exit(run(todo, given.workdir, Results(given.results[0]), cores()[: given.jobs]) and 1)


if __name__ == "__main__":
    main()
