"""Results in the formats that the official tools and servers read."""

import abc
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jaxseg import config, results
from jaxseg.apps import files
from jaxseg.data import Label
from jaxseg.types import ClassList, Instances

MARK = "jaxseg-submission.txt"
"""File that lists what is ours in a folder, and may be replaced."""

NAMES = re.compile(r"[A-Za-z0-9-]+_[0-9]{6}_[0-9]{6}")
"""City, sequence and frame: by these the official tools look for results, in lines that spaces divide."""


class Submission(abc.ABC):
    """Results of one split, in the format of its data set; `open` chooses it."""

    def __init__(self, folder: Path, classes: ClassList) -> None:
        """Takes over a folder that is new, empty, or holds an earlier submission.

        Args:
          folder: where the files go.
          classes: of the results.

        Raises:
          UserError: the folder cannot be written, or holds files of someone else's.
        """
        files.require_writable(folder)
        with files.writing(folder):
            _remove_earlier(folder)
        self.folder, self.classes = folder, classes
        self._write(MARK, b"Written by jaxseg; the next submission replaces:\n")

    @staticmethod
    def open(folder: Path, builder: str, layout: Any, split: str) -> "Submission":
        """A submission in the format of a data set.

        Args:
          folder: where the files go.
          builder: of the data set.
          layout: its listing.
          split: whose results these are.

        Raises:
          UserError: the data set has no official format, or the folder cannot be used.
        """
        if builder == "cityscapes":
            _require_official(item.name for item in layout.splits[split])
            return Cityscapes(folder, layout.classes)
        if builder == "coco" and layout.settings.annotations == "instances":
            return Coco(folder, layout.classes, layout, split)
        raise config.UserError(
            f"--submission: data of --data.builder {builder} has no official format; Cityscapes and COCO have."
        )

    @abc.abstractmethod
    def add(self, name: str, found: Label, instances: Instances) -> None:
        """Writes the result of one image.

        Args:
          name: of the image.
          found: predicted maps at the published size.
          instances: row i is the object of id i + 1; on the host.

        Raises:
          UserError: a file cannot be written.
        """

    def close(self) -> None:  # noqa: B027
        """Completes the submission; nothing is left to do where every image has files of its own."""

    def _write(self, name: str, content: bytes) -> None:
        """Writes a file of ours, which the mark lists first."""
        path, mark = self.folder / name, self.folder / MARK
        with files.writing(path):
            if path != mark:
                with mark.open("a") as file:
                    file.write(f"{name}\n")
            path.write_bytes(content)


def _remove_earlier(folder: Path) -> None:
    """Removes what an earlier submission wrote, if nothing else is there.

    Raises:
      UserError: there is; nothing is removed then.
    """
    mark = folder / MARK
    ours = {mark, *(folder / name for name in mark.read_text().splitlines()[1:])} if mark.is_file() else set()
    found = sorted(folder.rglob("*"), reverse=True)
    strange = [path for path in found if path not in ours and (path.is_symlink() or not path.is_dir())]
    if strange:
        named = strange[-1].relative_to(folder)
        raise config.UserError(
            f"{folder} holds files that are no submission, {named} for one. Choose a new or empty folder."
        )
    for path in found:
        path.rmdir() if path.is_dir() else path.unlink()


def _require_official(names: Iterable[str]) -> None:
    """Refuses names by which the official tools find no results.

    Raises:
      UserError: there is one.
    """
    for name in names:
        if not NAMES.fullmatch(name):
            raise config.UserError(
                f"--submission: the official scripts find no results of {name!r}. Name images as Cityscapes does, "
                "CITY_123456_123456."
            )


class Cityscapes(Submission):
    """Label ids in ``semantic/NAME.png``; ``instance/NAME.txt`` lists masks, label ids and scores.

    The two folders are submitted, and evaluated, apart: the official tool for classes would take masks for class maps.
    """

    def __init__(self, folder: Path, classes: ClassList) -> None:
        """See `Submission`.

        Raises:
          UserError: also where a class is not one of Cityscapes.
        """
        from jaxseg.data import cityscapes

        ids = {row.name: row.id for row in cityscapes.EVALUATED}
        unknown = [name for name in classes.names[1:] if name not in ids]
        if unknown:
            raise config.UserError(f"--submission: {unknown[0]!r} is no class of Cityscapes. Train with its classes.")
        super().__init__(folder, classes)
        self._ids = np.array([0, *(ids[name] for name in classes.names[1:])], np.uint8)
        for part in ("semantic", "instance/masks"):
            files.require_writable(folder / part)

    def add(self, name: str, found: Label, instances: Instances) -> None:
        """See `Submission.add`."""
        self._write(f"semantic/{name}.png", _png(self._ids[np.asarray(found.semantic)]))
        lines = []
        for number, row in enumerate(np.flatnonzero(np.asarray(instances.valid))):
            mask = f"masks/{name}_{number:03d}.png"
            pixels = (np.asarray(found.instance) == row + 1).astype(np.uint8) * 255
            self._write(f"instance/{mask}", _png(pixels, cv2.IMWRITE_PNG_BILEVEL))
            # The shortest text that reads back as the same number: ties stay ties.
            lines.append(f"{mask} {self._ids[instances.class_id[row]]} {float(instances.score[row])!r}\n")
        self._write(f"instance/{name}.txt", "".join(lines).encode())


class Coco(Submission):
    """``results.json``: one entry an object, with its mask as a compressed run-length code."""

    def __init__(self, folder: Path, classes: ClassList, layout: Any, split: str) -> None:
        """See `Submission`; ``layout`` and ``split`` say which ids images and categories have.

        Raises:
          UserError: also where the split's annotation file does not list a class.
        """
        self._images, self._categories = layout.official_ids(split)
        missing = [name for class_id, name in classes.things.items() if class_id not in self._categories]
        if missing:
            raise config.UserError(
                f"--submission: the annotations of {split} list no category {missing[0]!r}, whose id results need. "
                "Add it to them."
            )
        super().__init__(folder, classes)
        self._rows: list[dict[str, Any]] = []

    def add(self, name: str, found: Label, instances: Instances) -> None:
        """See `Submission.add`."""
        instance = np.asarray(found.instance)
        self._rows += results.coco_entries(instance, instances, self._images[name], self._categories)

    def close(self) -> None:
        """Writes the file."""
        self._write("results.json", json.dumps(self._rows).encode() + b"\n")


def _png(array: np.ndarray, *options: int) -> bytes:
    """A PNG; masks take one bit a pixel, which every reader knows, and which is read five times as fast."""
    done, content = cv2.imencode(".png", array, [flag for option in options for flag in (option, 1)])
    if not done:
        raise ValueError(f"An array of shape {array.shape} and type {array.dtype} cannot be stored as PNG.")
    return content.tobytes()
