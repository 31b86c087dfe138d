"""`jaxseg look`: a picture of what the method did with an image, from superpixels to objects."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from jaxseg import config, runtime, segment, visualize
from jaxseg.apps import files, model
from jaxseg.apps.media import inputs as reading
from jaxseg.train import storage

_anatomy = jax.jit(segment.anatomy, static_argnums=(0, 3), compiler_options=runtime.options())


def look(trained: model.Model, frame: Any, side: int = 768) -> np.ndarray:
    """The views of `visualize.views` of one frame, side by side.

    Args:
      trained: the network.
      frame: (H, W, 3) uint8 RGB.
      side: pixels of the longer side of each view.

    Returns:
      uint8 RGB.
    """
    return visualize.views(frame, *anatomy(trained, frame), trained.classes, side=side)


def anatomy(trained: model.Model, frame: Any) -> segment.Anatomy:
    """The result of one frame and what it was made of, on the host; compiled once for each frame size.

    Args:
      trained: the network.
      frame: (H, W, 3) uint8 RGB.
    """
    numbers = jax.tree.map(np.float32, model.thresholds(trained.settings))
    parts = _anatomy(trained.network, trained.variables, frame, model.capacity(trained.settings), numbers)
    return jax.device_get(parts)


def write(workdir: storage.Folder, inputs: Sequence[str], output: Path, best: bool = False) -> int:
    """Writes NAME_look.png for each frame of every input.

    Args:
      workdir: folder of a run.
      inputs: images, videos, folders and globs of them.
      output: folder for the pictures.
      best: the best of the states that training measured, instead of the latest.

    Returns:
      0, or 2 where an input could not be read; the others are written all the same.

    Raises:
      UserError: no usable run, no input at all, or a picture that cannot be written.
    """
    sources, problems = reading.sources(inputs)
    if not sources:
        raise config.UserError(problems[0])
    files.require_writable(output)
    trained = model.load(workdir, best=best)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for problem in problems:
        console.print(f"jaxseg: {problem}", markup=False)
    for source in track(sources, "look", console=console, disable=not console.is_terminal):
        for frame in _frames(source, problems, console):
            files.write_image(output / f"{frame.name}_look.png", look(trained, frame.pixels))
    return 2 if problems else 0


def _frames(source: reading.Source, problems: list[str], console: Console) -> Iterator[reading.Frame]:
    """The frames of an input; what cannot be read is reported, and added to the problems."""
    try:
        yield from source.frames()
    except config.UserError as error:
        problems.append(str(error))
        console.print(f"jaxseg: {error}", markup=False)
