"""Saving and restoring the unreplicated state, with orbax."""

import contextlib
import dataclasses
import errno
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from jaxseg import config
from jaxseg.train import storage
from jaxseg.train.state import TrainState

FOLDER = "checkpoints"

ASIDE = "damaged"
"""Folder beside it for checkpoints that cannot be read."""

BEST = "best"
"""Name of the measure that the best checkpoint has most of."""

UNFINISHED = ".orbax-checkpoint-tmp"
"""What names of checkpoints that are being written hold."""

OVERHEAD = 2**20
"""Bytes that a checkpoint takes beside its arrays, at most."""

CHECKSUMS = "checksums"
"""Name of the array of the others' checksums; below orbax, arrays are stored without."""

ITEM = "default"
"""Orbax's name for the only thing that a checkpoint holds."""


class Checkpoints:
    """The checkpoints of a work directory; saving goes on in the background, and what is there is complete.

    The latest few are kept, and the best of those that were measured.

    Args:
      workdir: the run's folder.
      keep: number of latest checkpoints kept.
      read_only: never creates or deletes anything.
    """

    def __init__(self, workdir: storage.Folder, keep: int = 2, read_only: bool = False) -> None:
        self._path = storage.absolute(workdir) / FOLDER
        # Only the leading process saves and restores, so no other one is to be waited for.
        lone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        best = policies.BestN(get_metric_fn=_measure, n=1, keep_checkpoints_without_metrics=False)
        if read_only:
            options = ocp.CheckpointManagerOptions(
                create=False, read_only=True, save_interval_steps=0, best_fn=_measure, multiprocessing_options=lone
            )
        else:
            _require_folder(self._path)
            options = ocp.CheckpointManagerOptions(
                best_fn=_measure,
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
                cleanup_tmp_directories=True,
                multiprocessing_options=lone,
                create=False,
                enable_async_checkpointing=False,
            )
        # One thread of ours saves, one state after another. Orbax's own way of saving in the background has threads of
        # its own wait for a folder that could not be made, ten minutes long, and print what each of them meets.
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._saving: Future[None] | None = None
        with _quiet(), contextlib.nullcontext() if read_only else self._written():
            self._manager = ocp.CheckpointManager(
                self._path, options=options, item_handlers=ocp.StandardCheckpointHandler(multiprocessing_options=lone)
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._wait()
        finally:
            self._thread.shutdown()
            self._manager.close()

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Step of the best checkpoint; None where none was measured."""
        values = {step: value for step in self._manager.all_steps() if (value := self.measured(step)) is not None}
        return max(values, key=lambda step: (values[step], step), default=None)

    def measured(self, step: int) -> float | None:
        """How good a state is; None where that was not measured."""
        found = self._manager.metrics(step)
        return _measure(found) if found else None

    def save(self, state: TrainState, measured: float | None = None) -> None:
        """Saves a state in the background, once the save before has ended.

        Args:
          state: unreplicated host arrays that stay as they are.
          measured: how good it is; None where that was not measured.

        Raises:
          UserError: the save before could not be written.
        """
        self._wait()
        self._saving = self._thread.submit(self._save, state, measured)

    def check(self) -> None:
        """Raises what went wrong in the background.

        Raises:
          UserError: a checkpoint could not be written.
        """
        if self._saving is not None and self._saving.done():
            self._wait()

    def _wait(self) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _save(self, state: TrainState, measured: float | None) -> None:
        metrics = None if measured is None else {BEST: float(measured)}
        with _quiet(), self._written():
            self._require_room(state)
            stored = _plain(state)
            stored[CHECKSUMS] = np.array(_checksums(stored)[1], np.uint32)
            self._manager.save(int(state.step), args=ocp.args.StandardSave(stored), metrics=metrics, force=True)

    def _require_room(self, state: TrainState) -> None:
        """Finds a full disk before anything is written.

        Orbax writes all arrays at once and raises the first failure; the others are printed by threads below it.

        Raises:
          OSError: there is too little room for a state.
        """
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) * 1.05 + OVERHEAD
        if not storage.remote(self._path) and shutil.disk_usage(self._path).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def restore(self, like: TrainState, mend: bool = False, best: bool = False) -> TrainState:
        """The newest state, or the best.

        Args:
          like: a state of the same network and optimizer.
          best: the best of the states that were measured.
          mend: where the newest is damaged, put it aside with a warning on stderr and take the one before.

        Raises:
          UserError: no checkpoint, none that was measured, one of another network, or a damaged one that is not to be
            put aside.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise config.UserError(
                f"{self._path} holds no checkpoint. Train first: python train.py --config ... --workdir ..."
            )
        if best:
            measured = self.best()
            if measured is None:
                raise config.UserError(
                    f"No checkpoint in {self._path} was measured. Leave out --best, "
                    "or train with --train.validate-every."
                )
            steps = [measured]
        damaged: list[_Damaged] = []
        for step in steps:
            try:
                with _quiet():
                    found = self._restored(step, like)
            except _Damaged as error:
                if not mend:
                    raise config.UserError(f"{error} Remove that folder to go on from an earlier one.") from error
                damaged.append(error)
                continue
            for unread in damaged:
                self._put_aside(unread, step)
            return found
        raise config.UserError(f"{damaged[0]} No other one is whole. Train again in another --workdir.")

    def _restored(self, step: int, like: TrainState) -> TrainState:
        wanted = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), _plain(like))
        wanted[CHECKSUMS] = np.zeros(len(jax.tree.leaves(wanted)), np.uint32)
        with _damaged(self._path, step):
            _read_through(self._path / str(step) / ITEM)
        self._compare(step, wanted)
        with _damaged(self._path, step):
            found = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
            sums = found.pop(CHECKSUMS)
            odd = [name for name, a, b in zip(*_checksums(found), sums, strict=True) if a != b]
            if odd:
                raise ValueError(f"{odd[0]} is not what was written")
        del wanted[CHECKSUMS]
        return TrainState(**{"average": {}} | {name: found[name] for name in wanted})

    def _put_aside(self, error: "_Damaged", step: int) -> None:
        aside = self._path.with_name(ASIDE)
        aside.mkdir(exist_ok=True)
        target = aside / f"{error.step}_{len(list(aside.iterdir()))}"
        (self._path / str(error.step)).rename(target)
        print(f"jaxseg: {error} It is in {target} now, and step {step} is used instead.", file=sys.stderr)

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Turns what the disk says into one line, and removes what was half written.

        Raises:
          UserError: a checkpoint cannot be written.
        """
        try:
            yield
        except Exception as error:  # From below orbax come errors of every kind.
            steps: list[int] = []
            with contextlib.suppress(Exception):  # Where nothing can be read, nothing can be tidied up either.
                for unfinished in self._path.glob(f"*{UNFINISHED}*"):
                    shutil.rmtree(unfinished, ignore_errors=True)
                steps = [int(p.name) for p in self._path.iterdir() if p.name.isdigit()]
            earlier = f"step {max(steps)} is whole" if steps else "there is no earlier one"
            raise config.UserError(
                f"A checkpoint cannot be written to {self._path}: {_reason(error)}; {earlier}. "
                "Make room there; the same command goes on."
            ) from error

    def _compare(self, step: int, wanted: dict[str, Any]) -> None:
        """Names the first array that this network has and the checkpoint has not, or with another shape."""
        with _damaged(self._path, step):
            metadata = self._manager.item_metadata(step)
            tree = getattr(metadata, "tree", metadata)
            saved = {_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
            if not saved:
                raise ValueError("its list of arrays is missing")
        mine = {_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
        odd = [n for n in sorted(mine.keys() | saved.keys()) if mine.get(n) != saved.get(n)]
        if odd:
            have, want = saved.get(odd[0], "nothing"), mine.get(odd[0], "nothing")
            raise config.UserError(
                f"checkpoint {self._path / str(step)} is of another network: {odd[0]} is {have} there and {want} here. "
                "Use the config that it was trained with."
            )


def _measure(metrics: Any) -> float:
    """What the best checkpoint has most of."""
    return metrics[BEST]


def _plain(state: TrainState) -> dict[str, Any]:
    kept = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return kept if kept["average"] else {name: value for name, value in kept.items() if name != "average"}


def _checksums(tree: dict[str, Any]) -> tuple[list[str], list[int]]:
    """Names and CRC-32 of all arrays, in an order of names."""
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    names = sorted(leaves)
    return names, [zlib.crc32(np.ascontiguousarray(leaves[name]).reshape(-1).view(np.uint8).data) for name in names]


def _name(path: tuple) -> str:
    """A readable name; the optimizer's tuples are stored as lists or dicts, so that only names and indices count."""
    return "/".join(str(getattr(p, "key", getattr(p, "idx", getattr(p, "name", p)))) for p in path)


def _read_through(folder: storage.Folder) -> None:
    """Reads every array of a checkpoint, one after another.

    Orbax reads them all at once and raises the first failure; the other reads go on and fail in its threads later, each
    with a traceback on stderr. So a damaged file must be met here.
    """
    base = f"{folder}/" if storage.remote(folder) else {"driver": "file", "path": f"{folder}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    keys = store.list().result()
    if not keys:
        raise ValueError("its arrays are missing")
    for key in keys:
        store.read(key).result()


def _reason(error: Exception) -> str:
    """What the system says, without the layers through which it came."""
    said = storage.reason(error)
    known = [os.strerror(n) for n in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO)]
    return next((words for words in known if words in str(error)), said)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax's remarks on its own options, and on errors that it raises too."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


class _Damaged(Exception):
    """A checkpoint that cannot be read."""

    def __init__(self, path: storage.Folder, step: int, reason: str) -> None:
        super().__init__(f"Checkpoint {path / str(step)} cannot be read: {reason}.")
        self.step = step


@contextlib.contextmanager
def _damaged(path: storage.Folder, step: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise _Damaged(path, step, reason.rstrip(".")) from error


def _require_folder(path: storage.Folder) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except Exception as error:  # Each store's client has errors of its own.
        remedy = "Choose another --workdir."
        raise config.UserError(f"{path} cannot be created: {storage.reason(error)}. {remedy}") from error
