"""The thresholds of the grouping, swept over a split in one launch: the network runs once an image."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, UInt8
from rich.console import Console
from rich.table import Table

from jaxseg import config, segment
from jaxseg.apps import files, model
from jaxseg.apps.evaluation import charts, report, scores
from jaxseg.data import Example, Label
from jaxseg.metrics.counts import Truth
from jaxseg.train import storage
from jaxseg.types import Capacity, Outputs, Segmentation, Thresholds

CENTER = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
ASSIGNMENT = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
DUPLICATE = (0.1, 0.2, 0.3, 0.5)
"""What is tried, every combination; the run's own settings are added."""

AT_ONCE = 8
"""Combinations in a call: enough to share a pass over the embeddings, few enough for the memory of large frames."""

NAMES = ("center", "assignment", "duplicate")


def grid(settings: config.Config) -> dict[str, tuple[float, ...]]:
    """Values of each threshold: those above and the run's own. All-to-all clustering knows the assignment radius only.

    Args:
      settings: of the run.
    """
    own = settings.grouping
    values = {
        name: tuple(sorted({*tried, getattr(own, name)}))
        for name, tried in zip(NAMES, (CENTER, ASSIGNMENT, DUPLICATE), strict=True)
    }
    if settings.model.clustering == "all_to_all":
        values |= {name: (getattr(own, name),) for name in ("center", "duplicate")}
    return values


@functools.partial(jax.jit, static_argnums=(0, 3))
def forward(
    network: nn.Module, variables: Any, frame: UInt8[Array, "H W 3"], capacity: Capacity, thresholds: Thresholds
) -> tuple[Outputs, UInt8[Array, "H W"]]:
    """What the post-processing of one frame needs: the network's outputs and the superpixels."""
    plan = segment.geometry((frame.shape[0], frame.shape[1]), capacity)
    images, canvases = segment.inputs(frame[None], plan)
    outputs = jax.tree.map(lambda x: x[0], network.apply(variables, images, train=False))
    return outputs, segment.assign(canvases[0], plan, capacity, thresholds)


@functools.partial(jax.jit, static_argnums=(3, 4))
def finish_all(
    outputs: Outputs, assignment: Array, thresholds: Thresholds, plan: segment.Geometry, capacity: Capacity
) -> Segmentation:
    """The post-processing under many thresholds at once.

    Args:
      outputs: of one image.
      assignment: its superpixels.
      thresholds: every number (t,).
      plan: the geometry of this frame size.
      capacity: what fixes shapes.

    Returns:
      One result a threshold: a leading axis t everywhere.
    """
    return jax.vmap(lambda numbers: segment.finish(outputs, assignment, plan, capacity, numbers))(thresholds)


def sweep(trained: model.Model, examples: Iterator[Example], split: str, output: storage.Folder) -> dict[str, Any]:
    """Measures every combination of thresholds, prints the best and the curves, and writes sweep.json and sweep.html.

    Args:
      trained: the network and its settings.
      examples: of the split.
      split: its name.
      output: folder for the two files.

    Returns:
      What sweep.json holds.

    Raises:
      UserError: the folder cannot be written.
    """
    files.require_writable(output)
    values = grid(trained.settings)
    combinations = list(itertools.product(*values.values()))
    rows = measure(trained, examples, combinations)
    own = tuple(getattr(trained.settings.grouping, name) for name in NAMES)
    found: dict[str, Any] = {
        "split": split,
        "step": trained.step,
        "rule": scores.rule_of(trained.settings.data.builder),
        "own": rows[combinations.index(own)],
        "best": max(rows, key=lambda row: (row["ap"] or 0.0, row["ap50"] or 0.0)),
        "best_ap50": max(rows, key=lambda row: (row["ap50"] or 0.0, row["ap"] or 0.0)),
        "rows": rows,
    }
    files.write_json(output / "sweep.json", found)
    curves = _curves(rows, found["best"], values)
    _show(found, curves, trained.settings.name)
    _report(output / "sweep.html", found, curves, trained.settings.name)
    return found


def measure(
    trained: model.Model, examples: Iterator[Example], combinations: Sequence[tuple[float, ...]]
) -> list[dict[str, Any]]:
    """AP and AP50 under each combination of thresholds.

    Args:
      trained: the network and its settings.
      examples: of a split.
      combinations: (center, assignment, duplicate) of each.

    Returns:
      A row for each, by the names of `NAMES`, "ap" and "ap50".
    """
    rule, classes = scores.rule_of(trained.settings.data.builder), len(trained.classes)
    sums = [scores.Precision(rule) for _ in combinations]
    for example in examples:
        _add(sums, trained, example, combinations)
    return [_row(c, s.compute(classes)) for c, s in zip(combinations, sums, strict=True)]


def _row(combination: Sequence[float], precision: Mapping[str, Any]) -> dict[str, Any]:
    return dict(zip(NAMES, combination, strict=True)) | {
        name: scores.number(precision[name]) for name in ("ap", "ap50")
    }


def _add(
    sums: Sequence[scores.Precision], trained: model.Model, example: Example, combinations: Sequence[Sequence[float]]
) -> None:
    """Counts one image under every combination."""
    capacity, numbers = model.capacity(trained.settings), model.thresholds(trained.settings)
    outputs, assignment = forward(
        trained.network, trained.variables, example.image, capacity, jax.tree.map(np.float32, numbers)
    )
    plan = segment.geometry((example.image.shape[0], example.image.shape[1]), capacity)
    label = example.full or Label(example.semantic, example.instance)
    truth = Truth.of(label.semantic, label.instance, trained.classes)
    for start in range(0, len(combinations), AT_ONCE):
        part = combinations[start : start + AT_ONCE]
        # The last call is filled up: another number of combinations would be another compilation.
        columns = jnp.array([*part, *[part[-1]] * (AT_ONCE - len(part))], jnp.float32).T
        compactness = jnp.full(AT_ONCE, numbers.compactness, jnp.float32)
        tried = Thresholds(columns[0], columns[1], columns[2], compactness)
        found = jax.device_get(finish_all(outputs, assignment, tried, plan, capacity))
        for i in range(len(part)):
            one = jax.tree.map(lambda x, i=i: x[i], found)
            sums[start + i].add(scores.counts_of(one, truth, label.semantic.shape, trained.classes))


def _curves(
    rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any], values: Mapping[str, tuple[float, ...]]
) -> dict[str, list[Mapping[str, Any]]]:
    """For each threshold that was varied, the rows in which the other two are the best ones."""
    return {
        name: [row for row in rows if all(row[other] == best[other] for other in NAMES if other != name)]
        for name in NAMES
        if len(values[name]) > 1
    }


LABELS = {"center": "center confidence", "assignment": "assignment radius", "duplicate": "duplicate radius"}
WARNING = (
    "The best thresholds were chosen on these very images, so that their figures are too good by some tenths: confirm "
    "them on another split before you compare."
)


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (*(f"{row[name]:g}" for name in NAMES), scores.percent(row["ap"]), scores.percent(row["ap50"]))


def _show(found: Mapping[str, Any], curves: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> None:
    console = Console(soft_wrap=True)
    table = Table("", *NAMES, "AP", "AP50", title=f"{name}: {len(found['rows'])} thresholds on {found['split']}")
    for title, key in (("best AP", "best"), ("best AP50", "best_ap50"), ("the run's own", "own")):
        table.add_row(title, *_line(found[key]))
    console.print(table)
    for swept, rows in curves.items():
        curve = Table(LABELS[swept], "AP", "AP50", title="the others as in the best")
        for row in rows:
            curve.add_row(f"{row[swept]:g}", scores.percent(row["ap"]), scores.percent(row["ap50"]))
        console.print(curve)
    console.print(WARNING)


def _report(
    path: storage.Folder, found: Mapping[str, Any], curves: Mapping[str, Sequence[Mapping[str, Any]]], name: str
) -> None:
    drawn = [
        charts.lines(
            f"AP by {LABELS[swept]}",
            LABELS[swept],
            "percent",
            {
                column: (np.array([row[swept] for row in rows]), np.array([100 * (row[key] or 0.0) for row in rows]))
                for column, key in (("AP", "ap"), ("AP50", "ap50"))
            },
            markers=True,
        )
        for swept, rows in curves.items()
    ]
    ranked = sorted(found["rows"], key=lambda row: -(row["ap"] or 0.0))[:20]
    header = (*NAMES, "AP", "AP50")
    table = report.Table("The twenty best", [dict(zip(header, _line(row), strict=True)) for row in ranked])
    text = "One threshold varies at a time; the other two are those of the best combination."
    best, own = found["best"], found["own"]
    report.write(
        path,
        title=f"{name}: thresholds on {found['split']} at step {found['step']}",
        summary=[
            ("best AP", scores.percent(best["ap"])),
            ("at confidence / assignment / duplicate", " / ".join(_line(best)[:3])),
            ("AP of the run's own", scores.percent(own["ap"])),
            ("at", " / ".join(_line(own)[:3])),
        ],
        sections=[report.Section("Curves", [text], [], drawn), report.Section("Combinations", [], [table], [])],
        notes=[WARNING, f"AP is {scores.RULES[found['rule']]}."],
    )
