"""Runs an exported network without jaxseg: python run_exported.py FILE IMAGE.npy (needs jax and flatbuffers)."""

import json
import sys

import jax
import numpy as np
from jax import export

file = np.load(sys.argv[1], allow_pickle=False)
about = json.loads(file["about"].tobytes())
program = export.deserialize(bytearray(file["program"].tobytes()))
weights = jax.device_put([file[name] for name in about["weights"]])
run = jax.jit(program.call)

frame = np.load(sys.argv[2])  # uint8 RGB (H, W, 3), of the size about["frame"]
found = jax.device_get(run(weights, frame[None], about["thresholds"]))
for i in np.flatnonzero(found["instances"]["valid"][0]):
    row = {name: value[0, i] for name, value in found["instances"].items()}
    print(i + 1, about["classes"][row["class_id"]], f"{row['score']:.2f}", row["box"].tolist(), row["area"])
np.savez("found.npz", semantic=found["semantic"][0], instance=found["instance"][0])
