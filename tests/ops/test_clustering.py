"""Grouping: laws, drawn examples, and parity with loops written from the method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.ops import clustering


def _peaks_loop(confidence: np.ndarray, classes: np.ndarray, threshold: float) -> list[tuple]:
    """(score, first index, class, element, center of mass) of each component, best first."""
    found = []
    for class_id in np.unique(classes[classes > 0]):
        labels, count = ndimage.label((confidence > threshold) & (classes == class_id), np.ones((3, 3)))
        for i in range(1, count + 1):
            places = np.argwhere(labels == i)
            center = places.mean(axis=0)
            element = places[np.argmin(np.round(((places - center) ** 2).sum(axis=1), 9))]
            first = places[0] @ (confidence.shape[1], 1)
            found.append((confidence[labels == i].max(), first, class_id, element, center))
    return sorted(found, key=lambda peak: (-peak[0], peak[1]))


def _scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    # Few levels of confidence: equal peaks must be ordered too.
    return rng.integers(0, 9, (12, 15)).astype(np.float32) / 8, rng.integers(0, 4, (12, 15)).astype(np.uint8)


_peaks = jax.jit(clustering.peaks, static_argnums=2)


@pytest.mark.parametrize("slots", [3, 64, 500])
@pytest.mark.parametrize("seed", [0, 1])
def test_peaks_are_those_of_a_loop(slots: int, seed: int):
    confidence, classes = _scene(seed)
    expected = _peaks_loop(confidence, classes, 0.5)
    found = _peaks(jnp.asarray(confidence), jnp.asarray(classes), slots, 0.5)
    count = min(slots, len(expected))
    assert found.valid.shape == (slots,)
    np.testing.assert_array_equal(found.valid, np.arange(slots) < count)
    assert found.lost == len(expected) - count
    for i, (score, _, class_id, element, center) in enumerate(expected[:count]):
        assert (float(found.score[i]), int(found.class_id[i])) == (score, class_id)
        np.testing.assert_array_equal(found.element[i], element)
        np.testing.assert_allclose(found.center_of_mass[i], center, rtol=1e-6)
    for row in (found.class_id, found.score, found.element, found.center_of_mass):
        assert not row[count:].any()


@pytest.mark.parametrize("seed", range(3))
def test_maxima_are_those_of_a_loop(seed: int):
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, 4, (9, 13)) / 4  # with plateaus
    expected = [
        [(confidence[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] <= confidence[y, x]).all() for x in range(13)]
        for y in range(9)
    ]
    found = np.asarray(clustering.maxima(jnp.asarray(confidence, jnp.float32)))
    assert 0 < found.sum() < found.size
    np.testing.assert_array_equal(found, expected)


def test_more_peaks_than_slots_keep_exactly_the_best():
    confidence, classes = (jnp.asarray(x) for x in _scene(2))
    every = _peaks(confidence, classes, 64, 0.5)
    few = _peaks(confidence, classes, 3, 0.5)
    np.testing.assert_array_equal(few.element, every.element[:3])
    assert few.lost == every.valid.sum() - 3


def test_the_threshold_itself_is_not_confident():
    confidence = jnp.array([[0.5, 0.0, 0.75]])
    found = _peaks(confidence, jnp.ones((1, 3), jnp.uint8), 2, 0.5)
    np.testing.assert_array_equal(found.element, [[0, 2], [0, 0]])
    np.testing.assert_array_equal(found.valid, [True, False])


def test_background_and_nothing_confident_have_no_peaks():
    for confidence, class_id in ((1.0, 0), (0.1, 1)):
        found = _peaks(jnp.full((4, 5), confidence), jnp.full((4, 5), class_id, jnp.uint8), 3, 0.5)
        assert not found.valid.any()
        assert found.lost == 0


def test_touching_blobs_of_two_classes_are_two_peaks():
    found = _peaks(jnp.full((2, 4), 0.9), jnp.array([[1, 1, 2, 2]] * 2, jnp.uint8), 4, 0.5)
    np.testing.assert_array_equal(found.class_id, [1, 2, 0, 0])
    np.testing.assert_array_equal(found.center_of_mass[:2], [[0.5, 0.5], [0.5, 2.5]])
    np.testing.assert_array_equal(found.element[:2], [[0, 0], [0, 2]])


def test_peaks_of_a_batch_are_those_of_each_image():
    confidence, classes = (
        jnp.stack([jnp.asarray(part) for part in parts]) for parts in zip(*map(_scene, (3, 4)), strict=True)
    )
    batch = jax.jit(jax.vmap(lambda a, b: clustering.peaks(a, b, 8, 0.5)))(confidence, classes)
    for i in range(2):
        single = _peaks(confidence[i], classes[i], 8, 0.5)
        for got, want in zip(jax.tree.leaves(batch), jax.tree.leaves(single), strict=True):
            np.testing.assert_array_equal(got[i], want)


def test_no_slots_are_refused():
    with pytest.raises(ValueError, match="`slots` must be at least 1: got 0"):
        clustering.peaks(jnp.zeros((2, 2)), jnp.zeros((2, 2), jnp.uint8), 0, 0.5)


_duplicates = jax.jit(clustering.duplicates)


def _greedy(embedding: np.ndarray, class_id: np.ndarray, valid: np.ndarray, radius: float) -> np.ndarray:
    keep = np.zeros(len(valid), bool)
    for i in np.flatnonzero(valid):
        rivals = [j for j in range(i) if keep[j] and class_id[j] == class_id[i]]
        keep[i] = all(np.linalg.norm(embedding[i] - embedding[j]) > radius for j in rivals)
    return keep


@pytest.mark.parametrize("radius", [0.0, 0.3, 0.8, 100.0])
def test_duplicates_are_those_of_the_sequential_rule(radius: float):
    rng = np.random.default_rng(4)
    embedding = rng.normal(size=(40, 2)).astype(np.float32)
    class_id, valid = rng.integers(1, 4, 40), rng.random(40) < 0.8
    keep = _duplicates(*map(jnp.asarray, (embedding, class_id, valid)), radius)
    np.testing.assert_array_equal(keep, _greedy(embedding, class_id, valid, radius))


def test_a_dropped_center_drops_nobody():
    """On a line at 0, 1, 2, ... with radius 1 each odd center goes, and then cannot suppress its even neighbor."""
    line = jnp.arange(9.0)[:, None]
    keep = _duplicates(line, jnp.ones(9, jnp.int32), jnp.ones(9, bool), 1.0)
    np.testing.assert_array_equal(keep, np.arange(9) % 2 == 0)


def test_the_duplicate_radius_is_inclusive_and_within_a_class():
    pair, ones = jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.ones(2, bool)
    same, other = jnp.array([1, 1]), jnp.array([1, 2])
    np.testing.assert_array_equal(_duplicates(pair, same, ones, 5.0), [True, False])
    np.testing.assert_array_equal(_duplicates(pair, same, ones, 4.999), [True, True])
    np.testing.assert_array_equal(_duplicates(pair, other, ones, 5.0), [True, True])


def _assign_loop(embedding, classes, centers, class_id, valid, radius: float) -> np.ndarray:
    result = np.zeros(classes.shape, int)
    for place in np.ndindex(classes.shape):
        distance = np.linalg.norm(centers - embedding[place], axis=1)
        distance[~valid | (class_id != classes[place]) | (classes[place] == 0)] = np.inf
        best = int(np.argmin(distance))
        result[place] = best + 1 if np.isfinite(distance[best]) and distance[best] <= radius else 0
    return result


_assign = jax.jit(clustering.assign)


def _objects(n: int, seed: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    embedding, centers = rng.normal(size=(6, 7, 3)), rng.normal(size=(n, 3))
    class_id, valid = rng.integers(1, 4, n), rng.random(n) < 0.7
    return [embedding.astype(np.float32), rng.integers(0, 4, (6, 7)), centers.astype(np.float32), class_id, valid]


@pytest.mark.parametrize("n", [1, 8, 21])
@pytest.mark.parametrize("radius", [0.0, 1.0, np.inf])
def test_assignment_is_that_of_a_loop(n: int, radius: float):
    parts = _objects(n)
    np.testing.assert_array_equal(_assign(*map(jnp.asarray, parts), radius), _assign_loop(*parts, radius))


@pytest.mark.parametrize("n", [21, 40])
def test_more_centers_in_a_trip_take_the_same_elements(n: int):
    """What accelerators do."""
    parts = _objects(n)
    found = jax.jit(clustering._assigned, static_argnums=0)(32, *map(jnp.asarray, parts), 1.0)
    np.testing.assert_array_equal(found, _assign_loop(*parts, 1.0))


def test_without_centers_nothing_is_assigned():
    embedding, classes, centers, class_id, valid = map(jnp.asarray, _objects(8))
    assert not _assign(embedding, classes, centers, class_id, jnp.zeros_like(valid), np.inf).any()


def test_of_equal_centers_the_first_wins():
    embedding, centers = jnp.zeros((1, 1, 2)), jnp.array([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0]])
    ids = _assign(embedding, jnp.ones((1, 1), jnp.int32), centers, jnp.ones(3, jnp.int32), jnp.ones(3, bool), 2.0)
    assert ids == 2


@pytest.mark.parametrize(("radius", "taken"), [(5.0, 1), (float(np.nextafter(np.float32(5.0), np.float32(0))), 0)])
@pytest.mark.parametrize("far", [0.0, 1024.0])
def test_the_radius_is_inclusive_and_exact_far_from_the_origin(radius: float, taken: int, far: float):
    """The element lies exactly 5 from the center; |e|^2 - 2 e c + |c|^2 would round that away at 1024."""
    embedding, centers = jnp.full((1, 1, 2), far) + jnp.array([3.0, 4.0])[None, None], jnp.full((1, 2), far)
    ids = _assign(embedding, jnp.ones((1, 1), jnp.int32), centers, jnp.ones(1, jnp.int32), jnp.ones(1, bool), radius)
    assert ids == taken


def test_assignment_of_a_batch_is_that_of_each_image():
    scenes = [_objects(21, seed) for seed in (6, 7)]
    stacked = [jnp.stack([jnp.asarray(part) for part in parts]) for parts in zip(*scenes, strict=True)]
    batch = jax.jit(jax.vmap(lambda *parts: clustering.assign(*parts, 1.0)))(*stacked)
    for ids, scene in zip(batch, scenes, strict=True):
        np.testing.assert_array_equal(ids, _assign_loop(*scene, 1.0))


def test_relabelling_the_slots_relabels_the_map():
    embedding, classes, centers, class_id, valid = map(jnp.asarray, _objects(21))
    order = jnp.asarray(np.random.default_rng(0).permutation(21))
    ids = _assign(embedding, classes, centers[order], class_id[order], valid[order], 1.0)
    renamed = jnp.where(ids > 0, order[ids - 1] + 1, 0)
    np.testing.assert_array_equal(renamed, _assign(embedding, classes, centers, class_id, valid, 1.0))


def _mean_shift_loop(embedding, classes, probability, slots, bandwidth, shifts):
    """All-to-all clustering as written in its docstring, one cluster after the other."""
    points, kinds = embedding.reshape(-1, embedding.shape[-1]).astype(np.float64), classes.ravel()
    ids, means = np.zeros(kinds.size, int), []
    while len(means) < slots and ((ids == 0) & (kinds > 0)).any():
        free = (ids == 0) & (kinds > 0)
        seed = int(np.argmax(np.where(free, probability.ravel(), -1)))
        free &= kinds == kinds[seed]
        mean = points[seed]
        near = free & (np.linalg.norm(points - mean, axis=1) <= bandwidth)
        for _ in range(shifts):
            mean = points[near].mean(axis=0)
            before, near = near, free & (np.linalg.norm(points - mean, axis=1) <= bandwidth)
            if (before == near).all():
                break
        ids[near] = len(means) + 1
        means.append((mean, kinds[seed]))
    return ids.reshape(classes.shape), means


_all_to_all = jax.jit(clustering.all_to_all, static_argnums=(3, 5))


@pytest.mark.parametrize("slots", [5, 60])
@pytest.mark.parametrize("seed", range(4))
def test_all_to_all_is_the_loop(seed: int, slots: int):
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(9, 11, 3)).astype(np.float32)
    classes, probability = rng.integers(0, 3, (9, 11)), rng.integers(0, 9, (9, 11)).astype(np.float32) / 8
    found = _all_to_all(embedding, classes, probability, slots, 1.1, 4)
    ids, means = _mean_shift_loop(embedding, classes, probability, slots, 1.1, 4)
    np.testing.assert_array_equal(found.ids, ids)
    assert found.valid.tolist() == [i < len(means) for i in range(slots)]
    assert int(found.left) == ((ids == 0) & (classes > 0)).sum()
    for i, (mean, kind) in enumerate(means):
        np.testing.assert_allclose(found.mean[i], mean, atol=1e-5)
        assert int(found.class_id[i]) == kind


def test_all_to_all_finds_separate_blobs_and_never_joins_classes():
    """Three groups of embeddings 5 apart, the third of another class but in the place of the first."""
    group = np.arange(24).reshape(4, 6) % 3
    rng = np.random.default_rng(0)
    embedding = np.array([[0.0, 0], [5, 0], [0, 0]])[group] + rng.uniform(-0.2, 0.2, (4, 6, 2))
    classes = np.array([1, 1, 2])[group]
    found = _all_to_all(embedding.astype(np.float32), classes, np.ones((4, 6), np.float32), 8, 1.0, 8)
    assert int(found.valid.sum()) == 3
    assert len({*zip(np.asarray(found.ids).ravel().tolist(), group.ravel().tolist(), strict=True)}) == 3
    assert int(found.left) == 0


def test_all_to_all_of_no_bandwidth_takes_equal_elements():
    """The mean of six times 0.1 is not 0.1 in float32."""
    embedding = np.full((1, 6, 1), 0.1, np.float32)
    found = _all_to_all(embedding, np.ones((1, 6), np.int32), np.ones((1, 6), np.float32), 4, 0.0, 4)
    np.testing.assert_array_equal(found.ids, np.ones((1, 6)))
    np.testing.assert_array_equal(found.valid, [True, False, False, False])
    assert int(found.left) == 0


def test_all_to_all_needs_a_slot():
    with pytest.raises(ValueError, match="`slots` must be at least 1: got 0"):
        clustering.all_to_all(jnp.zeros((2, 2, 1)), jnp.ones((2, 2), int), jnp.ones((2, 2)), 0, 1.0)
