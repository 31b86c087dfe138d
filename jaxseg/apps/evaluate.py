"""Evaluation: a table on screen, metrics.json and report.html."""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jaxseg import config, segment, targets, visualize
from jaxseg.apps import files, model, report
from jaxseg.data import Example, Label
from jaxseg.metrics import instance, semantic
from jaxseg.types import IGNORED, Capacity, ClassList, Segmentation, Thresholds

EXAMPLES = 8
"""Pictures of the report: the worst images, by F1 of their objects at IoU 0.5."""


@dataclass
class Score:
    """Sums over images, for a network or for its ceiling.

    Attributes:
      confusion: pixels by class.
      precision: matches of instances.
      lost: centers beyond capacity.
    """

    classes: int
    confusion: semantic.Confusion = field(init=False)
    precision: instance.AveragePrecision = field(default_factory=instance.AveragePrecision.empty)
    lost: int = 0

    def __post_init__(self) -> None:
        self.confusion = semantic.Confusion.empty(self.classes)

    def add(self, found: Segmentation, truth: Label) -> instance.ImageMatches:
        """Counts one image, at the label's size."""
        rows, size = found.instances, truth.semantic.shape
        predicted = enlarged(Label(np.asarray(found.semantic), np.asarray(found.instance)), size)
        self.confusion = self.confusion + semantic.Confusion.of(predicted.semantic, truth.semantic, self.classes)
        matches = instance.matches(
            predicted.instance, rows.class_id, rows.score, rows.valid, truth.instance, truth.semantic
        )
        self.precision = self.precision + instance.AveragePrecision.of(matches)
        self.lost += int(found.lost)
        return matches

    def metrics(self, classes: ClassList) -> dict[str, Any]:
        """Fractions in 0..1: the means first, then the rest, per class too."""
        values: Mapping[str, Any] = self.precision.compute(len(classes))
        iou = self.confusion.iou()
        per_class = {
            name: {
                "ap": _number(values["ap_class"][i]),
                "ap50": _number(values["ap50_class"][i]),
                "iou": _number(iou[i]),
                "truths": int(values["truths_class"][i]),
                "predictions": int(values["predictions_class"][i]),
                "thing": i in classes.things,
            }
            for i, name in enumerate(classes.names)
            if i > 0
        }
        means = ("ap", "ap50", "ar", "recall50", "ap_agnostic", "ap50_agnostic")
        return {
            "ap": _number(values["ap"]),
            "ap50": _number(values["ap50"]),
            "iou": _number(self.confusion.mean_iou()),
            "iou_background": _number(iou[0]),
            "pixel_accuracy": _number(self.confusion.accuracy()),
            **{name: _number(values[name]) for name in means[2:]},
            "images": int(values["images"]),
            "lost": self.lost,
            "classes": per_class,
        }


def enlarged(label: Label, size: tuple[int, ...]) -> Label:
    """Maps at another size, each pixel from the nearest; the same maps where the size is theirs."""
    if label.semantic.shape == size:
        return label
    rows, columns = (
        ((np.arange(size[axis]) + 0.5) * label.semantic.shape[axis] / size[axis]).astype(np.int64) for axis in range(2)
    )
    return Label(*(array[rows[:, None], columns] for array in label))


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


def _number(value: Any) -> float | None:
    """JSON has no NaN: a class without truth is null."""
    return None if math.isnan(float(value)) else float(value)


def evaluate(workdir: Path, settings: config.Config, split: str, output: Path) -> dict[str, Any]:
    """Measures a trained network on a split, at the labels' published size.

    Args:
      workdir: folder of the run.
      settings: its config, with overrides.
      split: "train", "val" or "test".
      output: folder for metrics.json and report.html.

    Returns:
      What metrics.json holds.

    Raises:
      UserError: no usable run or data, or a folder that cannot be written.
    """
    from jaxseg.data import pipeline, prepare

    trained = model.load(workdir, settings)
    data, layout = prepare.resolve(settings.data)
    _require_classes(model.class_list(model.read_config(workdir)), layout)
    source = prepare.dataset(data, layout).split(split, full=True)
    files.require_writable(output)
    score, ceiling = Score(len(trained.classes)), Score(len(trained.classes))
    pictures, limits = _Worst(trained.classes), jax.tree.map(np.float32, model.thresholds(settings))
    examples = pipeline.val_examples(source)
    for example in track(examples, f"evaluate {split}", len(source), console=Console(stderr=True)):
        found = jax.device_get(trained(example.image))
        truth = example.full or Label(example.semantic, example.instance)
        pictures.add(example, found, score.add(found, truth))
        if targets.fits(segment.geometry(example.semantic.shape, model.capacity(settings)).grid):
            perfect = _through_grid(example[:3], model.capacity(settings), len(trained.classes), limits)
            ceiling.add(jax.device_get(perfect), truth)
    metrics = {"split": split, "step": trained.step, **score.metrics(trained.classes)}
    metrics["ceiling"] = ceiling.metrics(trained.classes)
    ordered = {name: metrics[name] for name in ("ap", "ap50", "iou")} | metrics
    files.write_json(output / "metrics.json", ordered)
    worst = list(pictures.rows())
    _overlays(output / "overlays", worst)
    with files.writing(output / "report.html"):
        _report(output / "report.html", settings, ordered, worst)
    _show(ordered, settings)
    return ordered


@functools.partial(jax.jit, static_argnums=(1, 2))
def _through_grid(
    example: tuple[Array, Array, Array], capacity: Capacity, classes: int, thresholds: Thresholds
) -> Segmentation:
    """The truth pushed through grid, grouping and upsampling: the most that a perfect network could score.

    Args:
      example: image (H, W, 3), semantic and instance map (H, W).
      capacity: of the run.
      classes: length of the class list.
      thresholds: of the run.
    """
    image, semantic_map, instance_map = example
    plan = segment.geometry((image.shape[0], image.shape[1]), capacity)
    _, canvases = segment.inputs(image[None], plan)
    assignment = segment.assign(canvases[0], plan, capacity, thresholds)
    if plan.resized:
        semantic_map = jax.image.resize(semantic_map, plan.canvas, "nearest")
        instance_map = jax.image.resize(instance_map, plan.canvas, "nearest")
    else:
        pad = [(0, after - before) for before, after in zip(plan.frame, plan.canvas, strict=True)]
        semantic_map, instance_map = jnp.pad(semantic_map, pad, constant_values=IGNORED), jnp.pad(instance_map, pad)
    truth = targets.make(semantic_map, instance_map, assignment, plan.cell, capacity.slots, "point")
    return segment.finish(segment.oracle(truth, classes), assignment, plan, capacity, thresholds)


class _Worst:
    """Keeps the examples with the smallest F1 at IoU 0.5; a prediction on ignored ground is neither right nor wrong."""

    def __init__(self, classes: ClassList) -> None:
        self._classes = classes
        self._kept: list[tuple[float, int, tuple]] = []
        self._seen = 0

    def add(self, example: Example, found: Segmentation, matches: instance.ImageMatches) -> None:
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


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


COLUMNS = ("ap", "ap50", "iou")
HEADER = ("class", "kind", "AP", "AP50", "IoU", "objects", "predictions")


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Name, whether it has instances, AP, AP50, IoU in percent and the two counts, a row a class."""
    return [
        (
            name,
            "thing" if row["thing"] else "stuff",
            *(_percent(row[c]) for c in COLUMNS),
            str(row["truths"]),
            str(row["predictions"]),
        )
        for name, row in metrics["classes"].items()
    ]


def _summary(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    top = metrics["ceiling"]
    return [
        ("AP", _percent(metrics["ap"])),
        ("AP50", _percent(metrics["ap50"])),
        ("mean IoU of the classes", _percent(metrics["iou"])),
        ("class-agnostic AP / AP50", f"{_percent(metrics['ap_agnostic'])} / {_percent(metrics['ap50_agnostic'])}"),
        ("ceiling AP / AP50 / IoU", " / ".join(_percent(top[c]) for c in COLUMNS)),
        ("images / in the ceiling", f"{metrics['images']} / {top['images']}"),
        ("centers beyond capacity", str(metrics["lost"])),
    ]


def _overlays(folder: Path, examples: list[report.Example]) -> None:
    """The report's pictures as files: truth on the left, prediction on the right."""
    from PIL import Image

    files.require_writable(folder)
    for earlier in folder.glob("*.png"):
        earlier.unlink()
    for i, example in enumerate(examples):
        pair = visualize.side_by_side(list(example.pictures.values()), list(example.pictures))
        path = folder / f"{files.as_name(example.name)}.png"
        if path.exists():
            path = path.with_name(f"{path.stem}_{i}.png")
        with files.writing(path):
            Image.fromarray(pair).save(path)


def _report(path: Path, settings: config.Config, metrics: Mapping[str, Any], examples: list[report.Example]) -> None:
    notes = [
        "AP is COCO's over all areas, with as many detections an image as the capacity; figures are percent.",
        "The ceiling is the truth pushed through grid, grouping and upsampling: what a perfect network would score. "
        "Images whose grid is too large for exact targets are left out of it.",
        f"Grouping: confidence {settings.grouping.center:g}, assignment radius {settings.grouping.assignment:g}, "
        f"duplicate radius {settings.grouping.duplicate:g}, superpixels of {settings.superpixels.size}.",
    ]
    report.write(
        path,
        title=f"{settings.name}: {metrics['split']} at step {metrics['step']}",
        summary=_summary(metrics),
        per_class=[dict(zip(HEADER, row, strict=True)) for row in _rows(metrics)],
        colors=[
            report.css(visualize.class_colors(model.class_list(settings))[i + 1])
            for i in range(len(settings.data.classes))
        ],
        notes=notes,
        examples=examples,
    )


def _show(metrics: Mapping[str, Any], settings: config.Config) -> None:
    console = Console(soft_wrap=True)
    table = Table(*HEADER, title=settings.name)
    for row in _rows(metrics):
        table.add_row(*row)
    table.add_section()
    table.add_row("mean", "", *(_percent(metrics[c]) for c in COLUMNS))
    table.add_row("all as one class", "", _percent(metrics["ap_agnostic"]), _percent(metrics["ap50_agnostic"]))
    table.add_row("ceiling", "", *(_percent(metrics["ceiling"][c]) for c in COLUMNS))
    console.print(table)
