"""`jaxseg data check`: what is wrong with a data set, and what it holds, before a night of training."""

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxseg import config, targets
from jaxseg.apps import files
from jaxseg.data import Example
from jaxseg.losses import semantic
from jaxseg.ops import superpixels
from jaxseg.types import IGNORED

GRIDS = (2, 4, 8)
"""Superpixel sizes for which vanishing objects are counted."""

PADDED = 128
"""Images of any size are padded to a multiple of this, so that few programs are compiled."""


NAMED = 20
"""Images of a kind that are named on screen."""


def check(settings: config.Config, images: int, output: Path | None = None) -> dict[str, Any]:
    """Opens every file of a data set; prints what is wrong with it and what it holds.

    Args:
      settings: whose data is checked.
      images: most training images to count vanishing objects on, evenly spread over the split.
      output: also write the figures there, as JSON.

    Returns:
      What the file holds.

    Raises:
      UserError: the data set cannot be listed, or something is wrong that is not accepted; everything was printed then.
    """
    from jaxseg.data import check as checks
    from jaxseg.data import prepare

    if output:
        files.require_file(output)
    data, layout = prepare.resolve(settings.data)
    faults = [*checks.without(layout.splits, layout.title), *layout.faults]
    records: dict[str, list[Any]] = {split: [] for split in layout.splits}
    vanished = _Vanished(len(layout.splits.get("train", ())), images, settings)
    for split, image in checks.survey(layout, prepare.progress):
        faults += image.faults
        if image.record is not None and image.labelled is not None:
            records[split].append(image.record)
            if split == "train":
                vanished.add(image.labelled)
    faults += checks.across(records)
    limit = settings.targets.max_instances
    faults += checks.crowded(records.get("train", []), data, limit, settings.model.size)
    figures = {
        "faults": [{"kind": kind, "message": text, "accepted": kind in data.accept} for kind, text in faults],
        "splits": {split: _split(rows) for split, rows in records.items()},
        "classes": _classes(layout.classes, records.get("train", [])),
        "vanished": vanished.shares(),
    }
    _show(figures, layout.title)
    if output:
        files.write_json(output, figures)
    _conclude(faults, data.accept, layout.title)
    return figures


def _split(rows: Sequence[Any]) -> dict[str, Any]:
    """Counts and sizes of one split."""
    from jaxseg.data import check as checks

    counts = [len(row.instances) for row in rows] or [0]
    areas = [instance[1] for row in rows for instance in row.instances] or [0]
    sizes = sorted({row.size for row in rows})
    return {
        "images": len(rows),
        "instances": int(np.sum(counts)),
        "images_without_instances": [row.name for row in rows if not row.instances],
        "images_ignored": [row.name for row in rows if set(row.pixels) == {IGNORED}],
        "instances_an_image": _quantiles(counts),
        "pixels_an_instance": _quantiles(areas),
        "ignored": checks.ignored_share(rows),
        "sizes": [list(size) for size in sizes],
    }


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95))
    return {"least": min(values), "p5": float(low), "median": float(median), "p95": float(high), "most": max(values)}


def _classes(classes: Any, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Frequency, weight of eq. 2, and objects of each class of the training split."""
    from jaxseg.data import check as checks

    pixels = checks.class_pixels(rows, len(classes))
    share = pixels / max(pixels.sum(), 1)
    weight = np.asarray(semantic.class_weights(jnp.asarray(share, jnp.float32), power=1.0))
    counts = np.bincount([i[0] for row in rows for i in row.instances] or [0], minlength=256)
    return [
        {
            "class": name,
            "kind": "thing" if i in classes.things else "stuff" if i else "",
            "frequency": float(share[i]),
            "weight": float(weight[i]),
            "objects": int(counts[i]) if i in classes.things else 0,
        }
        for i, name in enumerate(classes.names)
    ]


class _Vanished:
    """Counts training objects that no element of the grid samples, at the size that the network sees."""

    def __init__(self, total: int, images: int, settings: config.Config) -> None:
        self._chosen = set(np.linspace(0, total - 1, min(images, total)).round().astype(int)) if total else set()
        self._size = settings.model.size
        self._compactness = settings.superpixels.compactness
        self._seen = self._used = 0
        self._counts = dict.fromkeys(GRIDS, 0)
        self._objects = 0

    def add(self, labelled: Any) -> None:
        """Counts one image, if it is among those chosen."""
        from jaxseg.data import augment, images

        self._seen += 1
        if self._seen - 1 not in self._chosen:
            return
        example = Example(images.rgb(labelled.content), *labelled.label)
        if self._size and example.semantic.shape != self._size:
            example = augment.resize(example, self._size)
        self._used += 1
        whole = labelled.full or labelled.label
        count = _count(np.where(whole.semantic == IGNORED, 0, whole.instance))
        self._objects += count
        lost = count - _count(example.instance)
        padded = _padded(example)
        for k in GRIDS:
            self._counts[k] += lost + int(_vanished(*padded, k, np.float32(self._compactness)))

    def shares(self) -> dict[str, Any]:
        """Share of the objects that vanish, by superpixel size."""
        share = {str(k): count / max(self._objects, 1) for k, count in self._counts.items()}
        return {"images": self._used, "objects": self._objects, "share": share}


def _count(instance: np.ndarray) -> int:
    return int((np.bincount(instance.ravel(), minlength=1)[1:] > 0).sum())


def _padded(example: Example) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Black and ignored beyond the image, as training pads it."""
    margins = [(0, -length % PADDED) for length in example.semantic.shape]
    return (
        np.pad(example.image, [*margins, (0, 0)]),
        np.pad(example.semantic, margins, constant_values=IGNORED),
        np.pad(example.instance, margins),
    )


@functools.partial(jax.jit, static_argnums=3)
def _vanished(image: Array, semantic_map: Array, instance: Array, k: int, compactness: Array) -> Array:
    assignment = superpixels.assign(image, k, compactness)
    return targets.vanished(semantic_map, instance, assignment, k)


def _conclude(faults: Sequence[Any], accepted: Sequence[str], title: str) -> None:
    stopping = [fault.kind for fault in faults if fault.kind not in accepted]
    if stopping:
        kinds = " ".join(sorted(set(stopping)))
        raise config.UserError(
            f"{title}: training stops at {len(stopping)} of the faults listed above. Mend them, or go on all the same "
            f"with --data.accept {kinds}."
        )


def _rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for split, row in figures["splits"].items():
        counts, areas = row["instances_an_image"], row["pixels_an_instance"]
        yield (
            split,
            f"{row['images']:,}",
            f"{row['instances']:,}",
            f"{len(row['images_without_instances']):,}",
            f"{counts['median']:g} / {counts['p95']:g} / {counts['most']}",
            f"{areas['p5']:g} / {areas['median']:g} / {areas['p95']:g}",
            f"{100 * row['ignored']:.1f}",
        )


def _name(console: Console, what: str, names: Sequence[str]) -> None:
    """The first names of a list, if there are any."""
    if names:
        more = f" and {len(names) - NAMED:,} more (see --json)" if len(names) > NAMED else ""
        console.print(f"{what}: {', '.join(names[:NAMED])}{more}", markup=False, highlight=False)


def _show(figures: Mapping[str, Any], title: str) -> None:
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    for fault in figures["faults"]:
        note = " (accepted)" if fault["accepted"] else ""
        text = "".join(c if c.isprintable() else "?" for c in fault["message"])
        console.print(f"{fault['kind']}{note}: {text}", markup=False, highlight=False)
    header = ("split", "images", "objects", "images without", "an image: median/p95/most", "pixels: p5/median/p95")
    table = Table(*header, "ignored %", title=escape(title))
    for row in _rows(figures):
        table.add_row(*row)
    console.print(table)
    for split, row in figures["splits"].items():
        _name(console, f"{split}: images without objects", row["images_without_instances"])
        _name(console, f"{split}: images that are ignored altogether", row["images_ignored"])
    table = Table("class", "kind", "pixels %", "w_c of eq. 2", "objects", title="training images")
    for row in figures["classes"]:
        share = f"{100 * row['frequency']:.3f}"
        table.add_row(escape(row["class"]), row["kind"], share, f"{row['weight']:.2f}", f"{row['objects']:,}")
    console.print(table)
    gone = figures["vanished"]
    shares = ", ".join(f"k = {k}: {100 * share:.2f} %" for k, share in gone["share"].items())
    console.print(f"objects that vanish on the grid ({gone['objects']:,} on {gone['images']} images): {shares}")
