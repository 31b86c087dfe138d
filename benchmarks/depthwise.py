"""Depthwise 3x3 convolutions of MobileNetV2 in both forms, forward and backward, and PyTorch's where it is installed.

python benchmarks/depthwise.py [--size 512 1024] [--rounds 7]

"shifted" is nine shifted multiply-adds, "grouped" a convolution of as many groups as channels; `layers.depthwise` takes
the first on processors and the second elsewhere. Backward is the gradient by features and kernel, with the forward pass
that it needs. Prints a table on stderr, a line of JSON on stdout.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import turns  # isort: skip (before JAX)
import jax
import jax.numpy as jnp

from jaxseg.nn import layers, mobilenet_v2

FORMS = {"shifted": layers.depthwise_shifted, "grouped": layers.depthwise_grouped}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), help="height and width of the image")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rows = []
    for h, w, channels, stride, dilation in _shapes(*options.size):
        row: dict[str, Any] = {"features": f"{h} x {w} x {channels}", "stride": stride, "dilation": dilation}
        found = turns.times(_runs((1, h, w, channels), stride, dilation), options.rounds)
        row |= {f"{name}_ms": round(statistics.median(times), 3) for name, times in found.items()}
        rows.append(row)
        print(row["features"], file=sys.stderr, flush=True)
    turns.table(tuple(key.replace("_", " ") for key in rows[0]), [tuple(row.values()) for row in rows])
    print(json.dumps({**turns.about(), "size": tuple(options.size), "rounds": options.rounds, "rows": rows}))


def _shapes(height: int, width: int) -> list[tuple[int, int, int, int, int]]:
    """Input size, channels, stride and dilation of every kind of depthwise layer at output stride 16."""
    stem, *plan = layers.stages((2, *(s for _, _, _, s in mobilenet_v2.STAGES)), 16)
    total, channels, found = stem.total, 32, []
    for (expansion, features, repeats, _), stage in zip(mobilenet_v2.STAGES, plan, strict=True):
        steps = [(stage.stride, stage.first), *[(1, stage.rest)] * (repeats > 1)]
        for stride, dilation in steps:
            found.append((height // total, width // total, channels * expansion, stride, dilation))
            total, channels = total * stride, features
    return sorted(set(found), reverse=True)


def _runs(shape: tuple[int, ...], stride: int, dilation: int) -> dict[str, Callable[[int], Any]]:
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, shape[-1]))
    runs: dict[str, Callable[[int], Any]] = {}
    for name, form in FORMS.items():

        def loss(x: Any, kernel: Any, form: Callable = form) -> Any:
            return jnp.sum(jnp.square(form(x, kernel, stride, dilation)))

        forward = jax.jit(lambda x, kernel, form=form: form(x, kernel, stride, dilation))
        backward = jax.jit(jax.grad(loss, (0, 1)))
        runs[f"{name}_forward"] = lambda _, run=forward: jax.block_until_ready(run(x, kernel))
        runs[f"{name}_backward"] = lambda _, run=backward: jax.block_until_ready(run(x, kernel))
    return runs | _peers(x, kernel, stride, dilation)


def _peers(x: Any, kernel: Any, stride: int, dilation: int) -> dict[str, Callable[[int], Any]]:
    try:
        import numpy as np
        import torch
    except ImportError:
        return {}
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    torch.set_num_threads(turns.CORES)
    torch.backends.cudnn.benchmark = True
    features = torch.from_numpy(np.array(x)).to(device).permute(0, 3, 1, 2)
    weight = torch.from_numpy(np.array(kernel)).to(device).permute(3, 2, 0, 1).contiguous()
    settings = {"stride": stride, "padding": dilation, "dilation": dilation, "groups": x.shape[-1]}

    def waited(result: Any) -> Any:
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    def forward(_: int) -> Any:
        with torch.inference_mode():
            return waited(torch.nn.functional.conv2d(features, weight, **settings))

    def backward(_: int) -> Any:
        inputs = [part.detach().requires_grad_() for part in (features, weight)]
        return waited(torch.autograd.grad(torch.nn.functional.conv2d(*inputs, **settings).square().sum(), inputs))

    return {"PyTorch_forward": forward, "PyTorch_backward": backward}


if __name__ == "__main__":
    main()
