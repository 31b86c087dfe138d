"""Moving scenes: what their labels promise over time."""

import itertools

import numpy as np
import pytest

from jaxseg.data import sequences, shapes

SIZE = (64, 128)


@pytest.fixture(scope="module")
def scenes() -> list:
    return [list(sequences.sequence(0, index, 120, SIZE, 5, 6)) for index in range(4)]


def _places(frames) -> dict[int, dict[int, np.ndarray]]:
    """Middle (y, x) of each identity in each frame that shows it."""
    found: dict[int, dict[int, np.ndarray]] = {}
    for t, frame in enumerate(frames):
        for i in np.unique(frame.instance)[1:]:
            found.setdefault(int(i), {})[t] = np.argwhere(frame.instance == i).mean(axis=0)
    return found


def test_types_and_sizes(scenes):
    image, semantic, instance, name, full = scenes[1][7]
    assert (image.shape, image.dtype) == ((*SIZE, 3), np.uint8)
    assert (semantic.shape, semantic.dtype) == (SIZE, np.uint8)
    assert (instance.shape, instance.dtype) == (SIZE, np.uint16)
    assert (name, full) == ("000001_000007", None)
    assert [len(frames) for frames in scenes] == [120] * 4


def test_a_sequence_depends_on_its_arguments_alone_and_fewer_frames_are_the_first(scenes):
    again = list(sequences.sequence(0, 2, 30, SIZE, 5, 6))
    for a, b in zip(scenes[2][:30], again, strict=True):
        for x, y in zip(a[:3], b[:3], strict=True):
            np.testing.assert_array_equal(x, y)
    for other in (sequences.sequence(1, 2, 1, SIZE, 5, 6), sequences.sequence(0, 3, 1, SIZE, 5, 6)):
        assert (next(other).image != again[0].image).any()


def test_an_identity_has_one_class_and_enough_pixels(scenes):
    for frames in scenes:
        classes: dict[int, int] = {}
        for _, semantic, instance, *_ in frames:
            ids, pixels = np.unique(instance, return_counts=True)
            assert (pixels[ids > 0] >= shapes.FEWEST_PIXELS).all()
            for i in ids[ids > 0]:
                assert set(np.unique(semantic[instance == i])) == {
                    classes.setdefault(int(i), int(semantic[instance == i][0]))
                }
            np.testing.assert_array_equal(instance > 0, (semantic > 0) & (semantic < 255))
        assert 1 <= min(classes.values()) <= max(classes.values()) <= 5


def test_objects_move_smoothly(scenes):
    """Where an object is whole, its middle moves by at most the fastest speed, the pan and a pixel of its outline."""
    steps = []
    for frames in scenes:
        for place in _places(frames).values():
            inside = [
                t for t in place if t + 1 in place and (place[t] > 12).all() and (place[t] < np.array(SIZE) - 12).all()
            ]
            steps += [np.linalg.norm(place[t + 1] - place[t]) for t in inside]
    assert np.percentile(steps, 95) < sequences.FASTEST * SIZE[0] / 128 + 2
    assert np.median(steps) > 0.1


def test_objects_come_go_and_hide_one_another(scenes):
    came = went = hidden = 0
    for frames in scenes:
        for place in _places(frames).values():
            times = sorted(place)
            came += times[0] > 0
            went += times[-1] < len(frames) - 1
            hidden += len(times) < times[-1] - times[0] + 1
    assert min(came, went, hidden) >= 2


def test_newcomers_have_the_next_number_and_there_are_never_too_many(scenes):
    for frames in scenes:
        first = {i: min(place) for i, place in _places(frames).items()}
        assert max(len(np.unique(frame.instance)) - 1 for frame in frames) <= 6
        later = sorted(i for i, t in first.items() if t > 20)
        assert all(i > 3 for i in later)


def test_an_object_keeps_its_color(scenes):
    """The camera's noise and the object's texture aside."""
    for frames in scenes:
        seen: dict[int, list[np.ndarray]] = {}
        for frame in frames[::10]:
            for i in np.unique(frame.instance)[1:]:
                mask = frame.instance == i
                if mask.sum() > 80:
                    seen.setdefault(int(i), []).append(frame.image[mask].mean(axis=0))
        assert all(np.ptp(colors, axis=0).max() < 60 for colors in map(np.array, seen.values()))


def test_the_background_pans_and_the_noise_is_new_in_each_frame(scenes):
    def differs(a, b) -> bool:
        still = (a.instance == 0) & (b.instance == 0)
        return bool((a.image[still] != b.image[still]).any())

    assert all(differs(a, b) for frames in scenes for a, b in itertools.pairwise(frames))


def test_sequences_are_no_scenes_of_data_sets():
    drawn = {shapes.generate(0, split, 0, SIZE, 5).image.tobytes() for split in shapes.SPLITS}
    assert next(sequences.sequence(0, 0, 1, SIZE, 5)).image.tobytes() not in drawn


@pytest.mark.parametrize(
    ("size", "classes", "message"),
    [((16, 64), 8, "`size` must be at least 32 x 32: got 16 x 64."), ((64, 64), 9, "`classes` must be 1 to 8: got 9.")],
)
def test_bad_arguments_are_refused(size, classes, message):
    with pytest.raises(ValueError, match=message):
        next(sequences.sequence(0, 0, 1, size, classes))
