"""The stages around the network beside what one would otherwise take, in one interleaved run on the same images.

python benchmarks/stages.py [--photos FOLDER] [--size 512 1024] [--rounds 15]

Needs the peers: pip install scikit-learn scipy, and for superpixels opencv-contrib-python-headless and fast-slic (which
builds with pip install --no-build-isolation fast-slic once cython and numpy are there). A peer that is missing is left
out. How turns are taken is said in `turns.times`; a ratio is the median over the rounds of peer / ours. Prints a table
on stderr, a line of JSON on stdout.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import turns  # isort: skip (before JAX)
import cv2
import frames
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import segment, targets
from jaxseg.ops import clustering, components, superpixels
from jaxseg.types import Capacity, Thresholds

K = 4
"""Side of a superpixel's cell."""

COMPACTNESS = 3.0
SLOTS = 64
DIMENSIONS = 32


class Stage(NamedTuple):
    """A stage and its peers.

    Attributes:
      name: of the stage.
      ours: number of the image to the result.
      peers: name to the same by another library.
      goals: name of a peer to the ratio peer / ours that is aimed at.
    """

    name: str
    ours: Callable[[int], Any]
    peers: dict[str, Callable[[int], Any]]
    goals: dict[str, float]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photographs for the superpixels; else generated scenes")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), help="height and width of the frames")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    size = tuple(options.size)
    scenes = [frames.crowd(i, size) for i in range(4)]
    images = frames.photos(options.photos, size) if options.photos else [scene.image for scene in scenes]
    rows = []
    for stage in (*_superpixels(images), *_components(size), *_grouping(size), *_whole(scenes), *_targets(scenes)):
        rows += _measured(stage, options.rounds)
        print(f"{stage.name}: {rows[-1]['ours_ms']:.2f} ms", file=sys.stderr, flush=True)
    titles = ("stage", "ours, ms", "peer", "peer, ms", "peer / ours", "goal")
    turns.table(
        titles, [tuple(row[k] for k in ("stage", "ours_ms", "peer", "peer_ms", "ratio", "goal")) for row in rows]
    )
    settings = {"size": size, "k": K, "rounds": options.rounds, "photos": bool(options.photos)}
    print(json.dumps({**turns.about(), **settings, "rows": rows}))


def _ready(run: Callable, inputs: list[Any]) -> Callable[[int], Any]:
    """A compiled function on the i-th of inputs that lie on the device already."""
    compiled, placed = jax.jit(run), [jax.device_put(x) for x in inputs]
    return lambda i: jax.block_until_ready(compiled(*placed[i % len(placed)]))


def _superpixels(images: list[np.ndarray]) -> Iterator[Stage]:
    height, width = images[0].shape[:2]
    cells = height // K * (width // K)
    inputs = [(image,) for image in images]
    for name, iterations, goals in (
        ("assignment, with Lab", 1, {"fast-slic, 1 iteration": 6.0, "OpenCV, 1 iteration": 15.0}),
        ("SLIC of 10 iterations", 10, {"fast-slic, 10 iterations": 1.0}),
    ):
        peers: dict[str, Callable[[int], Any]] = {}
        title = f"{iterations} iteration{'s' if iterations > 1 else ''}"
        try:
            from fast_slic.avx2 import SlicAvx2

            peers[f"fast-slic, {title}"] = lambda i, n=iterations: SlicAvx2(
                num_components=cells, compactness=10
            ).iterate(images[i % len(images)], max_iter=n)
        except ImportError:
            pass
        if hasattr(cv2, "ximgproc"):

            def opencv(i: int, n: int = iterations) -> Any:
                lab = cv2.cvtColor(images[i % len(images)], cv2.COLOR_RGB2Lab)
                slic = cv2.ximgproc.createSuperpixelSLIC(lab, cv2.ximgproc.SLIC, K, 10.0)
                slic.iterate(n)
                return slic.getLabels()

            peers[f"OpenCV, {title}"] = opencv
        if iterations == 1:
            yield Stage(name, _ready(lambda image: superpixels.assign(image, K, COMPACTNESS), inputs), peers, goals)
        else:
            run = _ready(lambda image, n=iterations: superpixels.slic(image, K, COMPACTNESS, n), inputs)
            yield Stage(name, run, peers, goals)


def _components(size: tuple[int, int]) -> Iterator[Stage]:
    from scipy import ndimage

    for name, masks in frames.components(size[0] // K, size[1] // K):
        ours = _ready(lambda mask: components.label(mask, 8), [(mask,) for mask in masks])
        peer = {"SciPy": lambda i, masks=masks: ndimage.label(masks[i % len(masks)], np.ones((3, 3)))}
        yield Stage(f"components, {name}", ours, peer, {"SciPy": 1 / 2.5 if name == "blobs" else 1 / 6})


def _grouping(size: tuple[int, int]) -> Iterator[Stage]:
    h, w = size[0] // K, size[1] // K
    rng = np.random.default_rng(0)
    for count in (64, 256):
        embedding = rng.normal(size=(h, w, DIMENSIONS)).astype(np.float32)
        centers = rng.normal(size=(count, DIMENSIONS)).astype(np.float32)
        things, ids, valid = np.ones((h, w), np.int32), np.ones(count, np.int32), np.ones(count, bool)
        ours = _ready(lambda *a: clustering.assign(*a, 100.0), [(embedding, things, centers, ids, valid)])
        flat = embedding.reshape(-1, DIMENSIONS)
        peers: dict[str, Callable[[int], Any]] = {}
        try:
            from sklearn.metrics import pairwise_distances_argmin

            peers["scikit-learn"] = lambda i, c=centers, flat=flat: pairwise_distances_argmin(flat, c)
        except ImportError:
            pass
        yield Stage(f"grouping, {count} centers", ours, peers, {"scikit-learn": 2.0} if count == 64 else {})


def _whole(scenes: list[Any]) -> Iterator[Stage]:
    """Everything behind the network, on what a perfect network would give."""
    size = scenes[0].image.shape[:2]
    capacity = Capacity(slots=SLOTS, superpixel=K)
    plan, thresholds = segment.geometry(size, capacity), Thresholds(0.6, 0.5, 0.1, COMPACTNESS)
    inputs, count = [], []
    for scene in scenes:
        assignment = superpixels.assign(jnp.asarray(scene.image), K, COMPACTNESS)
        truth = targets.make(scene.semantic, scene.instance, assignment, K, SLOTS, style="disc", radius=1.5)
        inputs.append((segment.oracle(truth, 5, DIMENSIONS), assignment))
        count.append(int(truth.valid.sum()))
    host = [jax.device_get(pair) for pair in inputs]
    owners = [np.asarray(superpixels.ids(pair[1], K)) for pair in inputs]
    ours = _ready(lambda o, a: segment.finish(o, a, plan, capacity, thresholds), inputs)

    def peer(i: int) -> Any:
        return post_process(host[i % len(host)][0], owners[i % len(host)], thresholds)

    name = f"post-process, {statistics.mean(count):.0f} objects"
    yield Stage(name, ours, {"NumPy and SciPy": peer}, {"NumPy and SciPy": 4.0})


def post_process(outputs: Any, owner: np.ndarray, thresholds: Thresholds) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """What `segment.finish` does, as one would write it with NumPy and SciPy.

    Args:
      outputs: of one image, on the host.
      owner: (H, W) index of the superpixel of each pixel.
      thresholds: numbers of the grouping.

    Returns:
      Class and object of each pixel, and boxes.
    """
    from scipy import ndimage
    from scipy.spatial.distance import cdist

    classes = outputs.semantic.argmax(-1)
    confidence = 1 / (1 + np.exp(-outputs.center))
    top = confidence == ndimage.maximum_filter(confidence, 3)
    middles, scores = [], []
    for c in np.unique(classes[classes > 0]):
        labels, n = ndimage.label(top & (confidence > thresholds.center) & (classes == c), np.ones((3, 3)))
        index = np.arange(1, n + 1)
        middles += ndimage.center_of_mass(labels > 0, labels, index)
        scores += list(ndimage.maximum(confidence, labels, index))
    ids = np.zeros(classes.shape, np.int32)
    if middles:
        order = np.argsort(-np.array(scores), kind="stable")
        centers = outputs.embedding[tuple(np.rint(middles).astype(int)[order].T)]
        apart = cdist(centers, centers)
        keep: list[int] = []
        for j in range(len(centers)):
            if all(apart[j, k] > thresholds.duplicate for k in keep):
                keep.append(j)
        elements = np.nonzero(classes)
        distance = cdist(outputs.embedding[elements], centers[keep])
        nearest = distance.argmin(1)
        near = distance[np.arange(len(nearest)), nearest] <= thresholds.assignment
        ids[elements] = np.where(near, nearest + 1, 0)
        powers = np.exp(outputs.semantic - outputs.semantic.max(-1, keepdims=True))
        probability = powers.max(-1) / powers.sum(-1)
        count, kinds = len(keep) + 1, outputs.semantic.shape[-1]
        votes = np.bincount((ids * kinds + classes).ravel(), probability.ravel(), count * kinds).reshape(count, kinds)
        classes = np.where(ids > 0, votes.argmax(1)[ids], classes)
    semantic, instance = classes.ravel()[owner].astype(np.uint8), ids.ravel()[owner].astype(np.uint16)
    np.bincount(instance.ravel())
    return semantic, instance, ndimage.find_objects(instance.astype(np.int32))


def _targets(scenes: list[Any]) -> Iterator[Stage]:
    inputs = []
    for scene in scenes:
        assignment = superpixels.assign(jnp.asarray(scene.image), K, COMPACTNESS)
        inputs.append((scene.semantic, scene.instance, np.asarray(assignment)))
    ours = _ready(lambda s, i, a: targets.make(s, i, a, K, SLOTS, style="disc", radius=1.5), inputs)
    owners = [np.asarray(superpixels.ids(jnp.asarray(x[2]), K)) for x in inputs]

    def peer(i: int) -> Any:
        semantic, instance, _ = inputs[i % len(inputs)]
        return make_targets(semantic, instance, owners[i % len(inputs)])

    yield Stage("targets", ours, {"NumPy": peer}, {"NumPy": 3.0})


def make_targets(semantic: np.ndarray, instance: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, ...]:
    """What `targets.make` does, as one would write it with NumPy.

    Args:
      semantic: (H, W) classes.
      instance: (H, W) objects.
      owner: (H, W) index of the superpixel of each pixel.

    Returns:
      Class, object and confidence of each element; center and class of each object.
    """
    height, width = owner.shape
    h, w = height // K, width // K
    y, x = np.mgrid[:height, :width]
    flat, n = owner.ravel(), h * w
    area = np.maximum(np.bincount(flat, minlength=n), 1)
    rows = np.rint(np.bincount(flat, y.ravel(), n) / area).astype(int).reshape(h, w)
    columns = np.rint(np.bincount(flat, x.ravel(), n) / area).astype(int).reshape(h, w)
    labels, ids = semantic[rows, columns], instance[rows, columns]
    present, slot = np.unique(ids, return_inverse=True)
    slot = slot.reshape(h, w)
    gy, gx = np.mgrid[:h, :w]
    confidence = np.zeros((h, w), np.float32)
    centers, classes = [], []
    for i, name in enumerate(present):
        if name == 0:
            continue
        ys, xs = gy[slot == i], gx[slot == i]
        nearest = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
        centers.append((ys[nearest], xs[nearest]))
        classes.append(labels[centers[-1]])
        confidence[(slot == i) & ((gy - ys[nearest]) ** 2 + (gx - xs[nearest]) ** 2 <= 1.5**2)] = 1
    return labels, slot, confidence, np.array(centers), np.array(classes)


def _measured(stage: Stage, rounds: int) -> list[dict[str, Any]]:
    """A row for each peer."""
    found = turns.times({"ours": stage.ours, **stage.peers}, rounds)
    ours = {"stage": stage.name, "ours_ms": round(statistics.median(found["ours"]), 3)}
    none = {"peer": None, "peer_ms": None, "ratio": None, "goal": None}
    return [
        {
            **ours,
            "peer": name,
            "peer_ms": round(statistics.median(found[name]), 3),
            **turns.ratio(found["ours"], found[name]),
            "goal": stage.goals.get(name),
        }
        for name in stage.peers
    ] or [ours | none]


if __name__ == "__main__":
    main()
