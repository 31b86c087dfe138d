"""JSON files that nobody vouches for.

A file over `LARGEST` is refused before it is read, and one whose content could take more than `MEMORY` before it is
parsed; a data set may have three. Annotations take about six bytes for each byte of their file, COCO's own (450 MB)
under 3 GiB; empty lists and small objects, which nobody annotates with, take thirty.
"""

import json
import reprlib
import unicodedata
from pathlib import Path
from typing import Any

from jaxseg.config import UserError, check_classes
from jaxseg.types import ClassList

LARGEST = 2 << 30
"""Most bytes of a JSON file."""

MEMORY = 16 << 30
"""Most bytes that the content of a JSON file may take, by what `_memory` expects at most."""

COSTS = {b"[": 64, b"{": 240, b",": 64, b":": 120}
"""Bytes that CPython takes at most for what follows each of these: a list, an object, a value, a key with its place."""


def load(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
      UserError: it cannot be read, is larger than `LARGEST`, is not JSON, or is nested beyond reason.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} holds over {LARGEST >> 30} GiB. Split it.")
        with path.open("rb") as file:
            content = file.read()
        if _memory(content) > MEMORY:
            raise UserError(f"{path} would take over {MEMORY >> 30} GiB of memory. Split it.")
        return json.loads(content, parse_constant=_refuse)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}. Restore it.") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply to be annotations. Export it again.") from error
    except (ValueError, MemoryError) as error:
        raise UserError(f"{path} is not JSON: {error}. Export it again.") from error


def _memory(content: bytes) -> int:
    """Bytes that a JSON text takes at most, read, decoded and parsed; quickly counted."""
    text = len(content) * (2 if content.isascii() else 5)
    return text + sum(cost * content.count(mark) for mark, cost in COSTS.items())


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def printable(text: str) -> bool:
    """Whether a text can be encoded and fits on one line: no control characters, line separators or lone surrogates."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)


def identifies(value: Any) -> bool:
    """Whether a value from a file is an id: a whole number or a text. True would equal 1."""
    return type(value) in (int, str)


def shown(value: Any) -> str:
    """A value from a file, for a message: on one line, not long, whatever it is."""
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxdict, short.maxstring, short.maxother = 2, 4, 4, 100, 60
    return short.repr(value)


def class_list(values: Any, name: str) -> ClassList:
    """A list of classes, from id 1 on.

    Args:
      values: names, or objects with ``name`` and, where they apply, ``isthing`` and ``color``.
      name: of the file, for messages.

    Raises:
      UserError: anything else.
    """
    listed = values if isinstance(values, list) else []
    entries = [{"name": value} if isinstance(value, str) else value for value in listed]
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    if not entries or not all(isinstance(n, str) and printable(n) for n in names):
        raise UserError(f"{name} lists no classes. Write names, or objects with a name, in the order of their ids.")
    stuff = tuple(entry["name"] for entry in entries if entry.get("isthing", 1) == 0)
    colors = [entry.get("color") for entry in entries]
    whole = all(isinstance(c, list) and len(c) == 3 and all(type(v) is int for v in c) for c in colors)
    rgb: Any = tuple(map(tuple, colors)) if whole else ()  # type: ignore[arg-type]
    try:
        check_classes(tuple(map(str, names)), stuff, rgb)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return ClassList.of(tuple(map(str, names)), stuff, rgb)
