"""The golden files as their projects write them, and what these compute with them."""

import gzip
from pathlib import Path

import numpy as np

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
