"""Training: a config and a work directory in, checkpoints and logs out; resumes what the directory holds."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxseg import config
from jaxseg.apps import files, model
from jaxseg.train import loop, parallel, state, step
from jaxseg.train.checkpoint import FOLDER, Checkpoints
from jaxseg.types import Batch

FREQUENCIES = "class_frequencies.json"
PICTURES = 2


def train(settings: config.Config, workdir: Path) -> state.TrainState:
    """Trains, or goes on training, the run in a work directory.

    Args:
      settings: the resolved config.
      workdir: created where it is missing; holds config.json, checkpoints, TensorBoard files.

    Returns:
      The last state.

    Raises:
      UserError: the directory cannot be written or holds another run, or data or config are unusable.
    """
    from jaxseg.data import prepare

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    # An encoder that does not exist is reported before any data is read.
    model.network(settings)
    files.require_writable(workdir)
    data, layout = prepare.resolve(settings.data)
    settings = _absolute(dataclasses.replace(settings, data=data))
    resumed = _compare(settings, workdir, console)
    dataset = _opened(settings, layout)
    frequencies = _frequencies(workdir, dataset, resumed)
    files.write_text(workdir / model.CONFIG, config.to_json(settings))
    recipe = _recipe(settings)
    begin = state.create(recipe.network, recipe.update, settings.seed, settings.data.crop)
    if resumed:
        with Checkpoints(workdir, read_only=True) as checkpoints:
            begin = checkpoints.restore(begin)
    _announce(console, settings, begin, len(dataset.records["train"]))
    return loop.run(
        settings.train,
        recipe,
        step.numbers(settings.losses, frequencies, settings.superpixels.compactness, recipe.clustering),
        begin,
        _batches(settings, dataset),
        workdir,
        state.schedule(settings.optimizer, settings.train.steps),
        _pictures(settings, dataset),
    )


def _opened(settings: config.Config, layout: Any) -> Any:
    """The prepared data set, unless it lacks a split or its crops show more objects than targets hold."""
    from jaxseg.data import check, layouts, prepare

    layouts.refuse(check.without(layout.splits, layout.title), settings.data.accept)
    dataset = prepare.dataset(settings.data, layout)
    if "train" not in dataset.records:
        raise config.UserError(f"{dataset.title} has no train split to train on. Add it.")
    limit, size = settings.targets.max_instances, settings.model.size
    layouts.refuse(check.crowded(dataset.records["train"], settings.data, limit, size), settings.data.accept)
    return dataset


def _recipe(settings: config.Config) -> step.Recipe:
    return step.Recipe(
        network=model.network(settings, parallel.AXIS),
        update=state.optimizer(settings.optimizer, settings.train.steps),
        superpixel=settings.superpixels.size,
        targets=settings.targets,
        normalize=settings.losses.normalize,
        clustering=settings.model.clustering,
    )


def _batches(settings: config.Config, dataset: Any) -> Callable[[int], Iterator[Batch]]:
    """Step to begin at, to the batches from there on."""
    from jaxseg.data import pipeline

    source, run, size = dataset.split("train"), settings.train, settings.model.size
    return lambda start: pipeline.train_batches(
        source, settings.data, run.batch, settings.seed, start, run.steps, size=size
    )


def _absolute(settings: config.Config) -> config.Config:
    """With the data's folders as absolute paths, so that later commands find them from anywhere."""
    root, cache = (str(Path(f).expanduser().absolute()) if f else f for f in (settings.data.root, settings.data.cache))
    return dataclasses.replace(settings, data=dataclasses.replace(settings.data, root=root, cache=cache))


def _announce(console: Console, settings: config.Config, begin: state.TrainState, examples: int) -> None:
    devices = parallel.devices_for(settings.train.batch)
    console.print(
        f"{settings.name}: {state.parameters(begin):,} parameters, {examples} training images, "
        f"{len(devices)} x {devices[0].device_kind}, from step {int(begin.step)} to {settings.train.steps}"
    )


def _compare(settings: config.Config, workdir: Path, console: Console) -> bool:
    """Whether the directory holds a run to go on with; lists settings that changed, and refuses those that matter.

    A run that never came to its first checkpoint binds nothing: it may have failed for the very settings that changed.
    """
    if not (workdir / FOLDER).is_dir():
        return False
    with Checkpoints(workdir, read_only=True) as checkpoints:
        if checkpoints.latest() is None:
            return False
    if not (workdir / model.CONFIG).is_file():
        raise config.UserError(
            f"{workdir} holds checkpoints of a run without its {model.CONFIG}. "
            "Restore that file, or give another --workdir."
        )
    changed = config.differences(model.read_config(workdir), settings)
    for name, (old, new) in changed.items():
        console.print(f"{name}: was {old}, now {new}", markup=False)
    refused = sorted(name for name in changed if config.changes_meaning(name))
    if refused:
        raise config.UserError(
            f"{workdir} holds another run: {', '.join(refused)} differ. "
            "Give those settings again, or another --workdir."
        )
    return True


def _frequencies(workdir: Path, dataset: Any, resumed: bool) -> np.ndarray:
    """Share of each class among the labelled pixels; counted when the data is prepared, and kept with the run.

    Beside it is kept what the training images were: a run that goes on with others would not be one.
    """
    from jaxseg.data import check

    stored, classes = workdir / FREQUENCIES, len(dataset.classes)
    held = check.content({"train": dataset.records["train"]})
    if not (resumed and stored.is_file()):
        counts = check.class_pixels(dataset.records["train"], classes)
        files.write_json(stored, {"pixels": [int(n) for n in counts], "images": held})
    try:
        values = json.loads(stored.read_text(errors="replace"))
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
    return (pixels / max(pixels.sum(), 1)).astype(np.float32)


def _pictures(settings: config.Config, dataset: Any) -> loop.Pictures | None:
    """Draws predictions of a few validation images; None where pictures are switched off."""
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
            found = trained(example.image)
            picture = visualize.overlay(example.image, found.semantic, found.instance, found.instances, classes)
            pictures[f"prediction/{example.name}"] = picture
        return pictures

    return draw
