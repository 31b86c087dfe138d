"""The loop around the step: data in, scalars and pictures to TensorBoard, checkpoints out."""

import contextlib
import logging
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxseg import config
from jaxseg.train import debug, faults, gradients, parallel, storage
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.interrupt import Interrupt, name
from jaxseg.train.state import TrainState
from jaxseg.train.step import Numbers, Task

Pictures = Callable[[TrainState], Mapping[str, np.ndarray]]
"""Draws predictions of a state: name to (H, W, 3) uint8."""

HIDDEN = ("stop", "in_a_row")
"""Scalars that are of no interest to people."""

LAG = 2
"""Updates that may run on the device before anyone looks at what the one before them found."""


class Validation(NamedTuple):
    """How good a state is on images that it does not learn from.

    Attributes:
      sums: state, which process this is and how many there are, to host arrays that add up over the processes.
      values: of such sums, by name; the first is what the best state has most of.
    """

    sums: Callable[[TrainState, int, int], Any]
    values: Callable[[Any], Mapping[str, float]]


class Job(NamedTuple):
    """What is to be learnt, and from what.

    Attributes:
      task: static parts of the step.
      numbers: traced numbers of the loss.
      batches: step to an iterator of this process' rows of the batches from there on; each depends on its step alone.
      images: number of training images.
      names: step to the names of the examples in this process' rows.
      pictures: draws predictions; None for none.
      validation: None where there is nothing to validate on.
    """

    task: Task
    numbers: Numbers
    batches: Callable[[int], Iterator[Any]]
    images: int
    names: Callable[[int], Sequence[str]]
    pictures: Pictures | None = None
    validation: Validation | None = None


def run(
    settings: config.Train, job: Job, state: TrainState, workdir: storage.Folder, rate: Callable[[int], float]
) -> TrainState:
    """Trains from ``state.step`` to the last step.

    Args:
      settings: length and rhythm.
      job: what is to be learnt.
      state: unreplicated.
      workdir: where checkpoints and TensorBoard files go; only the leading process writes there.
      rate: learning rate of a step, for the log.

    Returns:
      The last state, unreplicated.

    Raises:
      UserError: a loss or gradient was not finite once too often, a checkpoint cannot be written, or another process
        of the run was lost.
      Stopped: a signal came; the state is saved.
    """
    start = int(state.step)
    if settings.debug:
        devices, update = parallel.debug_step(job.task, settings.accumulate)
    else:
        devices = parallel.devices_for(settings.batch, settings.accumulate)
        update = parallel.train_step(job.task, devices, settings.accumulate)
    measure = parallel.measure_gradients(job.task, devices, settings.accumulate)
    numbers = job.numbers._replace(limit=settings.skip)
    replicated, pending = parallel.replicate(state, devices), deque[_Update]()
    watch = _Watch(settings, job, workdir)
    with (
        Display(settings, start) as display,
        Record(settings, job, workdir, start, rate, display) as record,
        Interrupt() as interrupt,
    ):
        for i, batch in zip(range(start, settings.steps), job.batches(start), strict=False):
            done = i + 1
            if settings.gradients_every and done % settings.gradients_every == 0:
                with parallel.together(record.saved):
                    products = measure(replicated, parallel.shard(batch, devices), numbers)
                    record.gradients(done, parallel.unreplicate(products))
            with parallel.together(record.saved), debug.nans(done) if settings.debug else contextlib.nullcontext():
                signalled = interrupt.signal is not None
                replicated, scalars = update(replicated, parallel.shard(batch, devices), numbers, signalled)
                interrupt.unsaved = True
                pending.append(_Update(done, scalars, batch))
                due = record.due(done)
                values = watch.look(pending, 0 if due else LAG)
                # All processes stop at one step: that whose sum over the devices says so.
                stop = interrupt.signal is not None if parallel.alone() else values.get("stop", 0) > 0
                if stop:
                    values = watch.look(pending, 0) or values
                display.advance()
                if due or stop:
                    record.write(done, values, partial(parallel.unreplicate, replicated), stop)
            if stop:
                number = interrupt.signal or signal.SIGTERM
                raise config.Stopped(
                    f"stopped by {name(number)} at step {done}, which is saved. The same command goes on.", number
                )
    return parallel.unreplicate(replicated)


class _Update(NamedTuple):
    """An update that the device may still be at.

    Attributes:
      done: updates with it.
      scalars: what it returns, on the devices.
      batch: its examples, for inspection.
    """

    done: int
    scalars: Mapping[str, Any]
    batch: Any


class _Watch:
    """Looks at what updates found, in their order, and stops where too many were not finite."""

    def __init__(self, settings: config.Train, job: Job, workdir: storage.Folder) -> None:
        self._limit, self._job, self._workdir = settings.skip, job, workdir
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)

    def look(self, pending: deque[_Update], left: int) -> dict[str, float]:
        """Waits until no more updates are left than said, and returns the last one's scalars; none where none ended."""
        values: dict[str, float] = {}
        while len(pending) > left:
            done, scalars, batch = pending.popleft()
            values = {key: float(parallel.first(value)) for key, value in scalars.items()}
            if values["in_a_row"] > 0:
                self._faulty(done, values, batch)
        return values

    def _faulty(self, done: int, values: Mapping[str, float], batch: Any) -> None:
        names = ", ".join(self._job.names(done - 1))
        found = f"{faults.culprit(values)} at step {done}, in a batch of {names}"
        if values["in_a_row"] <= self._limit:
            self._console.print(f"{found}: left out, the {values['skipped']:.0f}. so far.", markup=False)
            return
        process, processes = parallel.place()
        folder = self._workdir / faults.FOLDER / str(done)
        folder = folder / f"process_{process}" if processes > 1 else folder
        try:
            faults.dump(folder, batch, self._job.names(done - 1))
            kept = f"Its examples are in {folder}"
        except Exception as error:  # Each store's client has errors of its own.
            kept = f"Its examples could not be kept: {storage.reason(error)}"
        raise config.UserError(
            f"{found}. {kept}. Mend or remove what is wrong there, lower --optimizer.learning-rate in another "
            "--workdir, or leave single updates out: --train.skip 1."
        )


class Shown(Protocol):
    """Where people see how a run goes."""

    @property
    def rate(self) -> float:
        """Images a second over the last steps."""

    def say(self, line: str) -> None:
        """Prints a line."""

    def show(self, values: Mapping[str, float], step: int) -> None:
        """Shows the scalars of a step."""


class Record:
    """What a run leaves behind: checkpoints, TensorBoard's files, lines on the screen; all of the leading process."""

    def __init__(
        self,
        settings: config.Train,
        job: Job,
        workdir: storage.Folder,
        start: int,
        rate: Callable[[int], float],
        display: Shown,
    ) -> None:
        self._settings, self._job, self._workdir, self._start, self._rate = settings, job, workdir, start, rate
        self._saved, self._display = start, display

    def __enter__(self) -> "Record":
        self._stack = contextlib.ExitStack()
        self._checkpoints: Checkpoints | None = None
        if parallel.lead():
            from tensorboardX import SummaryWriter

            self._gradients = gradients.Record(self._workdir, self._start) if self._settings.gradients_every else None
            # That a scalar is not finite is told with step and term; the writer's own lines say neither.
            logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)
            self._checkpoints = self._stack.enter_context(Checkpoints(self._workdir, self._settings.keep))
            storage.EventFiles.register()
            self._writer = SummaryWriter(str(self._workdir / "tensorboard"), purge_step=self._start or None)
            self._stack.callback(self._writer.close)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def saved(self) -> int:
        """Step of the last checkpoint."""
        return self._saved

    def due(self, done: int) -> bool:
        """Whether there is something to write after this update."""
        s = self._settings
        rhythms = (s.log_every, s.save_every, s.validate_every, s.picture_every)
        return done == s.steps or any(n and done % n == 0 for n in rhythms)

    def write(self, done: int, values: Mapping[str, float], state: Callable[[], TrainState], stop: bool) -> None:
        """Writes what is due after an update, and saves where the run stops here.

        Args:
          done: updates so far.
          values: scalars of the last one.
          state: gives that after it, unreplicated; it is not asked for where scalars alone are due.
          stop: whether the run ends here, before its time.
        """
        s, last = self._settings, done == self._settings.steps
        validates = bool(self._job.validation and s.validate_every and (done % s.validate_every == 0 or last))
        state = cache(state)
        measured = self._validated(state(), done) if validates and not stop else {}
        saves = done % s.save_every == 0 or last or stop or bool(measured)
        if self._checkpoints is None:
            self._saved = done if saves else self._saved
            return
        if done % s.log_every == 0 or saves:
            shown = {name: value for name, value in values.items() if name not in HIDDEN}
            extra = {"learning_rate": float(self._rate(done - 1)), "images_per_second": self._display.rate}
            self._scalars("train", shown | extra, done)
            self._display.show(shown, done)
        if saves:
            best = next(iter(measured.values()), None)
            self._checkpoints.save(state(), best)
            self._saved = done
        self._checkpoints.check()
        draws = s.picture_every and (done % s.picture_every == 0 or last)
        if self._job.pictures and draws and not stop:
            for title, picture in self._job.pictures(state()).items():
                self._writer.add_image(title, picture, done, dataformats="HWC")

    def gradients(self, done: int, products: gradients.Products) -> None:
        """Writes what was measured of an update's gradients."""
        if self._checkpoints is not None and self._gradients is not None:
            row = gradients.row(done, products, self._job.numbers.weights)
            self._gradients.add(row)
            for title, value in gradients.scalars(row).items():
                self._writer.add_scalar(title, value, done)

    def _validated(self, state: TrainState, done: int) -> Mapping[str, float]:
        """How good a state is, measured by all processes."""
        assert self._job.validation is not None
        sums = parallel.total(self._job.validation.sums(state, *parallel.place()))
        measured = self._job.validation.values(sums)
        if self._checkpoints is not None:
            self._scalars("val", measured, done)
            self._display.say(f"step {done}: " + "  ".join(f"val {n} {v:.4f}" for n, v in measured.items()))
        return measured

    def _scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        for title, value in values.items():
            self._writer.add_scalar(f"{group}/{title}", value, step)


class Display:
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
            disable=not (self._console.is_terminal and parallel.lead()),
        )
        self._times: deque[float] = deque([time.monotonic()], maxlen=50)
        self._next_line = 0.0

    def __enter__(self) -> "Display":
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
        """Counts an update."""
        self._times.append(time.monotonic())
        self._progress.update(self._task, advance=1, rate=self.rate)

    def say(self, line: str) -> None:
        """Prints a line."""
        self._console.print(line, markup=False, highlight=False)

    def show(self, values: Mapping[str, float], step: int) -> None:
        """Shows the scalars of a step, on the bar or, now and then, as a line."""
        hidden = ("gradient_norm", "vanished", "overflow", *(("skipped",) if not values.get("skipped") else ()))

        def shown(name: str) -> bool:
            return name not in hidden and "/" not in name

        terms = "  ".join(f"{name} {value:.3f}" for name, value in values.items() if shown(name))
        self._progress.update(self._task, terms=terms)
        now = time.monotonic()
        if parallel.lead() and not self._console.is_terminal and (now >= self._next_line or step == self._steps):
            left = (self._steps - step) * self._batch / self.rate if len(self._times) > 1 else math.nan
            clock = f"{left / 60:.0f} min left" if math.isfinite(left) else "time left unknown"
            self._console.print(
                f"step {step}/{self._steps}  {terms}  {self.rate:.1f} images/s  {clock}", highlight=False
            )
            self._next_line = now + 10
