"""Writing results: one line for what cannot be written, before anything is computed or lost."""

import json
import tempfile
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


def write_text(path: Path, text: str) -> None:
    """Writes a file in one piece: one that is there is replaced once the new one is complete.

    Raises:
      UserError: it cannot be written.
    """
    require_writable(path.parent)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def write_json(path: Path, values: Any) -> None:
    """Writes values as readable JSON, as `write_text` does."""
    write_text(path, json.dumps(values, indent=2) + "\n")
