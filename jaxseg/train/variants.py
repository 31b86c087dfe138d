"""The loop around the step of several runs at once: they take turns, and those with the same batches share them."""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from jaxseg import config
from jaxseg.train import faults, parallel, storage
from jaxseg.train.interrupt import Interrupt, name
from jaxseg.train.loop import LAG, Display, Job, Record
from jaxseg.train.state import TrainState


class Variant(NamedTuple):
    """A run beside others of the same program.

    Attributes:
      title: for messages.
      settings: length and rhythm; the others' are the same.
      job: what is to be learnt; its task is that of the program.
      state: to go on from, unreplicated.
      workdir: where checkpoints and TensorBoard's files go.
      rate: learning rate of a step, for the log.
      source: what its batches depend on; runs with an equal one, at the same step, share them.
      told: is called whenever something was written, and where the run diverges; see `Told`.
    """

    title: str
    settings: config.Train
    job: Job
    state: TrainState
    workdir: storage.Folder
    rate: Callable[[int], float]
    source: Hashable
    told: "Told"


class Told(Protocol):
    """Is told how a run goes."""

    def __call__(self, done: int, values: Mapping[str, float], seconds: float, saved: bool, fault: str) -> None:
        """Takes what is new.

        Args:
          done: updates so far.
          values: scalars of the last one.
          seconds: this run's share of the time since the last call.
          saved: whether this state is saved.
          fault: what was not finite, where the run comes to its end for it; empty otherwise.
        """


def run(variants: Sequence[Variant], program: parallel.Variants) -> None:
    """Trains each run from its ``state.step`` to its last step.

    One whose loss or gradient is not finite once too often is left as it is, and the others go on.

    Args:
      variants: of one program, any number.
      program: their update.

    Raises:
      UserError: a checkpoint cannot be written.
      Stopped: a signal came; all states are saved.
    """
    first = min(int(v.state.step) for v in variants)
    settings = variants[0].settings
    everything = dataclasses.replace(settings, batch=settings.batch * len(variants))
    with contextlib.ExitStack() as stack:
        display = stack.enter_context(Display(everything, first))
        clock = _Clock(len(variants))
        members = [_Member(v, display, clock) for v in variants]
        for member in members:
            stack.enter_context(member.record)
        calls = [_Call(members[i : i + program.slots], program) for i in range(0, len(members), program.slots)]
        readers = {member.feed: member for member in members}
        feeds = {feed: reader.batches() for feed, reader in readers.items()}
        interrupt, done = stack.enter_context(Interrupt()), first
        while any(call.runs() for call in calls):
            wanted = {member.feed for member in members if member.runs}
            batches: dict[Hashable, Any] = {feed: next(feeds[feed]) for feed in wanted}
            for call in calls:
                if call.runs():
                    call.update(batches)
                    interrupt.unsaved = True
            number = interrupt.signal
            for call in calls:
                call.look(number is not None)
            display.advance()
            done = min((m.done for m in members if m.runs), default=max(m.done for m in members))
            if losses := _losses(members):
                display.show(losses, done)
            if number is not None:
                break
        if interrupt.signal is not None:
            reached = f"stopped by {name(interrupt.signal)} at step {done} of {settings.steps}"
            raise config.Stopped(f"{reached}, which is saved. The same command goes on.", interrupt.signal)


class _Clock:
    """Shares the time that passes among runs.

    Attributes:
      count: of runs.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self) -> float:
        return time.monotonic() / self.count


class _Member:
    """A run, and where it is.

    Attributes:
      variant: what it is.
      title: of it.
      record: what it leaves behind.
      done: updates so far.
      values: what the last one that was looked at found.
      diverged: whether it came to an end before its time.
      feed: what its batches depend on, and where they began.
    """

    def __init__(self, variant: Variant, display: Display, clock: _Clock) -> None:
        v = self.variant = variant
        self.title, self.done = v.title, int(v.state.step)
        self.record = Record(v.settings, v.job, v.workdir, self.done, v.rate, _Aside(display, v.title, clock.count))
        self.values: Mapping[str, float] = {}
        self.diverged = False
        self.feed = (v.source, self.done)
        self._display, self._clock, self._since = display, clock, clock()
        self._written = self.done

    @property
    def runs(self) -> bool:
        """Whether it is to be trained further."""
        return not self.diverged and self.done < self.variant.settings.steps

    def batches(self) -> Iterator[Any]:
        """From where it is."""
        return self.variant.job.batches(self.done)

    def due(self, stop: bool) -> bool:
        """Whether there is something to write after its last update, if there was one since it last wrote."""
        return not self.diverged and self.done > self._written and (stop or self.record.due(self.done))

    def found(self, done: int, values: Mapping[str, float]) -> None:
        """Takes what an update found."""
        if self.diverged:
            return
        self.values = values
        if values["in_a_row"] == 0:
            return
        fault, self.diverged = faults.culprit(values), values["in_a_row"] > self.variant.settings.skip
        self._display.say(f"{self.title}: {fault} at step {done}{': left out' if not self.diverged else ''}.")
        if self.diverged:
            self._tell(done, fault)

    def write(self, state: Callable[[], TrainState], stop: bool) -> None:
        """Writes what is due, or saves where the run stops here."""
        if not self.diverged:
            self.record.write(self.done, self.values, state, stop)
            self._written = self.done
            self._tell(self.done)

    def _tell(self, done: int, fault: str = "") -> None:
        now = self._clock()
        self.variant.told(done, self.values, now - self._since, self.record.saved() == done, fault)
        self._since = now


class _Call:
    """Runs that one call of the program updates."""

    def __init__(self, members: Sequence[_Member], program: parallel.Variants) -> None:
        self._members, self._program = members, program
        # Places that are left over repeat the last run; nobody looks at what comes of them.
        filled = [members[min(i, len(members) - 1)] for i in range(program.slots)]
        self._filled, self._pending = filled, deque[tuple[dict[int, int], Any]]()
        self._states = program.place([m.variant.state for m in filled])
        self._numbers = program.place([m.variant.job.numbers._replace(limit=m.variant.settings.skip) for m in filled])

    def runs(self) -> bool:
        """Whether one of them is to be trained further."""
        return any(member.runs for member in self._members)

    def update(self, batches: Mapping[Hashable, Any]) -> None:
        """Begins an update; a run that is at its end gets a batch of another's, and nobody looks at it."""
        running = [member for member in self._members if member.runs]
        spare = batches[running[0].feed]
        given = self._program.rows([batches[m.feed] if m.runs else spare for m in self._filled])
        self._states, scalars = self._program.update(self._states, given, self._numbers)
        for member in running:
            member.done += 1
        self._pending.append(({self._members.index(member): member.done for member in running}, scalars))

    def look(self, stop: bool) -> None:
        """Looks at what updates found, `LAG` later than they began unless something is due, and writes that."""
        due = [member for member in self._members if member.due(stop)]
        while len(self._pending) > (0 if due else LAG):
            steps, scalars = self._pending.popleft()
            table = self._program.host(scalars)
            for slot, done in steps.items():
                self._members[slot].found(done, {key: float(values[slot]) for key, values in table.items()})
        for member in due:
            member.write(partial(self._program.part, self._states, self._members.index(member)), stop)


class _Aside:
    """How one of several runs goes: what it says has its name, and its scalars are in TensorBoard alone."""

    def __init__(self, display: Display, title: str, count: int) -> None:
        self._display, self._title, self._count = display, title, count

    @property
    def rate(self) -> float:
        """Images a second of this run."""
        return self._display.rate / self._count

    def say(self, line: str) -> None:
        """Prints a line."""
        self._display.say(f"{self._title}: {line}")

    def show(self, values: Mapping[str, float], step: int) -> None:
        """Shows nothing."""


def _losses(members: Sequence[_Member]) -> dict[str, float]:
    """Lowest and highest loss of those that did not diverge."""
    losses = [m.values["loss"] for m in members if m.values and not m.diverged]
    return {"lowest loss": min(losses), "highest loss": max(losses)} if losses else {}
