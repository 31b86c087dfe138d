"""Writing results: one line for what cannot be written, before anything is computed or lost."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxseg import config


def require_writable(folder: Path) -> None:
    """Creates a folder for results.

    Raises:
      UserError: it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise config.UserError(f"{folder} cannot be written: {error.strerror}. Choose another folder.") from error


def as_name(text: str) -> str:
    """A text of any origin as the name of a file in a folder of ours: no separators, no control characters."""
    kept = "".join(c if c.isalnum() or c in "-_.()+ " else "_" for c in text)
    return kept.strip(". ")[:150] or "unnamed"


def require_file(path: Path) -> None:
    """Creates the folder of a file that is to be written later.

    Raises:
      UserError: the folder cannot be written, or the path is a folder itself.
    """
    if path.is_dir() or not path.name:
        raise config.UserError(f"{path} is a folder. Name a file in it.")
    require_writable(path.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says of a file that cannot be written (a full disk, say) into one line.

    Raises:
      UserError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise config.UserError(f"{path} cannot be written: {error.strerror or error}. Make room for it.") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file in one piece: one that is there is replaced once the new one is complete.

    Raises:
      UserError: it cannot be written.
    """
    require_file(path)
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        partial.write_bytes(content)
        partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Writes a text, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, values: Any) -> None:
    """Writes values as readable JSON, as `write_text` does."""
    write_text(path, json.dumps(values, indent=2) + "\n")
