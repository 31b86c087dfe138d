"""Opens data sets by their settings, and prepares them first where that has not been done."""

import contextlib
import dataclasses
import hashlib
import io
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxseg.config import Data, Pictures, UserError
from jaxseg.data import Example, Label, cityscapes, coco, folder, layouts, shapes
from jaxseg.data.check import Record
from jaxseg.data.layouts import Layout
from jaxseg.types import ClassList

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

LAYOUTS = {"shapes": shapes.layout, "folder": folder.layout, "cityscapes": cityscapes.layout, "coco": coco.layout}
STALE = 86_400
"""Seconds after which what an interrupted preparation left half-written is removed."""


class Stored:
    """TFDS's view of one split, of examples as dicts. It can be pickled without TFDS logging that at every worker."""

    def __init__(self, view: Any) -> None:
        """Wraps a view."""
        self._view = view

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be 0 to {len(self) - 1}: got {index}.")
        return self._view[index]

    def __getstate__(self) -> bytes:
        return pickle.dumps(self._view)

    def __setstate__(self, state: bytes) -> None:
        # Loaded within, because TFDS logs each time a worker process gets a copy.
        with _quiet():
            self._view = pickle.loads(state)


class Prepared:
    """Prepared examples of one split by index, in the order of their names. It can be pickled."""

    def __init__(self, stored: Stored, classes: ClassList, full: bool) -> None:
        """Wraps what is stored of one split; ``full`` asks for the labels of evaluation."""
        self._stored = stored
        self._classes = classes
        self._full = full

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index: int, /) -> Example:
        stored, full = self._stored[index], None
        label = Label(stored["semantic"][..., 0], stored["instance"][..., 0])
        if self._full and "full_semantic" in stored:
            full = Label(stored["full_semantic"][..., 0], stored["full_instance"][..., 0])
        if stored["grouped"]:
            label, full = layouts.ungrouped(label, self._classes), label if self._full else None
        return Example(stored["image"], *label, name=stored["name"].decode(), full=full)


@dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
      title: what messages call it.
      classes: its class list.
      records: what each image of each split holds.
      builder: of TFDS.
    """

    title: str
    classes: ClassList
    records: Mapping[str, Sequence[Record]]
    builder: Any

    def split(self, name: str, full: bool = False) -> Prepared:
        """Examples of one split.

        Args:
          name: "train", "val" or "test".
          full: with the labels of evaluation, where these are others.

        Raises:
          UserError: the data set has no such split.
        """
        skipped = () if full else tuple(key for key in self.builder.info.features if key.startswith("full_"))
        return Prepared(stored(self.builder, name, self.title, skipped), self.classes, full)


def stored(builder: Any, split: str, title: str, skipped: Sequence[str] = ()) -> Stored:
    """One split of prepared data.

    Args:
      builder: of TFDS, with its data prepared.
      split: its name.
      title: what messages call the data set.
      skipped: features that are not decoded.

    Raises:
      UserError: the data set has no such split.
    """
    import tensorflow_datasets as tfds

    if split not in builder.info.splits:
        held = ", ".join(builder.info.splits)
        raise UserError(f"{title} has no split {split}, only {held}. Add it, or choose one of these.")
    decoders = {key: tfds.decode.SkipDecoding() for key in skipped}
    with _quiet():
        return Stored(builder.as_data_source(split, decoders=decoders or None))


def resolve(data: Data) -> tuple[Data, Layout]:
    """Lists a data set, and puts its class list into the settings, where these leave it to the data set.

    Args:
      data: settings.

    Returns:
      The same with classes, stuff and colors as they are, and the listing.

    Raises:
      UserError: the data set cannot be listed.
    """
    try:
        layout = LAYOUTS[data.builder](data)
    except OSError as error:
        raise UserError(f"{error.filename or data.root}: {error.strerror or error}. Check --data.root.") from error
    known = layout.classes
    resolved = dataclasses.replace(
        data,
        classes=known.names[1:],
        stuff=tuple(known.names[i] for i in known.stuff),
        colors=known.colors[1:],
    )
    return resolved, layout


def source(data: Data, split: str, full: bool = False) -> Prepared:
    """Opens one split of a data set; prepares the data set if it is new or has changed.

    Args:
      data: settings.
      split: "train" or "val"; a data set may hold "test" too.
      full: with the labels of evaluation, where these are others.

    Returns:
      Its examples.

    Raises:
      UserError: what is wrong with the data set or its settings; nothing prepared earlier is touched then.
    """
    return dataset(data).split(split, full)


def dataset(data: Data, layout: Layout | None = None) -> Dataset:
    """Opens a data set; prepares it if it is new or has changed.

    What is stored is named after a fingerprint of the settings and of the files that it was made from, and appears
    under that name only once it is complete. What was prepared from other settings or files stays beside it. An
    interrupted preparation goes on where it stopped.

    Args:
      data: settings.
      layout: their listing, where it is at hand.

    Returns:
      The data set.

    Raises:
      UserError: the data set cannot be read, or the cache cannot be written.
    """
    from jaxseg.data import builders

    layout = layout or resolve(data)[1]
    builder = opened(lambda: _builder(data, layout), data)
    held = builder.info.metadata
    records = {split: [builders.to_record(row) for row in held[split]] for split in layout.splits}
    # Every worker process would get a copy.
    held.clear()
    return Dataset(layout.title, layout.classes, records, builder)


def opened(
    make: Callable[[], "tfds.core.DatasetBuilder"], data: Data | Pictures, kept: Sequence[str] | None = None
) -> Any:
    """A builder whose data is prepared and whole.

    Args:
      make: builds it; what it holds is prepared where that has not been done.
      data: settings that messages name.
      kept: keys of its metadata; None for the splits.

    Raises:
      UserError: the data set cannot be read, or the cache cannot be written.
    """
    with _quiet():
        try:
            builder = make()
            if not builder.data_path.exists():
                _write(builder, data)
            _require_whole(builder, kept)
        except OSError as error:
            name = error.filename or cache(data)
            raise UserError(f"{name}: {error.strerror or error}. Check --data.root and --data.cache.") from error
    return builder


def cache(data: Data | Pictures) -> Path:
    """Folder of prepared data: the setting, or jaxseg in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(data.cache or f"{base}/jaxseg").expanduser()


def progress(items: Any, total: int, description: str) -> Iterator[Any]:
    """Yields the items beside a bar on stderr that vanishes when it is full."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(items, total=total, description=description)


def _builder(data: Data, layout: Layout) -> "tfds.core.DatasetBuilder":
    from jaxseg.data import builders

    origin = data.builder if data.builder == "shapes" else str(Path(layout.title).resolve())
    content = content_of(origin, layout.fingerprint())
    name = "-".join((content, *sorted(set(data.accept))))
    root = cache(data)
    kind = {
        "shapes": builders.Shapes,
        "folder": builders.Folder,
        "cityscapes": builders.Cityscapes,
        "coco": builders.Coco,
    }[data.builder]
    settings = builders.Listed(
        name=name,
        layout=layout,
        accept=data.accept,
        parts=root / "parts" / f"{data.builder}-{content}-{kind.VERSION}",
        progress=progress,
    )
    return kind(config=settings, data_dir=root, file_format="array_record")


def content_of(origin: str, fingerprint: str) -> str:
    """Name of a data set's state: where it lies, and what is there."""
    return f"{hashlib.sha256(origin.encode()).hexdigest()[:8]}-{fingerprint}"


def _write(builder: "tfds.core.DatasetBuilder", data: Data | Pictures) -> None:
    """Into a temporary folder, renamed when it is complete; then the parts are not needed any more."""
    for left in Path(builder.data_path).parent.glob("incomplete.*"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except OSError:
        # Two runs may prepare the same data at once; whoever comes second finds it done.
        if not builder.data_path.exists():
            raise
    if parts := getattr(builder.builder_config, "parts", None):
        shutil.rmtree(parts, ignore_errors=True)
    text = f"prepared {data.root or data.builder} in {builder.data_path}"
    Console(stderr=True, soft_wrap=True, highlight=False).print(text, markup=False)


def _require_whole(builder: "tfds.core.DatasetBuilder", kept: Sequence[str] | None) -> None:
    """Refuses prepared data of which a file is missing or ends early."""
    from array_record.python import array_record_module

    path = builder.data_path
    try:
        for split in builder.info.splits.values():
            for file, length in zip(split.filepaths, split.shard_lengths, strict=True):
                reader = array_record_module.ArrayRecordReader(str(file))
                held = reader.num_records()
                reader.close()
                if held != length:
                    raise ValueError(f"{Path(file).name} holds {held} of {length} examples")
        if set(builder.info.metadata) != set(kept or builder.info.splits):
            raise ValueError("its records are missing")
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"The prepared data in {path} is damaged: {error}. Remove that folder; it is made again."
        ) from error


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
