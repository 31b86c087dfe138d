"""A model in a program: warm before the first frame, called from several threads, host or device arrays, within jit."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.apps.exports import tiny

FRAMES = np.random.default_rng(0).integers(0, 256, (4, 4, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def network():
    return tiny()


@pytest.fixture
def compiled():
    """How many programs were compiled (or found in the cache) since."""
    names = []

    def listen(name, seconds, **_):
        names.extend([name] if name == "/jax/core/compile/backend_compile_duration" else [])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: len(names)
    jax.monitoring.unregister_event_duration_listener(listen)


def same(one, other):
    return all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def test_a_warm_model_compiles_nothing_more(network, compiled):
    """Of a size that no other test has: tests in one process share what is compiled."""
    frames, size = FRAMES[:, :, :56], (32, 56)
    on_device = jnp.asarray(frames[2:])
    assert network.warmup(size) > 0
    assert network.warmup(size, batch=2) > 0
    warm = compiled()
    assert warm >= 2
    network(frames[0])
    network(frames[:2])
    network(on_device)
    assert compiled() == warm


def test_threads_get_what_one_gets_and_compile_once(network, compiled):
    """Sixteen calls at once, with frames of two sizes that were not seen before."""
    frames = [FRAMES[i % 4][:16] if i % 2 else FRAMES[i % 4][:, :40] for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda frame: jax.device_get(network(frame)), frames))
    assert compiled() == 2
    assert any(one.instances.valid.any() for one in found)
    for frame, one in zip(frames, found, strict=True):
        assert one.semantic.shape == frame.shape[:2]
        assert same(one, jax.device_get(network(frame)))


def test_it_is_a_part_of_a_callers_program(network):
    inside = jax.jit(lambda frames: network(frames[..., ::-1]))(FRAMES)
    outside = network(FRAMES[..., ::-1])
    assert (inside.semantic == outside.semantic).mean() > 0.99
    assert inside.instances.valid.any()


def test_other_frames_are_refused(network):
    for frames in (FRAMES[0].astype(np.float32), FRAMES[0, ..., 0], FRAMES[0, ..., :2], FRAMES[None]):
        with pytest.raises(ValueError, match=r"`frames` must be uint8 \(H, W, 3\) or \(b, H, W, 3\): got"):
            network(frames)
