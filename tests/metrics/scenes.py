"""Random labelled images with predictions, adversarial on purpose, for the comparison with official tools."""

from typing import NamedTuple

import numpy as np

from jaxseg.metrics import Counts, Truth
from jaxseg.types import ClassList

CLASSES = ClassList.of(("road", "sky", "person", "car", "bicycle"), stuff=("road", "sky"))
IDS = (0, 7, 23, 24, 26, 33)
"""Official label id of each class; background is written as unlabeled where predicted, and as building where true."""

THINGS = (3, 4, 5)
SIZE = (48, 64)
SCORES = (0.25, 0.5, 0.75, 1.0)
KINDS = ("usual", "no truth", "no prediction", "perfect", "all void")


class Prediction(NamedTuple):
    """One predicted object."""

    mask: np.ndarray
    class_id: int
    score: float


class Scene(NamedTuple):
    """Truth with groups, void and foreign objects; a class map; masks that may overlap, or be empty or a pixel."""

    semantic: np.ndarray
    instance: np.ndarray
    predicted: np.ndarray
    objects: list[Prediction]

    @property
    def truth(self):
        return Truth.of(self.semantic, self.instance, CLASSES)

    def counts(self):
        """From the masks."""
        kinds = np.array([o.class_id for o in self.objects], np.int64)
        scores = np.array([o.score for o in self.objects], np.float64)
        return Counts.of_masks(self.predicted, (o.mask for o in self.objects), kinds, scores, self.truth, CLASSES)


def _ellipse(rng, smallest=2.0, largest=13.0):
    yy, xx = np.mgrid[: SIZE[0], : SIZE[1]]
    (cy, cx), (ry, rx) = rng.uniform(0, 1, 2) * SIZE, rng.uniform(smallest, largest, 2)
    return ((yy - cy) / ry) ** 2 + ((xx - cx) / rx) ** 2 < 1


def scene(rng, overlapping=True):
    """A scene; about two thirds of its objects have an area on either side of 100 pixels.

    Args:
      rng: of everything.
      overlapping: whether predicted masks may share pixels.
    """
    kind = rng.choice(KINDS, p=[0.8, 0.06, 0.06, 0.04, 0.04])
    semantic = np.zeros(SIZE, np.uint8)
    semantic[24:], semantic[:8] = 1, 2
    instance = np.zeros(SIZE, np.int64)
    for number in range(1, 0 if kind == "no truth" else rng.integers(2, 8)):
        where = _ellipse(rng)
        semantic[where], instance[where] = rng.choice(THINGS), number
    for _ in range(rng.integers(0, 3)):
        where = _ellipse(rng)
        semantic[where], instance[where] = rng.choice([*THINGS, 255, 255]), 0
    if rng.random() < 0.3:
        where = _ellipse(rng)
        semantic[where], instance[where] = 255, 90  # an object of a class that nobody evaluates
    if kind == "all void":
        semantic[:], instance[:] = 255, 0
    objects = [] if kind == "no prediction" else list(_objects(rng, semantic, instance, kind == "perfect"))
    if not overlapping:
        objects = _apart(objects)
    return Scene(semantic, instance, _class_map(rng, semantic, kind == "perfect"), objects)


def _objects(rng, semantic, instance, perfect):
    """Shifted copies of the truth, twins of them, inventions, and masks of no pixel and of one."""
    for number in np.unique(instance[(instance > 0) & (semantic < 255)]):
        where = (instance == number) & (semantic < 255)
        class_id = int(semantic[where][0])
        if perfect:
            yield Prediction(where, class_id, 1.0)
            continue
        for _ in range(rng.choice([0, 1, 2, 3], p=[0.15, 0.6, 0.15, 0.1])):
            moved = np.roll(where, rng.integers(-2, 3, 2), (0, 1))
            wrong = rng.random() < 0.15
            yield Prediction(moved, int(rng.choice(THINGS)) if wrong else class_id, float(rng.choice(SCORES)))
    if perfect:
        return
    for _ in range(rng.integers(0, 4)):
        yield Prediction(_ellipse(rng), int(rng.choice(THINGS)), float(rng.choice(SCORES)))
    if rng.random() < 0.3:
        yield Prediction(np.zeros(SIZE, bool), int(rng.choice(THINGS)), float(rng.choice(SCORES)))
    if rng.random() < 0.3:
        pixel = np.zeros(SIZE, bool)
        pixel[rng.integers(SIZE[0]), rng.integers(SIZE[1])] = True
        yield Prediction(pixel, int(rng.choice(THINGS)), float(rng.choice(SCORES)))


def _apart(objects):
    """The same objects without shared pixels: the first keeps them."""
    covered, kept = np.zeros(SIZE, bool), []
    for each in objects:
        kept.append(each._replace(mask=each.mask & ~covered))
        covered |= each.mask
    return kept


def _class_map(rng, semantic, perfect):
    """The truth where it is known, with a few regions of other classes."""
    predicted = np.where(semantic == 255, rng.integers(0, len(CLASSES)), semantic).astype(np.uint8)
    for _ in range(0 if perfect else rng.integers(0, 5)):
        predicted[_ellipse(rng)] = rng.integers(0, len(CLASSES))
    return predicted
