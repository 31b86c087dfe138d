"""Tensors by name from a weight file of any format that is known here. Its content decides which one it is."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxseg.config import UserError
from jaxseg.weights import darknet, pytorch, tensorflow

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
LARGEST = 1 << 32
"""Most bytes of a file that are read."""

KNOWN = (
    "PyTorch .pth or .safetensors, Keras .h5 or .keras, TensorFlow .ckpt.index, NumPy .npz, Darknet .weights, .conv.74"
)

Tensors = Mapping[str, np.ndarray]


def read(path: Path) -> Tensors:
    """Every tensor of a weight file.

    Args:
      path: the file; of a TensorFlow checkpoint NAME.index, or NAME itself.

    Returns:
      Tensors by the names that they have there; Keras's are LAYER/VARIABLE, Darknet's those of `darknet.read`.

    Raises:
      UserError: no such file, an unknown format, a damaged file, or one that holds code.
    """
    path = Path(path).expanduser()
    index = path.with_name(f"{path.name}.index")
    path = index if not path.is_file() and index.is_file() else path
    if not path.is_file():
        raise UserError(f"{path} is not a file. Name a weight file: {KNOWN}.")
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} holds over {LARGEST >> 30} GiB, no encoder does. Name a weight file.")
        return _read(path)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path} asks for more memory than there is; it is damaged. Get it again.") from error
    except Exception as error:  # Decoders raise whatever their arithmetic runs into.
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read: {reason}. It is damaged: get it again.") from error


def _read(path: Path) -> Tensors:
    with path.open("rb") as file:
        start = file.read(64)
        file.seek(max(path.stat().st_size - 8, 0))
        end = file.read(8)
    if start.startswith(HDF5):
        return _hdf5(path.read_bytes())
    if start.startswith(ZIP):
        return _zip(path)
    if start.startswith(pytorch.MAGIC):
        return pytorch.from_legacy(path.read_bytes(), str(path))
    if end == tensorflow.MAGIC:
        return tensorflow.read(path)
    if start[8:9] == b"{":
        return safetensors(path)
    if path.suffix == ".weights" or path.name.endswith(".conv.74"):
        return darknet.read(path.read_bytes(), str(path))
    raise UserError(f"{path} is of no known format. Name a weight file: {KNOWN}.")


def safetensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a .safetensors file."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)


def metadata(path: Path) -> Mapping[str, str]:
    """What a .safetensors file says about itself; nothing for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except SafetensorError:
        return {}


def _zip(path: Path) -> Tensors:
    """What zip archives hold: PyTorch's files, Keras's models, NumPy's arrays."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        # Nothing that is stored well shrinks a hundredfold.
        if sum(member.file_size for member in members) > min(LARGEST, 100 * path.stat().st_size + (1 << 20)):
            raise ValueError("an archive that claims to hold far more than it does")
        names = [member.filename for member in members]
        if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
            return pytorch.from_zip(archive, str(path))
        if "model.weights.h5" in names:
            return _hdf5(archive.read("model.weights.h5"))
        if names and all(name.endswith(".npy") for name in names):
            arrays = (np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False) for name in names)
            return {name.removesuffix(".npy"): array for name, array in zip(names, arrays, strict=True)}
    raise UserError(f"{path} is an archive of no known kind. Name a weight file: {KNOWN}.")


def _hdf5(content: bytes) -> Tensors:
    """Variables of Keras's layers, as LAYER/VARIABLE; Keras 3 numbers the variables of a layer."""
    import h5py

    found: dict[str, np.ndarray] = {}

    def visit(name: str, node: object) -> None:
        parts = name.split("/")
        if isinstance(node, h5py.Dataset) and parts[0] not in ("optimizer", "optimizer_weights") and len(parts) > 1:
            layer = parts[-3] if parts[-2] == "vars" and len(parts) > 2 else parts[-2]
            # Keras before 3 wrote depthwise_kernel:0 where Keras 3 writes kernel.
            found[f"{layer}/{parts[-1].partition(':')[0].removeprefix('depthwise_')}"] = node[()]

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(visit)
    return found
