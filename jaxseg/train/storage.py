"""Where runs are kept: folders, and prefixes in an object store, which holds whole files only."""

import io
from pathlib import Path
from typing import TypeAlias

from etils import epath

from jaxseg import config

Folder: TypeAlias = Path | epath.Path
"""A folder; an `epath.Path` is in an object store."""

SCHEME = "gs://"
"""Of the object store that Orbax can write to, Google Cloud Storage."""


def folder(text: str) -> Folder:
    """A folder by its path, or a prefix in an object store by its URL.

    Raises:
      UserError: the store is of another kind or cannot be reached, or its client is not installed.
    """
    if "://" not in text:
        return Path(text)
    if not text.startswith(SCHEME):
        raise config.UserError(f"{text} is in no store that checkpoints can be in. Give a folder, or gs://BUCKET/...")
    path = epath.Path(text)
    try:
        path.exists()
    except ImportError as error:
        raise config.UserError(f"{text} needs gcsfs, which is not installed: pip install gcsfs.") from error
    except Exception as error:  # Each store's client has errors of its own.
        raise config.UserError(f"{text} cannot be reached: {reason(error)}.") from error
    return path


def remote(path: Folder) -> bool:
    """Whether a path is in an object store."""
    return isinstance(path, epath.Path)


def absolute(path: Folder) -> Folder:
    """A path that means the same from everywhere."""
    return path if isinstance(path, epath.Path) else path.absolute()


def reason(error: Exception) -> str:
    """What went wrong, in a line."""
    said = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return str(said)[:200].rstrip(".")


def write_whole(path: Folder, content: bytes) -> None:
    """Writes a file in one piece: one that is there is replaced once the new one is complete.

    Raises:
      OSError: it cannot be written; an object store's client may raise errors of its own.
    """
    if isinstance(path, Path):
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(content)
        partial.replace(path)
    else:
        path.write_bytes(content)  # A store shows no file before all of it is there.


class EventFiles:
    """Lets tensorboardX write to an object store: a file is kept in memory, and stored anew whenever it is flushed."""

    @staticmethod
    def register() -> None:
        """For all later writers of this program."""
        from tensorboardX import record_writer

        record_writer.register_writer_factory(SCHEME.removesuffix("://"), EventFiles())

    def open(self, path: str) -> "_EventFile":
        """A new file."""
        return _EventFile(epath.Path(path))

    def directory_check(self, path: str) -> None:
        """Prefixes need not be made."""


class _EventFile:
    def __init__(self, path: epath.Path) -> None:
        self._path, self._content = path, io.BytesIO()

    def write(self, content: bytes) -> None:
        self._content.write(content)

    def flush(self) -> None:
        self._path.write_bytes(self._content.getvalue())

    def close(self) -> None:
        self.flush()
