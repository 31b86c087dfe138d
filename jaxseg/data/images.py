"""Images and label maps from files that nobody vouches for.

A file is refused before its pixels are decoded where it claims more than `PIXELS` pixels or holds more than `CONTENT`
bytes; what is decoded takes at most 24 bytes a pixel at a time (four channels of 16 bits, twice, and their decoder's
copy), 1.5 GiB, and a quarter of that for photographs of 8 bits. Files that end early are refused too.
"""

import hashlib
import io
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxseg.config import Problem
from jaxseg.data.layouts import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
KEPT_AS_THEY_ARE = ("PNG", "JPEG")

PIXELS = 1 << 26
"""Most pixels of an image: 8192 x 8192."""

SIDE = (1 << 16) - 1
"""Longest side of an image, as JPEG has it too."""

ORIENTATION = 0x0112
"""Exif's number of the tag that says how the camera was held."""

UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
"""What turns an image of each orientation the way that the camera was held."""

CONTENT = 1 << 29
"""Most bytes of an image file."""


class _Silence:
    """No warnings while any thread is within: `warnings.catch_warnings` would restore another thread's filters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._before = warnings.catch_warnings(action="ignore")

    def __enter__(self) -> None:
        with self._lock:
            self._within += 1
            if self._within == 1:
                self._before = warnings.catch_warnings(action="ignore")
                self._before.__enter__()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                self._before.__exit__(None, None, None)


_SILENCE = _Silence()


def file_content(path: Path, kind: Problem) -> bytes:
    """Content of a file, if it is one and not too large.

    Args:
      path: the file.
      kind: of the error.

    Raises:
      DataError: it cannot be read.
    """
    try:
        if path.stat().st_size > CONTENT:
            raise DataError(kind, f"{path} holds over {CONTENT >> 20} MiB, no image does. Replace or remove it.")
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            kind, f"{path} cannot be read: {error.strerror or error}. Restore it or remove it with its pair."
        ) from error


def verified(content: bytes, name: str, kind: Problem) -> tuple[str, int]:
    """Format and orientation (Exif's, 1 is upright) of an image that decodes to its end.

    Args:
      content: of the file.
      name: of the file, for messages.
      kind: of the error.

    Raises:
      DataError: not an image, or one that is damaged, ends early, or is too large.
    """
    try:
        # What Pillow warns of, it either survives or raises in the end; the user gets one line in that case.
        with _SILENCE, Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > PIXELS or max(width, height) > SIDE:
                text = f"{name} claims {height} x {width} pixels, over the {PIXELS >> 20} million that are read."
                raise DataError(kind, f"{text} Shrink it.")
            # OpenCV fills what is missing of a truncated file with gray and says nothing.
            image.load()
            return image.format or "", image.getexif().get(ORIENTATION, 1)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            kind, f"{name} is not an image that can be read. Restore it or remove it with its pair."
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever their arithmetic runs into.
        reason = str(error) or type(error).__name__
        raise DataError(kind, f"{name} cannot be read: {reason}. Restore it or remove it with its pair.") from error


def decoded(content: bytes, name: str, kind: Problem, flag: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
    """Pixels of an image, channels in OpenCV's order.

    Raises:
      DataError: OpenCV cannot decode it.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flag) if content else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DataError(kind, f"{name} is not an image that can be read. Restore it or remove it with its pair.")
    return pixels


def image(content: bytes, name: str) -> tuple[bytes, np.ndarray]:
    """An image as it is to be stored: PNG or JPEG of 8 bits, gray or RGB, untouched where it is that already.

    Args:
      content: of the file.
      name: of the file, for messages.

    Returns:
      The content to store, and the pixels: (H, W) gray or (H, W, 3) BGR, uint8.

    Raises:
      DataError: of kind "unreadable".
    """
    form, orientation = verified(content, name, "unreadable")
    pixels = decoded(content, name, "unreadable")
    plain = pixels.dtype == np.uint8 and (pixels.ndim == 2 or pixels.shape[2] == 3)
    if plain and form in KEPT_AS_THEY_ARE and orientation not in UPRIGHT:
        return content, pixels
    pixels = UPRIGHT.get(orientation, lambda same: same)(_eight_bits(pixels, name))
    pixels = np.ascontiguousarray(pixels)
    return png(pixels), pixels


def _eight_bits(pixels: np.ndarray, name: str) -> np.ndarray:
    """BGR or gray of 8 bits; an alpha channel is dropped, 16 bits are scaled by 1/257."""
    if pixels.dtype not in (np.uint8, np.uint16):
        raise DataError("unreadable", f"{name} holds {pixels.dtype} values. Convert it to 8 or 16 bits a channel.")
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if pixels.shape[2] <= 2 else pixels[..., :3]
    if pixels.dtype == np.uint8:
        return pixels
    wide = pixels.astype(np.uint32)
    wide += 128
    wide //= 257
    return wide.astype(np.uint8)


def label_map(content: bytes, name: str) -> np.ndarray:
    """A label map: one channel of 8 or 16 bits.

    Args:
      content: of the file.
      name: of the file, for messages.

    Returns:
      (H, W) uint8 or uint16.

    Raises:
      DataError: of kind "label".
    """
    verified(content, name, "label")
    raw = decoded(content, name, "label")
    if raw.ndim != 2 or raw.dtype not in (np.uint8, np.uint16):
        channels = 1 if raw.ndim == 2 else raw.shape[2]
        raise DataError(
            "label",
            f"{name} has {channels} channels of {raw.dtype}. Store one channel of 16 bits, class * divisor + n.",
        )
    return raw


def require_size(raw: np.ndarray, name: str, size: tuple[int, ...], image_name: str) -> None:
    """Refuses a label that is not of its image's size.

    Args:
      raw: (H, W) or (H, W, 3) label.
      name: of the label's file, for messages.
      size: (height, width) of the image.
      image_name: of the image's file, for messages.

    Raises:
      DataError: of kind "size".
    """
    if raw.shape[:2] != size:
        raise DataError(
            "size",
            f"{name} is {raw.shape[0]} x {raw.shape[1]} (height x width), but its image {image_name} is {size[0]} x "
            f"{size[1]}. Make them equal.",
        )


def rgb(content: bytes) -> np.ndarray:
    """Pixels of a stored image: (H, W, 3) uint8 RGB."""
    return decoded(content, "a stored image", "unreadable", cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def digest(pixels: np.ndarray) -> str:
    """The same for the same pixels, whatever file they came from; gray equals the color image that shows it."""
    if pixels.ndim == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., 0]
    content = np.ascontiguousarray(pixels).data
    return hashlib.blake2b(content, digest_size=8, salt=str(pixels.shape).encode()[:16]).hexdigest()


def png(pixels: np.ndarray) -> bytes:
    """Lossless file content, quickly made.

    Args:
      pixels: (H, W) uint8 or uint16, or (H, W, 3) BGR.
    """
    ok, content = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise ValueError(f"An array of shape {pixels.shape} and type {pixels.dtype} cannot be stored as PNG.")
    return content.tobytes()
