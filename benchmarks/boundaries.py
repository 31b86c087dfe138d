"""Boundaries of masks at the frame's size: superpixels of the frame beside enlarged masks of the network's size.

python benchmarks/boundaries.py [--nuclei FOLDER | --coco FOLDER] [--split val] [--most 200] [--divide 2]
                                [--sensor 1080 1920] [--compactness 3 ...] [--model DIR] [--pictures FOLDER]
python benchmarks/boundaries.py --time 15 [--sensor 1080 1920]

Each image is a frame; the network's input is the frame divided by 2 (--divide), k = 4. The elements of the grid get
the true labels at the network's size, as in training, and go through the grouping: only the way from there to the
pixels differs. Objects that vanish on the way there are not counted. With --sensor the frame keeps its size and that of
the network is such that they relate as this frame (height, width) does to a network of 512 x 1024, and the grid does
not divide it. With --model the labels are those that a trained network predicts. Without a folder: generated scenes.

--compactness measures superpixels of the frame alone, with each of these values (at the network's size). --time
measures the ways in turns, in that many rounds, on crowded scenes of 1024 x 2048 or of --sensor's size. Prints a table
on stderr, a line of JSON on stdout.
"""

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import turns  # isort: skip (before JAX)
import cv2
import frames
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import segment, targets
from jaxseg.apps import model
from jaxseg.config import Data
from jaxseg.data import Example, coco, folder, images, shapes
from jaxseg.metrics import boundaries
from jaxseg.ops import resizing, superpixels, upsampling
from jaxseg.types import Capacity, Thresholds

SHOWN = ("superpixels of the frame", "network's size, nearest", "grid, bilinear")
SIDE = 64
"""Of the crops in pictures."""

K = 4
NETWORK = (512, 1024)
"""What a sensor's frame is laid over."""

SLOTS = 512
CROPS = {"nuclei": (256, 256), "coco": (320, 448)}
"""What is cut out of the images: frames of one size compile once. Smaller images are left out."""

DISTANCES = (2, 4)
"""Of the boundary IoU, pixels, beside 2 % of the diagonal."""


class Plan(NamedTuple):
    """A frame, the network's input and its grid, all (height, width)."""

    frame: tuple[int, int]
    network: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Elements."""
        return self.network[0] // K, self.network[1] // K


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=Path, help="folder of images and instance maps of one class")
    parser.add_argument("--coco", type=Path, help="folder of COCO images and instances")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), help="of generated scenes")
    parser.add_argument("--split", default="val")
    parser.add_argument("--most", type=int, default=200, help="images")
    parser.add_argument("--divide", type=int, default=2, help="frame / network")
    parser.add_argument("--sensor", type=int, nargs=2, help="frame beside a network of 512 x 1024")
    parser.add_argument("--compactness", type=float, nargs="+", default=[])
    parser.add_argument("--model", type=Path, help="work directory")
    parser.add_argument("--time", type=int, default=0, help="rounds")
    parser.add_argument("--pictures", type=Path, help="folder for enlarged crops")
    options = parser.parse_args()
    rows = _times(options.sensor, options.time) if options.time else _qualities(options)
    turns.table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    settings |= {name: Path(settings[name]).name for name in ("nuclei", "coco", "model", "pictures") if settings[name]}
    print(json.dumps({**turns.about(), "settings": settings, "rows": rows}))


def _qualities(options: argparse.Namespace) -> list[dict[str, Any]]:
    found: dict[str, boundaries.Boundaries] = {}
    trained = model.load(str(options.model)) if options.model else None
    for number, example in enumerate(_examples(options)):
        plan = _plan(example.semantic.shape, options.divide, options.sensor)
        ids = _grid(example, plan, trained)
        owners = np.asarray(_owners(example, plan))
        known = np.unique(owners if trained else owners[np.asarray(ids) > 0])
        truth = np.where(np.isin(example.instance, known), example.instance, 0)
        distances = (*DISTANCES, boundaries.usual_distance(plan.frame))
        if options.compactness:
            chosen = {f"compactness {c:g}": functools.partial(_own, c) for c in options.compactness}
        else:
            chosen = ways(plan)
        maps = {name: np.asarray(way(example.image, ids, plan)) for name, way in chosen.items()}
        for name, masks in maps.items():
            here = boundaries.Boundaries.of(masks, truth, example.semantic == 255, distances)
            found[name] = found[name] + here if name in found else here
        if options.pictures and number < 8:
            _draw(options.pictures / f"{example.name}.png", example, maps)
    return [_row(name, total) for name, total in found.items()]


def _row(name: str, total: boundaries.Boundaries) -> dict[str, Any]:
    means = total.compute()
    titles = (*(f"boundary IoU, {d} px" for d in DISTANCES), "boundary IoU, 2 %")
    figures = dict(zip(titles, means["boundary_iou"], strict=True))
    figures |= dict(zip((f"F, {t} px" for t in boundaries.TOLERANCES), means["f"], strict=True))
    percent = {title: round(100 * float(value), 2) for title, value in {**figures, "IoU": means["iou"]}.items()}
    return {"way": name, **percent, "objects": total.objects}


def _examples(options: argparse.Namespace) -> Any:
    """Frames: generated scenes, or the middles of a data set's images, portrait ones on their side."""
    if not (options.nuclei or options.coco):
        for i in range(min(options.most, 40)):
            yield shapes.generate(0, options.split, i, tuple(options.size), 5)
        return
    size = CROPS["nuclei" if options.nuclei else "coco"]
    if options.nuclei:
        layout: Any = folder.layout(Data(builder="folder", root=str(options.nuclei), classes=("nucleus",)))
    else:
        layout = coco.layout(Data(builder="coco", root=str(options.coco)))
    for item in layout.splits[options.split][: options.most]:
        read = layout.read(item)
        pixels = images.decoded(read.content, item.name, "unreadable", cv2.IMREAD_COLOR)[..., ::-1]
        maps = [pixels, *read.label]
        if pixels.shape[0] > pixels.shape[1]:
            maps = [np.swapaxes(array, 0, 1) for array in maps]
        top, left = (maps[0].shape[0] - size[0]) // 2, (maps[0].shape[1] - size[1]) // 2
        if min(top, left) < 0:
            continue
        window = slice(top, top + size[0]), slice(left, left + size[1])
        example = Example(*(np.ascontiguousarray(array[window]) for array in maps), item.name)
        if example.instance.any():
            yield example


def _plan(frame: tuple[int, int], divide: int, sensor: Sequence[int] | None) -> Plan:
    if sensor is None:
        return Plan(frame, (frame[0] // divide, frame[1] // divide))
    grid = (round(frame[i] / sensor[i] * NETWORK[i] / K) for i in range(2))
    height, width = grid
    return Plan(frame, (height * K, width * K))


@functools.partial(jax.jit, static_argnums=1)
def shrunk(frame: Any, size: tuple[int, int]) -> Any:
    """The network's input, as `segment.inputs` makes it."""
    return resizing.linear(jnp.asarray(frame)[None], size)[0]


@functools.partial(jax.jit, static_argnums=3)
def _targets(frame: Any, semantic: Any, instance: Any, plan: Plan) -> Any:
    assignment = superpixels.assign(shrunk(frame, plan.network), K, Thresholds().compactness)
    labels = (jax.image.resize(x, plan.network, "nearest") for x in (semantic, instance))
    return targets.make(*labels, assignment, K, SLOTS, style="point")


@jax.jit
def _grouped(truth: Any) -> Any:
    outputs = segment.oracle(truth, 256, 1)
    return segment.group(outputs, jnp.ones(truth.semantic.shape, bool), SLOTS, Thresholds()).ids.astype(jnp.uint16)


@functools.partial(jax.jit, static_argnums=3)
def _on_grid(frame: Any, semantic: Any, instance: Any, plan: Plan) -> Any:
    assignment = superpixels.assign(shrunk(frame, plan.network), K, Thresholds().compactness)
    labels = (jax.image.resize(x, plan.network, "nearest") for x in (semantic, instance))
    return targets.sample(*labels, assignment, K)[1]


def _owners(example: Example, plan: Plan) -> Any:
    """True object of each element."""
    return _on_grid(example.image, example.semantic, example.instance, plan)


def _grid(example: Example, plan: Plan, trained: Any) -> Any:
    """Object of each element: the truth's after grouping, or what a network finds."""
    if trained is None:
        return _grouped(_targets(example.image, example.semantic, example.instance, plan))
    return _predicted(trained.network, trained.variables, example.image, plan, model.thresholds(trained.settings))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _predicted(network: Any, variables: Any, frame: Any, plan: Plan, thresholds: Thresholds) -> Any:
    outputs = network.apply(variables, shrunk(frame, plan.network)[None], train=False)
    outputs = jax.tree.map(lambda x: x[0], outputs)
    return segment.group(outputs, jnp.ones(plan.grid, bool), SLOTS, thresholds).ids.astype(jnp.uint16)


Way = Callable[[Any, Any, Plan], Any]
"""Frame, object of each element, and plan to the object of each pixel of the frame."""


def ways(plan: Plan) -> Mapping[str, Way]:
    """Ways from the grid to the frame's pixels."""
    divided = plan.frame[0] % plan.grid[0] == 0 and plan.frame[0] * plan.grid[1] == plan.frame[1] * plan.grid[0]
    if not divided:
        nearest = round(float(np.sqrt(plan.frame[0] * plan.frame[1] / (plan.grid[0] * plan.grid[1]))))
        over = max(-(-plan.frame[i] // plan.grid[i]) for i in range(2))
        return {
            f"canvas of cells of {cell}, {method}": functools.partial(_canvas, cell, method)
            for cell in sorted({nearest, over})
            for method in ("nearest", "linear")
        } | {"network's size, nearest": _low}
    return {
        "superpixels of the frame": functools.partial(_own, Thresholds().compactness),
        "network's size, nearest": _low,
        "network's size, bilinear": _low_bilinear,
        "network's size, cubic": _low_cubic,
        "grid, bilinear": _bilinear,
        "grid, nearest": _blocks,
    }


@functools.partial(jax.jit, static_argnums=3)
def _own(compactness: Any, frame: Any, ids: Any, plan: Plan) -> Any:
    return _through(compactness, plan.frame, jnp.asarray(frame), ids, plan)


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def _canvas(cell: int, method: str, frame: Any, ids: Any, plan: Plan) -> Any:
    size = (plan.grid[0] * cell, plan.grid[1] * cell)
    frame = jnp.asarray(frame)
    if method == "linear":
        canvas = jnp.clip(jax.image.resize(frame.astype(jnp.float32) / 255, (*size, 3), "linear"), 0, 1)
    else:
        canvas = jax.image.resize(frame, (*size, 3), "nearest")
    masks = _through(Thresholds().compactness, size, canvas, ids, plan)
    return jax.image.resize(masks, plan.frame, "nearest")


def _through(compactness: Any, size: tuple[int, int], canvas: Any, ids: Any, plan: Plan) -> Any:
    """Through superpixels of a canvas to its pixels."""
    geometry = segment.Geometry(size, plan.network, size, size[0] // plan.grid[0], plan.grid, False)
    capacity, numbers = Capacity(superpixel=K, size=plan.network), Thresholds(compactness=compactness)
    return superpixels.upsample(ids, segment.assign(canvas, geometry, capacity, numbers), geometry.cell)


def _low_masks(frame: Any, ids: Any, plan: Plan) -> Any:
    assignment = superpixels.assign(shrunk(frame, plan.network), K, Thresholds().compactness)
    return superpixels.upsample(ids, assignment, K)


@functools.partial(jax.jit, static_argnums=2)
def _low(frame: Any, ids: Any, plan: Plan) -> Any:
    return jax.image.resize(_low_masks(frame, ids, plan), plan.frame, "nearest")


@functools.partial(jax.jit, static_argnums=2)
def _low_bilinear(frame: Any, ids: Any, plan: Plan) -> Any:
    return upsampling.bilinear(_low_masks(frame, ids, plan), plan.frame[0] // plan.network[0])


def _low_cubic(frame: Any, ids: Any, plan: Plan) -> Any:
    """On the host: each object's mask by OpenCV's cubic interpolation, and the greatest of them."""
    small = np.asarray(jax.jit(_low_masks, static_argnums=2)(frame, ids, plan))
    best, owner = np.full(plan.frame, -np.inf, np.float32), np.zeros(plan.frame, np.uint16)
    for i in np.unique(small):
        mask = cv2.resize((small == i).astype(np.float32), plan.frame[::-1], interpolation=cv2.INTER_CUBIC)
        owner = np.where(mask > best, np.uint16(i), owner)
        best = np.maximum(mask, best)
    return owner


@functools.partial(jax.jit, static_argnums=2)
def _bilinear(frame: Any, ids: Any, plan: Plan) -> Any:
    return upsampling.bilinear(ids, plan.frame[0] // plan.grid[0])


@functools.partial(jax.jit, static_argnums=2)
def _blocks(frame: Any, ids: Any, plan: Plan) -> Any:
    cell = plan.frame[0] // plan.grid[0]
    return jnp.repeat(jnp.repeat(ids, cell, 0), cell, 1)


def _times(sensor: Sequence[int] | None, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of each way, with the shrinking of the frame where the way needs it, and of that alone."""
    plan = Plan(tuple(sensor) if sensor else (2 * NETWORK[0], 2 * NETWORK[1]), NETWORK)
    scenes = [frames.crowd(i, plan.frame) for i in range(2)]
    placed = [jax.device_put(scene.image) for scene in scenes]
    ids = [_grid(scene, plan, None) for scene in scenes]
    chosen = {name: way for name, way in ways(plan).items() if "cubic" not in name}
    runs = {n: lambda i, w=w: jax.block_until_ready(w(placed[i % 2], ids[i % 2], plan)) for n, w in chosen.items()}
    runs["the network's input alone"] = lambda i: jax.block_until_ready(shrunk(placed[i % 2], plan.network))
    return [{"way": n, "ms": round(statistics.median(t), 2)} for n, t in turns.times(runs, rounds).items()]


def _draw(path: Path, example: Example, maps: Mapping[str, np.ndarray]) -> None:
    """A crop at the edge of the largest object, enlarged: outlines of the truth and of each way of `SHOWN`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    area = np.bincount(example.instance.ravel())
    area[0] = 0
    edge = np.argwhere(boundaries.contour(example.instance == area.argmax()))
    middle = edge[edge[:, 1].argmax()] if len(edge) else (0, 0)
    corner = [int(np.clip(at - SIDE // 2, 0, n - SIDE)) for at, n in zip(middle, example.instance.shape, strict=True)]
    window = tuple(slice(at, at + SIDE) for at in corner)
    shown = [example.instance, *(masks for name, masks in maps.items() if name in SHOWN)]
    parts = [_outlined(example.image[window], masks[window]) for masks in shown]
    cv2.imwrite(str(path), np.hstack(parts)[:, :-8, ::-1])


def _outlined(image: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Four times enlarged, with a line where two objects meet, and a gap to the right."""
    large = cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    owner = ids.repeat(4, 0).repeat(4, 1)
    lines = boundaries.contour(owner > 0)
    for i in np.unique(owner):
        lines |= boundaries.contour(owner == i)
    large[cv2.dilate(lines.astype(np.uint8), np.ones((2, 2), np.uint8)) > 0] = (255, 40, 160)
    return np.pad(large, ((0, 0), (0, 8), (0, 0)), constant_values=255)


if __name__ == "__main__":
    sys.exit(main())
