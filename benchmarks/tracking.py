"""Identities over time on generated sequences, scored by TrackEval, and what finding them costs.

python benchmarks/tracking.py [--model runs/shapes] [--sequences 10] [--frames 200] [--seed 0] [--rounds 15]

Needs TrackEval: pip install trackeval. Objects come from the truth, with embeddings that say nothing or are those of
the object plus noise, and from a network of generated scenes. Its masks are compared with true ones by IoU; classes are
not compared, and masks that mostly cover ignored pixels are left out. Each variant of the tracker has the same objects.
IDF1 and switches count masks of IoU 0.5 and more, AssA and HOTA are means over 0.05 to 0.95. Prints tables on stderr, a
line of JSON on stdout.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import turns  # isort: skip (before JAX)
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg import runtime, track
from jaxseg.apps import model
from jaxseg.data import Example, sequences
from jaxseg.types import IGNORED, Instances, Matching, Segmentation

SIZE = (128, 256)
CLASSES = 5
DIMENSIONS = 32

VARIANTS = {
    "defaults": Matching(),
    "overlap alone": Matching(overlap=1.0, embedding=0.0, drift=0.0, change=0.0),
    "embeddings alone": Matching(overlap=0.0, embedding=1.0, drift=0.0, change=0.0),
    "no overlap": Matching(overlap=0.0),
    "no embeddings": Matching(embedding=0.0),
    "no drift": Matching(drift=0.0),
    "no class": Matching(change=0.0),
    "class must agree": Matching(change=1.0),
    "patience 0": Matching(patience=0.0),
    "optimal assignment": Matching(),
}


class Frames(NamedTuple):
    """A sequence with its truth and what was found in it.

    Attributes:
      truth: id of the true objects of each frame.
      similarity: IoU of each of them with each counted row.
      counted: rows of each frame that are scored.
      found: rows of all frames, stacked; its maps are empty.
    """

    truth: list[np.ndarray]
    similarity: list[np.ndarray]
    counted: list[np.ndarray]
    found: Segmentation


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="work directory of a run on shapes; left out without it")
    parser.add_argument("--sequences", type=int, default=10)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the sequences; defaults were chosen on 100 to 102")
    parser.add_argument("--rounds", type=int, default=15, help="of the timing")
    options = parser.parse_args()
    rows = []
    for name, scenes in _sets(options):
        rows += [{"objects": name, **row} for row in _scored(scenes)]
        print(f"{name}: {len(scenes)} sequences", file=sys.stderr, flush=True)
    titles = ("objects", "variant", "idf1", "assa", "hota", "switches")
    turns.table(
        titles, [tuple(f"{row[t]:.3f}" if isinstance(row[t], float) else row[t] for t in titles) for row in rows]
    )
    times = list(_times(options.rounds))
    titles = ("slots", "objects", "assignment", "ms", "quartiles")
    turns.table(titles, [tuple(str(row[t]) if t == "quartiles" else row[t] for t in titles) for row in times])
    settings = {"sequences": options.sequences, "frames": options.frames, "seed": options.seed, "size": SIZE}
    print(json.dumps({**turns.about(), **settings, "rows": rows, "times": times}))


def _sets(options: argparse.Namespace) -> Iterator[tuple[str, list[Frames]]]:
    """The same sequences with objects of several kinds; then crowded ones, of which every third frame is seen."""

    def drawn(most: int, every: int) -> Iterator[list[Example]]:
        for i in range(options.sequences):
            yield list(sequences.sequence(options.seed, i, options.frames * every, SIZE, CLASSES, most))[::every]

    rng = np.random.default_rng(options.seed)
    yield "truth, no embeddings", [_from_truth(frames, 16, None) for frames in drawn(8, 1)]
    yield "truth, embeddings", [_from_truth(frames, 16, rng) for frames in drawn(8, 1)]
    yield "crowd, no embeddings", [_from_truth(frames, 32, None) for frames in drawn(16, 3)]
    yield "crowd, embeddings", [_from_truth(frames, 32, rng) for frames in drawn(16, 3)]
    if options.model:
        trained = model.load(str(options.model))
        yield "network", [_from_network(frames, trained) for frames in drawn(8, 1)]


def _from_truth(frames: list[Example], slots: int, rng: np.random.Generator | None) -> Frames:
    """Perfect masks in mixed rows. Embeddings of two objects are about 2 units apart, two of the same one 0.2."""
    mixing = np.random.default_rng(0)
    looks = np.zeros((1 + max(int(frame.instance.max()) for frame in frames), DIMENSIONS), np.float32)
    if rng is not None:
        looks = rng.normal(0, 2 / np.sqrt(2 * DIMENSIONS), looks.shape)
    results = []
    for frame in frames:
        ids = mixing.permutation(np.unique(frame.instance)[1:])
        noise = 0 if rng is None else rng.normal(0, 0.2 / np.sqrt(2 * DIMENSIONS), (len(ids), DIMENSIONS))
        rows = [_measured(frame, i) for i in ids]
        instances = _padded(rows, looks[ids] + noise, slots)
        names = np.zeros(int(frame.instance.max()) + 1, np.uint16)
        names[ids] = np.arange(1, len(ids) + 1)
        results.append(Segmentation(frame.semantic, names[frame.instance], instances, np.int32(0)))
    return _compared(frames, results)


def _measured(frame: Example, i: int) -> tuple[Any, ...]:
    """Class, center, box and area of a true object."""
    places = np.argwhere(frame.instance == i)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    return int(frame.semantic[tuple(places[0])]), places.mean(axis=0), np.concatenate([low, high]), len(places)


def _padded(rows: list[tuple[Any, ...]], embedding: np.ndarray, slots: int) -> Instances:
    def column(values: Any, dtype: type, *shape: int) -> np.ndarray:
        filled = np.zeros((slots, *shape), dtype)
        filled[: len(rows)] = np.asarray(values, dtype).reshape(len(rows), *shape)
        return filled

    classes, centers, boxes, areas = zip(*rows, strict=True) if rows else ([], [], [], [])
    return Instances(
        valid=np.arange(slots) < len(rows),
        class_id=column(classes, np.uint8),
        score=column(np.ones(len(rows)), np.float32),
        center=column(centers, np.float32, 2),
        box=column(boxes, np.int32, 4),
        area=column(areas, np.int32),
        embedding=column(embedding, np.float32, embedding.shape[-1]),
        track_id=np.zeros(slots, np.int32),
    )


def _from_network(frames: list[Example], trained: model.Model) -> Frames:
    return _compared(frames, [jax.tree.map(np.asarray, trained(frame.image)) for frame in frames])


def _compared(frames: list[Example], results: list[Segmentation]) -> Frames:
    """Masks against true masks, once for all variants: a tracker changes no mask."""
    truth, similarity, counted = [], [], []
    for frame, found in zip(frames, results, strict=True):
        rows = found.instances.valid.size
        pairs = np.bincount(frame.instance.ravel() * np.int64(rows + 1) + found.instance.ravel())
        pairs = np.pad(pairs, (0, -pairs.size % (rows + 1))).reshape(-1, rows + 1)
        ignored = np.bincount(found.instance[frame.semantic == IGNORED], minlength=rows + 1)
        area = pairs.sum(axis=0)
        ids = np.flatnonzero(pairs.sum(axis=1)[1:]) + 1
        iou = pairs / np.maximum(pairs.sum(axis=1)[:, None] + area[None] - pairs, 1)
        chosen = np.flatnonzero(found.instances.valid & (2 * ignored <= area)[1:])
        truth, counted = [*truth, ids], [*counted, chosen]
        similarity.append(iou[ids][:, chosen + 1])
    maps = {"semantic": np.zeros((1, 1), np.uint8), "instance": np.zeros((1, 1), np.uint16)}
    stacked = jax.tree.map(lambda *x: np.stack(x), *(found.replace(**maps) for found in results))
    return Frames(truth, similarity, counted, stacked)


def _scored(scenes: list[Frames]) -> Iterator[dict[str, Any]]:
    """Figures of each variant, and of identities that follow the truth: all that these masks allow."""
    for name, matching in VARIANTS.items():
        numbers = jax.tree.map(jnp.float32, matching)
        assign = _optimal if name == "optimal assignment" else track.assign
        ids = [np.asarray(_follow(scene.found, numbers, assign)) for scene in scenes]
        yield {"variant": name, **_figures(scenes, ids)}
    yield {"variant": "true identities", **_figures(scenes, [_true(scene) for scene in scenes])}


def _followed(found: Segmentation, matching: Matching, assign: Callable[[Any], Any]) -> Any:
    """Identities (frames, rows)."""

    def step(tracks: Any, frame: Segmentation) -> tuple[Any, Any]:
        tracks, named = track.update(tracks, frame, matching)
        return tracks, named.instances.track_id

    with mock.patch.object(track, "assign", assign):
        first = jax.tree.map(lambda x: x[0], found)
        return jax.lax.scan(step, track.start(first), found)[1]


def _optimal(cost: Any) -> Any:
    """In place of `track.assign`: the lowest sum that can be, where a row without a pair counts 1."""
    row, column = optax.assignment.hungarian_algorithm(jnp.minimum(cost, 1.0))
    chosen = jnp.where(cost[row, column] < jnp.inf, row, -1).astype(jnp.int32)
    return jnp.full(cost.shape[1], -1, jnp.int32).at[column].set(chosen)


_follow = jax.jit(_followed, static_argnums=2)


def _true(scene: Frames) -> np.ndarray:
    """Identity of the true object of IoU 0.5 and more; another one for each row that shows none."""
    ids = 10_000 + np.arange(scene.found.instances.valid.size).reshape(scene.found.instances.valid.shape)
    for t, (truth, similarity) in enumerate(zip(scene.truth, scene.similarity, strict=True)):
        row, column = np.nonzero(similarity >= 0.5)
        ids[t, scene.counted[t][column]] = truth[row]
    return ids


def _figures(scenes: list[Frames], ids: list[np.ndarray]) -> dict[str, Any]:
    from trackeval.metrics import CLEAR, HOTA, Identity

    found = {}
    for metric in (HOTA(), Identity({"PRINT_CONFIG": False}), CLEAR({"PRINT_CONFIG": False})):
        parts = {
            str(i): metric.eval_sequence(_data(scene, x)) for i, (scene, x) in enumerate(zip(scenes, ids, strict=True))
        }
        found |= metric.combine_sequences(parts)
    fractions = {name.lower(): round(float(np.mean(found[name])), 4) for name in ("IDF1", "AssA", "HOTA")}
    return {**fractions, "switches": int(found["IDSW"])}


def _data(scene: Frames, ids: np.ndarray) -> dict[str, Any]:
    """A sequence as TrackEval wants it: identities counted from 0 on."""
    given = [row[chosen] for row, chosen in zip(ids, scene.counted, strict=True)]
    names = [np.unique(np.concatenate(values)) for values in (scene.truth, given)]
    truth, tracked = (
        [np.searchsorted(n, v) for v in values] for n, values in zip(names, (scene.truth, given), strict=True)
    )
    return {
        "gt_ids": truth,
        "tracker_ids": tracked,
        "similarity_scores": scene.similarity,
        "num_gt_ids": len(names[0]),
        "num_tracker_ids": len(names[1]),
        "num_gt_dets": sum(map(len, truth)),
        "num_tracker_dets": sum(map(len, tracked)),
        "num_timesteps": len(truth),
    }


def _times(rounds: int) -> Iterator[dict[str, Any]]:
    """Milliseconds of `update` for one frame, compiled as the commands do."""
    for slots, objects in ((32, 8), (128, 20), (128, 128)):
        for assignment, assign in (("greedy", track.assign), ("optimal", _optimal)):
            with mock.patch.object(track, "assign", assign):
                run = _runs(slots, objects)
            spent = turns.times({"update": run}, rounds)["update"]
            low, middle, high = np.percentile(spent, (25, 50, 75)).round(3).tolist()
            row = {"slots": slots, "objects": objects, "assignment": assignment}
            yield {**row, "ms": middle, "quartiles": [low, high], "size": (512, 1024)}


def _runs(slots: int, objects: int) -> Callable[[int], Any]:
    """One update of a state that has seen a few frames; objects drive straight on over a frame of 512 x 1024."""
    rng = np.random.default_rng(0)
    start, speed = rng.uniform(0, (512, 1024), (objects, 2)), rng.normal(0, 2, (objects, 2))
    looks, side = rng.normal(size=(objects, DIMENSIONS)), rng.integers(8, 80, (objects, 1))
    maps = np.zeros((512, 1024), np.uint8), np.zeros((512, 1024), np.uint16)
    frames = []
    for t in range(16):
        center = start + speed * t
        box = np.concatenate([center - side / 2, center + side / 2], axis=1)
        rows = [(1 + i % CLASSES, center[i], box[i], side[i] ** 2) for i in range(objects)]
        noise = rng.normal(0, 0.02, looks.shape)
        frames.append(jax.device_put(Segmentation(*maps, _padded(rows, looks + noise, slots), np.int32(0))))
    run = jax.jit(lambda *arguments: track.update(*arguments), compiler_options=runtime.options())
    numbers = jax.tree.map(jnp.float32, Matching())
    states = [track.start(frames[0])]
    for found in frames[:-1]:
        states.append(run(states[-1], found, numbers)[0])
    return lambda i: jax.block_until_ready(run(states[8 + i % 8], frames[8 + i % 8], numbers))


if __name__ == "__main__":
    main()
