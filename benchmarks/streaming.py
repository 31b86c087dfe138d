"""Frames a second of `jaxseg predict --video` beside the model alone: what reading, drawing and encoding cost.

python benchmarks/streaming.py [--config FILE] [--workdir DIR] [--frames 300] [--rounds 3] [--section.setting value ...]

A video of generated shapes that move is written first. In a round each has one turn: the model alone, called frame
after frame on frames that lie on the device, each result awaited; and all of the command on the video, from the first
frame that is read until the file is complete. Nothing compiles in a turn; starting Python and loading the model do not
count.

Without a work directory the network is untrained, and its confidence is set so that a thousandth of the grid elements
of the first frame passes it: a few objects, in crumbs all over the frame, which are more to draw and to encode than
what a trained network finds. Prints a table on stderr, a line of JSON on stdout.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import turns  # isort: skip (before JAX)
import av
import jax
import numpy as np

from jaxseg import cli, config
from jaxseg.apps import files, model, predict
from jaxseg.apps.media import films, inputs
from jaxseg.data import sequences
from jaxseg.train.checkpoint import Checkpoints

CONFIG = Path(__file__).parents[1] / "configs/cityscapes_mnv2_os4.py"
RATE = 30
TOP = 1e-3
"""Share of the grid elements that an untrained network takes for centers."""

AT_HAND = 16
"""Frames that lie on the device."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--workdir", type=Path, help="a trained run, in place of --config")
    parser.add_argument("--frames", type=int, default=300, help="at least 2")
    parser.add_argument("--rounds", type=int, default=3, help="at least 2")
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = model.read_config(options.workdir) if options.workdir else cli.read_segmentation(options.config)
        settings = cli.override(settings, rest)
        size = settings.model.size or settings.data.crop
        frames = _video(folder / "in.mp4", size, max(options.frames, 2))
        workdir = options.workdir or _untrained(settings, frames[0], folder / "run")
        times, objects = _measured(workdir, frames, folder, max(options.frames, 2), max(options.rounds, 2))
    rates = {what: [round(max(options.frames, 2) / s, 2) for s in its] for what, its in times.items()}
    share = turns.ratio(times["jaxseg predict --video"], times["segment"])
    rows = [(what, statistics.median(its), *its) for what, its in rates.items()]
    turns.table(("", "frames/s", *(f"round {i + 1}" for i in range(len(rows[0]) - 2))), rows)
    turns.table(("whole / segment", "quartiles"), [(share["ratio"], str(share["quartiles"]))])
    about = {"config": settings.name, "size": size, "frames": options.frames, "objects": objects}
    packages = {"av": av.__version__}
    print(json.dumps({**turns.about(), **about, **packages, "frames_per_second": rates, "share": share}))


def _measured(
    workdir: Path, frames: list[np.ndarray], folder: Path, count: int, rounds: int
) -> tuple[dict[str, list[float]], float]:
    """Seconds of each in each round, and objects a frame."""
    trained = model.load(workdir)
    placed = jax.block_until_ready([jax.device_put(frame) for frame in frames])
    objects = statistics.mean(int(trained(frame).instances.valid.sum()) for frame in placed)

    def alone() -> None:
        for i in range(count):
            jax.block_until_ready(trained(placed[i % len(placed)]))

    def whole() -> None:
        sources, _ = inputs.sources([str(folder / "in.mp4")])
        with films.film(folder / "out.mp4") as film, predict.Bar(sources) as bar:
            predict.run(trained, sources, bar, film=film)
            done = bar.done
        assert done == count, f"{done} of {count} frames came out."

    runs = {"segment": alone, "jaxseg predict --video": whole}
    times: dict[str, list[float]] = {what: [] for what in runs}
    for i in range(rounds + 1):
        for what, run in runs.items():
            start = time.perf_counter()
            run()
            times[what] += [time.perf_counter() - start] if i else []  # The first round warms up.
    return times, objects


def _video(path: Path, size: tuple[int, int], count: int) -> list[np.ndarray]:
    """Writes the video; some of its frames, spread over all of it."""
    kept = []
    with films.film(path) as film:
        for i, scene in enumerate(sequences.sequence(0, 0, count, size)):
            film.write(scene.image, 1 / RATE)
            if i % -(-count // AT_HAND) == 0:
                kept.append(scene.image)
    return kept


def _untrained(settings: config.Config, frame: np.ndarray, workdir: Path) -> Path:
    """A work directory of a network with random parameters that finds objects."""
    settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, builder="shapes"))
    network = model.network(settings)
    state = model.begin(network, settings)
    outputs = jax.jit(lambda values, images: network.apply(values, images, train=False))(state.variables, frame[None])
    confidence = float(np.quantile(jax.nn.sigmoid(outputs.center), 1 - TOP))
    grouping = dataclasses.replace(settings.grouping, center=confidence)
    files.write_text(workdir / model.CONFIG, config.to_json(dataclasses.replace(settings, grouping=grouping)))
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(jax.device_get(state))
    return workdir


if __name__ == "__main__":
    main()
