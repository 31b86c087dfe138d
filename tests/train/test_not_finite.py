"""Losses and gradients that are not finite: named, kept, left out, and traced to their line."""

import jax
import numpy as np
import pytest
from PIL import Image

from jaxseg import cli, config
from tests.train.runs import Training, assert_stopped, saved, state, write


@pytest.fixture
def corrupt(tmp_path):
    """Config file of a network that divides by the image's deviation, on a folder with one image of a single color."""
    root = tmp_path / "data"
    for split in ("train", "val"):
        for part in ("images", "instances"):
            (root / split / part).mkdir(parents=True)
        for i in range(16):
            content = np.random.default_rng([i, len(split)]).integers(0, 256, (32, 64, 3), np.uint8)
            if (split, i) == ("train", 3):
                content[:] = 77
            Image.fromarray(content).save(root / split / "images" / f"image{i}.png")
            label = np.zeros((32, 64), np.uint16)
            label[8:20, 10:30] = 1001
            Image.fromarray(label).save(root / split / "instances" / f"image{i}.png")
    return write(tmp_path, steps=4, encoder="tests.fragile_encoder:FragileEncoder", root=root)


def test_an_example_that_gives_nan_is_named_and_kept(corrupt, tmp_path):
    with pytest.raises(
        config.UserError, match=r"is nan at step \d, in a batch of .*image3.*Its examples are in"
    ) as told:
        cli.train(["--config", str(corrupt), "--workdir", str(tmp_path / "run")])
    (folder,) = (tmp_path / "run" / "faults").iterdir()
    assert f"at step {folder.name}," in str(told.value)
    with np.load(folder / "batch.npz") as batch:
        i = batch["names"].tolist().index("image3")
        assert (batch["image"][i] == 77).all()
        assert sorted(batch["names"]) == sorted(set(batch["names"]))
    assert (np.asarray(Image.open(folder / f"{i}.png")) == 77).all()
    assert saved(tmp_path / "run") == [0]


def test_a_single_update_that_is_not_finite_is_left_out(corrupt, tmp_path, capsys):
    cli.train(["--config", str(corrupt), "--workdir", str(tmp_path / "run"), "--train.skip", "1"])
    last = state(tmp_path / "run")
    assert (last.step, last.skipped, last.in_a_row) == (4, 1, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last))
    assert "left out, the 1. so far" in capsys.readouterr().err


def test_debug_mode_names_the_line_that_makes_a_nan(corrupt, tmp_path):
    said = Training(corrupt, tmp_path / "run", "--train.debug").end()
    assert_stopped(*said, "step ", "nan", "fragile_encoder.py:14", "centered / deviation")
