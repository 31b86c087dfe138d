"""From center confidences and embeddings to objects, with static shapes: a fixed number of slots and a `valid` mask."""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int32, Integer

from jaxseg.ops import components

Scalar = float | int | Float[Array, ""]

_CHUNK = {"cpu": 8, "default": 16}
"""Centers compared in one trip over the elements: few enough for a processor's caches; an accelerator's trip costs more
than what it computes."""

_ROUNDS = 4
"""Of `duplicates` in one trip: mostly one trip is enough, and on a GPU each asks the host whether to go on."""


@struct.dataclass
class Peaks:
    """Detected centers, most confident first. Rows that are not valid are 0.

    Attributes:
      valid: which rows hold a center.
      class_id: its class.
      score: greatest confidence within its component, in [0, 1].
      element: grid position (y, x) of the component's element nearest to the component's center of mass.
      center_of_mass: (y, x) in grid elements.
      lost: components beyond the slots.
    """

    valid: Bool[Array, "*b n"]
    class_id: Int32[Array, "*b n"]
    score: Float[Array, "*b n"]
    element: Int32[Array, "*b n 2"]
    center_of_mass: Float[Array, "*b n 2"]
    lost: Int32[Array, "*b"]


def maxima(confidence: Float[Array, "h w"]) -> Bool[Array, "h w"]:
    """Elements that none of their eight neighbors exceeds. Of a plateau all are; `peaks` makes one center of them.

    Args:
      confidence: of each element.
    """
    h, w = confidence.shape
    wide = jnp.pad(confidence, 1, constant_values=-jnp.inf)
    rows = functools.reduce(jnp.maximum, (wide[i : i + h] for i in range(3)))
    return confidence >= functools.reduce(jnp.maximum, (rows[:, j : j + w] for j in range(3)))


def peaks(confidence: Float[Array, "h w"], class_map: Integer[Array, "h w"], slots: int, threshold: Scalar) -> Peaks:
    """Components of confident elements, 8-connected within each class; the most confident ones when slots run out.

    Args:
      confidence: that an element is an object's center, in [0, 1].
      class_map: class of each element, 0 background.
      slots: rows n of the result.
      threshold: what the confidence must exceed.

    Returns:
      Peaks in order of descending confidence; of equal ones the component that begins first in row-major order.

    Raises:
      ValueError: if `slots` is not positive.

    References:
      Milioto et al., ICRA 2019, section III-B.
    """
    if slots < 1:
        raise ValueError(f"`slots` must be at least 1: got {slots}.")
    classes = class_map.astype(jnp.int32)
    ids = components.label(jnp.where(confidence > threshold, classes, 0), 8).ravel()
    # Off elements are sent past the end and dropped; on elements leave their confidence at their root.
    root = jnp.where(ids > 0, ids - 1, ids.size)
    highest = jnp.full(ids.size, -jnp.inf).at[root].max(confidence.ravel(), mode="drop")
    kept = min(slots, ids.size)
    score, place = jax.lax.top_k(highest, kept)
    valid = score > -jnp.inf
    names = jnp.zeros(ids.size, jnp.int32).at[place].set(jnp.arange(1, kept + 1, dtype=jnp.int32))
    objects = jnp.where(ids > 0, names[ids - 1], 0).reshape(classes.shape)
    _, center_of_mass, element = components.middles(objects, kept)
    lost = jnp.sum(highest > -jnp.inf, dtype=jnp.int32) - jnp.sum(valid, dtype=jnp.int32)
    fill = functools.partial(_padded, valid=valid, slots=slots)
    class_id = fill(classes.ravel()[place])
    return Peaks(fill(valid), class_id, fill(score), fill(element), fill(center_of_mass), lost)


def _padded(row: Array, valid: Bool[Array, " m"], slots: int) -> Array:
    """Zeros rows that are not valid and appends empty ones up to the slots."""
    mask = valid.reshape(valid.shape + (1,) * (row.ndim - 1))
    filled = jnp.where(mask, row, jnp.zeros_like(row))
    return jnp.pad(filled, ((0, slots - valid.size),) + ((0, 0),) * (row.ndim - 1))


def duplicates(
    embedding: Float[Array, "n d"], class_id: Integer[Array, " n"], valid: Bool[Array, " n"], radius: Scalar
) -> Bool[Array, " n"]:
    """Keeps a center unless a kept, more confident one of its class lies within the radius.

    The greedy rule is the fixed point of keep = valid and not any(earlier, conflicting and keep). It is reached in as
    many rounds as the longest chain of decisions has links: usually three or four.

    Args:
      embedding: embedding at each center, most confident first.
      class_id: class of each center.
      valid: which rows hold a center.
      radius: embedding distance up to which, inclusively, two centers are one object.

    Returns:
      Which rows remain.
    """
    squared = jnp.sum(jnp.square(embedding[:, None, :] - embedding[None, :, :]), axis=-1)
    order = jnp.arange(embedding.shape[0])
    earlier = order[None, :] < order[:, None]
    conflict = earlier & (class_id[:, None] == class_id[None, :]) & (jnp.sqrt(squared) <= radius)

    def round_(state: tuple[Array, Array]) -> tuple[Array, Array]:
        again, _ = state
        for _ in range(_ROUNDS):
            keep, again = again, valid & ~jnp.any(conflict & again[None, :], axis=1)
        return again, jnp.any(again != keep)

    keep, _ = jax.lax.while_loop(lambda state: state[1], round_, (valid, jnp.bool_(True)))
    return keep


def assign(
    embedding: Float[Array, "h w d"],
    class_map: Integer[Array, "h w"],
    centers: Float[Array, "n d"],
    class_id: Integer[Array, " n"],
    valid: Bool[Array, " n"],
    radius: Scalar,
) -> Int32[Array, "h w"]:
    """Gives each element the nearest center of its class, if that lies within the radius.

    Distances come from sums of squared differences: the expanded form |e|^2 - 2 e c + |c|^2 cancels and flips decisions
    near the radius. The cost follows the number of valid centers.

    Args:
      embedding: embedding of each element.
      class_map: class of each element, 0 background.
      centers: embedding at each center.
      class_id: class of each center.
      valid: which rows hold a center.
      radius: largest embedding distance to a center, inclusive.

    Returns:
      0, or 1 + the row of the center; of equally near ones, up to rounding, the first row.

    References:
      Milioto et al., ICRA 2019, section III-B.
    """
    forms = {kind: functools.partial(_assigned, chunk) for kind, chunk in _CHUNK.items()}
    return jax.lax.platform_dependent(embedding, class_map, centers, class_id, valid, jnp.float32(radius), **forms)


def _assigned(
    chunk: int,
    embedding: Float[Array, "h w d"],
    class_map: Integer[Array, "h w"],
    centers: Float[Array, "n d"],
    class_id: Integer[Array, " n"],
    valid: Bool[Array, " n"],
    radius: Scalar,
) -> Int32[Array, "h w"]:
    """`assign`, with so many centers compared in a trip."""
    n, rows = valid.size, -(-max(valid.size, 1) // chunk) * chunk
    order = jnp.pad(jnp.argsort(~valid, stable=True), (0, rows - n))
    active = jnp.pad(jnp.where(valid, class_id.astype(jnp.int32), 0), (0, rows - n))
    active = jnp.where(jnp.arange(rows) < n, active[order], 0)
    packed = jnp.pad(centers, ((0, rows - n), (0, 0)))[order]
    # Row by row, one dimension after the other: what a row of elements is compared with stays in the nearest cache.
    lines = embedding.transpose(0, 2, 1)
    classes = jnp.where(class_map > 0, class_map.astype(jnp.int32), -1)

    def trip(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        ids = jax.lax.dynamic_slice_in_dim(active, i * chunk, chunk)
        near = jax.lax.dynamic_slice_in_dim(packed, i * chunk, chunk)
        apart = _distances(lines, near)
        for j in range(chunk):
            state = _closer(state, jnp.where(classes == ids[j], apart[:, j], jnp.inf), i * chunk + j)
        return state

    start = (jnp.full(class_map.shape, jnp.inf), jnp.zeros(class_map.shape, jnp.int32))
    trips = (jnp.sum(valid, dtype=jnp.int32) + chunk - 1) // chunk
    distance, index = jax.lax.fori_loop(0, trips, trip, start)
    # Without a center of the class the distance is infinite, and an infinite radius must not admit it.
    return jnp.where(jnp.isfinite(distance) & (distance <= radius), order.astype(jnp.int32)[index] + 1, 0)


def _distances(lines: Float[Array, "h d w"], centers: Float[Array, "n d"]) -> Float[Array, "h n w"]:
    """Distance of each element to some centers.

    Ends in the root, which XLA on CPU does not repeat in what reads it: the nearest distance and its center would else
    both compute all of them.
    """
    differences = (lines[:, None, i] - centers[None, :, None, i] for i in range(lines.shape[1]))
    return jnp.sqrt(functools.reduce(jnp.add, map(jnp.square, differences)))


def _closer(state: tuple[Array, Array], distance: Float[Array, "h w"], index: Array) -> tuple[Array, Array]:
    """Replaces the best center so far where this one is strictly nearer."""
    best, chosen = state
    closer = distance < best
    return jnp.where(closer, distance, best), jnp.where(closer, index, chosen)


@struct.dataclass
class Clusters:
    """What all-to-all clustering found, in the order of discovery. Rows that are not valid are 0.

    Attributes:
      ids: 0, or 1 + the row of the cluster that took the element.
      valid: which rows hold a cluster.
      class_id: its class.
      mean: mean embedding that its elements lie around.
      left: elements of a class that no cluster took, because the slots ran out.
    """

    ids: Int32[Array, "*b h w"]
    valid: Bool[Array, "*b n"]
    class_id: Int32[Array, "*b n"]
    mean: Float[Array, "*b n d"]
    left: Int32[Array, "*b"]


def all_to_all(
    embedding: Float[Array, "h w d"],
    class_map: Integer[Array, "h w"],
    probability: Float[Array, "h w"],
    slots: int,
    bandwidth: Scalar,
    shifts: int = 8,
) -> Clusters:
    r"""Clusters elements by mean shift, without knowing any center: the baseline of the paper's Table I.

    The free element of the highest class probability opens a cluster. Its mean moves, until nothing changes or
    `shifts` moves are made, to that of the free elements of its class around it,

    .. math:: m \leftarrow \mathrm{mean} \lbrace e_p : \|e_p - m\| \le b \rbrace,

    and then takes those elements. Every cluster compares all elements with its mean, several times: the cost that
    predicted centers spare. A mean of points within a ball has one of them within the same radius, so that each cluster
    takes at least one element.

    Args:
      embedding: embedding of each element.
      class_map: class of each element, 0 background.
      probability: of that class, in [0, 1]; of equal ones the first in row-major order comes first.
      slots: most clusters n, at least 1.
      bandwidth: b, in embedding units, inclusive.
      shifts: most moves of a mean (static).

    Returns:
      The clusters.

    Raises:
      ValueError: if `slots` is not positive.

    References:
      De Brabandere, Neven, Van Gool, Semantic instance segmentation with a discriminative loss function, 2017,
      section 3.2 (there seeds are drawn at random); Milioto et al., ICRA 2019, section IV and Table I.
    """
    if slots < 1:
        raise ValueError(f"`slots` must be at least 1: got {slots}.")
    flat, classes = embedding.reshape(-1, embedding.shape[-1]), class_map.astype(jnp.int32).ravel()
    order = probability.ravel()

    def unfinished(state: tuple) -> Array:
        row, ids, _, _ = state
        return (row < slots) & jnp.any((ids == 0) & (classes > 0))

    def cluster(state: tuple) -> tuple:
        row, ids, means, kinds = state
        free = (ids == 0) & (classes > 0)
        seed = jnp.argmax(jnp.where(free, order, -1.0))
        mean, near = _shifted_mean(flat, free & (classes == classes[seed]), flat[seed], bandwidth, shifts)
        return row + 1, jnp.where(near, row + 1, ids), means.at[row].set(mean), kinds.at[row].set(classes[seed])

    start = (jnp.int32(0), jnp.zeros_like(classes), jnp.zeros((slots, flat.shape[1])), jnp.zeros(slots, jnp.int32))
    found, ids, means, kinds = jax.lax.while_loop(unfinished, cluster, start)
    left = jnp.sum((ids == 0) & (classes > 0), dtype=jnp.int32)
    return Clusters(ids.reshape(class_map.shape), jnp.arange(slots) < found, kinds, means, left)


def _shifted_mean(
    points: Float[Array, "hw d"], free: Bool[Array, " hw"], start: Float[Array, " d"], bandwidth: Scalar, shifts: int
) -> tuple[Float[Array, " d"], Bool[Array, " hw"]]:
    """The mean that mean shift reaches from a start, and the free points around it."""

    def around(mean: Array) -> Array:
        return free & (jnp.sqrt(jnp.sum(jnp.square(points - mean[None]), axis=-1)) <= bandwidth)

    def shift(state: tuple) -> tuple:
        _, near, _, moves = state
        mean = jnp.sum(jnp.where(near[:, None], points, 0.0), axis=0) / jnp.sum(near)
        again = around(mean)
        # Within a bandwidth of next to nothing, the mean's own rounding may leave none: then it has come to its end.
        again = jnp.where(jnp.any(again), again, near)
        return mean, again, jnp.any(again != near), moves + 1

    first = (start, around(start), jnp.bool_(True), jnp.int32(0))
    mean, near, _, _ = jax.lax.while_loop(lambda state: state[2] & (state[3] < shifts), shift, first)
    return mean, near
