"""Data parallelism: the only file that knows devices and processes.

`jax.pmap` maps the per-device step over the devices of all processes; whatever replaces it one day replaces it here.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg import config
from jaxseg.train import gradients
from jaxseg.train.step import Numbers, Task, step

AXIS = "devices"
"""Name of the mapped axis; batch normalisation reduces over it too."""

HEARTBEAT = 20
"""Seconds after which a process that is no longer heard of is lost, and the others end."""

PATIENCE = 300
"""Seconds that a process waits for process 0."""

TOGETHER = 4
"""Runs of a sweep that an accelerator computes at once, at most, where nothing else is said."""

LAUNCHERS = {"SLURM_STEP_NODELIST": "SLURM_NTASKS", "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE"}
"""Environment variables that Slurm's srun and Open MPI's mpirun set, and that in which they say how many they start."""


def prepare_host() -> None:
    """Makes the processor cores devices, one each, where there is no accelerator. Call before any other use of JAX.

    XLA's CPU backend runs many elementwise loops on one thread; data parallelism over the cores uses them all, and
    synchronised statistics keep the result the same. A count set by the user (``JAX_NUM_CPU_DEVICES`` or XLA's flag)
    is left alone.
    """
    flagged = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not flagged and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def connect(coordinator: str = "", processes: int | None = None, process: int | None = None) -> None:
    """Joins the processes of a run; does nothing where there is only one. Call before any other use of JAX.

    Without arguments the cluster says what they are: Slurm, Open MPI, a TPU pod or Kubernetes, as `jax.distributed`
    finds them.

    Args:
      coordinator: "host:port" of process 0, where all can reach it.
      processes: how many there are.
      process: which one this is, from 0.

    Raises:
      UserError: some arguments are missing, or the processes do not find one another.
    """
    given = (bool(coordinator), processes is not None, process is not None)
    if any(given) and not all(given):
        raise config.UserError(
            "--coordinator HOST:PORT, --processes N and --process I go together. Give all three to each process."
        )
    if not any(given) and not managed():
        return
    if coordinator:
        _require_answer(coordinator, process or 0)
    try:
        jax.distributed.initialize(
            coordinator or None,
            processes,
            process,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=HEARTBEAT,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise config.UserError(
            f"The processes of this run do not find one another: {reason} "
            "Give each of them --coordinator HOST:PORT, --processes N and --process I."
        ) from error


def _require_answer(coordinator: str, process: int) -> None:
    """Waits until process 0 is there; JAX would end the program without a line of ours.

    Raises:
      UserError: no "host:port", or nobody answers.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise config.UserError(f"--coordinator {coordinator} is no HOST:PORT. Name a free port of process 0's machine.")
    end = time.monotonic() + PATIENCE
    while process:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise config.UserError(
                    f"Nobody answers at {coordinator}: {error.strerror or error}. Start process 0 there, with the same "
                    "--coordinator, and see that this machine can reach it."
                ) from error
            time.sleep(1)


def managed() -> bool:
    """Whether a cluster started this process as one of several."""
    if any(started in os.environ and int(os.environ.get(count, "1")) > 1 for started, count in LAUNCHERS.items()):
        return True
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return len(hosts) > 1 or ("KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" in os.environ)


def lead() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def place() -> tuple[int, int]:
    """Which process this is, and how many there are."""
    return jax.process_index(), jax.process_count()


def alone() -> bool:
    """Whether there is no other process."""
    return jax.process_count() == 1


def shared(tree: Any) -> Any:
    """The leading process' arrays in every process; each gives arrays of the same shapes and dtypes."""
    if alone():
        return tree
    from jax.experimental import multihost_utils

    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def shared_text(text: str | None) -> str | None:
    """The leading process' text in every process."""
    if alone():
        return text
    content = np.frombuffer((text or "").encode(), np.uint8)
    size = int(shared(np.asarray(-1 if text is None else len(content), np.int32)))
    if size < 0:
        return None
    return shared(content if lead() else np.zeros(size, np.uint8)).tobytes().decode()


def total(tree: Any) -> Any:
    """Sums of every process' host arrays, in all of them."""
    if alone():
        return tree
    from jax.experimental import multihost_utils

    return jax.tree.map(lambda x: np.asarray(x).sum(0), multihost_utils.process_allgather(tree))


@contextlib.contextmanager
def lead_first() -> Iterator[None]:
    """The leading process goes first, so that what it leaves on a shared disk is there for the others."""
    if not lead():
        shared(np.zeros(()))
    yield
    if lead():
        shared(np.zeros(()))


@contextlib.contextmanager
def together(step: Callable[[], int]) -> Iterator[None]:
    """Turns the loss of another process into one line.

    Args:
      step: of the last checkpoint.

    Raises:
      Lost: another process ended or cannot be reached. Where that was the leading one, JAX may end this process
        (SIGABRT, with a message of its own) before there is anything to raise.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if alone():
            raise
        reason = str(error).splitlines()[0][:200].rstrip(".")
        raise config.Lost(
            f"Another process of this run ended or cannot be reached: {reason}. "
            f"Start all of them again; they go on from step {step()}."
        ) from error


def devices_for(batch: int, accumulate: int = 1) -> list[jax.Device]:
    """The devices of all processes, each of which gets an equal part of the batch.

    Args:
      batch: examples in an update.
      accumulate: parts that each device computes its examples in.

    Raises:
      UserError: the devices do not divide the batch (on CPU: fewer cores are used instead, as many in each process).
    """
    here, everywhere, processes = jax.local_devices(), jax.devices(), jax.process_count()
    if here[0].platform == "cpu" and batch % (processes * accumulate) == 0:
        count = max(n for n in range(1, len(here) + 1) if batch % (n * processes * accumulate) == 0)
        chosen: list[jax.Device] = []
        for process in range(processes):
            chosen += [d for d in everywhere if d.process_index == process][:count]
        return chosen
    parts = len(everywhere) * accumulate
    if batch % parts:
        low = batch - batch % parts
        sizes = " or ".join(str(size) for size in (low, low + parts) if size)
        times = f" times {accumulate} parts" if accumulate > 1 else ""
        raise config.UserError(
            f"`train.batch` {batch} is not divided by {len(everywhere)} devices{times}. Choose {sizes}."
        )
    return everywhere


def replicate(tree: Any, devices: list[jax.Device]) -> Any:
    """A copy of every array on each device of this process, along a new leading axis."""
    here = _here(devices)
    # As `train_step` returns them; otherwise JAX would trace it once for the first state and once for all others.
    mapped = NamedSharding(Mesh(np.array(here), (AXIS,)), PartitionSpec(AXIS))
    return jax.tree.map(
        lambda x: jax.device_put(np.broadcast_to(np.asarray(x), (len(here), *np.shape(x))), mapped), tree
    )


def unreplicate(tree: Any) -> Any:
    """The first device's copy, as host arrays: what is saved."""
    return jax.tree.map(first, tree)


def first(array: Any) -> np.ndarray:
    """The first device's part of a mapped array, on the host."""
    # Copied, because the device's memory is given to the next update. Sliced after that: on a device it is a program.
    return np.array(array if isinstance(array, np.ndarray) else array.addressable_data(0))[0]


def shard(batch: Any, devices: list[jax.Device]) -> Any:
    """Splits this process' rows evenly along their first axis, one part a device; `train_step` places them."""
    here = len(_here(devices))
    return jax.tree.map(lambda x: x.reshape(here, -1, *x.shape[1:]), batch)


def _here(devices: list[jax.Device]) -> list[jax.Device]:
    return [d for d in devices if d.process_index == jax.process_index()]


def train_step(task: Task, devices: list[jax.Device], accumulate: int = 1) -> Callable:
    """The update mapped over devices.

    Args:
      task: static parts of the step.
      devices: of all processes.
      accumulate: parts that each device computes its examples in.

    Returns:
      (replicated state, sharded batch, numbers, whether this process is to stop) -> (state, scalars of each device);
      the scalar "stop" is how many devices belong to a process that is to.
    """
    mapped, here = task.on(AXIS), len(_here(devices))

    def per_device(state: Any, batch: Any, numbers: Numbers, stop: Any) -> Any:
        after, scalars = step(state, batch, numbers, mapped, accumulate)
        return after, scalars | {"stop": jax.lax.psum(stop, AXIS)}

    update = jax.pmap(per_device, axis_name=AXIS, in_axes=(0, 0, None, 0), donate_argnums=(0,), devices=_given(devices))
    return lambda state, batch, numbers, stop=False: update(state, batch, numbers, np.full(here, stop, np.int32))


def measure_gradients(task: Task, devices: list[jax.Device], accumulate: int = 1) -> Callable:
    """`gradients.of_term` of each term mapped over devices, a program of its own; arguments are those of `train_step`.

    Returns:
      (replicated state, sharded batch, numbers) -> their products, the same of each device.
    """
    mapped, given = task.on(AXIS), _given(devices)

    def per_device(state: Any, batch: Any, numbers: Numbers, chosen: Any) -> Any:
        return gradients.of_term(state, batch, numbers, mapped, chosen, accumulate)

    gradient = jax.pmap(per_device, axis_name=AXIS, in_axes=(0, 0, None, None), devices=given)
    products = jax.pmap(gradients.products, axis_name=AXIS, devices=given)

    def measure(state: Any, batch: Any, numbers: Numbers) -> Any:
        each = np.eye(len(numbers.weights), dtype=np.float32)
        return products([gradient(state, batch, numbers, chosen) for chosen in each])

    return measure


def _given(devices: list[jax.Device]) -> list[jax.Device] | None:
    """Devices as `jax.pmap` is told them: None for all that there are."""
    return None if alone() and len(devices) == len(jax.devices()) else devices


class Variants:
    """The update of several runs of one program, which differ in state, batch and numbers; nothing is summed over them.

    Each device computes some of them, and all of their batch. Fewer runs than there is room for are filled up by the
    caller: another number would be another compilation.

    Attributes:
      slots: runs in a call.
    """

    def __init__(self, task: Task, count: int, together: int = 0, accumulate: int = 1) -> None:
        """Compiles nothing yet.

        Args:
          task: static parts of the step, for a lone device.
          count: how many runs there are.
          together: runs that a device computes at once, by `jax.vmap`, at most; 0 chooses. On processors that is one:
            gradients of convolutions take several times as long under `jax.vmap`. Accelerators have room for more.
          accumulate: parts that each run's examples are computed in.
        """
        here = jax.local_devices()
        each = -(-count // len(here))
        # As few calls as hold them all, and those as even as can be: 9 runs are 3 times 3, not 4, 4 and 1.
        even = -(-each // -(-each // TOGETHER))
        self._together = min(together, count) or (1 if here[0].platform == "cpu" else even)
        self._devices = here[: -(-count // self._together)]
        self.slots = len(self._devices) * self._together
        single = self._together == 1

        def one(state: Any, batch: Any, numbers: Numbers) -> Any:
            return step(state, batch, numbers, task, accumulate)

        def alone_there(*arguments: Any) -> Any:
            return jax.tree.map(lambda x: x[None], one(*jax.tree.map(lambda x: x[0], arguments)))

        per_device = alone_there if single else jax.vmap(one)
        given = None if len(self._devices) == len(jax.devices()) else self._devices
        # Named as `place` names it: otherwise JAX would compile it once for the first states and once for all others.
        self._update = jax.pmap(per_device, axis_name=AXIS, donate_argnums=(0,), devices=given)

    def update(self, states: Any, batches: Any, numbers: Any) -> tuple[Any, Any]:
        """New states and scalars of each run; all of them as `place` or `rows` makes them."""
        return self._update(states, batches, numbers)

    def place(self, trees: Sequence[Any]) -> Any:
        """The arrays of each run on its device; one tree a slot."""
        mapped = NamedSharding(Mesh(np.array(self._devices), (AXIS,)), PartitionSpec(AXIS))
        return jax.tree.map(lambda *xs: jax.device_put(self._stacked(xs), mapped), *trees)

    def rows(self, trees: Sequence[Any]) -> Any:
        """The same on the host, (devices, runs of a device, ...); `update` places it."""
        return jax.tree.map(lambda *xs: self._stacked(xs), *trees)

    def _stacked(self, arrays: Sequence[Any]) -> np.ndarray:
        return np.stack(arrays).reshape(len(self._devices), self._together, *np.shape(arrays[0]))

    def host(self, scalars: Any) -> Any:
        """Scalars as `update` returns them, on the host: one value a slot."""
        return jax.tree.map(lambda x: np.asarray(x).ravel(), scalars)

    def part(self, tree: Any, slot: int) -> Any:
        """The arrays of one run, on the host."""
        device, place = divmod(slot, self._together)

        def taken(x: jax.Array) -> np.ndarray:
            (data,) = (s.data for s in x.addressable_shards if (s.index[0].start or 0) == device)
            # Copied, because the device's memory is given to the next update.
            return np.array(np.asarray(data)[0, place])

        return jax.tree.map(taken, tree)


def debug_step(task: Task, accumulate: int = 1) -> tuple[list[jax.Device], Callable]:
    """One device, and the update on it as `train_step` gives it, whose operations `debug` can run one at a time."""
    mapped, devices = task.on(AXIS), jax.local_devices()[:1]

    def per_device(state: Any, batch: Any, numbers: Numbers, stop: Any) -> Any:
        after, scalars = step(state, batch, numbers, mapped, accumulate)
        return after, scalars | {"stop": stop}

    update = jax.jit(jax.vmap(per_device, in_axes=(0, 0, None, 0), axis_name=AXIS))
    return devices, lambda state, batch, numbers, stop=False: update(state, batch, numbers, np.full(1, stop, np.int32))
