"""Measures a run whose classes were weighted as the paper prints it, with the bias of the weights taken out afterwards.

python benchmarks/study/corrected.py --workdir DIR

Weights w of eq. 1 make a network say a class w times as often as it is right (`losses.semantic.cross_entropy`); here
log w is subtracted from the logits of the trained network. Writes metrics.json to DIR/corrected.
"""

import argparse
import dataclasses
import json

import jax.numpy as jnp
import numpy as np

from jaxseg import runtime
from jaxseg.apps import evaluate, files, model
from jaxseg.apps.tasks import segmentation
from jaxseg.data import pipeline, prepare
from jaxseg.losses import semantic
from jaxseg.train import storage


def corrected(trained: model.Model, pixels: np.ndarray) -> model.Model:
    """The network with unbiased logits.

    Args:
      trained: its logits are biased by the weights of its run.
      pixels: (c,) labelled pixels of each class in its training images.
    """
    power = trained.settings.losses.class_weight_power
    weights = semantic.class_weights(jnp.asarray(pixels / pixels.sum(), jnp.float32), power=power)
    params = trained.variables["params"]
    head = params["semantic"]
    predict = head["predict"] | {"bias": head["predict"]["bias"] - jnp.log(weights)}
    changed = params | {"semantic": head | {"predict": predict}}
    return dataclasses.replace(trained, variables={**trained.variables, "params": changed})


def main() -> None:
    """Evaluates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="folder of the run")
    workdir = storage.folder(parser.parse_args().workdir)
    runtime.prepare()
    settings = model.read_config(workdir)
    if settings.losses.class_correction:
        parser.error("the logits of this run have no bias: its class_correction is not 0.")
    pixels = np.asarray(json.loads((workdir / segmentation.FREQUENCIES).read_text())["pixels"], np.float64)
    evaluation = evaluate.Evaluation(corrected(model.load(workdir, settings), pixels))
    data, layout = prepare.resolve(settings.data)
    for example in pipeline.val_examples(prepare.dataset(data, layout).split("val", full=True)):
        evaluation.add(example)
    output = workdir / "corrected"
    files.require_writable(output)
    files.write_json(output / "metrics.json", evaluation.metrics("val"))


if __name__ == "__main__":
    main()
