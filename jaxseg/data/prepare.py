"""Opens data sets by their settings, and prepares them first where that has not been done."""

import contextlib
import hashlib
import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxseg.config import Data, UserError
from jaxseg.data import Example, Source, folder, shapes
from jaxseg.types import IGNORED

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


class Prepared:
    """Prepared examples of one split by index, in the order of their names. It can be pickled."""

    def __init__(self, stored: Any, semantic: Any) -> None:
        """Wraps two views of one split: whole examples as dicts, and their semantic maps alone."""
        self._stored = stored
        self._semantic = semantic

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index: int, /) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be 0 to {len(self) - 1}: got {index}.")
        stored = self._stored[index]
        return Example(
            image=stored["image"],
            semantic=stored["semantic"][..., 0],
            instance=stored["instance"][..., 0],
            name=stored["name"].decode(),
        )

    def __getstate__(self) -> bytes:
        return pickle.dumps((self._stored, self._semantic))

    def __setstate__(self, state: bytes) -> None:
        # Loaded within, because TFDS logs each time a worker process gets a copy.
        with _quiet():
            self._stored, self._semantic = pickle.loads(state)

    def semantic(self, index: int) -> np.ndarray:
        """Semantic map of one example, without decoding its image."""
        return self._semantic[index]["semantic"][..., 0]


def source(data: Data, split: str) -> Prepared:
    """Opens one split of a data set; prepares the data set if it is new or has changed.

    Args:
      data: settings.
      split: "train" or "val"; a folder may hold "test" too.

    Returns:
      Its examples.

    Raises:
      UserError: what is wrong with the data set or its settings; nothing prepared earlier is touched then.
    """
    builder = prepare(data)
    if split not in builder.info.splits:
        held = ", ".join(builder.info.splits)
        raise UserError(
            f"{data.root or data.builder} has no split {split}, only {held}. Add {split}/images and {split}/instances."
        )
    import tensorflow_datasets as tfds

    skip = tfds.decode.SkipDecoding()
    alone = {"image": skip, "instance": skip}
    return Prepared(builder.as_data_source(split), builder.as_data_source(split, decoders=alone))


def prepare(data: Data) -> "tfds.core.DatasetBuilder":
    """Builder of a data set, prepared.

    What is stored is named after a fingerprint of the settings and of the files that it was made from, and appears
    under that name only once it is complete. What was prepared from other settings or files stays beside it.

    Args:
      data: settings.

    Returns:
      The TFDS builder.

    Raises:
      UserError: the data set cannot be read, or the cache cannot be written.
    """
    with _quiet():
        try:
            builder = _builder(data, cache(data))
            if not builder.data_path.exists():
                _write(builder, data)
        except OSError as error:
            name = error.filename or cache(data)
            raise UserError(f"{name}: {error.strerror or error}. Check --data.root and --data.cache.") from error
    return builder


def cache(data: Data) -> Path:
    """Folder of prepared data: the setting, or jaxseg in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(data.cache or f"{base}/jaxseg").expanduser()


def class_frequencies(source: Source, classes: int) -> np.ndarray:
    """Counts the labelled pixels of each class at their stored size.

    Args:
      source: training examples.
      classes: number of classes, background included.

    Returns:
      (classes,) int64 pixels of each class; ignored pixels are not counted.

    Raises:
      UserError: an example holds a class that is not in the list.
    """
    counts = np.zeros(256, np.int64)
    for i in _progress(range(len(source)), len(source), "counting classes"):
        semantic = source.semantic(i) if isinstance(source, Prepared) else source[i].semantic
        counts += np.bincount(semantic.ravel(), minlength=256)
    beyond = np.flatnonzero(counts[classes:IGNORED])
    if beyond.size:
        raise UserError(
            f"The data holds class {classes + beyond[0]}, but --data.classes names 1 to {classes - 1}. Name it there."
        )
    return counts[:classes]


def _builder(data: Data, root: Path) -> "tfds.core.DatasetBuilder":
    match data.builder:
        case "shapes":
            return _shapes(data, root)
        case "folder":
            return _folder(data, root)
    raise UserError(f"There is no data builder {data.builder}. Choose shapes or folder.")


def _shapes(data: Data, root: Path) -> "tfds.core.DatasetBuilder":
    from jaxseg.data import builders

    given, known, s = data.classes, shapes.CLASSES, data.shapes
    misplaced = any(name in known and known[i : i + 1] != (name,) for i, name in enumerate(given))
    if len(given) > len(known) or misplaced:
        raise UserError(
            f"`data.classes` of shapes must be the first 1 to {len(known)} of {', '.join(known)}: "
            f"got {', '.join(given)}."
        )
    name = f"{s.size[0]}x{s.size[1]}-{len(given)}-classes-{s.train}-{s.val}-seed-{data.seed}"
    settings = builders.ShapesConfig(
        name=name, size=(s.size[0], s.size[1]), classes=len(given), seed=data.seed, train=s.train, val=s.val
    )
    return builders.Shapes(config=settings, data_dir=root, file_format="array_record")


def _folder(data: Data, root: Path) -> "tfds.core.DatasetBuilder":
    from jaxseg.data import builders

    layout = folder.layout(data)
    place = hashlib.sha256(str(layout.root.resolve()).encode()).hexdigest()[:8]
    settings = builders.FolderConfig(name=f"{place}-{layout.fingerprint()}", layout=layout)
    return builders.Folder(config=settings, data_dir=root, file_format="array_record")


def _write(builder: "tfds.core.DatasetBuilder", data: Data) -> None:
    """Into a temporary folder, renamed when it is complete."""
    builder.progress = _progress
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except OSError:
        # Two runs may prepare the same data at once; whoever comes second finds it done.
        if not builder.data_path.exists():
            raise
    Console(stderr=True, soft_wrap=True).print(f"prepared {data.root or data.builder} in {builder.data_path}")


def _progress(items: Any, total: int, description: str) -> Iterator[Any]:
    """Yields the items beside a bar on stderr that vanishes when it is full."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(items, total=total, description=description)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS without its own bars, banner and log lines."""
    import tensorflow_datasets as tfds
    from absl import logging as absl_logging

    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)
