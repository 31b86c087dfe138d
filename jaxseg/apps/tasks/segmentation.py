"""Training and data of segmentation; `train` does what all runs share."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxseg import config
from jaxseg.apps import files, look, model
from jaxseg.apps.evaluation import scores
from jaxseg.losses import own as owns
from jaxseg.metrics import Confusion, PanopticQuality, Truth
from jaxseg.train import loop, parallel, segmentation, state, storage
from jaxseg.train.step import Numbers
from jaxseg.types import Batch

FREQUENCIES = "class_frequencies.json"
PICTURES = 2
"""Validation images that training draws."""

VIEW = 640
"""Pixels of the longer side of what it shows of how they came about: TensorBoard shrinks larger pictures."""


def resolve(data: config.Data) -> tuple[config.Data, Any]:
    """Lists the data set; its class list is put into the settings, where these leave it to the data set.

    Raises:
      UserError: the data set cannot be listed.
    """
    from jaxseg.data import prepare

    return prepare.resolve(data)


def job(settings: config.Config, layout: Any, workdir: storage.Folder, resumed: bool) -> loop.Job:
    """What a config asks for; prepares the data set first where that has not been done.

    Args:
      settings: resolved.
      layout: listing of its data.
      workdir: keeps the classes' frequencies.
      resumed: whether the directory holds a run to go on with.

    Raises:
      UserError: the data cannot be used, or changed since the run began.
    """
    network = model.network(settings, parallel.AXIS)
    return job_of(settings, opened(settings, layout), workdir, resumed, network)


def job_of(settings: config.Config, dataset: Any, workdir: storage.Folder, resumed: bool, network: Any) -> loop.Job:
    """`job` on a data set that is open, with a network whose batch norm reduces over devices or not."""
    shares = frequencies(workdir, dataset, resumed)
    return loop.Job(
        task=recipe(settings, network),
        numbers=numbers(settings, shares),
        batches=_batches(settings, dataset),
        images=len(dataset.records["train"]),
        names=_names(settings, dataset),
        pictures=_pictures(settings, dataset),
        validation=_validation(settings, dataset),
    )


def recipe(settings: config.Config, network: Any) -> segmentation.Recipe:
    """What fixes the program of a run's step.

    Args:
      settings: of the run.
      network: of the run; its batch norm reduces over devices or not.
    """
    own = tuple(owns.find(term) for term in settings.losses.terms)
    return segmentation.Recipe(
        network=network,
        update=model.optimizer(settings, network),
        superpixel=settings.superpixels.size,
        targets=settings.targets,
        normalize=settings.losses.normalize,
        clustering=settings.model.clustering,
        own=own,
        uncertain=segmentation.uncertain(own) if settings.losses.weighting == "uncertainty" else (),
    )


def numbers(settings: config.Config, frequencies: np.ndarray) -> Numbers:
    """The traced numbers of a run's step; ``frequencies`` are the classes' shares of the labelled pixels."""
    return segmentation.numbers(
        settings.losses,
        frequencies,
        settings.superpixels.compactness,
        settings.model.clustering,
        settings.optimizer.average,
        settings.train.steps,
        settings.targets.radius,
        state.Rates.of(settings.optimizer),
    )


def opened(settings: config.Config, layout: Any) -> Any:
    """The prepared data set, unless it lacks a split or its crops show more objects than targets hold.

    Raises:
      UserError: it does, or cannot be prepared.
    """
    from jaxseg.data import check, layouts, prepare

    layouts.refuse(check.without(layout.splits, layout.title), settings.data.accept)
    dataset = prepare.dataset(settings.data, layout)
    if "train" not in dataset.records:
        raise config.UserError(f"{dataset.title} has no train split to train on. Add it.")
    limit, size = settings.targets.max_instances, settings.model.size
    layouts.refuse(check.crowded(dataset.records["train"], settings.data, limit, size), settings.data.accept)
    return dataset


def _batches(settings: config.Config, dataset: Any) -> Callable[[int], Iterator[Batch]]:
    """Step to begin at, to the batches from there on."""
    from jaxseg.data import pipeline

    source, run, size = dataset.split("train"), settings.train, settings.model.size
    return lambda start: pipeline.train_batches(
        source, settings.data, run.batch, settings.seed, start, run.steps, *parallel.place(), size=size
    )


def _names(settings: config.Config, dataset: Any) -> Callable[[int], Sequence[str]]:
    from jaxseg.data import pipeline

    source, batch = dataset.split("train"), settings.train.batch
    return lambda step: pipeline.batch_names(source, batch, settings.seed, step, *parallel.place())


def _validation(settings: config.Config, dataset: Any) -> loop.Validation | None:
    """Panoptic quality and IoU of the validation images, at the size they are stored at."""
    if not settings.train.validate_every or "val" not in dataset.records:
        return None
    from jaxseg.data import pipeline

    source, classes = dataset.split("val"), model.class_list(settings)

    def sums(now: state.TrainState, index: int, count: int) -> dict[str, Any]:
        variables = jax.device_put(now.variables)
        trained = model.Model(settings, model.network(settings), variables, int(now.step))
        quality, confusion = PanopticQuality.empty(len(classes)), Confusion.empty(len(classes))
        for example in pipeline.val_examples(source, index, count):
            truth = Truth.of(example.semantic, example.instance, classes)
            found = jax.device_get(trained(example.image))
            counts = scores.counts_of(found, truth, example.semantic.shape, classes)
            quality, confusion = quality + PanopticQuality.of(counts), confusion + Confusion.of_counts(counts)
        return {"quality": dataclasses.asdict(quality), "confusion": dataclasses.asdict(confusion)}

    def values(total: Mapping[str, Any]) -> dict[str, float]:
        quality, confusion = PanopticQuality(**total["quality"]), Confusion(**total["confusion"])
        return {
            "pq": scores.number(quality.compute(classes)["pq"]) or 0.0,
            "iou": scores.number(confusion.mean_iou()) or 0.0,
        }

    return loop.Validation(sums, values)


def frequencies(workdir: storage.Folder, dataset: Any, resumed: bool) -> np.ndarray:
    """Share of each class among the labelled pixels; counted when the data is prepared, and kept with the run.

    Beside it is kept what the training images were: a run that goes on with others would not be one.

    Args:
      workdir: of the run.
      dataset: open.
      resumed: whether the folder holds a run to go on with, or one that is to be compared with others.

    Returns:
      (c,) float32.

    Raises:
      UserError: the training images changed since the run began, or what is kept is damaged.
    """
    from jaxseg.data import check

    stored, classes = workdir / FREQUENCIES, len(dataset.classes)
    held = check.content({"train": dataset.records["train"]})
    counts = check.class_pixels(dataset.records["train"], classes)
    if not parallel.lead():
        return _shares(counts)
    if not (resumed and stored.is_file()):
        files.write_json(stored, {"pixels": [int(n) for n in counts], "images": held})
    try:
        values = json.loads(stored.read_bytes().decode(errors="replace"))
        pixels, before = np.asarray(values["pixels"], np.float64), str(values["images"])
    except (ValueError, KeyError, TypeError):
        pixels, before = np.zeros(0), ""
    if pixels.shape != (classes,):
        raise config.UserError(f"{stored} is damaged. Remove it: the classes are counted again.")
    if before != held:
        raise config.UserError(
            f"The training images of {dataset.title} changed since {workdir} began. Restore them, or give another "
            f"--workdir; to go on with them all the same, remove {stored}."
        )
    return _shares(pixels)


def _shares(pixels: np.ndarray) -> np.ndarray:
    return (pixels / max(pixels.sum(), 1)).astype(np.float32)


def _pictures(settings: config.Config, dataset: Any) -> loop.Pictures | None:
    """Draws predictions of a few validation images, and how they came about; None where pictures are switched off."""
    if not settings.train.picture_every or "val" not in dataset.records:
        return None
    from jaxseg import visualize

    source = dataset.split("val")
    examples = [source[i] for i in range(min(PICTURES, len(source)))]
    classes = model.class_list(settings)

    def draw(now: state.TrainState) -> Mapping[str, np.ndarray]:
        trained = model.Model(settings, model.network(settings), now.variables, int(now.step))
        pictures = {}
        for example in examples:
            parts, image = look.anatomy(trained, example.image), example.image
            found = parts.found
            picture = visualize.overlay(image, found.semantic, found.instance, found.instances, classes)
            pictures[f"prediction/{example.name}"] = picture
            pictures[f"views/{example.name}"] = visualize.views(image, *parts, classes, side=VIEW)
        return pictures

    return draw
