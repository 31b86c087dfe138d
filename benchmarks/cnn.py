"""The network alone beside the same network, with the same parameters, in PyTorch.

python benchmarks/cnn.py [--config FILE ...] [--batch 1] [--compile] [--rounds 9] [--model.dtype bfloat16 ...]

Needs torch. PyTorch runs in inference mode, channels last, with as many threads as there are cores; with --compile also
through torch.compile, on a GPU in mode max-autotune, which replays CUDA graphs. The last column is how far the results
are apart, relative to the greatest. On a GPU, PyTorch has to see it too. Prints a table on stderr, a line of JSON on
stdout.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import turns  # isort: skip (before JAX)
import jax
import numpy as np
import pytorch
import torch

from jaxseg import cli, config
from jaxseg.apps import benchmark, model

CONFIGS = Path(__file__).parents[1] / "configs"
DEFAULT = [CONFIGS / "cityscapes_mnv2_os4.py", CONFIGS / "cityscapes_dn53_os4.py"]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, nargs="+", default=DEFAULT)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also run torch.compile, which takes minutes")
    parser.add_argument("--rounds", type=int, default=9)
    options, rest = parser.parse_known_args()
    torch.set_num_threads(turns.CORES)
    torch.set_float32_matmul_precision("high")  # On a GPU, as its convolutions and XLA's.
    torch.backends.cudnn.benchmark = True
    rows = []
    for path in options.config:
        rows += _rows(cli.override(cli.read_segmentation(path), rest), options)
        print(f"{path.stem}: {rows[-1]['ours_ms']:.1f} ms", file=sys.stderr, flush=True)
    keys = ("config", "ours_ms", "peer", "peer_ms", "ratio", "apart")
    turns.table(("config", "ours, ms", "peer", "peer, ms", "peer / ours", "apart"), [_row(row, keys) for row in rows])
    print(json.dumps({**turns.about(), "batch": options.batch, "rounds": options.rounds, "rows": rows}))


def _row(row: dict[str, Any], keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(f"{row[key]:.0e}" if key == "apart" else row[key] for key in keys)


def _rows(settings: config.Config, options: argparse.Namespace) -> list[dict[str, Any]]:
    network, variables = model.network(settings), benchmark.variables(settings)
    size, dtype = settings.model.size or settings.data.crop, settings.model.dtype
    images = np.random.default_rng(0).integers(0, 256, (options.batch, *size, 3)).astype(np.uint8)
    placed = jax.device_put(images)
    compiled = jax.jit(lambda variables, images: network.apply(variables, images, train=False))
    peers = _peers(pytorch.Peer(network, variables), images, dtype, options.compile)
    wanted = compiled(variables, placed)
    apart = max(
        float(np.abs(theirs - np.asarray(ours).reshape(theirs.shape)).max() / np.abs(theirs).max())
        for theirs, ours in zip(
            (y.permute(0, 2, 3, 1).float().cpu().numpy() for y in peers["PyTorch"](0)),
            (wanted.semantic, wanted.embedding, wanted.center),
            strict=False,  # The baseline has no centers.
        )
    )
    found = turns.times({"ours": lambda _: jax.block_until_ready(compiled(variables, placed)), **peers}, options.rounds)
    return [
        {
            "config": settings.name,
            "size": size,
            "dtype": dtype,
            "ours_ms": round(statistics.median(found["ours"]), 3),
            "peer": name,
            "peer_ms": round(statistics.median(found[name]), 3),
            **turns.ratio(found["ours"], found[name]),
            "apart": apart,
        }
        for name in peers
    ]


def _peers(peer: torch.nn.Module, images: np.ndarray, dtype: str, compiling: bool) -> dict[str, Callable[[int], Any]]:
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    peer = peer.to(device, getattr(torch, dtype), memory_format=torch.channels_last)
    batch = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)

    def calling(run: Callable) -> Callable[[int], Any]:
        def call(_: int) -> Any:
            with torch.inference_mode():
                maps = run(batch)
            if device == "cuda":
                torch.cuda.synchronize()
            return maps

        return call

    runs = {"PyTorch": calling(peer)}
    if compiling:
        runs["torch.compile"] = calling(torch.compile(peer, mode="max-autotune" if device == "cuda" else "default"))
    return runs


if __name__ == "__main__":
    main()
