"""Data parallelism: the only file that knows devices.

`jax.pmap` maps the per-device step over all devices; whatever replaces it one day replaces it here.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxseg import config
from jaxseg.train.step import Numbers, Task, step

AXIS = "devices"
"""Name of the mapped axis; batch normalisation reduces over it too."""


def prepare_host() -> None:
    """Makes the processor cores devices, one each, where there is no accelerator. Call before any other use of JAX.

    XLA's CPU backend runs many elementwise loops on one thread; data parallelism over the cores uses them all, and
    synchronised statistics keep the result the same. A count set by the user (``JAX_NUM_CPU_DEVICES`` or XLA's flag)
    is left alone.
    """
    flagged = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not flagged and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def devices_for(batch: int) -> list[jax.Device]:
    """This host's devices, all of which get an equal part of the batch.

    Args:
      batch: examples in an update.

    Raises:
      UserError: the devices do not divide the batch (on CPU: fewer cores are used instead).
    """
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return devices[: max(n for n in range(1, len(devices) + 1) if batch % n == 0)]
    total = jax.device_count()
    if batch % total:
        low = batch - batch % total
        sizes = " or ".join(str(size) for size in (low, low + total) if size)
        raise config.UserError(f"`train.batch` {batch} is not divided by {total} devices. Choose {sizes}.")
    return devices


def replicate(tree: Any, devices: list[jax.Device]) -> Any:
    """A copy of every array for each device, along a new leading axis; `train_step` places them."""
    return jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (len(devices), *np.shape(x))), tree)


def unreplicate(tree: Any) -> Any:
    """The first device's copy, as host arrays: what is saved."""
    return jax.tree.map(lambda x: np.asarray(x[0]), tree)


def shard(batch: Any, devices: list[jax.Device]) -> Any:
    """Splits a host batch evenly along its first axis, one part a device; `train_step` places them."""
    return jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), batch)


def train_step(task: Task, devices: list[jax.Device]) -> Callable:
    """The update mapped over devices: (replicated state, sharded batch, numbers) -> (state, scalars of each device)."""
    mapped = task.on(AXIS)

    def per_device(state: Any, batch: Any, numbers: Numbers) -> Any:
        return step(state, batch, numbers, mapped)

    return jax.pmap(per_device, axis_name=AXIS, in_axes=(0, 0, None), donate_argnums=(0,), devices=devices)
