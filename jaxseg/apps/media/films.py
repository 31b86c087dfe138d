"""Writing pictures as a video, frame by frame: H.264, or an animated image for a page."""

import abc
import contextlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg import config
from jaxseg.apps import files

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Format of each suffix."""

ANIMATIONS = (".webp", ".gif")

GROUND = 24
"""Gray around a picture of another shape than the film's."""

CLOCK = 90_000
"""Ticks a second: all usual frame rates are whole numbers of them."""

OPTIONS = {"preset": "ultrafast", "crf": "20", "x264-params": "threads=1:colormatrix=smpte170m:range=tv"}
"""Little time beside the network's, hardly visible losses, one thread, and the matrix that OpenCV converts RGB with."""


def film(path: Path) -> "Film":
    """A file for a video, to be entered, written to and left.

    Args:
      path: .mp4, .mov or .mkv for H.264, .webp or .gif for an animated image.

    Raises:
      UserError: another suffix, or a folder that cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in CONTAINERS and suffix not in ANIMATIONS:
        known = ", ".join((*CONTAINERS, *ANIMATIONS))
        raise config.UserError(f"{path} has no suffix of a video. Choose one of {known}.")
    files.require_file(path)
    return H264(path) if suffix in CONTAINERS else Animation(path)


class Film(abc.ABC):
    """Pictures that become a file once all are there; until then it has another name, `NAME.partial`.

    What is at the path is replaced when the film is left, and stays where an exception leaves it, or no picture came.
    The partial file stays then too, readable as far as it goes.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(f"{path.name}.partial")
        self._size: tuple[int, int] | None = None
        self._time = 0.0

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if self._size is None:
            return
        if kind is not None:
            with contextlib.suppress(Exception):
                self._end()
            return
        with files.writing(self._path):
            self._end()
            self._partial.replace(self._path)

    def write(self, picture: np.ndarray, seconds: float) -> None:
        """Adds a picture.

        Args:
          picture: (H, W, 3) uint8 RGB; one of another size than the first is scaled to fit.
          seconds: from the picture before it to this one.

        Raises:
          UserError: the file cannot be written.
        """
        with files.writing(self._path):
            if self._size is None:
                self._size = picture.shape[:2]
                self._begin(self._size, seconds)
            else:
                self._time += seconds
            self._add(fitted(picture, self._size), self._time)

    @abc.abstractmethod
    def _begin(self, size: tuple[int, int], seconds: float) -> None:
        """Opens the partial file, for pictures of this size."""

    @abc.abstractmethod
    def _add(self, picture: np.ndarray, time: float) -> None:
        """Adds a picture of that size, seconds after the first."""

    @abc.abstractmethod
    def _end(self) -> None:
        """Completes the partial file."""


class H264(Film):
    """H.264 with colors at half the resolution, as players want it; odd sizes get their last row or column twice."""

    def _begin(self, size: tuple[int, int], seconds: float) -> None:
        import av

        self._container = av.open(str(self._partial), "w", format=CONTAINERS[self._path.suffix.lower()])
        rate = Fraction(1 / seconds).limit_denominator(1001)
        stream: Any = self._container.add_stream("libx264", rate, options=OPTIONS)
        stream.height, stream.width = (n + n % 2 for n in size)
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, CLOCK)
        self._stream = stream

    def _add(self, picture: np.ndarray, time: float) -> None:
        import av
        import cv2

        height, width = picture.shape[:2]
        if height % 2 or width % 2:
            picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), np.uint8)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = round(time * CLOCK), Fraction(1, CLOCK)
        self._container.mux(self._stream.encode(frame))

    def _end(self) -> None:
        with self._container:
            self._container.mux(self._stream.encode())


class Animation(Film):
    """An animated WebP or GIF that repeats for ever. All of it is in memory until it is left: for short pieces."""

    def _begin(self, size: tuple[int, int], seconds: float) -> None:
        self._pictures: list[np.ndarray] = []
        self._times: list[float] = []
        self._last = seconds

    def _add(self, picture: np.ndarray, time: float) -> None:
        self._pictures.append(picture)
        self._times.append(time)

    def _end(self) -> None:
        from PIL import Image

        first, *rest = (Image.fromarray(picture) for picture in self._pictures)
        shown = [round(1000 * float(s)) for s in np.diff([*self._times, self._times[-1] + self._last])]
        kind = self._path.suffix[1:].upper()
        first.save(self._partial, kind, save_all=True, append_images=rest, duration=shown, loop=0, quality=80)


def fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture, scaled as a whole to this size, in the middle of a dark ground where its shape is another.

    Args:
      picture: (H, W, 3) uint8 RGB.
      size: (height, width).
    """
    height, width = picture.shape[:2]
    if (height, width) == size:
        return picture
    from PIL import Image

    scale = min(size[0] / height, size[1] / width)
    inner = max(1, round(scale * height)), max(1, round(scale * width))
    canvas = np.full((*size, 3), GROUND, np.uint8)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    scaled = Image.fromarray(picture).resize(inner[::-1], Image.Resampling.LANCZOS)
    canvas[top : top + inner[0], left : left + inner[1]] = np.asarray(scaled)
    return canvas
