"""Training: a config and a work directory in, checkpoints and logs out; resumes what the directory holds."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from rich.console import Console

from jaxseg import config
from jaxseg.apps import files, model
from jaxseg.apps.tasks import classification, segmentation, start, terms
from jaxseg.train import loop, parallel, state, storage
from jaxseg.train.checkpoint import FOLDER, Checkpoints

Source = TypeVar("Source", config.Data, config.Pictures)


def train(settings: config.Run, workdir: storage.Folder) -> state.TrainState:
    """Trains, or goes on training, the run in a work directory.

    Args:
      settings: the config, of segmentation or classification.
      workdir: created where it is missing; holds config.json, checkpoints, TensorBoard files.

    Returns:
      The last state.

    Raises:
      UserError: the directory cannot be written or holds another run, or data or config are unusable.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    require_encoder(settings)
    _require_terms(settings)
    parallel.devices_for(settings.train.batch, settings.train.accumulate)
    before = _shared(workdir)
    if isinstance(settings, config.Config):
        terms.require_shared(settings.losses)
    with parallel.lead_first():
        settings, layout = resolved(settings, before)
        _require_terms(settings)
        if before is not None:
            compare(before, settings, workdir, console)
        planned = job(settings, layout, workdir, before is not None)
        if parallel.lead():
            _keep_terms(settings, workdir)
            files.write_text(workdir / model.CONFIG, config.to_json(settings))
    begin, told = _begin(planned.task.network, settings, workdir, before is not None)
    if parallel.lead():
        _announce(console, settings, begin, planned.images)
        if told:
            console.print(told.text(), markup=False)
    rate = jax.jit(state.schedule(settings.optimizer, settings.train.steps))
    return loop.run(settings.train, planned, begin, workdir, rate)


def require_encoder(settings: config.Run) -> None:
    """Reports an encoder that does not exist, or does not take the settings, before any data is read.

    Raises:
      UserError: what is wrong with it.
    """
    if isinstance(settings, config.Classification):
        settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, classes=("any",)))
    model.optimizer(settings, model.module(settings))


def _require_terms(settings: config.Run) -> None:
    """Loss terms that cannot be trained with are reported before any data is read."""
    if isinstance(settings, config.Config):
        terms.require(settings)


def _keep_terms(settings: config.Run, workdir: storage.Folder) -> None:
    """The source of the loss terms that are the user's own."""
    if isinstance(settings, config.Config):
        terms.keep(settings.losses, workdir)


def resolved(settings: config.Run, before: config.Run | None = None) -> tuple[config.Run, Any]:
    """Settings with everything that data and weights decide filled in, and the data's listing.

    Args:
      settings: of a config file and the command line.
      before: of the run, where it goes on.

    Raises:
      UserError: data or weights cannot be used.
    """
    weights = start.resolved(settings.model, before.model if before else None)
    if isinstance(settings, config.Config):
        assert isinstance(weights, config.Model)
        data, layout = segmentation.resolve(settings.data)
        losses = terms.resolved(settings.losses)
        settings = dataclasses.replace(settings, data=absolute(data), model=weights, losses=losses)
        return settings, layout
    pictures, listing = classification.resolve(settings.data)
    return dataclasses.replace(settings, data=absolute(pictures), model=weights), listing


def job(settings: config.Run, layout: Any, workdir: storage.Folder, resumed: bool) -> loop.Job:
    """What a config of either kind asks for; arguments are those of `segmentation.job`."""
    if isinstance(settings, config.Config):
        return segmentation.job(settings, layout, workdir, resumed)
    return classification.job(settings, layout, workdir, resumed)


def absolute(data: Source) -> Source:
    """With the data's folders as absolute paths, so that later commands find them from anywhere."""
    root, cache = (str(Path(f).expanduser().absolute()) if f else f for f in (data.root, data.cache))
    return dataclasses.replace(data, root=root, cache=cache)


def _begin(
    network: Any, settings: config.Run, workdir: storage.Folder, resumed: bool
) -> tuple[state.TrainState, start.Start | None]:
    """The state to go on from, and what it was started from, where a new run starts from weights."""
    if not parallel.lead():
        # What the leading process begins with, whatever this one could read.
        return parallel.shared(jax.tree.map(np.asarray, model.begin(network, settings))), None
    told = None
    if resumed:
        begin = model.restored(network, settings, workdir, mend=True)
    else:
        begin = model.begin(network, settings)
        if settings.model.encoder_weights:
            begin, told = start.start(begin, settings.model)
            start.write(workdir, told)
    return parallel.shared(jax.tree.map(np.asarray, begin)), told


def _announce(console: Console, settings: config.Run, begin: state.TrainState, images: int) -> None:
    devices = parallel.devices_for(settings.train.batch, settings.train.accumulate)[
        : 1 if settings.train.debug else None
    ]
    _, processes = parallel.place()
    hosts = f" in {processes} processes" if processes > 1 else ""
    console.print(
        f"{settings.name}: {state.parameters(begin):,} parameters, {images} training images, "
        f"{len(devices)} x {devices[0].device_kind}{hosts}, from step {int(begin.step)} to {settings.train.steps}"
    )


def _shared(workdir: storage.Folder) -> config.Run | None:
    """The config that the leading process finds, in all of them."""
    before = None
    if parallel.lead():
        files.require_writable(workdir)
        before = stored(workdir)
    text = parallel.shared_text(None if before is None else config.to_json(before))
    return None if text is None else config.from_json(text, str(workdir / model.CONFIG))


def stored(workdir: storage.Folder) -> config.Run | None:
    """The config of the run that the directory holds; None where there is nothing to go on with.

    A run that never came to its first checkpoint binds nothing: it may have failed for the very settings that changed.

    Raises:
      UserError: there are checkpoints without a config.
    """
    if not (workdir / FOLDER).is_dir():
        return None
    with Checkpoints(workdir, read_only=True) as checkpoints:
        if checkpoints.latest() is None:
            return None
    if not (workdir / model.CONFIG).is_file():
        raise config.UserError(
            f"{workdir} holds checkpoints of a run without its {model.CONFIG}. "
            "Restore that file, or give another --workdir."
        )
    return model.read_run(workdir)


def compare(before: config.Run, settings: config.Run, workdir: storage.Folder, console: Console) -> None:
    """Lists settings that changed since a run began, and refuses those that matter.

    Args:
      before: settings of the run.
      settings: those it is to go on with.
      workdir: its folder, for messages.
      console: where the list goes.

    Raises:
      UserError: it would be another run.
    """
    if type(before) is not type(settings):
        raise config.UserError(f"{workdir} holds a run of another kind, {before.name}. Give another --workdir.")
    changed = config.differences(before, settings)
    for name, (old, new) in changed.items():
        console.print(f"{name}: was {old}, now {new}", markup=False)
    refused = sorted(name for name, both in changed.items() if config.changes_meaning(name) and not terms.moved(*both))
    if refused:
        raise config.UserError(
            f"{workdir} holds another run: {', '.join(refused)} differ. "
            "Give those settings again, or another --workdir."
        )
    if isinstance(settings, config.Config):
        terms.compare(settings.losses, workdir)
