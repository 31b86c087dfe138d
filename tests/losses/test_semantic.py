"""Cross-entropies, overlaps and class weights against their equations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses import semantic
from jaxseg.types import Outputs

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


@pytest.mark.parametrize("correction", [0.0, 0.5, 1.0])
def test_correction_leaves_logits_of_the_classes_as_they_occur(targets, correction):
    # Where all elements share one prediction, the best is the classes' shares times what is left of the weights.
    labels = np.array(targets.semantic)
    shares = np.bincount(labels[labels != 255], minlength=4) / (labels != 255).sum()
    assert (shares > 0).all()
    best = jnp.log(shares * np.array(WEIGHTS) ** (1 - correction))

    def loss(logits):
        everywhere = jnp.broadcast_to(logits, (*labels.shape, 4))
        outputs = Outputs(everywhere, jnp.zeros((*labels.shape, 1)), jnp.zeros(labels.shape))
        return semantic.cross_entropy(outputs, targets, WEIGHTS, correction).mean()

    np.testing.assert_allclose(jax.grad(loss)(best), 0, atol=1e-6)
    assert np.abs(jax.grad(loss)(best.at[0].add(0.1))).max() > 1e-3


def test_correction_is_the_equation_on_shifted_logits(outputs, targets):
    result = semantic.cross_entropy(outputs, targets, WEIGHTS, 1.0)
    logits = np.float64(outputs.semantic) + np.log(np.float64(WEIGHTS))
    expected = naive_cross_entropy(logits, np.array(targets.semantic), np.float64(WEIGHTS))
    np.testing.assert_allclose((result.total, result.count), expected, rtol=1e-5)


def test_correction_is_finite_where_a_class_weighs_nothing(outputs, targets):
    weights = WEIGHTS.at[2].set(0.0)
    value, gradient = jax.value_and_grad(lambda o: semantic.cross_entropy(o, targets, weights, 1.0).total)(outputs)
    assert np.isfinite(value)
    assert np.isfinite(gradient.semantic).all()


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


TERMS = {
    "dice": semantic.dice,
    "lovasz_softmax": semantic.lovasz_softmax,
    "boundary": partial(semantic.boundary_cross_entropy, class_weights=WEIGHTS, weight=3.0, radius=1),
}
OVERLAPS = ("dice", "lovasz_softmax")
JITTED = {name: jax.jit(term) for name, term in TERMS.items()}
GRADIENT = {name: jax.jit(jax.value_and_grad(lambda o, t, f=f: f(o, t).total)) for name, f in TERMS.items()}


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def naive_dice(outputs, targets):
    labels = np.array(targets.semantic).ravel()
    probs = softmax(np.float64(outputs.semantic)).reshape(labels.size, -1)
    losses = []
    for c in set(labels) - {255}:
        both = true = predicted = 0.0
        for label, prob in zip(labels, probs[:, c], strict=True):
            if label != 255:
                both, true, predicted = both + prob * (label == c), true + (label == c), predicted + prob**2
        losses.append(1 - 2 * both / (true + predicted))
    return (np.mean(losses), 1) if losses else (0, 0)


def jaccard_loss(wrong, members):
    """One less the IoU of a class, when the elements of the set `wrong` are mistaken for it, or missed."""
    return len(wrong) / len(wrong | members) if wrong else 0.0


def naive_lovasz(outputs, targets):
    """The Lovász extension of the set function, element by element."""
    labels = np.array(targets.semantic).ravel()
    probs = softmax(np.float64(outputs.semantic)).reshape(labels.size, -1)
    places, losses = np.flatnonzero(labels != 255), []
    for c in set(labels) - {255}:
        members = {p for p in places if labels[p] == c}
        errors = {p: 1 - probs[p, c] if p in members else probs[p, c] for p in places}
        wrong, loss = set(), 0.0
        for p in sorted(places, key=lambda p: -errors[p]):
            loss += errors[p] * (jaccard_loss(wrong | {p}, members) - jaccard_loss(wrong, members))
            wrong.add(p)
        losses.append(loss)
    return (np.mean(losses), 1) if losses else (0, 0)


def naive_border(targets, radius):
    labels, ids = np.array(targets.semantic), np.array(targets.instance)
    border = np.zeros(labels.shape, bool)
    for y, x in np.argwhere(labels != 255):
        window = np.s_[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
        other = (labels[window] != labels[y, x]) | (ids[window] != ids[y, x])
        border[y, x] = (other & (labels[window] != 255)).any()
    return border


def naive_boundary(outputs, targets, weight=3.0, radius=1, bias=0.0):
    labels, probs = np.array(targets.semantic), softmax(np.float64(outputs.semantic) + bias)
    border, total = naive_border(targets, radius), 0.0
    for y, x in np.argwhere(labels != 255):
        label = labels[y, x]
        total -= np.float64(WEIGHTS)[label] * (1 + weight * border[y, x]) * np.log(probs[y, x, label])
    return total, (labels != 255).sum()


NAIVE = {"dice": naive_dice, "lovasz_softmax": naive_lovasz, "boundary": naive_boundary}


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("seed", range(3))
def test_term_equals_its_equation(draw, term, seed):
    outputs, targets = draw(seed)
    result = JITTED[term](outputs, targets)
    np.testing.assert_allclose((result.total, result.count), NAIVE[term](outputs, targets), rtol=1e-5)


@pytest.mark.parametrize("term", TERMS)
def test_term_of_an_image_that_says_little(outputs, edge, term):
    name, targets = edge
    result, gradient = JITTED[term](outputs, targets), GRADIENT[term](outputs, targets)[1]
    np.testing.assert_allclose((result.total, result.count), NAIVE[term](outputs, targets), rtol=1e-5)
    assert (result.count == 0) == (name == "ignored")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert (gradient.semantic != 0).any() == (name != "ignored")
    assert (gradient.embedding == 0).all()


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("value", [1e4, -1e4, 0.0])
def test_ignored_elements_say_nothing(outputs, targets, term, value):
    noisy = outputs.replace(semantic=outputs.semantic.at[0, 0].set(jnp.array([value, 0, -value, 1])))
    assert targets.semantic[0, 0] == 255
    (first, _), (second, gradient) = (GRADIENT[term](o, targets) for o in (outputs, noisy))
    np.testing.assert_allclose(first, second, rtol=1e-6)
    np.testing.assert_array_equal(gradient.semantic[0, 0], 0)


@pytest.mark.parametrize("term", TERMS)
def test_relabeling_instances_changes_nothing(outputs, targets, permuted, term):
    results = [JITTED[term](outputs, t).total for t in (targets, permuted(targets, [3, 0, 2, 1]))]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("term", OVERLAPS)
def test_overlaps_treat_classes_alike(outputs, targets, term):
    order = np.array([2, 0, 3, 1])
    labels = np.array(targets.semantic)
    renamed = targets.replace(semantic=jnp.asarray(np.where(labels == 255, 255, order[labels % 4]), jnp.uint8))
    moved = outputs.replace(semantic=outputs.semantic[..., np.argsort(order)])
    np.testing.assert_allclose(JITTED[term](moved, renamed).total, JITTED[term](outputs, targets).total, rtol=1e-6)


def certain(labels):
    """Outputs that are sure of these classes."""
    logits = 1e4 * jax.nn.one_hot(jnp.asarray(labels), 4)
    return Outputs(logits, jnp.zeros((5, 6, 3)), jnp.zeros((5, 6)))


@pytest.mark.parametrize("term", TERMS)
def test_the_truth_is_the_minimum(targets, edge, term):
    for truth in (targets, edge[1]):
        labels = np.where(np.array(truth.semantic) == 255, 1, truth.semantic)
        loss, gradient = GRADIENT[term](certain(labels), truth)
        assert loss == 0
        np.testing.assert_array_equal(gradient.semantic, 0)


@pytest.mark.parametrize("term", OVERLAPS)
def test_overlaps_of_certain_predictions_are_those_of_sets(draw, term):
    _, targets = draw(0)
    labels, guess = np.array(targets.semantic), np.random.default_rng(0).integers(0, 4, (5, 6))
    expected = []
    for c in set(labels[labels != 255]):
        true, predicted = labels == c, (guess == c) & (labels != 255)
        both, either = (true & predicted).sum(), (true | predicted).sum()
        expected.append(1 - (both / either if term == "lovasz_softmax" else 2 * both / (true.sum() + predicted.sum())))
    np.testing.assert_allclose(JITTED[term](certain(guess), targets).total, np.mean(expected), rtol=1e-6)


@pytest.mark.parametrize("term", TERMS)
def test_terms_of_large_logits_stay_finite(outputs, targets, term):
    large = outputs.replace(semantic=outputs.semantic * 1e4)
    result, gradient = GRADIENT[term](large, targets)
    assert np.isfinite(result)
    assert np.isfinite(gradient.semantic).all()


def test_lovasz_does_not_depend_on_the_order_of_ties(outputs, targets):
    """Flat predictions tie everywhere: any order of the elements has the same loss."""
    flat = outputs.replace(semantic=jnp.zeros_like(outputs.semantic))
    turned = jax.tree.map(lambda x: x[::-1, ::-1], targets.semantic)
    results = [JITTED["lovasz_softmax"](flat, t).total for t in (targets, targets.replace(semantic=turned))]
    np.testing.assert_allclose(results, naive_lovasz(flat, targets)[0], rtol=1e-5)


def test_gradient_of_lovasz_is_that_of_differences(outputs, targets):
    """Along a random direction, in which no two errors change places."""
    direction = jnp.asarray(np.random.default_rng(5).normal(size=outputs.semantic.shape), jnp.float32)
    gradient = GRADIENT["lovasz_softmax"](outputs, targets)[1].semantic
    step = 1e-4
    there, back = (
        naive_lovasz(outputs.replace(semantic=np.float64(outputs.semantic) + s * direction), targets)[0]
        for s in (step, -step)
    )
    np.testing.assert_allclose(jnp.sum(gradient * direction), (there - back) / (2 * step), rtol=1e-3)


def test_a_border_is_where_class_or_instance_changes(from_maps):
    # Two instances of class 1 side by side, background below them, and an ignored column that borders on nothing.
    labels, instance = np.zeros((2, 5, 6), int)
    labels[:2, :4], labels[:, 4] = 1, 255
    instance[:2, :2], instance[:2, 2:4] = 1, 2
    targets = from_maps(labels, instance)
    drawn = [".##...", "####..", "####..", "......", "......"]
    expected = np.array([[mark == "#" for mark in row] for row in drawn])
    np.testing.assert_array_equal(naive_border(targets, 1), expected)
    outputs = Outputs(jnp.zeros((5, 6, 4)), jnp.zeros((5, 6, 3)), jnp.zeros((5, 6)))
    uniform = jnp.ones(4)
    found = jax.grad(lambda w: semantic.boundary_cross_entropy(outputs, targets, uniform, w).total)(1.0)
    np.testing.assert_allclose(found, expected.sum() * np.log(4), rtol=1e-6)


@pytest.mark.parametrize("radius", [0, 2, 3])
def test_borders_reach_as_far_as_their_radius(outputs, targets, radius):
    result = semantic.boundary_cross_entropy(outputs, targets, WEIGHTS, 3.0, radius)
    np.testing.assert_allclose(result.total, naive_boundary(outputs, targets, 3.0, radius)[0], rtol=1e-5)


def test_correction_is_the_equation_of_borders_on_shifted_logits(outputs, targets):
    result = semantic.boundary_cross_entropy(outputs, targets, WEIGHTS, 3.0, 1, correction=1.0)
    expected = naive_boundary(outputs, targets, bias=np.log(np.float64(WEIGHTS)))
    np.testing.assert_allclose((result.total, result.count), expected, rtol=1e-5)
    assert abs(result.total - naive_boundary(outputs, targets)[0]) > 1


@pytest.mark.parametrize("correction", [0.0, 1.0])
def test_without_weight_borders_are_nothing(outputs, targets, correction):
    result = semantic.boundary_cross_entropy(outputs, targets, WEIGHTS, 0.0, correction=correction)
    plain = semantic.cross_entropy(outputs, targets, WEIGHTS, correction)
    np.testing.assert_allclose((result.total, result.count), (plain.total, plain.count), rtol=1e-6)


def test_weight_of_borders_is_traced(outputs, targets):
    swept = jax.vmap(lambda w: semantic.boundary_cross_entropy(outputs, targets, WEIGHTS, w).total)(jnp.array([0.5, 3]))
    each = [naive_boundary(outputs, targets, weight)[0] for weight in (0.5, 3.0)]
    np.testing.assert_allclose(swept, each, rtol=1e-5)


def test_a_negative_radius_is_refused(outputs, targets):
    with pytest.raises(ValueError, match=r"`radius` must be at least 0: got -1\."):
        semantic.boundary_cross_entropy(outputs, targets, WEIGHTS, 3.0, -1)
