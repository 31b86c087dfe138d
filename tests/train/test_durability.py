"""Runs that are killed, stopped, starved of disk or robbed of a process go on as if nothing had been."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxseg import cli, config
from jaxseg.apps import model
from tests.train.test_devices import free_port

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("JAXSEG_TEST_KILLS", "2"))
STEPS = 60
LENGTH = 12
"""Seconds that a run takes, about; the first half of them goes by before the first update."""
CONFIG = """
from jaxseg.config import *

config = Config(
    name="tiny",
    data=Data(builder={builder!r}, root={root!r}, classes=("disc", "square"), crop=(32, 64), cache={cache!r},
              shapes=Shapes(size=(32, 64), train=10, val=3)),
    model=Model(encoder={encoder!r}, encoder_stride=8, decoder_width=0.25, embedding=4),
    targets=TargetSettings(max_instances=12),
    grouping=Grouping(slots=12, center=0.05),
    optimizer=Optimizer(name={optimizer!r}, learning_rate={rate}, average=0.9),
    train=Train(steps={steps}, batch=4, log_every=10, save_every=5, picture_every=0),
)
"""


def write(folder, optimizer="adamw", rate=1e-2, steps=STEPS, encoder="tests.tiny_encoder:TinyEncoder", root=""):
    """A config file in a folder."""
    file = folder / "tiny.py"
    builder = "folder" if root else "shapes"
    cache = str(folder / "cache")
    file.write_text(
        CONFIG.format(
            cache=cache, optimizer=optimizer, rate=rate, steps=steps, encoder=encoder, builder=builder, root=str(root)
        )
    )
    return file


class Training:
    """train.py in a process of its own; what it says is in a file."""

    def __init__(self, file, workdir, *argv, **environment):
        self.said = file.with_name(f"{time.monotonic_ns()}.txt")
        command = [sys.executable, "train.py", "--config", str(file), "--workdir", str(workdir), *map(str, argv)]
        with self.said.open("w") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stderr=output)

    def until(self, condition, seconds=120):
        """Waits for something to be true while the program runs; whether it came true."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.002)
        return False

    def trains(self):
        return self.until(lambda: "from step" in self.said.read_text())

    def signal(self, number):
        self.process.send_signal(number)
        return self

    def end(self, seconds=120):
        """Waits for the end; status and what was said."""
        return self.process.wait(seconds), self.said.read_text()


def saved(workdir):
    """Steps of its checkpoints, and 0."""
    return [0, *sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())]


def state(workdir):
    settings = model.read_config(workdir)
    return model.restored(model.module(settings), settings, workdir)


def assert_same(one, other):
    """Every bit of parameters, statistics, their averages, the optimizer's state and the step."""
    ours, theirs = (jax.tree_util.tree_leaves_with_path(tree) for tree in (one, other))
    assert len(ours) > 50
    for (path, a), (_, b) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def damage(workdir, step):
    """Changes a few bytes in the midst of the file that holds most arrays."""
    largest = max(
        (p for p in (workdir / "checkpoints" / str(step)).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 10)
    content[middle] = bytes(b ^ 0x5A for b in content[middle])
    largest.write_bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(config file, last state of a run that nothing happened to)."""
    folder = tmp_path_factory.mktemp("whole")
    file = write(folder)
    cli.train(["--config", str(file), "--workdir", str(folder / "run")])
    last = state(folder / "run")
    assert last.step == STEPS
    return file, last


def test_runs_killed_at_any_moment_end_as_if_they_had_not_been(whole, tmp_path):
    """SIGKILL at random moments of training, again and again; JAXSEG_TEST_KILLS says how often."""
    file, expected = whole
    rng, kills, saving, runs = random.Random(0), 0, 0, 0
    while kills < KILLS:
        workdir = tmp_path / f"run{runs}"
        runs += 1
        while kills < KILLS:
            training = Training(file, workdir, "--train.save-every", 2)
            assert training.trains(), training.said.read_text()
            training.until(lambda: False, rng.uniform(0, LENGTH))
            if training.process.poll() is not None:
                break  # It came to its end.
            training.signal(signal.SIGKILL).end()
            kills += 1
            saving += any("tmp" in p.name for p in (workdir / "checkpoints").glob("*"))
            print(f"kill {kills}: {saved(workdir)}, {saving} while saving")
        status, said = Training(file, workdir).end()
        assert status == 0, said
        assert_same(state(workdir), expected)


def test_signals_save_and_a_damaged_checkpoint_is_put_aside(whole, tmp_path):
    """SIGTERM, then SIGINT, then the newest checkpoint damaged: each time the run goes on exactly."""
    file, expected = whole
    workdir = tmp_path / "run"
    for number, title in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")):
        before = saved(workdir)[-1]
        training = Training(file, workdir)
        assert training.until(lambda before=before: saved(workdir)[-1] > before), training.said.read_text()
        begun = time.monotonic()
        status, said = training.signal(number).end()
        assert time.monotonic() - begun < 10
        assert status == 128 + number
        last = saved(workdir)[-1]
        assert f"jaxseg: stopped by {title} at step {last}, which is saved." in said.splitlines()[-1]
        assert "Traceback" not in said
        assert before < last < STEPS
    damage(workdir, last)
    status, said = Training(file, workdir).end()
    assert status == 0, said
    assert f"{last} cannot be read" in said
    assert "is used instead" in said
    assert [p.name for p in (workdir / "damaged").iterdir()] == [f"{last}_0"]
    assert_same(state(workdir), expected)


@contextlib.contextmanager
def mounted(path, *options):
    """Something mounted there; skips where this process may not."""
    path.mkdir(exist_ok=True)
    if subprocess.run(["mount", *options, str(path)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def assert_stopped(status, said, *words):
    """Status 2; the last line says what to do, and there is no traceback."""
    assert status == 2, said
    assert "Traceback" not in said, said
    for word in words:
        assert word in said.splitlines()[-1], said


def test_a_full_disk_stops_the_run_and_leaves_earlier_checkpoints_whole(whole, tmp_path):
    file, expected = whole
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m", "tmpfs") as disk:
        status, said = Training(file, disk / "run", "--train.keep", STEPS).end()
        assert_stopped(status, said, "cannot be written", "No space left", "is whole", "Make room")
        last = state(disk / "run")
        assert 0 < last.step < STEPS
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        cli.train(["--config", str(file), "--workdir", str(disk / "run"), "--train.keep", str(STEPS)])
        assert_same(state(disk / "run"), expected)


def test_a_store_that_becomes_read_only_stops_the_run(whole, tmp_path):
    file, expected = whole
    training = Training(file, tmp_path / "run")
    store = tmp_path / "run" / "checkpoints"
    assert training.until(lambda: saved(tmp_path / "run")[-1])
    with mounted(store, "--bind", str(store)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(store)], check=True)
        status, said = training.end()
        assert_stopped(status, said, "cannot be written", "Read-only")
        again, refused = Training(file, tmp_path / "run").end()
        assert_stopped(again, refused, "Read-only")
    cli.train(["--config", str(file), "--workdir", str(tmp_path / "run")])
    assert_same(state(tmp_path / "run"), expected)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_process_ends_the_other_within_a_minute(whole, tmp_path, victim):
    """Without the leading process, JAX itself may be the first to say so and to end the other."""
    file, _ = whole
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_NUM_CPU_DEVICES": "1"}
    joined = ("--coordinator", f"localhost:{free_port()}", "--processes", 2)
    runs = [Training(file, tmp_path / "run", *joined, "--process", i, **flags) for i in range(2)]
    assert runs[0].until(lambda: saved(tmp_path / "run")[-1]), runs[0].said.read_text()
    runs[victim].signal(signal.SIGKILL).end()
    status, said = runs[1 - victim].end(60)
    if victim == 0 and status == -signal.SIGABRT:
        assert "another task died" in said
    else:
        assert_stopped(status, said, "Another process of this run ended", "go on from step")


def test_a_run_goes_on_with_other_devices(tmp_path):
    """From 1 device to 4 and back: as on one, within 1e-5."""
    file = write(tmp_path, "sgd", 1e-3, 40)
    results = []
    for counts in ((1,), (1, 4, 1)):
        workdir = tmp_path / f"run{len(results)}"
        for i, count in enumerate(counts):
            flags = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
            before = saved(workdir)[-1]
            training = Training(file, workdir, XLA_FLAGS=flags)
            if i < len(counts) - 1:
                assert training.until(lambda b=before, w=workdir: saved(w)[-1] > b)
                training.signal(signal.SIGTERM)
            status, said = training.end()
            assert status == (143 if i < len(counts) - 1 else 0), said
            assert f"{count} x cpu" in said
        results.append(state(workdir))
        assert results[-1].step == 40
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(a).max()))


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
