"""From label maps and superpixels to what the three decoders should predict, for one image."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt16

from jaxseg.ops import superpixels
from jaxseg.types import IGNORED, Targets

STYLES = ("point", "disc", "gaussian")
"""Confidence around an instance's center: only the center, 1 within a radius, or a bell that is 1 at the center."""

_IDS = 2**16


def make(
    semantic: UInt8[Array, "H W"],
    instance: UInt16[Array, "H W"],
    assignment: UInt8[Array, "H W"],
    size: int,
    slots: int,
    style: str = "disc",
    radius: float | int | Float[Array, ""] = 1.5,
) -> Targets:
    """Targets on the grid: each element takes the labels at its superpixel's center of mass.

    An instance that found no slot (the highest ids go first) has no center; its elements keep their class, and are
    marked so that the center loss leaves them out. Background, stuff and ignored elements have no instance.

    Args:
      semantic: class ids; 0 is background, 255 is ignored.
      instance: object ids, 0 is none; ids need not be contiguous.
      assignment: superpixel of each pixel, see `superpixels.assign`.
      size: superpixel size k in pixels, a divisor of H and W (static).
      slots: most instances n that the targets hold (static).
      style: confidence around a center, one of `STYLES`, clipped to the instance (static).
      radius: of the disc, or twice the sigma of the bell, in grid elements, >= 0; 1.5 is the 3 x 3 block.

    Returns:
      Targets on the H/k x W/k grid with n rows.

    Raises:
      ValueError: `size` does not divide the image, `slots` or `style` is out of range, or the grid is too large.

    References:
      Milioto et al., ICRA 2019, section IV-A and Fig. 4; what a center is, is ours.
    """
    _check(semantic.shape, size, slots, style)
    instance = _instances_only(semantic, instance)
    labels, ids = sample(semantic, instance, assignment, size)
    present = _present(ids)
    on_grid = jnp.sum(present, dtype=jnp.int32)
    # Slots in the order of the ids. A table over all ids spares a sort; `present[0]` is off, so that 0 stays 0.
    slot = jnp.cumsum(present, dtype=jnp.int32)[ids] * (ids > 0)
    unknown = slot > slots
    slot = jnp.where(unknown, 0, slot)
    valid = jnp.arange(slots) < on_grid
    center = jnp.where(valid[:, None], _centers(slot, slots), 0)
    return Targets(
        semantic=labels,
        instance=slot,
        unknown=unknown,
        confidence=_confidence(slot, center, style, radius),
        center=center,
        class_id=jnp.where(valid, labels[center[:, 0], center[:, 1]], 0).astype(jnp.uint8),
        valid=valid,
        vanished=jnp.sum(_present(instance), dtype=jnp.int32) - on_grid,
        overflow=jnp.maximum(on_grid - slots, 0),
    )


def sample(
    semantic: UInt8[Array, "H W"], instance: UInt16[Array, "H W"], assignment: UInt8[Array, "H W"], size: int
) -> tuple[UInt8[Array, "h w"], UInt16[Array, "h w"]]:
    """The labels at each superpixel's center of mass.

    Args:
      semantic: class ids.
      instance: object ids.
      assignment: superpixel of each pixel, see `superpixels.assign`.
      size: superpixel size k in pixels, a divisor of H and W (static).

    Returns:
      Class and object id of each element of the grid.
    """
    place = superpixels.middle_pixels(assignment, size)
    return semantic.ravel()[place], instance.ravel()[place]


def vanished(
    semantic: UInt8[Array, "H W"], instance: UInt16[Array, "H W"], assignment: UInt8[Array, "H W"], size: int
) -> Int[Array, ""]:
    """Number of instances that own no element of the grid; as `make` counts them, but for grids of any size.

    Args:
      semantic: class ids; 0 is background, 255 is ignored.
      instance: object ids, 0 is none.
      assignment: superpixel of each pixel, see `superpixels.assign`.
      size: superpixel size k in pixels, a divisor of H and W (static).
    """
    instance = _instances_only(semantic, instance)
    _, ids = sample(semantic, instance, assignment, size)
    return jnp.sum(_present(instance) & ~_present(ids), dtype=jnp.int32)


def fits(grid: tuple[int, int]) -> bool:
    """Whether sums over a grid of (h, w) elements stay within 32 bits, as exact centers need."""
    h, w = grid
    return 2 * h * w * (h + w) < 2**31


def _check(shape: tuple[int, ...], size: int, slots: int, style: str) -> None:
    h, w = superpixels.grid_shape(shape, size)
    if not 1 <= slots < _IDS:
        raise ValueError(f"`slots` must be in 1 to {_IDS - 1}: got {slots}.")
    if style not in STYLES:
        raise ValueError(f'`style` must be "point", "disc" or "gaussian": got {style!r}.')
    if not fits((h, w)):
        raise ValueError(f"the grid must fit 32-bit sums: got {h} x {w} elements. Use a larger `size`.")


def _instances_only(semantic: UInt8[Array, "H W"], instance: UInt16[Array, "H W"]) -> UInt16[Array, "H W"]:
    """Ids of the pixels that are neither ignored nor background, 0 elsewhere."""
    return jnp.where((semantic == IGNORED) | (semantic == 0), jnp.uint16(0), instance)


def _present(ids: UInt16[Array, "_ _"]) -> Bool[Array, " ids"]:
    """Which ids other than 0 occur."""
    return jnp.zeros(_IDS, bool).at[ids.ravel()].set(True).at[0].set(False)


def _centers(slot: Int[Array, "h w"], slots: int) -> Int[Array, "n 2"]:
    """Each instance's element nearest to its center of mass, ties to the middle of the grid; arbitrary in unused rows.

    With N elements, coordinate sum S and an integer point m near S / N, an element at m + q minimizes
    N |q|^2 - 2 q (S - N m). That overflows 32 bits, but its quotient and remainder by N do not; floats would lose ties.
    """
    h, w = slot.shape
    row = slot.ravel()
    place = jnp.stack(jnp.mgrid[:h, :w], axis=-1).reshape(-1, 2)
    number = jnp.maximum(jnp.zeros(slots + 1, jnp.int32).at[row].add(1), 1)
    total = jnp.zeros((slots + 1, 2), jnp.int32).at[row].add(place)
    base = total // number[:, None]
    offset = place - base[row]
    twice_dot = 2 * jnp.sum(offset * (total - base * number[:, None])[row], axis=-1)
    quotient, rest = _divided(twice_dot, number[row])
    whole, fraction = jnp.sum(offset**2, axis=-1) - quotient, -rest
    order, rank = _middle_first(h, w)
    first = _first(row, slots, (whole, fraction, rank))
    return place[order[jnp.minimum(first, h * w - 1)]][1:]


def _divided(value: Int[Array, " hw"], by: Int[Array, " hw"]) -> tuple[Int[Array, " hw"], Int[Array, " hw"]]:
    """Quotient, rounded down, and remainder by positive numbers, of one division."""
    toward_zero = jax.lax.div(value, by)
    rest = value - toward_zero * by
    return toward_zero - (rest < 0), rest + jnp.where(rest < 0, by, 0)


def _first(row: Int[Array, " hw"], slots: int, keys: tuple[Int[Array, " hw"], ...]) -> Int[Array, " rows"]:
    """Last key of each row's lexicographically first element; the largest integer in a row without elements."""
    largest = jnp.iinfo(jnp.int32).max
    candidate = jnp.ones(row.shape, bool)
    for key in keys:
        key = jnp.where(candidate, key, largest)
        best = jnp.full(slots + 1, largest, jnp.int32).at[row].min(key)
        candidate &= key == best[row]
    return best


def _middle_first(h: int, w: int) -> tuple[Int[Array, " hw"], Int[Array, " hw"]]:
    """Elements by distance from the grid's middle, row-major where equal; and the place of each in that order."""
    y, x = np.mgrid[:h, :w]
    order = np.argsort(((2 * y - h + 1) ** 2 + (2 * x - w + 1) ** 2).ravel(), kind="stable").astype(np.int32)
    return jnp.asarray(order), jnp.asarray(np.argsort(order).astype(np.int32))


def _confidence(
    slot: Int[Array, "h w"], center: Int[Array, "n 2"], style: str, radius: float | int | Float[Array, ""]
) -> Float[Array, "h w"]:
    """Confidence of each element by its distance from the center of its own instance; 0 without instance."""
    place = jnp.stack(jnp.mgrid[: slot.shape[0], : slot.shape[1]], axis=-1)
    squared = jnp.sum((place - center[jnp.maximum(slot - 1, 0)]) ** 2, axis=-1)
    shapes = {
        "point": lambda: squared == 0,
        "disc": lambda: squared <= radius**2,
        "gaussian": lambda: jnp.exp(-2 * squared / jnp.maximum(radius, 1e-6) ** 2),
    }
    return jnp.where(slot > 0, shapes[style]().astype(jnp.float32), 0.0)
