"""TFDS builders, free of TensorFlow: prepared once into array_record files, read back by index.

Importing this module imports TFDS; `prepare` does so when a data set is opened. Examples are stored in the order of
their names. Each builder stores what its layout lists; the layouts read and check.
"""

import contextlib
import itertools
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import msgpack
import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import example_serializer

from jaxseg.config import Problem, UserError
from jaxseg.data import Label, check, images
from jaxseg.data.check import Record
from jaxseg.data.layouts import DataError, Fault, Layout, refuse
from jaxseg.data.pictures import PictureLayout, Raw

Stored = tuple[int, dict[str, Any]]
PART = 32
"""Images in a part, which is what an interruption costs at most."""
SHARD = 1 << 30
"""Bytes after which a file of `Pictures` is full and the next one begins; TFDS's own limit."""


def features(full: bool) -> tfds.features.FeaturesDict:
    """What a data set stores of an example; ``grouped`` says whether its label is that of evaluation, with groups.

    Args:
      full: whether labels of the published size are stored beside those of the stored size.
    """
    semantic = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    instance = tfds.features.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png")
    stored = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "semantic": semantic,
        "instance": instance,
        "name": tfds.features.Text(),
        "grouped": np.bool_,
    }
    return tfds.features.FeaturesDict(stored | ({"full_semantic": semantic, "full_instance": instance} if full else {}))


@dataclass(kw_only=True)
class Listed(tfds.core.BuilderConfig):
    """One state of a data set.

    Attributes:
      layout: lists and reads it.
      accept: faults that do not stop, see `jaxseg.config.Data`.
      parts: folder of the parts that an interrupted preparation left.
      progress: may draw a bar.
    """

    layout: Layout | None = None
    accept: tuple[Problem, ...] = ()
    parts: Path = Path()
    progress: check.Progress = field(default=lambda items, total, description: iter(items))

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes only read; they need no listing, which may be large, and no bar."""
        return {key: value for key, value in vars(self).items() if key not in ("layout", "progress")}


class _Streaming(tfds.core.GeneratorBasedBuilder):
    """Writes examples itself, as they come.

    TFDS would sort them, though they come in order: beyond 1000 MiB with files that it needs TensorFlow to open, and
    all in memory, for it spreads over those files by hashes that numbers are not.
    """

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        written = {name: self._written(name, examples) for name, examples in self._split_generators(dl_manager).items()}
        self.info.set_splits(tfds.core.SplitDict([written[name] for name in self.builder_config.layout.splits]))

    def _written(self, split: str, examples: Iterator[Stored]) -> tfds.core.SplitInfo:
        """Writes one split, to files that get their names at last, because these say how many there are."""
        template, features = self._get_filename_template(split_name=split), self.info.features
        serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
        records = (serializer.serialize_example(features.encode_example(example)) for _, example in examples)
        files = [
            _file(Path(template.data_dir) / f"{split}.{i}.partial", (record for _, record in group))
            for i, (_, group) in enumerate(itertools.groupby(_placed(records), operator.itemgetter(0)))
        ]
        for i, (path, _, _) in enumerate(files):
            path.rename(template.sharded_filepath(shard_index=i, num_shards=len(files)))
        lengths, volumes = [length for _, length, _ in files], (volume for _, _, volume in files)
        return tfds.core.SplitInfo(split, lengths, sum(volumes), template)


class _Builder(_Streaming):
    """What the builders of segmentation share.

    Attributes:
      code_path: TFDS looks for download checksums beside it; inferring it needs a package that TFDS does not require.
      text: what the data set is.
      full: whether labels of the published size are stored too.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release.", "1.1.0": "Groups are kept for evaluation."}
    code_path = tfds.core.Path(__file__)
    text: ClassVar[str]
    full: ClassVar[bool] = False

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.text,
            features=features(self.full),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Stored]]:
        refuse(self.builder_config.layout.faults, self.builder_config.accept)
        return {split: self._generate_examples(split) for split in self.builder_config.layout.splits}

    def _generate_examples(self, split: str) -> Iterator[Stored]:
        config, records = self.builder_config, []
        items = config.layout.splits[split]
        entries = (entry for start in range(0, len(items), PART) for entry in self._part(split, start))
        for entry in config.progress(entries, len(items), f"preparing {split}"):
            refuse((Fault(*fault) for fault in entry["faults"]), config.accept)
            if entry["stored"] is not None:
                records.append(entry["record"])
                yield len(records) - 1, entry["stored"]
        if not records:
            raise UserError(f"No image of {config.layout.title}/{split} can be used. Mend or replace them.")
        self.info.metadata[split] = records
        if split == list(config.layout.splits)[-1]:
            found = {name: [to_record(row) for row in self.info.metadata[name]] for name in config.layout.splits}
            refuse(check.across(found), config.accept)

    def _part(self, split: str, start: int) -> list[dict[str, Any]]:
        """The entries of one part, left by an interrupted preparation or made now and left for the next."""
        path = self.builder_config.parts / f"{split}-{start:07}.part"
        try:
            return msgpack.unpackb(path.read_bytes(), strict_map_key=False)
        except (OSError, ValueError):
            layout = self.builder_config.layout
            items = layout.splits[split][start : start + PART]
            entries = [_entry(image, self.full) for image in check.examined(layout, items)]
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")
            # Another run that prepares the same data removes the folder once it is done.
            with contextlib.suppress(FileNotFoundError):
                partial.write_bytes(msgpack.packb(entries))
                partial.replace(path)
            return entries


def _entry(image: check.Examined, full: bool) -> dict[str, Any]:
    """What is kept of one image; ``full`` as in `features`."""
    faults = [list(fault) for fault in image.faults]
    if image.labelled is None or image.record is None:
        return {"stored": None, "record": None, "faults": faults}
    labelled = image.labelled
    stored = {
        "image": labelled.content,
        "semantic": images.png(labelled.label.semantic),
        "instance": images.png(labelled.label.instance),
        "name": image.record.name,
        "grouped": False,
    }
    if labelled.full is not None:
        stored |= _for_evaluation(labelled.full, full)
    return {"stored": stored, "record": list(image.record), "faults": faults}


def _for_evaluation(wanted: Label, full: bool) -> dict[str, Any]:
    """The label of evaluation: beside that of training, or in its place, for that one follows from it."""
    if full:
        return {"full_semantic": images.png(wanted.semantic), "full_instance": images.png(wanted.instance)}
    return {"semantic": images.png(wanted.semantic), "instance": images.png(wanted.instance), "grouped": True}


def to_record(row: Sequence[Any]) -> Record:
    """A record from what JSON makes of one."""
    name, digest, size, pixels, instances = row
    return Record(
        name,
        digest,
        (size[0], size[1]),
        {int(class_id): number for class_id, number in pixels.items()},
        [tuple(instance) for instance in instances],
    )


class Shapes(_Builder):
    """Street-like scenes; a scene is a function of seed, split and index alone."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "First release. Any change of what is drawn is a new version.",
        "1.0.1": "Ignored patches of scenes that are taller than wide fit their width.",
        "1.1.0": "Groups are kept for evaluation; scenes have none.",
    }
    text = "Shapes on a street, told apart by silhouette, with exact instance labels."


class Folder(_Builder):
    """Images with 16-bit instance maps from a folder; image files of common kinds are stored as they are."""

    text = "Images and instance maps of a folder."


class Cityscapes(_Builder):
    """Cityscapes as published, at the stored size; labels of the published size beside it, for evaluation."""

    text = "Cityscapes with instances, fine or coarse annotations."
    full = True


class Coco(_Builder):
    """Images with COCO's instance or panoptic annotations; image files of common kinds are stored as they are."""

    text = "Images with COCO annotations."


@dataclass(kw_only=True)
class Streamed(tfds.core.BuilderConfig):
    """One state of a data set of images with a class each.

    Attributes:
      layout: lists and reads it.
      accept: "unreadable" leaves out what cannot be decoded.
      progress: may draw a bar.
    """

    layout: PictureLayout | None = None
    accept: tuple[Problem, ...] = ()
    progress: check.Progress = field(default=lambda items, total, description: iter(items))

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes only read."""
        return {key: value for key, value in vars(self).items() if key not in ("layout", "progress")}


class Pictures(_Streaming):
    """Images of one class each, in the order of their layout; files of common kinds are stored as they are.

    Attributes:
      code_path: as in `_Builder`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    code_path = tfds.core.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        stored = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": np.int64,
            "name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images of one class each.",
            features=tfds.features.FeaturesDict(stored),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Stored]]:
        self.info.metadata["classes"] = list(self.builder_config.layout.classes)
        # Training images come last: they take longest, and what is wrong with the others shows before.
        return {split: self._generate_examples(split) for split in reversed(self.builder_config.layout.splits)}

    def _generate_examples(self, split: str) -> Iterator[Stored]:
        config, number = self.builder_config, 0
        stream = check.ahead(_checked, config.layout.stream(split))
        for found in config.progress(stream, None, f"preparing {split}"):
            if not isinstance(found, DataError):
                yield number, found
                number += 1
            elif found.kind not in config.accept:
                raise UserError(f"{found} --data.accept {found.kind} leaves such images out.")
        if not number:
            raise UserError(f"No image of {config.layout.title}/{split} can be used. Mend or replace them.")


def _placed(records: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Records, each with what is the same for all of one file."""
    volume = 0
    for record in records:
        yield volume // SHARD, record
        volume += len(record)


def _file(path: Path, records: Iterable[bytes]) -> tuple[Path, int, int]:
    """Writes one file: its path, the number of its records, and their bytes."""
    length = volume = 0
    with contextlib.closing(array_record_module.ArrayRecordWriter(str(path), "group_size:1")) as writer:
        for record in records:
            writer.write(record)
            length, volume = length + 1, volume + len(record)
    return path, length, volume


def _checked(raw: Raw | DataError) -> dict[str, Any] | DataError:
    """An image as it is stored, or what is wrong with it."""
    if isinstance(raw, DataError):
        return raw
    try:
        content, _ = images.image(raw.content, raw.file)
    except DataError as error:
        return error
    return {"image": content, "label": raw.label, "name": raw.name}
