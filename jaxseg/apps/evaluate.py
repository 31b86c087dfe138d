"""Evaluation: a table on screen, metrics.json and report.html; thresholds swept; results in official formats."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jaxseg import config, segment, targets, visualize
from jaxseg.apps import files, model
from jaxseg.apps.evaluation import breakdown, losses, oracle, report, scores
from jaxseg.apps.evaluation import sweep as sweeping
from jaxseg.apps.evaluation.submission import Submission
from jaxseg.data import Example, Label
from jaxseg.metrics import coco
from jaxseg.metrics.counts import Truth
from jaxseg.train import storage
from jaxseg.types import ClassList, Segmentation

EXAMPLES = 8
"""Pictures of the report: the worst images, by F1 of their objects at IoU 0.5."""


@dataclass
class Evaluation:
    """What an evaluation adds up.

    Attributes:
      trained: the network.
      sums: those of the network, and those of each variant of the oracle study, over the images that it knows.
      known: images of the oracle study.
      details: what the report breaks down.
      worst: examples for the report.
    """

    trained: model.Model
    sums: dict[str, scores.Score] = field(init=False)
    known: int = 0
    details: breakdown.Breakdown = field(init=False)
    worst: "_Worst" = field(init=False)

    def __post_init__(self) -> None:
        rule = scores.rule_of(self.trained.settings.data.builder)
        names = ("result", *oracle.variants_for(model.capacity(self.trained.settings)))
        self.sums = {name: scores.Score(self.trained.classes, rule) for name in names}
        self.details = breakdown.Breakdown(self.trained.classes)
        self.worst = _Worst(self.trained.classes)

    def add(self, example: Example) -> Segmentation:
        """Counts one image, and returns what was found in it."""
        label = example.full or Label(example.semantic, example.instance)
        truth, size = Truth.of(label.semantic, label.instance, self.trained.classes), label.semantic.shape
        plan = segment.geometry(example.semantic.shape, model.capacity(self.trained.settings))
        # Exact centers of instances, which the oracles need, have a limit.
        oracles = self._oracles(example, label) if targets.fits(plan.grid) else {}
        found = oracles.get("network") or jax.device_get(self.trained(example.image))
        self.known += bool(oracles)
        counts = scores.counts_of(found, truth, size, self.trained.classes)
        matches = self.sums["result"].add(counts, int(found.lost))
        for name, variant in oracles.items():
            again = counts if name == "network" else scores.counts_of(variant, truth, size, self.trained.classes)
            self.sums[name].add(again, int(variant.lost))
        self.details.add(matches)
        self.worst.add(example, found, matches)
        return found

    def _oracles(self, example: Example, label: Label) -> dict[str, Segmentation]:
        """The result of each variant of the oracle study."""
        numbers = jax.tree.map(np.float32, model.thresholds(self.trained.settings))
        truth = scores.resized(label, example.semantic.shape)
        capacity = model.capacity(self.trained.settings)
        results = jax.device_get(
            oracle.study(self.trained.network, self.trained.variables, example.image, *truth, capacity, numbers)
        )
        names = oracle.variants_for(capacity)
        return {name: jax.tree.map(lambda x, i=i: x[i], results) for i, name in enumerate(names)}

    def metrics(self, split: str) -> dict[str, Any]:
        """What metrics.json holds; ap, ap50 and iou first."""
        values = {name: score.metrics() for name, score in self.sums.items()}
        result = values.pop("result")
        ordered = {name: result[name] for name in COLUMNS} | {"split": split, "step": self.trained.step} | result
        study = {name: {c: row[c] for c in COLUMNS} for name, row in values.items()} if self.known else {}
        return ordered | {"ceiling": values["all heads"], "oracles": study, "calibration": self.details.calibration()}


def _require_classes(trained: ClassList, layout: Any) -> None:
    """Refuses labels that mean something else than what the network was trained for."""
    if (layout.classes.names, layout.classes.stuff) != (trained.names, trained.stuff):
        wanted, got = (
            ", ".join(f"{name} (stuff)" if i in classes.stuff else name for i, name in enumerate(classes.names) if i)
            for classes in (trained, layout.classes)
        )
        raise config.UserError(
            f"The labels of {layout.title} are read as {got}, but the network was trained for {wanted}. Mend the class "
            "list, or leave --data.classes and --data.stuff as they were."
        )


def _opened(workdir: storage.Folder, settings: config.Config, split: str, best: bool) -> tuple[model.Model, Any, Any]:
    """The network, the layout of its data and the examples of a split."""
    from jaxseg.data import prepare

    trained = model.load(workdir, settings, best)
    data, layout = prepare.resolve(settings.data)
    _require_classes(model.class_list(model.read_config(workdir)), layout)
    return trained, layout, prepare.dataset(data, layout).split(split, full=True)


def _read(source: Any, title: str) -> Iterator[Example]:
    """The examples beside a bar on stderr."""
    from jaxseg.data import pipeline

    return iter(track(pipeline.val_examples(source), title, len(source), console=Console(stderr=True)))


def evaluate(
    workdir: storage.Folder,
    settings: config.Config,
    split: str,
    output: storage.Folder,
    submission: Path | None = None,
    best: bool = False,
) -> dict[str, Any]:
    """Measures a trained network on a split, at the labels' published size.

    Args:
      workdir: folder of the run.
      settings: its config, with overrides.
      split: "train", "val" or "test".
      output: folder for metrics.json and report.html.
      submission: also write the results there, in the data set's official format.
      best: the best of the states that training measured, instead of the latest.

    Returns:
      What metrics.json holds.

    Raises:
      UserError: no usable run or data, a folder that cannot be written, or a data set without an official format.
    """
    trained, layout, source = _opened(workdir, settings, split, best)
    official = Submission.open(submission, settings.data.builder, layout, split) if submission else None
    files.require_writable(output)
    evaluation = Evaluation(trained)
    for example in _read(source, f"evaluate {split}"):
        found = evaluation.add(example)
        if official:
            size = (example.full or example).semantic.shape
            official.add(
                example.name,
                scores.resized(Label(np.asarray(found.semantic), np.asarray(found.instance)), size),
                found.instances,
            )
    metrics = evaluation.metrics(split)
    files.write_json(output / "metrics.json", metrics)
    if official:
        official.close()
    examples = list(evaluation.worst.rows())
    _overlays(output / "overlays", examples)
    _report(output / "report.html", evaluation, metrics, examples, losses.section(settings, workdir))
    _show(metrics, settings)
    return metrics


def sweep(
    workdir: storage.Folder, settings: config.Config, split: str, output: storage.Folder, best: bool = False
) -> dict[str, Any]:
    """Sweeps the thresholds of the grouping over a split; see `sweep.sweep`. Arguments are those of `evaluate`."""
    trained, _, source = _opened(workdir, settings, split, best)
    return sweeping.sweep(trained, _read(source, f"sweep {split}"), split, output)


class _Worst:
    """Keeps the examples with the smallest F1 at IoU 0.5; a prediction on ignored ground is neither right nor wrong."""

    def __init__(self, classes: ClassList) -> None:
        self._classes = classes
        self._kept: list[tuple[float, int, tuple]] = []
        self._seen = 0

    def add(self, example: Example, found: Segmentation, matches: coco.ImageMatches) -> None:
        hits = int(matches.by_class.matched[0].sum())
        truths = len(matches.truth_class)
        predictions = len(matches.class_id) - int(matches.by_class.ignored[0].sum())
        quality = 2 * hits / max(truths + predictions, 1) if truths + predictions else 1.0
        caption = f"{hits} of {truths} objects found at IoU 0.5, {predictions - hits} predictions without an object"
        self._seen += 1
        self._kept.append((quality, self._seen, (example, found, caption)))
        self._kept.sort(key=lambda row: row[:2])
        del self._kept[EXAMPLES:]

    def rows(self) -> Iterator[report.Example]:
        for _, _, (example, found, caption) in self._kept:
            truth = visualize.overlay(example.image, example.semantic, example.instance, None, self._classes)
            prediction = visualize.overlay(
                example.image, found.semantic, found.instance, found.instances, self._classes
            )
            pictures = {"Ground truth": truth, "Prediction": prediction}
            yield report.Example(example.name, pictures, caption)


COLUMNS = ("ap", "ap50", "iou")
FIGURES = {"AP": "ap", "AP50": "ap50", "IoU": "iou", "iIoU": "iiou", "PQ": "pq", "SQ": "sq", "RQ": "rq"}
HEADER = ("class", "kind", *FIGURES, "objects", "predictions")


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Name, whether it has instances, the figures in percent and the two counts, a row a class."""
    return [
        (
            name,
            "thing" if row["thing"] else "stuff",
            *(scores.percent(row[c]) for c in FIGURES.values()),
            str(row["truths"]),
            str(row["predictions"]),
        )
        for name, row in metrics["classes"].items()
    ]


def _summary(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    top = metrics["ceiling"]

    def several(values: Mapping[str, Any], *names: str) -> str:
        return " / ".join(scores.percent(values[name]) for name in names)

    return [
        ("AP", scores.percent(metrics["ap"])),
        ("AP50", scores.percent(metrics["ap50"])),
        ("mean IoU / iIoU of the classes", several(metrics, "iou", "iiou")),
        ("PQ / SQ / RQ", several(metrics, "pq", "sq", "rq")),
        ("class-agnostic AP / AP50", several(metrics, "ap_agnostic", "ap50_agnostic")),
        ("ceiling AP / AP50 / IoU", several(top, *COLUMNS)),
        ("images / in the ceiling", f"{metrics['images']} / {top['images']}"),
        ("centers beyond capacity", str(metrics["lost"])),
    ]


def _overlays(folder: storage.Folder, examples: list[report.Example]) -> None:
    """The report's pictures as files: truth on the left, prediction on the right."""
    files.require_writable(folder)
    for earlier in folder.glob("*.png"):
        earlier.unlink()
    for i, example in enumerate(examples):
        pair = visualize.side_by_side(list(example.pictures.values()), list(example.pictures))
        path = folder / f"{files.as_name(example.name)}.png"
        if path.exists():
            path = path.with_name(f"{path.stem}_{i}.png")
        files.write_image(path, pair)


def _report(
    path: storage.Folder,
    evaluation: Evaluation,
    metrics: Mapping[str, Any],
    examples: list[report.Example],
    trained_with: report.Section,
) -> None:
    settings, result = evaluation.trained.settings, evaluation.sums["result"]
    colors = visualize.class_colors(evaluation.trained.classes)
    css = [report.css(colors[i]) for i in range(len(evaluation.trained.classes))]
    notes = [
        f"AP is {scores.RULES[metrics['rule']]}; figures are percent. IoU is the mean over the classes without "
        "background. PQ counts classes that occur. iIoU weighs every object as one of its class's mean size.",
        "The ceiling is the truth pushed through grid, grouping and upsampling: what a perfect network would score. "
        "Images whose grid is too large for exact targets are left out of it, and of the oracle study.",
        f"Grouping: confidence {settings.grouping.center:g}, assignment radius {settings.grouping.assignment:g}, "
        f"duplicate radius {settings.grouping.duplicate:g}, superpixels of {settings.superpixels.size}.",
    ]
    report.write(
        path,
        title=f"{settings.name}: {metrics['split']} at step {metrics['step']}",
        summary=_summary(metrics),
        per_class=[dict(zip(HEADER, row, strict=True)) for row in _rows(metrics)],
        colors=css[1:],
        sections=[
            breakdown.lost(metrics["oracles"]),
            breakdown.curves(result, css),
            breakdown.confusion(result),
            evaluation.details.section(metrics, result),
            trained_with,
        ],
        notes=notes,
        examples=examples,
    )


SHOWN = ("AP", "AP50", "IoU", "iIoU", "PQ")
"""Figures of the table on screen, which is narrow; all are in the report."""


def _show(metrics: Mapping[str, Any], settings: config.Config) -> None:
    console = Console(soft_wrap=True)
    table = Table("class", *SHOWN, "objects", "predictions", title=settings.name)
    chosen = [HEADER.index(name) for name in ("class", *SHOWN, "objects", "predictions")]
    for row in _rows(metrics):
        table.add_row(*(row[i] for i in chosen))
    table.add_section()
    table.add_row("mean", *(scores.percent(metrics[FIGURES[name]]) for name in SHOWN))
    agnostic = (scores.percent(metrics[f"{FIGURES[name]}_agnostic"]) for name in SHOWN[:2])
    table.add_row("classes as one", *agnostic)
    table.add_row("ceiling", *(scores.percent(metrics["ceiling"][FIGURES[name]]) for name in SHOWN))
    console.print(table)
    if metrics["oracles"]:
        study = Table("true instead of predicted", "AP", "AP50", "IoU", title="oracle study")
        for name, row in metrics["oracles"].items():
            study.add_row(name, *(scores.percent(row[c]) for c in COLUMNS))
        console.print(study)
