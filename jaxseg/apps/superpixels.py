"""The study that chooses the superpixel size: how well superpixels of each size carry the truth of a data set."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer, UInt8
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jaxseg import config, targets
from jaxseg.apps import files
from jaxseg.apps.evaluation import charts, report, scores
from jaxseg.data import Example, Label
from jaxseg.metrics import Confusion, Counts, Truth, coco
from jaxseg.ops import components, superpixels, upsampling
from jaxseg.types import IGNORED, ClassList

REACH = 2
"""Pixels within which a border of a superpixel recalls a true one."""

UPSAMPLINGS = ("superpixels", "bilinear", "nearest")
"""How the grid becomes pixels again; without superpixels, an element has the label at the middle of its square cell."""


def undersegmentation(superpixel: Integer[np.ndarray, "H W"], segment: Integer[np.ndarray, "H W"]) -> tuple[int, int]:
    r"""Pixels that superpixels leak across true borders, before the division.

    .. math:: \sum_G \sum_S \min(|S \cap G|, |S \setminus G|)

    The inner sum runs over superpixels that touch G; a superpixel within one segment costs nothing.

    Args:
      superpixel: id of each pixel's superpixel.
      segment: id of each pixel's true segment; negative where it is unknown, which counts for nothing.

    Returns:
      Leaked pixels, and pixels that are known: divide the sums over all images.

    References:
      Neubert and Protzel, Superpixel benchmark and comparison, Forum Bildverarbeitung 2012.
    """
    known = segment >= 0
    s, g = superpixel[known].astype(np.int64), segment[known].astype(np.int64)
    if not s.size:
        return 0, 0
    area = np.bincount(s)
    pairs, common = np.unique(s * (g.max() + 1) + g, return_counts=True)
    return int(np.minimum(common, area[pairs // (g.max() + 1)] - common).sum()), s.size


def boundary_recall(
    superpixel: Integer[np.ndarray, "H W"], segment: Integer[np.ndarray, "H W"], reach: int = REACH
) -> tuple[int, int]:
    """True border pixels that lie near a border of superpixels.

    A border pixel has another id below it or to its right; borders with what is unknown do not count.

    Args:
      superpixel: id of each pixel's superpixel.
      segment: id of each pixel's true segment; negative where it is unknown.
      reach: how near, pixels along rows and columns.

    Returns:
      Border pixels recalled, and all: divide the sums over all images.

    References:
      Neubert and Protzel, Superpixel benchmark and comparison, Forum Bildverarbeitung 2012.
    """
    import cv2

    truth = _borders(segment, segment >= 0)
    near = cv2.dilate(_borders(superpixel).astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
    return int((truth & near).sum()), int(truth.sum())


def _borders(ids: Integer[np.ndarray, "H W"], known: Bool[np.ndarray, "H W"] | None = None) -> Bool[np.ndarray, "H W"]:
    known = np.ones(ids.shape, bool) if known is None else known
    found = np.zeros(ids.shape, bool)
    found[:-1] |= (ids[1:] != ids[:-1]) & known[1:] & known[:-1]
    found[:, :-1] |= (ids[:, 1:] != ids[:, :-1]) & known[:, 1:] & known[:, :-1]
    return found


@dataclass
class Tally:
    """What one way to carry labels through the grid adds up.

    Attributes:
      classes: of the data.
      leaked: pixels that superpixels leak across true borders, and known pixels.
      recalled: border pixels near one of superpixels, and all.
      fragments: pieces of masks beyond the first of each object, and objects.
      confusion: pixels by class.
      precision: matches of the objects.
    """

    classes: ClassList
    leaked: np.ndarray = field(default_factory=lambda: np.zeros(2))
    recalled: np.ndarray = field(default_factory=lambda: np.zeros(2))
    fragments: np.ndarray = field(default_factory=lambda: np.zeros(2))
    confusion: Confusion = field(init=False)
    precision: coco.AveragePrecision = field(default_factory=coco.AveragePrecision.empty)

    def __post_init__(self) -> None:
        self.confusion = Confusion.empty(len(self.classes))

    def add_cells(self, ids: Integer[np.ndarray, "H W"], segment: Integer[np.ndarray, "H W"]) -> None:
        """Counts the superpixels, or square cells, of one image."""
        self.leaked += undersegmentation(ids, segment)
        self.recalled += boundary_recall(ids, segment)

    def add_labels(self, carried: Label, pieces: int, truth: Truth) -> None:
        """Counts the labels of one image after their way through the grid."""
        rows = int(carried.instance.max(initial=0))
        present = np.bincount(carried.instance.ravel(), minlength=rows + 1)[1:] > 0
        self.fragments += (pieces - present.sum(), present.sum())
        kinds = np.zeros(rows + 1, np.int64)
        kinds[carried.instance] = carried.semantic
        semantic = np.where(carried.semantic == IGNORED, 0, carried.semantic).astype(np.uint8)
        counts = Counts.of(semantic, carried.instance, kinds[1:], np.ones(rows), present, truth, self.classes)
        self.confusion = self.confusion + Confusion.of_counts(counts)
        self.precision = self.precision + coco.AveragePrecision.of(coco.matches(counts))

    def figures(self) -> dict[str, float | None]:
        """Fractions; the fragments are those of an object, on average."""
        precision: Mapping[str, Any] = self.precision.compute(len(self.classes))
        cells = self.leaked[1] > 0
        return {
            "error": self.leaked[0] / self.leaked[1] if cells else None,
            "boundary_recall": self.recalled[0] / self.recalled[1] if self.recalled[1] else None,
            "fragments": self.fragments[0] / self.fragments[1] if self.fragments[1] else None,
            "iou": scores.number(self.confusion.mean_iou()),
            "ap": scores.number(precision["ap"]),
            "ap50": scores.number(precision["ap50"]),
        }


def study(
    settings: config.Config,
    images: int,
    sizes: Sequence[int],
    compactness: Sequence[float],
    output: Path | None = None,
    page: Path | None = None,
) -> list[dict[str, Any]]:
    """Carries the truth of training images through grids of every size, and measures what comes out.

    Args:
      settings: whose data is used.
      images: most images to look at.
      sizes: superpixel sizes k, pixels.
      compactness: weights of the spatial distance, Lab units per pixel.
      output: also write the rows there, as JSON.
      page: also write them there, as HTML with plots.

    Returns:
      A row a size, upsampling and (for superpixels) compactness. ``error`` is the under-segmentation error and
      ``boundary_recall`` the share of true border pixels within 2 pixels of one of superpixels, both of square cells
      for "nearest" and none for "bilinear". ``fragments`` are stranded pieces of a mask, of the mean object. ``iou``,
      ``ap`` and ``ap50`` are what a network without a mistake on the grid would score, if grouping made none either.

    Raises:
      UserError: no usable data, or a file that cannot be written.
    """
    from jaxseg.data import prepare

    for file in (output, page):
        if file:
            files.require_file(file)
    data, layout = prepare.resolve(settings.data)
    source = prepare.dataset(data, layout).split("train", full=True)
    chosen = np.linspace(0, len(source) - 1, min(images, len(source))).round().astype(int)
    ways = [
        *((k, "superpixels", float(c)) for k in sizes for c in compactness),
        *((k, way, None) for k in sizes for way in UPSAMPLINGS[1:]),
    ]
    tallies = {way: Tally(layout.classes) for way in sorted(ways, key=lambda way: way[0])}
    own = np.zeros(2)
    for i in track(chosen, "superpixels", console=Console(stderr=True)):
        own += _add(tallies, source[int(i)])
    names = ("size", "upsampling", "compactness")
    rows: list[dict[str, Any]] = [{**dict(zip(names, w, strict=True)), **t.figures()} for w, t in tallies.items()]
    if output:
        files.write_json(output, rows)
    _show(rows, settings.name, len(chosen), own)
    if page:
        _report(page, rows, settings.name, len(chosen), own)
    return rows


def _add(tallies: Mapping[tuple, Tally], example: Example) -> np.ndarray:
    """Counts one image, cut to a multiple of each size; returns pieces beyond the first of the truth, and objects."""
    label = Label(example.semantic, example.instance)
    if example.full is not None and example.full.semantic.shape == label.semantic.shape:
        label = example.full
    for (size, way, compactness), tally in tallies.items():
        height, width = (length - length % size for length in label.semantic.shape)
        if not height or not width:
            continue
        cut = Label(*(array[:height, :width] for array in label))
        truth, segment = Truth.of(*cut, tally.classes), _segments(cut)
        if way == "superpixels":
            assignment = _assign(example.image[:height, :width], size, np.float32(compactness))
        else:
            assignment = jnp.full((height, width), superpixels.OWN, jnp.uint8)
        if way != "bilinear":
            tally.add_cells(np.asarray(superpixels.ids(assignment, size)), segment)
        semantic, instance, pieces = jax.device_get(_carried(*cut, assignment, size, way))
        tally.add_labels(Label(semantic, instance), int(pieces), truth)
    present = np.bincount(label.instance[label.semantic != IGNORED].ravel())[1:] > 0
    pieces = _pieces(jnp.where(label.semantic == IGNORED, 0, label.instance.astype(np.int32)))
    return np.array([int(pieces) - present.sum(), present.sum()])


_assign = jax.jit(superpixels.assign, static_argnums=1)


@partial(jax.jit, static_argnums=(3, 4))
def _carried(
    semantic: UInt8[Array, "H W"], instance: Integer[Array, "H W"], assignment: UInt8[Array, "H W"], size: int, way: str
) -> tuple[Array, Array, Array]:
    """Class and instance of each pixel after the way through the grid, and the connected pieces of all instances."""
    labels, ids = targets.sample(semantic, instance, assignment, size)
    packed = labels.astype(jnp.int32) * (1 << 16) + jnp.where(labels == IGNORED, 0, ids)
    bilinear = way == "bilinear"
    pixels = upsampling.bilinear(packed, size) if bilinear else superpixels.upsample(packed, assignment, size)
    found = pixels & 0xFFFF
    return (pixels >> 16).astype(jnp.uint8), found, _pieces(found)


@jax.jit
def _pieces(instance: Int[Array, "H W"]) -> Int[Array, ""]:
    """8-connected components of equal instances."""
    roots = components.label(instance, 8).ravel()
    return jnp.sum(roots == jnp.arange(1, roots.size + 1), dtype=jnp.int32)


def _segments(label: Label) -> Int[np.ndarray, "H W"]:
    """One id for each (class, instance); -1 where ignored."""
    ids = label.semantic.astype(np.int64) * (1 << 16) + label.instance
    return np.where(label.semantic == IGNORED, -1, np.unique(ids, return_inverse=True)[1].reshape(ids.shape))


COLUMNS = ("error", "boundary_recall", "fragments", "iou", "ap", "ap50")
HEADER = ("k", "upsampling", "compact.", "UE", "recall", "fragments", "IoU", "AP", "AP50")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row as text: percent, and fragments for 100 objects."""
    compactness = "-" if row["compactness"] is None else f"{row['compactness']:g}"
    figures = ("-" if row[c] is None else f"{100 * row[c]:.{2 if c == 'error' else 1}f}" for c in COLUMNS)
    way = "SLIC" if row["upsampling"] == "superpixels" else row["upsampling"]
    return str(row["size"]), way, compactness, *figures


def _note(images: int, own: np.ndarray) -> str:
    fragments = f"{100 * own[0] / own[1]:.1f}" if own[1] else "none"
    return (
        f"{images} images with {own[1]:.0f} objects; percent. UE: under-segmentation error. Recall: true borders that "
        f"lie within {REACH} pixels of one of superpixels. Fragments: pieces of masks beyond the first, for 100 "
        f"objects (the truth itself: {fragments}). IoU and AP: those of the truth after grid and upsampling."
    )


def _show(rows: Sequence[Mapping[str, Any]], name: str, images: int, own: np.ndarray) -> None:
    table = Table(*HEADER, title=f"{name}: superpixels")
    for before, row in zip([None, *rows], rows, strict=False):
        if before and before["size"] != row["size"]:
            table.add_section()
        table.add_row(*_cells(row))
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(_note(images, own))


def _report(path: Path, rows: Sequence[Mapping[str, Any]], name: str, images: int, own: np.ndarray) -> None:
    table = report.Table("", [dict(zip(HEADER, _cells(row), strict=True)) for row in rows])
    sized = (("Achievable AP", "ap"), ("Achievable IoU", "iou"), ("Stranded fragments", "fragments"))
    weighed = (("Under-segmentation error", "error"), ("Boundary recall", "boundary_recall"), ("Achievable AP", "ap"))
    drawn = [
        *(_chart(title, "superpixel size k, pixels", _by_size(rows, column)) for title, column in sized),
        *(
            _chart(title, "compactness, Lab units per pixel", _by_compactness(rows, column))
            for title, column in weighed
        ),
    ]
    text = "By size, superpixels have the compactness that gives them the best AP."
    report.write(
        path,
        title=f"{name}: superpixels of {len({row['size'] for row in rows})} sizes",
        sections=[report.Section("Plots", [text], charts=drawn), report.Section("Figures", [], [table])],
        notes=[_note(images, own)],
    )


def _chart(title: str, label: str, series: Iterator[tuple[str, tuple[list, list]]]) -> str:
    return charts.lines(title, label, "percent", dict(series), markers=True, log_x=True)


def _by_size(rows: Sequence[Mapping[str, Any]], column: str) -> Iterator[tuple[str, tuple[list, list]]]:
    """A line an upsampling: percent by size."""
    for way in UPSAMPLINGS:
        best: dict[int, Mapping[str, Any]] = {}
        for row in rows:
            known = best.get(row["size"])
            if row["upsampling"] == way and (known is None or (row["ap"] or 0) > (known["ap"] or 0)):
                best[row["size"]] = row
        yield way, (list(best), [np.nan if row[column] is None else 100 * row[column] for row in best.values()])


def _by_compactness(rows: Sequence[Mapping[str, Any]], column: str) -> Iterator[tuple[str, tuple[list, list]]]:
    """A line a size: percent by compactness."""
    for size in dict.fromkeys(row["size"] for row in rows):
        chosen = [row for row in rows if row["size"] == size and row["compactness"] is not None]
        percent = [np.nan if row[column] is None else 100 * row[column] for row in chosen]
        yield f"k = {size}", ([row["compactness"] for row in chosen], percent)
