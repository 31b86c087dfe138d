"""A tiny network and its exported file; run as a program, it writes the golden file of the JAX that it runs on."""

import gzip
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxseg import config
from jaxseg.apps import export, model

GOLDEN = Path(__file__).parent / "golden"
FRAME = (32, 64)

SETTINGS = config.Config(
    name="tiny",
    data=config.Data(classes=("disc", "road", "square"), stuff=("road",), colors=((1, 2, 3), (4, 5, 6), (7, 8, 9))),
    model=config.Model(encoder="tests.tiny_encoder:TinyEncoder", encoder_stride=8, decoder_width=0.25, embedding=4),
    grouping=config.Grouping(slots=12, center=0.05),
)


def tiny(settings=SETTINGS):
    """A network that was never trained, with kernels so large that it finds something of each class."""
    network = model.network(settings)
    start = jax.jit(lambda key: network.init(key, jnp.zeros((1, *FRAME, 3)), train=False))
    variables = jax.tree.map(lambda x: 3 * x if x.ndim == 4 else x, start(jax.random.key(1)))
    return model.Model(settings, network, variables, 7)


if __name__ == "__main__":
    file = GOLDEN / f"exported_by_jax_{jax.__version__}.npz"
    export.export(tiny(), file, FRAME, ["cpu"])
    file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    file.unlink()
    print(file, file=sys.stderr)
