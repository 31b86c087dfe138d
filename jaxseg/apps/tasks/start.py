"""Starting a run from an encoder that was trained before: what was taken, and what was not."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from jaxseg import config
from jaxseg.apps import files, model
from jaxseg.train import storage
from jaxseg.train.state import TrainState
from jaxseg.weights import stored
from jaxseg.weights.stored import Weights

FILE = "start.json"
"""Where a run's folder says what it started from."""

PREFIXES = (f"params/{stored.ENCODER}/", f"batch_stats/{stored.ENCODER}/", "params/logits/")
"""Arrays that a checkpoint can give; the heads of segmentation always start anew."""


class Start(NamedTuple):
    """What a run starts from. Arrays are named by their path among the variables.

    Attributes:
      source: where the weights come from.
      taken: arrays that are the checkpoint's.
      initialised: arrays of the network that are random.
      left_out: arrays of the checkpoint that the network has no place for.
    """

    source: str
    taken: list[str]
    initialised: list[str]
    left_out: list[str]

    def text(self) -> str:
        """One line for people."""
        parts = [f"encoder from {self.source}: {len(self.taken)} arrays taken"]
        for verb, names in (("initialised", self.initialised), ("left out", self.left_out)):
            if names:
                parts.append(f"{len(names)} {verb} ({', '.join(_tops(names))})")
        return ", ".join(parts)


def _tops(names: list[str]) -> list[str]:
    """The parts of the network that arrays belong to, in order, each once."""
    paths = (name.split("/")[1:] for name in names)
    return list(dict.fromkeys(path[1] if path[0] == stored.ENCODER else path[0] for path in paths))


def load(path: storage.Folder) -> Weights:
    """An encoder checkpoint, or the encoder of a run's newest one.

    Args:
      path: a local file of `jaxseg weights import`, or a work directory.

    Raises:
      UserError: it is neither, or damaged.
    """
    if isinstance(path, Path) and not path.is_dir():
        if path.is_file() or path.suffix:
            return stored.load(path)
        raise config.UserError(f"{path} does not exist. Name a file of jaxseg weights import, or a work directory.")
    settings = model.read_run(path)
    state = model.restored(model.module(settings), settings, path)
    flat = traverse_util.flatten_dict(state.variables, sep="/")
    kept = {name: np.asarray(array) for name, array in flat.items() if name.startswith(PREFIXES)}
    classes = settings.data.classes if isinstance(settings, config.Classification) else ()
    variables = traverse_util.unflatten_dict(kept, sep="/")
    return Weights(settings.model, variables, f"{path} ({settings.name}, step {int(state.step)})", classes)


def resolved(settings: config.Encoder, before: config.Encoder | None) -> config.Encoder:
    """Settings with the path made absolute, and the conventions that the weights take for granted.

    Args:
      settings: of the encoder.
      before: those that the run was begun with, if it goes on: its weights are not read again.

    Raises:
      UserError: the weights cannot be used with the other settings.
    """
    if not settings.encoder_weights:
        return settings
    path = storage.absolute(storage.folder(settings.encoder_weights).expanduser())
    settings = dataclasses.replace(settings, encoder_weights=str(path))
    if before is not None and before.encoder_weights == settings.encoder_weights:
        return dataclasses.replace(settings, conventions=before.conventions)
    weights = load(path)
    _require_equal(settings, weights, path)
    return dataclasses.replace(settings, conventions=weights.settings.conventions)


def _require_equal(settings: config.Encoder, weights: Weights, path: storage.Folder) -> None:
    """Refuses weights of another encoder, and conventions that contradict theirs."""
    given = weights.settings
    for name in ("encoder", "encoder_width", "encoder_blocks"):
        mine, theirs = getattr(settings, name), getattr(given, name)
        if mine != theirs:
            have, want = (_shown(value) for value in (theirs, mine))
            raise config.UserError(
                f"{path} holds {weights.title()}, so `model.{name}` is {have} there and {want} here. "
                "Change that setting, or take other weights."
            )
    if settings.conventions not in (config.Conventions(), given.conventions):
        raise config.UserError(
            f"`model.conventions` contradict {path}, which says {given.conventions}. Leave them out: the file decides."
        )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "as published"
    return f"{value:g}" if isinstance(value, float) else str(value)


def start(begin: TrainState, settings: config.Encoder) -> tuple[TrainState, Start]:
    """A new state with the encoder's parameters and statistics from a checkpoint.

    Args:
      begin: of random parameters.
      settings: of the encoder, resolved.

    Returns:
      The state, and what came from where.

    Raises:
      UserError: the checkpoint cannot be read, has nothing for this encoder, or an array of another shape.
    """
    path = storage.folder(settings.encoder_weights)
    weights = load(path)
    given = stored.flat(weights.variables)
    variables = {"params": begin.params, "batch_stats": begin.batch_stats}
    mine = traverse_util.flatten_dict(jax.tree.map(np.asarray, variables), sep="/")
    fitting = {name for name in mine if name in given and _fits(name, mine, given, path)}
    if not any(name.startswith(PREFIXES[0]) for name in fitting):
        raise config.UserError(f"{path} holds nothing for encoder {settings.encoder}. Take other weights.")
    merged = {name: given[name].astype(array.dtype) if name in fitting else array for name, array in mine.items()}
    tree = traverse_util.unflatten_dict(merged, sep="/")
    params, stats = tree["params"], tree.get("batch_stats", {})
    kept = {"params": params, "batch_stats": stats} if begin.average else {}
    told = Start(
        source=weights.source,
        taken=sorted(fitting),
        initialised=sorted(mine.keys() - fitting),
        left_out=sorted(given.keys() - fitting),
    )
    return dataclasses.replace(begin, params=params, batch_stats=stats, average=kept), told


def _fits(name: str, mine: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], path: storage.Folder) -> bool:
    """Whether an array can be taken: one of the encoder must, the last layer is another one for other classes."""
    if mine[name].shape == given[name].shape:
        return True
    if name.startswith("params/logits/"):
        return False
    have, want = (" x ".join(map(str, array[name].shape)) for array in (given, mine))
    raise config.UserError(f"{path}: {name} is {have}, this network wants {want}. Take other weights.")


def write(workdir: storage.Folder, told: Start) -> None:
    """Stores what a run started from.

    Raises:
      UserError: it cannot be written.
    """
    files.write_json(workdir / FILE, told._asdict())
