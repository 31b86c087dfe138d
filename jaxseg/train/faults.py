"""Updates whose loss or gradient is not finite: named, and their examples kept for inspection."""

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg.train import storage

FOLDER = "faults"
"""Where a run's folder keeps the examples."""

GRADIENT = "gradient_norm"
LAST = ("loss", GRADIENT)
"""Scalars that are not finite whenever another one is not."""


def culprit(scalars: Mapping[str, float]) -> str:
    """What was not finite first, and its value: a loss term, or the gradient of terms that are all finite."""
    odd = [name for name, value in scalars.items() if not math.isfinite(value)]
    named = next((name for name in odd if name not in LAST), odd[0] if odd else GRADIENT)
    title = "the gradient" if named == GRADIENT else f"`{named}`"
    return f"{title} is {scalars.get(named, math.nan):g}"


def dump(folder: storage.Folder, batch: Any, names: Sequence[str]) -> None:
    """Writes the examples of a batch: batch.npz with every array and the names, and each image as PNG.

    Args:
      folder: to write to.
      batch: dataclass of arrays with a leading axis for the examples; "image" is (b, H, W, 3) uint8.
      names: of the examples.

    Raises:
      OSError: the folder cannot be written.
    """
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f.name: np.asarray(getattr(batch, f.name)) for f in dataclasses.fields(batch)}
    stored: dict[str, Any] = {"names": np.array(list(names)), **arrays}
    content = io.BytesIO()
    np.savez_compressed(content, **stored)
    (folder / "batch.npz").write_bytes(content.getvalue())
    for i, image in enumerate(arrays["image"]):
        coded = cv2.imencode(".png", image[..., ::-1])[1]
        (folder / f"{i}.png").write_bytes(coded.tobytes())
