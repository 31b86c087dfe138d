"""Data sets, augmentation and the input pipeline; TFDS and Grain are imported only when a data set is opened."""

from typing import NamedTuple, Protocol

import numpy as np


class Label(NamedTuple):
    """Label maps of an image.

    Training ignores groups of objects that nobody told apart (255). Evaluation knows them: a pixel of a class with
    instances that has no instance belongs to one. There, a pixel that is ignored and yet has an instance shows an
    object of a class that nobody evaluates, for which Cityscapes' AP makes no allowance.

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
      full: the label for evaluation, where that is another and the source was asked for it: at its published size, and
        with groups.
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
