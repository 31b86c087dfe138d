"""Prediction: images, folders and globs in; overlay, two maps and a list of objects out, for each."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from jaxseg import config, visualize
from jaxseg.apps import files, model
from jaxseg.apps import inputs as reading
from jaxseg.train import storage
from jaxseg.types import ClassList, Segmentation


def predict(workdir: storage.Folder, inputs: Sequence[str], output: Path, best: bool = False) -> int:
    """Segments every input and writes four files for each.

    Args:
      workdir: folder of a run.
      inputs: images, folders, globs.
      output: folder for NAME_overlay.png, NAME_semantic.png, NAME_instance.png and NAME.json.
      best: the best of the states that training measured, instead of the latest.

    Returns:
      0, or 2 where an input could not be read; the others are written all the same.

    Raises:
      UserError: no usable run, no input at all, or a folder that cannot be written.
    """
    found = [(text, reading.paths(text)) for text in inputs]
    remedy = "Give an image, a folder of images or a glob."
    empty = [f"{text} holds no image. {remedy}" for text, its in found if not its]
    paths = [path for _, its in found for path in its]
    if not paths:
        raise config.UserError(empty[0])
    trained = model.load(workdir, best=best)
    files.require_writable(output)
    failed, console = len(empty), Console(stderr=True, soft_wrap=True, highlight=False)
    for problem in empty:
        console.print(f"jaxseg: {problem}", markup=False)
    for path, name in track(list(zip(paths, _names(paths), strict=True)), "predict", console=console):
        try:
            frame = reading.read_image(path)
        except config.UserError as error:
            console.print(f"jaxseg: {error}", markup=False)
            failed += 1
            continue
        write(output, name, frame, jax.device_get(trained(frame)), trained.classes)
    return 2 if failed else 0


def _names(paths: Sequence[Path]) -> Iterator[str]:
    """A name of its own for each result: the stem; the full name, then a number, where stems repeat."""
    stems = [p.stem for p in paths]
    taken: set[str] = {s for s in stems if stems.count(s) == 1}
    for path, stem in zip(paths, stems, strict=True):
        if stems.count(stem) == 1:
            yield stem
            continue
        name, n = path.name.replace(".", "_"), 1
        while name in taken:
            n += 1
            name = f"{path.name.replace('.', '_')}_{n}"
        taken.add(name)
        yield name


def write(output: Path, name: str, frame: np.ndarray, found: Segmentation, classes: ClassList) -> None:
    """Writes the four files of one frame.

    Args:
      output: an existing folder.
      name: what the files start with.
      frame: (H, W, 3) uint8 RGB.
      found: host arrays of the same size.
      classes: names for the overlay and the list.

    Raises:
      UserError: a file cannot be written.
    """
    overlay = visualize.overlay(frame, found.semantic, found.instance, found.instances, classes)
    for kind, picture in (("overlay", overlay), ("semantic", found.semantic), ("instance", found.instance)):
        files.write_image(output / f"{name}_{kind}.png", np.asarray(picture))
    document = {
        "height": frame.shape[0],
        "width": frame.shape[1],
        "classes": class_table(classes),
        "lost": int(found.lost),
        "instances": found.objects(classes),
    }
    files.write_json(output / f"{name}.json", document)


def class_table(classes: ClassList) -> list[dict[str, Any]]:
    """The class list: id, name, isthing (0 for a class without instances, as COCO writes it) and color."""
    colors = visualize.class_colors(classes)
    return [
        {"id": i, "name": name, "isthing": int(i in classes.things), "color": [int(v) for v in colors[i]]}
        for i, name in enumerate(classes.names)
    ]
