"""Training and measuring the runs of a sweep; each is an ordinary run's folder, and the same command goes on."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from jaxseg import config
from jaxseg.apps import files, model, train
from jaxseg.apps.evaluation import scores
from jaxseg.apps.experiments import plan, results
from jaxseg.apps.tasks import segmentation, start, terms
from jaxseg.data import Label
from jaxseg.metrics.counts import Truth
from jaxseg.train import parallel, state, storage, variants
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.interrupt import Interrupt

RESULT = "result.json"
"""Where the folder of a run says how far it is and how good."""

SPLIT = "val"
"""What runs are measured on."""


@dataclass
class Run:
    """A run of the sweep, and what is known of it.

    Attributes:
      planned: what it is.
      settings: its config, resolved.
      folder: its own.
      dataset: what it learns from.
      latest: step of its newest checkpoint when the command began; 0 where there was none.
      known: what its result.json holds; all of it is for that checkpoint, or the later one of this command.
    """

    planned: plan.Planned
    settings: config.Config
    folder: storage.Folder
    dataset: Any
    latest: int
    known: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = {"step": 0, "diverged": None, "seconds": 0.0, "measuring": 0.0, "figures": None}
        self.known["curve"] = {"step": [], "loss": []}
        file = self.folder / RESULT
        if file.is_file():
            try:
                found = json.loads(file.read_bytes().decode(errors="replace"))
                if len(found["curve"]["step"]) != len(found["curve"]["loss"]):
                    raise ValueError("a loss has no step")
                self.known |= found
                # One that diverged is not trained again, so that what it came to stands.
                if not self.known["diverged"]:
                    self._trust(self.latest)
            except (ValueError, TypeError, KeyError) as error:
                raise config.UserError(f"{file} is damaged. Remove it: the run is measured again.") from error

    def _trust(self, step: int) -> None:
        """Forgets what is of a later state than the newest that was saved: the command was killed before it was."""
        if step != self.known["step"]:
            kept = sum(s <= step for s in self.known["curve"]["step"])
            curve = {name: values[:kept] for name, values in self.known["curve"].items()}
            self.known |= {"step": step, "curve": curve, "figures": None}

    @property
    def ended(self) -> bool:
        """Whether nothing is left to be trained."""
        return self.known["diverged"] is not None or self.known["step"] == self.settings.train.steps

    @property
    def measured(self) -> bool:
        """Whether its figures are those of its last state, measured as now; of one that diverged there are none."""
        if self.known["diverged"]:
            return True
        return self.ended and bool(self.known["figures"]) and self.known.get("measure") == self.measure

    @cached_property
    def measure(self) -> dict[str, Any]:
        """What figures depend on beside the state: grouping, and the images they are measured on."""
        from jaxseg.data import check

        images = check.content({SPLIT: self.dataset.records[SPLIT]})
        return {"grouping": dataclasses.asdict(self.settings.grouping), "images": images}

    def compare(self, before: config.Run | None, console: Console) -> None:
        """Compares with what the folder holds: it counts as this run, whether or not it is trained further.

        Args:
          before: config of what was saved; None where nothing was.
          console: where changed settings are listed.

        Raises:
          UserError: settings, loss terms or training images changed since.
        """
        if before is None and self.known["diverged"]:
            before = model.read_run(self.folder)
        if before is not None:
            train.compare(before, self.settings, self.folder, console)
            segmentation.frequencies(self.folder, self.dataset, True)

    def begin(self, network: Any, update: Any) -> state.TrainState:
        """The state to go on from."""
        terms.keep(self.settings.losses, self.folder)
        files.write_text(self.folder / model.CONFIG, config.to_json(self.settings))
        if self.latest:
            begin = model.restored(network, self.settings, self.folder, mend=True)
        else:
            begin = model.begin(network, self.settings, update)
            if self.settings.model.encoder_weights:
                begin, told = start.start(begin, self.settings.model)
                start.write(self.folder, told)
        self._trust(int(begin.step))
        return jax.tree.map(np.asarray, begin)

    def told(self, done: int, values: Mapping[str, float], seconds: float, saved: bool, fault: str) -> None:
        """Keeps what training tells; stores it with each checkpoint, and where the run comes to its end."""
        self.known["seconds"] += seconds
        if fault:
            self.known["diverged"] = {"step": done, "reason": fault}
        else:
            self.known["step"] = done
            # An update that was left out has no loss; NaN would be no JSON.
            if math.isfinite(values["loss"]):
                self.known["curve"]["step"].append(done)
                self.known["curve"]["loss"].append(values["loss"])
        if saved or fault:
            self.write()

    def write(self) -> None:
        """Stores what is known."""
        files.write_json(self.folder / RESULT, self.known)


def sweep(
    base: config.Config, planned: Sequence[plan.Planned], workdir: storage.Folder, together: int = 0
) -> dict[str, Any]:
    """Trains and measures every run, and writes sweep.json and sweep.html; goes on where the folder holds this sweep.

    Args:
      base: what all runs have in common.
      planned: the runs.
      workdir: holds a folder for each of them.
      together: runs that a device computes at once; 0 chooses, see `parallel.Variants`.

    Returns:
      What sweep.json holds.

    Raises:
      UserError: the folder cannot be written or holds something else, or data or config are unusable.
      Stopped: a signal came; what was trained is saved.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if parallel.managed() or base.train.debug:
        raise config.UserError("A sweep is one process, and not for debugging. Train single runs with train.py.")
    if any(run.settings.train.gradients_every for run in planned):
        raise config.UserError(
            "A sweep measures no gradients. Leave --train.gradients-every to single runs of train.py."
        )
    files.require_writable(workdir)
    results.require_same(workdir, base, planned)
    runs = _opened(planned, workdir, console)
    results.write(workdir, base, runs, SPLIT)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(plan.program(run.settings), []).append(run)
    for group in groups.values():
        for _ in _trained(group, together, console):
            _measure(group, console)
            results.write(workdir, base, runs, SPLIT)
    found = results.write(workdir, base, runs, SPLIT)
    results.show(found)
    return found


def _opened(planned: Sequence[plan.Planned], workdir: storage.Folder, console: Console) -> list[Run]:
    """The runs with their data, which is opened once for all that have the same.

    Raises:
      UserError: data or config are unusable, or not those of what a folder holds.
    """
    layouts: dict[config.Data, Any] = {}
    datasets: dict[Any, Any] = {}
    runs = []
    for one in planned:
        train.require_encoder(one.settings)
        terms.require(one.settings)
        folder = workdir / one.title
        before = train.stored(folder)
        if one.settings.data not in layouts:
            layouts[one.settings.data] = segmentation.resolve(one.settings.data)
        data, layout = layouts[one.settings.data]
        weights = start.resolved(one.settings.model, before.model if before else None)
        assert isinstance(weights, config.Model)
        losses = terms.resolved(one.settings.losses)
        settings = dataclasses.replace(one.settings, data=train.absolute(data), model=weights, losses=losses)
        terms.require(settings)
        key = (settings.data, settings.targets.max_instances, settings.model.size)
        if key not in datasets:
            datasets[key] = segmentation.opened(settings, layout)
            datasets[key].split(SPLIT, full=True)
        run = Run(one, settings, folder, datasets[key], _latest(folder) if before else 0)
        run.compare(before, console)
        runs.append(run)
    return runs


def _latest(folder: storage.Folder) -> int:
    """Step of the newest checkpoint; there is one."""
    with Checkpoints(folder, read_only=True) as checkpoints:
        return checkpoints.latest() or 0


def _trained(group: Sequence[Run], together: int, console: Console) -> Iterator[None]:
    """Trains the runs of one program, those of a seed after those of another; stops after each part."""
    waiting = [run for run in group if not run.ended]
    if not waiting:
        yield
        return
    first = waiting[0].settings
    network = model.network(first)
    task = segmentation.recipe(first, network)
    program = parallel.Variants(task, len(waiting), together, first.train.accumulate)
    shape = jax.jit(state.schedule(dataclasses.replace(first.optimizer, learning_rate=1.0), first.train.steps))
    planned = list(parts(waiting, program.slots))
    for i, part in enumerate(planned):
        chosen = [_variant(run, network, task.update, shape) for run in part]
        console.print(
            f"part {i + 1} of {len(planned)}: {len(part)} runs, {program.slots} at once, "
            f"from step {min(int(v.state.step) for v in chosen)} to {first.train.steps}",
            markup=False,
        )
        variants.run(chosen, program)
        yield


def _variant(run: Run, network: Any, update: Any, shape: Callable[[int], Any]) -> variants.Variant:
    """A run as training takes it, at the step that it has reached."""
    begin = run.begin(network, update)
    return variants.Variant(
        title=run.planned.title,
        settings=run.settings.train,
        job=segmentation.job_of(run.settings, run.dataset, run.folder, run.latest > 0, network),
        state=begin,
        workdir=run.folder,
        rate=partial(_rate, run.settings.optimizer.learning_rate, shape),
        source=_source(run),
        told=run.told,
    )


def _rate(peak: float, shape: Callable[[int], Any], step: int) -> float:
    """The learning rate of a step."""
    return peak * float(shape(step))


def _source(run: Run) -> tuple[int, config.Data]:
    """What the batches of a run depend on."""
    return run.settings.seed, run.settings.data


def parts(runs: Iterable[Run], slots: int) -> Iterator[list[Run]]:
    """Runs that are trained beside each other: those with the same batches, of as few seeds as fill every call."""
    by_source: dict[Any, list[Run]] = {}
    for run in runs:
        by_source.setdefault(_source(run), []).append(run)
    part: list[Run] = []
    for some in by_source.values():
        part += some
        if len(part) % slots == 0:
            yield part
            part = []
    if part:
        yield part


def _measure(group: Sequence[Run], console: Console) -> None:
    """Measures the runs that were trained and have no figures yet."""
    waiting = [run for run in group if run.ended and not run.measured]
    by_data: dict[int, list[Run]] = {}
    for run in waiting:
        by_data.setdefault(id(run.dataset), []).append(run)
    for some in by_data.values():
        begun = time.monotonic()
        models = [model.load(run.folder, run.settings) for run in some]
        with Interrupt("while runs were measured, which are all saved; the same command goes on"):
            sums = _scores(models, some[0].dataset.split(SPLIT, full=True))
        for run, score in zip(some, sums, strict=True):
            metrics = score.metrics()
            run.known["figures"] = {name: metrics[name] for name in results.FIGURES.values()}
            run.known["measure"] = run.measure
            run.known["measuring"] = (time.monotonic() - begun) / len(some)
            run.write()
            console.print(f"{run.planned.title}: {results.line(run.known['figures'])}", markup=False)


def _scores(models: Sequence[model.Model], source: Any) -> list[scores.Score]:
    """What networks of one program find in each example, which is read once."""
    from jaxseg.data import pipeline

    rule, classes = scores.rule_of(models[0].settings.data.builder), models[0].classes
    sums = [scores.Score(classes, rule) for _ in models]
    for example in track(pipeline.val_examples(source), "measure", len(source), console=Console(stderr=True)):
        label = example.full or Label(example.semantic, example.instance)
        truth, size = Truth.of(label.semantic, label.instance, classes), label.semantic.shape
        for trained, score in zip(models, sums, strict=True):
            found = jax.device_get(trained(example.image))
            score.add(scores.counts_of(found, truth, size, classes), int(found.lost))
    return sums
