"""Weights of encoders from elsewhere: imported into a checkpoint that any config can start from, and looked at."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxseg import config
from jaxseg.apps import files
from jaxseg.apps.media import inputs
from jaxseg.apps.tasks import start
from jaxseg.nn import classifier
from jaxseg.weights import calibration, imported, stored
from jaxseg.weights.stored import Weights

SIZES = {"darknet53": 256}
"""Edge of the classifier's input in the published evaluations, pixels; `SIZE` for the other encoders."""

SIZE, MARGIN, TOP = 224, 0.875, 5


def import_weights(source: Path, output: Path, images: Sequence[str] = (), labels: Path | None = None) -> Weights:
    """Writes an encoder checkpoint.

    Args:
      source: weights of another project, see `jaxseg.weights.files`.
      output: file to write, .safetensors.
      images: images, folders, globs that folded batch norm is measured on.
      labels: text file with the name of a class in each line.

    Returns:
      What was written.

    Raises:
      UserError: the weights cannot be used, folded ones come without images, or the file cannot be written.
    """
    files.require_file(output)
    weights, folded = imported.read(source)
    if folded and not images:
        raise config.UserError(
            f"{source} has batch norm folded into its kernels, so its statistics must be measured. "
            "Give images like those it was trained on: --images FOLDER"
        )
    if labels:
        weights = Weights(weights.settings, weights.variables, weights.source, _labels(labels, weights.outputs))
    if images:
        weights = calibration.calibrate(weights, (frame[None] for frame in _frames(images, weights)))
    files.write_bytes(output, stored.to_bytes(weights))
    stored.load(output)
    _describe(weights, f"wrote {output}: ")
    return weights


def _labels(path: Path, outputs: int) -> tuple[str, ...]:
    """Names of the classes, one a line."""
    try:
        names = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise config.UserError(
            f"{path} cannot be read: {error}. Give a text file with a class in each line."
        ) from error
    if len(names) != outputs:
        raise config.UserError(
            f"{path} names {len(names)} classes, the weights know {outputs}. Give one name for each, in their order."
        )
    return names


def show(path: Path, images: Sequence[str] = ()) -> None:
    """Says what a checkpoint holds, and classifies images with it.

    Args:
      path: an encoder checkpoint, or a work directory.
      images: images, folders, globs.

    Raises:
      UserError: no checkpoint, or images for an encoder without a classifier.
    """
    weights = start.load(path)
    _describe(weights, "")
    if images and not weights.outputs:
        raise config.UserError(f"{path} holds no classifier, so that nothing can be classified. Leave the images out.")
    if images:
        _classify(weights, images)


def _describe(weights: Weights, before: str) -> None:
    arrays, taken = stored.flat(weights.variables), weights.settings.conventions
    last = f", {weights.outputs} classes" if weights.outputs else ", no classifier"
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{before}{weights.title()} from {weights.source}, {sum(a.size for a in arrays.values()):,} numbers{last}",
        markup=False,
    )
    console.print(
        f"  mean {_numbers(taken.mean)} and std {_numbers(taken.std)} of RGB in 0..1, {taken.padding} padding, "
        f"batch norm epsilon {taken.epsilon:g}",
        markup=False,
    )


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{v:.4g}" for v in values) or "of the encoder"


def _classify(weights: Weights, images: Sequence[str]) -> None:
    """Prints the most likely classes of each image."""
    module = classifier.from_config(weights.settings, weights.outputs)

    @jax.jit
    def run(variables: Any, frames: jax.Array) -> jax.Array:
        logits: Any = module.apply(variables, frames, False)
        return jax.nn.softmax(logits)

    console = Console(soft_wrap=True, highlight=False)
    paths = _paths(images)
    for path, frame in zip(paths, _frames(images, weights), strict=True):
        probability = np.asarray(run(weights.variables, frame[None]))[0]
        best = np.argsort(-probability, kind="stable")[:TOP]
        names = (weights.classes[i] if weights.classes else f"class {i}" for i in best)
        text = ", ".join(f"{name} {probability[i]:.2f}" for i, name in zip(best, names, strict=True))
        console.print(f"{path}: {text}", markup=False)


def _paths(images: Sequence[str]) -> list[Path]:
    found = [path for text in images for path in inputs.paths(text)]
    if not found:
        raise config.UserError(f"{images[0]} holds no image. Give an image, a folder of images or a glob.")
    return found


def _frames(images: Sequence[str], weights: Weights) -> Iterator[np.ndarray]:
    """The middle of each image, as classifiers are evaluated."""
    from jaxseg.data import augment

    size = SIZES.get(weights.settings.encoder, SIZE)
    for path in _paths(images):
        yield augment.middle(inputs.read_image(path), (size, size), MARGIN)
