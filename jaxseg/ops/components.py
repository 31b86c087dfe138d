"""Connected components of a grid, and where the components or objects of a grid have their middle."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Integer

_STEPS = {
    4: ((-1, 0), (0, -1), (0, 1), (1, 0)),
    8: ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)),
}


def label(mask: Bool[Array, "h w"] | Integer[Array, "h w"], connectivity: int) -> Int32[Array, "h w"]:
    """Connected components: neighbors of equal value join; False and 0 are off.

    Every component is named by its first element in row-major order: the id is 1 + the index of that element, so that
    ``label.ravel() == 1 + arange`` finds one root for each component.

    Parents are hooked to the smallest parent next to them and then shortened by pointer jumping, until nothing changes.
    The rounds grow about as the logarithm of a component's extent, also along spirals and snakes.

    Args:
      mask: what is on, or an integer map whose different values never join.
      connectivity: 4 or 8 neighbors.

    Returns:
      0 where the mask is off, elsewhere equal ids within one component.

    Raises:
      ValueError: if `connectivity` is neither 4 nor 8.

    References:
      Shiloach and Vishkin, An O(log n) parallel connectivity algorithm, 1982.
    """
    if connectivity not in _STEPS:
        raise ValueError(f"`connectivity` must be 4 or 8: got {connectivity}.")
    values = mask.astype(jnp.int32)
    on = values != 0
    joined = [(step, on & (_shifted(values, step, 0) == values)) for step in _STEPS[connectivity]]
    index = jnp.arange(values.size, dtype=jnp.int32).reshape(values.shape)

    def round_(state: tuple[Array, Array]) -> tuple[Array, Array]:
        parent, _ = state
        shorter = _jump(_hook(parent, joined))
        return shorter, jnp.any(shorter != parent)

    parent, _ = jax.lax.while_loop(lambda state: state[1], round_, (index, jnp.bool_(True)))
    return jnp.where(on, parent + 1, 0)


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
    mass = sums[:, 1:].astype(jnp.float32) / jnp.maximum(area, 1).astype(jnp.float32)[:, None]
    own = jnp.pad(mass, ((0, 1), (0, 0)))[row]
    distance = jnp.square(y.astype(jnp.float32) - own[:, 0]) + jnp.square(x.astype(jnp.float32) - own[:, 1])
    nearest = _scatter("min", row, distance, jnp.full(count, jnp.inf))
    # The same sum may round differently in two fused loops: a few units in the last place count as a tie.
    tied = distance <= jnp.pad(nearest, (0, 1))[row] * 1.000001
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


def _hook(parent: Int32[Array, "h w"], joined: list[tuple[tuple[int, int], Array]]) -> Int32[Array, "h w"]:
    """Points each element, and the parent that it had, to the smallest parent among its joined neighbors."""
    far = parent.size
    near = (jnp.where(equal, _shifted(parent, step, far), far) for step, equal in joined)
    smallest = functools.reduce(jnp.minimum, near, parent)
    return smallest.ravel().at[parent.ravel()].min(smallest.ravel()).reshape(parent.shape)


def _jump(parent: Int32[Array, "h w"]) -> Int32[Array, "h w"]:
    return parent.ravel()[parent]
