"""Runs that lose a process, and runs that go on with other devices."""

import signal

import jax
import numpy as np
import pytest

from jaxseg import cli
from jaxseg.config import UserError
from jaxseg.train import parallel
from tests.train.runs import STEPS, Training, assert_stopped, saved, state, write
from tests.train.test_devices import free_port


def two(folder):
    """Two processes of one run, after their first checkpoint."""
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_NUM_CPU_DEVICES": "1"}
    joined = ("--coordinator", f"localhost:{free_port()}", "--processes", 2)
    runs = [Training(write(folder), folder / "run", *joined, "--process", i, **flags) for i in range(2)]
    assert runs[0].until(lambda: saved(folder / "run")[-1]), runs[0].said.read_text()
    return runs


def test_a_signal_to_one_process_stops_all_at_one_step(tmp_path):
    runs = two(tmp_path)
    runs[1].signal(signal.SIGTERM)
    ends = [run.end() for run in runs]
    last = saved(tmp_path / "run")[-1]
    assert 0 < last < STEPS
    for status, said in ends:
        assert status == 128 + signal.SIGTERM
        assert f"stopped by SIGTERM at step {last}, which is saved" in said.splitlines()[-1]


def test_a_lost_process_ends_the_other_within_a_minute(tmp_path):
    """Without the leading process JAX itself may be the first to say so and to end the other, so that one is kept."""
    runs = two(tmp_path)
    runs[1].signal(signal.SIGKILL).end()
    assert_stopped(*runs[0].end(60), "Another process of this run ended", "go on from step")


def test_a_run_goes_on_with_other_devices(tmp_path):
    """From 1 device to 4 and back: as on two, within 1e-5.

    With this seed no ReLU's input is so near 0 that rounding decides its sign; where one is, a gradient jumps by 1e-3.
    """
    file, seed = write(tmp_path, "sgd", 1e-3, 40), ("--seed", "2")
    cli.train(["--config", str(file), "--workdir", str(tmp_path / "two"), *seed])
    workdir = tmp_path / "many"
    for count, expected in ((1, 143), (4, 143), (1, 0)):
        flags = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
        before = saved(workdir)[-1]
        training = Training(file, workdir, *seed, XLA_FLAGS=flags)
        if expected:
            assert training.until(lambda before=before: saved(workdir)[-1] > before)
            training.signal(signal.SIGTERM)
        status, said = training.end()
        assert status == expected, said
        assert f"{count} x cpu" in said
    two, many = state(tmp_path / "two"), state(workdir)
    assert two.step == many.step == 40
    for a, b in zip(jax.tree.leaves(two), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(a).max()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost:1", None, None), "go together"),
        (("localhost", 2, 1), "localhost is no HOST:PORT"),
        (("localhost:70000", 2, 1), "localhost:70000 is no HOST:PORT"),
    ],
)
def test_processes_that_are_not_described_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        parallel.connect(*arguments)


def test_a_process_that_nobody_answers_ends(monkeypatch):
    monkeypatch.setattr(parallel, "PATIENCE", 1)
    with pytest.raises(UserError, match=r"Nobody answers at localhost:\d+"):
        parallel.connect(f"localhost:{free_port()}", 2, 1)
