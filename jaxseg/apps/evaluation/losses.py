"""What a network was trained with: the loss terms, and what their gradients were last, for the report."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp

from jaxseg import config
from jaxseg.apps.evaluation import report
from jaxseg.losses import total
from jaxseg.train import gradients, segmentation, storage

CONSTANTS = {
    "semantic": ("class_weight_power", "class_correction"),
    "attraction": ("attraction_margin",),
    "repulsion": ("repulsion_margin",),
    "center": ("alpha", "gamma", "normalize"),
}
"""The settings beside its weight that each of the paper's terms reads."""


def section(settings: config.Config, workdir: storage.Folder) -> report.Section:
    """Weight, schedule and function of each term; norms and cosines of gradients where training measured them.

    Args:
      settings: of the run.
      workdir: of the run.
    """
    text = ["The loss is the weighted sum of the terms' means."]
    if settings.losses.weighting == "uncertainty":
        text.append("Terms of a task are divided by its uncertainty, which was learnt with the network.")
    tables = [report.Table("", list(_terms(settings)))]
    measured: list[dict[str, Any]] = []
    try:
        measured = gradients.read(workdir)
    except config.UserError as error:
        text.append(str(error))
    if measured:
        text.append(
            "Gradients are of each term by itself, weighted as in the loss. On the encoder terms compete: those of a "
            "cosine below 0 pull it in opposite directions."
        )
        last = measured[-1]
        tables += [
            report.Table(f"Norm of the gradient in each part, step {last['step']}", list(_norms(last))),
            report.Table("Cosine between gradients on the encoder", list(_cosines(last))),
        ]
    return report.Section("Loss terms", text, tables)


def _terms(settings: config.Config) -> Iterator[dict[str, report.Cell]]:
    losses, clustering = settings.losses, settings.model.clustering
    schedules = {schedule.name: schedule.points for schedule in losses.schedules}
    # Only where they are is read; the numbers are in the config.
    numbers = total.Hyperparameters(jnp.ones(1), 0.0, 0.0, 0.0, 0.0)
    paper = segmentation.loss_terms(numbers, clustering, losses.normalize)
    rows = [
        (
            *(name, getattr(losses, name), _place(term), segmentation.TASKS[name]),
            _listed((constant, getattr(losses, constant)) for constant in CONSTANTS.get(name, ())),
        )
        for name, term in paper.items()
    ]
    rows += [(t.name, t.weight, t.function, t.task, _listed((*t.constants, *t.static))) for t in losses.terms]
    for name, weight, function, task, arguments in rows:
        points = ", ".join(f"{multiplier:g} at {fraction:.0%}" for fraction, multiplier in schedules.get(name, ()))
        row: dict[str, report.Cell] = {"term": name, "weight": f"{weight:g}", "schedule": points}
        row |= {"function": function, "arguments": arguments}
        if losses.weighting == "uncertainty":
            row["task"] = task
        yield row


def _listed(arguments: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in arguments)


def _place(term: Any) -> str:
    """Import path of a function, whatever of it is bound already."""
    function = term.func if isinstance(term, partial) else term
    return f"{function.__module__}:{function.__qualname__}"


def _norms(row: dict[str, Any]) -> Iterator[dict[str, report.Cell]]:
    for term, norms in row["norms"].items():
        yield {"term": term} | {part: _short(value) for part, value in norms.items()}


def _cosines(row: dict[str, Any]) -> Iterator[dict[str, report.Cell]]:
    """A triangle: each pair once."""
    columns = list(row["norms"])[1:]
    for term, cosines in row["cosines"].items():
        yield {"": term} | {other: _short(cosines[other]) if other in cosines else "" for other in columns}


def _short(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.3g}"
