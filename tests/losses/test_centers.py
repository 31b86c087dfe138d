"""The focal losses against their equations and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import targets as targets_of
from jaxseg.losses import centers
from jaxseg.types import Outputs

focal = jax.jit(centers.focal, static_argnames="normalize")
gradient_of_focal = jax.jit(jax.value_and_grad(lambda *args: centers.focal(*args).total))
spared_focal = jax.jit(centers.penalty_reduced_focal, static_argnames="normalize")
gradient_of_spared = jax.jit(
    jax.value_and_grad(lambda *args: centers.penalty_reduced_focal(*args).total, argnums=(0, 2, 3))
)


def naive_focal(outputs, targets, alpha, gamma):
    total, positives, elements = 0.0, 0, 0
    for place, logit in np.ndenumerate(np.float64(outputs.center)):
        if targets.semantic[place] == 255 or targets.unknown[place]:
            continue
        prob, elements = 1 / (1 + np.exp(-logit)), elements + 1
        if targets.confidence[place] == 1:
            total, positives = total - alpha * (1 - prob) ** gamma * np.log(prob), positives + 1
        else:
            spared = (1 - np.float64(targets.confidence[place])) ** 4
            total -= (1 - alpha) * spared * prob**gamma * np.log(1 - prob)
    return total, positives, elements


@pytest.mark.parametrize(("alpha", "gamma"), [(0.01, 2.0), (0.9, 0.5)])
@pytest.mark.parametrize("seed", range(2))
def test_equals_the_equation(draw, seed, alpha, gamma):
    outputs, targets = draw(seed)
    total, positives, elements = naive_focal(outputs, targets, alpha, gamma)
    for normalize, count in (("positives", positives), ("elements", elements)):
        result = focal(outputs, targets, alpha, gamma, normalize)
        np.testing.assert_allclose((result.total, result.count), (total, count), rtol=1e-5)
    assert 0 < positives < elements < outputs.center.size


def test_without_focus_it_is_half_the_binary_cross_entropy(outputs, targets):
    result = focal(outputs, targets, 0.5, 0.0)
    z, y = np.float64(outputs.center), np.array(targets.confidence)
    counted = (np.array(targets.semantic) != 255) & ~np.array(targets.unknown)
    entropy = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
    np.testing.assert_allclose(result.total, entropy[counted].sum() / 2, rtol=1e-5)


def test_partial_confidence_is_a_negative_that_is_spared(outputs, targets):
    """On the flank of a Gaussian an element still counts as negative, with (1 - y)^4 of its weight."""
    flank = jnp.where(targets.confidence < 1, 0.5, 1.0)
    soft = targets.replace(confidence=flank)
    total, positives, elements = naive_focal(outputs, soft, 0.3, 2.0)
    for normalize, count in (("positives", positives), ("elements", elements)):
        result = focal(outputs, soft, 0.3, 2.0, normalize)
        np.testing.assert_allclose((result.total, result.count), (total, count), rtol=1e-5)
    hard, spared = (gradient_of_focal(outputs, t, 0.3, 2.0)[1].center for t in (targets, soft))
    np.testing.assert_allclose(spared[flank < 1], hard[flank < 1] / 16, rtol=1e-5)
    np.testing.assert_array_equal(spared[flank == 1], hard[flank == 1])


@pytest.mark.parametrize(("alpha", "on", "off"), [(1.0, True, False), (0.0, False, True)])
def test_alpha_weighs_the_positives(outputs, targets, alpha, on, off):
    gradient = gradient_of_focal(outputs, targets, alpha, 2.0)[1].center
    instance, positive = np.array(targets.instance), np.array(targets.confidence) == 1
    assert (gradient[positive] < 0).all() == on
    assert (gradient[(instance > 0) & ~positive] > 0).all() == off


def test_elements_without_known_center_get_no_gradient(outputs, targets):
    gradient = gradient_of_focal(outputs, targets, 0.5, 2.0)[1].center
    assert targets.semantic[0, 0] == 255
    assert targets.semantic[0, 1] == 2
    np.testing.assert_array_equal(gradient[0, :2], 0)
    # Stuff of the same class is no center for certain.
    assert targets.semantic[0, 2] == 2
    assert gradient[0, 2] > 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_gradient_is_finite(outputs, edge, gamma, scale):
    name, targets = edge
    large = outputs.replace(center=outputs.center * scale)
    result, gradient = gradient_of_focal(large, targets, 0.9, gamma)
    assert np.isfinite(gradient.center).all()
    assert np.isfinite(result)
    assert (result == 0) == (name in ("ignored", "no slot"))


def test_numbers_are_traced(outputs, targets):
    swept = jax.vmap(lambda a, g: focal(outputs, targets, a, g).total)(jnp.array([0.1, 0.9]), jnp.array([0.0, 2.0]))
    each = [focal(outputs, targets, a, g).total for a, g in ((0.1, 0.0), (0.9, 2.0))]
    np.testing.assert_allclose(swept, each, rtol=1e-5)


def test_unknown_normalization_is_refused(outputs, targets):
    with pytest.raises(ValueError, match=r"`normalize` must be .positives. or .elements.: got 'batch'\."):
        focal(outputs, targets, 0.5, 2.0, "batch")


def naive_penalty_reduced_focal(outputs, targets, gamma, beta):
    total, positives, elements = 0.0, 0, 0
    for place, logit in np.ndenumerate(np.float64(outputs.center)):
        if targets.semantic[place] == 255 or targets.unknown[place]:
            continue
        prob, truth, elements = 1 / (1 + np.exp(-logit)), np.float64(targets.confidence[place]), elements + 1
        if truth == 1:
            total, positives = total - (1 - prob) ** gamma * np.log(prob), positives + 1
        else:
            total -= (1 - truth) ** beta * prob**gamma * np.log(1 - prob)
    return total, positives, elements


def gaussian_targets(order=(0, 1, 2, 3)):
    """Three instances on a grid of 5 x 6, of which two find a row, soft confidences, and an ignored row."""
    instance = np.zeros((5, 6), np.uint16)
    instance[0:2, 0:3], instance[2:5, 0:3], instance[3:5, 3:6] = 1, 2, 3
    semantic = (instance > 0).astype(np.uint8)
    semantic[2] = 255
    ids = jnp.asarray(np.array(order, np.uint16)[instance])
    own_cell = jnp.full((5, 6), 4, jnp.uint8)
    return targets_of.make(jnp.asarray(semantic), ids, own_cell, size=1, slots=2, style="gaussian", radius=2.0)


@pytest.mark.parametrize(("gamma", "beta"), [(2.0, 4.0), (0.5, 1.0)])
def test_penalty_reduced_focal_equals_the_equation(outputs, gamma, beta):
    targets = gaussian_targets()
    soft = (targets.confidence > 0) & (targets.confidence < 1)
    assert soft.any()
    assert targets.unknown.any()
    total, positives, elements = naive_penalty_reduced_focal(outputs, targets, gamma, beta)
    assert (positives, elements) == (2, 18)
    for normalize, count in (("positives", positives), ("elements", elements)):
        result = spared_focal(outputs, targets, gamma, beta, normalize)
        np.testing.assert_allclose((result.total, result.count), (total, count), rtol=1e-5)


def test_penalty_reduced_focal_is_twice_the_even_focal(outputs):
    targets = gaussian_targets()
    even = focal(outputs, targets, 0.5, 2.0)
    result = spared_focal(outputs, targets)
    np.testing.assert_allclose((result.total, result.count), (2 * even.total, even.count), rtol=1e-6)


def test_penalty_reduced_focal_spares_the_near_more(outputs):
    """On the flank of the bell, the gradient is (1 - y)^beta of what it is far from any center."""
    targets = gaussian_targets()
    flat = outputs.replace(center=jnp.zeros_like(outputs.center))
    gradient = np.array(gradient_of_spared(flat, targets, 2.0, 3.0)[1][0].center)
    counted = (np.array(targets.semantic) != 255) & ~np.array(targets.unknown)
    truth = np.array(targets.confidence)
    negative = counted & (truth < 1)
    far = gradient[counted & (truth == 0)]
    np.testing.assert_allclose(gradient[negative], far[0] * (1 - truth[negative]) ** 3, rtol=1e-5)
    assert (gradient[truth == 1] < 0).all()
    np.testing.assert_array_equal(gradient[~counted], 0)


def test_penalty_reduced_focal_is_least_at_the_truth():
    targets = gaussian_targets()
    certain = jnp.where(targets.confidence == 1, 60.0, -60.0)
    outputs = Outputs(jnp.zeros((5, 6, 4)), jnp.zeros((5, 6, 3)), certain)
    loss, gradient = gradient_of_spared(outputs, targets, 2.0, 4.0)
    assert 0 <= loss < 1e-20
    np.testing.assert_allclose(gradient[0].center, 0, atol=1e-20)


def test_penalty_reduced_focal_does_not_know_ids(outputs):
    results = [spared_focal(outputs, gaussian_targets(order)).total for order in ((0, 1, 2, 3), (0, 20, 500, 700))]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("numbers", [(0.0, 0.0), (0.5, 0.5), (2.0, 4.0)])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_gradient_of_penalty_reduced_focal_is_finite(outputs, edge, numbers, scale):
    """With respect to its numbers too: 0^beta stands at every center."""
    name, targets = edge
    large = outputs.replace(center=outputs.center * scale)
    result, gradient = gradient_of_spared(large, targets, *numbers)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((result, gradient)))
    assert (result == 0) == (name in ("ignored", "no slot"))


def test_penalty_reduced_focal_refuses_another_normalization(outputs, targets):
    with pytest.raises(ValueError, match=r"`normalize` must be .positives. or .elements.: got 'batch'\."):
        centers.penalty_reduced_focal(outputs, targets, normalize="batch")
