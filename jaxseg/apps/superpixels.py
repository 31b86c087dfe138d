"""The study that chooses the superpixel size: under-segmentation error on the training set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Integer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jaxseg import config
from jaxseg.apps import files
from jaxseg.data import Example
from jaxseg.ops import superpixels
from jaxseg.types import IGNORED


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


def study(
    settings: config.Config,
    images: int,
    sizes: Sequence[int],
    compactness: Sequence[float],
    output: Path | None = None,
) -> list[dict[str, Any]]:
    """Measures superpixels of every size and compactness on training images.

    Args:
      settings: whose data is used.
      images: most images to look at.
      sizes: superpixel sizes k, pixels.
      compactness: weights of the spatial distance, Lab units per pixel.
      output: also write the rows there, as JSON.

    Returns:
      A row a size and compactness: under-segmentation error of SLIC superpixels and of plain square cells, fractions.

    Raises:
      UserError: no usable data, or a file that cannot be written.
    """
    from jaxseg.data import prepare

    if output:
        files.require_file(output)
    source = prepare.source(settings.data, "train")
    chosen = np.linspace(0, len(source) - 1, min(images, len(source))).round().astype(int)
    leaks: dict[tuple[int, float], np.ndarray] = {(k, c): np.zeros(3) for k in sizes for c in compactness}
    for i in track(chosen, "superpixels", console=Console(stderr=True)):
        _add(leaks, source[int(i)])
    rows = [
        {"size": k, "compactness": c, "error": float(slic / pixels), "square_cells": float(square / pixels)}
        for (k, c), (slic, square, pixels) in leaks.items()
    ]
    if output:
        files.write_json(output, rows)
    _show(rows, settings.name, len(chosen))
    return rows


_assign = jax.jit(superpixels.assign, static_argnums=1)


def _add(leaks: Mapping[tuple[int, float], np.ndarray], example: Example) -> None:
    """Counts one image, cut to a multiple of each size."""
    segment = _segments(example)
    for (size, compactness), sums in leaks.items():
        height, width = (length - length % size for length in segment.shape)
        if not height or not width:
            continue
        truth = segment[:height, :width]
        assignment = _assign(example.image[:height, :width], size, np.float32(compactness))
        square = jnp.full((height, width), superpixels.OWN, jnp.uint8)
        leaked, pixels = undersegmentation(np.asarray(superpixels.ids(assignment, size)), truth)
        sums += np.array([leaked, undersegmentation(np.asarray(superpixels.ids(square, size)), truth)[0], pixels])


def _segments(example: Example) -> Int[np.ndarray, "H W"]:
    """One id for each (class, instance); -1 where ignored."""
    ids = example.semantic.astype(np.int64) * (1 << 16) + example.instance
    return np.where(example.semantic == IGNORED, -1, np.unique(ids, return_inverse=True)[1].reshape(ids.shape))


def _show(rows: list[dict[str, Any]], name: str, images: int) -> None:
    title = f"{name}: under-segmentation error, % of pixels, {images} images"
    table = Table("k", "compactness", "SLIC", "square cells", title=title)
    for row in rows:
        cells = (f"{100 * row['error']:.2f}", f"{100 * row['square_cells']:.2f}")
        table.add_row(str(row["size"]), f"{row['compactness']:g}", *cells)
    Console(soft_wrap=True).print(table)
