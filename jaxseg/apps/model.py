"""Opening a work directory: its config, its network, its parameters, and a callable for frames."""

import math
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg import config, results, runtime, segment
from jaxseg.apps import stream
from jaxseg.nn import classifier
from jaxseg.nn import network as networks
from jaxseg.train import segmentation, storage
from jaxseg.train import state as states
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.types import Capacity, ClassList, Thresholds

CONFIG = "config.json"

_segment = jax.jit(segment.segment, static_argnums=(0, 3), compiler_options=runtime.options())
"""The inference, compiled as the commands do, whatever the process tells XLA; not for use inside another `jax.jit`."""


def capacity(settings: config.Config) -> Capacity:
    """What fixes the shapes of a run's inference."""
    model = settings.model
    return Capacity(
        slots=settings.grouping.slots,
        superpixel=settings.superpixels.size,
        size=model.size,
        stride=model.encoder_stride,
        stuff=class_list(settings).stuff,
        clustering=model.clustering,
        as_printed=settings.grouping.as_printed,
    )


def thresholds(settings: config.Config) -> Thresholds:
    """The numbers of a run's grouping."""
    grouping = settings.grouping
    return Thresholds(grouping.center, grouping.assignment, grouping.duplicate, settings.superpixels.compactness)


def class_list(settings: config.Config) -> ClassList:
    """The run's classes."""
    return ClassList.of(settings.data.classes, settings.data.stuff, settings.data.colors)


def network(settings: config.Config, axis_name: str | None = None) -> Any:
    """The run's network; ``axis_name`` is the mapped axis that batch statistics are synchronised over in training."""
    classes = len(settings.data.classes) + 1
    return networks.from_config(settings.model, classes, settings.superpixels.size, axis_name)


R = TypeVar("R")


class Ready:
    """Which shapes a program was compiled for, so that threads which come with a new one compile it once."""

    def __init__(self) -> None:
        """Nothing is compiled yet."""
        self._shapes: set[Hashable] = set()
        self._lock = threading.Lock()

    def call(self, shape: Hashable, run: Callable[[], R]) -> R:
        """Runs a program; the first call of a shape alone, as it compiles, and beside it those of known shapes."""
        if shape in self._shapes:
            return run()
        with self._lock:
            result = run()
            self._shapes.add(shape)
        return result


def checked(frames: Any) -> Any:
    """Frames as an array with a shape.

    Args:
      frames: uint8 RGB, (H, W, 3) or (b, H, W, 3), on the host or a device, or traced.

    Raises:
      ValueError: another shape or dtype.
    """
    frames = frames if isinstance(frames, jax.Array) else np.asarray(frames)
    if np.ndim(frames) not in (3, 4) or np.shape(frames)[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"`frames` must be uint8 (H, W, 3) or (b, H, W, 3): got {frames.dtype} {np.shape(frames)}.")
    return frames


def warmed(run: Callable[[Any], Any], size: tuple[int, int], batch: int | None) -> float:
    """Calls with black frames, waits, and says how many seconds it took."""
    began = time.perf_counter()
    jax.block_until_ready(run(np.zeros((*(() if batch is None else (batch,)), *size, 3), np.uint8)))
    return time.perf_counter() - began


@dataclass(frozen=True)
class Model:
    """A trained network, ready for frames. Call it with one uint8 RGB frame (H, W, 3) or a batch (b, H, W, 3).

    Safe to call from several threads. Shapes of results depend on the shape of the frames alone.

    Attributes:
      settings: of its run.
      network: the module.
      variables: parameters and statistics.
      step: updates it was trained for.
    """

    settings: config.Config
    network: Any
    variables: Any
    step: int
    _ready: Ready = field(default_factory=Ready, repr=False, compare=False)

    @cached_property
    def classes(self) -> ClassList:
        """Names of the classes."""
        return class_list(self.settings)

    @property
    def frame(self) -> None:
        """(height, width) of the only frames it takes: any, while an exported file takes one size."""
        return None

    def stream(self) -> stream.Stream:
        """For the frames of a camera or a video, one after the other: objects keep their ``track_id``."""
        return stream.Stream(self)

    def pixels_per_unit(self, size: tuple[int, int]) -> float:
        """What `types.Matching` calls coordinates, for frames of a size (height, width)."""
        network = self.settings.model.size or size
        return self.settings.model.coordinates * math.sqrt(size[0] * size[1] / (network[0] * network[1]))

    @cached_property
    def _numbers(self) -> Thresholds:
        return jax.tree.map(np.float32, thresholds(self.settings))

    @cached_property
    def _capacity(self) -> Capacity:
        return capacity(self.settings)

    def __call__(self, frames: Any, thresholds_: Thresholds | None = None) -> results.Result:
        """Segments frames; compiled once for each frame size and batch.

        Inside `jax.jit` it is a part of the caller's program, compiled as that is.

        Args:
          frames: uint8 RGB, (H, W, 3) or (b, H, W, 3), on the host or a device, or traced.
          thresholds_: other numbers of the grouping than the run's.

        Raises:
          ValueError: another shape or dtype.
        """
        frames = checked(frames)
        numbers = self._numbers if thresholds_ is None else jax.tree.map(jnp.float32, thresholds_)
        arguments = (self.network, self.variables, frames, self._capacity, numbers)
        if isinstance(frames, jax.core.Tracer):
            return results.result(segment.jitted(*arguments))
        return results.result(self._ready.call(frames.shape, lambda: _segment(*arguments)))

    def warmup(self, size: tuple[int, int] | None = None, batch: int | None = None) -> float:
        """Compiles for a frame size before the first frame comes, so that this is as quick as all later ones.

        Args:
          size: (height, width) of the frames; None for the network's own.
          batch: frames in a call; None for lone frames.

        Returns:
          Seconds it took.

        Raises:
          ValueError: no size is given, and the network takes any.
        """
        size = size or self.settings.model.size
        if size is None:
            raise ValueError("`size` must be given: the network takes frames of any.")
        return warmed(self, size, batch)


def load(path: str | storage.Folder, settings: config.Config | None = None, best: bool = False) -> Model:
    """Opens the work directory of a run.

    Args:
      path: what ``--workdir`` was in training.
      settings: other settings than the stored ones, of the same network.
      best: the best of the states that training measured, instead of the latest.

    Raises:
      UserError: not a work directory, or a checkpoint that cannot be used.
    """
    workdir = storage.folder(str(path))
    settings = settings or read_config(workdir)
    built = network(settings)
    state = restored(built, settings, workdir, best=best)
    return Model(settings, built, jax.device_put(state.variables), int(state.step))


def read_config(workdir: storage.Folder) -> config.Config:
    """The config stored with a run of segmentation.

    Raises:
      UserError: there is none, it is damaged, or the run trains a classifier.
    """
    found = read_run(workdir)
    if not isinstance(found, config.Config):
        raise config.UserError(
            f"{workdir} holds a classifier, which finds no objects. Start segmentation from it: "
            f"python train.py --config ... --model.encoder-weights {workdir}"
        )
    return found


def read_run(workdir: storage.Folder) -> config.Run:
    """The config stored with a run of any kind.

    Raises:
      UserError: there is none, or it is damaged.
    """
    file = workdir / CONFIG
    if not file.is_file():
        raise config.UserError(
            f"{workdir} is not a work directory: it has no {CONFIG}. Train first, or give another path."
        )
    return config.from_json(file.read_bytes().decode(errors="replace"), str(file))


def module(settings: config.Run, axis_name: str | None = None) -> Any:
    """The network or classifier of a run; ``axis_name`` is as in `network`."""
    if isinstance(settings, config.Config):
        return network(settings, axis_name)
    return classifier.from_config(settings.model, len(settings.data.classes), axis_name)


def optimizer(settings: config.Run, network: Any) -> optax.GradientTransformation:
    """The optimizer of a run.

    Raises:
      UserError: stages are to be frozen of an encoder that does not say which submodules these are.
    """
    frozen: tuple[str, ...] = ()
    if settings.model.frozen_stages:
        if not hasattr(network.encoder, "frozen_modules"):
            raise config.UserError(
                f"encoder {settings.model.encoder} has no frozen_modules(), which names the submodules that "
                "`model.frozen_stages` keeps. Add it, or set that to 0."
            )
        frozen = network.encoder.frozen_modules()
    return states.optimizer(settings.optimizer, settings.train.steps, frozen)


def begin(network: Any, settings: config.Run, update: optax.GradientTransformation | None = None) -> states.TrainState:
    """The state that a run begins with, of random parameters; compiled once for all seeds of one ``update``.

    Args:
      network: of the run.
      settings: of the run.
      update: its optimizer, where that was made before.
    """
    update, average = update or optimizer(settings, network), settings.optimizer.average > 0
    learnt = isinstance(settings, config.Config) and settings.losses.weighting == "uncertainty"
    uncertain = tuple(sorted(set(segmentation.TASKS.values()))) if learnt else ()
    return states.create(network, update, settings.seed, settings.data.crop, average, uncertain)


def restored(
    network: Any, settings: config.Run, workdir: storage.Folder, mend: bool = False, best: bool = False
) -> states.TrainState:
    """The newest or the best state of a run; ``mend`` puts damaged ones aside, for runs that go on.

    Raises:
      UserError: no checkpoint that can be used.
    """
    # Shapes alone: nothing is computed.
    like = jax.eval_shape(lambda: begin(network, settings))
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore(like, mend, best)
