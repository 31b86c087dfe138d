"""The runs of a sweep: what varies, what each is called, and which of them one program trains."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxseg import config
from jaxseg.apps import files

TRACED = frozenset(
    {
        *(f"losses.{f.name}" for f in dataclasses.fields(config.Losses) if f.type in (float, "float")),
        *(f"optimizer.{name}" for name in ("learning_rate", "weight_decay", "clip", "encoder_rate", "average")),
        *(f"grouping.{name}" for name in ("center", "assignment", "duplicate")),
        "superpixels.compactness",
        "targets.radius",
        "train.skip",
    }
)
"""Settings that are traced numbers of training or inference."""

HOST = ("name", "seed", "data.augment.")
"""Settings, or the beginning of their names, that no program depends on."""

FIXED = ("seed", "name", "train.debug", "train.deterministic")
"""Settings that cannot be varied."""


class Planned(NamedTuple):
    """A run of a sweep.

    Attributes:
      title: what it is called, and its folder.
      values: varied setting to its value.
      seed: of the run.
      settings: its config.
    """

    title: str
    values: Mapping[str, Any]
    seed: int
    settings: config.Config


def plan(
    base: config.Config,
    vary: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    override: Callable[[config.Config, Sequence[str]], config.Config],
) -> list[Planned]:
    """Every combination of the values, each with every seed; seeds vary fastest.

    Args:
      base: what all runs have in common.
      vary: dotted name of a setting to its values, as a command line gives them.
      seeds: of the runs.
      override: replaces settings by the words of a command line.

    Raises:
      UserError: an unknown setting or one that cannot be varied, a value that it cannot have, or two runs that are one.
    """
    known = config.flatten(base)
    for name in vary:
        _require_name(name, base)
    runs = []
    for texts in itertools.product(*vary.values()):
        given = [w for name, text in zip(vary, texts, strict=True) for w in words(name, text, known.get(name))]
        settings = override(base, given)
        found = config.flatten(settings)
        values = {name: found[name] for name in vary}
        for seed in seeds:
            title = _title(values, seed)
            runs.append(
                Planned(title, values, seed, dataclasses.replace(settings, seed=seed, name=f"{base.name} {title}"))
            )
    titles = [run.title for run in runs]
    twice = next((title for title in titles if titles.count(title) > 1), None)
    if twice:
        raise config.UserError(f"Two runs would be {twice}. Give each value and each seed once.")
    return runs


def _require_name(name: str, base: config.Config) -> None:
    """Loss terms and schedules are known by their names, which runs have in common.

    Raises:
      UserError: the place of one is given, or its name is to be varied.
    """
    option = name.replace("_", "-")
    if option == "help":
        raise config.UserError("--vary help: it is no setting. See jaxseg sweep --help.")
    for named, place in config.places(base).items():
        if name.startswith(f"{place}."):
            last = name.removeprefix(f"{place}.")
            raise config.UserError(f"--vary {option}: give its name, not its place: {named}.{last}.")
        if name == f"{named}.name":
            raise config.UserError(f"--vary {option}: it cannot be varied. Give the name that the config has.")


def words(name: str, text: str, before: Any) -> list[str]:
    """A setting as words of a command line; a value of several parts has blanks between them.

    Raises:
      UserError: it cannot be varied, or is neither true nor false and has to be.
    """
    option = name.replace("_", "-")
    if name in FIXED:
        remedy = "Give --seeds instead." if name == "seed" else "Give it to the whole sweep."
        raise config.UserError(f"--vary {option}: it cannot be varied. {remedy}")
    if not isinstance(before, bool):
        return [f"--{option}", *text.split()]
    if text.lower() not in ("true", "false"):
        raise config.UserError(f"--vary {option}: it is true or false, not {text}.")
    section, _, last = option.rpartition(".")
    return [f"--{option}" if text.lower() == "true" else f"--{section}.no-{last}"]


def _title(values: Mapping[str, Any], seed: int) -> str:
    """Each setting with its value, and the seed."""
    parts = [f"{short(name, values)}={files.as_name(shown(value))}" for name, value in values.items()]
    return "_".join([*parts, f"seed={seed}"])


def short(name: str, names: Iterable[str]) -> str:
    """The last part of a setting's name, or all of it where that is another one's too, or the run's seed."""
    last = ["seed", *(other.rpartition(".")[2] for other in names)]
    own = name.rpartition(".")[2]
    return own if last.count(own) == 1 else name


def shown(value: Any) -> str:
    """A value as titles and tables show it."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "x".join(map(shown, value)) if isinstance(value, tuple) else str(value)


def _fixed(name: str, value: Any) -> Any:
    """What a setting fixes: of loss terms and schedules, which numbers there are, but not what they are."""
    last = name.rpartition(".")[2]
    if name.startswith("losses.terms."):
        if last == "weight":
            return None
        return [argument for argument, _ in value] if last == "constants" else value
    return len(value) if name.startswith("losses.schedules.") and last == "points" else value


def program(settings: config.Config) -> str:
    """What fixes the compiled programs of a run: runs with an equal one share them.

    Whatever is not known to be traced, or to concern the host alone, counts: at worst there is one compilation more.
    """
    flat = {n: _fixed(n, v) for n, v in config.flatten(settings).items() if n not in TRACED and not n.startswith(HOST)}
    optimizer = settings.optimizer
    parts = {"averages": optimizer.average > 0, "scales the encoder's rate": optimizer.encoder_rate != 1}
    return repr(sorted((flat | parts).items()))
