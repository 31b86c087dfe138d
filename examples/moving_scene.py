"""Writes a generated scene that moves, to try `jaxseg predict` on: python examples/moving_scene.py scene.mp4."""

import argparse
from pathlib import Path

from jaxseg.apps.media import films
from jaxseg.data import sequences

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("output", type=Path, help="video file")
parser.add_argument("--frames", type=int, default=240)
parser.add_argument("--rate", type=float, default=12.0, help="frames a second")
parser.add_argument("--size", type=int, nargs=2, default=(128, 256), metavar=("H", "W"))
parser.add_argument("--seed", type=int, default=3)
options = parser.parse_args()

with films.film(options.output) as film:
    for frame in sequences.sequence(options.seed, 0, options.frames, tuple(options.size)):
        film.write(frame.image, 1 / options.rate)
