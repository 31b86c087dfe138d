"""Instance-level evaluation of a Cityscapes submission: ours beside the official scripts, on the same files.

python benchmarks/cityscapes_evaluation.py [--frames 500] [--instances 20]

Generates ground truth (instance ids, 2048 x 1024) and a submission as `eval.py --submission` writes it (one text file a
frame, one binary PNG an object), evaluates both ways, reading included, and prints one line of JSON. Frames are taken
in turns, a block by each, so that whatever else the machine does weighs on both. Stops where AP or AP50 differ by more
than 1e-9.
"""

import argparse
import dataclasses
import json
import os
import platform
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jaxseg.config import Data
from jaxseg.data import cityscapes as layout
from jaxseg.metrics import Counts, Truth, cityscapes

SIZE = (1024, 2048)
BLOCK = 25
THREADS = 2
THINGS = tuple(row for row in layout.EVALUATED if row.thing)
CLASSES = layout._classes(Data(builder="cityscapes"))
OF = {row.id: CLASSES.names.index(row.name) for row in THINGS}
SHARE = np.array([17.9, 1.8, 26.9, 0.5, 0.4, 0.2, 0.7, 3.7]) / 52.1
"""How often each class is drawn: as in the fine training annotations (He et al., Mask R-CNN, ICCV 2017, appendix A)."""


def main() -> None:
    """Generates, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--instances", type=int, default=20, help="objects in a frame; about as many are predicted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        with ThreadPoolExecutor(THREADS) as pool:
            frames = range(options.frames)
            masks = sum(pool.map(lambda i: write(root, i, options.instances), frames))
        print(json.dumps({"frames": options.frames, "masks": masks, **compare(root, options.frames)}))


def write(root: Path, number: int, instances: int) -> int:
    """Writes truth and predictions of one frame; returns how many were predicted."""
    rng = np.random.default_rng(number)
    raw = np.full(SIZE, 7, np.uint16)
    raw[:400], raw[1000:], lines = 23, 1, []
    shapes = [ellipse(rng) for _ in range(instances)]
    ids = [THINGS[i].id for i in rng.choice(len(THINGS), instances, p=SHARE)]
    for n, (shape, label) in enumerate(zip(shapes, ids, strict=True)):
        cv2.ellipse(raw, *shape, 0, 0, 360, label * 1000 + n if rng.random() < 0.95 else label, -1)
    for n, (((x, y), axes), label) in enumerate(zip(shapes, ids, strict=True)):
        mask, shift = np.zeros(SIZE, np.uint8), rng.integers(-8, 9, 2)
        cv2.ellipse(mask, (x + int(shift[0]), y + int(shift[1])), axes, 0, 0, 360, 255, -1)
        lines.append(f"{number}_{n}.png {label} {rng.random():.3f}\n")
        cv2.imwrite(str(root / f"{number}_{n}.png"), mask, [cv2.IMWRITE_PNG_BILEVEL, 1])
    cv2.imwrite(str(stem(root, number)) + "_gtFine_instanceIds.png", raw)
    Path(f"{stem(root, number)}_pred.txt").write_text("".join(lines))
    return len(lines)


def ellipse(rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
    """Center (x, y) and half axes; sizes spread over two decades, as those of cars near and far."""
    half = np.exp(rng.uniform(np.log(6), np.log(160), 2))
    return (int(rng.integers(0, SIZE[1])), int(rng.integers(300, 1000))), (int(half[0]), int(half[1]))


def stem(root: Path, number: int) -> Path:
    """Path of a frame's files without their endings."""
    return root / f"city_{number:06d}_000000"


def compare(root: Path, frames: int) -> dict[str, Any]:
    """Both evaluations, block by block in turns."""
    tool, args = official(root)
    ours, matches = cityscapes.AveragePrecision.empty(), {}
    seconds = {"ours": 0.0, "official": 0.0}
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, frames, BLOCK):
            block = [str(stem(root, i)) for i in range(start, min(start + BLOCK, frames))]
            seconds["ours"] -= time.perf_counter()
            ours = ours + cityscapes.AveragePrecision.of(*pool.map(matched, block))
            seconds["ours"] += time.perf_counter()
            seconds["official"] -= time.perf_counter()
            predictions, truths = ([f"{s}{e}" for s in block] for e in ("_pred.txt", "_gtFine_instanceIds.png"))
            found = tool.getGtInstances(truths, args)
            matches |= tool.matchGtWithPreds(predictions, truths, found, args)
            seconds["official"] += time.perf_counter()
    seconds["ours"] -= time.perf_counter()
    result = ours.compute(len(CLASSES))
    seconds["ours"] += time.perf_counter()
    seconds["official"] -= time.perf_counter()
    averages = tool.computeAverages(tool.evaluateMatches(matches, args), args)
    seconds["official"] += time.perf_counter()
    for name, theirs in (("ap", averages["allAp"]), ("ap50", averages["allAp50%"])):
        if abs(result[name] - theirs) > 1e-9:
            raise SystemExit(f"{name} differs: {result[name]} here, {theirs} there.")
    return {
        "ap": result["ap"],
        "ap50": result["ap50"],
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "ratio": round(seconds["official"] / seconds["ours"], 2),
        "threads": THREADS,
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "numpy": np.__version__,
    }


def official(root: Path) -> tuple[Any, Any]:
    """The official module and its settings, quiet and without files of its own."""
    if not hasattr(np, "in1d"):  # left NumPy in 2.4, and the scripts use it
        np.in1d = np.isin  # noqa: NPY201
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as tool

    tool.writeDict2JSON = lambda *_: None
    tool.args.quiet, tool.args.JSONOutput = True, False
    tool.args.predictionPath, tool.args.gtInstancesFile = str(root), str(root / "none.json")
    tool.setInstanceLabels(tool.args)
    return tool, tool.args


def matched(frame: str) -> cityscapes.ImageMatches:
    """Matches of one frame from its files."""
    truth = segments(cv2.imread(f"{frame}_gtFine_instanceIds.png", cv2.IMREAD_UNCHANGED), frame)
    rows = [line.split() for line in Path(f"{frame}_pred.txt").read_text().splitlines()]
    kinds = np.array([OF[int(row[1])] for row in rows], np.int64)
    scores = np.array([float(row[2]) for row in rows])
    folder = Path(frame).parent
    masks = (cv2.imread(str(folder / row[0]), cv2.IMREAD_UNCHANGED) for row in rows)
    return cityscapes.matches(Counts.of_masks(None, masks, kinds, scores, truth, CLASSES))


def segments(raw: np.ndarray, name: str) -> Truth:
    """True segments of an instance map, by way of its few distinct values."""
    pixels = np.bincount(raw.ravel())
    values = np.flatnonzero(pixels)
    label, _ = layout.decode(values[None].astype(np.uint16), CLASSES, name)
    few = Truth.of(*label, CLASSES)
    place = np.zeros(len(pixels), np.int32)
    place[values] = few.index[0]
    area = np.bincount(few.index[0], pixels[values]).astype(np.int64)
    return dataclasses.replace(few, index=np.take(place, raw), area=area)


if __name__ == "__main__":
    main()
