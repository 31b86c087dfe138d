"""Five updates of a small network on any devices and processes; the leading process writes what came of it.

Usage: python -m tests.train.many OUTPUT DEVICES [COORDINATOR PROCESSES PROCESS]
"""

import sys

import jax
import numpy as np
import optax

from jaxseg.train import parallel, segmentation, state
from tests.train import test_step as small

STEPS = 5


def main(output: str, count: str, coordinator: str = "", processes: str = "1", process: str = "0") -> None:
    jax.config.update("jax_num_cpu_devices", int(count))
    if coordinator:
        parallel.connect(coordinator, int(processes), int(process))
    update = optax.sgd(0.1)
    devices = parallel.devices_for(8)
    assert len(devices) == int(count) * int(processes)
    numbers = segmentation.numbers(small.config.Losses(), np.array([0.7, 0.1, 0.1, 0.1], np.float32), 3.0)
    begin = state.create(small.recipe(update).network, update, 0, small.SIZE)
    run = parallel.train_step(small.recipe(update, parallel.AXIS), devices)
    index, shards = parallel.place()
    rows = slice(index * 8 // shards, (index + 1) * 8 // shards)
    now, results = parallel.replicate(begin, devices), {}
    for i in range(STEPS):
        batch = jax.tree.map(lambda x: x[rows], small.batch(range(8 * i, 8 * i + 8)))
        now, scalars = run(now, parallel.shard(batch, devices), numbers)
        results |= {f"{i}/{name}": parallel.first(value) for name, value in scalars.items()}
        if i in (0, STEPS - 1):
            after = parallel.unreplicate(now)
            for kind in ("params", "batch_stats"):
                leaves = jax.tree_util.tree_leaves_with_path(getattr(after, kind))
                results |= {f"{i}/{kind}{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
    if parallel.lead():
        np.savez(output, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
