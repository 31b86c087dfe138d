"""Where accuracy is lost: the sections of the evaluation's report."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg.apps.evaluation import charts, oracle, report, scores
from jaxseg.metrics import coco
from jaxseg.types import ClassList

BINS = np.linspace(0.0, 1.0, 11)
"""Limits of the scores that are looked at together."""

FIGURES = {"AP": "ap", "AP50": "ap50", "IoU": "iou"}
"""What the oracle study shows."""

CROWDS = (1, 6, 21, 51)
"""Fewest objects of the groups of images that AP is broken down by."""


class Breakdown:
    """Keeps the matches of each image."""

    def __init__(self, classes: ClassList) -> None:
        """Nothing counted yet."""
        self._classes = len(classes)
        self._images: list[coco.ImageMatches] = []

    def add(self, matches: coco.ImageMatches) -> None:
        """Counts one image."""
        self._images.append(matches)

    def calibration(self) -> dict[str, Any]:
        """How far scores are the chance of being right at IoU 0.5.

        Returns:
          ``edges``, and for each bin of scores ``predictions``, the mean ``score`` and share that is ``right``, null
          in an empty bin; ``error``, the mean distance of the two, weighted by the bins' predictions (ECE).
        """
        score = np.concatenate([np.zeros(0), *(m.score[~m.by_class.ignored[0]] for m in self._images)])
        right = np.concatenate(
            [np.zeros(0, bool), *(m.by_class.matched[0][~m.by_class.ignored[0]] for m in self._images)]
        )
        place = np.clip(np.digitize(score, BINS) - 1, 0, len(BINS) - 2)
        number = np.bincount(place, minlength=len(BINS) - 1)
        with np.errstate(invalid="ignore"):
            mean, share = (np.bincount(place, v, minlength=len(number)) / number for v in (score, right))
        known = number > 0
        error = float(np.abs(mean - share)[known] @ number[known] / number.sum()) if known.any() else None
        return {
            "edges": BINS.round(9).tolist(),
            "predictions": number.tolist(),
            "score": [scores.number(v) for v in mean],
            "right": [scores.number(v) for v in share],
            "error": error,
        }

    def by_count(self) -> list[tuple[str, int, dict[str, Any]]]:
        """COCO AP of the images with few and with many objects: label, images, figures."""
        rows = []
        for low, following in itertools.pairwise((*CROWDS, math.inf)):
            chosen = [m for m in self._images if low <= len(m.truth_class) < following]
            label = f"{low:g} or more" if math.isinf(following) else f"{low:g}-{following - 1:g}"
            rows.append((label, len(chosen), coco.AveragePrecision.of(*chosen).compute(self._classes)))
        return rows

    def section(self, metrics: Mapping[str, Any], score: scores.Score) -> report.Section:
        """AP by size and by count of objects, and the calibration of the scores.

        Args:
          metrics: what metrics.json holds.
          score: sums of the network.
        """
        crowds = self.by_count()
        found = metrics["calibration"]
        objects = [(low, high) for low, high in scores.AREAS.values()]
        names = [f"{name} ({_area(*limits)})" for name, limits in zip(scores.AREAS, objects, strict=True)]
        drawn = [
            charts.bars(
                "AP by the size of the object",
                "percent",
                names,
                {"AP": [metrics[f"ap_{name}"] for name in scores.AREAS]},
                [sum(len(image.truth_class) for image in score.areas[name].images) for name in scores.AREAS],
            ),
            charts.bars(
                "AP by the number of objects in the image",
                "percent",
                [label for label, _, _ in crowds],
                {name: [scores.number(v[key]) for _, _, v in crowds] for name, key in (("AP", "ap"), ("AP50", "ap50"))},
                [images for _, images, _ in crowds],
            ),
            charts.calibration(
                "Calibration of the scores",
                found["edges"],
                [np.nan if v is None else v for v in found["right"]],
                [np.nan if v is None else v for v in found["score"]],
                found["predictions"],
            ),
        ]
        error = "-" if found["error"] is None else f"{100 * found['error']:.1f}"
        text = (
            "COCO's AP, on the objects of one size (their number below the bars) or in the images of one number of "
            "objects (images below the bars). A score is calibrated where its share of right predictions lies on the "
            f"diagonal: on average it is {error} points off it. Gray bars: predictions."
        )
        return report.Section("Sizes, numbers, scores", [text], charts=drawn)


def _area(low: float, high: float) -> str:
    if np.isinf(high):
        return f"over {low**0.5:.0f}²"
    return f"{low**0.5:.0f}² to {high**0.5:.0f}²" if low else f"to {high**0.5:.0f}²"


def curves(score: scores.Score, colors: Sequence[str]) -> report.Section:
    """Precision-recall curves of the things, at two IoU thresholds.

    Args:
      score: sums of the network.
      colors: of each class, background first.
    """
    things = {i: name for i, name in score.classes.things.items() if score.truths(i)}
    drawn = []
    for threshold in (0.5, 0.75):
        series = {}
        for i, name in things.items():
            curve = score.precision.curve(i, threshold)
            if curve.recall.size:
                series[name] = (np.append(0.0, curve.recall), np.append(curve.precision[0], curve.precision))
        chosen = [colors[i] for i, name in things.items() if name in series] if score.classes.colors else ()
        title = f"Precision and recall at IoU {threshold:g}"
        unit = (0.0, 1.0)
        drawn.append(charts.lines(title, "recall", "precision", series, colors=chosen, x_range=unit, y_range=unit))
    text = "As the score falls from left to right. A curve ends at the share of the objects that is found at all."
    return report.Section("Precision and recall", [text], charts=drawn)


def confusion(score: scores.Score) -> report.Section:
    """Which classes are taken for which, in pixels.

    Args:
      score: sums of the network.
    """
    counts = score.confusion.counts
    total = counts.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        shares = np.where(total > 0, counts / total, np.nan)
    drawn = charts.matrix("Pixels by class", "truth", "prediction", score.classes.names, shares)
    return report.Section(
        "Confusion", ["Percent of the pixels of each true class; what is ignored is left out."], charts=[drawn]
    )


def lost(study: Mapping[str, Mapping[str, Any]]) -> report.Section:
    """The oracle study: what each part costs.

    Args:
      study: figures of each variant, by name; empty where no image could be studied.
    """
    if not study:
        return report.Section("What is lost where", ["No image's grid was small enough for the study."])
    base = study["network"]
    rows: list[Mapping[str, report.Cell]] = []
    for name, row in study.items():
        gains = {f"{c} gained": _difference(row[k], base[k]) for c, k in FIGURES.items()}
        figures = {c: scores.percent(row[k]) for c, k in (("AP", "ap"), ("AP50", "ap50"), ("IoU", "iou"))}
        rows.append({"true instead of predicted": name, **figures, **gains})
    parts = [name for name in study if name in (*oracle.HEADS, oracle.UPSAMPLING)]
    shown = {c: [study[name][k] for name in ("network", *parts)] for c, k in (("AP", "ap"), ("AP50", "ap50"))}
    short = {oracle.UPSAMPLING: "upsampling"}
    drawn = charts.bars("With one part true", "percent", ["network", *(short.get(p, p) for p in parts)], shown)
    text = (
        "The same images again, with one part at a time replaced by the truth. What a part gains is what its mistakes "
        "cost, given the mistakes of the others. Parts help one another: gains do not add up."
    )
    return report.Section("What is lost where", [text], [report.Table("", rows)], [drawn])


def _difference(value: float | None, base: float | None) -> str:
    return "-" if value is None or base is None else f"{100 * (value - base):+.1f}"
