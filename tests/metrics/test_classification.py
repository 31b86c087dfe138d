"""Top-k accuracy: known answers, ties, merging, NaN."""

import math

import numpy as np
import pytest

from jaxseg.metrics.classification import TopK


def test_counts_what_is_right():
    logits = np.eye(7, dtype=np.float32)[[0, 1, 2]] + np.linspace(0.1, 0, 7, dtype=np.float32)
    found = TopK.of(logits, np.array([0, 2, 6])).compute()
    # Row 1 prefers class 1, and 2 comes third; row 2 has class 6 last of seven.
    assert found["top1"] == pytest.approx(1 / 3)
    assert found["top5"] == pytest.approx(2 / 3)
    wanted = [
        np.log(np.exp(row.astype(float)).sum()) - row[label] for row, label in zip(logits, (0, 2, 6), strict=True)
    ]
    assert found["loss"] == pytest.approx(np.mean(wanted), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_constant_answer_earns_nothing(value):
    found = TopK.of(np.full((4, 8), value, np.float32), np.array([0, 1, 2, 3])).compute()
    assert (found["top1"], found["top5"]) == (0.0, 0.0)


def test_batches_add_up_and_classes_are_told_apart():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(30, 6)).astype(np.float32), rng.integers(0, 5, 30)
    whole = TopK.of(logits, labels)
    parts = TopK.empty(6) + TopK.of(logits[:11], labels[:11]) + TopK.of(logits[11:], labels[11:])
    assert parts.compute() == pytest.approx(whole.compute())
    first, _, images = whole.by_class()
    assert sum(images) == 30
    assert math.isnan(first[5])
    assert np.nansum(np.array(first) * images) == pytest.approx(30 * whole.compute()["top1"])
