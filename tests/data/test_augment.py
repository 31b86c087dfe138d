"""Augmentation: laws that images and labels obey together."""

import numpy as np
import pytest

from jaxseg.config import Augment, Data
from jaxseg.data import Example, augment, shapes

EVERYTHING = Augment(
    scale=(0.5, 2.0),
    flip_horizontal=True,
    flip_vertical=True,
    transpose=True,
    brightness=0.2,
    contrast=0.2,
    saturation=0.3,
    hue=0.1,
)
NOTHING = Augment(flip_horizontal=False)


@pytest.fixture
def example() -> Example:
    return shapes.generate(0, "train", 1, (64, 96))


def _coded(height: int, width: int) -> Example:
    """Pixels that say where they come from: red is the row, green the column, and labels repeat it."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([y, x, y + x], axis=-1).astype(np.uint8)
    return Example(image, (y % 7 + 1).astype(np.uint8), (1 + y * width + x).astype(np.uint16), "coded")


def _equal(a: Example, b: Example) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


@pytest.mark.parametrize("crop", [(32, 32), (64, 96), (80, 48), (128, 160)])
def test_result_has_the_crops_size_and_legal_labels(example, crop):
    classes = set(np.unique(example.semantic[example.instance > 0]))
    for seed in range(20):
        image, semantic, instance, name, full = augment.augment(
            np.random.default_rng(seed), example, Data(crop=crop, augment=EVERYTHING)
        )
        assert (image.shape, image.dtype) == ((*crop, 3), np.uint8)
        assert (semantic.shape, semantic.dtype) == (crop, np.uint8)
        assert (instance.shape, instance.dtype) == (crop, np.uint16)
        assert image.flags.c_contiguous
        assert semantic.flags.c_contiguous
        assert instance.flags.c_contiguous
        assert name == example.name
        assert full is None
        assert set(np.unique(semantic)) <= set(np.unique(example.semantic)) | {255}
        ids = np.unique(instance[instance > 0])
        np.testing.assert_array_equal(ids, 1 + np.arange(len(ids)))
        for i in ids:
            (class_id,) = np.unique(semantic[instance == i])
            assert class_id in classes


def test_one_generator_state_one_result(example):
    data = Data(crop=(48, 48), augment=EVERYTHING)
    first, again, other = (augment.augment(np.random.default_rng(seed), example, data) for seed in (1, 1, 2))
    assert _equal(first, again)
    assert not _equal(first, other)


def test_nothing_switched_on_changes_nothing(example):
    same = augment.augment(np.random.default_rng(0), example, Data(crop=(64, 96), augment=NOTHING))
    assert _equal(same, example)


def test_input_is_left_alone(example):
    before = [array.copy() for array in example[:3]]
    for array in example[:3]:
        array.flags.writeable = False
    for seed in range(20):
        for crop in ((64, 96), (40, 30)):
            augment.augment(np.random.default_rng(seed), example, Data(crop=crop, augment=EVERYTHING))
    assert _equal(example, Example(*before))


def test_the_generators_state_and_the_arguments_decide_alone(example):
    rng, data = np.random.default_rng(5), Data(crop=(48, 48), augment=EVERYTHING)
    state = rng.bit_generator.state
    first = augment.augment(rng, example, data)
    augment.augment(rng, _coded(50, 50), data)
    rng.bit_generator.state = state
    assert _equal(augment.augment(rng, example, data), first)


def test_crop_moves_image_and_labels_together():
    example = _coded(40, 60)
    for seed in range(20):
        cut = augment.random_crop(np.random.default_rng(seed), example, (16, 24))
        y, x = cut.image[..., 0].astype(int), cut.image[..., 1].astype(int)
        np.testing.assert_array_equal(cut.semantic, y % 7 + 1)
        # Ids in the order of the old ones: here of rows, then of columns.
        np.testing.assert_array_equal(cut.instance, 1 + (y - y[0, 0]) * 24 + (x - x[0, 0]))
        assert cut.semantic.shape == (16, 24)


@pytest.mark.parametrize("scaled", [(60, 90), (77, 113), (120, 180), (33, 200)])
def test_a_scaled_crop_is_a_window_of_the_scaled_example(scaled):
    """Smooth coordinates survive resizing: the window's are those of the scaled image, but for less than a pixel."""
    y, x = np.mgrid[:60, :90]
    image = np.stack([2 * y, 2 * x, y + x], axis=-1).astype(np.uint8)
    example = Example(image, image[..., 0] // 2, image[..., 1].astype(np.uint16) // 2 + 1)
    for seed in range(10):
        cut = augment.random_crop(np.random.default_rng(seed), example, (32, 48), scaled)
        assert cut.semantic.shape == (32, 48)
        shown_y, shown_x = cut.image[..., 0] / 2, cut.image[..., 1] / 2
        assert np.abs(shown_y - cut.semantic).max() <= 1
        # Columns are numbered from the first one shown.
        assert np.abs(shown_x - shown_x[0, 0] - (cut.instance - 1.0)).max() <= 1.5
        steps = shown_y[-1, 0] - shown_y[0, 0], shown_x[0, -1] - shown_x[0, 0]
        np.testing.assert_allclose(steps, (31 * 60 / scaled[0], 47 * 90 / scaled[1]), atol=1.1)


def test_no_place_is_cut_more_often_than_another():
    example = _coded(1, 41)._replace(instance=np.zeros((1, 41), np.uint16))
    starts = [int(augment.random_crop(np.random.default_rng(s), example, (1, 40)).image[0, 0, 1]) for s in range(200)]
    assert 70 < sum(starts) < 130


def test_crops_show_a_lone_small_object_at_least_half_of_the_time():
    instance = np.zeros((200, 200), np.uint16)
    instance[150:153, 20:23] = 7
    marked = (instance > 0).astype(np.uint8)[..., None].repeat(3, -1)
    example = Example(marked, np.zeros((200, 200), np.uint8), instance)
    shown = [augment.random_crop(np.random.default_rng(s), example, (32, 32)).image.any() for s in range(200)]
    assert 0.4 < np.mean(shown) < 0.65


def test_crop_of_an_image_without_objects():
    empty = Example(np.zeros((50, 50, 3), np.uint8), np.zeros((50, 50), np.uint8), np.zeros((50, 50), np.uint16))
    assert augment.random_crop(np.random.default_rng(0), empty, (20, 60)).semantic.shape == (20, 50)


def _column(*objects: tuple[int, int, int]) -> Example:
    """One column of pixels with objects (id, first row, last row), all of class 3."""
    instance = np.zeros((100, 1), np.uint16)
    for i, first, last in objects:
        instance[first : last + 1] = i
    semantic = np.where(instance > 0, 3, 0).astype(np.uint8)
    return Example(np.arange(100, dtype=np.uint8)[:, None, None].repeat(3, -1), semantic, instance)


def test_tiny_remains_of_what_the_crop_cut_are_ignored():
    """Object 9 is cut, object 4 is small but whole wherever it is shown in full."""
    example = _column((9, 0, 49), (4, 60, 65))
    seen = set()
    for seed in range(300):
        cut = augment.random_crop(np.random.default_rng(seed), example, (50, 1))
        rows = cut.image[:, 0, 0].astype(int)
        large, small = rows <= 49, (rows >= 60) & (rows <= 65)
        remains, whole = 0 < large.sum() < augment.REMAINS, small.sum() == 6
        ignored = (large if remains else np.zeros(50, bool)) | (small if not whole else np.zeros(50, bool))
        np.testing.assert_array_equal(cut.semantic[:, 0] == 255, ignored)
        np.testing.assert_array_equal(cut.instance[:, 0] > 0, (large | small) & ~ignored)
        assert (cut.semantic[cut.instance > 0] == 3).all()
        seen.add((bool(remains), bool(whole), bool(large.sum() >= augment.REMAINS)))
    assert {(True, True, False), (False, False, True), (False, True, True)} <= seen


@pytest.mark.parametrize(("left", "kept"), [(augment.REMAINS - 1, False), (augment.REMAINS, True)])
def test_as_many_pixels_as_an_element_of_the_grid_are_an_object(left, kept):
    # Both windows of 99 rows are tried; one of them cuts the object's first pixel off.
    example = _column((5, 0, left))
    cuts = [augment.random_crop(np.random.default_rng(s), example, (99, 1)) for s in range(20)]
    (cut, *_) = [c for c in cuts if c.image[0, 0, 0] == 1]
    assert (cut.instance == 1).sum() == (left if kept else 0)
    assert (cut.semantic == 255).sum() == (0 if kept else left)


def test_what_only_scaling_made_small_is_not_ignored():
    shrunk = augment.random_crop(np.random.default_rng(0), _column((5, 10, 29)), (50, 1), (25, 1))
    assert (shrunk.instance == 1).sum() == 5
    assert not (shrunk.semantic == 255).any()


@pytest.mark.parametrize("highest", [0, 1, 300, 65535])
def test_pixels_of_each_id_are_counted(highest):
    instance = np.random.default_rng(0).integers(0, highest + 1, (50, 70)).astype(np.uint16)
    instance[20, 30] = highest
    for part in (instance, instance[10:30, 20:41]):
        np.testing.assert_array_equal(augment.count(part), np.bincount(part.ravel()))


def test_ids_are_renumbered_without_gaps_in_their_order():
    instance = np.array([[0, 900, 900, 17], [65535, 65535, 17, 0]], np.uint16)
    example = Example(np.zeros((2, 4, 3), np.uint8), np.full((2, 4), 2, np.uint8), instance, "few")
    pixels = augment.count(instance)
    new = augment.identify(example, pixels)
    np.testing.assert_array_equal(new.instance, [[0, 2, 2, 1], [3, 3, 1, 0]])
    assert new.instance.dtype == np.uint16
    assert new.semantic is example.semantic
    without = augment.identify(example, pixels, [900])
    np.testing.assert_array_equal(without.instance, [[0, 0, 0, 1], [2, 2, 1, 0]])
    np.testing.assert_array_equal(without.semantic, [[2, 255, 255, 2], [2, 2, 2, 2]])
    assert augment.identify(new, augment.count(new.instance)) is new


def test_padding_is_black_ignored_and_without_objects():
    example = _coded(10, 12)
    image, semantic, instance, *_ = augment.random_pad(np.random.default_rng(0), example, (16, 12))
    padding = instance == 0
    assert padding.sum() == 6 * 12
    assert not image[padding].any()
    assert (semantic[padding] == 255).all()
    np.testing.assert_array_equal(semantic[~padding], example.semantic.ravel())


def test_padding_stays_black_under_color_changes():
    data = Data(crop=(32, 32), augment=Augment(brightness=0.9))
    image, semantic, *_ = augment.augment(np.random.default_rng(3), _coded(10, 12), data)
    assert (semantic == 255).any()
    assert not image[semantic == 255].any()


@pytest.mark.parametrize("change", [augment.flip_horizontal, augment.flip_vertical, augment.transpose])
def test_symmetries_undo_themselves(example, change):
    assert _equal(change(change(example)), example)
    assert not _equal(change(example), example)


def test_flips_and_transpose_where_they_should_be():
    example = _coded(3, 5)
    assert augment.flip_horizontal(example).image[0, 0, 1] == 4
    assert augment.flip_vertical(example).image[0, 0, 0] == 2
    assert augment.transpose(example).instance.shape == (5, 3)


def test_mirroring_left_and_right_swaps_classes_that_have_a_side():
    semantic = np.array([[0, 1, 2, 3, 255]], np.uint8)
    example = Example(np.zeros((1, 5, 3), np.uint8), semantic, np.array([[0, 1, 2, 3, 0]], np.uint16))
    flipped = augment.flip_horizontal(example, [(1, 3)])
    np.testing.assert_array_equal(flipped.semantic, [[255, 1, 2, 3, 0]])
    np.testing.assert_array_equal(flipped.instance, [[0, 3, 2, 1, 0]])
    np.testing.assert_array_equal(augment.flip_horizontal(example).semantic, semantic[:, ::-1])
    assert _equal(augment.flip_horizontal(flipped, [(1, 3)]), example)


@pytest.mark.parametrize("change", ["flip_horizontal", "flip_vertical", "transpose"])
def test_classes_swap_where_left_and_right_are_mirrored_and_nowhere_else(change):
    coded = _coded(40, 40)
    example = coded._replace(semantic=np.where(coded.image[..., 1] < 20, 3, 2).astype(np.uint8))
    settings = Augment(**{"flip_horizontal": False, "flip_pairs": (("left", "right"),), change: True})
    data = Data(classes=("body", "left", "right"), crop=(40, 40), augment=settings)
    changed = 0
    for seed in range(12):
        image, semantic, *_ = augment.augment(np.random.default_rng(seed), example, data)
        mirrored = image[0, 0, 1] > image[0, -1, 1]
        left, right = (2, 3) if mirrored else (3, 2)
        np.testing.assert_array_equal(semantic, np.where(image[..., 1] < 20, left, right))
        assert mirrored <= (change == "flip_horizontal")
        changed += not np.array_equal(image, example.image)
    assert 0 < changed < 12


@pytest.mark.parametrize("factor", [2, 3])
def test_growing_repeats_labels(example, factor):
    height, width = example.semantic.shape
    grown = augment.resize(example, (height * factor, width * factor))
    np.testing.assert_array_equal(grown.semantic, example.semantic.repeat(factor, 0).repeat(factor, 1))
    np.testing.assert_array_equal(grown.instance, example.instance.repeat(factor, 0).repeat(factor, 1))


@pytest.mark.parametrize("side", [31, 47, 89, 101])
def test_resizing_does_not_shift_labels_against_the_image(side):
    """The mean coordinate of a mask is the same as image and as label, over masks at many places."""
    shifts = []
    for start in range(10, 24):
        mask = np.zeros((60, 60), np.uint8)
        mask[start : start + 18, start + 5 : start + 16] = 255
        resized = augment.resize(Example(mask[..., None].repeat(3, -1), mask, mask.astype(np.uint16)), (side, side))
        weight = resized.image[..., 0].astype(float)
        y, x = np.mgrid[:side, :side]
        shifts += [axis[resized.semantic > 0].mean() - (weight * axis).sum() / weight.sum() for axis in (y, x)]
    assert abs(np.mean(shifts)) < 0.1


@pytest.mark.parametrize("size", [(30, 30), (59, 32), (16, 12)])
def test_every_pixel_counts_where_an_image_shrinks(size):
    """No bright line falls between the pixels of the smaller image."""
    for line in range(10, 30):
        image = np.zeros((60, 60, 3), np.uint8)
        image[line], image[:, line] = 255, 255
        blank = np.zeros((60, 60), np.uint8)
        shrunk = augment.resize(Example(image, blank, blank.astype(np.uint16)), size).image
        assert shrunk[:, -1].any()
        assert shrunk[-1].any()


def test_scale_stays_in_its_range():
    rng = np.random.default_rng(0)
    sizes = np.array([augment.random_scale(rng, (64, 96), (0.5, 2.0)) for _ in range(60)])
    assert 32 <= sizes[:, 0].min() < 40
    assert 108 < sizes[:, 0].max() <= 128
    np.testing.assert_allclose(sizes[:, 1] / sizes[:, 0], 1.5, atol=0.03)
    assert augment.random_scale(rng, (64, 96), (1.0, 1.0)) == (64, 96)
    assert augment.random_scale(rng, (1, 1), (0.1, 0.1)) == (1, 1)


def test_scales_are_relative_to_the_size_that_the_network_sees(example):
    half = augment.augment(np.random.default_rng(0), example, Data(crop=(32, 48), augment=NOTHING), (32, 48))
    shrunk = augment.resize(example, (32, 48))
    assert _equal(half, augment.identify(shrunk, augment.count(shrunk.instance)))
    small = augment.augment(np.random.default_rng(0), example, Data(crop=(64, 96), augment=NOTHING), (16, 24))
    assert (small.semantic == 255).sum() >= 64 * 96 - 16 * 24


def test_identity_of_colors():
    np.testing.assert_allclose(augment.color_matrix(0, 1, 1, 0), np.eye(3, 4), atol=1e-12)


def test_color_changes_keep_what_they_should():
    gray = np.full((1, 1, 3), 90.0)

    def apply(rgb: np.ndarray, *change: float) -> np.ndarray:
        matrix = augment.color_matrix(*change)
        return rgb @ matrix[:, :3].T + matrix[:, 3]

    # Gray has no chroma to scale or to turn; mid-gray is the fixed point of contrast; a whole turn is none.
    np.testing.assert_allclose(apply(gray, 0, 1, 0.3, 0.4), gray, atol=0.01)
    np.testing.assert_allclose(apply(np.full(3, 127.5), 0, 1.7, 1, 0), np.full(3, 127.5))
    color = np.array([200.0, 50.0, 30.0])
    np.testing.assert_allclose(apply(color, 0, 1, 1, 1), color, atol=1e-9)
    np.testing.assert_allclose(apply(color, 0.1, 1, 1, 0), color + 25.5)
    assert np.ptp(apply(color, 0, 1, 0, 0)) < 0.01


def test_colors_saturate_instead_of_wrapping():
    white = np.full((4, 4, 3), 250, np.uint8)
    changed = [augment.random_color(np.random.default_rng(s), white, Augment(brightness=0.5)) for s in range(20)]
    assert max(c.max() for c in changed) == 255
    assert min(c.min() for c in changed) >= 250 - 128
