"""What metrics have in common: they add up, over images, devices and processes, before anything is divided."""

import dataclasses
from typing import Any, TypeVar

S = TypeVar("S", bound="Sums")
R = TypeVar("R", bound="Ranked")


@dataclasses.dataclass(frozen=True)
class Sums:
    """Numbers, arrays or tuples that add up field by field; ``+`` merges two."""

    def __add__(self: S, other: S) -> S:
        fields = (f.name for f in dataclasses.fields(self))
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in fields))

    def merge(self: S, other: S) -> S:
        """What both counted; the same as ``+``."""
        return self + other


@dataclasses.dataclass(frozen=True)
class Ranked(Sums):
    """Matches of any number of images, to be ranked by score once all are there.

    Attributes:
      images: the matches of each image.
    """

    images: tuple[Any, ...] = ()

    @classmethod
    def empty(cls: type[R]) -> R:
        """The neutral element of ``+``."""
        return cls()

    @classmethod
    def of(cls: type[R], *images: Any) -> R:
        """The accumulator of these images."""
        return cls(images)
