"""Frame to masks: geometry, the truth through the whole post-processing, one program without the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxseg import segment, targets
from jaxseg.ops import superpixels
from jaxseg.types import Capacity, Outputs, Thresholds

# Compiled whole: called as they are, each of their hundreds of operations would be compiled alone.
assign = jax.jit(segment.assign, static_argnums=(1, 2))
finish = jax.jit(segment.finish, static_argnums=(2, 3))
group = jax.jit(segment.group, static_argnums=2, static_argnames=("stuff", "as_printed"))
oracle = jax.jit(segment.oracle, static_argnums=1)
make = jax.jit(targets.make, static_argnums=(3, 4), static_argnames="style")

THRESHOLDS = Thresholds(center=0.5, assignment=0.4, duplicate=0.1, compactness=3.0)


class Tiny(nn.Module):
    """A network of one convolution: enough to carry a frame through the whole program."""

    @nn.compact
    def __call__(self, images, train):
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255
        x = nn.Conv(3 + 4 + 1, (4, 4), strides=4)(images)
        return Outputs(10 * x[..., :3], x[..., 3:7], 10 * x[..., 7])


def frame(seed, size=(48, 64)):
    blocks = np.random.default_rng(seed).integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]


@pytest.fixture(scope="module")
def tiny():
    network = Tiny()
    return network, network.init(jax.random.key(1), jnp.zeros((1, 32, 32, 3)), train=False)


@pytest.mark.parametrize(
    ("size", "capacity", "expected"),
    [
        # Native and a multiple of the stride: everything coincides.
        ((64, 96), Capacity(8, 4, None, 32), segment.Geometry((64, 96), (64, 96), (64, 96), 4, (16, 24), False)),
        # Native otherwise: padded.
        ((50, 70), Capacity(8, 4, None, 32), segment.Geometry((50, 70), (64, 96), (64, 96), 4, (16, 24), False)),
        # A frame of twice the network's size: superpixels of twice the size on the frame itself.
        ((128, 192), Capacity(8, 4, (64, 96)), segment.Geometry((128, 192), (64, 96), (128, 192), 8, (16, 24), False)),
        # Half: superpixels of half the size.
        ((32, 48), Capacity(8, 4, (64, 96)), segment.Geometry((32, 48), (64, 96), (32, 48), 2, (16, 24), False)),
        # So large that its cells could not be measured: superpixels at the network's size.
        ((528, 528), Capacity(8, 4, (64, 64)), segment.Geometry((528, 528), (64, 64), (64, 64), 4, (16, 16), True)),
        # Not a multiple of the grid, or of another aspect: superpixels on the smallest canvas that has all its pixels.
        ((100, 150), Capacity(8, 4, (64, 96)), segment.Geometry((100, 150), (64, 96), (112, 168), 7, (16, 24), True)),
        ((64, 192), Capacity(8, 4, (64, 96)), segment.Geometry((64, 192), (64, 96), (128, 192), 8, (16, 24), True)),
        # No larger than the network's input: superpixels of that.
        ((63, 96), Capacity(8, 4, (64, 96)), segment.Geometry((63, 96), (64, 96), (64, 96), 4, (16, 24), True)),
        ((40, 60), Capacity(8, 4, (64, 96)), segment.Geometry((40, 60), (64, 96), (64, 96), 4, (16, 24), True)),
    ],
)
def test_geometry(size, capacity, expected):
    assert segment.geometry(size, capacity) == expected


def test_empty_frame_is_refused():
    with pytest.raises(ValueError, match="`frame` must have at least one pixel: got 0 x 64"):
        segment.geometry((0, 64), Capacity())


@pytest.mark.parametrize(
    ("size", "capacity"),
    [
        ((48, 64), Capacity(6, 4, None, 16)),
        ((45, 61), Capacity(6, 4, None, 16)),
        ((96, 128), Capacity(6, 4, (48, 64), 16)),
        ((50, 75), Capacity(6, 4, (48, 64), 16)),
        ((110, 140), Capacity(6, 4, (48, 64), 16)),
        ((40, 60), Capacity(6, 4, (48, 64), 16)),
    ],
)
def test_results_have_the_frames_size_and_agree_with_their_rows(tiny, size, capacity):
    network, variables = tiny
    found = jax.device_get(segment.jitted(network, variables, frame(3, size), capacity, THRESHOLDS))
    assert found.semantic.shape == found.instance.shape == size
    rows = found.instances
    assert rows.valid.any(), "a test without objects would say nothing"
    assert set(np.unique(found.instance)) - {0} == set(np.flatnonzero(rows.valid) + 1)
    for i in np.flatnonzero(rows.valid):
        y, x = np.nonzero(found.instance == i + 1)
        assert rows.area[i] == len(y)
        assert rows.box[i].tolist() == [y.min(), x.min(), y.max() + 1, x.max() + 1]
        assert (found.semantic[y, x] == rows.class_id[i]).all()
        assert 0 < rows.score[i] <= 1
    for leaf in jax.tree.leaves(rows):
        assert (leaf[~rows.valid] == 0).all()


def test_a_batch_is_its_frames(tiny):
    network, variables = tiny
    frames, capacity = np.stack([frame(0), frame(1)]), Capacity(6, 4, None, 16)
    batch = segment.jitted(network, variables, frames, capacity, THRESHOLDS)
    for i in range(2):
        single = segment.jitted(network, variables, frames[i], capacity, THRESHOLDS)
        for one, many in zip(jax.tree.leaves(single), jax.tree.leaves(batch), strict=True):
            np.testing.assert_allclose(one, many[i], rtol=1e-5, atol=1e-5)


def test_thresholds_and_frames_do_not_recompile(tiny):
    network, variables = tiny
    capacity, sizes = Capacity(6, 4, None, 16), []
    for seed, radius in ((0, 0.4), (1, 0.2), (2, 0.8)):
        numbers = jax.tree.map(np.float32, THRESHOLDS.replace(assignment=radius))
        segment.jitted(network, variables, frame(seed), capacity, numbers)
        sizes.append(segment.jitted._cache_size())
    assert sizes[0] == sizes[1] == sizes[2]


def test_it_is_one_program_without_the_host(tiny):
    network, variables = tiny
    lowered = segment.jitted.lower(network, variables, frame(0), Capacity(6, 4, None, 16), THRESHOLDS)
    text = lowered.compile().as_text()
    assert text.count("\nENTRY ") == 1
    for word in ("callback", "infeed", "outfeed", "host_compute", "xla_ffi_python", "send(", "recv("):
        assert word not in text
    assert "callback" not in lowered.as_text()


def scene():
    """Three objects of two classes on colored ground, one of them ignored in part; edges lie on the grid."""
    image = np.full((48, 64, 3), 40, np.uint8)
    semantic, instance = np.zeros((48, 64), np.uint8), np.zeros((48, 64), np.uint16)
    for i, (y0, x0, y1, x1, label) in enumerate([(4, 4, 20, 24, 1), (4, 24, 20, 40, 1), (24, 8, 44, 48, 2)], 1):
        image[y0:y1, x0:x1] = np.random.default_rng(i).integers(100, 256, 3)
        semantic[y0:y1, x0:x1], instance[y0:y1, x0:x1] = label, i * 100
    return jnp.asarray(image), jnp.asarray(semantic), jnp.asarray(instance)


def test_the_truth_comes_back():
    image, semantic, instance = scene()
    capacity = Capacity(5, 4, None, 16)
    plan = segment.geometry((48, 64), capacity)
    assignment = assign(image, plan, capacity, THRESHOLDS)
    truth = make(semantic, instance, assignment, 4, 5, style="point", radius=1.0)
    found = jax.device_get(finish(oracle(truth, 3), assignment, plan, capacity, THRESHOLDS))
    np.testing.assert_array_equal(found.semantic, semantic)
    pairs = set(zip(found.instance.ravel().tolist(), instance.ravel().tolist(), strict=True))
    assert len(pairs) == 4
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 4
    assert found.lost == 0


def test_more_objects_than_slots_are_counted_and_the_best_kept():
    confidence = np.full((6, 6), -5.0, np.float32)
    for n, (y, x) in enumerate([(0, 0), (0, 3), (3, 0), (3, 3), (5, 5)]):
        confidence[y, x] = 1.0 + n
    outputs = Outputs(
        jnp.tile(jnp.array([0.0, 9.0]), (6, 6, 1)), jnp.arange(36.0).reshape(6, 6, 1), jnp.asarray(confidence)
    )
    groups = group(outputs, jnp.ones((6, 6), bool), 2, THRESHOLDS)
    assert int(groups.peaks.lost) == 3
    assert groups.peaks.element.tolist() == [[5, 5], [3, 3]]


def test_a_dropped_duplicate_leaves_no_gap():
    logits = np.full((4, 8), -5.0, np.float32)
    logits[0, 0], logits[0, 3], logits[0, 6] = 3.0, 2.0, 1.0
    embedding = np.zeros((4, 8, 2), np.float32)
    embedding[:, 5:] = 5.0  # the third center is another object; the second repeats the first
    outputs = Outputs(jnp.tile(jnp.array([0.0, 9.0]), (4, 8, 1)), jnp.asarray(embedding), jnp.asarray(logits))
    groups = group(outputs, jnp.ones((4, 8), bool), 4, THRESHOLDS)
    assert groups.peaks.valid.tolist() == [True, True, False, False]
    expected = np.where(np.arange(8) < 5, 1, 2)
    np.testing.assert_array_equal(groups.ids, np.tile(expected, (4, 1)))


def test_padding_belongs_to_nothing():
    """A frame of 5 x 6 in a 16 x 16 canvas: elements beyond it find no center and count in no area."""
    capacity = Capacity(4, 4, None, 16)
    plan = segment.geometry((5, 6), capacity)
    canvas = jnp.zeros((16, 16, 3), jnp.uint8)
    assignment = assign(canvas, plan, capacity, THRESHOLDS)
    outputs = Outputs(jnp.tile(jnp.array([0.0, 9.0]), (4, 4, 1)), jnp.zeros((4, 4, 2)), jnp.full((4, 4), 3.0))
    found = finish(outputs, assignment, plan, capacity, THRESHOLDS)
    assert found.semantic.shape == (5, 6)
    assert found.instances.area.tolist() == [30, 0, 0, 0]
    assert found.instances.box[0].tolist() == [0, 0, 5, 6]


def test_no_pixel_belongs_to_a_cell_of_the_padding():
    """A bright last row and column look like the padding, which repeats them, and unlike the middles of their cells."""
    bright = np.full((20, 36, 3), 30, np.uint8)
    bright[-1], bright[:, -1] = 255, 255
    capacity = Capacity(4, 4, None, 16)
    plan = segment.geometry((20, 36), capacity)
    _, canvases = segment.inputs(jnp.asarray(bright[None]), plan)
    assignment = assign(canvases[0], plan, capacity, THRESHOLDS)
    outputs = Outputs(jnp.tile(jnp.array([0.0, 9.0]), (8, 12, 1)), jnp.zeros((8, 12, 2)), jnp.full((8, 12), 3.0))
    found = finish(outputs, assignment, plan, capacity, THRESHOLDS)
    assert (found.semantic == 1).all()
    assert (found.instance == 1).all()
    assert found.instances.area.tolist() == [720, 0, 0, 0]
    assert (np.asarray(assignment) == segment.OUTSIDE).sum() == 32 * 48 - 720


def test_compactness_follows_the_resolution():
    """The same picture at twice the size has the same superpixels, drawn with larger pixels."""
    small, capacity = frame(5, (32, 32)), Capacity(4, 4, (32, 32))
    large = small.repeat(2, 0).repeat(2, 1)
    small, large = jnp.asarray(small), jnp.asarray(large)
    plans = [segment.geometry(image.shape[:2], capacity) for image in (small, large)]
    a, b = (assign(i, p, capacity, THRESHOLDS) for i, p in zip((small, large), plans, strict=True))
    assert (np.asarray(b)[::2, ::2] == np.asarray(a)).mean() > 0.9


def test_an_enlarged_canvas_gives_back_every_pixel():
    """An image of random pixels on its canvas, and the canvas on the frame: each pixel of the frame is on it."""
    capacity = Capacity(4, 4, (32, 48))
    for size in ((45, 77), (64, 50), (95, 143)):
        plan = segment.geometry(size, capacity)
        assert plan.resized
        frames = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
        _, canvases = segment.inputs(jnp.asarray(frames), plan)
        assert canvases.shape == (1, *plan.canvas, 3)
        np.testing.assert_array_equal(jax.image.resize(canvases, frames.shape, "nearest"), frames)


def test_masks_of_a_frame_that_the_grid_does_not_divide_follow_its_pixels():
    """A square whose edges lie between those of the network's pixels comes back as it is; at that size it would not."""
    image, instance = np.full((90, 140, 3), 30, np.uint8), np.zeros((90, 140), np.uint16)
    instance[21:66, 33:100] = 1
    image[instance > 0] = 220
    capacity = Capacity(4, 4, (32, 48))
    plan = segment.geometry((90, 140), capacity)
    coarse = plan._replace(canvas=plan.network, cell=4)
    shares = []
    for chosen in (plan, coarse):
        _, canvases = segment.inputs(jnp.asarray(image[None]), chosen)
        labels = jax.image.resize(instance, chosen.canvas, "nearest")
        assignment = assign(canvases[0], chosen, capacity, THRESHOLDS)
        truth = make(labels.astype(jnp.uint8), labels, assignment, chosen.cell, 4, style="point", radius=1.0)
        found = finish(oracle(truth, 2), assignment, chosen, capacity, THRESHOLDS)
        shares.append((np.asarray(found.instance) != instance).sum())
    assert shares[0] == 4, "the corners, which the median takes"
    assert shares[1] > 20


def test_upsampling_is_the_superpixels():
    image, _, _ = scene()
    plan = segment.geometry((48, 64), Capacity(5, 4, None, 16))
    assignment = assign(image, plan, Capacity(5, 4, None, 16), THRESHOLDS)
    np.testing.assert_array_equal(assignment, superpixels.assign(image, 4, 3.0))


@pytest.mark.parametrize("as_printed", [False, True])
def test_stuff_is_predicted_and_belongs_to_no_object(as_printed):
    """Every element is a confident center of its class; those of stuff found no object all the same."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, (12, 16))
    outputs = Outputs(
        40.0 * jax.nn.one_hot(classes, 4),
        jnp.asarray(rng.normal(size=(12, 16, 4)), jnp.float32),
        9.0 * jnp.ones((12, 16)),
    )
    inside = jnp.ones((12, 16), bool)
    groups = group(outputs, inside, 64, THRESHOLDS, stuff=(2,), as_printed=as_printed)
    free = group(outputs, inside, 64, THRESHOLDS, as_printed=as_printed)
    alone = np.asarray(groups.ids) > -1 if as_printed else np.asarray(groups.ids) == 0
    assert alone.any()
    np.testing.assert_array_equal(np.asarray(groups.classes)[alone], classes[alone])
    np.testing.assert_array_equal(np.asarray(groups.classes)[classes == 2], 2)
    assert np.asarray(free.ids)[classes == 2].any()
    assert not np.asarray(groups.ids)[classes == 2].any()
    assert set(np.asarray(groups.peaks.class_id)[np.asarray(groups.peaks.valid)]) == {1, 3}
    if as_printed:  # What is no stuff is grouped as before.
        np.testing.assert_array_equal(np.asarray(groups.ids)[classes != 2] > 0, np.asarray(free.ids)[classes != 2] > 0)


@pytest.mark.parametrize("size", [(45, 61), (96, 128), (50, 75)])
def test_the_anatomy_is_what_the_result_was_made_of(tiny, size):
    """Each pixel has the class of its superpixel's grid element, whether the canvas was padded, enlarged or resized."""
    network, variables = tiny
    capacity = Capacity(6, 4, None if size == (45, 61) else (48, 64), 16)
    take_apart = jax.jit(segment.anatomy, static_argnums=(0, 3))
    parts = jax.device_get(take_apart(network, variables, frame(3, size), capacity, THRESHOLDS))
    whole = segment.jitted(network, variables, frame(3, size), capacity, THRESHOLDS)
    np.testing.assert_array_equal(parts.found.instance, whole.instance)
    assert parts.superpixels.shape == size
    classes = parts.outputs.semantic.argmax(-1)
    assert len(np.unique(classes)) > 1
    alone = np.asarray(whole.instance) == 0
    assert alone.any()
    np.testing.assert_array_equal(classes.ravel()[parts.superpixels][alone], np.asarray(whole.semantic)[alone])
    members = np.asarray(whole.instance)[~alone] - 1
    np.testing.assert_array_equal(whole.instances.class_id[members], np.asarray(whole.semantic)[~alone])


def test_objects_whose_centers_touch_are_told_apart():
    """One blob over the threshold with two maxima, of objects whose embeddings differ: as printed one, here two."""
    confidence = np.full((8, 16), 0.05, np.float32)
    confidence[3:6, 4:12] = 0.7
    confidence[4, 5], confidence[4, 10] = 0.9, 0.95
    embedding = np.zeros((8, 16, 2), np.float32)
    embedding[:, 8:] = 3.0
    outputs = Outputs(
        jnp.asarray(np.broadcast_to(np.array([0.0, 4.0], np.float32), (8, 16, 2))),
        jnp.asarray(embedding),
        jnp.asarray(np.log(confidence / (1 - confidence))),
    )
    inside = jnp.ones((8, 16), bool)
    groups, printed = (group(outputs, inside, 4, THRESHOLDS, as_printed=way) for way in (False, True))
    assert groups.peaks.element[:2].tolist() == [[4, 10], [4, 5]]
    assert groups.peaks.valid.tolist() == [True, True, False, False]
    np.testing.assert_array_equal(np.asarray(groups.ids), np.where(np.arange(16) < 8, 2, 1)[None].repeat(8, 0))
    assert printed.peaks.valid.sum() == 1
    assert (np.asarray(printed.ids) > 0).mean() == 0.5, "the other object's elements lie too far"


def naive_vote(logits, ids):
    """The class that the elements of each object say most, each as loud as it is sure, and its votes per element."""
    found = {}
    for i in set(ids.ravel().tolist()) - {0}:
        votes = np.zeros(logits.shape[-1])
        for z in np.float64(logits[ids == i]):
            votes[z.argmax()] += np.exp(z.max()) / np.exp(z).sum()
        found[i] = (votes.argmax(), votes.max() / (ids == i).sum())
    return found


@pytest.mark.parametrize("stuff", [(), (3,)])
@pytest.mark.parametrize("seed", range(3))
def test_objects_vote_on_their_class(seed, stuff):
    """Two centers of two classes that lie near one another are one object, of the class that its elements are most."""
    rng = np.random.default_rng(seed)
    height, width = 10, 14
    embedding = np.zeros((height, width, 2), np.float32)
    embedding[:, 7:] = 5.0  # two objects, side by side
    embedding += rng.normal(0, 0.05, embedding.shape)
    logits = rng.normal(0, 2, (height, width, 5)).astype(np.float32)
    logits[..., 0] -= 1
    center = np.full((height, width), -9.0, np.float32)
    center[2, 2], center[6, 4], center[5, 10] = 3.0, 2.0, 1.0
    for place, kind in (((2, 2), 1), ((6, 4), 2), ((5, 10), 4)):
        logits[place] = 6.0 * np.eye(5)[kind]
    outputs = Outputs(jnp.asarray(logits), jnp.asarray(embedding), jnp.asarray(center))
    inside = jnp.ones((height, width), bool)
    groups = group(outputs, inside, 6, THRESHOLDS.replace(duplicate=1.0), stuff=stuff)
    assert groups.peaks.valid.sum() == 2, "of the two centers on the left one is kept"
    ids, classes = np.asarray(groups.ids), np.asarray(groups.classes)
    for i, (kind, share) in naive_vote(logits, ids).items():
        assert groups.peaks.class_id[i - 1] == kind
        assert (classes[ids == i] == kind).all()
        np.testing.assert_allclose(groups.score[i - 1], groups.peaks.score[i - 1] * share, rtol=1e-5)
    argmax, joined = logits.argmax(-1), ids > 0
    assert (argmax[joined] != classes[joined]).any(), "some elements are overruled"
    np.testing.assert_array_equal(classes[~joined], argmax[~joined])
    things = (argmax > 0) & ~np.isin(argmax, stuff)
    np.testing.assert_array_equal(joined, things, err_msg="elements of a class with instances join, no other does")
    apart = group(outputs, inside, 6, THRESHOLDS.replace(duplicate=1.0), stuff=stuff, as_printed=True)
    assert apart.peaks.valid.sum() == 3, "the paper's way has one object of each class"
    np.testing.assert_array_equal(apart.classes, argmax)
