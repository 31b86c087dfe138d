"""Cross-entropy and class weights against their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses import semantic

WEIGHTS = jnp.array([0.5, 2.0, 3.0, 7.0])


cross_entropy = jax.jit(semantic.cross_entropy)
gradient_of = jax.jit(
    jax.value_and_grad(lambda outputs, targets: semantic.cross_entropy(outputs, targets, WEIGHTS).total)
)


def naive_cross_entropy(logits, labels, weights):
    total, count = 0.0, 0
    for row, label_row in zip(logits, labels, strict=True):
        for element, label in zip(row, label_row, strict=True):
            if label != 255:
                probs = np.exp(element) / np.exp(element).sum()
                total -= weights[label] * np.log(probs[label])
                count += 1
    return total, count


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_equation(draw, seed):
    outputs, targets = draw(seed)
    result = cross_entropy(outputs, targets, WEIGHTS)
    expected = naive_cross_entropy(np.float64(outputs.semantic), np.array(targets.semantic), np.float64(WEIGHTS))
    np.testing.assert_allclose((result.total, result.count), expected, rtol=1e-5)


def test_gradient_is_weighted_softmax_minus_label(outputs, targets):
    gradient = gradient_of(outputs, targets)[1].semantic
    counted = np.array(targets.semantic) != 255
    label = np.where(counted, targets.semantic, 0)
    theory = np.array(jax.nn.softmax(outputs.semantic)) - np.eye(4)[label]
    theory *= (np.array(WEIGHTS)[label] * counted)[..., None]
    np.testing.assert_allclose(gradient, theory, atol=1e-5)


def test_ignored_elements_change_nothing(outputs, targets):
    noisy = outputs.replace(semantic=outputs.semantic.at[0, 0].set(1e4))
    assert targets.semantic[0, 0] == 255
    for name in ("total", "count"):
        first, second = (getattr(cross_entropy(o, targets, WEIGHTS), name) for o in (outputs, noisy))
        np.testing.assert_array_equal(first, second)


def test_gradient_is_finite(outputs, edge):
    name, targets = edge
    result, gradient = gradient_of(outputs, targets)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert (result == 0) == (name == "ignored")


def test_large_logits_stay_finite(outputs, targets):
    large = outputs.replace(semantic=outputs.semantic * 1e4)
    result, gradient = gradient_of(large, targets)
    assert np.isfinite(result)
    assert np.isfinite(gradient.semantic).all()


def test_class_weights_of_the_paper():
    # A class that never occurs weighs 1 / ln 1.02 = 50.5, one that fills every image 1 / ln 2.02 = 1.42.
    np.testing.assert_allclose(semantic.class_weights(jnp.array([0.0, 1.0])), [50.4984, 1.42225], rtol=1e-4)


def test_class_weights_fall_with_frequency_and_power_flattens_them():
    frequencies = jnp.linspace(0, 1, 11)
    full, root, uniform = (semantic.class_weights(frequencies, power=power) for power in (1.0, 0.5, 0.0))
    assert (np.diff(full) < 0).all()
    np.testing.assert_allclose(root**2, full, rtol=1e-5)
    np.testing.assert_array_equal(uniform, 1)
