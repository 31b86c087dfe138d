"""Prediction: images, videos and cameras in; overlays, maps and lists of objects, a video, a window out.

Frames are read and brought to the device ahead, in a thread. The model is called on the next frame before the last one
is fetched, so that the device is never without work; fetching, drawing and PNGs have threads of their own, and so has
the video, whose pictures keep their order. All queues are short: whoever is slowest sets the pace.
"""

import collections
import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from rich import progress
from rich.console import Console
from rich.text import Text

from jaxseg import config, results, visualize
from jaxseg.apps import exported, files, model, stream
from jaxseg.apps.media import films
from jaxseg.apps.media import inputs as reading
from jaxseg.apps.media.window import Window
from jaxseg.train import storage
from jaxseg.types import ClassList, Segmentation

T = TypeVar("T")

AHEAD = 2
"""Frames that are read before they are needed."""

WORKERS = min(os.cpu_count() or 1, 8)
"""Threads that draw and write."""

PATIENT = 15
"""Niceness of all threads but the network's, which drawing would delay where processors are few."""


@dataclasses.dataclass(frozen=True)
class _Item:
    """A frame on its way: where it came from, and its copy on the device."""

    source: reading.Source
    frame: reading.Frame
    placed: jax.Array


def predict(
    network: storage.Folder,
    inputs: Sequence[str],
    output: Path | None = None,
    video: Path | None = None,
    view: bool = False,
    best: bool = False,
) -> int:
    """Segments every frame of every input.

    Args:
      network: folder of a run, or an exported file.
      inputs: images, videos, folders and globs of them, numbers of cameras.
      output: folder for NAME_overlay.png, NAME_semantic.png, NAME_instance.png and NAME.json of each frame.
      video: file for the overlays of all frames, see `films.film`.
      view: whether to show the overlays in a window.
      best: the best of the states that training measured, instead of the latest.

    Returns:
      0; 2 where an input or a frame could not be read, all others being written; 130 where Ctrl-C came before the end,
      which a camera does not have. What was finished by then is kept.

    Raises:
      UserError: nothing asked for, no usable run, no input at all, no screen, or a result that cannot be written.
    """
    if not (output or video or view):
        raise config.UserError("nothing to do with the results. Give --output DIR, --video FILE or --view.")
    sources, problems = reading.sources(inputs)
    if not sources:
        raise config.UserError(problems[0])
    with contextlib.ExitStack() as stack:
        if output:
            files.require_writable(output)
        film = stack.enter_context(_film(video, sources)) if video else None
        window = stack.enter_context(Window()) if view else None
        trained = exported.open_model(network, best=best)
        bar = stack.enter_context(Bar(sources))
        for problem in problems:
            bar.report(problem)
        interrupted = run(trained, sources, bar, output, film, window)
    if interrupted and not any(source.live for source in sources):
        bar.report(f"interrupted. What was made of {bar.done} frames is complete.")
        return 130
    return 2 if bar.problems else 0


def _film(path: Path, sources: Sequence[reading.Source]) -> films.Film:
    if any(path.resolve() == source.path.resolve() for source in sources):
        raise config.UserError(f"{path} is an input as well. Choose another file for --video.")
    return films.film(path)


def run(
    trained: "model.Model | exported.Exported",
    sources: Sequence[reading.Source],
    bar: "Bar",
    output: Path | None = None,
    film: films.Film | None = None,
    window: Window | None = None,
) -> bool:
    """Segments all frames, with everything at work at once.

    Args:
      trained: the network.
      sources: the inputs.
      bar: is told of each frame that is done, and of what cannot be read.
      output: folder for the files of each frame.
      film: takes the overlays in their order.
      window: shows them; where it is closed, this ends.

    Returns:
      Whether Ctrl-C ended it. What had been read by then is finished.

    Raises:
      UserError: a result cannot be written.
    """
    segmented = _Tracked(trained, images=film is not None)
    finish = _Finish(trained.classes, output)
    live, interrupted = any(source.live for source in sources), False
    pending: collections.deque[tuple[_Item, Future[np.ndarray]]] = collections.deque()
    # What a camera shows should be new, so that few frames are on their way.
    ahead, depth = (1, 1) if live else (AHEAD, WORKERS + 1)

    def deliver() -> None:
        item, picture = pending[0]
        shown = picture.result()
        pending.popleft()
        bar.advance()
        if window and not window.closed:
            if item.source.moving or film:
                window.show(shown, item.frame.name, 0.0 if live else item.frame.seconds)
            else:
                window.show(shown, f"{item.frame.name} - any key: next, q: end")
                window.wait()

    with (
        ThreadPoolExecutor(WORKERS, initializer=_yielding) as workers,
        ThreadPoolExecutor(1, initializer=_yielding) as encoder,
        contextlib.closing(_ahead(_items(sources, trained.frame), ahead)) as items,
    ):
        try:
            for item in items:
                if isinstance(item, config.UserError):
                    bar.report(str(item))
                    continue
                picture = workers.submit(finish, item, segmented(item.source, item.placed))
                if film:
                    picture = encoder.submit(_written, film, picture, item.frame.seconds)
                pending.append((item, picture))
                while len(pending) > depth:
                    deliver()
                if window and window.closed:
                    break
            while pending:
                deliver()
        except KeyboardInterrupt:
            interrupted, window = True, None
        while pending:
            deliver()
    return interrupted


def _items(
    sources: Sequence[reading.Source], size: tuple[int, int] | None
) -> Generator[_Item | config.UserError, None, None]:
    """All frames in order, on the device, and what could not be read of an input, or is not of the only size taken."""
    for source in sources:
        try:
            for frame in source.frames():
                if size and frame.pixels.shape[:2] != size:
                    height, width = frame.pixels.shape[:2]
                    raise config.UserError(
                        f"{source.path} is {height} x {width}, and the exported file takes {size[0]} x {size[1]}. "
                        f"Resize it, or export again with --frame {height} {width}."
                    )
                yield _Item(source, frame, jax.device_put(frame.pixels))
        except config.UserError as error:
            yield error


def _yielding() -> None:
    """Lets a thread of ours wait for those that run the network, where Linux counts priorities by thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PATIENT)


def _ahead(items: Generator[T, None, None], count: int) -> Generator[T, None, None]:
    """The same, with ``count`` of them read ahead in a thread."""
    with contextlib.closing(items), ThreadPoolExecutor(1, initializer=_yielding) as reader:
        end = object()
        pending = collections.deque(reader.submit(next, items, end) for _ in range(count))
        while (item := pending.popleft().result()) is not end:
            pending.append(reader.submit(next, items, end))
            yield item  # type: ignore[misc]


def _written(film: films.Film, picture: Future[np.ndarray], seconds: float) -> np.ndarray:
    film.write(picture.result(), seconds)
    return picture.result()


class _Tracked:
    """The model, with identities over the frames of a sequence: a video, a camera, or all images of a film."""

    def __init__(self, trained: "model.Model | exported.Exported", images: bool) -> None:
        self._trained, self._images = trained, images
        self._stream, self._sequence = stream.Stream(trained), ""

    def __call__(self, source: reading.Source, frame: jax.Array) -> Segmentation:
        if not (source.moving or self._images):
            return self._trained(frame)
        sequence = source.name if source.moving else ""
        if sequence != self._sequence:
            self._stream, self._sequence = stream.Stream(self._trained), sequence
        return self._stream(frame)


@dataclasses.dataclass(frozen=True)
class _Finish:
    """What becomes of a frame, in any thread: fetched, drawn, and written where there is a folder."""

    classes: ClassList
    output: Path | None

    def __call__(self, item: _Item, found: Segmentation) -> np.ndarray:
        found = jax.device_get(found)
        picture = visualize.overlay(item.frame.pixels, found.semantic, found.instance, found.instances, self.classes)
        if self.output:
            write(self.output, item.frame.name, picture, found, self.classes)
        return picture


class Bar:
    """Frames done and frames/s, on stderr: a bar on a terminal, otherwise a line at the end.

    Attributes:
      done: frames.
      problems: lines that were reported.
    """

    def __init__(self, sources: Sequence[reading.Source]) -> None:
        self.done, self.problems = 0, 0
        counts = [source.count for source in sources]
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        columns = (progress.TextColumn("predict"), progress.BarColumn(), progress.MofNCompleteColumn(), _Speed())
        self._progress = progress.Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._progress.add_task("", total=None if None in counts else sum(c or 0 for c in counts))
        self._first = self._last = 0.0

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self._progress.stop()
        if not self._console.is_terminal and self.done and kind is None:
            # The first frame is left out: the program is compiled for it.
            seconds = self._last - self._first
            speed = f", {(self.done - 1) / seconds:.1f} frames/s" if seconds else ""
            self._console.print(f"{self.done} frames{speed}", markup=False)

    def advance(self) -> None:
        """One more frame is done."""
        self.done, self._last = self.done + 1, time.perf_counter()
        self._first = self._first or self._last
        self._progress.advance(self._task)

    def report(self, problem: str) -> None:
        """Says what cannot be read, above the bar."""
        self.problems += 1
        self._console.print(f"jaxseg: {problem}", markup=False)


class _Speed(progress.ProgressColumn):
    """Frames a second of late."""

    def render(self, task: progress.Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f} frames/s")


def write(output: Path, name: str, overlay: np.ndarray, found: Segmentation, classes: ClassList) -> None:
    """Writes the four files of one frame.

    Args:
      output: an existing folder.
      name: what the files start with.
      overlay: (H, W, 3) uint8 RGB.
      found: host arrays of the same size.
      classes: names for the list.

    Raises:
      UserError: a file cannot be written.
    """
    for kind, picture in (("overlay", overlay), ("semantic", found.semantic), ("instance", found.instance)):
        files.write_image(output / f"{name}_{kind}.png", np.asarray(picture))
    document = {
        "height": overlay.shape[0],
        "width": overlay.shape[1],
        "classes": class_table(classes),
        "lost": int(found.lost),
        "instances": results.objects(found, classes),
    }
    files.write_json(output / f"{name}.json", document)


def class_table(classes: ClassList) -> list[dict[str, Any]]:
    """The class list: id, name, isthing (0 for a class without instances, as COCO writes it) and color."""
    colors = visualize.class_colors(classes)
    return [
        {"id": i, "name": name, "isthing": int(i in classes.things), "color": [int(v) for v in colors[i]]}
        for i, name in enumerate(classes.names)
    ]
