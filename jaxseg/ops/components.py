"""Connected components of a grid, and where the components or objects of a grid have their middle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Integer, Shaped, UInt8, UInt32

_STEPS = {
    4: ((-1, 0), (0, -1), (0, 1), (1, 0)),
    8: ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)),
}

_FACING = {(-1, -1): 1, (-1, 0): 3, (-1, 1): 2, (0, -1): 5, (0, 1): 10, (1, -1): 4, (1, 0): 12, (1, 1): 8}
"""Elements of a 2 x 2 block, bit 2 * row + column, that touch the neighboring block in a direction."""

_ROUNDS = {"cpu": 1, "default": 2}
"""Rounds in one trip: on a GPU the host is asked whether to go on."""


def label(mask: Bool[Array, "h w"] | Integer[Array, "h w"], connectivity: int) -> Int32[Array, "h w"]:
    """Connected components: neighbors of equal value join; False and 0 are off.

    Every component is named by its first element in row-major order: the id is 1 + the index of that element, so that
    ``label.ravel() == 1 + arange`` finds one root for each component.

    Parents are hooked to the smallest parent next to them and then shortened by pointer jumping, until nothing changes.
    The rounds grow about as the logarithm of a component's extent, also along spirals and snakes. All that is on in a
    2 x 2 block of one value is 8-connected, so blocks are joined first, a quarter as many. Elements follow if any block
    has several values, in a batch of integer maps always, and with 4 neighbors.

    Args:
      mask: what is on, or an integer map whose different values never join.
      connectivity: 4 or 8 neighbors.

    Returns:
      0 where the mask is off, elsewhere equal ids within one component.

    Raises:
      ValueError: if `connectivity` is neither 4 nor 8.

    References:
      Shiloach and Vishkin, An O(log n) parallel connectivity algorithm, 1982; Grana et al., Optimized block-based
      connected components labeling with decision trees, 2010 (blocks).
    """
    if connectivity not in _STEPS:
        raise ValueError(f"`connectivity` must be 4 or 8: got {connectivity}.")
    values = mask.astype(jnp.int32)

    def join_elements(parent: UInt32[Array, " hw"]) -> UInt32[Array, " hw"]:
        return _roots(parent, _joined_elements(values, connectivity), values.shape[1], _STEPS[connectivity])

    if connectivity == 4:
        parent = join_elements(jnp.arange(values.size, dtype=jnp.uint32))
    else:
        single = mask.dtype == jnp.bool_
        parent, unfinished = _join_blocks(values, single)
        parent = parent if single else jax.lax.cond(unfinished, join_elements, lambda parent: parent, parent)
    return jnp.where(values != 0, parent.reshape(values.shape).astype(jnp.int32) + 1, 0)


def _roots(
    parent: UInt32[Array, " n"],
    joined: UInt8[Array, " n"],
    stride: int,
    steps: tuple[tuple[int, int], ...],
) -> UInt32[Array, " n"]:
    """Smallest element of each component of a flat grid; two rounds a trip where a trip waits for the host."""
    return jax.lax.platform_dependent(
        parent, joined, **{kind: functools.partial(_rooted, stride, steps, n) for kind, n in _ROUNDS.items()}
    )


def _rooted(
    stride: int,
    steps: tuple[tuple[int, int], ...],
    rounds: int,
    parent: UInt32[Array, " n"],
    joined: UInt8[Array, " n"],
) -> UInt32[Array, " n"]:
    """`_roots` for one platform.

    Args:
      stride: elements of a row.
      steps: (dy, dx) of the neighbors.
      rounds: in one trip of the loop.
      parent: an element of the same component for each, at most itself.
      joined: bit i is set if an element belongs together with the one at step i.
    """
    n, guard = parent.size, stride + 1
    far = jnp.uint32(n)  # unsigned indices spare the wrapping of negative ones

    def smallest(parent: UInt32[Array, " n"]) -> UInt32[Array, " n"]:
        """The smallest parent among each element and its joined neighbors."""
        around, found = _guarded(parent, guard, far), parent
        for i, step in enumerate(steps):
            near = _near(around, step, stride, n)
            found = jnp.minimum(found, jnp.where((joined & jnp.uint8(1 << i)) != 0, near, far))
        return found

    def round_(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        parent, near, _ = state
        for _ in range(rounds):
            # Each parent gets the smallest found next to its children; then each element takes an ancestor.
            hooked = parent.at[parent].min(near, mode="promise_in_bounds")
            parent = functools.reduce(lambda at, _: _at(hooked, at), range(3), hooked)
            near = smallest(parent)
        return parent, near, jnp.any(near != parent)

    # When all neighbors agree, a component has one parent, which is its own.
    return jax.lax.while_loop(lambda state: state[2], round_, (parent, smallest(parent), jnp.bool_(True)))[0]


def _at(table: Shaped[Array, " n"], index: UInt32[Array, " m"]) -> Shaped[Array, " m"]:
    return table.at[index].get(mode="promise_in_bounds")


def _guarded(flat: Shaped[Array, " n"], guard: int, fill: int | Array) -> Shaped[Array, " m"]:
    """A flat grid with room on both sides, so that the view of any neighbor is one contiguous slice."""
    return jnp.pad(flat, guard, constant_values=fill)


def _near(guarded: Shaped[Array, " m"], step: tuple[int, int], stride: int, n: int) -> Shaped[Array, " n"]:
    start = stride + 1 + step[0] * stride + step[1]
    return guarded[start : start + n]


def _joined_elements(values: Int32[Array, "h w"], connectivity: int) -> UInt8[Array, " hw"]:
    on = values != 0
    bits = jnp.zeros(values.shape, jnp.uint8)
    for i, step in enumerate(_STEPS[connectivity]):
        bits |= jnp.where(on & (_shifted(values, step, 0) == values), jnp.uint8(1 << i), jnp.uint8(0))
    return bits.ravel()


def _join_blocks(values: Int32[Array, "h w"], single: bool) -> tuple[UInt32[Array, " hw"], Bool[Array, ""]]:
    """First element of each 8-connected component, as far as blocks of one value tell, and whether there are others.

    A block with several values is left alone, and each of its elements is its own parent.

    Args:
      values: 0 is off.
      single: whether there is only one value besides 0.
    """
    height, width = values.shape
    h, w = -(-height // 2), -(-width // 2)
    even = jnp.pad(values, ((0, 2 * h - height), (0, 2 * w - width))).reshape(h, 2, w, 2)
    elements = [even[:, i, :, j] for i in (0, 1) for j in (0, 1)]
    value = functools.reduce(lambda a, b: jnp.where(a != 0, a, b), elements)
    on = sum(jnp.where(element != 0, jnp.uint8(1 << i), jnp.uint8(0)) for i, element in enumerate(elements))
    mixed = functools.reduce(jnp.logical_or, [(e != 0) & (e != value) for e in elements])
    on = on if single else jnp.where(mixed, jnp.uint8(0), on)
    # A column that is off at the end of each row: neighbors across it never join.
    stride, n = w + 1, h * (w + 1)
    on, value = (jnp.pad(x, ((0, 0), (0, 1))).ravel() for x in (on, value))
    around, kinds = _guarded(on, stride + 1, 0), _guarded(value, stride + 1, 0)
    # Read back from what is stored: else each neighbor's test would gather the elements again.
    on, value = (_near(x, (0, 0), stride, n) for x in (around, kinds))
    joined = jnp.zeros(n, jnp.uint8)
    for i, step in enumerate(_STEPS[8]):
        there = _near(around, step, stride, n) & _FACING[-step[0], -step[1]]
        meets = ((on & _FACING[step]) != 0) & (there != 0)
        meets = meets if single else meets & (_near(kinds, step, stride, n) == value)
        joined |= jnp.where(meets, jnp.uint8(1 << i), jnp.uint8(0))
    root = _roots(jnp.arange(n, dtype=jnp.uint32), joined, stride, _STEPS[8])
    # Roots are first among blocks; the first element of the component may lie in a later block of the same two rows.
    y, x = np.mgrid[:h, :stride]
    corner = (2 * y * width + 2 * x).astype(np.uint32).ravel()
    within = jnp.where(on & 1, 0, jnp.where(on & 2, 1, jnp.where(on & 4, width, width + 1))).astype(jnp.uint32)
    least = jnp.full(n, 2 * values.size, jnp.uint32).at[root].min(corner + within, mode="promise_in_bounds")
    block = _at(least, root).reshape(h, 1, stride, 1)[:, :, :w]
    first = jnp.broadcast_to(block, (h, 2, w, 2)).reshape(2 * h, 2 * w)[:height, :width]
    if single:
        return first.ravel(), jnp.bool_(False)
    alone = jnp.broadcast_to(mixed[:, None, :, None], (h, 2, w, 2)).reshape(2 * h, 2 * w)[:height, :width]
    own = jnp.arange(values.size, dtype=jnp.uint32).reshape(values.shape)
    return jnp.where(alone | (values == 0), own, first).ravel(), jnp.any(mixed)


def middles(
    ids: Integer[Array, "h w"], count: int
) -> tuple[Int32[Array, " n"], Float[Array, "n 2"], Int32[Array, "n 2"]]:
    """Area, center of mass and central element of each of the objects 1..count.

    The central element is the object's own element nearest to its center of mass, which may itself lie outside of a
    concave object. Of elements equally near (up to rounding) it is the first in row-major order.

    Args:
      ids: 0 none, 1..count; other ids are left out.
      count: rows n of the results; row i describes id i + 1.

    Returns:
      Elements of each object; its center of mass (y, x); its central element (y, x). All 0 for an id without elements.
    """
    w, total = ids.shape[1], ids.size
    index = jnp.arange(total, dtype=jnp.int32)
    y, x = index // w, index % w
    row = jnp.where((ids > 0) & (ids <= count), ids.astype(jnp.int32) - 1, count).ravel()
    sums = _scatter("add", row, jnp.stack([jnp.ones_like(y), y, x], axis=-1), jnp.zeros((count, 3), jnp.int32))
    area = sums[:, 0]
    # A whole number and a rest below 1: all distances are as precise as if the object lay at the origin.
    whole = jax.lax.div(sums[:, 1:], jnp.maximum(area, 1)[:, None])
    rest = (sums[:, 1:] - whole * area[:, None]).astype(jnp.float32) / jnp.maximum(area, 1).astype(jnp.float32)[:, None]
    mass = whole.astype(jnp.float32) + rest
    own = jnp.pad(jnp.concatenate([whole.astype(jnp.float32), rest], axis=1), ((0, 1), (0, 0)))[row]
    away = [(place.astype(jnp.float32) - own[:, i]) - own[:, i + 2] for i, place in enumerate((y, x))]
    distance = jnp.square(away[0]) + jnp.square(away[1])
    nearest = _scatter("min", row, distance, jnp.full(count, jnp.inf))
    # A quotient or sum may round differently on another processor, or in two fused loops: a few units in the last place
    # count as a tie. Elements that tie lie half an element away at least, so that these are no more than this.
    tied = distance <= jnp.pad(nearest, (0, 1))[row] * 1.000004
    first = _scatter("min", jnp.where(tied, row, count), index, jnp.full(count, total, jnp.int32))
    first = jnp.where(area > 0, first, 0)
    return area, mass, jnp.stack([first // w, first % w], axis=-1)


def _scatter(kind: str, row: Int32[Array, " e"], values: Array, start: Array) -> Array:
    """Scatters values to their rows; a row past the end (no object) is dropped."""
    return getattr(start.at[row], kind)(values, mode="drop")


def _shifted(values: Int32[Array, "h w"], step: tuple[int, int], outside: int) -> Int32[Array, "h w"]:
    (dy, dx), (h, w) = step, values.shape
    padded = jnp.pad(values, 1, constant_values=outside)
    return padded[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w]
