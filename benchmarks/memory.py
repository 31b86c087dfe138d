"""Memory of a training step by batch size and rematerialization, as the compiler plans it; nothing is run.

python benchmarks/memory.py --config FILE [--batch 1 2 4 8] [--topology v5e:2x2] [--section.setting value ...]

Prints a table on stderr and a line of JSON on stdout, for one device. With --topology the step is compiled for one chip
of that TPU, which needs no TPU but libtpu (pip install "jax[tpu]"; set JAX_PLATFORMS=cpu and TPU_SKIP_MDS_QUERY=1);
otherwise for the device that is there. XLA for processors drops what rematerialization asks for, so that only
accelerators show its effect.

"peak" is what must fit: arguments (parameters, their moments, the batch), results that do not take an argument's place,
and what the step needs on the way. GFLOP and accessed GiB are the compiler's own counts for one step.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from jaxseg import cli, runtime

MIB = 2**20


def main() -> None:
    """Compiles and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="a config of segmentation")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8], help="images of a device")
    parser.add_argument("--topology", help="a TPU to compile for, as JAX names it")
    options, rest = parser.parse_known_args()
    settings = cli.override(cli.read_segmentation(options.config), rest)
    runtime.prepare()
    import jax

    device = _device(options.topology)
    rows = []
    for remat in (False, True):
        chosen = dataclasses.replace(settings, model=dataclasses.replace(settings.model, remat=remat))
        for batch in options.batch:
            rows.append(_row(chosen, batch, device))
            print(
                f"remat {remat}, {batch} images: {rows[-1]['peak_mib'] or 'too large'} MiB", file=sys.stderr, flush=True
            )
    _show(rows)
    machine = {"config": settings.name, "size": list(settings.data.crop), "device": device.device_kind}
    print(json.dumps({**machine, "dtype": settings.model.dtype, "jax": jax.__version__, "rows": rows}))


def _device(topology: str | None) -> Any:
    import jax

    if topology is None:
        return jax.devices()[0]
    from jax.experimental import topologies

    return topologies.get_topology_desc(topology, "tpu").devices[0]


def _row(settings: Any, batch: int, device: Any) -> dict[str, Any]:
    """What the compiler says of a step on one device."""
    import jax
    import numpy as np
    from jax.sharding import SingleDeviceSharding

    from jaxseg.apps import model
    from jaxseg.apps.tasks import segmentation
    from jaxseg.train.step import step
    from jaxseg.types import Batch

    placed = SingleDeviceSharding(device)

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=placed), tree)

    network, classes = model.module(settings), len(settings.data.classes) + 1
    task = segmentation.recipe(settings, network)
    numbers = segmentation.numbers(settings, np.full(classes, 1 / classes, np.float32))
    state = shapes(jax.eval_shape(lambda: model.begin(network, settings)))
    size = (batch, *settings.data.crop)
    maps = [jax.ShapeDtypeStruct(size, dtype, sharding=placed) for dtype in (np.uint8, np.uint16)]
    images = Batch(jax.ShapeDtypeStruct((*size, 3), np.uint8, sharding=placed), *maps)
    update = jax.jit(lambda state, batch: step(state, batch, numbers, task), donate_argnums=0)
    row = {"remat": settings.model.remat, "batch": batch}
    try:
        compiled = update.lower(state, images).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {**row, "peak_mib": None, "error": str(error).splitlines()[0][:300]}
    plan, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return {
        **row,
        "peak_mib": round((plan.argument_size_in_bytes + results + plan.temp_size_in_bytes) / MIB),
        "arguments_mib": round(plan.argument_size_in_bytes / MIB, 1),
        "temporary_mib": round(plan.temp_size_in_bytes / MIB),
        "gflops": round(cost.get("flops", 0) / 1e9),
        "accessed_gib": round(cost.get("bytes accessed", 0) / 2**30, 2),
    }


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for title in ("remat", "images", "peak, MiB", "on the way, MiB", "GFLOP", "accessed, GiB"):
        table.add_column(title, justify="right")
    for row in rows:
        figures = [str(row.get(name) or "") for name in ("temporary_mib", "gflops", "accessed_gib")]
        table.add_row(str(row["remat"]), str(row["batch"]), str(row["peak_mib"] or "does not fit"), *figures)
    Console(stderr=True, width=110).print(table)


if __name__ == "__main__":
    main()
