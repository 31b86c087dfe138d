"""What the builders share: a data set as a list of labelled images, and what may be wrong with one.

A layout lists what a data set holds without opening its images; `Layout.read` opens one. Nothing of what a data set
says about itself is trusted: whatever is wrong with an image is a `DataError` or a `Fault`, which `Data.accept` names
by their kind, and whatever makes the listing impossible is a plain `UserError`.
"""

import abc
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxseg.config import Data, Problem, UserError, check_classes
from jaxseg.data import Label
from jaxseg.types import IGNORED, ClassList


class DataError(UserError):
    """Something that is wrong with one image or label, which is left out where this kind is accepted.

    Attributes:
      kind: see `Data.accept`.
    """

    def __init__(self, kind: Problem, message: str) -> None:
        super().__init__(message)
        self.kind: Problem = kind


class Fault(NamedTuple):
    """Something that is wrong with a data set.

    Attributes:
      kind: see `Data.accept`.
      message: one line that names the file and the remedy.
    """

    kind: Problem
    message: str


class Labelled(NamedTuple):
    """One image with its label, as it is to be stored.

    Attributes:
      content: the image as PNG or JPEG, 8 bits, gray or RGB.
      digest: of the published picture's pixels: equal pictures have equal ones, whatever their files.
      label: of the image's size.
      full: the label for evaluation, where that is another: at its published size, and with groups.
      faults: what is wrong with the label but leaves the rest of it usable.
    """

    content: bytes
    digest: str
    label: Label
    full: Label | None = None
    faults: tuple[Fault, ...] = ()


class Item(Protocol):
    """One image of a layout, not opened yet."""

    @property
    def name(self) -> str:
        """What the data set calls it; unique within its split."""


@dataclass(frozen=True)
class Layout(abc.ABC):
    """What a data set holds; each builder has its own subclass.

    Attributes:
      title: what messages call the data set: its folder.
      classes: the classes that its labels are read as.
      splits: items of each split, in order of their names.
      faults: what is wrong with the listing; the items concerned are not in it.
    """

    title: str
    classes: ClassList
    splits: Mapping[str, Sequence[Any]]
    faults: tuple[Fault, ...] = field(default=(), kw_only=True)

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever a file is added, removed, renamed or rewritten, or a setting means something else."""

    @abc.abstractmethod
    def read(self, item: Any) -> Labelled:
        """Opens one item; safe to call from several threads.

        Raises:
          DataError: image or label cannot be used.
        """


def choose(data: Data, known: ClassList, default: Sequence[str]) -> ClassList:
    """The classes to learn, of those that a data set has.

    Args:
      data: settings; classes, stuff and colors are read.
      known: every class of the data set.
      default: names of those that are learnt where the settings name none.

    Returns:
      The list that class ids are positions of.

    Raises:
      UserError: a name that the data set does not have, or no class with instances is left.
    """
    names = data.classes or (*default, *(name for name in data.stuff if name not in default))
    strangers = [name for name in (*names, *data.stuff) if name not in known.names[1:]]
    if strangers:
        listed = ", ".join(known.names[1:21]) + (" ..." if len(known) > 21 else "")
        raise UserError(f"{strangers[0]!r} is no class of {data.root or data.builder}. Choose from {listed}.")
    if not names:
        raise UserError(f"{data.root or data.builder} lists no class that can be learnt. Name some in it.")
    of = {name: i for i, name in enumerate(known.names)}
    stuff = tuple(name for name in names if name in data.stuff or of[name] in known.stuff)
    own = tuple(known.colors[of[name]] for name in names) if known.colors else ()
    check_classes(names, stuff, data.colors)
    return ClassList.of(names, stuff, data.colors or own)


def meaning(classes: ClassList) -> tuple[object, ...]:
    """What of a class list decides how labels are read: everything but the colors."""
    return classes.names, classes.stuff


def numbered(instance: np.ndarray) -> np.ndarray:
    """Instance ids without gaps, in the order of the old ones.

    Args:
      instance: (H, W) uint16, 0 is none.

    Returns:
      (H, W) uint16, 1..n.
    """
    present = np.bincount(instance.ravel(), minlength=1) > 0
    present[0] = False
    return (np.cumsum(present) * present).astype(np.uint16)[instance]


def ungrouped(label: Label, classes: ClassList) -> Label:
    """The label that training reads, from that of evaluation: groups are ignored, and nothing ignored has an instance.

    Args:
      label: (H, W) maps with groups.
      classes: which have instances.
    """
    things = np.zeros(256, bool)
    things[list(classes.things)] = True
    semantic = np.where(things[label.semantic] & (label.instance == 0), np.uint8(IGNORED), label.semantic)
    return Label(semantic, np.where(semantic == IGNORED, np.uint16(0), label.instance))


def both(label: Label, classes: ClassList) -> tuple[Label, Label | None]:
    """The label that training reads, and that of evaluation where it is another of the same size."""
    plain = ungrouped(label, classes)
    same = all(np.array_equal(a, b) for a, b in zip(plain, label, strict=True))
    return plain, None if same else label


def refuse(faults: Iterable[Fault], accepted: Sequence[Problem]) -> None:
    """Stops at the first fault of a kind that is not accepted.

    Raises:
      UserError: there is one.
    """
    fault = next((fault for fault in faults if fault.kind not in accepted), None)
    if fault:
        raise UserError(
            f"{fault.message} `jaxseg data check` lists all; --data.accept {fault.kind} goes on all the same."
        )


def strange_name(name: str) -> Fault:
    """What is wrong with a file whose name is not UTF-8 or holds control characters."""
    return Fault("unreadable", f"{name!a} has a name that does not show on one line. Rename it, and its label.")


def split_by_name(items: Sequence[Any], title: str) -> dict[str, tuple[Any, ...]]:
    """Train and val by a hash of each name, about ten to one, so that adding images moves none.

    The smallest hash goes to val where that stays empty.

    Args:
      items: in order of their names.
      title: what messages call the data set.

    Raises:
      UserError: fewer than two items.
    """
    if len(items) < 2:
        raise UserError(
            f"{title} holds one image, which cannot be train and val. Add more, or make train and val folders."
        )
    order = [int.from_bytes(hashlib.sha256(item.name.encode()).digest()[:8]) / 2**64 for item in items]
    ranked = sorted(order)
    threshold = min(max(0.1, ranked[0] * (1 + 1e-9)), ranked[-1])
    return {
        "train": tuple(item for item, place in zip(items, order, strict=True) if place >= threshold),
        "val": tuple(item for item, place in zip(items, order, strict=True) if place < threshold),
    }


def file_states(paths: Iterable[Path]) -> str:
    """Changes whenever one of the files is renamed or rewritten."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
            state = (path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        except OSError:
            state = (path.name, -1, 0, 0)
        digest.update(repr(state).encode())
    return digest.hexdigest()


def fingerprint(*parts: object) -> str:
    """Sixteen hexadecimal digits that follow from the representation of the parts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
