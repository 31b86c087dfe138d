"""A model over the frames of a camera: identities last, begin anew with another size, and streams do not mix."""

import jax
import numpy as np
import pytest

from jaxseg import track
from jaxseg.types import Matching
from tests.apps.exports import FRAME, tiny

FRAMES = np.random.default_rng(0).integers(0, 256, (4, 4, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def network():
    return tiny()


def ids(found):
    return np.asarray(found.instances.track_id)[np.asarray(found.instances.valid)].tolist()


def test_it_is_the_tracker_after_the_model(network):
    stream, tracks = network.stream(), None
    for frame in FRAMES[[0, 0, 1, 2]]:
        found = network(frame)
        tracks, expected = track.update(tracks or track.start(found), found, Matching())
        jax.tree.map(np.testing.assert_array_equal, stream(frame), expected)
    assert ids(expected)


def test_a_still_scene_keeps_its_ids_and_another_size_begins_anew(network):
    stream = network.stream()
    first = ids(stream(FRAMES[0]))
    assert first
    assert first == ids(stream(FRAMES[0])) == ids(stream(FRAMES[0]))
    stream(FRAMES[0][:24])
    assert ids(stream(FRAMES[0])) == first


def test_streams_of_one_model_do_not_mix(network):
    one, other = network.stream(), network.stream()
    first = ids(one(FRAMES[0]))
    other(FRAMES[1])
    other(FRAMES[2])
    assert ids(one(FRAMES[0])) == first


def test_it_takes_one_frame(network):
    with pytest.raises(ValueError, match=r"`frame` must be one frame \(H, W, 3\): got \(4, 32, 64, 3\)"):
        network.stream()(FRAMES)
    assert FRAMES.shape[1:3] == FRAME
