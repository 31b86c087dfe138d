"""Targets: laws, and parity with loops over pixels and instances in exact integers."""

from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import targets
from jaxseg.losses import total
from jaxseg.ops import superpixels
from jaxseg.types import IGNORED, Outputs

SIZE, H, W, SLOTS = 2, 6, 8, 6
FIELDS = ("semantic", "instance", "unknown", "confidence", "center", "class_id", "valid", "vanished", "overflow")
BACKGROUND = np.zeros((SIZE * H, SIZE * W), np.uint8)
OWN = np.full_like(BACKGROUND, 4)
make = jax.jit(targets.make, static_argnames=("size", "slots", "style"))
make_small = partial(make, size=SIZE, slots=SLOTS)
centers_of_mass = jax.jit(superpixels.centers_of_mass, static_argnums=1)
HYPER = total.Hyperparameters(jnp.array([1.0, 2.0, 3.0, 4.0]), 0.9, 2.0, 0.1, 9.0)


@jax.jit
def losses(result):
    """Every loss for fixed random outputs, and the gradient of their sum."""
    rng = np.random.default_rng(0)
    outputs = Outputs(*(jnp.asarray(rng.normal(size=(H, W, *tail)), jnp.float32) for tail in ((4,), (3,), ())))

    def loss(outputs):
        sums = {name: term(outputs, result) for name, term in total.paper_terms(HYPER).items()}
        return total.combine(sums, dict.fromkeys(sums, 1.0))

    (_, means), gradient = jax.value_and_grad(loss, has_aux=True)(outputs)
    return means, gradient


def random_maps(seed, ids=(3, 9, 400, 65535)):
    """Overlapping boxes with the given ids over background, an ignored box, and superpixels of random shape."""
    rng = np.random.default_rng(seed)
    semantic, instance = BACKGROUND.copy(), BACKGROUND.astype(np.uint16)

    def box():
        y, x = rng.integers(0, SIZE * H - 3), rng.integers(0, SIZE * W - 3)
        return slice(y, y + rng.integers(3, 8)), slice(x, x + rng.integers(3, 8))

    for i, value in enumerate(ids):
        place = box()
        semantic[place], instance[place] = 1 + i % 3, value
    semantic[box()] = IGNORED
    cell = np.stack(np.mgrid[: SIZE * H, : SIZE * W], -1) // SIZE
    step = np.where(rng.random(cell.shape) < 0.2, rng.integers(-1, 2, cell.shape), 0)
    step = np.clip(cell + step, 0, (H - 1, W - 1)) - cell
    return semantic, instance, (3 * step[..., 0] + step[..., 1] + 4).astype(np.uint8)


def mirror(semantic, instance, assignment):
    """The maps of the mirror image: its neighbors to the left were to the right."""
    return semantic[:, ::-1], instance[:, ::-1], (assignment + 2 - 2 * (assignment % 3))[:, ::-1]


def naive_sample(assignment):
    """Pixel at each superpixel's center of mass in exact fractions; its cell's middle if it has no pixels."""
    members = {(i, j): [] for i in range(H) for j in range(W)}
    for (y, x), offset in np.ndenumerate(assignment):
        members[y // SIZE + offset // 3 - 1, x // SIZE + offset % 3 - 1].append((y, x))
    pixels = {}
    for cell, owned in members.items():
        owned = owned or [(SIZE * cell[0] + a, SIZE * cell[1] + b) for a in range(SIZE) for b in range(SIZE)]
        pixels[cell] = tuple(
            nearest(Fraction(sum(c), len(c)), n)
            for c, n in zip(zip(*owned, strict=True), assignment.shape, strict=True)
        )
    return pixels


def nearest(coordinate, length):
    whole, rest = divmod(coordinate, 1)
    return int(whole + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and 2 * coordinate < length - 1)))


def naive_center(elements):
    mean = [Fraction(sum(c), len(c)) for c in zip(*elements, strict=True)]
    return min(
        elements,
        key=lambda e: (
            sum((a - m) ** 2 for a, m in zip(e, mean, strict=True)),
            sum((2 * a - n + 1) ** 2 for a, n in zip(e, (H, W), strict=True)),
            e,
        ),
    )


def naive_targets(semantic, instance, assignment, slots, style, radius):
    instance = np.where((semantic == IGNORED) | (semantic == 0), 0, instance)
    labels, ids = np.zeros((H, W), int), np.zeros((H, W), int)
    for cell, pixel in naive_sample(assignment).items():
        labels[cell], ids[cell] = semantic[pixel], instance[pixel]
    on_grid = sorted(set(ids.ravel().tolist()) - {0})
    slot, confidence = np.zeros((H, W), int), np.zeros((H, W))
    center, class_id, valid = np.zeros((slots, 2), int), np.zeros(slots, int), np.zeros(slots, bool)
    for row, value in enumerate(on_grid[:slots]):
        elements = [tuple(e) for e in np.argwhere(ids == value).tolist()]
        center[row] = naive_center(elements)
        class_id[row], valid[row] = labels[tuple(center[row])], True
        for e in elements:
            slot[e], distance = row + 1, np.hypot(*(e - center[row]))
            bell = np.exp(-(distance**2) / (2 * (radius / 2) ** 2))
            confidence[e] = {"point": distance == 0, "disc": distance <= radius, "gaussian": bell}[style]
    vanished = len(set(instance.ravel().tolist()) - {0} - set(on_grid))
    unknown = np.isin(ids, on_grid[slots:])
    return labels, slot, unknown, confidence, center, class_id, valid, vanished, max(len(on_grid) - slots, 0)


@pytest.mark.parametrize("style", targets.STYLES)
@pytest.mark.parametrize("slots", [2, SLOTS])
def test_equals_naive_loops(style, slots):
    for seed in range(15):
        maps = random_maps(seed)
        result = make(*maps, SIZE, slots, style, 1.5)
        for name, expected in zip(FIELDS, naive_targets(*maps, slots, style, 1.5), strict=True):
            np.testing.assert_allclose(getattr(result, name), expected, rtol=1e-5, err_msg=f"{name}, seed {seed}")


def test_mirroring_commutes():
    compared = 0
    for seed in range(30):
        maps = random_maps(seed)
        if (centers_of_mass(jnp.asarray(maps[2]), SIZE)[..., 1] == (SIZE * W - 1) / 2).any():
            continue  # Between the two middle columns of pixels no choice commutes.
        plain, flipped = make_small(*maps), make_small(*mirror(*maps))
        for name in ("semantic", "instance"):
            np.testing.assert_array_equal(getattr(plain, name)[:, ::-1], getattr(flipped, name))
        for i in range(SLOTS):
            _, columns = np.nonzero(np.array(plain.instance) == i + 1)
            # Nor does any for an instance whose center of mass is on the axis, between two columns of elements.
            if columns.size and 2 * columns.sum() != (W - 1) * columns.size:
                compared += 1
                y, x = np.array(plain.center[i])
                np.testing.assert_array_equal(flipped.center[i], (y, W - 1 - x))
    assert compared > 40


def test_a_center_belongs_to_its_instance():
    for seed in range(20):
        result = make_small(*random_maps(seed))
        for i in np.flatnonzero(result.valid):
            place = tuple(np.array(result.center[i]))
            assert result.instance[place] == i + 1
            assert result.confidence[place] == 1
            assert result.class_id[i] == result.semantic[place]


@pytest.mark.parametrize("style", targets.STYLES)
def test_radius_zero_is_the_point(style):
    maps = random_maps(3)
    point, result = make(*maps, SIZE, SLOTS), make(*maps, SIZE, SLOTS, style, 0.0)
    assert result.confidence.sum() == point.valid.sum()
    np.testing.assert_array_equal(result.confidence, make(*maps, SIZE, SLOTS, "point").confidence)


def test_ring_has_its_center_on_the_ring():
    # Its center of mass, element (2, 3), is the hole. Of the four elements at distance 1 from it, (2, 4) and (3, 3)
    # are nearest to the grid's middle (2.5, 3.5), and (2, 4) comes first.
    ring = np.zeros((H, W), np.uint16)
    ring[1:4, 2:5] = 7
    ring[2, 3] = 0
    instance = np.kron(ring, np.ones((SIZE, SIZE), np.uint16))
    result = make_small((instance > 0).astype(np.uint8), instance, OWN)
    np.testing.assert_array_equal(result.center[0], (2, 4))


@pytest.mark.parametrize("ids", [(1, 2, 3, 4), (10, 2000, 30000, 65535)])
def test_order_preserving_ids_give_the_same_targets(ids):
    expected, result = make_small(*random_maps(3)), make_small(*random_maps(3, ids))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(expected, name), getattr(result, name))


def test_other_ids_permute_the_rows():
    first, second = make_small(*random_maps(3)), make_small(*random_maps(3, (900, 8, 7, 60)))
    for name in ("semantic", "confidence", "vanished", "overflow"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    rows = [sorted(map(tuple, np.c_[t.center, t.class_id, t.valid].tolist())) for t in (first, second)]
    assert rows[0] == rows[1]
    assert first.valid.sum() > 1
    means = [losses(t)[0] for t in (first, second)]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), *means)
    assert all(mean > 0 for mean in means[0].values())


def test_counts_of_vanished_and_overflowing_instances():
    # Five instances of one element each for three slots, then four of one pixel each in corners that are not sampled.
    instance = BACKGROUND.astype(np.uint16)
    instance[:SIZE, : 5 * SIZE] = np.repeat([10, 20, 30, 40, 50], SIZE)
    sampled = make_small((instance > 0).astype(np.uint8), instance, OWN)
    assert (sampled.vanished, sampled.overflow, sampled.valid.sum()) == (0, 0, 5)
    instance[-1, : 4 * SIZE : SIZE] = [60, 70, 80, 90]
    result = make((instance > 0).astype(np.uint8), instance, OWN, SIZE, 3)
    assert (result.vanished, result.overflow, result.valid.sum()) == (4, 2, 3)
    np.testing.assert_array_equal(result.instance[0], [1, 2, 3, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(result.semantic[0], [1, 1, 1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("seed", range(3))
def test_vanished_instances_are_counted_without_making_targets(seed):
    maps = random_maps(seed)
    assert jax.jit(targets.vanished, static_argnums=3)(*maps, SIZE) == make_small(*maps).vanished


def test_vanished_instances_are_counted_on_grids_that_targets_do_not_fit():
    side = 2 * 900
    semantic, instance = np.zeros((side, side), np.uint8), np.zeros((side, side), np.uint16)
    semantic[:8], instance[:2, :2], instance[4, 5] = 1, 1, 2
    assignment = np.full((side, side), superpixels.OWN, np.uint8)
    assert not targets.fits((900, 900))
    assert jax.jit(targets.vanished, static_argnums=3)(semantic, instance, assignment, 2) == 1


def test_instances_without_slot_weigh_on_no_instance_term():
    maps = random_maps(3)
    kept = make(*maps, SIZE, 1)
    assert kept.overflow > 0
    beyond = (np.array(kept.instance) == 0) & (np.array(kept.semantic) > 0)
    means, gradient = losses(kept)
    np.testing.assert_array_equal(np.array(gradient.center)[beyond], 0)
    np.testing.assert_array_equal(np.array(gradient.embedding)[beyond], 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((means, gradient)))
    assert means["attraction"] > 0
    assert means["repulsion"] == 0


@pytest.mark.parametrize("label", [0, IGNORED])
def test_background_and_ignored_have_no_instance(label):
    result = make_small(BACKGROUND + np.uint8(label), BACKGROUND.astype(np.uint16) + np.uint16(5), OWN)
    assert not result.valid.any()
    assert (result.vanished, result.overflow) == (0, 0)
    np.testing.assert_array_equal(result.semantic, label)
    for name in ("instance", "confidence", "center", "class_id"):
        np.testing.assert_array_equal(getattr(result, name), 0)


def test_a_batch_is_its_images():
    images = [random_maps(seed) for seed in range(3)]
    over_batch = jax.jit(jax.vmap(partial(targets.make, size=SIZE, slots=SLOTS)))
    batch = over_batch(*(jnp.stack(x) for x in zip(*images, strict=True)))
    each = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(make_small(*maps) for maps in images))
    jax.tree.map(np.testing.assert_array_equal, batch, each)


def test_centers_are_exact_on_large_instances():
    # 256 x 512 elements less one row: N |q|^2 passes 2^32. The mean (127, 255.5) ties two columns.
    instance = np.zeros((256, 512), np.uint16)
    instance[:255] = 1
    result = make((instance > 0).astype(np.uint8), instance, np.full_like(instance, 4, np.uint8), 1, 1)
    np.testing.assert_array_equal(result.center, [[127, 255]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 5}, r"`size` must divide the image: got 12 x 16 with size 5. Pad or resize first."),
        ({"slots": 0}, r"`slots` must be in 1 to 65535: got 0."),
        ({"style": "square"}, r'`style` must be "point", "disc" or "gaussian": got \'square\'.'),
    ],
)
def test_bad_static_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        targets.make(*map(jnp.asarray, random_maps(0)), **({"size": SIZE, "slots": SLOTS} | change))


def test_a_grid_that_would_overflow_is_refused():
    shape = jax.ShapeDtypeStruct((2048, 1024), jnp.uint8)
    ids = jax.ShapeDtypeStruct((2048, 1024), jnp.uint16)
    with pytest.raises(
        ValueError, match=r"the grid must fit 32-bit sums: got 2048 x 1024 elements. Use a larger `size`."
    ):
        jax.eval_shape(partial(targets.make, size=1, slots=8), shape, ids, shape)
