"""Imported weights compute what the originals compute, layer by layer; what is missing or too much is named."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from jaxseg import config
from jaxseg.config import UserError
from jaxseg.nn import classifier, network
from jaxseg.weights import imported, names, stored
from tests.weights import golden


def run(weights: stored.Weights, image: np.ndarray, stride: int = 32) -> dict[str, np.ndarray]:
    """Features by stride without the head of classification, as the golden files have them."""
    module = network.encoder_from_config(weights.settings, stride=stride)
    variables = {kind: tree["encoder"] for kind, tree in weights.variables.items()}
    out = jax.jit(lambda v, x: module.apply(v, x, False))(variables, image.astype(np.float32) / 255)
    return {str(at): np.asarray(feature) for at, feature in out.items()}


@pytest.mark.parity
@pytest.mark.parametrize("size", ["even", "odd"])
@pytest.mark.parametrize(("name", "prefix"), golden.FILES.items())
def test_every_stage_computes_what_the_original_does(name, prefix, size, tmp_path):
    weights, folded = imported.read(golden.unpack(name, tmp_path))
    assert not folded
    wanted = golden.features(prefix, size)
    found = run(weights, golden.image(size))
    assert set(wanted) == {*found, "logits"}
    for stride, feature in found.items():
        assert np.abs(feature).max() > 0.1
        np.testing.assert_allclose(feature, wanted[stride], atol=1e-4, err_msg=stride)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["mobilenet_v2_torchvision.pth", "darknet53_timm.safetensors"])
def test_the_classifier_answers_what_the_original_does(name, tmp_path):
    weights, _ = imported.read(golden.unpack(name, tmp_path))
    module = classifier.from_config(weights.settings, weights.outputs)
    logits = jax.jit(lambda v, x: module.apply(v, x, False))(weights.variables, golden.image("odd"))
    np.testing.assert_allclose(logits, golden.features(golden.FILES[name], "odd")["logits"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilenet_v2_torchvision.pth", "odd"),
        # Here the padding depends on whether the size is even.
        ("mobilenet_v2_keras.weights.h5", "even"),
        ("mobilenet_v2_keras.weights.h5", "odd"),
    ],
)
def test_dilated_features_hold_those_of_the_strided_network(name, size, tmp_path):
    """Both paddings: a stride that became dilation leaves every coarse feature where it was, among others."""
    weights, _ = imported.read(golden.unpack(name, tmp_path))
    image = golden.image(size)
    strided = run(weights, image)
    for stride in (16, 8):
        fine = run(weights, image, stride)
        step = 32 // stride
        np.testing.assert_allclose(fine[str(stride)][:, ::step, ::step], strided["32"], atol=1e-4)
        for shared in range(1, stride.bit_length() - 1):
            np.testing.assert_allclose(fine[str(2**shared)], strided[str(2**shared)], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mobilenet_v2_torchvision.pth", ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "symmetric", 1e-5, 0.1)),
        ("darknet53_timm.safetensors", ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "symmetric", 1e-5, 0.01)),
        ("mobilenet_v2_keras.keras", ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "same", 1e-3, 0.1)),
    ],
)
def test_conventions_are_those_of_the_source(name, settings, tmp_path):
    weights, _ = imported.read(golden.unpack(name, tmp_path))
    assert weights.settings.conventions == config.Conventions(*settings)
    assert weights.settings.encoder_width == pytest.approx(0.125 if "darknet" in name else 0.1)
    assert weights.settings.encoder_blocks == ((1, 2, 1, 2, 1) if "darknet" in name else ())
    assert weights.outputs == 10


def _save(tmp_path, change):
    """The timm file with its tensors changed."""
    from safetensors.numpy import load, save

    tensors = dict(load(golden.content("mobilenet_v2_timm.safetensors")))
    change(tensors)
    path = tmp_path / "changed.safetensors"
    path.write_bytes(save(tensors))
    return path


def _cut(tensors):
    tensors["blocks.3.1.conv_dw.weight"] = tensors["blocks.3.1.conv_dw.weight"][:-1]


def _poison(tensors):
    tensors["blocks.1.0.conv_pw.weight"][0, 0] = np.nan


def _negate(tensors):
    tensors["bn1.running_var"] = -tensors["bn1.running_var"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("blocks.2.0.bn3.bias"), "lacks blocks.2.0.bn3.bias of mobilenet_v2, as timm names it."),
        (lambda t: t.pop("classifier.bias"), "lacks classifier.bias of mobilenet_v2, as timm names it."),
        (lambda t: t.update(extra=np.zeros(2, np.float32)), "holds extra, which mobilenet_v2 of timm has not."),
        (_cut, "blocks.3.1.conv_dw.weight is 3 x 3 x 1 x 47 in the order of this package"),
        (_poison, "blocks.1.0.conv_pw.weight holds a number that is not finite."),
        (_negate, "bn1.running_var is a variance below 0."),
        (lambda t: t.pop("conv_stem.weight"), "is of no network that is known: mobilenet_v2 of torchvision,"),
        (lambda t: t.update({"bn1.bias": t["bn1.bias"].astype(np.int32)}), "bn1.bias holds int32 numbers"),
    ],
)
def test_a_tensor_that_is_wrong_is_named(change, message, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        imported.read(_save(tmp_path, change))
    assert "\n" not in str(raised.value)


def test_a_classifier_may_be_missing(tmp_path):
    weights, _ = imported.read(_save(tmp_path, lambda t: (t.pop("classifier.weight"), t.pop("classifier.bias"))))
    assert weights.outputs == 0
    assert set(weights.variables["params"]) == {"encoder"}


def test_averages_are_preferred_and_statistics_without_one_are_taken(tmp_path):
    """TensorFlow-Slim keeps averages of what it trains; the golden file's plain values are half of those."""
    weights, _ = imported.read(golden.unpack("mobilenet_v2_slim.ckpt.index", tmp_path))
    keras, _ = imported.read(golden.unpack("mobilenet_v2_keras.keras", tmp_path))
    for a, b in zip(jax.tree.leaves(weights.variables), jax.tree.leaves(keras.variables), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parity
def test_folded_weights_compute_what_they_were_folded_from(tmp_path):
    path, original = golden.folded(tmp_path)
    weights, folded = imported.read(path)
    assert folded
    assert weights.settings.conventions == names.QUANTISED
    # The same preprocessing for both; a folded batch norm has no epsilon of its own.
    conventions = dataclasses.replace(original.settings.conventions, epsilon=weights.settings.conventions.epsilon)
    settings = dataclasses.replace(weights.settings, conventions=conventions)
    found = run(dataclasses.replace(weights, settings=settings), golden.image("odd"))
    for stride, feature in run(original, golden.image("odd")).items():
        np.testing.assert_allclose(found[stride], feature, atol=1e-4, err_msg=stride)
