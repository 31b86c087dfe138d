"""Pictures of what the method does, of networks that are not trained."""

import numpy as np
import pytest
from PIL import Image

from jaxseg import cli, config
from jaxseg.apps import files, look, model
from jaxseg.train.checkpoint import Checkpoints

BAR = 24


def run(folder, clustering):
    """A work directory of random parameters."""
    settings = config.Config(
        name="tiny",
        data=config.Data(builder="shapes", classes=("disc", "square"), crop=(32, 64)),
        model=config.Model(
            encoder="tests.tiny_encoder:TinyEncoder",
            encoder_stride=8,
            decoder_width=0.25,
            embedding=4,
            clustering=clustering,
        ),
        grouping=config.Grouping(slots=12, center=0.05),
    )
    files.write_text(folder / model.CONFIG, config.to_json(settings))
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(model.begin(model.network(settings), settings))
    return folder


@pytest.fixture(scope="module")
def centers(tmp_path_factory):
    return run(tmp_path_factory.mktemp("centers"), "centers")


def photo(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def test_a_look_shows_what_users_get(centers):
    """At a size that is padded on the way."""
    trained = model.load(centers)
    parts, found = look.anatomy(trained, photo((45, 70))), trained(photo((45, 70)))
    np.testing.assert_array_equal(parts.found.instance, found.instance)
    assert parts.superpixels.shape == (45, 70)
    assert look.look(trained, photo((45, 70)), side=140).shape == (2 * (BAR + 90) + 8, 3 * 140 + 16, 3)


def test_the_baseline_has_no_centers_and_no_superpixels_to_show(tmp_path):
    trained = model.load(run(tmp_path, "all_to_all"))
    assert np.isneginf(look.anatomy(trained, photo((32, 64))).outputs.center).all()
    assert look.look(trained, photo((32, 64)), side=64).shape == (2 * (BAR + 32) + 8, 2 * 64 + 8, 3)


def test_every_input_gets_a_picture_and_what_cannot_be_read_is_reported(centers, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(photo((45, 70))).save(tmp_path / name / "x.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    inputs = [str(tmp_path / name) for name in ("empty", "a", "bad.png", "b")]
    assert cli.look(["--model", str(centers), *inputs, "--output", str(tmp_path / "out")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("jaxseg:")]
    assert len(lines) == 2
    assert "empty holds no image" in lines[0]
    assert "bad.png cannot be read as an image" in lines[1]
    pictures = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").glob("*_look.png"))]
    assert len(pictures) == 2
    np.testing.assert_array_equal(pictures[0], look.look(model.load(centers), photo((45, 70))))
    good = ["--model", str(centers), str(tmp_path / "a" / "*.png"), "--output", str(tmp_path / "other")]
    assert cli.look(good) == 0
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["x_look.png"]


def test_bad_input_is_refused(centers, tmp_path):
    Image.fromarray(photo((45, 70))).save(tmp_path / "x.png")
    with pytest.raises(config.UserError, match="is not a work directory"):
        cli.look(["--model", str(tmp_path / "none"), str(tmp_path / "x.png"), "--output", str(tmp_path / "out")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(config.UserError, match="empty holds no image"):
        cli.look(["--model", str(centers), str(tmp_path / "empty"), "--output", str(tmp_path / "out")])
    with pytest.raises(config.UserError, match=r"x\.png cannot be written"):
        cli.look(["--model", str(centers), str(tmp_path / "x.png"), "--output", str(tmp_path / "x.png")])
    with pytest.raises(config.UserError, match="the following arguments are required: --output"):
        cli.look(["--model", str(centers), str(tmp_path / "x.png")])
