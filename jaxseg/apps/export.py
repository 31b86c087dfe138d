"""Export: a trained network as one file, for programs that know JAX alone; `exported` says what is in it."""

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from jaxseg import config, segment
from jaxseg.apps import exported, files, model
from jaxseg.types import Thresholds

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""What a program can be made for."""


def export(
    trained: model.Model, output: Path, frame: tuple[int, int] | None = None, platforms: Sequence[str] = ()
) -> dict[str, Any]:
    """Writes a trained network as one file, for frames of one size in batches of any.

    Args:
      trained: the network.
      output: file to write; one that is there is replaced once the new one is complete.
      frame: (height, width) of the frames; None for the network's own.
      platforms: some of `PLATFORMS`; none for cpu, cuda and tpu.

    Returns:
      What ``about`` says.

    Raises:
      UserError: no frame size is given and the network has none, an unknown platform, or a file that cannot be written.
    """
    size = _size(trained, frame)
    chosen = tuple(platforms) or ("cpu", "cuda", "tpu")
    unknown = [name for name in chosen if name not in PLATFORMS]
    if unknown:
        raise config.UserError(f"unknown platform {unknown[0]!r}. Choose of {', '.join(PLATFORMS)}.")
    files.require_file(output)
    weights = _named(trained.variables)
    program = _program(trained, size, chosen)
    about = _about(trained, program, list(weights), size)
    arrays = {"about": _bytes(json.dumps(about, indent=1).encode()), "program": _bytes(program.serialize())}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays, **{n: np.asarray(w) for n, w in weights.items()})
    files.write_bytes(output, content.getvalue())
    return about


def _size(trained: model.Model, frame: tuple[int, int] | None) -> tuple[int, int]:
    """The size of frames to export for.

    Raises:
      UserError: none is given and the network has none, or it is empty.
    """
    size = frame or trained.settings.model.size
    if size is None:
        raise config.UserError("the network takes frames of any size: say which one to export for, --frame H W.")
    if min(size) < 1:
        raise config.UserError(f"--frame must be at least 1 1: got {size[0]} {size[1]}.")
    return size


def _named(variables: Any) -> dict[str, Any]:
    """The leaves by their path, in the order of the tree; names are those of the modules, with slashes."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _bytes(content: bytes | bytearray) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


def _program(trained: model.Model, size: tuple[int, int], platforms: Sequence[str]) -> jax_export.Exported:
    """The inference as a function of weights, frames (b, H, W, 3) of a symbolic batch, and thresholds."""
    structure, capacity = jax.tree.structure(trained.variables), model.capacity(trained.settings)

    def run(weights: list[Any], frames: Any, thresholds: dict[str, Any]) -> dict[str, Any]:
        variables = jax.tree.unflatten(structure, weights)
        found = segment.segment(trained.network, variables, frames, capacity, Thresholds(**thresholds))
        return {**vars(found), "instances": dict(vars(found.instances))}

    (batch,) = jax_export.symbolic_shape("b", constraints=["b >= 1"])
    leaves = [jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(trained.variables)]
    numbers = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in vars(Thresholds())}
    frames = jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8)
    with _nameless():
        return jax_export.export(jax.jit(run), platforms=tuple(platforms))(leaves, frames, numbers)


@contextlib.contextmanager
def _nameless() -> Iterator[None]:
    """Keeps the names of this machine's files out of programs: the same network gives the same bytes anywhere."""
    name = "jax_traceback_in_locations_limit"
    before = jax.config.values[name]
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _about(
    trained: model.Model, program: jax_export.Exported, names: list[str], size: tuple[int, int]
) -> dict[str, Any]:
    """What a program that reads the file must know, and what a person wants to."""
    classes = trained.classes
    outputs = jax.tree.unflatten(program.out_tree, [f"{a.dtype}{a.shape}" for a in program.out_avals])
    return {
        "format": exported.FORMAT,
        "name": trained.settings.name,
        "step": trained.step,
        "jax": jax.__version__,
        "platforms": list(program.platforms),
        "frame": list(size),
        "input": "RGB uint8 (b, H, W, 3), as a camera gives it; scaling and normalization are in the program",
        "output": outputs,
        "classes": list(classes.names),
        "stuff": list(classes.stuff),
        "colors": [list(color) for color in classes.colors],
        "pixels_per_unit": trained.pixels_per_unit(size),
        "thresholds": {k: float(v) for k, v in vars(model.thresholds(trained.settings)).items()},
        "weights": names,
    }


def command(trained: model.Model, output: Path, frame: tuple[int, int] | None, platforms: Sequence[str]) -> None:
    """Exports, and says what was written; arguments are those of `export`.

    Raises:
      UserError: as `export`; for ONNX, a package is missing, or platforms are chosen, which such a file has not.
    """
    about, kind = f"{trained.settings.name} at step {trained.step}", "batches"
    if output.suffix == ".onnx":
        from jaxseg.apps import onnx

        if platforms:
            raise config.UserError("--platforms is not for ONNX, whose files run anywhere. Leave it out.")
        size, kind = _size(trained, frame), "frames"
        onnx.export(trained, output, size)
        needs = f"ONNX opset {onnx.OPSET}"
    else:
        said = export(trained, output, frame, platforms)
        size = (said["frame"][0], said["frame"][1])
        needs = f"{', '.join(said['platforms'])}, jax {said['jax']} or newer"
    megabytes = output.stat().st_size / 1e6
    print(f"{output}: {megabytes:.1f} MB, {about}, for {kind} of {size[0]} x {size[1]}; {needs}")
