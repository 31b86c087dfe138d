"""Superpixels on a regular grid: one SLIC iteration, so that an assignment is one of nine offsets.

A pixel of cell (row, col) with ``offset = 3 * (dy + 1) + (dx + 1)`` belongs to the superpixel of (row + dy, col + dx).
``size`` is the side k of a cell in pixels and must divide the image.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Integer, Shaped, UInt8, UInt32

from jaxseg.ops import color

OWN = 4
"""Offset of a pixel that belongs to the superpixel of its own cell."""

# Ties go to the own cell, then to vertical, horizontal and diagonal neighbors: a flip maps each group to itself.
_ORDER = (4, 1, 7, 3, 5, 0, 2, 6, 8)

LARGEST = 32
"""Most pixels along a side of a cell whose superpixels can be measured: a column of them is one word of bits."""

Scalar = float | int | Float[Array, ""]


def assign(
    image: UInt8[Array, "H W 3"] | Float[Array, "H W 3"], size: int, compactness: Scalar, middle: int | None = None
) -> UInt8[Array, "H W"]:
    r"""Nearest of the 3 x 3 superpixel centers around each pixel's cell.

    .. math:: D(p, c) = \|\mathrm{Lab}_p - \mathrm{Lab}_c\| + \alpha \|xy_p - xy_c\|

    A center lies at the geometric middle of its cell, in the mean color of its middle pixel (odd size) or middle 2 x 2
    pixels (even size), or of more of them. Ties go to the own cell.

    Args:
      image: RGB, uint8 or float in [0, 1].
      size: side of a cell in pixels.
      compactness: alpha, in Lab units per pixel, > 0.
      middle: side of the square of pixels that give a center its color; odd or even as `size` is, and at most that.

    Returns:
      Offset of each pixel's superpixel, 0..8.

    Raises:
      ValueError: if `size` does not divide the image, or `middle` does not lie in the middle of a cell.

    References:
      Milioto et al., ICRA 2019, section III-C.
    """
    grid_shape(image.shape, size)
    middle = middle or 2 - size % 2
    if not 0 < middle <= size or (size - middle) % 2:
        kind = "odd" if size % 2 else "even"
        raise ValueError(f"`middle` must be {kind} and at most {size}, the size of a cell: got {middle}.")

    def stored(image: Array) -> UInt8[Array, "H W"]:
        """The result in a loop of always one trip, which XLA cannot know, so that it stores what the loop gives.

        Else it would fuse the chain of minima into each reader of the assignment, and store nine distances for them.
        """
        trips = jnp.where(image[0, 0, 0].astype(jnp.float32) > jnp.inf, 0, 1)
        start = jnp.full(image.shape[:2], OWN, jnp.uint8)
        return jax.lax.fori_loop(0, trips, lambda i, _: assigned(image + i.astype(image.dtype)), start)

    def assigned(image: Array) -> UInt8[Array, "H W"]:
        return _assign_planes(color.lab_planes(image), size, compactness, middle)

    return jax.lax.platform_dependent(image, cpu=stored, default=assigned)


def assign_lab(lab: Float[Array, "H W 3"], size: int, compactness: Scalar) -> UInt8[Array, "H W"]:
    """`assign` for an image that is already in CIELAB.

    Args:
      lab: CIELAB image.
      size: side of a cell in pixels.
      compactness: Lab units per pixel, > 0.

    Returns:
      Offset of each pixel's superpixel, 0..8.

    Raises:
      ValueError: if `size` does not divide the image.
    """
    grid_shape(lab.shape, size)
    return _assign_planes((lab[..., 0], lab[..., 1], lab[..., 2]), size, compactness, 2 - size % 2)


def grid_shape(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Rows and columns of the grid of an image.

    Args:
      shape: shape of the image, height and width first.
      size: side of a cell in pixels.

    Returns:
      (h, w) = (H / size, W / size).

    Raises:
      ValueError: if `size` is not positive or does not divide the image.
    """
    height, width = shape[:2]
    if size < 1 or height % size or width % size:
        raise ValueError(f"`size` must divide the image: got {height} x {width} with size {size}. Pad or resize first.")
    return height // size, width // size


def upsample(grid: Shaped[Array, "h w"], assignment: UInt8[Array, "H W"], size: int) -> Shaped[Array, "H W"]:
    """Gives each pixel the value of its superpixel: a selection among nine shifted grids.

    Args:
      grid: value of each superpixel, of any dtype.
      assignment: offsets, 0..8.
      size: side of a cell in pixels.

    Returns:
      Value of each pixel.

    Raises:
      ValueError: if `size` does not divide the image, or the grid is not the image's.
    """
    h, w = grid_shape(assignment.shape, size)
    if grid.shape != (h, w):
        raise ValueError(f"`grid` must be {h} x {w}, the image divided by `size`: got {grid.shape}.")
    view = _view(assignment, size)
    neighbor = _neighbors(jnp.asarray(grid), size, 0)
    value = jnp.broadcast_to(neighbor(OWN), view.shape)
    for offset in _ORDER[1:]:
        value = jnp.where(view == offset, neighbor(offset), value)
    return value.reshape(assignment.shape)


def assign_matching(
    grid: Integer[Array, "h w"], labels: Integer[Array, "H W"], assignment: UInt8[Array, "H W"], size: int
) -> UInt8[Array, "H W"]:
    """Corrects an assignment by the truth: each pixel goes to a superpixel of its own label, where one is near.

    What `upsample` makes of the result is what superpixels without a mistake would give.

    Args:
      grid: true label of each superpixel.
      labels: true label of each pixel.
      assignment: offsets, 0..8; it stays where it is right, and where none of the nine superpixels has the label.
      size: side of a cell in pixels.

    Returns:
      Offsets, 0..8. Pixels of no superpixel (9) stay so.

    Raises:
      ValueError: if `size` does not divide the image.
    """
    grid_shape(assignment.shape, size)
    given, wanted = _view(assignment, size), _view(labels, size)
    neighbor, right = _neighbors(grid, size, -1), upsample(grid, assignment, size) == labels
    better = given
    for offset in reversed(_ORDER):
        better = jnp.where(neighbor(offset) == wanted, jnp.uint8(offset), better)
    return jnp.where(right | (assignment > 8), assignment, better.reshape(assignment.shape))


def centers_of_mass(assignment: UInt8[Array, "H W"], size: int) -> Float[Array, "h w 2"]:
    """Mean position of the pixels of each superpixel.

    Sums are exact integers relative to the cell, so that precision does not depend on the size of the image.

    Args:
      assignment: offsets, 0..8.
      size: side of a cell in pixels, at most 32.

    Returns:
      (y, x) in pixels; the geometric middle of its cell for a superpixel that owns no pixel.

    Raises:
      ValueError: if `size` does not divide the image or exceeds 32.
    """
    h, w = grid_shape(assignment.shape, size)
    area, down, right = _moments(assignment, size)
    mean = jnp.stack([down, right], axis=-1).astype(jnp.float32) / jnp.maximum(area, 1).astype(jnp.float32)[..., None]
    return _corners(h, w, size) + jnp.where((area > 0)[..., None], mean, 0.5 * (size - 1))


def middle_pixels(assignment: UInt8[Array, "H W"], size: int) -> UInt32[Array, "h w"]:
    """The pixel nearest to each superpixel's center of mass, in exact arithmetic.

    Halves round toward the middle of the image: rounding all one way would find other pixels in its mirror image.

    Args:
      assignment: offsets, 0..8.
      size: side of a cell in pixels, at most 32.

    Returns:
      Row * W + column of the pixel; of one in the middle of its cell for a superpixel that owns none.

    Raises:
      ValueError: if `size` does not divide the image or exceeds 32.
    """
    grid = grid_shape(assignment.shape, size)
    area, *sums = _moments(assignment, size)
    number = jnp.where(area > 0, area, 2)
    place = []
    for axis, total in enumerate(sums):
        corner = jax.lax.broadcasted_iota(jnp.int32, grid, axis) * size
        total = jnp.where(area > 0, total, size - 1)
        late = 2 * (corner * number + total) >= (assignment.shape[axis] - 1) * number
        # The division comes last, as in `color.lab_planes`; `size` is added lest it divide anything negative.
        rounded = jax.lax.div(2 * (total + size * number) + number - late, 2 * number)
        place.append(corner - size + rounded)
    return (place[0] * assignment.shape[1] + place[1]).astype(jnp.uint32)


def areas_and_boxes(
    ids: Integer[Array, "h w"], assignment: UInt8[Array, "H W"], size: int, count: int
) -> tuple[Int32[Array, " n"], Int32[Array, "n 4"]]:
    """Area and box, in pixels, of each of the objects 1..count that consist of superpixels.

    Args:
      ids: object of each superpixel; 0 none, 1..count.
      assignment: offsets, 0..8.
      size: side of a cell in pixels, at most 32.
      count: rows n of the results; row i describes id i + 1.

    Returns:
      Areas and half-open boxes (y0, x0, y1, x1). Those of an object without pixels are 0 and (H, W, 0, 0).

    Raises:
      ValueError: if `size` does not divide the image or exceeds 32.
    """
    h, w = grid_shape(assignment.shape, size)
    none, area = jnp.iinfo(jnp.int32).max, jnp.zeros(h * (w + 2), jnp.int32)
    first, last = [jnp.full(area.size, none)] * 2, [jnp.full(area.size, -none)] * 2
    for part in _parts(assignment, size):
        area = area + _population(part.pixels).sum(axis=0)
        used, rows = part.pixels != 0, part.rows()
        starts = (_first_bit(rows) - size * part.dy, _first_bit(part.pixels) // part.spacing + part.column)
        ends = (_last_bit(rows) - size * part.dy, _last_bit(part.pixels) // part.spacing + part.column)
        first = [jnp.minimum(a, jnp.where(used, b, none).min(axis=0)) for a, b in zip(first, starts, strict=True)]
        last = [jnp.maximum(a, jnp.where(used, b, -none).max(axis=0)) for a, b in zip(last, ends, strict=True)]
    place = jnp.arange(area.size, dtype=jnp.int32)
    corner, found = (jax.lax.div(place, w + 2) * size, jax.lax.rem(place, w + 2) * size), area > 0
    row = jnp.pad(ids.astype(jnp.uint32), ((0, 0), (0, 2))).ravel()

    def united(kind: str, planes: list[Array], starts: tuple[int, int], beyond: int) -> list[Array]:
        """Coordinates of the objects' boxes in y and x from those of the superpixels, relative to their cells."""
        moved = [plane + at + beyond for plane, at in zip(planes, corner, strict=True)]
        moved = [jnp.where(found, plane, start) for plane, start in zip(moved, starts, strict=True)]
        pairs = zip(moved, starts, strict=True)
        return [getattr(jnp.full(count + 1, start).at[row], kind)(plane)[1:] for plane, start in pairs]

    height, width = assignment.shape
    box = united("min", first, (height, width), 0) + united("max", last, (0, 0), 1)
    return jnp.zeros(count + 1, jnp.int32).at[row].add(area)[1:], jnp.stack(box, axis=-1)


def slic(
    image: UInt8[Array, "H W 3"] | Float[Array, "H W 3"],
    size: int,
    compactness: Scalar,
    iterations: int | Int[Array, ""],
) -> Int32[Array, "H W"]:
    """Superpixels whose centers move: the general algorithm, of which `assign` is one iteration.

    Each iteration gives every pixel the nearest of the superpixels of the 3 x 3 cells around it, by the distance of
    `assign`, and then moves each center to the mean color and position of its pixels. A superpixel that owns no pixel
    stays where it was. Pieces cut off from their superpixel are left alone.

    Args:
      image: RGB, uint8 or float in [0, 1].
      size: side of a cell in pixels.
      compactness: Lab units per pixel, > 0.
      iterations: assignments to make, >= 1; traced or static.

    Returns:
      Superpixel of each pixel: row * w + column of the cell where its center started.

    Raises:
      ValueError: if `size` does not divide the image.

    References:
      Achanta et al., SLIC superpixels compared to state-of-the-art superpixel methods, PAMI 2012.
    """
    h, w = grid_shape(image.shape, size)
    planes = color.lab_planes(image)
    ramp = _corners(h, w, 1) * size + 0.5 * (size - 1)
    start = (*(_middle(plane, size, 2 - size % 2) for plane in planes), ramp[..., 0], ramp[..., 1])

    def step(_: Array, state: tuple) -> tuple:
        assignment, centers = state
        centers = _move(planes, centers, assignment, size)
        return _assign_to(planes, centers, size, compactness), centers

    first = _assign_planes(planes, size, compactness, 2 - size % 2)
    assignment, _ = jax.lax.fori_loop(1, iterations, step, (first, start))
    return ids(assignment, size)


def ids(assignment: UInt8[Array, "H W"], size: int) -> Int32[Array, "H W"]:
    """Index (cell row * w + cell column) of each pixel's superpixel.

    Args:
      assignment: offsets, 0..8.
      size: side of a cell in pixels.

    Returns:
      Ids in 0..h*w - 1.

    Raises:
      ValueError: if `size` does not divide the image.
    """
    h, w = grid_shape(assignment.shape, size)
    rows = jnp.repeat(jnp.arange(h, dtype=jnp.int32), size)[:, None]
    columns = jnp.repeat(jnp.arange(w, dtype=jnp.int32), size)[None, :]
    offset = assignment.astype(jnp.int32)
    return (rows + offset // 3 - 1) * w + columns + offset % 3 - 1


def _view(plane: Array, size: int) -> Array:
    return plane.reshape(plane.shape[0] // size, size, plane.shape[1])


def _shift(offset: int) -> tuple[int, int]:
    return offset // 3 - 1, offset % 3 - 1


def _neighbors(grid: Array, size: int, outside: float | int) -> Callable[[int], Array]:
    """Per offset, the neighboring cell's value at each column, (h, 1, W): contiguous slices, no gather."""
    h, width = grid.shape[0], grid.shape[1] * size
    wide = jnp.pad(jnp.repeat(grid, size, axis=1), ((1, 1), (size, size)), constant_values=outside)

    def at(offset: int) -> Array:
        dy, dx = _shift(offset)
        top, left = 1 + dy, size * (1 + dx)
        return wide[top : top + h, None, left : left + width]

    return at


def _first_minimum(distance: Callable[[int], Array]) -> UInt8[Array, "h k W"]:
    best = distance(OWN)
    index = jnp.full(best.shape, OWN, jnp.uint8)
    for offset in _ORDER[1:]:
        candidate = distance(offset)
        closer = candidate < best
        best = jnp.where(closer, candidate, best)
        index = jnp.where(closer, jnp.uint8(offset), index)
    return index


def _middle(plane: Float[Array, "H W"], size: int, count: int) -> Float[Array, "h w"]:
    """Mean of the middle pixels of each cell, count along a side; from the outside in, so that a flip rounds alike."""
    low, high = (size - count) // 2, (size + count) // 2 - 1
    pairs = [(low + i, high - i) for i in range((count + 1) // 2)]
    # Windows, not slices, for the rows: XLA would compute the color again for every pixel that later reads the center;
    # and for the columns where they are more than two: it would add them up again.
    rows = functools.reduce(jnp.add, (_ends(plane, size, 0, *pair) for pair in pairs))
    if count <= 2:
        return (rows[:, low::size] + rows[:, high::size]) * (0.5 / count)
    return functools.reduce(jnp.add, (_ends(rows, size, 1, *pair) for pair in pairs)) * (1 / count**2)


def _ends(plane: Float[Array, "_ _"], size: int, axis: int, low: int, high: int) -> Float[Array, "_ _"]:
    """Sum of the elements at two places of each cell along an axis, or the one element where they are the same."""
    count, apart = (1, 1) if low == high else (2, high - low)
    window, stride, dilation, padding = [1, 1], [1, 1], [1, 1], [(0, 0), (0, 0)]
    window[axis], stride[axis], dilation[axis], padding[axis] = count, size, apart, (-low, high - size + 1)
    return jax.lax.reduce_window(plane, 0.0, jax.lax.add, window, stride, padding, window_dilation=dilation)


def _spatial_distances(size: int, width: int) -> np.ndarray:
    """Distance of each pixel of a row of cells to the nine centers around it, in pixels: (9, k, W)."""
    to_middle = np.arange(size) - (size - 1) / 2
    dy, dx = np.array([_shift(offset) for offset in range(9)]).T * size
    cell = np.hypot(to_middle[None, :, None] - dy[:, None, None], to_middle[None, None, :] - dx[:, None, None])
    return np.tile(cell, (1, 1, width // size)).astype(np.float32)


def _assign_planes(planes: tuple[Array, ...], size: int, compactness: Scalar, middle: int) -> UInt8[Array, "H W"]:
    shape = planes[0].shape
    if size == 1:
        return jnp.full(shape, OWN, jnp.uint8)
    spatial = _spatial_distances(size, shape[1])
    colored = _color_distances(planes, [_middle(plane, size, middle) for plane in planes], size)

    # Nine constants, each scaled where it is used: slices of one scaled array keep the loop from being vectorized.
    def distance(offset: int) -> Array:
        return colored(offset) + (jnp.asarray(spatial[offset]) * compactness)[None]

    return _first_minimum(distance).reshape(shape)


def _color_distances(planes: Sequence[Array], centers: Sequence[Array], size: int) -> Callable[[int], Array]:
    """Per offset, the distance of each pixel to that neighbor's center; infinite where there is no neighbor."""
    views = [_view(plane, size) for plane in planes]
    neighbors = [_neighbors(center, size, np.inf) for center in centers]

    def at(offset: int) -> Array:
        squares = (jnp.square(view - near(offset)) for view, near in zip(views, neighbors, strict=True))
        return jnp.sqrt(sum(squares))

    return at


def _assign_to(planes: Sequence[Array], centers: Sequence[Array], size: int, compactness: Scalar) -> Array:
    """`_assign_planes` to centers (three colors, y, x) that have moved."""
    height, width = planes[0].shape
    y = jnp.broadcast_to(jnp.arange(height, dtype=jnp.float32)[:, None], (height, width))
    x = jnp.broadcast_to(jnp.arange(width, dtype=jnp.float32)[None, :], (height, width))
    colored, spatial = _color_distances(planes, centers[:3], size), _color_distances((y, x), centers[3:], size)
    return _first_minimum(lambda offset: colored(offset) + compactness * spatial(offset)).reshape(height, width)


def _move(planes: Sequence[Array], centers: Sequence[Array], assignment: Array, size: int) -> tuple[Array, ...]:
    """Mean color and position of each superpixel's pixels; the old center where there are none."""
    area, _, _ = _moments(assignment, size)
    position = centers_of_mass(assignment, size)
    owner, empty = ids(assignment, size).ravel(), jnp.zeros(area.size)
    sums = [empty.at[owner].add(plane.ravel()).reshape(area.shape) for plane in planes]
    means = [total / jnp.maximum(area, 1).astype(jnp.float32) for total in sums]
    moved = (*means, position[..., 0], position[..., 1])
    return tuple(jnp.where(area > 0, new, old) for new, old in zip(moved, centers, strict=True))


class _Part(NamedTuple):
    """What lies in one of the nine cells around them, of all superpixels: a word has a bit for each pixel.

    Comparing four bytes costs the same as comparing one, so that a word holds up to four columns of up to eight rows,
    or one column of more.

    Attributes:
      dy: of the superpixels' own cells from the one with these pixels.
      pixels: which pixels of a few columns of the cell are the superpixel's; m words cover the cell, and n = h (w + 2)
        superpixels lie in row-major order, with two that do not exist at the end of each row.
      columns: columns in a word.
      spacing: bits from one column of a word to the next.
      column: first column of each word, from the left end of the superpixel's own cell.
    """

    dy: int
    pixels: UInt32[Array, "m n"]
    columns: int
    spacing: int
    column: Int32[np.ndarray, "m 1"]

    def row_sum(self) -> Int32[Array, "m n"]:
        """Sum of the pixels' rows within the cell, digit by binary digit."""
        digits = range(5 if self.columns == 1 else 3)
        return self._weighted([self._mask(lambda i, _, d=d: i >> d & 1) for d in digits])

    def column_sum(self) -> Int32[Array, "m n"]:
        """Sum of the pixels' columns within the word."""
        digits = range((self.columns - 1).bit_length())
        return self._weighted([self._mask(lambda _, j, d=d: j >> d & 1) for d in digits])

    def rows(self) -> UInt32[Array, "m n"]:
        """Which rows have a pixel in any column of the word."""
        bits = self.pixels
        for step in (16, 8):
            bits = bits | bits >> step if self.columns * self.spacing > step >= self.spacing else bits
        return bits & jnp.uint32((1 << self.spacing) - 1)

    def _weighted(self, digits: list[int]) -> Int32[Array, "m n"]:
        zero = jnp.zeros(self.pixels.shape, jnp.int32)
        return sum((_population(self.pixels & jnp.uint32(mask)) << d for d, mask in enumerate(digits)), zero)

    def _mask(self, chosen: Callable[..., int]) -> int:
        """Bits of a word whose row and column are chosen."""
        bits = itertools.product(range(self.columns), range(self.spacing))
        return sum(1 << (j * self.spacing + i) for j, i in bits if chosen(i, j))


def _parts(assignment: UInt8[Array, "H W"], size: int) -> Iterator[_Part]:
    """The nine parts of all superpixels.

    All about the shape of superpixels follows from them, without a scatter over pixels. Offsets that lead off the grid
    belong to nobody, nor do codes above 8.
    """
    if size > LARGEST:
        raise ValueError(f"`size` must be at most {LARGEST}: got {size}. Use smaller superpixels.")
    h, w = grid_shape(assignment.shape, size)
    columns = next(n for n in (4, 2, 1) if size % n == 0) if size <= 8 else 1
    spacing = 8 if columns > 1 else 32
    ones = sum(1 << 8 * j for j in range(columns))
    view = jnp.minimum(assignment, jnp.uint8(127)).reshape(h, size, w, size // columns, columns)
    kinds = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
    codes = view[..., 0] if columns == 1 else jax.lax.bitcast_convert_type(view, kinds[columns])
    # Flat, with cells of nobody's pixels all around: each neighbor is one contiguous slice, and what is done with the
    # words stays vectorized wherever XLA fuses it, into the updates of a scatter too.
    codes, outside = codes.astype(jnp.uint32).transpose(1, 3, 0, 2), ((0, 0), (0, 0), (1, 2), (1, 1))
    around = jnp.pad(codes, outside, constant_values=np.uint32(127 * ones)).reshape(size, size // columns, -1)
    for offset in range(9):
        dy, dx = _shift(offset)
        start = (1 - dy) * (w + 2) + 1 - dx
        cell = around[:, :, start : start + h * (w + 2)]
        # Bytes below 128: adding 127 carries into the high bit of those that differ, and no further.
        differ = ((row ^ jnp.uint32(offset * ones)) + jnp.uint32(127 * ones) for row in cell)
        equal = ((~bits & jnp.uint32(128 * ones)) >> 7 for bits in differ)
        pixels = functools.reduce(jnp.bitwise_or, (bits << i for i, bits in enumerate(equal)))
        column = np.arange(0, size, columns, dtype=np.int32)[:, None] - size * dx
        yield _Part(dy, pixels, columns, spacing, column)


def _moments(assignment: UInt8[Array, "H W"], size: int) -> tuple[Int32[Array, "h w"], ...]:
    """Number of each superpixel's pixels, and the sums of their rows and columns from the corner of its own cell."""
    h, w = grid_shape(assignment.shape, size)
    sums = [jnp.zeros(h * (w + 2), jnp.int32)] * 3
    for part in _parts(assignment, size):
        count = _population(part.pixels)
        down, right = part.row_sum() - size * part.dy * count, part.column_sum() + count * part.column
        sums = [a + b.sum(axis=0) for a, b in zip(sums, (count, down, right), strict=True)]
    return tuple(total.reshape(h, w + 2)[:, :w] for total in sums)


def _population(bits: UInt32[Array, "..."]) -> Int32[Array, "..."]:
    return jax.lax.population_count(bits).astype(jnp.int32)


def _first_bit(bits: UInt32[Array, "..."]) -> Int32[Array, "..."]:
    return _population((bits & (~bits + 1)) - 1)


def _last_bit(bits: UInt32[Array, "..."]) -> Int32[Array, "..."]:
    return 31 - jax.lax.clz(bits).astype(jnp.int32)


def _corners(h: int, w: int, size: int) -> Float[Array, "h w 2"]:
    rows, columns = jnp.arange(h, dtype=jnp.float32), jnp.arange(w, dtype=jnp.float32)
    return jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), axis=-1) * size
