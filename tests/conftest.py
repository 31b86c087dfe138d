"""Two forced CPU devices, so that sharding is always tested, and compiled programs kept between tests.

Most of the tests' time is compilation, so XLA emits code without LLVM's optimizations, a third faster; its own passes,
fusion among them, stay. XLA_FLAGS set from outside takes the place of both flags; with the number of devices alone,
what users run is tested. The program's own flags are set here too: it sets them too late in a process that has JAX, and
other ones round sums in another way.
"""

import gc
import os
import tempfile
from pathlib import Path

import pytest

from jaxseg import runtime

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0")
runtime.set_flags()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "jaxseg-tests-compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jax  # noqa: E402  (after its settings)

MAPPED = 30_000
"""Memory mappings at which compiled programs are forgotten: each takes some, and a process may have 65,530 of them."""


@pytest.fixture(scope="module", autouse=True)
def _room_for_programs():
    yield
    maps = Path("/proc/self/maps")
    if maps.is_file() and maps.read_bytes().count(b"\n") > MAPPED:
        jax.clear_caches()
        gc.collect()
