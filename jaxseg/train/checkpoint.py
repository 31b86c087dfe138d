"""Saving and restoring the unreplicated state, with orbax."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from absl import logging

from jaxseg import config
from jaxseg.train.state import TrainState

FOLDER = "checkpoints"

ITEM = "default"
"""Orbax's name for the only thing that a checkpoint holds."""


class Checkpoints:
    """The checkpoints of a work directory; saving goes on in the background.

    Args:
      workdir: the run's folder.
      keep: number of latest checkpoints kept.
      read_only: never creates or deletes anything.
    """

    def __init__(self, workdir: Path, keep: int = 2, read_only: bool = False) -> None:
        self._path = workdir.absolute() / FOLDER
        if read_only:
            options = ocp.CheckpointManagerOptions(create=False, read_only=True, save_interval_steps=0)
        else:
            options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        with _quiet():
            self._manager = ocp.CheckpointManager(
                self._path, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Starts saving a state of host arrays; returns once they are copied."""
        self._manager.save(int(state.step), args=ocp.args.StandardSave(_plain(state)))

    def restore(self, like: TrainState) -> TrainState:
        """The newest state.

        Args:
          like: a state of the same network and optimizer.

        Raises:
          UserError: no checkpoint, one of another network, or a damaged one.
        """
        step = self.latest()
        if step is None:
            raise config.UserError(
                f"{self._path} holds no checkpoint. Train first: python train.py --config ... --workdir ..."
            )
        wanted = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), _plain(like))
        with _damaged(self._path / str(step)):
            _read_through(self._path / str(step) / ITEM)
        self._compare(step, wanted)
        with _damaged(self._path / str(step)):
            found = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
        return TrainState(**{"average": {}} | {name: found[name] for name in wanted})

    def _compare(self, step: int, wanted: dict[str, Any]) -> None:
        """Names the first array that this network has and the checkpoint has not, or with another shape."""
        with _damaged(self._path / str(step)):
            metadata = self._manager.item_metadata(step)
            tree = getattr(metadata, "tree", metadata)
            saved = {_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        mine = {_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
        odd = [n for n in sorted(mine.keys() | saved.keys()) if mine.get(n) != saved.get(n)]
        if odd:
            have, want = saved.get(odd[0], "nothing"), mine.get(odd[0], "nothing")
            raise config.UserError(
                f"checkpoint {self._path / str(step)} is of another network: {odd[0]} is {have} there and {want} here. "
                "Use the config that it was trained with."
            )


def _plain(state: TrainState) -> dict[str, Any]:
    kept = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return kept if kept["average"] else {name: value for name, value in kept.items() if name != "average"}


def _name(path: tuple) -> str:
    """A readable name; the optimizer's tuples are stored as lists or dicts, so that only names and indices count."""
    return "/".join(str(getattr(p, "key", getattr(p, "idx", getattr(p, "name", p)))) for p in path)


def _read_through(folder: Path) -> None:
    """Reads every array of a checkpoint, one after another.

    Orbax reads them all at once and raises the first failure; the other reads go on and fail in its threads later, each
    with a traceback on stderr. So a damaged file must be met here.
    """
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}).result()
    for key in store.list().result():
        store.read(key).result()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax's remarks on its own options."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise config.UserError(
            f"checkpoint {path} cannot be read: {reason}. Remove that folder to go on from an earlier one."
        ) from error
