"""Weights of other projects as an encoder checkpoint: every tensor is accounted for, by name and shape."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import traverse_util

from jaxseg import config
from jaxseg.config import UserError
from jaxseg.nn import darknet53, mobilenet_v2
from jaxseg.nn.layers import divisible
from jaxseg.weights import files, names, stored
from jaxseg.weights.names import Source
from jaxseg.weights.stored import Weights

WIDTHS = tuple(w / 100 for w in (100, 75, 50, 35, 25, 140, 130, *range(5, 301)))
"""Widths that are tried, the published ones first."""


def read(path: Path) -> tuple[Weights, bool]:
    """Reads weights of any known format.

    Args:
      path: see `files.read`.

    Returns:
      The encoder, with its classifier where the file holds one, and whether batch norm was folded into the kernels:
      then its statistics say nothing yet (mean 0, variance 1), see `calibration`.

    Raises:
      UserError: the file cannot be read, is of no known source, or lacks a tensor, has one too many or of another
        shape, or one whose numbers cannot be.
    """
    tensors = files.read(path)
    source = _source(tensors, path)
    blocks = source.blocks(tuple(tensors))
    blocks = () if blocks == darknet53.BLOCKS else blocks
    settings = config.Encoder(
        encoder=source.encoder,
        encoder_width=_width(tensors, source, blocks),
        encoder_blocks=blocks,
        conventions=source.conventions,
    )
    arrays, used = _arrays(tensors, source, settings, str(path))
    surplus = [name for name in tensors if name not in used and not re.fullmatch(source.spare, name)]
    if surplus:
        raise UserError(
            f"{path} holds {surplus[0]}, which {source.encoder} of {source.title} has not"
            f"{f', and {len(surplus) - 1} more' if len(surplus) > 1 else ''}. It is of another network."
        )
    weights = Weights(settings, traverse_util.unflatten_dict(arrays, sep="/"), f"{Path(path).name} ({source.title})")
    return weights, source.folded


def _source(tensors: Mapping[str, np.ndarray], path: Path) -> Source:
    """Whose names these are."""
    for source in names.SOURCES:
        if source.mark in tensors:
            return source
    known = ", ".join(dict.fromkeys(f"{s.encoder} of {s.title.partition(',')[0]}" for s in names.SOURCES))
    some = next(iter(tensors), "no tensor")
    raise UserError(f"{path} holds {some} and is of no network that is known: {known}. Convert its names first.")


def _width(tensors: Mapping[str, np.ndarray], source: Source, blocks: tuple[int, ...]) -> float:
    """The width that gives most convolutions the channels that they have; 1 where none does."""
    outputs = {}
    for path in names.convolutions(source.encoder, blocks):
        bias = tensors.get(source.convolution(path)["bias"])
        if bias is not None and bias.ndim == 1:
            outputs[path] = len(bias)
    # Any other width shows in the ratio to the published channels, wherever these are not rounded.
    published = ((_channels(source.encoder, 1.0, path), n) for path, n in outputs.items())
    widths = (*WIDTHS, *(n / one for one, n in published if one and n))
    right = {w: sum(_channels(source.encoder, w, path) in (n, None) for path, n in outputs.items()) for w in widths}
    return max(widths, key=lambda w: right[w])


def _channels(encoder: str, width: float, path: names.Path) -> int | None:
    """Output channels of those convolutions that say most about the width; None for the others."""
    if encoder == "darknet53":
        stage = {"stem": -1}.get(path[0])
        stage = int(path[0].split("_")[1]) if stage is None else stage
        return divisible((32, *darknet53.CHANNELS)[stage + 1] * width) if path[-1] != "reduce" else None
    if path == ("features_0",):
        return divisible(32 * width)
    if path[-1] != "project":
        return None
    number = int(path[0].removeprefix("features_"))
    row = max(i for i, first in enumerate(mobilenet_v2.FIRST) if first <= number)
    return divisible(mobilenet_v2.STAGES[row][1] * width)


def _arrays(
    tensors: Mapping[str, np.ndarray], source: Source, settings: config.Encoder, name: str
) -> tuple[dict[str, np.ndarray], set[str]]:
    """Every array of the classifier by its path, and the names of the tensors that they come from."""
    last = next((keys for keys in source.classifier if any(key in tensors for key in keys.values())), None)
    bias = tensors.get(last["bias"]) if last else None
    outputs = len(bias) if bias is not None and bias.ndim else int(last is not None)
    wanted = stored.template(settings, outputs)
    arrays: dict[str, np.ndarray] = {}
    used: set[str] = set()

    def take(part: str, key: str, target: str, depthwise: bool = False) -> None:
        if part in ("mean", "var") and key not in tensors:
            key = key.removesuffix(names.AVERAGE)
        if key not in tensors:
            raise UserError(f"{name} lacks {key} of {source.encoder}, as {source.title} names it. Get the whole file.")
        array = tensors[key]
        if array.dtype.kind not in "fV":
            raise UserError(f"{name}: {key} holds {array.dtype} numbers, not floating point. It is of another network.")
        turned = source.turn(array, depthwise) if part == "kernel" else array
        if target.startswith("params/logits/kernel") and turned.ndim == 4:
            turned = turned[0, 0] if turned.shape[:2] == (1, 1) else turned
        if turned.shape != wanted[target]:
            have, want = (" x ".join(map(str, shape)) or "a number" for shape in (turned.shape, wanted[target]))
            raise UserError(
                f"{name}: {key} is {have} in the order of this package, {source.encoder} of width "
                f"{settings.encoder_width:g} wants {want}. It is of another network."
            )
        arrays[target] = np.ascontiguousarray(turned, np.float32)
        stored.require_sane(key, arrays[target], part == "var", name)
        used.add(key)

    for path in names.convolutions(source.encoder, settings.encoder_blocks):
        module = f"{stored.ENCODER}/{'/'.join(path)}"
        depthwise = path[-1] == "depthwise"
        for part, key in source.convolution(path).items():
            take(part, key, _target(module, part), depthwise)
        if source.folded:
            arrays |= _identity(module, arrays[f"params/{module}/norm/bias"], settings.conventions.epsilon)
    if last:
        for part, key in sorted(last.items()):  # The bias first, which tells how many classes there are.
            take(part, key, f"params/logits/{part}")
    return arrays, used


def _target(module: str, part: str) -> str:
    """Path of a part among the variables."""
    if part == "kernel":
        return f"params/{module}/kernel"
    return f"{'batch_stats' if part in ('mean', 'var') else 'params'}/{module}/norm/{part}"


def _identity(module: str, like: np.ndarray, epsilon: float) -> dict[str, np.ndarray]:
    """Batch norm that adds its bias and does nothing else."""
    return {
        f"params/{module}/norm/scale": np.sqrt(np.ones_like(like) + np.float32(epsilon)),
        f"batch_stats/{module}/norm/mean": np.zeros_like(like),
        f"batch_stats/{module}/norm/var": np.ones_like(like),
    }
