"""`jaxseg data show`: a page of what the labels mean, and what the network gets to see and is asked for."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array
from rich.console import Console

from jaxseg import config, targets, visualize
from jaxseg.apps import files
from jaxseg.apps.evaluation import report
from jaxseg.data import Example
from jaxseg.ops import superpixels
from jaxseg.types import ClassList, Targets

ENLARGED = 512
"""Small pictures are enlarged by whole factors up to about this many pixels, so that their elements can be seen."""


CELLS = 40
"""Superpixels that are shown along the longer side."""


def show(settings: config.Config, split: str, images: int, output: Path) -> Path:
    """Writes the page.

    Args:
      settings: whose data, augmentation, grid and targets are shown.
      split: "train", "val" or "test".
      images: most images to show, evenly spread over the split.
      output: HTML file.

    Returns:
      Its path.

    Raises:
      UserError: the data set cannot be listed, has no such split, or none of the images can be read.
    """
    from jaxseg.data import check, prepare
    from jaxseg.data import images as read

    files.require_file(output)
    data, layout = prepare.resolve(settings.data)
    if split not in layout.splits:
        raise config.UserError(f"{layout.title} has no split {split}, only {', '.join(layout.splits)}.")
    items = layout.splits[split]
    chosen = sorted(set(np.linspace(0, len(items) - 1, min(images, len(items))).round().astype(int)))
    faults, examples = list(layout.faults), []
    for i in prepare.progress(chosen, len(chosen), f"drawing {split}"):
        image = check.examine(layout, items[i])
        faults += image.faults
        if image.labelled is not None:
            example = Example(read.rgb(image.labelled.content), *image.labelled.label, items[i].name)
            examples.append(_example(example, settings, data, layout.classes, int(i)))
    if not examples:
        raise config.UserError(f"{layout.title}: none of the images can be shown. {faults[0].message}")
    summary = [
        ("images in the split", len(items)),
        ("shown", len(examples)),
        ("superpixels", settings.superpixels.size),
    ]
    with files.writing(output):
        report.write(
            output,
            title=f"{layout.title}: {split}",
            summary=summary,
            per_class=_class_rows(layout.classes),
            colors=[report.css(color) for color in visualize.class_colors(layout.classes)[: len(layout.classes)]],
            notes=[*_NOTES, *(fault.message for fault in faults)],
            examples=examples,
        )
    Console(stderr=True, soft_wrap=True).print(f"wrote {output}", markup=False)
    return output


def _class_rows(classes: ClassList) -> list[dict[str, int | str]]:
    kinds = ("thing" if i in classes.things else "stuff" if i else "" for i in range(len(classes)))
    return [
        {"id": i, "class": name, "kind": kind} for i, (name, kind) in enumerate(zip(classes.names, kinds, strict=True))
    ]


_NOTES = (
    "Hatched gray is ignored: no loss counts it (of groups, evaluation knows the class).",
    "The network sees augmented crops like the two that are shown; targets belong to the first of them.",
    "Targets are shown on the grid, each element as one square.",
)


def _example(
    example: Example, settings: config.Config, data: config.Data, classes: ClassList, seed: int
) -> report.Example:
    """Labels, two augmented versions, and superpixels and targets of the first."""
    from jaxseg.data.augment import augment

    first, second = (augment(np.random.default_rng((seed, i)), example, data, settings.model.size) for i in range(2))
    pictures = {
        "Labels: class and id": _overlay(example, classes, ids=True),
        "Classes": visualize.semantic_colors(example.semantic, example.image, classes=classes),
        "As the network sees it": first.image,
        "The same with its labels": _overlay(first, classes),
        "Augmented otherwise": _overlay(second, classes),
        **_grid(first, settings, classes),
    }
    height, width = example.semantic.shape
    count = len(np.unique(example.instance[example.instance > 0]))
    caption = f"{height} x {width}, {count} objects"
    return report.Example(example.name, {name: _enlarged(p) for name, p in pictures.items()}, caption)


def _overlay(example: Example, classes: ClassList, ids: bool = False) -> np.ndarray:
    image, semantic, instance = _enlarged(example.image), _enlarged(example.semantic), _enlarged(example.instance)
    return visualize.overlay(image, semantic, instance, None, classes, ids=ids)


def _grid(example: Example, settings: config.Config, classes: ClassList) -> dict[str, np.ndarray]:
    """Superpixels and targets of a training example."""
    k, wanted = settings.superpixels.size, settings.targets
    made = _targets(
        *example[:3],
        k,
        wanted.max_instances,
        wanted.center,
        wanted.radius,
        np.float32(settings.superpixels.compactness),
    )
    ids, truth = jax.device_get(made)

    def blocks(grid: Any) -> np.ndarray:
        return np.asarray(grid).repeat(k, 0).repeat(k, 1)

    semantic, instance = blocks(truth.semantic), blocks(truth.instance)
    lost = f", {int(truth.vanished)} vanished" if truth.vanished else ""
    return {
        "Superpixels of a part, enlarged": _part(example.image, ids, k, np.asarray(truth.center[0]) * k),
        "Target: classes": visualize.semantic_colors(semantic, example.image, classes=classes),
        f"Target: instances{lost}": visualize.overlay(example.image, semantic, instance, None, classes, labels=False),
        "Target: centers": visualize.heatmap(blocks(truth.confidence), example.image, alpha=0.6),
    }


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _targets(
    image: Array, semantic: Array, instance: Array, k: int, slots: int, style: str, radius: float, compactness: Array
) -> tuple[Array, Targets]:
    assignment = superpixels.assign(image, k, compactness)
    return superpixels.ids(assignment, k), targets.make(semantic, instance, assignment, k, slots, style, radius)


def _part(image: np.ndarray, ids: np.ndarray, k: int, around: np.ndarray) -> np.ndarray:
    """Superpixels large enough to be seen: a part of the image, of its shape, around an object if there is one."""
    shape = np.array(image.shape[:2])
    extent = np.maximum(shape * CELLS // shape.max(), 1) * k
    starts = np.clip(around - extent // 2, 0, np.maximum(shape - extent, 0))
    window = tuple(slice(int(start), int(start + length)) for start, length in zip(starts, extent, strict=True))
    factor = max(1, ENLARGED // (CELLS * k))
    pixels, labels = (array[window].repeat(factor, 0).repeat(factor, 1) for array in (image, ids))
    return visualize.superpixel_edges(pixels, labels)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    factor = max(1, ENLARGED // max(picture.shape[:2]))
    return picture.repeat(factor, 0).repeat(factor, 1)
