"""Data sets, augmentation and the input pipeline; TFDS and Grain are imported only when a data set is opened."""

from typing import NamedTuple, Protocol

import numpy as np


class Example(NamedTuple):
    """One labelled image.

    Attributes:
      image: (H, W, 3) uint8 RGB.
      semantic: (H, W) uint8 class ids, 255 where ignored.
      instance: (H, W) uint16, 0 is none; other values name the objects of the image.
      name: what the data set calls the image; unique within its split.
    """

    image: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray
    name: str = ""


class Source(Protocol):
    """Examples of one split by index, in the order of their names; a list of examples is one."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int, /) -> Example:
        """One example; IndexError beyond the last."""
