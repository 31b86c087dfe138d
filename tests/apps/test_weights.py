"""`jaxseg weights` as a user runs it: folded weights and their images, names of classes, what is shown and refused."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxseg import cli, config
from jaxseg.apps.tasks import start
from jaxseg.nn import classifier
from jaxseg.weights import imported, stored
from tests.weights import golden

NAMES = [f"kind {i}" for i in range(10)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two images of the classifier's size with all but its margin, so that nothing is resized: 256 to 224."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(2):
        blocks = rng.integers(0, 256, (16, 16, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        Image.fromarray(blocks).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def written(photos, tmp_path_factory):
    """Folded weights, and the checkpoint that the command makes of them."""
    folder = tmp_path_factory.mktemp("weights")
    path, _ = golden.folded(folder)
    (folder / "names.txt").write_text("\n".join(NAMES))
    output = folder / "encoder.safetensors"
    argv = ["import", str(path), "--output", str(output), "--images", str(photos)]
    cli.weights([*argv, "--labels", str(folder / "names.txt")])
    return path, output


def _logits(weights, images, train=False):
    module = classifier.from_config(weights.settings, weights.outputs)
    run = jax.jit(lambda v, x: module.apply(v, x, train, mutable=["batch_stats"] if train else False))
    return run(dict(weights.variables), images)


def _seen(photos):
    """What the command shows the network of the photos."""
    return np.stack([np.asarray(Image.open(path))[16:240, 16:240] for path in sorted(photos.iterdir())])


def test_calibration_leaves_the_function_and_changes_the_statistics(written, photos):
    (before, _), after = imported.read(written[0]), stored.load(written[1])
    wanted = _logits(before, _seen(photos))
    np.testing.assert_allclose(_logits(after, _seen(photos)), wanted, atol=1e-4 * float(jnp.abs(wanted).max()))
    a, b = (stored.flat(w.variables) for w in (before, after))
    moved = [name for name in a if "batch_stats" in name and not np.allclose(a[name], b[name])]
    assert len(moved) == sum("batch_stats" in name for name in a)


def test_a_training_batch_of_these_images_is_normalized_as_in_inference(written, photos):
    weights = stored.load(written[1])
    trained, _ = _logits(weights, _seen(photos), train=True)
    np.testing.assert_allclose(trained, _logits(weights, _seen(photos)), atol=2e-3 * float(jnp.abs(trained).max()))


def test_folded_weights_without_images_are_refused(written, tmp_path):
    with pytest.raises(config.UserError, match=r"has batch norm folded into its kernels, .* Give images"):
        cli.weights(["import", str(written[0]), "--output", str(tmp_path / "out.safetensors")])
    assert not list(tmp_path.iterdir())


def test_names_that_are_too_few_are_refused_before_anything_is_written(written, photos, tmp_path):
    labels = tmp_path / "names.txt"
    labels.write_text("one\ntwo\n")
    argv = ["import", str(golden.unpack("mobilenet_v2_timm.safetensors", tmp_path))]
    argv += ["--output", str(tmp_path / "out.safetensors"), "--labels", str(labels)]
    with pytest.raises(config.UserError, match=r"names.txt names 2 classes, the weights know 10\."):
        cli.weights(argv)
    assert not (tmp_path / "out.safetensors").exists()


def test_show_says_what_a_checkpoint_is_and_what_it_sees(written, photos, capsys):
    cli.weights(["show", str(written[1]), str(photos / "0.png")])
    head, conventions, seen = capsys.readouterr().out.splitlines()
    assert "mobilenet_v2" in head
    assert "folded.npz (folded batch norm)" in head
    assert "10 classes" in head
    assert "mean 0.502 0.502 0.502" in conventions
    assert "same padding" in conventions
    probability = np.asarray(jax.nn.softmax(_logits(stored.load(written[1]), _seen(photos))[0]))
    best = int(probability.argmax())
    assert f"0.png: {NAMES[best]} {probability[best]:.2f}, " in seen
    assert len(re.findall(r"kind \d", seen)) == 5


def test_images_need_a_classifier(written, photos, tmp_path):
    weights = stored.load(written[1])
    params = {"encoder": weights.variables["params"]["encoder"]}
    bare = dataclasses.replace(weights, variables={**weights.variables, "params": params}, classes=())
    path = tmp_path / "bare.safetensors"
    path.write_bytes(stored.to_bytes(bare))
    with pytest.raises(config.UserError, match="holds no classifier"):
        cli.weights(["show", str(path), str(photos)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_width": 0.5}, "`model.encoder_width` is 0.1 there and 0.5 here. Change that setting"),
        ({"encoder": "darknet53"}, "`model.encoder` is mobilenet_v2 there and darknet53 here"),
        (
            {"encoder_width": 0.1, "conventions": config.Conventions(padding="symmetric", epsilon=0.5)},
            "`model.conventions` contradict ",
        ),
    ],
)
def test_settings_that_are_not_the_files_are_refused(written, change, message):
    settings = config.Encoder(encoder="mobilenet_v2", encoder_weights=str(written[1]))
    with pytest.raises(config.UserError, match=re.escape(message)):
        start.resolved(dataclasses.replace(settings, **change), None)


def test_conventions_come_with_the_file(written):
    settings = config.Encoder(encoder="mobilenet_v2", encoder_width=0.1, encoder_weights=str(written[1]))
    assert start.resolved(settings, None).conventions == stored.load(written[1]).settings.conventions
