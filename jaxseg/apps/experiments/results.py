"""What came of a sweep: mean and spread over the seeds, on screen, in sweep.json and in sweep.html."""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxseg import config
from jaxseg.apps import files, model
from jaxseg.apps.evaluation import charts, report, scores
from jaxseg.apps.experiments import plan
from jaxseg.apps.tasks import terms
from jaxseg.train import storage

if TYPE_CHECKING:
    from jaxseg.apps.experiments.sweep import Run

FILE, PAGE = "sweep.json", "sweep.html"

FIGURES = {"AP": "ap", "AP50": "ap50", "IoU": "iou", "PQ": "pq"}
"""What is shown, and its name in metrics.json."""

SERIES = 8
"""Most lines of a plot; with more combinations of the other settings, all of them are one."""


def require_same(workdir: storage.Folder, base: config.Config, planned: Sequence[plan.Planned]) -> None:
    """Refuses a folder that holds a run or another sweep; other values and seeds of the same settings may be added.

    Raises:
      UserError: it does, or its sweep.json is damaged.
    """
    if (workdir / model.CONFIG).is_file():
        raise config.UserError(f"{workdir} holds a run, not a sweep. Give another --workdir.")
    file = workdir / FILE
    if not file.is_file():
        return
    try:
        held = json.loads(file.read_bytes().decode(errors="replace"))
        before, varied = config.from_json(json.dumps(held["base"]), str(file)), list(held["vary"])
    except (ValueError, KeyError, TypeError) as error:
        raise config.UserError(f"{file} is damaged. Remove it: it is written again.") from error
    mine = list(planned[0].values)
    if sorted(varied) != sorted(mine):
        names = [", ".join(some) or "seeds alone" for some in (varied, mine)]
        raise config.UserError(f"{workdir} holds a sweep of {names[0]}, not of {names[1]}. Give another --workdir.")
    changed = config.differences(before, base)
    odd = [name for name, both in changed.items() if config.changes_meaning(name) and not terms.moved(*both)]
    odd = sorted(name for name in odd if name not in {*mine, "seed"})
    if odd:
        raise config.UserError(
            f"{workdir} holds another sweep: {', '.join(odd)} differ. Give those settings again, or another --workdir."
        )


def write(workdir: storage.Folder, base: config.Config, runs: "Sequence[Run]", split: str) -> dict[str, Any]:
    """Writes sweep.json and sweep.html, of what is known so far; returns what the former holds."""
    found = collected(base, runs, split)
    files.write_json(workdir / FILE, found)
    _report(workdir / PAGE, found, {run.planned.title: run.known["curve"] for run in runs})
    return found


def collected(base: config.Config, runs: "Sequence[Run]", split: str) -> dict[str, Any]:
    """What sweep.json holds: every run, and mean and standard deviation over the seeds of each setting."""
    rows = [_row(run) for run in runs]
    settings = []
    for values in _unique([row["values"] for row in rows]):
        some = [row for row in rows if row["values"] == values]
        settings.append({"values": values, **_summary(some)})
    vary = {name: _unique([row["values"][name] for row in rows]) for name in rows[0]["values"]}
    return {
        "name": base.name,
        "split": split,
        "vary": vary,
        "seeds": _unique([row["seed"] for row in rows]),
        "settings": settings,
        "runs": rows,
        "base": json.loads(config.to_json(base)),
    }


def _row(run: "Run") -> dict[str, Any]:
    known = run.known
    state = "diverged" if known["diverged"] else "finished" if run.measured else "unfinished"
    return {
        "folder": run.planned.title,
        "values": dict(run.planned.values),
        "seed": run.planned.seed,
        "state": state,
        "step": known["step"],
        "steps": run.settings.train.steps,
        "diverged": known["diverged"],
        "figures": known["figures"] if state == "finished" else None,
        "loss": known["curve"]["loss"][-1] if known["curve"]["loss"] else None,
        "seconds": round(known["seconds"], 2),
        "measuring": round(known["measuring"], 2),
    }


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread of what was measured."""
    measured = [row["figures"] for row in rows if row["figures"]]
    figures = {}
    for name in FIGURES.values():
        values = [some[name] for some in measured if some[name] is not None]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        figures[name] = {"mean": statistics.fmean(values) if values else None, "deviation": deviation}
    return {"n": len(measured), "figures": figures, "note": _note(rows)}


def _note(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which runs of a setting diverged."""
    return ", ".join(
        f"seed {row['seed']} diverged at step {row['diverged']['step']} ({row['diverged']['reason']})"
        for row in rows
        if row["diverged"]
    )


def _unique(values: Sequence[Any]) -> list[Any]:
    """Each value once, in the order of their first appearance."""
    kept: list[Any] = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return kept


def line(figures: Mapping[str, float | None]) -> str:
    """The figures of a run in a line."""
    return "  ".join(f"{title} {scores.percent(figures[name])}" for title, name in FIGURES.items())


def _percent(figure: Mapping[str, float | None]) -> str:
    """Mean and standard deviation, in percent."""
    mean, deviation = figure["mean"], figure["deviation"]
    return scores.percent(mean) + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def _table(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a setting, as tables show it."""
    return [
        {
            **{plan.short(name, row["values"]): plan.shown(value) for name, value in row["values"].items()},
            **({} if row["values"] else {"setting": "as configured"}),
            "n": row["n"],
            **{title: _percent(row["figures"][name]) for title, name in FIGURES.items()},
        }
        for row in found["settings"]
    ]


def _missing(found: Mapping[str, Any]) -> list[str]:
    """Lines on the runs without figures."""
    lines = [f"{_setting(row['values'])}: {row['note']}." for row in found["settings"] if row["note"]]
    unfinished = sum(row["state"] == "unfinished" for row in found["runs"])
    return [*lines, *([f"Unfinished runs: {unfinished}. The same command goes on."] if unfinished else [])]


def show(found: Mapping[str, Any]) -> None:
    """Prints the table."""
    rows = _table(found)
    console = Console(soft_wrap=True)
    table = Table(title=f"{found['name']}: {found['split']}, percent, mean ± standard deviation over seeds")
    for name in rows[0]:
        table.add_column(name, justify="right" if name in ("n", *FIGURES) else "left")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)
    for missing in _missing(found):
        console.print(missing, markup=False, highlight=False)


NOTES = (
    "± is the standard deviation over the seeds, of n - 1; n are the runs with figures. A seed decides the initial "
    "parameters, the order of the images and their augmentation.",
    "A difference of two means is told from chance only above about 2 sqrt(2 / n) times the ±: 1.6 times it with three "
    "seeds, once with eight. The ± of few seeds is itself rough: give more.",
    "Losses with other weights or constants are not comparable; figures are.",
)


def _report(path: storage.Folder, found: Mapping[str, Any], curves: Mapping[str, Mapping[str, Any]]) -> None:
    known = [row for row in found["settings"] if row["figures"]["ap"]["mean"] is not None]
    best = max(known, key=lambda row: row["figures"]["ap"]["mean"], default=None)
    summary: list[tuple[str, Any]] = [("runs", len(found["runs"])), ("seeds", len(found["seeds"]))]
    if best:
        summary += [("highest mean AP", _percent(best["figures"]["ap"])), ("with", _setting(best["values"]))]
    sections = [report.Section("Settings", _missing(found), [report.Table("", _table(found))])]
    sections += [_plots(name, found) for name, values in found["vary"].items() if len(values) > 1]
    sections += [_curves(found, curves), report.Section("Runs", [], [report.Table("", _runs(found))])]
    report.write(path, title=f"{found['name']}: a sweep", summary=summary, sections=sections, notes=NOTES)


def _setting(values: Mapping[str, Any]) -> str:
    """Values in a line."""
    parts = (f"{plan.short(name, values)} {plan.shown(value)}" for name, value in values.items())
    return ", ".join(parts) or "as configured"


def _legend(values: Mapping[str, Any]) -> str:
    """The same for a legend, which is narrow: of several settings, the values alone."""
    return _setting(values) if len(values) < 2 else ", ".join(plan.shown(value) for value in values.values())


def _order(names: Mapping[str, Any]) -> str:
    """What the values of a legend are, where it does not say so itself."""
    return f" The legend has the values of {', '.join(names)}, in this order." if len(names) > 1 else ""


def _plots(name: str, found: Mapping[str, Any]) -> report.Section:
    """The figures by the values of one setting; a line for each combination of the others."""
    values = found["vary"][name]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    order = sorted(values) if numeric else values
    others = _unique([_without(row["values"], name) for row in found["runs"]])
    pooled = len(others) > SERIES
    drawn = []
    for title, figure in FIGURES.items():
        series: dict[str, list[list[float]]] = {}
        for other in [None] if pooled else others:
            rows = [r for r in found["runs"] if r["figures"] and other in (None, _without(r["values"], name))]
            series[_legend(other or {})] = [
                [
                    100 * r["figures"][figure]
                    for r in rows
                    if r["values"][name] == v and r["figures"][figure] is not None
                ]
                for v in order
            ]
        shown = order if numeric else [plan.shown(v) for v in order]
        drawn.append(charts.spread(f"{title} by {name}", name, "percent", series, shown))
    text = "A dot is a run; the line joins the means over the seeds, and reaches one standard deviation to either side."
    text += _order(others[0])
    more = ["All values of the other settings are taken together: they are too many for a line each."] if pooled else []
    return report.Section(name, [text, *more], [], drawn)


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in values.items() if other != name}


def _curves(found: Mapping[str, Any], curves: Mapping[str, Mapping[str, Any]]) -> report.Section:
    """The loss of each setting, averaged over its seeds."""
    series: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for row in found["settings"]:
        some = [curves[r["folder"]] for r in found["runs"] if r["values"] == row["values"]]
        by_step: dict[int, list[float]] = {}
        for curve in some:
            for step, loss in zip(curve["step"], curve["loss"], strict=True):
                by_step.setdefault(step, []).append(loss)
        if by_step:
            steps = sorted(by_step)
            series[_legend(row["values"])] = (np.array(steps), np.array([np.mean(by_step[s]) for s in steps]))
    if not series:
        return report.Section("Learning curves")
    text = [f"The loss at the logged steps, the mean over the seeds.{_order(found['vary'])}"]
    return report.Section("Learning curves", text, [], [charts.lines("Loss", "step", "loss", series)])


def _runs(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            **{plan.short(name, row["values"]): plan.shown(value) for name, value in row["values"].items()},
            "seed": row["seed"],
            **{t: scores.percent(row["figures"][n]) if row["figures"] else "-" for t, n in FIGURES.items()},
            "last loss": row["loss"],
            "seconds": round(row["seconds"]),
            "state": f"diverged at step {row['diverged']['step']}: {row['diverged']['reason']}"
            if row["diverged"]
            else f"{row['state']}, step {row['step']}",
        }
        for row in found["runs"]
    ]
