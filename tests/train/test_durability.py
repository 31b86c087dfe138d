"""Runs that are killed, stopped or starved of disk go on as if nothing had been."""

import contextlib
import os
import random
import signal
import subprocess
import time

import pytest

from jaxseg import cli, config
from tests.train.runs import STEPS, Training, assert_same, assert_stopped, saved, state, write

KILLS = int(os.environ.get("JAXSEG_TEST_KILLS", "1"))
LENGTH = 12
"""Seconds that a run takes, about; the first half of them goes by before the first update."""


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
    argv = ["--config", str(file), "--workdir", str(tmp_path / "run")]
    training = Training(file, tmp_path / "run")
    store = tmp_path / "run" / "checkpoints"
    assert training.until(lambda: saved(tmp_path / "run")[-1])
    with mounted(store, "--bind", str(store)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(store)], check=True)
        status, said = training.end()
        assert_stopped(status, said, "cannot be written", "Read-only")
        with pytest.raises(config.UserError, match="Read-only"):
            cli.train(argv)
    cli.train(argv)
    assert_same(state(tmp_path / "run"), expected)
