"""How this process keeps its memory. Imports the standard library only, so that it can be told before anything else."""

import ctypes
import platform
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Options of glibc's mallopt(3)."""


def keep() -> None:
    """Lets glibc keep freed memory: XLA's CPU temporaries otherwise fault in anew at every step.

    One arena for all threads, because those of single threads hand out nothing above 64 MiB: glibc maps larger blocks
    anew each time, whatever its thresholds say. Call before anything starts a thread. Does nothing without glibc.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc, largest = ctypes.CDLL("libc.so.6"), 2**31 - 1
        libc.mallopt(M_MMAP_THRESHOLD, largest)
        libc.mallopt(M_TRIM_THRESHOLD, largest)
        libc.mallopt(M_ARENA_MAX, 1)
