"""The loop around the step: data in, scalars and pictures to TensorBoard, checkpoints out."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxseg import config
from jaxseg.train import parallel
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.state import TrainState
from jaxseg.train.step import Numbers, Task

Pictures = Callable[[TrainState], Mapping[str, np.ndarray]]
"""Draws predictions of a state: name to (H, W, 3) uint8."""


class Job(NamedTuple):
    """What is to be learnt, and from what.

    Attributes:
      task: static parts of the step.
      numbers: traced numbers of the loss.
      batches: step to an iterator of the batches from there on; each depends on its step alone.
      images: number of training images.
      pictures: draws predictions; None for none.
    """

    task: Task
    numbers: Numbers
    batches: Callable[[int], Iterator[Any]]
    images: int
    pictures: Pictures | None = None


def run(settings: config.Train, job: Job, state: TrainState, workdir: Path, rate: Callable[[int], float]) -> TrainState:
    """Trains from ``state.step`` to the last step.

    Args:
      settings: length and rhythm.
      job: what is to be learnt.
      state: unreplicated.
      workdir: where checkpoints and TensorBoard files go.
      rate: learning rate of a step, for the log.

    Returns:
      The last state, unreplicated.

    Raises:
      UserError: a loss stopped being finite.
    """
    from tensorboardX import SummaryWriter

    start = int(state.step)
    devices = parallel.devices_for(settings.batch)
    update = parallel.train_step(job.task, devices)
    replicated = parallel.replicate(state, devices)
    writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=start or None)
    with Checkpoints(workdir, settings.keep) as checkpoints, _Display(settings, start) as display:
        for i, batch in zip(range(start, settings.steps), job.batches(start), strict=False):
            replicated, scalars = update(replicated, parallel.shard(batch, devices), job.numbers)
            done = i + 1
            saves = done % settings.save_every == 0 or done == settings.steps
            if done % settings.log_every == 0 or saves:
                values = {name: float(value[0]) for name, value in scalars.items()}
                _require_finite(values, done)
                _write(writer, values | {"learning_rate": float(rate(i)), "images_per_second": display.rate}, done)
                display.show(values, done)
            display.advance()
            if saves:
                checkpoints.save(parallel.unreplicate(replicated))
            drawn = settings.picture_every and (done % settings.picture_every == 0 or done == settings.steps)
            if job.pictures and drawn:
                for name, picture in job.pictures(parallel.unreplicate(replicated)).items():
                    writer.add_image(name, picture, done, dataformats="HWC")
    writer.close()
    return parallel.unreplicate(replicated)


def _require_finite(values: Mapping[str, float], step: int) -> None:
    odd = [name for name, value in values.items() if not math.isfinite(value)]
    if odd:
        raise config.UserError(
            f"`{odd[0]}` is {values[odd[0]]} at step {step}. "
            "Lower --optimizer.learning-rate or --optimizer.clip, in another --workdir."
        )


def _write(writer: Any, values: Mapping[str, float], step: int) -> None:
    for name, value in values.items():
        writer.add_scalar(f"train/{name}", value, step)


class _Display:
    """A progress bar that names every loss term, images/s and time left; plain lines where there is no terminal."""

    def __init__(self, settings: config.Train, start: int) -> None:
        self._batch, self._steps, self._start = settings.batch, settings.steps, start
        self._console = Console(stderr=True, soft_wrap=True)
        self._progress = Progress(
            TextColumn("[bold]train"),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} images/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._times: deque[float] = deque([time.monotonic()], maxlen=50)
        self._next_line = 0.0

    def __enter__(self) -> "_Display":
        self._progress.start()
        self._task = self._progress.add_task("", total=self._steps, completed=self._start, rate=0.0, terms="")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @property
    def rate(self) -> float:
        """Images a second over the last steps."""
        return self._batch * (len(self._times) - 1) / max(self._times[-1] - self._times[0], 1e-9)

    def advance(self) -> None:
        self._times.append(time.monotonic())
        self._progress.update(self._task, advance=1, rate=self.rate)

    def show(self, values: Mapping[str, float], step: int) -> None:
        hidden = ("gradient_norm", "vanished", "overflow")
        terms = "  ".join(f"{name} {value:.3f}" for name, value in values.items() if name not in hidden)
        self._progress.update(self._task, terms=terms)
        now = time.monotonic()
        if not self._console.is_terminal and (now >= self._next_line or step == self._steps):
            left = (self._steps - step) * self._batch / self.rate if len(self._times) > 1 else math.nan
            clock = f"{left / 60:.0f} min left" if math.isfinite(left) else "time left unknown"
            self._console.print(
                f"step {step}/{self._steps}  {terms}  {self.rate:.1f} images/s  {clock}", highlight=False
            )
            self._next_line = now + 10
