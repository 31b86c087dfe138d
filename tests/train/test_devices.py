"""Eight devices, and two processes of two devices, do what one device does with the same global batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def start(output, *argv):
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, "-m", "tests.train.many", str(output), *map(str, argv)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one device does: scalars of five updates, parameters and statistics after the first and the last."""
    path = tmp_path_factory.mktemp("one") / "one.npz"
    finish(start(path, 1))
    with np.load(path) as arrays:
        return dict(arrays)


def assert_equal(one, path):
    with np.load(path) as arrays:
        other = dict(arrays)
    assert one.keys() == other.keys()
    assert sum("params" in name for name in one) > 20
    assert one["4/loss"] < one["0/loss"]
    for name, array in one.items():
        # After one update by a rate of 0.1, parameters that agree within 1e-6 have gradients that agree within 1e-5.
        limit = 1e-6 if name.startswith("0/params") else 1e-5
        np.testing.assert_allclose(other[name], array, atol=limit * max(1, np.abs(array).max()), err_msg=name)


def test_eight_devices_do_what_one_does(one, tmp_path):
    finish(start(tmp_path / "eight.npz", 8))
    assert_equal(one, tmp_path / "eight.npz")


def test_two_processes_do_what_one_does(one, tmp_path):
    coordinator = f"localhost:{free_port()}"
    finish(*(start(tmp_path / "two.npz", 2, coordinator, 2, i) for i in range(2)))
    assert_equal(one, tmp_path / "two.npz")
