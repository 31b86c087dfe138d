"""How fast training images are read, and how much of that is not the decoding of the stored PNGs.

python benchmarks/pipeline.py [--images 256] [--seconds 20] [--photos FOLDER | --root CITYSCAPES]

Prints one line of JSON. The augmentation is that of configs/cityscapes_mnv2_os4.py at 512 x 1024. Rounds of the whole
pipeline and rounds that only decode the same bytes, as TFDS does and on as many threads, take turns, so that whatever
else the machine does weighs on both; a share is the median over pairs of neighboring rounds.
"""

import argparse
import dataclasses
import json
import os
import platform
import runpy
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jaxseg.config import Config, Data, Folder, Shapes
from jaxseg.data import Source, pipeline, prepare, shapes
from jaxseg.types import IGNORED

CONFIG = Path(__file__).parents[1] / "configs/cityscapes_mnv2_os4.py"
SIZE = (512, 1024)
MAPS = ("image", "semantic", "instance")
VOID = 65535
ROUND = 8
"""Batches in a round: a multiple of the pipeline's threads, and enough for memory to be used again as in a long run."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=int, default=256, help="how many scenes or photos to prepare; Grain shuffles few slowly"
    )
    parser.add_argument("--seconds", type=float, default=20, help="how long to measure")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--photos", type=Path, help="folder of photographs to use under the labels of generated scenes")
    kind.add_argument("--root", help="data set laid out as Cityscapes is published")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = _data(options, Path(scratch))
        print(json.dumps({"data": options.root or str(options.photos or "shapes"), **measure(data, options.seconds)}))


def measure(data: Data, seconds: float) -> dict[str, Any]:
    """Speed of the whole pipeline and of decoding alone.

    Args:
      data: settings of a data set; prepared where it is not yet.
      seconds: how long to measure.

    Returns:
      Images per second of both, and the share of time that is not decoding, by the clock and by the processor.
    """
    config: Config = runpy.run_path(str(CONFIG))["config"]
    data, layout = prepare.resolve(data)
    dataset = prepare.dataset(data, layout)
    batch = config.train.batch
    whole = _whole(dataset.split("train"), data, batch, config.model.size)
    decode = _decoding(dataset.builder, ROUND * batch)
    for run in (whole, decode):
        run(0)
    rounds, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds) < 3:
        i = len(rounds) + 1
        rounds.append((_timed(whole, i), _timed(decode, i)))
    clock = [(w[0], d[0]) for w, d in rounds]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "threads": pipeline.THREADS,
        "processor": _processor(),
        "size": SIZE,
        "rounds": len(rounds),
        "images_per_second": round(ROUND * batch / statistics.median(w for w, _ in clock), 1),
        "decoding_alone": round(ROUND * batch / statistics.median(d for _, d in clock), 1),
        "share_outside_decoding": _share(clock),
        "share_outside_decoding_cpu": _share([(w[1], d[1]) for w, d in rounds]),
    }


def _share(rounds: list[tuple[float, float]]) -> float:
    return round(1 - statistics.median(decode / whole for whole, decode in rounds), 3)


def _timed(run: Callable[[int], None], i: int) -> tuple[float, float]:
    """Seconds by the clock, and of the processor in all threads."""
    clock, processor = time.perf_counter(), time.process_time()
    run(i)
    return time.perf_counter() - clock, time.process_time() - processor


def _whole(source: Source, data: Data, batch: int, size: tuple[int, int] | None) -> Callable[[int], None]:
    """Reads the batches of a round, which ends with its last one: nothing is read ahead into the next round."""

    def run(i: int) -> None:
        for _ in pipeline.train_batches(source, data, batch, 0, i * ROUND, (i + 1) * ROUND, size=size):
            pass

    return run


def _decoding(builder: Any, count: int) -> Callable[[int], None]:
    """Decodes as many images as a round has, with their labels, from memory."""
    import tensorflow_datasets as tfds

    skip = dict.fromkeys(builder.info.features, tfds.decode.SkipDecoding())
    stored = builder.as_data_source("train", decoders=skip)
    features = builder.info.features

    def decode(i: int) -> None:
        for name in MAPS:
            features[name].decode_example_np(contents[i % len(contents)][name])

    contents = [stored[i] for i in range(min(len(stored), 2 * count))]
    pool = ThreadPoolExecutor(pipeline.THREADS)

    def run(i: int) -> None:
        list(pool.map(decode, range(i * count, (i + 1) * count)))

    return run


def _data(options: argparse.Namespace, scratch: Path) -> Data:
    """Settings of the data to read; photographs are written as a folder data set first."""
    config: Config = runpy.run_path(str(CONFIG))["config"]
    if options.root:
        return dataclasses.replace(config.data, root=options.root)
    common = {"classes": shapes.CLASSES, "cache": str(scratch / "cache"), "crop": SIZE, "augment": config.data.augment}
    if options.photos is None:
        return Data(builder="shapes", shapes=Shapes(SIZE, options.images, 1), **common)
    _write_photos(options.photos, options.images, scratch / "photos")
    return Data(builder="folder", root=str(scratch / "photos"), folder=Folder(ignored=(VOID,)), **common)


def _write_photos(photos: Path, count: int, root: Path) -> None:
    """Photographs at the size that is measured, under the labels of generated scenes."""
    read = (cv2.imread(str(path), cv2.IMREAD_COLOR) for path in sorted(photos.iterdir()))
    images = [cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA) for image in read if image is not None]
    if not images:
        raise SystemExit(f"{photos} holds no image that can be read. Give --photos another folder.")
    for kind in ("images", "instances"):
        (root / "train" / kind).mkdir(parents=True)
    for i in range(count):
        scene = shapes.generate(0, "train", i, SIZE)
        coded = scene.semantic.astype(np.uint16) * 1000 + scene.instance
        coded[scene.semantic == IGNORED] = VOID
        cv2.imwrite(str(root / f"train/images/{i:04}.png"), images[i % len(images)], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        cv2.imwrite(str(root / f"train/instances/{i:04}.png"), coded)


def _processor() -> str:
    """Name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
