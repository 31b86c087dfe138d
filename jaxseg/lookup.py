"""Finds what a user names by its import path or in a file. Standard library only."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class Found(NamedTuple):
    """What was looked for.

    Attributes:
      value: it.
      file: its source; None for a module that has none.
    """

    value: Any
    file: Path | None


def find(path: str) -> Found:
    """What an import path names.

    Args:
      path: "package.module:name" or "path/to/file.py:name", both searched for from the current folder too. A module is
        run once.

    Raises:
      ValueError: it cannot be imported, or holds no such name.
    """
    place, _, name = path.rpartition(":")
    if str(Path.cwd()) not in sys.path:  # a console script does not look there, a Python script beside it does
        sys.path.append(str(Path.cwd()))
    try:
        module = _run(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        value = getattr(module, name)
    except Exception as error:  # a module of the user's may fail in any way
        raise ValueError(f"{path!r} cannot be imported: {type(error).__name__}: {error}") from error
    file = getattr(module, "__file__", None)
    return Found(value, Path(file) if file and file.endswith(".py") else None)


def relative(path: str) -> str:
    """The same import path; that of a file starts at the current folder, if it is below, and is absolute elsewhere."""
    place, _, name = path.rpartition(":")
    if not place.endswith(".py"):
        return path
    file = Path(os.path.abspath(Path(place).expanduser()))
    return f"{file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}:{name}"


def _run(file: Path) -> ModuleType:
    """The module of a file, by a name that nothing else has."""
    file = Path(os.path.abspath(file.expanduser()))
    title = f"jaxseg_user:{file}"
    if title not in sys.modules:
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}")
        spec = importlib.util.spec_from_file_location(title, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[title] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[title]
            raise
    return sys.modules[title]
