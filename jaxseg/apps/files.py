"""Writing results: one line for what cannot be written, before anything is computed or lost."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg import config
from jaxseg.train import storage


def require_writable(folder: storage.Folder) -> None:
    """Creates a folder for results.

    Raises:
      UserError: it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(folder, Path):
            with tempfile.TemporaryFile(dir=folder):
                pass
        else:
            probe = folder / PROBE
            probe.write_bytes(b"")
            probe.unlink()
    except Exception as error:  # Each store's client has errors of its own.
        remedy = "Choose another folder."
        raise config.UserError(f"{folder} cannot be written: {storage.reason(error)}. {remedy}") from error


PROBE = ".jaxseg"
"""Name of what is written into an object store to see whether it can be."""


def as_name(text: str) -> str:
    """A text of any origin as the name of a file in a folder of ours: no separators, no control characters."""
    kept = "".join(c if c.isalnum() or c in "-_.()+ " else "_" for c in text)
    return kept.strip(". ")[:150] or "unnamed"


def require_file(path: storage.Folder) -> None:
    """Creates the folder of a file that is to be written later.

    Raises:
      UserError: the folder cannot be written, or the path is a folder itself.
    """
    if path.is_dir() or not path.name:
        raise config.UserError(f"{path} is a folder. Name a file in it.")
    require_writable(path.parent)


@contextlib.contextmanager
def writing(path: storage.Folder) -> Iterator[None]:
    """Turns what the system says of a file that cannot be written (a full disk, say) into one line.

    Raises:
      UserError: it cannot be written.
    """
    try:
        yield
    except config.UserError:
        raise
    except Exception as error:  # Each store's client has errors of its own.
        raise config.UserError(f"{path} cannot be written: {storage.reason(error)}. Make room for it.") from error


def write_bytes(path: storage.Folder, content: bytes) -> None:
    """Writes a file in one piece: one that is there is replaced once the new one is complete.

    Raises:
      UserError: it cannot be written.
    """
    require_file(path)
    with writing(path):
        storage.write_whole(path, content)


def write_text(path: storage.Folder, text: str) -> None:
    """Writes a text, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_image(path: storage.Folder, image: np.ndarray) -> None:
    """Writes an image as PNG, as `write_bytes` does.

    OpenCV compresses ten times as fast as Pillow does, into files that are 8 % larger.

    Args:
      path: where to.
      image: (H, W, 3) uint8 RGB, or (H, W) uint8 or uint16.
    """
    import cv2

    done, content = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)
    if not done:
        raise ValueError(f"An array of shape {image.shape} and type {image.dtype} cannot be stored as PNG.")
    write_bytes(path, content.tobytes())


def write_json(path: storage.Folder, values: Any) -> None:
    """Writes values as readable JSON, as `write_text` does."""
    write_text(path, json.dumps(values, indent=2) + "\n")
