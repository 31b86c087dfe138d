"""Components against SciPy, middles against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.ops import components

SHAPE = (18, 25)


_label = jax.jit(components.label, static_argnums=1)
_middles = jax.jit(components.middles, static_argnums=1)


def _snake() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[::2], mask[1::4, -1], mask[3::4, 0] = True, True, True
    return mask


def _spiral() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    top, left, bottom, right = 0, 0, SHAPE[0] - 1, SHAPE[1] - 1
    while top < bottom and left < right:
        mask[top, max(left - 2, 0) : right + 1] = mask[bottom, left : right + 1] = True
        mask[top : bottom + 1, right] = mask[top + 2 : bottom + 1, left] = True
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    return mask


MASKS = {
    "nothing": np.zeros(SHAPE, bool),
    "everything": np.ones(SHAPE, bool),
    "snake": _snake(),
    "spiral": _spiral(),
    "checkerboard": np.indices(SHAPE).sum(axis=0) % 2 == 0,
    "sparse": np.random.default_rng(0).random(SHAPE) < 0.3,
    "critical": np.random.default_rng(1).random(SHAPE) < 0.55,
}


def _expected(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """SciPy's labels, each renamed to 1 + the index of its first element."""
    structure = np.ones((3, 3)) if connectivity == 8 else None
    labels, _ = ndimage.label(mask, structure)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.where(labels > 0, first[inverse].reshape(labels.shape) + 1, 0)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("name", MASKS)
def test_components_are_those_of_scipy(name: str, connectivity: int):
    labels = _label(jnp.asarray(MASKS[name]), connectivity)
    np.testing.assert_array_equal(labels, _expected(MASKS[name], connectivity))


@pytest.mark.parametrize("connectivity", [4, 8])
def test_different_classes_never_join(connectivity: int):
    classes = np.random.default_rng(2).integers(0, 4, SHAPE)
    expected = sum(_expected(classes == value, connectivity) for value in (1, 2, 3))
    np.testing.assert_array_equal(_label(jnp.asarray(classes, jnp.uint8), connectivity), expected)


def test_batches_and_jit_agree_with_single_maps():
    masks = jnp.asarray(np.stack(list(MASKS.values())))
    batched = jax.jit(jax.vmap(lambda mask: components.label(mask, 8)))(masks)
    for mask, labels in zip(masks, batched, strict=True):
        np.testing.assert_array_equal(labels, _label(mask, 8))


def test_roots_are_the_elements_that_name_themselves():
    mask = MASKS["sparse"]
    labels = _label(jnp.asarray(mask), 4).ravel()
    roots = jnp.sum(labels == jnp.arange(1, labels.size + 1))
    assert roots == ndimage.label(mask)[1]


def test_more_rounds_in_a_trip_find_the_same():
    """What accelerators do."""
    steps, mask = components._STEPS[8], jnp.asarray(MASKS["sparse"])
    start, joined = jnp.arange(mask.size, dtype=jnp.uint32), components._joined_elements(mask.astype(jnp.int32), 8)
    roots = [components._rooted(mask.shape[1], steps, rounds, start, joined) for rounds in (1, 2)]
    np.testing.assert_array_equal(*roots)
    np.testing.assert_array_equal(jnp.where(mask, roots[1].reshape(mask.shape) + 1, 0), _label(mask, 8))


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (7, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_grids_of_any_shape_and_values_of_any_size(shape: tuple[int, int], connectivity: int):
    values = np.random.default_rng(0).choice([0, -7, 2**31 - 1], shape)
    expected = sum(_expected(values == value, connectivity) for value in (-7, 2**31 - 1))
    np.testing.assert_array_equal(components.label(jnp.asarray(values, jnp.int32), connectivity), expected)


def test_blocks_of_several_values_are_joined_by_their_elements():
    """Two values that cross in every block, a checkerboard of each: diagonals join, and no block is of one value."""
    values = 1 + np.indices(SHAPE).sum(0) % 2
    expected = sum(_expected(values == value, 8) for value in (1, 2))
    np.testing.assert_array_equal(_label(jnp.asarray(values, jnp.int32), 8), expected)


def test_another_connectivity_is_refused():
    with pytest.raises(ValueError, match="`connectivity` must be 4 or 8: got 6"):
        components.label(jnp.zeros((2, 2), bool), 6)


def test_middles_are_those_of_a_loop():
    ids = np.random.default_rng(3).integers(0, 8, (9, 13))
    area, mass, element = _middles(jnp.asarray(ids), 6)
    for i in range(1, 7):
        places = np.argwhere(ids == i)
        center = places.mean(axis=0)
        assert area[i - 1] == len(places)
        np.testing.assert_allclose(mass[i - 1], center, rtol=1e-6)
        # Rounding makes exactly equal distances equal again, so that the first of them wins.
        np.testing.assert_array_equal(element[i - 1], places[np.argmin(np.round(((places - center) ** 2).sum(1), 9))])


def test_the_middle_of_a_ring_lies_on_the_ring():
    """Four elements of the ring touch the hole's middle, at distance 1: (1, 2) comes first."""
    ids = jnp.zeros((5, 5), jnp.int32).at[1:4, 1:4].set(1).at[2, 2].set(0)
    _, mass, element = _middles(ids, 1)
    np.testing.assert_array_equal(mass, [[2, 2]])
    np.testing.assert_array_equal(element, [[1, 2]])


def test_absent_ids_have_zero_rows():
    ids = jnp.array([[0, 0], [2, 0]])
    area, mass, element = _middles(ids, 3)
    np.testing.assert_array_equal(area, [0, 1, 0])
    np.testing.assert_array_equal(mass, [[0, 0], [1, 0], [0, 0]])
    np.testing.assert_array_equal(element, [[0, 0], [1, 0], [0, 0]])
