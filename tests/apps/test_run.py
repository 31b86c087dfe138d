"""The commands as a user runs them: train, resume, evaluate, predict, and every kind of bad input."""

import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

import jaxseg
from jaxseg import cli, config
from jaxseg.apps import benchmark, model
from jaxseg.train.checkpoint import Checkpoints
from tests.apps.events import events

ROOT = Path(__file__).parents[2]
CONFIG = """
from jaxseg.config import *

config = Config(
    name="tiny",
    data=Data(builder="shapes", classes=("disc", "square"), crop=(32, 64), cache={cache!r},
              shapes=Shapes(size=(32, 64), train=8, val=3)),
    model=Model(encoder="tests.tiny_encoder:TinyEncoder", encoder_stride=8, decoder_width=0.25, embedding=4),
    targets=TargetSettings(max_instances=12),
    grouping=Grouping(slots=12, center=0.05),
    optimizer=Optimizer(learning_rate=1e-2),
    train=Train(steps=6, batch=4, log_every=2, save_every=3, picture_every=6, validate_every=3),
)
"""


def command(*argv, script="jaxseg"):
    """Runs a program of the project in its root; returns what it printed and its status."""
    first = {"jaxseg": ["-c", "from jaxseg import cli; cli.main()"]}.get(script, [script])
    return subprocess.run([sys.executable, *first, *map(str, argv)], cwd=ROOT, capture_output=True, text=True)


def assert_refused(result, *words):
    """Status 2 and one line on stderr that holds the words; no traceback."""
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(config file, trained work directory)."""
    folder = tmp_path_factory.mktemp("tiny")
    file = folder / "tiny.py"
    file.write_text(CONFIG.format(cache=str(folder / "cache")))
    cli.train(["--config", str(file), "--workdir", str(folder / "run")])
    return file, folder / "run"


def test_training_leaves_what_later_commands_need(tiny):
    _, workdir = tiny
    assert model.read_config(workdir).name == "tiny"
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()) == ["3", "6"]
    pixels = json.loads((workdir / "class_frequencies.json").read_text())["pixels"]
    assert len(pixels) == 3
    assert 0 < sum(pixels) <= 8 * 32 * 64
    assert list((workdir / "tensorboard").iterdir())


def images(folder):
    """Tags and pictures of TensorBoard's event files, in the order in which they were written."""
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("image"):
                found[value.tag] = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    return found


def test_training_shows_predictions_and_how_they_came_about(tiny):
    """Two validation images of 32 x 64, whose views are enlarged to 320 x 640, three in a row."""
    _, workdir = tiny
    shown = images(workdir / "tensorboard")
    names = [tag.removeprefix("prediction/") for tag in shown if tag.startswith("prediction/")]
    assert len(names) == 2
    assert set(shown) == {f"{kind}/{name}" for kind in ("prediction", "views") for name in names}
    for name in names:
        assert shown[f"prediction/{name}"].shape == (32, 64, 3)
        height, width, _ = shown[f"views/{name}"].shape
        assert width == 3 * 640 + 16
        assert 2 * 320 < height < 2.3 * 320


def test_a_run_resumes_bit_for_bit(tiny, tmp_path):
    """Stopped after step 3 (its newest checkpoint removed) and started again, it ends where it ended before."""
    import shutil

    file, workdir = tiny
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    cli.train(["--config", str(file), "--workdir", str(tmp_path / "run")])
    first, again = model.load(workdir), model.load(tmp_path / "run")
    assert first.step == again.step == 6
    for a, b in zip(jax.tree.leaves(first.variables), jax.tree.leaves(again.variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_resuming_with_other_settings_is_refused(tiny):
    file, workdir = tiny
    with pytest.raises(config.UserError, match=r"holds another run: losses\.alpha, train\.batch differ"):
        cli.train(["--config", str(file), "--workdir", str(workdir), "--train.batch", "2", "--losses.alpha", "0.5"])
    assert model.read_config(workdir).train.batch == 4


def test_evaluation_writes_metrics_and_report(tiny, capsys):
    _, workdir = tiny
    cli.evaluate(["--workdir", str(workdir)])
    metrics = json.loads((workdir / "val" / "metrics.json").read_text())
    assert list(metrics)[:3] == ["ap", "ap50", "iou"]
    assert metrics["images"] == 3
    assert 0 <= metrics["iou"] <= 1
    assert set(metrics["classes"]) == {"disc", "square"}
    assert metrics["ceiling"]["ap50"] > 0.5
    page = (workdir / "val" / "report.html").read_text()
    assert "data:image" in page
    assert "http" not in page.replace("http-equiv", "")
    assert list((workdir / "val" / "overlays").glob("*.png"))
    assert "square" in capsys.readouterr().out


def test_the_best_checkpoint_is_evaluated_where_it_is_asked_for(tiny, tmp_path):
    """Both were measured; the scores are those that training wrote down."""
    _, workdir = tiny
    with Checkpoints(workdir, read_only=True) as checkpoints:
        best = checkpoints.best()
        values = {step: checkpoints.measured(step) for step in (3, 6)}
    assert values[best] == max(values.values())
    cli.evaluate(["--workdir", str(workdir), "--best", "--output", str(tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["step"] == best
    assert metrics["pq"] == pytest.approx(values[best], abs=1e-6)


def test_evaluation_at_another_network_size(tiny, tmp_path):
    """Frames of 32 x 64 through a network of 24 x 40: masks are resized, and so is the truth of the ceiling."""
    _, workdir = tiny
    cli.evaluate(["--workdir", str(workdir), "--model.size", "24", "40", "--output", str(tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["images"] == 3
    assert metrics["ceiling"]["iou"] > 0.5


def test_load_gives_a_callable(tiny):
    _, workdir = tiny
    trained = jaxseg.load(workdir)
    found = trained(np.zeros((40, 56, 3), np.uint8))
    assert found.semantic.shape == found.instance.shape == (40, 56)
    assert trained(np.zeros((2, 40, 56, 3), np.uint8)).semantic.shape == (2, 40, 56)
    inside = jax.jit(lambda frame: trained(frame))(np.zeros((40, 56, 3), np.uint8))
    np.testing.assert_array_equal(inside.semantic, found.semantic)
    np.testing.assert_array_equal(inside.instance, found.instance)
    with pytest.raises(ValueError, match="`frames` must be uint8"):
        trained(np.zeros((40, 56, 3), np.float32))


def test_benchmark_times_every_stage(tiny, tmp_path, capsys):
    file, _ = tiny
    own = tmp_path / "own.py"
    own.write_text(file.read_text().replace('classes=("disc", "square"), ', ""))
    cli.benchmark(["--config", str(own), "--json", str(tmp_path / "b.json"), "--frames", "3"])
    figures = json.loads((tmp_path / "b.json").read_text())
    assert set(figures["milliseconds"]) == {"superpixels", "cnn", "clustering", "total"}
    assert all(0 < t["p50"] <= t["p99"] for t in figures["milliseconds"].values())
    assert figures["parameters"] > 0
    assert set(figures["compile_seconds"]) == set(figures["milliseconds"])
    serial = sum(t["p50"] for name, t in figures["milliseconds"].items() if name != "total")
    assert figures["fps_serial"] == pytest.approx(1000 / serial)
    table = capsys.readouterr().out
    for column in ("superpixels", "CNN", "clustering", "total", "FPS serial", "p99, ms", "compile, s"):
        assert column in table


def test_what_is_timed_to_compile_does_not_come_from_the_cache(tmp_path):
    """Neither read nor written there, though JAX has compiled with it before."""
    settings = {"jax_compilation_cache_dir": str(tmp_path), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        compilation_cache.reset_cache()
        jax.jit(lambda x: x + 1.25)(1.0).block_until_ready()
        kept = sorted(path.name for path in tmp_path.iterdir())
        assert kept
        benchmark._compiled(lambda x: x + 2.25, 1.0)
        assert sorted(path.name for path in tmp_path.iterdir()) == kept
        jax.jit(lambda x: x + 3.25)(1.0).block_until_ready()
        assert len(list(tmp_path.iterdir())) > len(kept)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_missing_config_is_refused(tmp_path):
    result = command("--config", "configs/shape.py", "--workdir", tmp_path / "run", script="train.py")
    assert_refused(result, "configs/shape.py does not exist", "configs/shapes.py")
    assert not (tmp_path / "run").exists()


def test_misspelt_override_is_refused(tmp_path):
    argv = ("--config", "configs/shapes.py", "--workdir", tmp_path / "run", "--optimiser.learning-rate", "1")
    assert_refused(command(*argv, script="train.py"), "--optimiser.learning-rate", "--optimizer.learning-rate")
    assert not (tmp_path / "run").exists()


def test_unknown_command_and_option_are_refused():
    assert_refused(command("predicts"), "predicts", "did you mean predict")
    assert_refused(command("predict", "--modle", "x", "y"), "--model")


def test_workdir_that_cannot_be_written_is_refused(tmp_path, tiny):
    file, _ = tiny
    (tmp_path / "file").write_text("in the way")
    result = command("--config", file, "--workdir", tmp_path / "file" / "run", script="train.py")
    assert_refused(result, str(tmp_path / "file" / "run"), "cannot be written")


def test_checkpoints_without_their_config_are_not_overwritten(tiny, tmp_path):
    import shutil

    file, workdir = tiny
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(config.UserError, match=r"holds checkpoints of a run without its config\.json"):
        cli.train(["--config", str(file), "--workdir", str(tmp_path / "run")])


@pytest.mark.parametrize("content", [b"\xff\xfe{", b'{"pixels": [1]}', b"[]"])
def test_damaged_files_of_a_run_are_named(content, tiny, tmp_path):
    import shutil

    file, workdir = tiny
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    (tmp_path / "run" / "class_frequencies.json").write_bytes(content)
    with pytest.raises(config.UserError, match=r"class_frequencies\.json is damaged\. Remove it"):
        cli.train(["--config", str(file), "--workdir", str(tmp_path / "run")])
    (tmp_path / "run" / "config.json").write_bytes(content)
    with pytest.raises(config.UserError, match=r"config\.json is not a config of this version"):
        model.load(tmp_path / "run")


def test_a_misspelt_encoder_is_refused_before_anything_is_prepared(tiny, tmp_path):
    argv = ["--config", str(tiny[0]), "--workdir", str(tmp_path / "run"), "--data.cache", str(tmp_path / "cache")]
    with pytest.raises(config.UserError, match=r"--model\.encoder: .* got 'mobilnet'"):
        cli.train([*argv, "--model.encoder", "mobilnet"])
    assert not list(tmp_path.iterdir())


def test_a_split_that_the_data_lacks_is_refused(tiny):
    with pytest.raises(config.UserError, match="has no split test, only"):
        cli.evaluate(["--workdir", str(tiny[1]), "--split", "test"])


def test_checkpoint_of_another_network_is_refused(tiny, tmp_path):
    import shutil

    _, workdir = tiny
    shutil.copytree(workdir, tmp_path / "run")
    text = (tmp_path / "run" / "config.json").read_text()
    (tmp_path / "run" / "config.json").write_text(text.replace('"embedding": 4', '"embedding": 8'))
    result = command("--workdir", tmp_path / "run", script="eval.py")
    assert_refused(result, "is of another network", "embedding", "Use the config that it was trained with")


def test_truncated_checkpoint_is_refused(tiny, tmp_path):
    import shutil

    _, workdir = tiny
    shutil.copytree(workdir, tmp_path / "run")
    files = [p for p in (tmp_path / "run" / "checkpoints" / "6").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    # In a process of its own: reads that orbax left behind would print tracebacks until the end.
    result = command("--workdir", tmp_path / "run", script="eval.py")
    assert_refused(result, "cannot be read", "Remove that folder to go on from an earlier one")


def test_not_a_work_directory_is_refused(tmp_path):
    assert_refused(command("--workdir", tmp_path / "nothing", script="eval.py"), "is not a work directory")


def folder_data(root, semantic_value=1000, label_size=(32, 64)):
    """A data folder of two images in each split."""
    for split in ("train", "val"):
        for kind in ("images", "instances"):
            (root / split / kind).mkdir(parents=True)
        for i in range(2):
            image = np.random.default_rng((i, len(split))).integers(0, 256, (32, 64, 3), np.uint8)
            label = np.zeros(label_size, np.uint16)
            label[4:20, 4:30] = semantic_value + i
            Image.fromarray(image).save(root / split / "images" / f"{i}.png")
            Image.fromarray(label).save(root / split / "instances" / f"{i}.png")


def train_on(folder, tmp_path, tiny):
    argv = ["--config", str(tiny[0]), "--workdir", str(tmp_path / "run"), "--data.builder", "folder"]
    cli.train([*argv, "--data.root", str(folder), "--data.classes", "disc", "--train.steps", "1"])


def test_a_folder_of_ones_own_trains(tmp_path, tiny):
    folder_data(tmp_path / "data")
    train_on(tmp_path / "data", tmp_path, tiny)
    assert model.load(tmp_path / "run").step == 1
    assert Path(model.read_config(tmp_path / "run").data.root).is_absolute()


def test_bad_data_is_refused(tmp_path, tiny):
    folder_data(tmp_path / "unknown", semantic_value=7000)
    argv = ["--config", str(tiny[0]), "--workdir", str(tmp_path / "run"), "--data.builder", "folder"]
    argv += ["--data.root", str(tmp_path / "unknown"), "--data.classes", "disc"]
    assert_refused(command(*argv, script="train.py"), "0.png holds 7000", "class 7 of 1 to 1")
    folder_data(tmp_path / "sizes", label_size=(30, 64))
    with pytest.raises(config.UserError, match=r"0\.png.*30"):
        train_on(tmp_path / "sizes", tmp_path, tiny)
    folder_data(tmp_path / "cut")
    image = tmp_path / "cut" / "train" / "images" / "1.png"
    image.write_bytes(image.read_bytes()[:2000])
    with pytest.raises(config.UserError, match=r"1\.png"):
        train_on(tmp_path / "cut", tmp_path, tiny)
    (tmp_path / "empty").mkdir()
    with pytest.raises(config.UserError, match="empty"):
        train_on(tmp_path / "empty", tmp_path, tiny)
