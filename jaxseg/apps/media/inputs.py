"""Reading what a user names on the command line: images, folders, globs, videos and cameras, as uint8 RGB frames."""

import collections
import dataclasses
import glob
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from jaxseg import config

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""Of images."""

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")
"""Suffixes of video files."""

RATE = 25
"""Frames a second of images, and of videos that do not say it."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame of an input.

    Attributes:
      name: what its results are called.
      pixels: (H, W, 3) uint8 RGB.
      seconds: from the frame before it to this one.
    """

    name: str
    pixels: np.ndarray
    seconds: float


class Source(Protocol):
    """An input that gives frames.

    Attributes:
      moving: whether its frames follow one another in time.
      live: whether it goes on until the user ends it.
    """

    moving: ClassVar[bool]
    live: ClassVar[bool]

    @property
    def path(self) -> Path:
        """Its file; of a camera, what its results are called."""

    @property
    def name(self) -> str:
        """What its results are called: different for all inputs of a command."""

    @property
    def count(self) -> int | None:
        """How many frames there are, as far as is known."""

    def frames(self) -> Iterator[Frame]:
        """Reads frame by frame; ends with a UserError where some or all of them cannot be read."""


def paths(text: str, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Files that one input names, in order; a file that is missing is reported when it is read.

    Args:
      text: a file, a folder or a glob.
      suffixes: of the files that are taken from a folder, lower case.
    """
    path = Path(text)
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes)
    if any(c in text for c in "*?[") and not path.is_file():
        return [Path(p) for p in sorted(glob.glob(text, recursive=True)) if Path(p).is_file()]
    return [path]


def sources(texts: Sequence[str]) -> tuple[list[Source], list[str]]:
    """Opens what a command line names.

    Args:
      texts: images, videos, folders, globs, and numbers or device files of cameras.

    Returns:
      The inputs in order, each with a name of its own, and a line for each that holds nothing or cannot be opened.
      Images are not read yet.
    """
    found: list[Source] = []
    problems = []
    for text in texts:
        camera = re.fullmatch(r"(?:/dev/video)?(\d+)", text)
        if camera and not Path(text).is_file():
            its: list[Path | int] = [int(camera[1])]
        else:
            its = [*paths(text, SUFFIXES + VIDEOS)]
        if not its:
            problems.append(f"{text} holds no image or video. Give an image, a video, a folder of them or a glob.")
        for one in its:
            try:
                found.append(_source(one))
            except config.UserError as error:
                problems.append(str(error))
    return _distinct(found), problems


def _source(one: Path | int) -> Source:
    if isinstance(one, int):
        return Camera.opened(one)
    return Video.opened(one) if one.suffix.lower() in VIDEOS else Still(one, one.stem)


def _distinct(found: Sequence[Source]) -> list[Source]:
    """The same with a name of its own for each: the stem; the full name, then a number, where stems repeat.

    The frames of a video have numbers behind its name, so an image that has one there too repeats it.
    """
    moving = {s.path.stem for s in found if s.moving}
    plain = [re.sub(r"_\d{6,}$", "", s.path.stem) for s in found]
    stems = [p if p in moving else s.path.stem for p, s in zip(plain, found, strict=True)]
    often = collections.Counter(stems)
    taken: set[str] = {stem for stem in stems if often[stem] == 1}
    renamed: list[Source] = []
    for source, stem in zip(found, stems, strict=True):
        name = source.path.stem
        if often[stem] > 1:
            full, n = source.path.name.replace(".", "_"), 1
            name = full
            while name in taken:
                n += 1
                name = f"{full}_{n}"
            taken.add(name)
        renamed.append(dataclasses.replace(source, name=name))  # type: ignore[type-var]
    return renamed


@dataclasses.dataclass(frozen=True)
class Still:
    """An image file, see `Source`."""

    path: Path
    name: str
    count: int | None = 1
    moving: ClassVar[bool] = False
    live: ClassVar[bool] = False

    def frames(self) -> Iterator[Frame]:
        """The image.

        Raises:
          UserError: it cannot be read.
        """
        yield Frame(self.name, read_image(self.path), 1 / RATE)


@dataclasses.dataclass(frozen=True)
class Video:
    """A video file, see `Source`.

    Attributes:
      rate: frames a second.
      seconds: its length; None where the file does not say it.
    """

    path: Path
    name: str
    count: int | None
    rate: float
    seconds: float | None
    moving: ClassVar[bool] = True
    live: ClassVar[bool] = False

    @classmethod
    def opened(cls, path: Path) -> "Video":
        """Reads the header.

        Raises:
          UserError: no such file, or none that holds a video.
        """
        with _container(path) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or RATE)
            seconds = _length(container, stream)
            count = None if seconds is None else round(seconds * rate)
            # The header of an AVI counts frames, its length is that of what is there.
            count = stream.frames if container.format.name == "avi" else count
            return cls(path, path.stem, count, rate, seconds)

    def frames(self) -> Iterator[Frame]:
        """Every frame that can be decoded, turned upright; its number, from 0 on, stands in its name.

        Raises:
          UserError: at the end, where frames could not be decoded or are missing.
        """
        from av.video.reformatter import VideoReformatter

        # One for all frames: each would else set up its own conversion of colors, which takes as long as decoding.
        number, end, damaged, converter = 0, 0.0, [], VideoReformatter()
        for frame in _decoded(self.path):
            if frame is None or frame.is_corrupt:
                damaged.append(number)
            else:
                end = (frame.time or 0.0) + 1 / self.rate
                pixels = converter.reformat(frame, format="rgb24").to_ndarray()
                pixels = np.rot90(pixels, round(frame.rotation / 90))
                yield Frame(f"{self.name}_{number:06}", np.ascontiguousarray(pixels), 1 / self.rate)
            number += 1
        self._complain(number, end, damaged)

    def _complain(self, number: int, end: float, damaged: list[int]) -> None:
        done, wanted = number - len(damaged), self.count or 0
        if not done:
            raise config.UserError(f"{self.path} holds no frame that can be decoded. Replace or remove it.")
        late = self.seconds is not None and end < self.seconds - 2 / self.rate
        if done < wanted and (late or number < wanted - 2):
            raise config.UserError(f"{self.path} ends after {done} of {wanted} frames. Replace it.")
        if damaged:
            more = f", nor can {len(damaged) - 1} more" if len(damaged) > 1 else ""
            raise config.UserError(f"{self.path}: frame {damaged[0]} cannot be decoded{more}. Replace the file.")


def _container(path: Path) -> Any:
    """A video file, opened.

    Raises:
      UserError: no such file, or none that holds a video.
    """
    import av

    if not path.is_file():
        raise config.UserError(f"{path} does not exist. Check the path.")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise config.UserError(f"{path} cannot be read as a video: {reason}. Replace or remove it.") from error
    if not container.streams.video or container.streams.video[0].codec_context is None:
        container.close()
        raise config.UserError(f"{path} holds no video that can be decoded. Convert or remove it.")
    return container


def _length(container: Any, stream: Any) -> float | None:
    """Seconds that the video lasts. Matroska says it in a tag; the whole file's length may be that of its sound."""
    import av

    if stream.duration:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if tag:
        return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])
    alone = len(container.streams) == 1 and container.duration
    return container.duration / av.time_base if alone else None


def _decoded(path: Path) -> Iterator[Any]:
    """Frames of a video as PyAV has them; None for a packet that cannot be decoded."""
    import av

    with _container(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                return  # The rest of the file is missing.
            if packet is None:
                return
            try:
                yield from packet.decode()
            except av.FFmpegError:
                yield None


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera, see `Source`; its frames come until somebody ends it.

    Attributes:
      capture: OpenCV's.
    """

    path: Path
    name: str
    capture: Any
    count: int | None = None
    moving: ClassVar[bool] = True
    live: ClassVar[bool] = True

    @classmethod
    def opened(cls, number: int) -> "Camera":
        """Opens a camera by its number.

        Raises:
          UserError: there is none, or it is in use.
        """
        import cv2

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        capture = cv2.VideoCapture(number)
        if not capture.isOpened():
            remedy = "Connect it, or end the program that uses it."
            raise config.UserError(f"camera {number} cannot be opened. {remedy}")
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # What is shown should be new.
        return cls(Path(f"camera_{number}"), f"camera_{number}", capture)

    def frames(self) -> Iterator[Frame]:
        """Every frame, with the time that really went by.

        Raises:
          UserError: the camera gives no more.
        """
        number, before = 0, None
        try:
            while True:
                there, pixels = self.capture.read()
                now = time.monotonic()
                if not there:
                    raise config.UserError(f"{self.path} gave no frame after {number} frames. Check its connection.")
                seconds = 1 / RATE if before is None else now - before
                yield Frame(f"{self.name}_{number:06}", np.ascontiguousarray(pixels[..., ::-1]), seconds)
                number, before = number + 1, now
        finally:
            self.capture.release()


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 RGB (H, W, 3), turned upright.

    Gray and palette files are converted, 16 bits are scaled to 8. What is transparent is laid on black, for the colors
    that a file stores there may be anything.

    Raises:
      UserError: no such file, or one that cannot be decoded completely.
    """
    from PIL import Image, ImageOps

    if not path.is_file():
        raise config.UserError(f"{path} does not exist. Check the path.")
    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):
                image = Image.fromarray(np.clip((np.asarray(image, np.int64) + 128) // 257, 0, 255).astype(np.uint8))
            if image.has_transparency_data:
                ground = Image.new("RGBA", image.size, "black")
                image = Image.alpha_composite(ground, image.convert("RGBA"))
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise config.UserError(f"{path} cannot be read as an image: {error}. Replace or remove it.") from error
