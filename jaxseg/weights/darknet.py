"""Darknet's binary weight files of Darknet-53: numbers without names, in the order of the network's layers.

The header is three int32 (major, minor, revision) and the number of images seen, 64 bits wide from version 0.2 on. Each
convolution follows as beta, gamma, mean, variance of its batch norm and its kernel (o, i, h, w), all float32.

References:
  Redmon, Darknet: Open Source Neural Networks in C, src/parser.c (load_weights_upto).
"""

import struct

import numpy as np

from jaxseg.config import UserError
from jaxseg.nn import darknet53

BACKBONE = 162_482_580
"""Bytes of darknet53.conv.74, the 52 convolutions alone, with the header of 20 bytes."""

CLASSES = 1000
CLASSIFIER = 4 * (CLASSES + CLASSES * darknet53.CHANNELS[-1])
"""Bytes that darknet53.weights has more: biases and kernel of the last layer."""

YOLOV3 = 248_007_048
"""Bytes of yolov3.weights, whose first 52 convolutions are the backbone after training for detection."""


def read(content: bytes, name: str) -> dict[str, np.ndarray]:
    """Parameters of Darknet-53 by the names of this package.

    Args:
      content: of darknet53.conv.74, darknet53.weights or yolov3.weights.
      name: of the file, for messages.

    Returns:
      "PATH/kernel" (o, i, h, w), "PATH/scale", "PATH/bias", "PATH/mean" and "PATH/var" of each of
      `darknet53.convolutions`; with a classifier "logits/kernel" (1000, 1024) and "logits/bias" too.

    Raises:
      UserError: the file has another length.
    """
    start = header(content, name)
    extra = len(content) - start - (BACKBONE - 20)
    if extra not in (0, CLASSIFIER, YOLOV3 - BACKBONE):
        kinds = {"darknet53.conv.74": BACKBONE, "darknet53.weights": BACKBONE + CLASSIFIER, "yolov3.weights": YOLOV3}
        known = ", ".join(f"{kind} has {size:,}" for kind, size in kinds.items())
        raise UserError(f"{name} has {len(content):,} bytes; {known}. It is cut short, or of another network.")
    numbers = np.frombuffer(content, "<f4", offset=start)
    tensors: dict[str, np.ndarray] = {}
    position = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal position
        position += int(np.prod(shape))
        return numbers[position - int(np.prod(shape)) : position].reshape(shape)

    for path, (size, inputs, outputs) in zip(darknet53.convolutions(), layers(), strict=True):
        key = "/".join(path)
        tensors |= {f"{key}/{part}": take(outputs) for part in ("bias", "scale", "mean", "var")}
        tensors[f"{key}/kernel"] = take(outputs, inputs, size, size)
    if extra == CLASSIFIER:
        tensors["logits/bias"] = take(CLASSES)
        tensors["logits/kernel"] = take(CLASSES, darknet53.CHANNELS[-1])
    return tensors


def header(content: bytes, name: str) -> int:
    """Length of the header.

    Raises:
      UserError: there is none.
    """
    if len(content) < 20:
        raise UserError(f"{name} has {len(content)} bytes, which is not even Darknet's header. Get it again.")
    major, minor, _ = struct.unpack("<3i", content[:12])
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        raise UserError(f"{name} does not begin as Darknet's weight files do. Get it again.")
    return 20 if major * 10 + minor >= 2 else 16


def layers() -> list[tuple[int, int, int]]:
    """Window, input and output channels of each of `darknet53.convolutions`."""
    rows, channels = [(3, 3, 32)], 32
    for count, wider in zip(darknet53.BLOCKS, darknet53.CHANNELS, strict=True):
        rows.append((3, channels, wider))
        rows += [(1, wider, wider // 2), (3, wider // 2, wider)] * count
        channels = wider
    return rows
