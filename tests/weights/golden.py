"""The golden files as their projects write them, and what these compute with them."""

import gzip
from pathlib import Path

import numpy as np

from jaxseg.weights import imported, names, stored

FOLDER = Path(__file__).parent / "golden"

FILES = {
    "mobilenet_v2_torchvision.pth": "torchvision",
    "mobilenet_v2_torchvision_legacy.pth": "torchvision",
    "mobilenet_v2_timm.safetensors": "timm_mnv2",
    "darknet53_timm.safetensors": "timm_dn53",
    "mobilenet_v2_keras.weights.h5": "keras",
    "mobilenet_v2_keras.keras": "keras",
    "mobilenet_v2_keras_legacy.h5": "keras",
    "mobilenet_v2_keras_legacy_weights.h5": "keras",
    "mobilenet_v2_slim.ckpt.index": "keras",
}
"""Each file, and the prefix of its features."""


def content(name: str) -> bytes:
    """Of a file as its project wrote it."""
    return gzip.decompress((FOLDER / f"{name}.gz").read_bytes())


def unpack(name: str, folder: Path) -> Path:
    """Writes a file, and the data file that belongs to an index."""
    for part in (name, name.replace(".index", ".data-00000-of-00001")):
        (folder / part).write_bytes(content(part))
    return folder / name


def features(prefix: str, size: str) -> dict[str, np.ndarray]:
    """What the original computes: features by stride, and "logits"; on the image of that size."""
    with np.load(FOLDER / f"features_{'tensorflow' if prefix == 'keras' else 'torch'}.npz") as arrays:
        start = f"{prefix}_{size}_"
        return {name.removeprefix(start): arrays[name] for name in arrays if name.startswith(start)}


def image(size: str) -> np.ndarray:
    """(1, H, W, 3) uint8, "even" or "odd"."""
    with np.load(FOLDER / "images.npz") as arrays:
        return arrays[size]


def folded(folder: Path) -> tuple[Path, stored.Weights]:
    """Keras' MobileNetV2 with its batch norms folded into kernels and biases, as .npz; and as it was."""
    weights, _ = imported.read(unpack("mobilenet_v2_keras.keras", folder))
    source = next(source for source in names.SOURCES if source.folded)
    given, arrays = stored.flat(weights.variables), {}
    for path in names.convolutions("mobilenet_v2", ()):
        module = f"encoder/{'/'.join(path)}"
        scale, bias = (given[f"params/{module}/norm/{part}"] for part in ("scale", "bias"))
        mean, var = (given[f"batch_stats/{module}/norm/{part}"] for part in ("mean", "var"))
        slope = scale / np.sqrt(var + weights.settings.conventions.epsilon)
        name = source.convolution(path)
        arrays |= {name["kernel"]: given[f"params/{module}/kernel"] * slope, name["bias"]: bias - mean * slope}
    (last,) = source.classifier
    arrays |= {last[part]: given[f"params/logits/{part}"] for part in ("kernel", "bias")}
    np.savez(folder / "folded.npz", **arrays)
    return folder / "folded.npz", weights
