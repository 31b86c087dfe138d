"""Batches for training, by Grain: what a batch holds depends on its step alone, on any number of hosts."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxseg.config import Data, Pictures, UserError
from jaxseg.data import Example, Source
from jaxseg.data.augment import augment, middle, random_window
from jaxseg.data.pictures import Picture
from jaxseg.types import Batch, ClassBatch

THREADS = 2
AHEAD = 4
"""Batches that are read before they are asked for."""


def train_batches(
    source: Source,
    data: Data,
    batch_size: int,
    seed: int,
    start_step: int,
    steps: int,
    shard_index: int = 0,
    shard_count: int = 1,
    size: tuple[int, int] | None = None,
) -> Iterator[Batch]:
    """Augmented training batches of the steps start_step..steps - 1.

    Row r of step s is example s * batch_size + r of one endless stream, in which every epoch is a new permutation; a
    shard takes its contiguous rows of every batch. So neither resuming nor the number of shards changes what a step
    sees.

    Args:
      source: training examples.
      data: settings; crop, augment and workers are read.
      batch_size: rows of a batch, over all shards.
      seed: of order and augmentation.
      start_step: first step.
      steps: step to end before, counted from 0 as start_step is.
      shard_index: which shard this is, 0 to shard_count - 1.
      shard_count: number of shards.
      size: (height, width) that the network sees every frame at; None for frames of their own size.

    Returns:
      Batches of batch_size / shard_count rows, of size ``data.crop``, made ahead in the background.

    Raises:
      UserError: the shards do not divide the batch.
      ValueError: there is no such shard, or nothing to read.
    """
    rows = _rows(batch_size, shard_index, shard_count)
    stream = _stream(source, partial(_augmented, data=data, size=size), seed)
    read = _read(stream, range(start_step, steps), rows, batch_size, data.workers)
    return (Batch(image=b["image"], semantic=b["semantic"], instance=b["instance"]) for b in read)


def class_batches(
    source: Any,
    data: Pictures,
    batch_size: int,
    seed: int,
    start_step: int,
    steps: int,
    shard_index: int = 0,
    shard_count: int = 1,
) -> Iterator[ClassBatch]:
    """Augmented batches of classification; arguments and guarantees are those of `train_batches`.

    Args:
      source: training pictures.
      data: settings; crop, augment and workers are read.
      batch_size: rows of a batch, over all shards.
      seed: of order and augmentation.
      start_step: first step.
      steps: step to end before, counted from 0 as start_step is.
      shard_index: which shard this is, 0 to shard_count - 1.
      shard_count: number of shards.

    Returns:
      Batches of batch_size / shard_count rows, of size ``data.crop``, made ahead in the background; int32 labels.

    Raises:
      UserError: the shards do not divide the batch.
      ValueError: there is no such shard, or nothing to read.
    """
    rows = _rows(batch_size, shard_index, shard_count)
    stream = _stream(source, partial(_cropped, data=data), seed)
    read = _read(stream, range(start_step, steps), rows, batch_size, data.workers)
    return (ClassBatch(image=b["image"], label=b["label"]) for b in read)


def batch_names(
    source: Any, batch_size: int, seed: int, step: int, shard_index: int = 0, shard_count: int = 1
) -> list[str]:
    """Names of the examples in one step's batch, in the order of its rows, of either kind of batches.

    Args:
      source: training examples or pictures.
      batch_size: rows of a batch, over all shards.
      seed: of order.
      step: which batch.
      shard_index: which shard this is, 0 to shard_count - 1.
      shard_count: number of shards.
    """
    stream = _shuffled(source, seed)
    rows = _rows(batch_size, shard_index, shard_count)
    return [stream[step * batch_size + row].name for row in rows]


def class_examples(source: Any, data: Pictures, index: int = 0, count: int = 1) -> Iterator[tuple[np.ndarray, int]]:
    """Every picture once as classification is evaluated, and its class, in the order in which they are stored.

    Args:
      source: pictures of a split.
      data: settings; crop and margin are read.
      index: which part of them.
      count: number of parts.

    Returns:
      (height, width, 3) uint8 RGB of size ``data.crop`` and the class id, made ahead in the background.
    """
    import grain

    part = grain.MapDataset.source(source).slice(slice(index, None, count))
    stream = part.map(lambda p: (middle(p.image, data.crop, data.margin), p.label))
    return iter(stream.to_iter_dataset(grain.ReadOptions(THREADS, 2 * THREADS)))


def val_examples(source: Source, index: int = 0, count: int = 1) -> Iterator[Example]:
    """Every example once, at its own size, in the order of their names.

    Args:
      source: examples of a split, stored in the order of their names.
      index: which part of them.
      count: number of parts.

    Returns:
      Examples, read ahead in the background.
    """
    import grain

    part = grain.MapDataset.source(source).slice(slice(index, None, count))
    return iter(part.to_iter_dataset(grain.ReadOptions(THREADS, 2 * THREADS)))


def _rows(batch_size: int, index: int, count: int) -> range:
    """Rows of each batch that a shard takes."""
    if not 0 <= index < count:
        raise ValueError(f"`shard_index` must be 0 to {count - 1}: got {index}.")
    if batch_size % count:
        below, above = batch_size // count * count, -(-batch_size // count) * count
        nearest = f"{below} or {above}" if below else f"{above}"
        raise UserError(f"{count} shards do not divide a batch of {batch_size}. Set --train.batch to {nearest}.")
    size = batch_size // count
    return range(index * size, (index + 1) * size)


def _stream(source: Any, change: Callable[[Any, np.random.Generator], dict[str, np.ndarray]], seed: int) -> Any:
    """Endless augmented examples by index."""
    return _shuffled(source, seed).random_map(change)


def _shuffled(source: Any, seed: int) -> Any:
    """Endless examples by index, a new permutation every epoch."""
    import grain

    if not len(source):
        raise ValueError("`source` must hold at least one example: got none.")
    return grain.MapDataset.source(source).seed(seed).shuffle().repeat()


def _cropped(picture: Picture, rng: np.random.Generator, data: Pictures) -> dict[str, np.ndarray]:
    image = random_window(rng, picture.image, data.crop, data.augment)
    return {"image": image, "label": np.asarray(picture.label, np.int32)}


def _augmented(
    example: Example, rng: np.random.Generator, data: Data, size: tuple[int, int] | None
) -> dict[str, np.ndarray]:
    changed = augment(rng, example, data, size)
    return {"image": changed.image, "semantic": changed.semantic, "instance": changed.instance}


def _read(stream: Any, steps: range, rows: range, batch_size: int, workers: int) -> Iterator[dict[str, Any]]:
    import grain

    batch = partial(_batch, stream=stream, rows=rows, batch_size=batch_size)
    batches = grain.MapDataset.range(steps.start, steps.stop).map(batch)
    ahead = batches.to_iter_dataset(grain.ReadOptions(THREADS, AHEAD))
    if workers:
        _parse_flags()
        ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(workers))
    return iter(ahead)


def _batch(step: int, stream: Any, rows: range, batch_size: int) -> dict[str, np.ndarray]:
    """Rows of one step, each put into the batch as soon as it is made.

    Grain would hold all of them until it stacks them; for large images, getting that much memory anew for every batch
    takes longer than augmenting them.
    """
    batch: dict[str, np.ndarray] = {}
    for i, row in enumerate(rows):
        example = stream[step * batch_size + row]
        if not batch:
            batch = {key: np.empty((len(rows), *array.shape), array.dtype) for key, array in example.items()}
        for key, array in example.items():
            batch[key][i] = array
    return batch


def _parse_flags() -> None:
    """Grain's worker processes read absl flags, which only programs built on absl have parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
