"""What pictures must show: every object apart from its neighbors, ignored pixels hatched, the input untouched."""

import functools

import jax
import numpy as np
import pytest
from skimage.color import rgb2lab

from jaxseg import visualize
from jaxseg.types import ClassList, Instances, Outputs, Segmentation
from jaxseg.visualize import colors

NAMES = ClassList(("background", "person", "car"))


def _instances(class_id, score=0.5, track_id=0):
    n = len(class_id)
    return Instances(
        valid=np.ones(n, bool),
        class_id=np.array(class_id, np.uint8),
        score=np.full(n, score, np.float32),
        center=np.zeros((n, 2), np.float32),
        box=np.zeros((n, 4), np.int32),
        area=np.zeros(n, np.int32),
        embedding=np.zeros((n, 2), np.float32),
        track_id=np.broadcast_to(np.asarray(track_id, np.int32), (n,)),
    )


def _checkers(cells=4, size=60):
    """A gray image under a board of touching objects, ids 1 to cells squared."""
    instance = np.kron(np.arange(1, cells * cells + 1).reshape(cells, cells), np.ones((size, size), int))
    return np.full((*instance.shape, 3), 128, np.uint8), np.ones(instance.shape, np.uint8), instance


def _middles(picture, cells=4, size=60):
    """The color at a quarter of each cell, away from text and outlines."""
    return picture[size // 4 :: size, size // 4 :: size].reshape(cells * cells, 3).astype(int)


def test_colors_of_the_palette_are_distinct_and_do_not_depend_on_its_length():
    colors = visualize.palette(64)
    assert colors.shape == (64, 3)
    assert colors.dtype == np.uint8
    assert len(np.unique(colors, axis=0)) == 64
    np.testing.assert_array_equal(visualize.palette(9), colors[:9])
    lab = rgb2lab(colors / 255.0)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(64)
    assert distance[:9, :9].min() >= 50
    assert distance[:20, :20].min() >= 15


def test_primary_hues():
    hue, one = np.array([0.0, 1 / 3, 2 / 3]), np.ones(3)
    np.testing.assert_array_equal(colors._rgb(hue, one, one), 255 * np.eye(3))


def test_neighbors_have_clearly_different_colors():
    image, semantic, instance = _checkers()
    rng = np.random.default_rng(0)
    for _ in range(3):
        ids = np.concatenate([[0], rng.permutation(np.arange(1, 400))[:16]])
        picture = visualize.overlay(image, semantic, ids[instance], alpha=1.0)
        colors = _middles(picture).reshape(4, 4, 3)
        assert np.abs(np.diff(colors, axis=0)).sum(-1).min() >= 150
        assert np.abs(np.diff(colors, axis=1)).sum(-1).min() >= 150


def test_tracks_keep_their_color():
    image, semantic, instance = _checkers()
    tracks = np.arange(101, 117)
    order = np.random.default_rng(1).permutation(16)
    first = visualize.overlay(image, semantic, instance, _instances([1] * 16, track_id=tracks))
    second = visualize.overlay(image, semantic, instance, _instances([1] * 16, track_id=tracks[order]))
    np.testing.assert_array_equal(_middles(second), _middles(first)[order])


def test_by_class_uses_the_colors_of_the_semantic_map():
    image, semantic, instance = _checkers(2)
    picture = visualize.overlay(image, semantic, instance, _instances([1, 2, 1, 2]), by_class=True, alpha=1.0)
    np.testing.assert_array_equal(_middles(picture, 2), visualize.palette(3)[[1, 2, 1, 2]])
    truth = visualize.overlay(image, semantic * 2, instance, by_class=True, alpha=1.0)
    np.testing.assert_array_equal(_middles(truth, 2), visualize.palette(3)[[2, 2, 2, 2]])
    np.testing.assert_array_equal(visualize.semantic_colors(semantic)[0, 0], visualize.palette(2)[1])


def test_text_is_written_on_large_objects_only():
    image, semantic, instance = _checkers(3, 80)
    found = _instances([1, 2, 2, 1, 2, 2, 1, 2, 2])
    plain = visualize.overlay(image, semantic, instance, found, NAMES, labels=False)
    named = visualize.overlay(image, semantic, instance, found, NAMES)
    changed = (plain != named).any(-1)
    assert all(changed[instance == i].any() for i in range(1, 10))
    np.testing.assert_array_equal(visualize.overlay(image, semantic, instance, found), plain)
    tiny = np.zeros_like(instance)
    tiny[10:14, 10:14], tiny[100:103, 30:60] = 1, 2
    for labels in (True, False):
        picture = visualize.overlay(image, semantic, tiny, found, NAMES, labels=labels)
        np.testing.assert_array_equal(picture, visualize.overlay(image, semantic, tiny, found))


def _text(picture, other):
    """Which pixels two pictures differ at."""
    return (picture != other).any(-1)


def test_text_lies_on_its_object_and_not_on_other_text():
    """A ring around a disc has its box's middle, but its text goes to the ring; a bar has room for the name alone."""
    image, semantic, instance = _checkers(1, 240)
    y, x = np.mgrid[:240, :240] - 119.5
    instance = np.where(np.hypot(y, x) < 50, 2, np.where(np.hypot(y, x) < 110, 1, 0))
    instance[200:215, 5:30] = 3
    found = _instances([1, 2, 2])
    alone = [np.where(instance == i, instance, 0) for i in (1, 2, 3)]
    texts = []
    for map_ in (instance, *alone):
        plain = visualize.overlay(image, semantic, map_, found, NAMES, labels=False)
        texts.append(_text(visualize.overlay(image, semantic, map_, found, NAMES), plain))
    assert (instance[texts[2]] == 2).all()
    for i in (1, 3):
        assert (instance[texts[i]] == i).mean() >= 0.5
    assert sum(text.sum() for text in texts[1:]) <= 1.02 * texts[0].sum()


def test_text_stays_in_the_picture():
    """Objects cut by the border, in each corner."""
    image, semantic, _ = _checkers(1, 240)
    corners = np.zeros((240, 240), int)
    corners[:14, :25], corners[:14, -25:], corners[-14:, :25], corners[-14:, -25:] = 1, 2, 3, 4
    found = _instances([1, 1, 1, 1])
    plain = visualize.overlay(image, semantic, corners, found, NAMES, labels=False)
    text = _text(visualize.overlay(image, semantic, corners, found, NAMES), plain)
    sizes = [
        text[rows, columns].sum()
        for rows in (slice(0, 20), slice(-20, None))
        for columns in (slice(0, 80), slice(-80, None))
    ]
    assert min(sizes) > 300
    assert sum(sizes) == text.sum()


def test_tracks_are_written_in_place_of_ids():
    image, semantic, instance = _checkers(2, 120)
    draw = functools.partial(visualize.overlay, image, semantic, instance)
    found = _instances([1, 1, 2, 2])
    tracked = _instances([1, 1, 2, 2], track_id=[11, 12, 13, 0])
    outside = np.ones((240, 240), bool)
    outside[120:, 120:] = False
    names, ids = (draw(tracked, NAMES, ids=flag) for flag in (False, True))
    plain = draw(tracked, NAMES, labels=False)
    np.testing.assert_array_equal(names[outside], ids[outside])
    assert _text(ids, plain)[~outside].sum() > _text(names, plain)[~outside].sum()
    assert (
        _text(names, plain)[outside].sum() > _text(draw(found, NAMES), draw(found, NAMES, labels=False))[outside].sum()
    )


def test_what_has_no_track_gets_a_color_that_no_neighbor_has():
    image, semantic, instance = _checkers(2)
    tracked = _instances([1] * 4, track_id=[5, 0, 0, 5])
    colors = _middles(visualize.overlay(image, semantic, instance, tracked, alpha=1.0), 2)
    np.testing.assert_array_equal(colors[0], visualize.palette(6)[5])
    assert np.abs(colors[1] - colors[0]).sum() >= 150
    assert np.abs(colors[2] - colors[0]).sum() >= 150
    assert colors[1].max() > 100


def test_crowded_and_small_images_have_no_text():
    for cells, size in ((7, 60), (2, 70)):
        image, semantic, instance = _checkers(cells, size)
        named = visualize.overlay(image, semantic, instance, None, NAMES)
        np.testing.assert_array_equal(named, visualize.overlay(image, semantic, instance))


def test_ignored_pixels_are_hatched_gray_and_no_object():
    image, semantic, instance = _checkers(2)
    image = image // 128 * np.array([128, 100, 60], np.uint8)
    semantic[:30, :30] = 255
    other = instance.copy()
    other[:30, :30] = 9
    picture = visualize.overlay(image, semantic, instance)
    np.testing.assert_array_equal(picture, visualize.overlay(image, semantic, other))
    patch = picture[2:25, 2:25].astype(int)
    assert len(np.unique(patch.reshape(-1, 3), axis=0)) == 2
    alone = visualize.semantic_colors(semantic)[:30, :30].astype(int)
    assert np.ptp(alone, axis=-1).max() == 0
    assert len(np.unique(alone)) == 2


def test_inputs_stay_as_they_were_and_nothing_is_drawn_on_an_empty_map():
    image, semantic, instance = _checkers(2)
    copies = image.copy(), semantic.copy(), instance.copy()
    visualize.overlay(image, semantic, instance, _instances([1, 1, 2, 2]), NAMES)
    for before, after in zip(copies, (image, semantic, instance), strict=True):
        np.testing.assert_array_equal(before, after)
    empty = visualize.overlay(image, np.zeros_like(semantic), np.zeros_like(instance), None, NAMES)
    assert len(np.unique(empty.reshape(-1, 3), axis=0)) == 1


def test_heat_rises_in_brightness():
    picture = visualize.heatmap(np.linspace(0, 1, 11, dtype=np.float32)[None])
    assert (np.diff(picture[0].astype(int) @ [299, 587, 114]) > 0).all()
    odd = visualize.heatmap(np.array([[np.nan, -1.0, 2.0, np.inf]], np.float32))
    np.testing.assert_array_equal(odd[0], visualize.heatmap(np.array([[0.0, 0.0, 1.0, 1.0]]))[0])
    gray = np.full((1, 4, 3), 100, np.uint8)
    np.testing.assert_array_equal(visualize.heatmap(np.zeros((1, 4)), gray, alpha=0.0), gray)


def test_superpixel_edges_lie_where_ids_change():
    ids = np.repeat(np.arange(3), 4)[None].repeat(5, 0)
    picture = visualize.superpixel_edges(np.zeros((5, 12, 3), np.uint8), ids, (1, 2, 3))
    assert np.flatnonzero(picture[0].any(-1)).tolist() == [3, 7]
    assert (picture[:, 3] == [1, 2, 3]).all()


def _clusters(seed=0, dimensions=8):
    """A grid of four objects on background, each with an embedding of its own, and the objects."""
    rng = np.random.default_rng(seed)
    objects = np.zeros((12, 16), int)
    objects[1:5, 1:6], objects[6:11, 2:4], objects[2:4, 9:15], objects[7:8, 10:11] = 1, 2, 3, 9
    return rng.normal(size=(10, dimensions))[objects], objects


def test_equal_embeddings_have_equal_colors_and_others_do_not():
    embedding, objects = _clusters()
    colors = visualize.embedding_colors(embedding, objects).astype(int)
    assert colors.shape == (12, 16, 3)
    each = np.array([np.unique(colors[objects == i], axis=0) for i in (1, 2, 3, 9)])
    assert each.shape == (4, 1, 3), "one color an object"
    distance = np.abs(each - each[:, 0]).sum(-1) + 1000 * np.eye(4)
    assert distance.min() >= 100
    assert colors[objects > 0].max(-1).min() > colors[objects == 0].max()


@pytest.mark.parametrize("owned", [True, False])
def test_the_frame_of_reference_of_embeddings_does_not_matter(owned):
    embedding, objects = _clusters()
    rng = np.random.default_rng(1)
    embedding += 0.1 * rng.normal(size=embedding.shape)
    turn, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    moved = 7.0 * embedding @ turn + rng.normal(size=8)
    one, other = (visualize.embedding_colors(e, objects if owned else None) for e in (embedding, moved))
    assert np.abs(one.astype(int) - other).max() <= 1


def test_large_objects_do_not_outweigh_small_ones():
    """The grid with every element of one object repeated has the same colors."""
    embedding, objects = _clusters()
    rows = np.repeat(np.arange(12), np.where(np.arange(12) < 5, 4, 1))
    colors = visualize.embedding_colors(embedding, objects)
    np.testing.assert_allclose(visualize.embedding_colors(embedding[rows], objects[rows]), colors[rows], atol=1)


def test_embeddings_of_few_dimensions_or_without_values():
    for dimensions in (1, 2):
        colors = visualize.embedding_colors(*_clusters(dimensions=dimensions))
        assert len(np.unique(colors.reshape(-1, 3), axis=0)) == 5
    assert len(np.unique(visualize.embedding_colors(np.ones((4, 5, 8))))) == 1
    embedding, objects = _clusters()
    embedding[0, 0], embedding[2, 2] = np.nan, np.inf
    assert visualize.embedding_colors(embedding, objects).shape == (12, 16, 3)


def test_points_are_ringed():
    picture = visualize.marked(np.full((240, 240, 3), 90, np.uint8), np.array([[60.0, 60.0], [0.0, 239.0]]))
    assert (picture[60, 60] == 90).all()
    assert (picture[60, 64] > 200).all()
    assert (picture[4, 239] > 200).all()
    assert (picture[100:] == 90).all()


def _method(size, grid, centers=True):
    """A result of two objects, the outputs of a network, and superpixels that are squares."""
    instance = np.zeros(size, np.uint16)
    instance[: size[0] // 2, : size[1] // 2], instance[-(size[0] // 4) :, -(size[1] // 4) :] = 1, 2
    rows = _instances([1, 2])
    middles = [np.argwhere(instance == i).mean(0) for i in (1, 2)]
    box = [[0, 0, size[0] // 2, size[1] // 2], [*np.subtract(size, np.floor_divide(size, 4)), *size]]
    rows = rows.replace(center=np.array(middles), box=np.array(box), area=np.bincount(instance.ravel())[1:])
    found = Segmentation(instance.astype(np.uint8), instance, rows, np.zeros((), int))
    rng = np.random.default_rng(0)
    center = np.full(grid, -np.inf) if not centers else rng.normal(size=grid)
    outputs = Outputs(np.zeros((*grid, 3)), rng.normal(size=(*grid, 4)), center)
    y, x = (np.arange(n) * g // n for n, g in zip(size, grid, strict=True))
    return found, outputs, y[:, None] * grid[1] + x[None]


@pytest.mark.parametrize(
    ("size", "grid", "side", "view"),
    [
        ((128, 256), (32, 64), 768, (384, 768)),  # Enlarged by whole factors ...
        ((100, 70), (28, 20), 250, (200, 140)),
        ((512, 1024), (128, 256), 256, (128, 256)),  # ... shrunk by any.
    ],
)
def test_views_are_one_picture_of_six(size, grid, side, view):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    before = image.copy()
    picture = visualize.views(image, *_method(size, grid), NAMES, side=side)
    bar = 2 * max(12, round(max(view) / 48))
    assert picture.shape == (2 * (bar + view[0]) + 8, 3 * view[1] + 16, 3)
    np.testing.assert_array_equal(image, before)
    for row in (0, 1):
        for column in range(3):
            top, left = row * (bar + view[0] + 8), column * (view[1] + 8)
            assert (picture[top : top + bar, left : left + 30] > 150).any(), "a title"
            assert len(np.unique(picture[top + bar : top + bar + view[0], left : left + view[1]])) > 1


def test_views_without_centers_and_superpixels():
    image = np.full((40, 60, 3), 90, np.uint8)
    picture = visualize.views(image, *_method((40, 60), (10, 15), centers=False), NAMES, side=60)
    assert picture.shape == (2 * (24 + 40) + 8, 2 * 60 + 8, 3)
    np.testing.assert_array_equal(picture[24:64, :60], image)


def test_views_mark_the_centers_that_were_found():
    image = np.full((120, 240, 3), 90, np.uint8)
    found, outputs, superpixels = _method((120, 240), (30, 60))
    none = found.replace(instances=found.instances.replace(valid=np.zeros(2, bool)))
    draw = [visualize.views(image, result, outputs, superpixels, NAMES, side=480) for result in (found, none)]
    changed = (draw[0] != draw[1]).any(-1)[24 + 240 + 8 + 24 :, :480]
    middles = 2 * found.instances.center
    assert changed.any()
    y, x = np.nonzero(changed)
    away = np.hypot(y[:, None] - middles[:, 0], x[:, None] - middles[:, 1])
    assert away.min(1).max() < 12
    assert set(away.argmin(1)) == {0, 1}


def test_views_of_nothing():
    """No object, and a confidence that is certain: nothing divides by zero, nothing overflows."""
    image = np.full((40, 60, 3), 90, np.uint8)
    found, outputs, superpixels = _method((40, 60), (10, 15))
    found = jax.tree.map(np.zeros_like, found)
    outputs = outputs.replace(center=np.full((10, 15), -1e4), embedding=np.zeros((10, 15, 4)))
    assert visualize.views(image, found, outputs, superpixels, NAMES, side=60).shape[1] == 3 * 60 + 16


def test_side_by_side_places_images_under_titles():
    one, two = np.full((40, 50, 3), 200, np.uint8), np.full((30, 20, 3), 90, np.uint8)
    plain = visualize.side_by_side([one, two], gap=4)
    assert plain.shape == (40, 74, 3)
    np.testing.assert_array_equal(plain[:, :50], one)
    np.testing.assert_array_equal(plain[:30, 54:], two)
    titled = visualize.side_by_side([one, two], ["truth", "found"], gap=4)
    np.testing.assert_array_equal(titled[-40:], plain)
    assert (titled[:-40, :50] > 100).any()
    assert (titled[:-40, 54:] > 100).any()


def test_errors_name_the_argument():
    image, semantic, instance = _checkers(2)
    with pytest.raises(ValueError, match="`semantic` and `instance` must have the image's shape"):
        visualize.overlay(image, semantic[1:], instance)
    with pytest.raises(ValueError, match="`n` must be at least 1: got 0"):
        visualize.palette(0)
    with pytest.raises(ValueError, match="`titles` must be none or one an image: got 1 with 2 images"):
        visualize.side_by_side([image, image], ["one"])
