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
    ids = {int(i): int(example.semantic[example.instance == i][0]) for i in np.unique(example.instance)[1:]}
    for seed in range(20):
        image, semantic, instance, name = augment.augment(
            np.random.default_rng(seed), example, Data(crop=crop, augment=EVERYTHING)
        )
        assert (image.shape, image.dtype) == ((*crop, 3), np.uint8)
        assert (semantic.shape, semantic.dtype) == (crop, np.uint8)
        assert (instance.shape, instance.dtype) == (crop, np.uint16)
        assert image.flags.c_contiguous
        assert name == example.name
        assert set(np.unique(semantic)) <= set(np.unique(example.semantic)) | {255}
        for i in np.unique(instance)[1:]:
            assert set(np.unique(semantic[instance == i])) == {ids[int(i)]}


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
    augment.augment(np.random.default_rng(0), example, Data(crop=(64, 96), augment=EVERYTHING))
    assert _equal(example, Example(*before))


def test_crop_moves_image_and_labels_together():
    example = _coded(40, 60)
    for seed in range(20):
        cut = augment.random_crop(np.random.default_rng(seed), example, (16, 24))
        y, x = cut.image[..., 0].astype(int), cut.image[..., 1].astype(int)
        np.testing.assert_array_equal(cut.instance, 1 + y * 60 + x)
        assert cut.semantic.shape == (16, 24)


def test_crops_show_a_lone_small_object_at_least_half_of_the_time():
    instance = np.zeros((200, 200), np.uint16)
    instance[150:153, 20:23] = 7
    example = Example(np.zeros((200, 200, 3), np.uint8), np.zeros((200, 200), np.uint8), instance)
    shown = [augment.random_crop(np.random.default_rng(s), example, (32, 32)).instance.any() for s in range(200)]
    assert 0.4 < np.mean(shown) < 0.65


def test_crop_of_an_image_without_objects():
    empty = Example(np.zeros((50, 50, 3), np.uint8), np.zeros((50, 50), np.uint8), np.zeros((50, 50), np.uint16))
    assert augment.random_crop(np.random.default_rng(0), empty, (20, 60)).semantic.shape == (20, 50)


def test_padding_is_black_ignored_and_without_objects():
    example = _coded(10, 12)
    image, semantic, instance, _ = augment.random_pad(np.random.default_rng(0), example, (16, 12))
    padding = instance == 0
    assert padding.sum() == 6 * 12
    assert not image[padding].any()
    assert (semantic[padding] == 255).all()
    np.testing.assert_array_equal(semantic[~padding], example.semantic.ravel())


def test_padding_stays_black_under_color_changes():
    data = Data(crop=(32, 32), augment=Augment(brightness=0.9))
    image, semantic, _, _ = augment.augment(np.random.default_rng(3), _coded(10, 12), data)
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


def test_scale_stays_in_its_range(example):
    rng = np.random.default_rng(0)
    heights = [augment.random_scale(rng, example, (0.5, 2.0)).semantic.shape[0] for _ in range(60)]
    assert 32 <= min(heights) < 40
    assert 108 < max(heights) <= 128
    assert augment.random_scale(rng, example, (1.0, 1.0)) is example


def test_scales_are_relative_to_the_size_that_the_network_sees(example):
    rng = np.random.default_rng(0)
    assert augment.random_scale(rng, example, (1.0, 1.0), (32, 64)).semantic.shape == (32, 64)
    heights = [augment.random_scale(rng, example, (0.5, 2.0), (32, 64)).semantic.shape[0] for _ in range(60)]
    assert 16 <= min(heights) < 24
    assert 40 < max(heights) <= 64


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
