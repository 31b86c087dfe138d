"""Calibrated batch norms normalize what they are given, and leave the function as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn import classifier
from jaxseg.weights import calibration, imported, stored
from tests.weights import golden


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Weights before and after, and the images in between."""
    path = golden.unpack("mobilenet_v2_torchvision.pth", tmp_path_factory.mktemp("weights"))
    before, _ = imported.read(path)
    images = [np.random.default_rng(i).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8) for i in range(2)]
    return before, calibration.calibrate(before, images), np.concatenate(images)


def _logits(weights, images, train=False):
    module = classifier.from_config(weights.settings, weights.outputs)
    run = jax.jit(lambda v, x: module.apply(v, x, train, mutable=["batch_stats"] if train else False))
    return run(dict(weights.variables), images)


def test_the_function_stays(pair):
    before, after, images = pair
    wanted = _logits(before, images)
    np.testing.assert_allclose(_logits(after, images), wanted, atol=1e-4 * float(jnp.abs(wanted).max()))
    a, b = (stored.flat(w.variables) for w in (before, after))
    assert any(not np.allclose(a[name], b[name]) for name in a)


def test_a_training_batch_of_these_images_is_normalized_alike(pair):
    """The statistics are those of the images: in training mode the same batch gives the same answers."""
    _, after, images = pair
    trained, _ = _logits(after, images, train=True)
    np.testing.assert_allclose(trained, _logits(after, images), atol=2e-3 * float(jnp.abs(trained).max()))


def test_no_images_are_refused(pair):
    with pytest.raises(ValueError, match="at least one batch of images"):
        calibration.calibrate(pair[0], [])


def test_an_own_file_reads_back_exactly(pair, tmp_path):
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(stored.to_bytes(pair[1]))
    again = stored.load(path)
    assert again.settings == pair[1].settings
    for a, b in zip(jax.tree.leaves(again.variables), jax.tree.leaves(pair[1].variables), strict=True):
        np.testing.assert_array_equal(a, b)
