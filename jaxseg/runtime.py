"""How this process runs: its memory, and what XLA is told. Standard library only, so that it can come first."""

import ctypes
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Options of glibc's mallopt(3)."""

KNOWN = ("0.10.", "0.11.")
"""Versions of jaxlib whose flags are known; XLA ends the process at a flag that it has not."""


def prepare(deterministic: bool = False) -> None:
    """What every command does first: `keep_memory` and `set_flags`.

    Args:
      deterministic: only operations whose results repeat bit for bit, on GPUs too.
    """
    keep_memory()
    set_flags(deterministic)


def keep_memory() -> None:
    """Lets glibc keep freed memory: XLA's CPU temporaries otherwise fault in anew at every step.

    No block is mapped by itself, and nothing is ever trimmed: thresholds are ints, and the temporaries of a step can
    exceed 2 GiB. One arena for all threads, because those of single threads hand out nothing above 64 MiB. Call before
    anything starts a thread. Does nothing without glibc.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        libc.mallopt(M_ARENA_MAX, 1)


def set_flags(deterministic: bool = False) -> None:
    """Adds to XLA_FLAGS what makes programs faster or smaller, and leaves alone what it holds already.

    On CPU, programs run in the order that needs the least memory: another order starts what depends on nothing early,
    such as transformed kernels of all layers, and was no faster. Loops use 512-bit vectors where the processor runs
    them at full speed. Call before JAX compiles anything; later it has no effect.

    Args:
      deterministic: see `prepare`.
    """
    flags = {}
    if importlib.metadata.version("jaxlib").startswith(KNOWN):
        flags["xla_cpu_enable_concurrency_optimized_scheduler"] = "false"
        if _has_wide_vectors():
            flags["xla_cpu_prefer_vector_width"] = "512"
    if deterministic:
        flags["xla_gpu_deterministic_ops"] = "true"
    given = os.environ.get("XLA_FLAGS", "")
    added = [f"--{name}={value}" for name, value in flags.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join([*given.split(), *added])


def _has_wide_vectors() -> bool:
    """Whether 512-bit vectors cost no clock rate: where AVX-512 has VBMI (Zen 4, Ice Lake and later), on Linux."""
    try:
        return " avx512_vbmi" in " ".join(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
