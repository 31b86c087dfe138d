"""Identities over time: what holds of any tracker, and what this one promises."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import track
from jaxseg.types import Instances, Matching, Segmentation, Tracks

N, D = 6, 4
LOOKS = np.random.default_rng(0).normal(size=(40, D))


def frame(objects=(), order=None, rows=N, coordinates=0.0) -> Segmentation:
    """A result that shows objects, given as (look, class, y, x) or (look, class, y, x, side), in an order of rows."""
    order = range(len(objects)) if order is None else order
    found = {
        "valid": np.zeros(rows, bool),
        "class_id": np.zeros(rows, np.uint8),
        "score": np.zeros(rows, np.float32),
        "center": np.zeros((rows, 2), np.float32),
        "box": np.zeros((rows, 4), np.int32),
        "area": np.zeros(rows, np.int32),
        "embedding": np.zeros((rows, D), np.float32),
        "track_id": np.zeros(rows, np.int32),
    }
    for (look, class_id, y, x, *rest), row in zip(objects, order, strict=True):
        side = rest[0] if rest else 20
        position = np.array([y, x, 0, 0]) / coordinates if coordinates else 0
        box = (y - side // 2, x - side // 2, y + side // 2, x + side // 2)
        values = (True, class_id, 1 / (1 + look), (y, x), box, side**2, LOOKS[look] + position, 0)
        for name, value in zip(found, values, strict=True):
            found[name][row] = value
    maps = np.zeros((4, 8), np.uint8), np.zeros((4, 8), np.uint16)
    return jax.tree.map(jnp.asarray, Segmentation(*maps, Instances(**found), np.int32(0)))


def drive(t: int, look: int) -> tuple[int, int, int, int]:
    """Where the object with a look is at a time: each on a row of its own, to and fro."""
    return (look, 1 + look % 3, 30 * look, 100 + (3 if look % 2 else -3) * t)


step = jax.jit(track.update)


def follow(frames, matching=None) -> tuple[list[list[int]], Tracks]:
    """Identities of the rows of each frame, and the last state."""
    tracks, ids = track.start(frames[0]), []
    for found in frames:
        tracks, named = step(tracks, found, matching or Matching())
        ids.append(named.instances.track_id.tolist())
    return ids, tracks


def shown(tracks: Tracks) -> dict[int, tuple]:
    """What is known about each identity but for how long it was unseen."""
    known = jax.tree.map(np.asarray, tracks.objects)
    rows = np.flatnonzero(known.valid)
    fields = ("class_id", "center", "box", "velocity", "embedding", "seen")
    return {int(known.track_id[r]): tuple(np.asarray(getattr(known, f)[r]).tolist() for f in fields) for r in rows}


def test_objects_keep_their_identities_and_rows_without_object_have_none():
    ids, tracks = follow([frame([drive(t, i) for i in range(4)]) for t in range(10)])
    assert ids == [[1, 2, 3, 4, 0, 0]] * 10
    assert int(tracks.born) == 4


def test_everything_else_stays():
    found = frame([drive(0, i) for i in range(3)])
    _, named = step(track.start(found), found)
    back = named.instances.replace(track_id=found.instances.track_id)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(named.replace(instances=back)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_order_of_rows_does_not_matter():
    rng = np.random.default_rng(1)
    plain, mixed, orders = [], [], []
    for t in range(12):
        objects = [drive(t, i) for i in range(5) if (t + i) % 4]
        orders.append(rng.permutation(N)[: len(objects)])
        plain.append(frame(objects))
        mixed.append(frame(objects, orders[-1]))
    for a, b, order in zip(follow(plain)[0], follow(mixed)[0], orders, strict=True):
        assert a[: len(order)] == [b[row] for row in order]


def test_new_identities_ascend_as_scores_fall():
    found = frame([drive(0, look) for look in (3, 0, 2)])
    assert follow([found])[0] == [[3, 1, 2, 0, 0, 0]]


def test_an_empty_frame_changes_ages_alone():
    _, before = follow([frame([drive(t, i) for i in range(4)]) for t in range(3)])
    after, named = step(before, frame())
    assert shown(before) == shown(after)
    assert not named.instances.track_id.any()
    assert int(after.born) == int(before.born)
    valid = np.asarray(after.objects.valid)
    assert np.asarray(after.objects.unseen)[valid].tolist() == [1] * 4
    assert not np.asarray(before.objects.unseen).any()


@pytest.mark.parametrize(("absent", "expected"), [(1, 1), (4, 1), (5, 1), (6, 3), (9, 3)])
def test_patience(absent, expected):
    """An object that is away for at most five frames is the same, after more it is a new one."""
    frames = [frame([drive(t, 0)] + ([drive(t, 1)] if t < 4 or t >= 4 + absent else [])) for t in range(16)]
    ids, _ = follow(frames, Matching(patience=5.0))
    assert ids[-1][:2] == [1, {1: 2, 3: 3}[expected]]
    assert all(row[0] == 1 for row in ids)


def test_without_patience_nobody_comes_back():
    frames = [frame([drive(t, 0)] if t != 3 else []) for t in range(6)]
    assert [row[0] for row in follow(frames, Matching(patience=0.0))[0]] == [1, 1, 1, 0, 2, 2]


def test_identities_are_not_given_twice():
    """Objects that look like nobody before come and go at random places."""
    rng = np.random.default_rng(2)
    frames = []
    for _ in range(60):
        count = int(rng.integers(0, N + 1))
        places = rng.integers(0, 2000, (count, 2))
        frames.append(frame([(i, int(rng.integers(1, 4)), *map(int, place)) for i, place in enumerate(places)]))
    ids, tracks = follow(frames, Matching(patience=2.0))
    first = {}
    last = {}
    for t, row in enumerate(ids):
        given = [i for i in row if i]
        assert len(given) == len(set(given))
        for i in given:
            assert t - last.get(i, t) <= 3
            first.setdefault(i, t)
            last[i] = t
    assert sorted(first) == list(range(1, int(tracks.born) + 1))
    # Who was born later has the greater number.
    assert [first[i] for i in sorted(first)] == sorted(first.values())


def test_scan_and_vmap_are_the_loop():
    streams = [[frame([drive(t + 5 * s, i) for i in range(4) if (t + s) % (i + 3)]) for t in range(12)] for s in (0, 1)]
    scenes = jax.tree.map(
        lambda *x: jnp.stack(x).reshape(12, 2, *x[0].shape), *itertools.chain(*zip(*streams, strict=True))
    )
    both = track.start(jax.eval_shape(lambda s: jax.tree.map(lambda x: x[0], s), scenes))
    assert both.objects.valid.shape == (2, 2 * N)
    run = jax.vmap(lambda tracks, found: track.update(tracks, found, Matching(patience=3.0)))

    def body(tracks, found):
        tracks, named = run(tracks, found)
        return tracks, named.instances.track_id

    scanned = jax.jit(lambda tracks, frames: jax.lax.scan(body, tracks, frames)[1])(both, scenes)
    again = [follow(frames, Matching(patience=3.0))[0] for frames in streams]
    assert [scanned[:, s].tolist() for s in (0, 1)] == again


def test_crossing_objects_of_two_classes_keep_their_identities():
    """Alike in looks, they drive through one another; in the middle their boxes are the same."""
    frames = [frame([(0, 1, 50, 20 + 4 * t), (0, 2, 50, 100 - 4 * t)], [t % 2, 1 - t % 2]) for t in range(21)]
    ids, _ = follow(frames)
    assert [[row[t % 2], row[1 - t % 2]] for t, row in enumerate(ids)] == [ids[0][:2]] * 21


def test_crossing_objects_of_two_looks_keep_their_identities():
    frames = [frame([(0, 1, 50, 20 + 4 * t), (1, 1, 50, 100 - 4 * t)], [t % 2, 1 - t % 2]) for t in range(21)]
    ids, _ = follow(frames)
    assert [[row[t % 2], row[1 - t % 2]] for t, row in enumerate(ids)] == [ids[0][:2]] * 21


def test_crossing_objects_that_nothing_tells_apart_go_straight_on():
    frames = [frame([(0, 1, 50, 20 + 6 * t), (0, 1, 54, 100 - 6 * t)], [t % 2, 1 - t % 2]) for t in range(15)]
    ids, _ = follow(frames)
    assert [[row[t % 2], row[1 - t % 2]] for t, row in enumerate(ids)] == [ids[0][:2]] * 15


def test_an_object_that_was_hidden_is_expected_where_it_drives_to():
    """Two alike in a column, one hidden for ten frames while it drives on, past where the other stands."""
    moving = [(0, 1, 50, 20 + 6 * t) for t in range(30)]
    frames = [frame([(0, 1, 90, 100), *([] if 10 <= t < 20 else [moving[t]])]) for t in range(30)]
    ids, _ = follow(frames)
    assert {tuple(row[:2]) for row in ids[:10] + ids[20:]} == {tuple(ids[0][:2])}


def test_a_class_that_flickers_keeps_its_identity_unless_that_is_forbidden():
    frames = [frame([(0, 2 if t == 5 else 1, 50, 50 + t)]) for t in range(9)]
    assert [row[0] for row in follow(frames)[0]] == [1] * 9
    assert [row[0] for row in follow(frames, Matching(change=1.0))[0]] == [1, 1, 1, 1, 1, 2, 1, 1, 1]


def test_full_memory_forgets_the_longest_unseen_and_goes_on():
    """Each frame brings two new objects far from all others; 2 N are known, the last frame's among them."""
    pairs = [frame([(2 * t, 1, 0, 1000 * t), (2 * t + 1, 1, 5000, 1000 * t)]) for t in range(8)]
    ids, tracks = follow(pairs)
    assert [row[:2] for row in ids] == [[2 * t + 1, 2 * t + 2] for t in range(8)]
    assert sorted(shown(tracks)) == list(range(9, 17))
    again = frame([(0, 1, 0, 0), (8, 1, 0, 4000)])
    assert step(tracks, again)[1].instances.track_id[:2].tolist() == [17, 9]


def test_full_frames_keep_their_identities():
    ids, _ = follow([frame([drive(t, i) for i in range(N)]) for t in range(5)])
    assert ids == [list(range(1, N + 1))] * 5


def test_position_in_embeddings_is_taken_out():
    """Fast objects: with position in it, their embedding changes by 3 units a frame."""
    objects = [[(0, 1, 50, 20 + 12 * t), (1, 1, 50, 400 - 12 * t)] for t in range(31)]
    plain, _ = follow([frame(scene) for scene in objects])
    located = [frame(scene, coordinates=4.0) for scene in objects]
    assert follow(located, Matching(coordinates=4.0))[0] == plain
    assert follow(located, Matching(embedding=0.5))[0] != plain


def test_other_numbers_compile_nothing():
    found, traced = frame([drive(0, 0)]), []

    @jax.jit
    def run(tracks, found, matching):
        traced.append(matching)
        return track.update(tracks, found, matching)

    tracks, named = run(track.start(found), found, Matching())
    run(tracks, named, Matching(0.5, 0.1, 0.4, 1.0, 0.0, 3.0, 1.0, 1.0, 8.0))
    assert len(traced) == 1


def test_a_state_has_one_shape_always():
    found = frame([drive(0, i) for i in range(3)])
    begun = jax.eval_shape(track.start, found)
    after, named = jax.eval_shape(track.update, begun, found)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, (begun, found), (after, named))
    )


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 3), (1, 1), (2, 1)])
def test_pairs_are_those_of_one_greedy_choice_after_the_other(shape):
    """Some pairs are forbidden; in every other case many costs are equal, and the first row, then column, counts."""
    rng = np.random.default_rng(3)
    run = jax.jit(track.assign)
    for case in range(40):
        cost = rng.random(shape) if case % 2 else rng.integers(0, 4, shape) / 4
        cost = np.where(rng.random(shape) < 0.3, np.inf, cost).astype(np.float32)
        expected, left = np.full(shape[1], -1), cost.copy()
        while np.isfinite(left).any():
            row, column = np.unravel_index(left.argmin(), shape)
            expected[column], left[row], left[:, column] = row, np.inf, np.inf
        np.testing.assert_array_equal(run(jnp.asarray(cost)), expected)


def test_costs_are_the_formula():
    """One known object, two frames unseen, that moved by (0, 5) a frame; one row two pixels off, another far away."""
    looks = np.eye(D, dtype=np.float32)
    frames = [frame([(0, 1, 40, 40 + 5 * t)]) for t in range(4)]
    _, tracks = follow([*frames, frame(), frame()])
    known = tracks.objects
    rows = frame([(0, 2, 42, 70), (1, 1, 400, 400)]).instances
    rows = rows.replace(embedding=known.embedding[:1] + 0.5 * looks[np.array([0, 1, 2, 2, 2, 2])])
    row = int(np.flatnonzero(np.asarray(known.valid))[0])
    cost = track.costs(known, rows, Matching(overlap=0.3, embedding=0.2, drift=0.2, change=0.1, slack=0.5))
    iou = 20 * 18 / (2 * 400 - 20 * 18)
    wanted = 0.3 * (1 - iou) + 0.2 * np.linalg.norm(known.embedding[row] - rows.embedding[0]) + 0.2 * 0.1 / 2 + 0.1
    np.testing.assert_allclose(cost[row, 0], wanted, rtol=1e-5)
    assert np.isinf(np.asarray(cost)).sum() == cost.size - 1
    impatient = track.costs(known, rows, Matching(patience=1.0, change=0.1))
    assert np.isinf(np.asarray(impatient)).all()
