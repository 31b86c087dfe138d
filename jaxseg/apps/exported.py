"""Reading an exported file, and running its program.

The file is an uncompressed NumPy archive (.npz, whatever its name) of

- ``about``: JSON text: versions, class names, frame size, thresholds, what goes in and what comes out;
- ``program``: what `jax.export` serialized; it maps a list of weights, frames and thresholds to a dictionary of arrays;
- the weights, by name, in the order that ``about`` lists.

Nothing in it is code of Python: reading it unpickles nothing, and a program that would call anything outside of XLA is
refused.
"""

import contextlib
import io
import json
import math
import os
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from jaxseg import config, results, runtime
from jaxseg.apps import model, stream
from jaxseg.train import storage
from jaxseg.types import ClassList, Instances, Thresholds

FORMAT = "jaxseg exported network 1"
"""What ``about`` says it is; another number is another layout of the file."""

HARMLESS = ("shape_assertion",)
"""Custom calls that are no calls: XLA resolves them when it learns the batch."""

MOST_TEXT = 1 << 20
"""Most bytes of ``about``."""


def open_model(path: str | storage.Folder, best: bool = False) -> "model.Model | Exported":
    """Opens a trained network: the work directory of a run, or an exported file.

    Args:
      path: either.
      best: of a run, the best of the states that training measured, instead of the latest.

    Raises:
      UserError: neither, or one that cannot be used.
    """
    place = storage.folder(str(path))
    if not place.is_file():
        return model.load(place, best=best)
    if best:
        raise config.UserError(f"{path} is an exported file, which holds one state. Leave --best out.")
    return load(place)


@dataclass(frozen=True)
class Exported:
    """A network read from an exported file. Call it with one uint8 RGB frame (H, W, 3) or a batch (b, H, W, 3).

    Safe to call from several threads. Compiled once for each batch size.

    Attributes:
      about: what the file says of itself.
      program: of `jax.export`.
      weights: its first argument, on the device.
    """

    about: Mapping[str, Any]
    program: jax_export.Exported
    weights: list[Any]
    _ready: model.Ready = field(default_factory=model.Ready, repr=False, compare=False)

    @property
    def frame(self) -> tuple[int, int]:
        """(height, width) of the frames it takes."""
        height, width = self.about["frame"]
        return height, width

    def stream(self) -> stream.Stream:
        """For the frames of a camera or a video, one after the other: objects keep their ``track_id``."""
        return stream.Stream(self)

    def pixels_per_unit(self, size: tuple[int, int]) -> float:
        """What `types.Matching` calls coordinates; the size is the file's."""
        return float(self.about["pixels_per_unit"])

    @cached_property
    def classes(self) -> ClassList:
        """Names of the classes."""
        return _classes(self.about)

    @cached_property
    def _numbers(self) -> dict[str, np.float32]:
        return {name: np.float32(value) for name, value in self.about["thresholds"].items()}

    @cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.program.call, compiler_options=runtime.options())

    def __call__(self, frames: Any, thresholds_: Thresholds | None = None) -> results.Result:
        """Segments frames of the file's size; inside `jax.jit` it is a part of the caller's program.

        Args:
          frames: uint8 RGB, (H, W, 3) or (b, H, W, 3), on the host or a device, or traced.
          thresholds_: other numbers of the grouping than the run's.

        Raises:
          ValueError: another shape or dtype.
        """
        frames = model.checked(frames)
        if frames.shape[-3:-1] != self.frame:
            got = f"got {frames.shape[-3]} x {frames.shape[-2]}"
            raise ValueError(f"`frames` must be {self.frame[0]} x {self.frame[1]}, what the file is for: {got}.")
        numbers = self._numbers if thresholds_ is None else jax.tree.map(jnp.float32, dict(vars(thresholds_)))
        batch = frames if frames.ndim == 4 else frames[None]
        if isinstance(frames, jax.core.Tracer):
            found = self.program.call(self.weights, batch, numbers)
        else:
            found = self._ready.call(batch.shape, lambda: self._compiled(self.weights, batch, numbers))
        result = results.Result(**{**found, "instances": Instances(**found["instances"])})
        return result if frames.ndim == 4 else jax.tree.map(lambda x: x[0], result)

    def warmup(self, size: tuple[int, int] | None = None, batch: int | None = None) -> float:
        """Compiles for a batch size before the first frame comes; see `Model.warmup`.

        Args:
          size: None, or the file's.
          batch: frames in a call; None for lone frames.

        Returns:
          Seconds it took.
        """
        return model.warmed(self, size or self.frame, batch)


def load(path: storage.Folder) -> Exported:
    """Reads an exported file.

    Args:
      path: written by `export`, whatever its name.

    Raises:
      UserError: no such file, one that is something else, damaged or not to be trusted, or that this version of JAX or
        this machine cannot run.
    """
    try:
        content = path.read_bytes()
    except Exception as error:  # Each store's client has errors of its own.
        raise config.UserError(f"{path} cannot be read: {storage.reason(error)}. Check the path.") from error
    arrays = _arrays(path, content)
    about = _read_about(path, arrays)
    program = _read_program(path, about, arrays)
    _require_platform(path, program)
    return Exported(about, program, jax.device_put([arrays[name] for name in about["weights"]]))


class _Refused(Exception):
    """Why a file is not used."""


def _damaged(path: storage.Folder, reason: object) -> config.UserError:
    return config.UserError(f"{path} is no file of jaxseg export, or a damaged one: {reason}. Export it again.")


def _arrays(path: storage.Folder, content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an uncompressed archive: no pickles, none larger than the file, every checksum right.

    Raises:
      UserError: it is something else.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(content):
                    raise _Refused(f"{entry.filename} is compressed or larger than the file")
                arrays[entry.filename.removesuffix(".npy")] = _array(archive.read(entry))
    except (_Refused, zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, error) from error
    return arrays


def _array(content: bytes) -> np.ndarray:
    """An array of the NumPy format whose header claims no more than what is there."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise _Refused("an array is not what its header says")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _read_about(path: storage.Folder, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the file says of itself, checked as far as anything here relies on it.

    Raises:
      UserError: it says nothing, or nothing that can be so.
    """
    try:
        text = arrays["about"]
        if text.size > MOST_TEXT:
            raise _Refused("`about` is too long")
        about = json.loads(text.tobytes())
        if not str(about["format"]).startswith(FORMAT.rstrip("0123456789")):
            raise _Refused("it has another format")
        if about["format"] == FORMAT:
            _check(about, arrays)
    except (_Refused, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}" if not str(error) else error) from error
    if about["format"] != FORMAT:
        raise config.UserError(f"{path} is a {about['format']!r}, of another version of jaxseg. Export it again.")
    return about


def _check(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Raises unless every value that is used later has its type."""
    height, width = about["frame"]
    names, numbers, classes = about["weights"], about["thresholds"], _classes(about)
    right = (
        all(type(n) is int and 0 < n < 1 << 16 for n in (height, width)),
        all(type(name) is str and name in arrays for name in names),
        numbers.keys() == vars(Thresholds()).keys() and all(type(v) is float for v in numbers.values()),
        all(type(name) is str for name in classes.names) and 1 < len(classes.names) <= 256,
        all(type(i) is int and 0 < i < len(classes.names) for i in classes.stuff),
        all(type(v) is int and 0 <= v < 256 for color in classes.colors for v in color),
        all(len(color) == 3 for color in classes.colors),
        type(about["pixels_per_unit"]) is float and 0 <= about["pixels_per_unit"] < math.inf,
        type(about["jax"]) is str and type(about["name"]) is str and type(about["step"]) is int,
    )
    if not all(right):
        raise _Refused("`about` is not in order")


def _classes(about: Mapping[str, Any]) -> ClassList:
    colors = tuple((red, green, blue) for red, green, blue in about["colors"])
    return ClassList(tuple(about["classes"]), tuple(about["stuff"]), colors)


def _read_program(
    path: storage.Folder, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> jax_export.Exported:
    """The program, if JAX can read it and it does nothing but compute what the file says.

    Raises:
      UserError: it cannot, or would.
    """
    try:
        with _silent():
            program = jax_export.deserialize(bytearray(arrays["program"].tobytes()))
            text = program.mlir_module()
    except Exception as error:  # Readers of foreign bytes fail in many ways.
        if str(about["jax"]) == jax.__version__:
            raise _damaged(path, f"JAX cannot read its program ({type(error).__name__})") from error
        raise config.UserError(
            f"{path} was exported by jax {about['jax']}, and this jax {jax.__version__} cannot read it. Install "
            f"jax {about['jax']} or newer, or export it again with this one."
        ) from error
    wanted = [jax.ShapeDtypeStruct(arrays[name].shape, arrays[name].dtype) for name in about["weights"]]
    given = [(tuple(map(str, a.shape)), a.dtype) for a in program.in_avals]
    size = tuple(map(str, about["frame"]))
    expected = [(tuple(map(str, a.shape)), a.dtype) for a in wanted]
    expected += [(("b", *size, "3"), np.dtype("uint8")), *[((), np.dtype("float32"))] * len(about["thresholds"])]
    if given != expected:
        raise _damaged(path, "its program takes other arrays than it holds")
    outside = _reaching_out(text)
    if outside:
        raise config.UserError(
            f"{path} is refused: its program calls {outside} outside of XLA's own operations, which no export does."
        )
    return program


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the process's standard error, where MLIR says what it cannot read, past Python."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _reaching_out(text: str) -> str:
    """Name of an operation that reaches outside of the program, or nothing: calls of registered code, transfers."""
    calls = re.findall(r"custom_call\b(?:\s*@\"?([\w.$]*))?", text)
    outside = [name or "something" for name in calls if name not in HARMLESS]
    transfers = re.findall(r"\b(?:stablehlo|mhlo|chlo|vhlo)\.(infeed|outfeed|send|recv)\b", text)
    return next(iter([*outside, *transfers]), "")


def _require_platform(path: storage.Folder, program: jax_export.Exported) -> None:
    """Raises UserError unless the program can run on this machine's default device."""
    here = jax.default_backend()
    names = {"gpu": ("cuda", "rocm")}.get(here, (here,))
    if not set(names) & set(program.platforms):
        raise config.UserError(
            f"{path} was exported for {', '.join(program.platforms)}, and JAX runs on {here} here. Export it again "
            f"with --platforms {names[0]}."
        )
