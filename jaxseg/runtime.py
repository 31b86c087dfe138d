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
    """Adds `options` to XLA_FLAGS, but for what it says already. Call before JAX compiles anything.

    Where XLA_FLAGS names a file of flags, that has to hold all of them.

    Args:
      deterministic: see `prepare`; this overrides what XLA_FLAGS says.
    """
    given = os.environ.get("XLA_FLAGS", "").split()
    if given and not given[0].startswith("-"):
        return  # The name of a file with flags.
    names = {flag.lstrip("-").split("=")[0] for flag in given}
    added = [f"--{name}={str(value).lower()}" for name, value in options().items() if name not in names]
    added += ["--xla_gpu_deterministic_ops=true"] if deterministic else []
    os.environ["XLA_FLAGS"] = " ".join([*given, *added])


def options() -> dict[str, bool | int]:
    """Names and values of XLA's settings that make programs faster or smaller; also what `jax.jit` takes as options.

    On CPU, programs run in the order that needs the least memory: another order starts what depends on nothing early,
    such as transformed kernels of all layers, and was no faster. Loops use 512-bit vectors where the processor runs
    them at full speed. Empty for a jaxlib whose settings are not known.
    """
    try:
        known = importlib.metadata.version("jaxlib").startswith(KNOWN)
    except importlib.metadata.PackageNotFoundError:
        known = False
    found: dict[str, bool | int] = {"xla_cpu_enable_concurrency_optimized_scheduler": False}
    if _has_wide_vectors():
        found["xla_cpu_prefer_vector_width"] = 512
    return found if known else {}


def _has_wide_vectors() -> bool:
    """Whether 512-bit vectors cost no clock rate: where AVX-512 has VBMI2 (Zen 4, Ice Lake and later), on Linux."""
    try:
        return "avx512_vbmi2" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
