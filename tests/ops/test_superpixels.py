"""Superpixels: laws of flips and partitions, then parity with loops written from the definition."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops import color, superpixels

SIZES = (1, 2, 3, 4, 8, 16)
MEASURED = (*SIZES, 6, 32)
"""Sizes that words of bits hold in another way each."""

# One shape for most tests, and compiled functions: compiling is what takes the time.
SIDE = 48

_assign = jax.jit(superpixels.assign, static_argnums=1)
_upsample = jax.jit(superpixels.upsample, static_argnums=2)
_centers = jax.jit(superpixels.centers_of_mass, static_argnums=1)
_boxes = jax.jit(superpixels.areas_and_boxes, static_argnums=(2, 3))
_slic = jax.jit(superpixels.slic, static_argnums=1)


def _image(height: int, width: int, seed: int = 0) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)), jnp.uint8)


def _flat_shapes(height: int, width: int) -> jnp.ndarray:
    """Few flat colors with slanted borders: the image that is full of exact ties."""
    y, x = np.mgrid[:height, :width]
    region = (x + y > width // 2).astype(int) + (x > y + 5)
    return jnp.asarray(np.array([[200, 30, 40], [20, 190, 60], [50, 60, 220]])[region], jnp.uint8)


def _any_assignment(h: int, w: int, size: int, seed: int = 0) -> np.ndarray:
    """Random offsets that stay inside the grid."""
    offsets = np.random.default_rng(seed).integers(0, 9, (h * size, w * size))
    row, column = np.indices(offsets.shape) // size
    dy = np.where((row + offsets // 3 - 1 < 0) | (row + offsets // 3 - 1 >= h), 0, offsets // 3 - 1)
    dx = np.where((column + offsets % 3 - 1 < 0) | (column + offsets % 3 - 1 >= w), 0, offsets % 3 - 1)
    return (3 * (dy + 1) + dx + 1).astype(np.uint8)


def _distances(lab: np.ndarray, size: int, compactness: float) -> np.ndarray:
    """All nine distances of each pixel, (H, W, 9) float64, infinite outside the grid."""
    height, width = lab.shape[:2]
    h, w, low, high = height // size, width // size, (size - 1) // 2, size // 2 + 1
    result = np.full((h, size, w, size, 9), np.inf)
    cells = lab.reshape(h, size, w, size, 3)
    y, x = np.mgrid[:size, :size]
    for row, column, offset in np.ndindex(h, w, 9):
        dy, dx = offset // 3 - 1, offset % 3 - 1
        if 0 <= row + dy < h and 0 <= column + dx < w:
            center = cells[row + dy, low:high, column + dx, low:high].mean(axis=(0, 1))
            middle = (size - 1) / 2
            away = np.hypot(y - middle - dy * size, x - middle - dx * size)
            apart = np.linalg.norm(cells[row, :, column] - center, axis=-1)
            result[row, :, column, :, offset] = apart + compactness * away
    return result.reshape(height, width, 9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [_image, _flat_shapes])
@pytest.mark.parametrize("axis", [0, 1])
def test_flipping_an_image_flips_its_superpixels(size: int, make, axis: int):
    image = make(SIDE, SIDE)
    offset = _assign(image, size, 3.0).astype(jnp.int32)
    dy, dx = offset // 3 - 1, offset % 3 - 1
    mirrored = 3 * ((-dy if axis == 0 else dy) + 1) + (-dx if axis == 1 else dx) + 1
    flipped = _assign(jnp.flip(image, axis), size, 3.0)
    even = size % 2 == 0 or size == 1
    # A pixel on the middle line of an odd cell may be exactly as far from both neighbors, which no rule treats evenly.
    agreement = np.mean(np.asarray(flipped) == np.flip(np.asarray(mirrored), axis))
    assert agreement == 1.0 if even else agreement > 0.98


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("compactness", [0.5, 3.0, 1000.0])
def test_every_pixel_takes_the_nearest_center(size: int, compactness: float):
    image = _image(SIDE, SIDE, seed=size)
    distances = _distances(np.asarray(color.rgb_to_lab(image), np.float64), size, compactness)
    offset = np.asarray(_assign(image, size, compactness))
    taken = np.take_along_axis(distances, offset[..., None].astype(int), axis=-1)[..., 0]
    np.testing.assert_allclose(taken, distances.min(axis=-1), rtol=1e-5, atol=1e-4)


def test_ties_go_to_the_own_cell():
    """One flat color and no weight on distance: every center is equally near."""
    flat = jnp.full((SIDE, SIDE, 3), 77, jnp.uint8)
    assert (_assign(flat, 4, 0.0) == superpixels.OWN).all()


def test_a_large_compactness_gives_the_grid():
    assert (_assign(_image(SIDE, SIDE), 4, 1e6) == superpixels.OWN).all()


def test_superpixels_follow_an_edge():
    """Cells of 4 with an edge at column 5: column 4 looks like the left cell, and joins it."""
    image = jnp.zeros((4, 8, 3), jnp.uint8).at[:, 5:].set(255)
    offset = _assign(image, 4, 3.0)
    assert (offset[:, 4] == 3).all()
    assert (jnp.delete(offset, 4, axis=1) == superpixels.OWN).all()


def test_floats_bytes_and_lab_agree():
    image = _image(SIDE, SIDE)
    expected = _assign(image, 4, 3.0)
    assert jnp.mean(_assign(image.astype(jnp.float32) / 255.0, 4, 3.0) == expected) > 0.99
    from_lab = jax.jit(superpixels.assign_lab, static_argnums=1)(color.rgb_to_lab(image), 4, 3.0)
    assert jnp.mean(from_lab == expected) > 0.99


def test_compactness_may_be_traced_and_images_batched():
    images = jnp.stack([_image(SIDE, SIDE, seed) for seed in range(2)])
    weights = jnp.array([1.0, 9.0])
    batched = jax.jit(jax.vmap(lambda image, weight: superpixels.assign(image, 4, weight)))(images, weights)
    for i in range(2):
        np.testing.assert_array_equal(batched[i], _assign(images[i], 4, weights[i]))


@pytest.mark.parametrize(("size", "middle"), [(8, 4), (8, 8), (5, 3), (6, 2), (3, 1)])
def test_centers_have_the_mean_color_of_their_middle(size: int, middle: int):
    image = _image(size * 4, size * 5, size)
    planes = [jnp.asarray(image[..., i], jnp.float32) for i in range(3)]
    low, high = (size - middle) // 2, (size + middle) // 2
    cells = np.asarray(image, np.float64).reshape(4, size, 5, size, 3)[:, low:high, :, low:high].mean(axis=(1, 3))
    for i, plane in enumerate(planes):
        found = np.asarray(superpixels._middle(plane, size, middle))
        np.testing.assert_allclose(found, cells[..., i], rtol=1e-5)
        np.testing.assert_array_equal(superpixels._middle(plane[::-1, ::-1], size, middle)[::-1, ::-1], found)


def test_a_larger_middle_looks_past_a_speck():
    """A bright pixel in the middle of a dark cell, below bright ones: alone it gives the center its color."""
    image = np.full((15, 15, 3), 30, np.uint8)
    image[7, 7] = 250
    image[:5] = 250
    run = jax.jit(superpixels.assign, static_argnums=(1, 3))
    assert np.asarray(run(jnp.asarray(image), 5, 5.0, 1))[7, 8] != superpixels.OWN
    assert np.asarray(run(jnp.asarray(image), 5, 5.0, 3))[7, 8] == superpixels.OWN


@pytest.mark.parametrize(("size", "middle", "kind"), [(8, 3, "even"), (5, 2, "odd"), (4, 6, "even")])
def test_a_middle_that_is_none_is_refused(size: int, middle: int, kind: str):
    with pytest.raises(
        ValueError, match=f"`middle` must be {kind} and at most {size}, the size of a cell: got {middle}"
    ):
        superpixels.assign(_image(40, 40), size, 1.0, middle)


def test_a_size_that_does_not_divide_is_named():
    with pytest.raises(ValueError, match=r"`size` must divide the image: got 510 x 1024 with size 4\. Pad or resize"):
        superpixels.grid_shape((510, 1024, 3), 4)


@pytest.mark.parametrize(("size", "dtype"), [*((size, "uint16") for size in SIZES), (4, "bool"), (4, "float32")])
def test_upsampling_gives_each_pixel_its_superpixel(size: int, dtype: str):
    assignment = jnp.asarray(_any_assignment(3, 4, size))
    grid = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 200, (3, 4)).astype(dtype)
    full = _upsample(jnp.asarray(grid), assignment, size)
    assert full.dtype == grid.dtype
    np.testing.assert_array_equal(full, grid.ravel()[np.asarray(superpixels.ids(assignment, size))])


def test_upsampling_refuses_another_grid():
    with pytest.raises(ValueError, match="`grid` must be 2 x 2"):
        superpixels.upsample(jnp.zeros((2, 3)), jnp.full((8, 8), 4, jnp.uint8), 4)


@pytest.mark.parametrize("size", MEASURED)
def test_centers_boxes_and_areas_are_those_of_the_pixels(size: int):
    h, w = 3, 4
    assignment = jnp.asarray(_any_assignment(h, w, size, seed=size))
    ids = np.asarray(superpixels.ids(assignment, size))
    centers = _centers(assignment, size)
    areas, boxes = _boxes(1 + jnp.arange(h * w).reshape(h, w), assignment, size, h * w)
    areas, boxes = areas.reshape(h, w), boxes.reshape(h, w, 4)
    assert boxes.dtype == areas.dtype == jnp.int32
    assert areas.sum() == ids.size
    for i in range(h * w):
        y, x = np.nonzero(ids == i)
        row, column = divmod(i, w)
        assert areas[row, column] == y.size
        if y.size:
            box = (y.min(), x.min(), y.max() + 1, x.max() + 1)
            np.testing.assert_allclose(centers[row, column], (y.mean(), x.mean()), rtol=1e-6, atol=1e-6)
        else:
            box = (h * size, w * size, 0, 0)
            np.testing.assert_array_equal(centers[row, column], np.array([row, column]) * size + (size - 1) / 2)
        np.testing.assert_array_equal(boxes[row, column], box)


@pytest.mark.parametrize("size", SIZES)
def test_areas_and_boxes_of_objects_of_several_superpixels(size: int):
    h, w, count = 5, 4, 3
    assignment = jnp.asarray(_any_assignment(h, w, size, seed=size))
    objects = np.random.default_rng(size).integers(0, count, (h, w))  # the last id is not there
    areas, boxes = _boxes(jnp.asarray(objects), assignment, size, count)
    pixels = objects.ravel()[np.asarray(superpixels.ids(assignment, size))]
    for i in range(1, count + 1):
        y, x = np.nonzero(pixels == i)
        assert areas[i - 1] == y.size
        box = (y.min(), x.min(), y.max() + 1, x.max() + 1) if y.size else (h * size, w * size, 0, 0)
        np.testing.assert_array_equal(boxes[i - 1], box)


@pytest.mark.parametrize("size", MEASURED)
def test_middle_pixels_are_the_nearest_with_halves_toward_the_middle(size: int):
    h, w = 4, 3
    assignment = _any_assignment(h, w, size, seed=size)
    ids = np.asarray(superpixels.ids(jnp.asarray(assignment), size))
    found = np.asarray(jax.jit(superpixels.middle_pixels, static_argnums=1)(jnp.asarray(assignment), size))
    for i in range(h * w):
        places = np.nonzero(ids == i)
        corner = np.array(divmod(i, w)) * size
        wanted = []
        for axis, place in enumerate(places):
            mean = Fraction(int(place.sum()), place.size) if place.size else corner[axis] + Fraction(size - 1, 2)
            early = mean < Fraction(ids.shape[axis] - 1, 2)
            wanted.append(math.floor(mean + Fraction(1, 2)) if early else math.ceil(mean - Fraction(1, 2)))
        assert divmod(int(found.ravel()[i]), ids.shape[1]) == tuple(wanted)


def test_assignments_are_stored_once_for_all_who_read_them():
    """Else XLA on CPU computes nine distances of every pixel, stores them, and takes the least for each reader anew."""

    def readers(image):
        assignment = superpixels.assign(image, 4, 3.0)
        areas, _ = superpixels.areas_and_boxes(jnp.ones((4, 4), jnp.uint8), assignment, 4, 1)
        return superpixels.upsample(jnp.arange(16).reshape(4, 4), assignment, 4), areas

    text = jax.jit(readers).lower(_image(16, 16)).compile().as_text()
    assert [part.count(" sqrt(") for part in text.split("\n\n") if " sqrt(" in part] == [9]


@pytest.mark.parametrize("nobody", [9, 127, 128, 133, 255])
@pytest.mark.parametrize("size", [3, 4])
def test_pixels_of_no_superpixel_count_nowhere(size: int, nobody: int):
    assignment = jnp.full((3 * size, 3 * size), superpixels.OWN, jnp.uint8).at[0].set(nobody)
    areas, boxes = _boxes(jnp.arange(1, 10).reshape(3, 3), assignment, size, 9)
    np.testing.assert_array_equal(areas, [size * (size - 1)] * 3 + [size * size] * 6)
    np.testing.assert_array_equal(boxes[:3, 0], 1)


def test_a_superpixel_without_pixels_sits_in_the_middle_of_its_cell():
    assignment = jnp.full((4, 8), superpixels.OWN, jnp.uint8).at[:, 4:].set(3)
    centers = _centers(assignment, 4)
    np.testing.assert_array_equal(centers, [[[1.5, 3.5], [1.5, 5.5]]])


def test_flipping_commutes_with_centers_of_mass():
    image = _image(SIDE, SIDE)
    centers = _centers(_assign(image, 4, 3.0), 4)
    flipped = _centers(_assign(image[:, ::-1], 4, 3.0), 4)
    np.testing.assert_allclose(flipped[:, ::-1, 1], SIDE - 1 - centers[..., 1], atol=1e-5)
    np.testing.assert_allclose(flipped[:, ::-1, 0], centers[..., 0], atol=1e-5)


def test_too_large_a_size_is_named():
    with pytest.raises(ValueError, match="`size` must be at most 32: got 64"):
        superpixels.centers_of_mass(jnp.full((64, 64), 4, jnp.uint8), 64)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_one_iteration_of_slic_is_the_assignment(size: int):
    image = _image(SIDE, SIDE)
    expected = superpixels.ids(_assign(image, size, 3.0), size)
    np.testing.assert_array_equal(_slic(image, size, 3.0, 1), expected)


def test_slic_moves_centers_to_the_mean_of_their_pixels():
    image, size, compactness = _image(12, 16), 4, 5.0
    lab = np.asarray(color.rgb_to_lab(image), np.float64)
    ids = np.asarray(_slic(image, size, compactness, 2))
    before = np.asarray(_slic(image, size, compactness, 1))
    assert (ids != before).any()
    y, x = np.mgrid[:12, :16]
    features = np.dstack([lab, y, x])
    means = np.stack([features[before == i].mean(axis=0) for i in range(12)])
    for (row, column), own in np.ndenumerate(ids):
        cells = [
            r * 4 + c
            for r in range(max(row // 4 - 1, 0), min(row // 4 + 2, 3))
            for c in range(max(column // 4 - 1, 0), min(column // 4 + 2, 4))
        ]
        assert own in cells
        apart = features[row, column] - means
        distance = np.linalg.norm(apart[:, :3], axis=1) + compactness * np.linalg.norm(apart[:, 3:], axis=1)
        assert distance[own] <= distance[cells].min() + 1e-3


def test_slic_iterations_may_be_static():
    image = _image(12, 16)
    static = jax.jit(lambda image: superpixels.slic(image, 4, 3.0, 3))
    np.testing.assert_array_equal(static(image), _slic(image, 4, 3.0, 3))


def test_a_corrected_assignment_carries_every_label_that_is_near():
    """Labels of three regions, sampled at the cells' middles: a pixel takes a neighbor of its label, if it has one."""
    image = _flat_shapes(SIDE, SIDE)
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = jnp.asarray((x + y > SIDE // 2).astype(np.int32) + 2 * (x > y + 5) + 1)
    size, grid = 4, labels[2::4, 2::4]
    given = _assign(image[::-1], size, 3.0)  # of another picture: wrong in many places
    better = jax.jit(superpixels.assign_matching, static_argnums=3)(grid, labels, given, size)
    near = np.stack([_upsample(grid, jnp.full((SIDE, SIDE), i, jnp.uint8), size) for i in range(9)])
    possible = (near == np.asarray(labels)[None]).any(axis=0)
    carried = np.asarray(_upsample(grid, better, size))
    assert possible.mean() > 0.95
    np.testing.assert_array_equal((carried == labels)[possible], True)
    right = np.asarray(_upsample(grid, given, size)) == labels
    assert 0.3 < right.mean() < 0.99
    np.testing.assert_array_equal(np.asarray(better)[right], np.asarray(given)[right])
    outside = given.at[0].set(9)
    assert (jax.jit(superpixels.assign_matching, static_argnums=3)(grid, labels, outside, size)[0] == 9).all()
