"""TFDS builders, free of TensorFlow: prepared once into array_record files, read back by index.

Importing this module imports TFDS; `prepare` does so when a data set is opened. Examples are stored in the order of
their names.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds

from jaxseg.data import folder, shapes

Stored = tuple[int, dict[str, Any]]


class _Builder(tfds.core.GeneratorBasedBuilder):
    """What the builders share.

    Attributes:
      progress: items, their number and a description to the same items; may draw a bar.
      code_path: TFDS looks for download checksums beside it; inferring it needs a package that TFDS does not require.
    """

    progress: Callable[[Any, int, str], Iterator[Any]] = staticmethod(lambda items, total, description: iter(items))
    code_path = tfds.core.Path(__file__)


def _ahead(function: Callable[[int], Stored], numbers: range) -> Iterator[Stored]:
    """Results in order, made by a thread a core; OpenCV and NumPy let each other run."""
    size = os.cpu_count() or 1
    with ThreadPoolExecutor(size) as pool:
        for start in range(0, len(numbers), 8 * size):
            yield from pool.map(function, numbers[start : start + 8 * size])


def features() -> tfds.features.FeaturesDict:
    """What every data set stores of an example."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "semantic": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            "instance": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png"),
            "name": tfds.features.Text(),
        }
    )


def png(array: np.ndarray) -> bytes:
    """Lossless file content; channels in the order RGB."""
    rgb = array.ndim == 3
    ok, content = cv2.imencode(".png", array[..., ::-1] if rgb else array, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise ValueError(f"An array of shape {array.shape} and type {array.dtype} cannot be stored as PNG.")
    return content.tobytes()


def _info(builder: tfds.core.DatasetBuilder, description: str) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(builder=builder, description=description, features=features(), disable_shuffling=True)


@dataclass(kw_only=True)
class ShapesConfig(tfds.core.BuilderConfig):
    """One set of generated scenes; see `jaxseg.config.Shapes`."""

    size: tuple[int, int] = (128, 256)
    classes: int = len(shapes.CLASSES)
    seed: int = 0
    train: int = 4000
    val: int = 200


class Shapes(_Builder):
    """Street-like scenes; a scene is a function of seed, split and index alone."""

    VERSION = tfds.core.Version("1.0.1")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "First release. Any change of what is drawn is a new version.",
        "1.0.1": "Ignored patches of scenes that are taller than wide fit their width.",
    }
    BUILDER_CONFIGS: ClassVar = [ShapesConfig(name="default")]

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, "Shapes on a street, told apart by silhouette, with exact instance labels.")

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Stored]]:
        return {"train": self._generate_examples("train"), "val": self._generate_examples("val")}

    def _generate_examples(self, split: str) -> Iterator[Stored]:
        config = self.builder_config
        count = getattr(config, split)

        def stored(i: int) -> Stored:
            scene = shapes.generate(config.seed, split, i, tuple(config.size), config.classes)
            return i, {
                "image": png(scene.image),
                "semantic": png(scene.semantic),
                "instance": png(scene.instance),
                "name": scene.name,
            }

        yield from self.progress(_ahead(stored, range(count)), count, f"drawing {split}")


@dataclass(kw_only=True)
class FolderConfig(tfds.core.BuilderConfig):
    """One state of a folder, listed by `folder.layout`."""

    layout: folder.Layout | None = None


class Folder(_Builder):
    """Images with 16-bit instance maps from a folder; image files of common kinds are stored as they are."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, "Images and instance maps of a folder.")

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Stored]]:
        return {split: self._generate_examples(split) for split in self.builder_config.layout.splits}

    def _generate_examples(self, split: str) -> Iterator[Stored]:
        layout = self.builder_config.layout
        pairs = layout.splits[split]
        for i, pair in enumerate(self.progress(pairs, len(pairs), f"reading {split}")):
            content, label = folder.read(pair, layout.coding)
            yield (
                i,
                {
                    "image": content,
                    "semantic": png(label.semantic),
                    "instance": png(label.instance),
                    "name": pair.name,
                },
            )
