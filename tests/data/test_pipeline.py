"""The order of training: a function of the step, whatever ran before and on however many shards."""

import dataclasses
import re

import numpy as np
import pytest

from jaxseg.config import Augment, Data, UserError
from jaxseg.data import Example, pipeline, shapes

SIZE = (32, 48)
DATA = Data(crop=(24, 24), augment=Augment(scale=(0.7, 1.5), transpose=True, brightness=0.2, hue=0.05))
PLAIN = Data(crop=SIZE, augment=Augment(flip_horizontal=False))
Arrays = list[tuple[np.ndarray, ...]]


@pytest.fixture(scope="module")
def source() -> list[Example]:
    return [shapes.generate(0, "train", i, SIZE) for i in range(10)]


def _batches(source, data: Data = DATA, batch=4, seed=3, start=0, steps=7, shard=0, shards=1) -> Arrays:
    batches = pipeline.train_batches(source, data, batch, seed, start, steps, shard, shards)
    return [(b.image, b.semantic, b.instance) for b in batches]


def _same(a: Arrays, b: Arrays) -> bool:
    pairs = [pair for x, y in zip(a, b, strict=True) for pair in zip(x, y, strict=True)]
    return all(np.array_equal(x, y) for x, y in pairs)


def _seen(source, batches: Arrays) -> list[int]:
    """Indices of the examples in unaugmented batches, in order."""
    images = np.stack([e.image for e in source])
    return [int((images == row).all((1, 2, 3)).argmax()) for image, *_ in batches for row in image]


def test_types_and_sizes(source):
    batches = _batches(source)
    assert len(batches) == 7
    for image, semantic, instance in batches:
        assert (image.shape, image.dtype) == ((4, 24, 24, 3), np.uint8)
        assert (semantic.shape, semantic.dtype) == ((4, 24, 24), np.uint8)
        assert (instance.shape, instance.dtype) == ((4, 24, 24), np.uint16)


def test_every_epoch_shows_every_example_once_in_another_order(source):
    seen = _seen(source, _batches(source, PLAIN, batch=5, steps=6))
    epochs = [seen[:10], seen[10:20], seen[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_an_example_is_augmented_anew_each_epoch(source):
    only = source[:1]
    (first, *_), (second, *_) = _batches(only, batch=1, steps=2)
    assert (first != second).any()


@pytest.mark.parametrize("start", [1, 2, 5])
def test_resuming_sees_what_an_uninterrupted_run_would_have_seen(source, start):
    assert _same(_batches(source)[start:], _batches(source, start=start))


def test_the_end_does_not_change_the_beginning(source):
    assert _same(_batches(source)[:3], _batches(source, steps=3))


@pytest.mark.parametrize("start", [7, 9])
def test_nothing_is_left_at_the_end(source, start):
    assert _batches(source, start=start) == []


@pytest.mark.parametrize("shards", [2, 4])
def test_shards_put_together_are_the_whole_batch(source, shards):
    parts = [_batches(source, start=1, steps=5, shard=i, shards=shards) for i in range(shards)]
    joined = [tuple(map(np.concatenate, zip(*rows, strict=True))) for rows in zip(*parts, strict=True)]
    assert _same(joined, _batches(source, start=1, steps=5))


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 2), (2, 1)])
def test_going_on_with_another_number_of_shards_changes_nothing(source, before, after):
    parts = [_batches(source, steps=3, shard=i, shards=before) for i in range(before)]
    parts_after = [_batches(source, start=3, steps=6, shard=i, shards=after) for i in range(after)]
    joined = [
        tuple(map(np.concatenate, zip(*rows, strict=True)))
        for run in (parts, parts_after)
        for rows in zip(*run, strict=True)
    ]
    assert _same(joined, _batches(source, steps=6))


def test_batches_do_not_share_memory(source):
    """A batch is the reader's to keep: later ones do not write into it."""
    batches = _batches(source, steps=4)
    arrays = [array for batch in batches for array in batch]
    assert all(array.flags.c_contiguous and array.flags.writeable for array in arrays)
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def test_the_number_of_threads_changes_nothing(source, monkeypatch):
    expected = _batches(source)
    monkeypatch.setattr(pipeline, "THREADS", 7)
    assert _same(_batches(source), expected)


def test_seed_changes_order_and_augmentation(source):
    assert _same(_batches(source), _batches(source))
    assert _seen(source, _batches(source, PLAIN)) != _seen(source, _batches(source, PLAIN, seed=4))


def test_one_example_fills_a_larger_batch(source):
    (batch,) = _batches(source[:1], PLAIN, batch=3, steps=1)
    assert _seen(source, [batch]) == [0, 0, 0]


@pytest.mark.parametrize(("batch", "shards", "nearest"), [(7, 2, "6 or 8"), (3, 4, "4"), (10, 4, "8 or 12")])
def test_a_batch_that_shards_do_not_divide_is_refused(source, batch, shards, nearest):
    message = f"{shards} shards do not divide a batch of {batch}. Set --train.batch to {nearest}."
    with pytest.raises(UserError, match=re.escape(message)):
        pipeline.train_batches(source, DATA, batch, 0, 0, 1, 0, shards)


def test_bad_arguments_are_refused_at_once(source):
    with pytest.raises(ValueError, match="`shard_index` must be 0 to 1: got 2"):
        pipeline.train_batches(source, DATA, 4, 0, 0, 1, 2, 2)
    with pytest.raises(ValueError, match="`source` must hold at least one example"):
        pipeline.train_batches([], DATA, 4, 0, 0, 1)


def test_validation_shows_each_example_once_as_it_is_stored(source):
    mixed = [*source[:3], shapes.generate(1, "val", 0, (48, 40))]
    shown = list(pipeline.val_examples(mixed))
    assert [e.name for e in shown] == [e.name for e in mixed]
    for a, b in zip(shown, mixed, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.instance, b.instance)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_worker_processes_change_nothing(source):
    assert _same(_batches(source), _batches(source, dataclasses.replace(DATA, workers=2)))
