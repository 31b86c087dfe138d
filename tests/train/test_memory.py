"""Memory that was freed is used again without faults, in any thread."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys, threading
from jaxseg.train import memory

if sys.argv[1] == "keep":
    memory.keep()
libc, size = ctypes.CDLL(None), 2**27
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

thread = threading.Thread(target=lambda: print(*(faults() for _ in range(3)), "jax" in sys.modules))
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the options are glibc's")
def test_large_blocks_fault_in_once():
    """128 MiB, used three times by a thread: its own arena would map them anew each time."""
    run = [sys.executable, "-c", PROGRAM]
    first, *again, jax = subprocess.run([*run, "keep"], capture_output=True, text=True, check=True).stdout.split()
    assert jax == "False", "importing jax starts threads, which is too early"
    left_alone = subprocess.run([*run, "leave"], capture_output=True, text=True, check=True).stdout.split()[1:-1]
    assert max(map(int, again)) * 10 < int(first)
    assert max(map(int, again)) * 10 < min(map(int, left_alone))
