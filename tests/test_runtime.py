"""Memory that was freed is used again without faults, in any thread; XLA is told what helps, and no more."""

import os
import platform
import subprocess
import sys

import pytest

from jaxseg import runtime

PROGRAM = """
import ctypes, resource, sys, threading
from jaxseg import runtime

if sys.argv[1] == "keep":
    runtime.keep_memory()
libc, size, used = ctypes.CDLL(None), int(sys.argv[2]), 2**27
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    libc.memset(block, 1, used)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

thread = threading.Thread(target=lambda: print(*(faults() for _ in range(3)), "jax" in sys.modules))
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the options are glibc's")
@pytest.mark.parametrize("size", [2**27, 2**31 + 2**27])
def test_large_blocks_fault_in_once(size):
    """128 MiB of a block, three times in a thread. A step's temporaries may exceed any threshold of malloc."""
    run = [sys.executable, "-c", PROGRAM]
    kept = subprocess.run([*run, "keep", str(size)], capture_output=True, text=True, check=True).stdout
    first, *again, jax = kept.split()
    assert jax == "False", "importing jax starts threads, which is too early"
    left = subprocess.run([*run, "leave", str(size)], capture_output=True, text=True, check=True).stdout.split()[1:-1]
    assert max(map(int, again)) * 10 < int(first)
    assert max(map(int, again)) * 10 < min(map(int, left))


def test_flags_are_added_to_what_is_given(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_cpu_prefer_vector_width=128")
    monkeypatch.setattr(runtime, "_has_wide_vectors", lambda: True)
    runtime.set_flags(deterministic=True)
    assert os.environ["XLA_FLAGS"].split() == [
        "--xla_a=1",
        "--xla_cpu_prefer_vector_width=128",
        "--xla_cpu_enable_concurrency_optimized_scheduler=false",
        "--xla_gpu_deterministic_ops=true",
    ]


def test_deterministic_overrides_what_is_given(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
    runtime.set_flags(deterministic=True)
    assert os.environ["XLA_FLAGS"].endswith("--xla_gpu_deterministic_ops=true"), "the last one counts"


def test_a_file_of_flags_is_left_alone(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "flags.txt")
    runtime.set_flags(deterministic=True)
    assert os.environ["XLA_FLAGS"] == "flags.txt"


def test_an_unknown_jaxlib_gets_no_flags_that_it_might_not_have(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "9.0.0")
    runtime.set_flags()
    assert os.environ["XLA_FLAGS"] == ""


def test_xla_knows_the_flags():
    """It ends the process at one that it has not."""
    program = "from jaxseg import runtime; runtime._has_wide_vectors = lambda: True; runtime.prepare(True)\n"
    program += "import jax; print(jax.jit(lambda x: x + 1)(1))"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (run.returncode, run.stdout) == (0, "2\n"), run.stderr
