"""Instance identities over time: the objects of each frame are matched with those of the frames before.

`update` is a pure function of a state of fixed size and one frame's result: jit it, scan it over frames, vmap it over
streams. It reads the rows of the result and neither map, so that its time does not depend on the frame's size.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxseg.types import Instances, KnownObjects, Matching, Segmentation, Tracks


def start(found: Segmentation) -> Tracks:
    """A state that knows no object.

    Args:
      found: a result like those to come, or its shapes (`jax.eval_shape`): nothing else is read.

    Returns:
      The state, with leading axes where the result has some: `jax.vmap` of `update` then follows as many streams.
    """
    *streams, n, d = found.instances.embedding.shape

    def zeros(dtype: type, *shape: int) -> Array:
        return jnp.zeros((*streams, 2 * n, *shape), dtype)

    objects = KnownObjects(
        valid=zeros(jnp.bool_),
        track_id=zeros(jnp.int32),
        class_id=zeros(jnp.uint8),
        center=zeros(jnp.float32, 2),
        box=zeros(jnp.int32, 4),
        velocity=zeros(jnp.float32, 2),
        embedding=zeros(jnp.float32, d),
        seen=zeros(jnp.int32),
        unseen=zeros(jnp.int32),
    )
    return Tracks(objects, jnp.zeros(streams, jnp.int32))


def update(tracks: Tracks, found: Segmentation, matching: Matching | None = None) -> tuple[Tracks, Segmentation]:
    """Gives the objects of one frame their identities. Pure; identities do not depend on the order of rows.

    Args:
      tracks: `start`, or the state after the frame before.
      found: result for one frame.
      matching: the numbers; None for the defaults.

    Returns:
      The next state, and the result with `track_id` filled: in valid rows the identity of the object that the row
      continues or else a new one, from 1 on and all different; 0 in the others. New ones ascend as scores fall.

    References:
      Bewley et al., Simple online and realtime tracking, ICIP 2016; Wojke et al., Simple online and realtime tracking
      with a deep association metric, ICIP 2017. Here with a greedy assignment and one sum of costs.
    """
    matching = matching or Matching()
    rows, known = _without_position(found.instances, matching), tracks.objects
    match = assign(costs(known, rows, matching))
    fresh = rows.valid & (match < 0)
    track_id = jnp.where(fresh, tracks.born + _rank(rows, fresh), jnp.where(match < 0, 0, known.track_id[match]))
    now = _continued(known, replace(rows, track_id=track_id), match, matching)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), now, _unseen(known, match, matching))
    state = Tracks(joined, tracks.born + jnp.sum(fresh, dtype=jnp.int32))
    return state, replace(found, instances=replace(found.instances, track_id=track_id))


def _without_position(rows: Instances, matching: Matching) -> Instances:
    """Embeddings as they would be at one and the same place; they move with their object, as far as it does."""
    scale = jnp.where(matching.coordinates > 0, 1 / jnp.maximum(matching.coordinates, 1e-6), 0.0)
    position = jnp.pad(rows.center * scale, ((0, 0), (0, max(rows.embedding.shape[1] - 2, 0))))
    return replace(rows, embedding=rows.embedding - position[:, : rows.embedding.shape[1]])


def costs(known: KnownObjects, rows: Instances, matching: Matching) -> Float[Array, "m n"]:
    """Cost of each known object's continuation by each row, as `Matching` says.

    Args:
      known: objects of earlier frames.
      rows: objects of this frame.
      matching: the numbers.

    Returns:
      Costs; infinite where that is 1 or more, where a row is not valid, or patience is over.
    """
    moved = known.velocity * (1.0 + known.unseen)[:, None]
    overlap = _overlaps(known.box + jnp.tile(moved, 2), rows.box.astype(jnp.float32))
    away = _distances(known.center + moved, rows.center) / jnp.sqrt(jnp.maximum(_areas(rows.box), 1.0))
    away = away / (1.0 + matching.slack * known.unseen)[:, None]
    cost = (
        matching.overlap * (1.0 - overlap)
        + matching.embedding * _distances(known.embedding, rows.embedding)
        + matching.drift * away
        + matching.change * (known.class_id[:, None] != rows.class_id[None, :])
    )
    awaited = known.valid & (known.unseen <= matching.patience)
    return jnp.where(awaited[:, None] & rows.valid[None, :] & (cost < 1.0), cost, jnp.inf)


def _distances(a: Float[Array, "m d"], b: Float[Array, "n d"]) -> Float[Array, "m n"]:
    # Dimensions in the middle: a processor's vectors then lie along n. A sum over the last axis takes twice as long.
    return jnp.sqrt(jnp.sum(jnp.square(a[:, :, None] - b.T[None, :, :]), axis=1))


def _overlaps(a: Float[Array, "m 4"], b: Float[Array, "n 4"]) -> Float[Array, "m n"]:
    """Intersection over union of boxes."""
    low = [jnp.maximum(a[:, None, i], b[None, :, i]) for i in (0, 1)]
    high = [jnp.minimum(a[:, None, i], b[None, :, i]) for i in (2, 3)]
    common = jnp.maximum(high[0] - low[0], 0.0) * jnp.maximum(high[1] - low[1], 0.0)
    return common / jnp.maximum(_areas(a)[:, None] + _areas(b)[None, :] - common, 1.0)


def _areas(box: Shaped[Array, "n 4"]) -> Float[Array, " n"]:
    sides = (box[:, 2:] - box[:, :2]).astype(jnp.float32)
    return sides[:, 0] * sides[:, 1]


def assign(cost: Float[Array, "m n"]) -> Int[Array, " n"]:
    """Pairs rows and columns, the cheapest pair first.

    In each round the pairs that are cheapest for both their row and their column are taken: those that a greedy choice
    of one pair after the other would come to, in a few rounds.

    Args:
      cost: of each pair; infinite where there can be none. Of equal costs the first row, then the first column, counts.

    Returns:
      Row of each column, or -1. No row has two columns.
    """
    m, n = cost.shape

    def round_(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        cost, match, _ = state
        row, column = _cheapest(cost, 0), _cheapest(cost, 1)
        mutual = (row < m) & (column[jnp.minimum(row, m - 1)] == jnp.arange(n))
        taken = jnp.zeros(m, bool).at[jnp.where(mutual, row, m)].set(True, mode="drop")
        rest = jnp.where(taken[:, None] | mutual[None, :], jnp.inf, cost)
        return rest, jnp.where(mutual, row, match), jnp.any(rest < jnp.inf)

    first = (cost, jnp.full(n, -1, jnp.int32), jnp.any(cost < jnp.inf))
    return jax.lax.while_loop(lambda state: state[2], round_, first)[1]


def _cheapest(cost: Float[Array, "m n"], axis: int) -> Int[Array, " k"]:
    """Position of the least finite cost along an axis, or its length. XLA's own argmin takes several times as long."""
    least = jnp.min(cost, axis=axis, keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, cost.shape, axis)
    return jnp.min(jnp.where((cost == least) & (cost < jnp.inf), place, cost.shape[axis]), axis=axis)


def _rank(rows: Instances, fresh: Bool[Array, " n"]) -> Int[Array, " n"]:
    """From 1 on among the fresh rows: the most confident first, of equal ones the uppermost, then the leftmost."""
    order = jnp.lexsort((rows.center[:, 1], rows.center[:, 0], -rows.score, ~fresh))
    return jnp.zeros(fresh.size, jnp.int32).at[order].set(jnp.arange(1, fresh.size + 1, dtype=jnp.int32))


def _continued(known: KnownObjects, rows: Instances, match: Int[Array, " n"], matching: Matching) -> KnownObjects:
    """This frame's objects, with what earlier frames say about them."""
    before, old = jax.tree.map(lambda x: x[match], known), match >= 0
    seen = jnp.where(old, before.seen, 0) + 1
    # The first displacement, and the first embedding, is all there is; later ones weigh no less than in a plain mean.
    velocity_share = jnp.maximum(matching.velocity, 1 / jnp.maximum(seen - 1, 1))[:, None]
    embedding_share = jnp.maximum(matching.renewal, 1 / seen)[:, None]
    step = (rows.center - before.center) / (1.0 + before.unseen)[:, None]
    velocity = before.velocity + velocity_share * (step - before.velocity)
    embedding = before.embedding + embedding_share * (rows.embedding - before.embedding)
    return KnownObjects(
        valid=rows.valid,
        track_id=rows.track_id,
        class_id=rows.class_id,
        center=rows.center,
        box=rows.box,
        velocity=jnp.where(old[:, None], velocity, 0.0),
        embedding=jnp.where(old[:, None], embedding, rows.embedding),
        seen=seen,
        unseen=jnp.zeros_like(seen),
    )


def _unseen(known: KnownObjects, match: Int[Array, " n"], matching: Matching) -> KnownObjects:
    """The objects that no row continues and that may come back, the last seen first, as many as a frame has rows."""
    m = known.valid.size
    taken = jnp.zeros(m, bool).at[jnp.where(match < 0, m, match)].set(True, mode="drop")
    waiting = known.valid & ~taken & (known.unseen < matching.patience)
    unseen = jnp.where(waiting, known.unseen + 1, jnp.iinfo(jnp.int32).max)
    order = jnp.argsort(unseen)[: match.size]
    return jax.tree.map(lambda x: x[order], replace(known, valid=waiting, unseen=jnp.where(waiting, unseen, 0)))
