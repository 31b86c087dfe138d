"""Data sets, augmentation and the input pipeline; TFDS and Grain are imported only when a data set is opened."""

from typing import NamedTuple, Protocol

import numpy as np


class Label(NamedTuple):
    """Label maps of an image.

    Attributes:
      semantic: (H, W) uint8 class ids, 0 background, 255 ignored.
      instance: (H, W) uint16, 0 is none; other values name the objects of the image.
    """

    semantic: np.ndarray
    instance: np.ndarray


class Example(NamedTuple):
    """One labelled image.

    Attributes:
      image: (H, W, 3) uint8 RGB.
      semantic: (H, W) uint8 class ids, 255 where ignored.
      instance: (H, W) uint16, 0 is none; other values name the objects of the image.
      name: what the data set calls the image; unique within its split.
      full: the label at its published size, where the image is stored at another and the source was asked for it.
    """

    image: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray
    name: str = ""
    full: Label | None = None


class Source(Protocol):
    """Examples of one split by index, in the order of their names; a list of examples is one."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int, /) -> Example:
        """One example; IndexError beyond the last."""
