"""Attraction, repulsion and regularization against loops written from the equations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses import embedding
from jaxseg.types import Outputs

TERMS = {
    "attraction": partial(embedding.attraction, margin=0.1),
    "repulsion": partial(embedding.repulsion, margin=1.5),
    "regularization": embedding.regularization,
}


def centers_of(outputs, targets):
    embeddings, valid = np.float64(outputs.embedding), np.array(targets.valid)
    return [embeddings[tuple(c)] if v else None for c, v in zip(np.array(targets.center), valid, strict=True)]


def naive_attraction(outputs, targets, margin):
    means = []
    for i, center in enumerate(centers_of(outputs, targets)):
        if center is not None:
            members = np.float64(outputs.embedding)[np.array(targets.instance) == i + 1]
            means.append(np.mean([max(np.linalg.norm(center - e) - margin, 0) for e in members]))
    return (np.mean(means), 1) if means else (0, 0)


def naive_repulsion(outputs, targets, margin):
    centers = [c for c in centers_of(outputs, targets) if c is not None]
    total, pairs = 0.0, 0
    for a, first in enumerate(centers):
        for b, second in enumerate(centers):
            if a != b:
                total, pairs = total + max(margin - np.linalg.norm(first - second), 0), pairs + 1
    return (total / pairs, 1) if pairs else (0, 0)


def naive_regularization(outputs, targets):
    norms = [np.linalg.norm(c) for c in centers_of(outputs, targets) if c is not None]
    return (np.mean(norms), 1) if norms else (0, 0)


def means_of(outputs, targets):
    embeddings, instance = np.float64(outputs.embedding), np.array(targets.instance)
    return [embeddings[instance == i + 1].mean(axis=0) if v else None for i, v in enumerate(np.array(targets.valid))]


def naive_variance(outputs, targets, margin):
    losses = []
    for i, mean in enumerate(means_of(outputs, targets)):
        if mean is not None:
            members = np.float64(outputs.embedding)[np.array(targets.instance) == i + 1]
            losses.append(np.mean([max(np.linalg.norm(mean - e) - margin, 0) ** 2 for e in members]))
    return (np.mean(losses), 1) if losses else (0, 0)


def naive_distance(outputs, targets, margin):
    means = [m for m in means_of(outputs, targets) if m is not None]
    pairs = [max(2 * margin - np.linalg.norm(a - b), 0) ** 2 for a in means for b in means if a is not b]
    return (np.mean(pairs), 1) if pairs else (0, 0)


OF_MEANS = {
    "variance": partial(embedding.variance, margin=0.1),
    "distance": partial(embedding.distance, margin=0.75),
}
ALL = TERMS | OF_MEANS
PAIRS = ("repulsion", "distance")
JITTED = {name: jax.jit(term) for name, term in ALL.items()}
GRADIENT = {name: jax.jit(jax.value_and_grad(lambda o, t, f=f: f(o, t).total)) for name, f in ALL.items()}
NAIVE = {
    "attraction": partial(naive_attraction, margin=0.1),
    "repulsion": partial(naive_repulsion, margin=1.5),
    "regularization": naive_regularization,
    "variance": partial(naive_variance, margin=0.1),
    "distance": partial(naive_distance, margin=0.75),
}


@pytest.mark.parametrize("term", ALL)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_equation(draw, term, seed):
    outputs, targets = draw(seed)
    result = JITTED[term](outputs, targets)
    np.testing.assert_allclose((result.total, result.count), NAIVE[term](outputs, targets), rtol=1e-5)


@pytest.mark.parametrize("term", ALL)
def test_relabeling_changes_nothing(outputs, targets, permuted, term):
    results = [JITTED[term](outputs, t).total for t in (targets, permuted(targets, [3, 0, 2, 1]))]
    np.testing.assert_allclose(*results, rtol=1e-6)


@pytest.mark.parametrize("term", ALL)
def test_few_instances(outputs, edge, term):
    name, targets = edge
    result, gradient = GRADIENT[term](outputs, targets)
    defined = name.startswith("one") and term not in PAIRS
    assert JITTED[term](outputs, targets).count == defined
    assert defined or result == 0
    assert np.isfinite(gradient.embedding).all()


@pytest.mark.parametrize("term", ALL)
def test_equal_embeddings_have_gradient_zero_not_nan(outputs, targets, term):
    flat = outputs.replace(embedding=jnp.zeros_like(outputs.embedding))
    gradient = GRADIENT[term](flat, targets)[1].embedding
    np.testing.assert_array_equal(gradient, 0)


def test_gradient_of_attraction_points_from_the_center(outputs, from_maps):
    # Two elements; the center is the first. d/de_p of (|e_c - e_p| - margin) / 2 is the unit vector / 2.
    instance = np.zeros((5, 6), int)
    instance[2, 2:4] = 1
    targets = from_maps(instance, instance)
    gradient = jax.grad(lambda o: embedding.attraction(o, targets, 0.1).total)(outputs).embedding
    away = np.array(outputs.embedding[2, 3] - outputs.embedding[2, 2])
    unit = away / np.linalg.norm(away) / 2
    np.testing.assert_allclose(gradient[2, 3], unit, rtol=1e-5)
    np.testing.assert_allclose(gradient[2, 2], -unit, rtol=1e-5)


def test_margins_are_hinges(outputs, targets):
    near = outputs.replace(embedding=outputs.embedding * 1e-3)
    assert embedding.attraction(near, targets, 0.1).total == 0
    far = outputs.replace(embedding=outputs.embedding * 1e3)
    assert embedding.repulsion(far, targets, 1.0).total == 0


def test_margin_is_traced(outputs, targets):
    margins = jnp.array([0.1, 0.7])
    swept = jax.vmap(lambda margin: embedding.attraction(outputs, targets, margin).total)(margins)
    each = [embedding.attraction(outputs, targets, float(margin)).total for margin in margins]
    np.testing.assert_allclose(swept, each, rtol=1e-6)


@pytest.mark.parametrize("term", ALL)
def test_attraction_ignores_elements_without_instance(outputs, targets, term):
    none = np.array(targets.instance)[..., None] == 0
    noisy = outputs.replace(embedding=jnp.where(none, 1e3, outputs.embedding))
    np.testing.assert_array_equal(JITTED[term](outputs, targets).total, JITTED[term](noisy, targets).total)


def test_with_means_as_anchors_terms_are_those_of_the_means(outputs, targets):
    """The loops again, with each instance's mean in the place of its center."""
    means = means_of(outputs, targets)
    instance, known = np.array(targets.instance), [m for m in means if m is not None]
    attraction = np.mean(
        [
            np.mean([max(np.linalg.norm(m - e) - 0.1, 0) for e in np.float64(outputs.embedding)[instance == i + 1]])
            for i, m in enumerate(means)
            if m is not None
        ]
    )
    pairs = [max(1.5 - np.linalg.norm(a - b), 0) for a in known for b in known if a is not b]
    expected = {
        "attraction": attraction,
        "repulsion": np.mean(pairs),
        "regularization": np.mean([np.linalg.norm(m) for m in known]),
    }
    for name, term in TERMS.items():
        found = jax.jit(partial(term, anchor="mean"))(outputs, targets)
        assert float(found.total) == pytest.approx(expected[name], rel=1e-5), name
        assert float(found.count) == 1


@pytest.mark.parametrize("name", sorted(TERMS))
def test_means_have_finite_gradients_everywhere(name, outputs):
    from tests.losses.conftest import EDGES

    for targets in EDGES.values():
        gradient = jax.grad(lambda e, t=targets: TERMS[name](outputs.replace(embedding=e), t, anchor="mean").total)
        assert np.isfinite(gradient(outputs.embedding)).all()


def test_another_anchor_is_refused(outputs, targets):
    with pytest.raises(ValueError, match='`anchor` must be "center" or "mean": got \'median\''):
        embedding.attraction(outputs, targets, 0.1, anchor="median")


def test_squared_hinges_are_those_of_the_means_squared(from_maps):
    """Two instances of two elements in one dimension: means 0 and 1, every element 0.3 from its own."""
    instance = np.zeros((5, 6), int)
    instance[0, :2], instance[2, :2] = 1, 2
    targets = from_maps(instance, instance)
    places = np.zeros((5, 6, 1), np.float32)
    places[0, :2, 0], places[2, :2, 0] = (-0.3, 0.3), (0.7, 1.3)
    outputs = Outputs(jnp.zeros((5, 6, 4)), jnp.asarray(places), jnp.zeros((5, 6)))
    assert float(embedding.variance(outputs, targets, 0.1).total) == pytest.approx(0.2**2, rel=1e-5)
    assert float(embedding.distance(outputs, targets, 0.75).total) == pytest.approx(0.5**2, rel=1e-5)
    assert embedding.variance(outputs, targets, 0.31).total == 0
    assert embedding.distance(outputs, targets, 0.49).total == 0


def test_tight_groups_far_apart_are_the_minimum_of_variance_and_distance(targets):
    """Every instance at a place of its own, 3 from the next: no loss, and nothing to gain."""
    places = jnp.asarray(np.array(targets.instance)[..., None] * [3.0, 0, 0], jnp.float32)
    outputs = Outputs(jnp.zeros((5, 6, 4)), places, jnp.zeros((5, 6)))
    for term in OF_MEANS:
        loss, gradient = GRADIENT[term](outputs, targets)
        assert loss == 0
        np.testing.assert_array_equal(gradient.embedding, 0)
