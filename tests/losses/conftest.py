"""Scenes for the losses: random outputs, and targets written down with NumPy rather than by `jaxseg.targets`."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.types import Outputs, Targets

HEIGHT, WIDTH, CLASSES, DIMS, SLOTS = 5, 6, 4, 3, 4


def make_targets(semantic, instance, slots=SLOTS, unknown=False):
    """Targets whose centers are each instance's first element in row-major order, confidence 1 there."""
    semantic, instance = np.array(semantic, np.uint8), np.array(instance, np.int32)
    confidence = np.zeros(instance.shape, np.float32)
    center, class_id, valid = np.zeros((slots, 2), np.int32), np.zeros(slots, np.uint8), np.zeros(slots, bool)
    for i in range(1, instance.max(initial=0) + 1):
        place = tuple(np.argwhere(instance == i)[0])
        confidence[place], center[i - 1], class_id[i - 1], valid[i - 1] = 1, place, semantic[place], True
    lost = np.broadcast_to(unknown, instance.shape)
    arrays = [jnp.asarray(x) for x in (semantic, instance, lost, confidence, center, class_id, valid)]
    return Targets(*arrays, vanished=jnp.int32(0), overflow=jnp.int32(0))


def random_outputs(seed):
    rng = np.random.default_rng(seed)
    shapes = ((HEIGHT, WIDTH, CLASSES), (HEIGHT, WIDTH, DIMS), (HEIGHT, WIDTH))
    return Outputs(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes))


def random_targets(seed):
    """Three instances, some background, an ignored corner, beside it class 2 without slot and class 2 as stuff."""
    rng = np.random.default_rng(seed)
    instance = rng.integers(0, 4, (HEIGHT, WIDTH))
    instance[0, :3] = 0
    semantic = np.where(instance > 0, 1 + instance % 3, 0)
    semantic[0, :3] = 255, 2, 2
    return make_targets(semantic, instance, unknown=np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) == 1)


EMPTY = np.zeros((HEIGHT, WIDTH), int)
ONE = np.pad(np.ones((2, 2), int), ((1, 2), (1, 3)))
EDGES = {
    "empty": make_targets(EMPTY, EMPTY),
    "ignored": make_targets(EMPTY + 255, EMPTY),
    "no slot": make_targets(EMPTY + 3, EMPTY, unknown=True),
    "stuff": make_targets(EMPTY + 3, EMPTY),
    "one element": make_targets(EMPTY + np.eye(HEIGHT, WIDTH, dtype=int), np.eye(HEIGHT, WIDTH, dtype=int)),
    "one instance": make_targets(ONE, ONE),
}


@pytest.fixture
def outputs():
    return random_outputs(0)


@pytest.fixture
def targets():
    return random_targets(1)


@pytest.fixture
def draw():
    """Random (outputs, targets) by seed."""
    return lambda seed: (random_outputs(seed), random_targets(seed))


@pytest.fixture(params=EDGES)
def edge(request):
    """Targets of images that say little, by name."""
    return request.param, EDGES[request.param]


@pytest.fixture
def from_maps():
    return make_targets


@pytest.fixture
def permuted():
    """The same instances under other ids: row i becomes row order[i]."""

    def permute(targets, order):
        order = np.array(order)
        row_of = np.argsort(order)
        new_id = np.concatenate([[0], order + 1])[np.array(targets.instance)]
        rows = {name: getattr(targets, name)[row_of] for name in ("center", "class_id", "valid")}
        return targets.replace(instance=jnp.asarray(new_id, jnp.int32), **rows)

    return permute
