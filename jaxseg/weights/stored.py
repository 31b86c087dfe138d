"""The encoder checkpoint of this project: one .safetensors file that any config can start from.

Tensors are named by their path among a classifier's variables, such as params/encoder/features_0/kernel. What the
weights are, and what they take for granted, is in the file's metadata; a digest tells whether the file is whole.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxseg import config
from jaxseg.config import Conventions, UserError
from jaxseg.nn import classifier, network
from jaxseg.weights import files

MARK = "jaxseg"
"""Key of the metadata; files without it are of somebody else."""

FORMAT = 1
"""Raised whenever older files would be read wrongly."""

ENCODER = "encoder"
"""Name of the encoder among the variables of every network."""


@dataclass(frozen=True)
class Weights:
    """An encoder's parameters, with a classifier's last layer where that is known.

    Attributes:
      settings: of the encoder: name, width, blocks, conventions. The rest is as it happens to be.
      variables: "params" and "batch_stats" of a `classifier.Classifier`, NumPy float32; "logits" may be missing.
      source: where they come from, for people.
      classes: names of the classifier's classes; empty where they are not known.
    """

    settings: config.Encoder
    variables: Mapping[str, Any]
    source: str
    classes: tuple[str, ...] = field(default=())

    @property
    def outputs(self) -> int:
        """Number of the classifier's classes; 0 without a classifier."""
        logits = self.variables["params"].get("logits")
        return len(logits["bias"]) if logits else 0

    def title(self) -> str:
        """Encoder and size, for people."""
        settings = self.settings
        blocks = f", blocks {' '.join(map(str, settings.encoder_blocks))}" if settings.encoder_blocks else ""
        return f"{settings.encoder} of width {settings.encoder_width:g}{blocks}"


@functools.lru_cache(maxsize=8)
def template(settings: config.Encoder, outputs: int) -> Mapping[str, tuple[int, ...]]:
    """Shapes of a classifier's variables, by path.

    Args:
      settings: of the encoder.
      outputs: number of classes; 0 leaves the last layer out.

    Returns:
      Shapes by path, such as "params/encoder/features_0/kernel".

    Raises:
      UserError: there is no such encoder.
    """
    module = classifier.from_config(settings, max(outputs, 1))
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), False))
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    kept = {name: leaf.shape for name, leaf in flat.items() if outputs or not name.startswith("params/logits/")}
    return MappingProxyType(kept)


def flat(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by path."""
    return traverse_util.flatten_dict(variables, sep="/")


def to_bytes(weights: Weights) -> bytes:
    """Content of the file that `load` reads."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in sorted(flat(weights.variables).items())}
    settings = weights.settings
    about = {
        "format": FORMAT,
        "encoder": settings.encoder,
        "width": settings.encoder_width,
        "blocks": settings.encoder_blocks,
        "conventions": dataclasses.asdict(settings.conventions),
        "range": _range(settings.conventions),
        "source": weights.source,
        "classes": weights.classes,
        "digest": _digest(arrays),
    }
    return save(arrays, {MARK: json.dumps(about)})


def _range(conventions: Conventions) -> list[float]:
    """What black and white become, for people who read the metadata."""
    pairs = list(zip(conventions.mean, conventions.std, strict=True))
    if not pairs:
        return []
    return [min(-mean / std for mean, std in pairs), max((1 - mean) / std for mean, std in pairs)]


def is_ours(path: Path) -> bool:
    """Whether a file is one that `to_bytes` made."""
    return path.is_file() and MARK in files.metadata(path)


def load(path: Path) -> Weights:
    """Reads what `to_bytes` wrote.

    Raises:
      UserError: no such file, another one, or one that is damaged.
    """
    if not is_ours(path):
        raise UserError(
            f"{path} is no encoder checkpoint. Make one: jaxseg weights import FILE --output encoder.safetensors"
        )
    arrays = files.read(path)
    try:
        about = json.loads(files.metadata(path)[MARK])
        if about["format"] != FORMAT:
            raise ValueError(f"it has format {about['format']}, this version reads {FORMAT}")
        given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in about["conventions"].items()}
        settings = config.Encoder(
            encoder=about["encoder"],
            encoder_width=about["width"],
            encoder_blocks=tuple(about["blocks"]),
            conventions=Conventions(**given),
        )
        # An import path in a file would be code that the file chooses.
        if settings.encoder not in network.ENCODERS:
            raise ValueError(
                f"it names the encoder {settings.encoder!r}, and only {', '.join(network.ENCODERS)} may be"
            )
        if about["digest"] != _digest(arrays):
            raise ValueError("its numbers are not those that were written")
        source, classes = str(about["source"]), tuple(map(str, about["classes"]))
    except (ValueError, TypeError, KeyError, AttributeError, UserError) as error:
        raise UserError(f"{path} is damaged: {error}. Import the weights again.") from error
    require_shapes(arrays, settings, str(path))
    return Weights(settings, traverse_util.unflatten_dict(arrays, sep="/"), source, classes)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    state = hashlib.sha256()
    for name in sorted(arrays):
        state.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
        state.update(np.ascontiguousarray(arrays[name]).data)
    return state.hexdigest()


def require_shapes(arrays: Mapping[str, np.ndarray], settings: config.Encoder, name: str) -> None:
    """Refuses arrays that are not exactly those of the encoder.

    Raises:
      UserError: names the first that is missing, too many, of another shape, or not finite.
    """
    outputs = len(arrays.get("params/logits/bias", ()))
    wanted = template(settings, outputs)
    for key in sorted(wanted.keys() | arrays.keys()):
        if key not in arrays:
            raise UserError(f"{name} lacks {key}, which {settings.encoder} has. Get the whole file.")
        if key not in wanted:
            raise UserError(f"{name} holds {key}, which {settings.encoder} has not. It is of another network.")
        if arrays[key].shape != wanted[key]:
            have, want = (" x ".join(map(str, shape)) for shape in (arrays[key].shape, wanted[key]))
            raise UserError(f"{name}: {key} is {have}, {settings.encoder} wants {want}. It is of another network.")
        require_sane(key, arrays[key], key.endswith("/var"), name)


def require_sane(key: str, array: np.ndarray, variance: bool, name: str) -> None:
    """Refuses numbers that no trained network has.

    Raises:
      UserError: a number that is not finite, or a negative variance.
    """
    if not math.isfinite(float(np.abs(array).max(initial=0.0))):
        raise UserError(f"{name}: {key} holds a number that is not finite. The file is damaged: get it again.")
    if variance and array.size and float(array.min()) < 0:
        raise UserError(f"{name}: {key} is a variance below 0. The file is damaged: get it again.")
