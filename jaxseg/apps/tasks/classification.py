"""Training and evaluation of classifiers: ImageNet pretraining of encoders. `train` does what all runs share."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from jaxseg import config
from jaxseg.apps import files, model
from jaxseg.apps.evaluation import report, scores
from jaxseg.metrics.classification import TopK
from jaxseg.train import classification, loop, parallel, state, storage
from jaxseg.types import ClassBatch

IMAGES = "training_images.json"
BATCH = 32
"""Images that are evaluated at once."""


def resolve(data: config.Pictures) -> tuple[config.Pictures, Any]:
    """Lists the data set; its classes are put into the settings.

    Raises:
      UserError: the data set cannot be listed.
    """
    from jaxseg.data import pictures

    return pictures.resolve(data)


def job(settings: config.Classification, layout: Any, workdir: storage.Folder, resumed: bool) -> loop.Job:
    """What a config asks for; prepares the data set first where that has not been done.

    Args:
      settings: resolved.
      layout: listing of its data.
      workdir: keeps the number of training images.
      resumed: whether the directory holds a run to go on with.

    Raises:
      UserError: the data cannot be used, or changed since the run began.
    """
    from jaxseg.data import pictures

    dataset = pictures.dataset(settings.data, layout)
    source = dataset.split("train")
    if parallel.lead():
        _require_same(workdir / IMAGES, len(source), resumed)
    network = model.module(settings, parallel.AXIS)
    task = classification.Recipe(network, model.optimizer(settings, network))
    rates = state.Rates.of(settings.optimizer)
    numbers = classification.numbers(settings.losses.smoothing, settings.optimizer.average, rates)
    return loop.Job(
        task=task,
        numbers=numbers,
        batches=_batches(settings, source),
        images=len(source),
        names=_names(settings, source),
        validation=_validation(settings, dataset),
    )


def _batches(settings: config.Classification, source: Any) -> Callable[[int], Iterator[ClassBatch]]:
    """Step to begin at, to the batches from there on."""
    from jaxseg.data import pipeline

    run = settings.train
    return lambda start: pipeline.class_batches(
        source, settings.data, run.batch, settings.seed, start, run.steps, *parallel.place()
    )


def _names(settings: config.Classification, source: Any) -> Callable[[int], Sequence[str]]:
    from jaxseg.data import pipeline

    batch = settings.train.batch
    return lambda step: pipeline.batch_names(source, batch, settings.seed, step, *parallel.place())


def _validation(settings: config.Classification, dataset: Any) -> loop.Validation | None:
    """Top-1 and top-5 of the validation images."""
    if not settings.train.validate_every or "val" not in dataset.builder.info.splits:
        return None
    source, network = dataset.split("val"), model.module(settings)

    def sums(now: state.TrainState, index: int, count: int) -> dict[str, Any]:
        return dataclasses.asdict(_measured(network, now.variables, source, settings, "", index, count))

    def values(total: Mapping[str, Any]) -> dict[str, float]:
        found = TopK(**total).compute()
        return {"top1": found["top1"], "top5": found["top5"]}

    return loop.Validation(sums, values)


def _require_same(file: storage.Folder, images: int, resumed: bool) -> None:
    """Refuses to go on with another number of training images; which ones they are, nobody looks at again."""
    if resumed and file.is_file():
        before = file.read_bytes().decode(errors="replace").strip()
        if before != str(images):
            raise config.UserError(
                f"There are {images} training images now, {before} when {file.parent} began. Restore them, or give "
                f"another --workdir; to go on with them all the same, remove {file}."
            )
    files.write_json(file, images)


def evaluate(
    workdir: storage.Folder, settings: config.Classification, split: str, output: storage.Folder, best: bool = False
) -> dict[str, Any]:
    """Measures a classifier on the middle of each image of a split.

    Args:
      workdir: folder of the run.
      settings: its config, with overrides.
      split: "train", "val" or "test".
      output: folder for metrics.json and report.html.
      best: the best of the states that training measured, instead of the latest.

    Returns:
      What metrics.json holds: top1, top5, loss, and each class's.

    Raises:
      UserError: no usable run or data, or a folder that cannot be written.
    """
    from jaxseg.data import pictures

    network = model.module(settings)
    restored = model.restored(network, settings, workdir, best=best)
    source = pictures.dataset(settings.data).split(split)
    files.require_writable(output)
    found = _measured(network, restored.variables, source, settings, f"evaluate {split}")
    metrics = _metrics(found, settings, split, int(restored.step))
    files.write_json(output / "metrics.json", metrics)
    _report(output / "report.html", settings, metrics)
    _show(settings, metrics)
    return metrics


def _measured(
    network: Any,
    variables: Any,
    source: Any,
    settings: config.Classification,
    title: str,
    index: int = 0,
    count: int = 1,
) -> TopK:
    """What a classifier makes of a part of the images; beside a bar on stderr where there is a title."""
    from jaxseg.data import pipeline

    variables = jax.device_put(variables)
    found = TopK.empty(len(settings.data.classes))
    examples: Any = pipeline.class_examples(source, settings.data, index, count)
    if title:
        examples = track(examples, title, len(source), console=Console(stderr=True))
    for images, labels in _grouped(examples):
        missing = BATCH - len(images)
        # The last batch is filled up, so that one program serves all.
        logits = np.asarray(_predict(network, variables, np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))))
        found += TopK.of(logits[: len(images)], labels)
    return found


@partial(jax.jit, static_argnums=0)
def _predict(network: Any, variables: Any, images: jax.Array) -> jax.Array:
    logits: Any = network.apply(variables, images, False)
    return logits


def _grouped(examples: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of images and labels; the last may be smaller."""
    images, labels = [], []
    for image, label in examples:
        images.append(image)
        labels.append(label)
        if len(images) == BATCH:
            yield np.stack(images), np.array(labels)
            images, labels = [], []
    if images:
        yield np.stack(images), np.array(labels)


def _metrics(found: TopK, settings: config.Classification, split: str, step: int) -> dict[str, Any]:
    overall, names = found.compute(), settings.data.classes
    number = scores.number
    rows = {
        name: {"top1": number(first), "top5": number(fifth), "images": int(images)}
        for name, first, fifth, images in zip(names, *found.by_class(), strict=True)
    }
    return {**overall, "split": split, "step": step, "images": int(found.images.sum()), "classes": rows}


def _report(path: storage.Folder, settings: config.Classification, metrics: dict[str, Any]) -> None:
    rows = [{"class": name, **row} for name, row in metrics["classes"].items()]
    known = sorted((row for row in rows if row["images"]), key=lambda row: (row["top1"], row["class"]))
    text = ("Of each image the middle is classified, and the images of a class count alike.",)
    summary = [(name, scores.percent(metrics[key])) for name, key in (("top-1, %", "top1"), ("top-5, %", "top5"))]
    report.write(
        path,
        title=f"{settings.name}: {metrics['split']}, step {metrics['step']}",
        summary=[*summary, ("loss", round(metrics["loss"], 4)), ("images", metrics["images"])],
        sections=[report.Section("Classes, the least known first", text, [report.Table("", known)])],
    )


def _show(settings: config.Classification, metrics: dict[str, Any]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{settings.name}: top-1 {scores.percent(metrics['top1'])} %, top-5 {scores.percent(metrics['top5'])} %, "
        f"loss {metrics['loss']:.4f}, {metrics['images']} images of {metrics['split']}, step {metrics['step']}",
        markup=False,
    )
