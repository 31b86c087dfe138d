"""Every figure of an evaluation, as sums over images: a network's, or those of one variant of the oracle study."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxseg.data import Label
from jaxseg.metrics import Confusion, Counts, InstanceIoU, PanopticQuality, Truth, cityscapes, coco
from jaxseg.metrics.coco import AveragePrecision, ImageMatches
from jaxseg.types import ClassList, Segmentation

AREAS: Mapping[str, tuple[float, float]] = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}
"""COCO's areas of objects, pixels."""

RULES = {
    "cityscapes": "Cityscapes' own: thresholds are strict, objects under 100 pixels and groups are left out",
    "coco": "COCO's over all areas, with as many detections an image as the capacity",
}
"""How AP is defined; a data set has its own."""


def rule_of(builder: str) -> str:
    """The definition of AP that a data set's field uses."""
    return "cityscapes" if builder == "cityscapes" else "coco"


class Precision:
    """AP by the rule of a data set's field."""

    def __init__(self, rule: str) -> None:
        """Nothing counted yet; ``rule`` is one of `RULES`."""
        self._room: Any = cityscapes if rule == "cityscapes" else coco
        self._sums = self._room.AveragePrecision.empty()

    def add(self, counts: Counts) -> None:
        """Counts one image."""
        self._sums = self._sums + self._room.AveragePrecision.of(self._room.matches(counts))

    def compute(self, classes: int) -> dict[str, Any]:
        """Fractions in 0..1: ``ap`` and ``ap50``, and both with ``_class`` (c,)."""
        return self._sums.compute(classes)

    def curve(self, class_id: int, threshold: float = 0.5) -> Any:
        """Recall, precision and score of a class at one IoU threshold."""
        return self._sums.curve(class_id, threshold)


@dataclass
class Score:
    """Sums over images.

    Attributes:
      classes: of the run.
      rule: which of `RULES` the top-level AP follows.
      precision: AP by that rule.
      confusion: pixels by class.
      weighted: pixels by class, each weighted by the size of its object.
      coco: matches by COCO's rule.
      areas: COCO's, of objects of one area.
      panoptic: segments.
      lost: centers beyond capacity.
    """

    classes: ClassList
    rule: str = "coco"
    precision: Precision = field(init=False)
    confusion: Confusion = field(init=False)
    weighted: InstanceIoU = field(init=False)
    coco: AveragePrecision = field(default_factory=AveragePrecision.empty)
    areas: dict[str, AveragePrecision] = field(default_factory=dict)
    panoptic: PanopticQuality = field(init=False)
    lost: int = 0

    def __post_init__(self) -> None:
        self.precision = Precision(self.rule)
        self.confusion = Confusion.empty(len(self.classes))
        self.weighted = InstanceIoU.empty(len(self.classes))
        self.panoptic = PanopticQuality.empty(len(self.classes))
        self.areas = {name: AveragePrecision.empty() for name in AREAS}

    def add(self, counts: Counts, lost: int) -> ImageMatches:
        """Counts one image."""
        matches = coco.matches(counts)
        self.coco = self.coco + AveragePrecision.of(matches)
        self.precision.add(counts)
        for name, area in AREAS.items():
            found = AveragePrecision.of(coco.matches(counts, area))
            self.areas[name] = self.areas[name] + found
        self.confusion = self.confusion + Confusion.of_counts(counts)
        self.weighted = self.weighted + InstanceIoU.of(counts)
        self.panoptic = self.panoptic + PanopticQuality.of(counts)
        self.lost += lost
        return matches

    def truths(self, class_id: int) -> int:
        """Number of objects of a class."""
        return sum(int((image.truth_class == class_id).sum()) for image in self.coco.images)

    def sizes(self) -> Mapping[str, float] | None:
        """Mean size of an object of each class, where the data set's field has fixed one."""
        return cityscapes.SIZES if self.rule == "cityscapes" else None

    def metrics(self) -> dict[str, Any]:
        """Fractions in 0..1: ap, ap50 and iou first, then the rest, per class too; null where nothing was there."""
        count = len(self.classes)
        own, quality = self.precision.compute(count), self.panoptic.compute(self.classes)
        by_coco: Mapping[str, Any] = self.coco.compute(count)
        iou, weighted = self.confusion.iou(), self.weighted.compute(self.classes, self.sizes())
        columns = {
            "ap": own["ap_class"],
            "ap50": own["ap50_class"],
            "iou": iou,
            "iiou": weighted,
            "pq": quality["pq_class"],
            "sq": quality["sq_class"],
            "rq": quality["rq_class"],
        }
        things = list(self.classes.things)
        means = ("ar", "recall50", "ap_agnostic", "ap50_agnostic")
        sizes = {f"ap_{name}": number(found.compute(count)["ap"]) for name, found in self.areas.items()}
        return {
            "ap": number(own["ap"]),
            "ap50": number(own["ap50"]),
            "iou": number(self.confusion.mean_iou()),
            "rule": self.rule,
            "iiou": number(mean(weighted[things])),
            **{name: number(quality[name]) for name in ("pq", "sq", "rq", "pq_things", "pq_stuff")},
            "iou_background": number(iou[0]),
            "pixel_accuracy": number(self.confusion.accuracy()),
            **{name: number(by_coco[name]) for name in means},
            **({"ap_coco": number(by_coco["ap"])} if self.rule != "coco" else {}),
            **sizes,
            "images": int(by_coco["images"]),
            "lost": self.lost,
            "classes": {
                name: {
                    **{column: number(values[i]) for column, values in columns.items()},
                    "truths": int(by_coco["truths_class"][i]),
                    "predictions": int(by_coco["predictions_class"][i]),
                    "thing": i in self.classes.things,
                }
                for i, name in enumerate(self.classes.names)
                if i > 0
            },
        }


def counts_of(found: Segmentation, truth: Truth, size: tuple[int, ...], classes: ClassList) -> Counts:
    """Counts of one image, at the label's size.

    Args:
      found: result of one image, on the host.
      truth: its segments.
      size: (height, width) of the label.
      classes: of the run.
    """
    rows = found.instances
    predicted = resized(Label(np.asarray(found.semantic), np.asarray(found.instance)), size)
    return Counts.of(predicted.semantic, predicted.instance, rows.class_id, rows.score, rows.valid, truth, classes)


def resized(label: Label, size: tuple[int, ...]) -> Label:
    """Maps at another size, each pixel from the nearest; the same maps where the size is theirs."""
    if label.semantic.shape == size:
        return label
    rows, columns = (
        ((np.arange(size[axis]) + 0.5) * label.semantic.shape[axis] / size[axis]).astype(np.int64) for axis in range(2)
    )
    return Label(*(array[rows[:, None], columns] for array in label))


def mean(values: Float[np.ndarray, " n"]) -> float:
    """Mean of the values that are not NaN; NaN where none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def number(value: Any) -> float | None:
    """JSON has no NaN: a class without truth is null."""
    return None if math.isnan(float(value)) else float(value)


def percent(value: float | None) -> str:
    """A fraction as a table shows it."""
    return "-" if value is None else f"{100 * value:.1f}"
