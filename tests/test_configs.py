"""Every config in configs/ builds, and its network predicts on the grid that it promises."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import cli, config
from jaxseg.apps import model

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))

TRAINED = ("cityscapes_mnv2_os4", "cityscapes_dn53_os1")
"""Both encoders and both decoder strides; compiling all five rows would take minutes."""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_it_builds(path):
    settings = cli.read_config(path)
    assert settings.name == path.stem
    (height, width) = settings.data.crop
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8)
    if isinstance(settings, config.Classification):
        settings = replace(settings, data=replace(settings.data, classes=("cat", "dog", "orange")))
        classifier = model.module(settings)
        logits, _ = jax.eval_shape(lambda x: classifier.init_with_output(jax.random.key(0), x, train=False), images)
        assert (logits.shape, logits.dtype) == ((1, 3), jnp.float32)
        return
    network = model.network(settings)
    outputs, _ = jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x, train=False), images)
    k = settings.superpixels.size
    assert outputs.semantic.shape == (1, height // k, width // k, len(settings.data.classes) + 1)
    assert outputs.center.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem in TRAINED], ids=lambda p: p.stem)
def test_cityscapes_rows_train_a_step_on_generated_images(path, tmp_path):
    from jaxseg.apps.train import train

    settings = cli.read_config(path)
    overrides = ["--data.builder", "shapes", "--data.shapes.size", "32", "64", "--data.crop", "32", "64"]
    overrides += ["--data.shapes.train", "2", "--data.shapes.val", "1", "--data.cache", str(tmp_path / "cache")]
    overrides += [
        "--train.steps",
        "1",
        "--train.batch",
        "1",
        "--train.picture-every",
        "0",
        "--train.validate-every",
        "0",
    ]
    overrides += ["--model.encoder-width", "0.25", "--model.decoder-width", "0.25"]
    if settings.model.encoder == "darknet53":
        overrides += ["--model.encoder-blocks", "1", "1", "1", "1", "1"]
    settings = cli.override(settings, overrides)
    state = train(replace(settings, model=replace(settings.model, size=(32, 64))), tmp_path / "run")
    assert int(state.step) == 1
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(state.params))
