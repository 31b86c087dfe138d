"""Classifiers end to end: trained on folders, killed and resumed, evaluated, and what segmentation starts from."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from jaxseg import cli, config
from jaxseg.apps import model

ROOT = Path(__file__).parents[2]
STEPS = 80


def _draw(rng: np.random.Generator, kind: str) -> np.ndarray:
    """A figure in a random color somewhere on a noisy ground."""
    image = np.clip(rng.integers(0, 256, 3) + rng.normal(0, 10, (40, 48, 3)), 0, 255).astype(np.uint8)
    color = tuple(int(v) for v in 255 * rng.integers(0, 2, 3))
    x, y = int(rng.integers(14, 34)), int(rng.integers(14, 26))
    if kind == "bars":
        for i in range(-10, 11, 5):
            cv2.line(image, (x - 10, y + i), (x + 10, y + i), color, 2)
    else:
        cv2.circle(image, (x, y), 9, color, -1)
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for split, number in (("train", 80), ("val", 20)):
        for kind in ("bars", "disc"):
            (root / split / kind).mkdir(parents=True)
            for i in range(number):
                cv2.imwrite(str(root / split / kind / f"{i}.png"), _draw(rng, kind))
    (root / "config.py").write_text(
        "from jaxseg.config import *\n"
        "config = Classification(name='tiny', data=Pictures(crop=(32, 32), augment=RandomWindow(area=(0.6, 1.0))),"
        "model=Encoder(encoder='tests.tiny_encoder:TinyEncoder'), losses=ClassLoss(0.05),"
        f"optimizer=Optimizer(learning_rate=1e-2, average=0.95), train=Train(steps={STEPS}, batch=16, save_every=10))"
    )
    return root


def _argv(folder: Path, workdir: Path) -> list[str]:
    data = ["--data.root", str(folder), "--data.cache", str(folder / "cache")]
    return ["--config", str(folder / "config.py"), "--workdir", str(workdir), *data]


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Work directory of a run that was killed once, and of one that was not."""
    killed, whole = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("whole")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "train.py"), *_argv(folder, killed)]
    run = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 240
    while not (killed / "checkpoints" / "10").is_dir() and time.monotonic() < end and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    cli.train(_argv(folder, killed))
    cli.train(_argv(folder, whole))
    return killed, whole


def _state(workdir: Path):
    settings = model.read_run(workdir)
    return model.restored(model.module(settings), settings, workdir)


def test_a_killed_run_ends_where_one_that_was_not_does(trained):
    one, other = map(_state, trained)
    assert int(one.step) == STEPS
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_learns_and_is_evaluated(trained):
    cli.evaluate(["--workdir", str(trained[0])])
    metrics = json.loads((trained[0] / "val" / "metrics.json").read_text())
    assert metrics["top1"] >= 0.9
    assert metrics["top5"] == 1.0
    assert metrics["images"] == 40
    assert set(metrics["classes"]) == {"bars", "disc"}
    assert "top-1" in (trained[0] / "val" / "report.html").read_text()


def test_segmentation_starts_from_its_encoder(trained, tmp_path):
    argv = ["--config", str(ROOT / "configs" / "shapes.py"), "--workdir", str(tmp_path / "run")]
    argv += ["--data.cache", str(tmp_path / "cache"), "--data.shapes.size", "32", "64", "--data.crop", "32", "64"]
    argv += ["--data.shapes.train", "4", "--data.shapes.val", "2", "--train.steps", "2", "--train.batch", "2"]
    argv += ["--model.encoder", "tests.tiny_encoder:TinyEncoder", "--model.encoder-stride", "8"]
    argv += ["--model.decoder-width", "0.25", "--train.picture-every", "0", "--optimizer.encoder-rate", "0"]
    argv += ["--model.batch-norm", "frozen", "--model.encoder-width", "1.0", "--model.encoder-blocks"]
    cli.train([*argv, "--model.encoder-weights", str(trained[0])])
    told = json.loads((tmp_path / "run" / "start.json").read_text())
    assert all("/encoder/" in name for name in told["taken"])
    assert {name.split("/")[1] for name in told["initialised"]} == {"semantic", "embedding", "center"}
    assert told["left_out"] == ["params/logits/bias", "params/logits/kernel"]
    taken, mine = _state(trained[0]).variables, _state(tmp_path / "run").variables
    for kind in ("params", "batch_stats"):
        for a, b in zip(*(jax.tree.leaves(v[kind]["encoder"]) for v in (taken, mine)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_its_data_can_be_prepared_ahead(folder, capsys):
    cli.data(["prepare", *_argv(folder, folder)[:2], "--data.root", str(folder), "--data.cache", str(folder / "cache")])
    assert "train 160 images, val 40 images, 2 classes" in capsys.readouterr().out.replace("\n", " ")


def test_frozen_stages_need_an_encoder_that_names_them(folder, tmp_path):
    with pytest.raises(config.UserError, match=r"takes dtype, norm, stride, width: got frozen"):
        cli.train([*_argv(folder, tmp_path / "run"), "--model.frozen-stages", "1"])


def test_a_classifier_does_not_predict_objects(trained):
    with pytest.raises(config.UserError, match="holds a classifier, which finds no objects"):
        model.load(trained[0])
