"""Named terms, their sums over a batch, and the one division."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses import total
from jaxseg.types import Sum

HYPER = total.Hyperparameters(
    class_weights=jnp.array([0.5, 1.0, 2.0, 3.0]), alpha=0.9, gamma=2.0, attraction_margin=0.1, repulsion_margin=1.0
)
NAMES = ("semantic", "attraction", "repulsion", "regularization", "center")


evaluate = jax.jit(lambda outputs, targets: total.evaluate(total.paper_terms(HYPER), outputs, targets))


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def take(batch, index):
    return jax.tree.map(lambda x: x[index], batch)


@pytest.fixture
def batch(draw, from_maps):
    """Two images with instances, and an empty one."""
    nothing = np.zeros((5, 6), int)
    outputs, targets = zip(*(draw(seed) for seed in range(3)), strict=True)
    return stack(*outputs), stack(*targets[:2], from_maps(nothing, nothing))


def test_batch_is_the_sum_of_its_images(batch):
    terms = total.paper_terms(HYPER)
    assert tuple(terms) == NAMES
    sums = evaluate(*batch)
    for name, term in terms.items():
        images = [term(*take(batch, i)) for i in range(3)]
        np.testing.assert_allclose(sums[name].total, sum(s.total for s in images), rtol=1e-5)
        np.testing.assert_allclose(sums[name].count, sum(s.count for s in images))


def test_an_empty_image_does_not_dilute_the_instance_terms(batch):
    weights = dict.fromkeys(NAMES, 1.0)
    _, means = total.combine(evaluate(*batch), weights)
    _, expected = total.combine(evaluate(*take(batch, slice(2))), weights)
    for name in ("attraction", "repulsion", "regularization"):
        np.testing.assert_allclose(means[name], expected[name], rtol=1e-6)


def test_accumulating_equals_one_large_batch(batch):
    weights = dict(zip(NAMES, (1.0, 0.5, 2.0, 0.001, 3.0), strict=True))
    whole, first, rest = (evaluate(*take(batch, part)) for part in (slice(3), slice(1), slice(1, 3)))
    parts = {name: first[name] + rest[name] for name in NAMES}
    np.testing.assert_allclose(total.combine(parts, weights)[0], total.combine(whole, weights)[0], rtol=1e-5)


def test_combine_weighs_means():
    sums = {"a": Sum(jnp.float32(6), jnp.float32(3)), "b": Sum(jnp.float32(0), jnp.float32(0))}
    value, means = total.combine(sums, {"a": 0.5, "b": 7.0})
    assert (value, means["a"], means["b"]) == (1, 2, 0)


def test_a_term_of_ones_own(batch):
    def confident(outputs, targets):
        return Sum(jnp.sum(jnp.abs(outputs.center)), jnp.float32(outputs.center.size))

    sums = evaluate(*batch) | total.evaluate({"confident": confident}, *batch)
    value, means = total.combine(sums, dict.fromkeys(NAMES, 0.0) | {"confident": 2.0})
    np.testing.assert_allclose(value, 2 * np.abs(batch[0].center).mean(), rtol=1e-5)
    np.testing.assert_allclose(means["confident"], value / 2)


def test_names_must_agree():
    sums = {"a": Sum(jnp.float32(1), jnp.float32(1))}
    with pytest.raises(ValueError, match=r"`weights` must name each term once: got \['b'\] for terms \['a'\]\."):
        total.combine(sums, {"b": 1.0})


def test_hyperparameters_are_swept_without_recompiling(batch):
    @jax.jit
    def loss(hyper):
        return total.combine(total.evaluate(total.paper_terms(hyper), *batch), dict.fromkeys(NAMES, 1.0))[0]

    swept = jax.tree.map(lambda x: jnp.stack([jnp.float32(x), jnp.float32(x) * 0.5]), HYPER)
    halved = jax.tree.map(lambda x: jnp.float32(x) * 0.5, HYPER)
    np.testing.assert_allclose(jax.vmap(loss)(swept), [loss(HYPER), loss(halved)], rtol=1e-5)


TASKS = (("semantic", "semantic"), ("attraction", "embedding"), ("repulsion", "embedding"))
MEANS = {"semantic": 2.0, "attraction": 0.5, "repulsion": 1.5, "own": 3.0, "not a term": 7.0}
WEIGHTS = {"semantic": 1.0, "attraction": 2.0, "repulsion": 1.0, "own": 0.1}


def test_uncertain_tasks_are_divided_and_pay_for_it():
    """L is 2 and 2 * 0.5 + 1.5 = 2.5; the term of no task adds 0.3."""
    s = {"semantic": 0.5, "embedding": -1.0, "center": 0.25}
    value = total.uncertain(s, MEANS, WEIGHTS, TASKS)
    expected = np.exp(-0.5) * 2 + 0.5 + np.exp(1.0) * 2.5 - 1.0 + 0.25 + 0.3
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_uncertainties_settle_where_each_task_weighs_one_over_its_loss():
    """The gradient by s is 1 - exp(-s) L; a task that is switched off, or has nothing to learn, stays."""
    gradient = jax.grad(total.uncertain)
    settled = {"semantic": jnp.log(2.0), "embedding": jnp.log(2.5), "center": jnp.float32(3.0)}
    for value in gradient(settled, MEANS, WEIGHTS, TASKS).values():
        assert float(value) == pytest.approx(0, abs=1e-6)
    begin = dict.fromkeys(settled, jnp.float32(0.0))
    assert {n: float(v) for n, v in gradient(begin, MEANS, WEIGHTS, TASKS).items()} == pytest.approx(
        {"semantic": 1 - 2, "embedding": 1 - 2.5, "center": 0}
    )
    off = gradient(begin, MEANS, WEIGHTS | {"semantic": 0.0}, TASKS)
    assert float(off["semantic"]) == 0
