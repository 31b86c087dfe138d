"""Frame to finished masks: superpixels, network, grouping and upsampling, in one XLA program.

`segment` is the whole inference; `finish` is its part after the network, for one image, so that an oracle can stand in
for any head. `anatomy` also gives what lies between.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Integer, UInt8, UInt16

from jaxseg.ops import clustering, components, filters, resizing, superpixels, upsampling
from jaxseg.types import IGNORED, Capacity, Instances, Outputs, Segmentation, Targets, Thresholds

T = TypeVar("T")

MOST_BY_WORDS = 8
"""Largest cells whose areas and boxes come from words of bits; pixel by pixel they come faster from larger ones."""

OUTSIDE = 9
"""Assignment of padding pixels: no superpixel, so they count in no area and no box."""


class Geometry(NamedTuple):
    """How a frame, the network's input and the grid lie over one another. All sizes are (height, width).

    Attributes:
      frame: the frame's size, pixels; results have it too.
      network: the network's input.
      canvas: the image that superpixels are computed on: the frame, padded or enlarged so that the grid divides it into
        squares; or the network's input, where that is no smaller or the cells could not be measured.
      cell: edge of a grid element on the canvas, pixels.
      grid: elements.
      resized: whether canvas and frame are resized to one another, as the grid does not divide the frame.
    """

    frame: tuple[int, int]
    network: tuple[int, int]
    canvas: tuple[int, int]
    cell: int
    grid: tuple[int, int]
    resized: bool


def geometry(frame: tuple[int, int], capacity: Capacity) -> Geometry:
    """Lays the grid over a frame of this size.

    Masks have the frame's resolution: superpixels are computed on it where the grid divides it into squares, else on
    the smallest canvas that has all its rows and columns. Frames that are no larger than the network's input have the
    superpixels of that.

    Args:
      frame: (height, width), pixels.
      capacity: the network's size (None: the frame's own, padded), its stride, and k.

    Raises:
      ValueError: an empty frame.
    """
    if min(frame) < 1:
        raise ValueError(f"`frame` must have at least one pixel: got {frame[0]} x {frame[1]}.")
    k = capacity.superpixel
    if capacity.size is None:
        padded = (_round_up(frame[0], capacity.stride), _round_up(frame[1], capacity.stride))
        return Geometry(frame, padded, padded, k, (padded[0] // k, padded[1] // k), False)
    grid = (capacity.size[0] // k, capacity.size[1] // k)
    cell = max(_ceil(frame[0], grid[0]), _ceil(frame[1], grid[1]))
    canvas = (grid[0] * cell, grid[1] * cell)
    if cell <= superpixels.LARGEST and (cell > k or canvas == frame):
        return Geometry(frame, capacity.size, canvas, cell, grid, canvas != frame)
    return Geometry(frame, capacity.size, capacity.size, k, grid, True)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def segment(
    network: nn.Module,
    variables: dict,
    frames: UInt8[Array, "*b H W 3"],
    capacity: Capacity,
    thresholds: Thresholds,
) -> Segmentation:
    """Segments one frame or a batch: every pixel's class and every object's mask, at the frame's own size.

    Pure; jit it with ``network`` and ``capacity`` static (`jitted` is that). One compilation for each frame size and
    batch; thresholds may change freely.

    Args:
      network: maps uint8 or float [0, 1] images (b, H, W, 3) to `Outputs`.
      variables: its parameters and statistics.
      frames: RGB, one frame or a batch.
      capacity: what fixes shapes.
      thresholds: numbers of the grouping.

    Returns:
      A `Segmentation`, with a leading batch axis where ``frames`` has one.

    References:
      Milioto et al., ICRA 2019, section III-B and III-C.
    """
    if frames.ndim == 3:
        single = segment(network, variables, frames[None], capacity, thresholds)
        return jax.tree.map(lambda x: x[0], single)
    plan = geometry((frames.shape[1], frames.shape[2]), capacity)
    outputs, assignment = _predicted(network, variables, frames, plan, capacity, thresholds)
    return each(lambda o, a: finish(o, a, plan, capacity, thresholds), outputs, assignment)


def _predicted(
    network: nn.Module,
    variables: dict,
    frames: UInt8[Array, "b H W 3"],
    plan: Geometry,
    capacity: Capacity,
    thresholds: Thresholds,
) -> tuple[Any, UInt8[Array, "b H_canvas W_canvas"]]:
    """The `Outputs` on the grid, and the superpixels of the canvas."""
    images, canvases = inputs(frames, plan)
    outputs = network.apply(variables, images, train=False)
    with jax.named_scope("superpixels"):
        assignment = each(lambda canvas: assign(canvas, plan, capacity, thresholds), canvases)
    return outputs, assignment


class Anatomy(NamedTuple):
    """What the method did with a frame (or, with a leading axis everywhere, a batch).

    Attributes:
      found: the result.
      outputs: what the network predicted, on the grid.
      superpixels: grid element (row * w + column) that each pixel of the frame belongs to.
    """

    found: Segmentation
    outputs: Outputs
    superpixels: Int[Array, "*b H W"]


def anatomy(
    network: nn.Module,
    variables: dict,
    frames: UInt8[Array, "*b H W 3"],
    capacity: Capacity,
    thresholds: Thresholds,
) -> Anatomy:
    """`segment`, and what it made the result of. Arguments are those of `segment`.

    Superpixels have the frame's size, as masks do, whatever canvas they were computed on. The all-to-all baseline has
    square cells in their place.
    """
    if frames.ndim == 3:
        single = anatomy(network, variables, frames[None], capacity, thresholds)
        return jax.tree.map(lambda x: x[0], single)
    plan = geometry((frames.shape[1], frames.shape[2]), capacity)
    outputs, assignment = _predicted(network, variables, frames, plan, capacity, thresholds)
    found = each(lambda o, a: finish(o, a, plan, capacity, thresholds), outputs, assignment)
    elements = each(lambda a: _on_frame(superpixels.ids(a, plan.cell), plan), assignment)
    return Anatomy(found, outputs, elements)


def each(run: Callable[..., T], *batches: Any) -> T:
    """Maps a function of one image over a batch. One alone is not mapped: its scatters and conditions stay simple.

    Images of a batch whose size is a symbol (`jax.export`) go one after the other: of all that `jax.vmap` makes of it,
    XLA cannot find the shapes once the size is known.

    Args:
      run: the function.
      *batches: its arguments, with a leading batch axis each.

    Returns:
      What it returns, with a leading batch axis.
    """
    size = jax.tree.leaves(batches)[0].shape[0]
    if not isinstance(size, int):
        return jax.lax.map(lambda one: run(*one), batches)
    if size != 1:
        return jax.vmap(run)(*batches)
    alone = jax.tree.map(lambda x: x[0], batches)
    return jax.tree.map(lambda x: x[None], run(*alone))


jitted = jax.jit(segment, static_argnums=(0, 3))
"""`segment`, compiled."""


def inputs(frames: UInt8[Array, "b H W 3"], plan: Geometry) -> tuple[Array, Array]:
    """The network's images, and the canvases that superpixels are computed on.

    Args:
      frames: RGB.
      plan: the geometry of their size.

    Returns:
      Images (b, *plan.network, 3) and canvases (b, *plan.canvas, 3): uint8, or float in [0, 1] where they have the
      network's size and the frames another.
    """
    if plan.frame == plan.network:
        return frames, frames
    if plan.canvas == plan.network and not plan.resized:
        bottom, right = plan.canvas[0] - plan.frame[0], plan.canvas[1] - plan.frame[1]
        padded = jnp.pad(frames, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge")
        return padded, padded
    resized = resizing.linear(frames, plan.network)
    if plan.canvas == plan.network:
        return resized, resized
    # Nearest: as good as linear interpolation for the masks, and a hundred times as fast.
    return resized, resizing.nearest(frames, plan.canvas, axis=1) if plan.resized else frames


def assign(canvas: Array, plan: Geometry, capacity: Capacity, thresholds: Thresholds) -> UInt8[Array, "H W"]:
    """Superpixels of one canvas; pixels of the padding belong to none (`OUTSIDE`), and no pixel to a cell in it.

    A canvas of more pixels than the network's input has larger cells; compactness shrinks with them, and as large a
    part of each gives its center a color, so that the same object gets the same superpixels at any resolution. Its
    pixels are noisier than those that the network sees, which are averages: a median takes the noise out. The
    all-to-all baseline has square cells in the place of superpixels.
    """
    if capacity.clustering == "all_to_all":
        return jnp.full(plan.canvas, superpixels.OWN, jnp.uint8)
    compactness = thresholds.compactness * (capacity.superpixel / plan.cell)
    if plan.cell > capacity.superpixel:
        return superpixels.assign(
            filters.median(canvas), plan.cell, compactness, _middle(plan.cell, capacity.superpixel)
        )
    if plan.canvas == plan.frame or plan.resized:
        return superpixels.assign(canvas, plan.cell, compactness)
    # Cells that hold a pixel of the frame: those beyond look like its edge, and would take pixels from it.
    reached = (_ceil(plan.frame[0], plan.cell) * plan.cell, _ceil(plan.frame[1], plan.cell) * plan.cell)
    assignment = superpixels.assign(canvas[: reached[0], : reached[1]], plan.cell, compactness)
    assignment = jnp.where(_inside(reached, plan.frame), assignment, jnp.uint8(OUTSIDE))
    beyond = [(0, whole - part) for whole, part in zip(plan.canvas, reached, strict=True)]
    return jnp.pad(assignment, beyond, constant_values=OUTSIDE)


def _middle(cell: int, k: int) -> int:
    """Pixels along a side that are as large a part of a cell as those of a center at the network's size."""
    count = round((2 - k % 2) * cell / k)
    return count + (cell - count) % 2


def _inside(size: tuple[int, int], extent: tuple[int, int]) -> Bool[Array, "H W"]:
    rows, columns = jnp.arange(size[0]) < extent[0], jnp.arange(size[1]) < extent[1]
    return rows[:, None] & columns[None, :]


class Groups(NamedTuple):
    """Objects on the grid, most confident first; rows of dropped duplicates are at the end, not valid.

    Attributes:
      classes: class of each element.
      ids: 0, or 1 + row of the center that takes the element.
      peaks: the centers; with all-to-all clustering, one at the middle of each cluster, of confidence 1.
      embedding: embedding at each center, or mean of each cluster.
      score: confidence times mean class probability.
    """

    classes: Int[Array, "h w"]
    ids: Int[Array, "h w"]
    peaks: clustering.Peaks
    embedding: Float[Array, "n d"]
    score: Float[Array, " n"]


def group(
    outputs: Outputs,
    inside: Bool[Array, "h w"],
    slots: int,
    thresholds: Thresholds,
    stuff: tuple[int, ...] = (),
    as_printed: bool = False,
) -> Groups:
    """Clusters the elements of one image around the predicted centers (section III-B).

    In the paper each connected blob of confident elements of a class is a center, so that objects whose centers lie
    side by side are one; and each class is grouped by itself, so that an object of which the network takes a part for
    another class comes out as two. Here each maximum of the confidence is a center, and from there on classes are one:
    of centers whose embeddings are near one another one is kept, each element joins the nearest, and all elements of an
    object get the class that most of them say, each as loud as it is sure. The score is the center's confidence times
    the mean probability of that class, where an element that says another counts 0.

    Args:
      outputs: the three heads on the grid.
      inside: elements that lie on the frame; the others are background.
      slots: most objects.
      thresholds: confidence and the two radii.
      stuff: ids of classes whose elements belong to no object.
      as_printed: the paper's way (static).
    """
    classes, things, probability = _classified(outputs, inside, stuff)
    confidence = jax.nn.sigmoid(outputs.center)
    if not as_printed:
        confidence = jnp.where(clustering.maxima(confidence), confidence, 0.0)
    peaks = clustering.peaks(confidence, things, slots, thresholds.center)
    embedding = outputs.embedding[peaks.element[:, 0], peaks.element[:, 1]]
    apart = (lambda kinds: kinds) if as_printed else (lambda kinds: (kinds > 0).astype(jnp.int32))
    keep = clustering.duplicates(embedding, apart(peaks.class_id), peaks.valid, thresholds.duplicate)
    order = jnp.argsort(~keep, stable=True)
    peaks, embedding = jax.tree.map(lambda x: x[order] if x.ndim else x, (peaks, embedding))
    peaks = peaks.replace(valid=keep[order])
    ids = clustering.assign(
        outputs.embedding, apart(things), embedding, apart(peaks.class_id), peaks.valid, thresholds.assignment
    )
    chosen, share = _voted(ids, things, probability, slots, outputs.semantic.shape[-1])
    classes = jnp.where(ids > 0, jnp.pad(chosen, (1, 0))[ids], classes)
    peaks = peaks.replace(class_id=jnp.where(chosen > 0, chosen, peaks.class_id))
    return Groups(classes, ids, peaks, embedding, peaks.score * share)


def _voted(
    ids: Int[Array, "h w"],
    classes: Int[Array, "h w"],
    probability: Float[Array, "h w"],
    slots: int,
    count: int,
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """The class with the most votes of each object's elements, and these per element; 0 and 0 without elements."""
    ballots = jnp.stack([jnp.ones_like(probability), probability], axis=-1)
    sums = jnp.zeros(((slots + 1) * count, 2)).at[ids * count + classes].add(ballots)
    elements, votes = jnp.moveaxis(sums.reshape(slots + 1, count, 2)[1:], -1, 0)
    share = jnp.max(votes, axis=-1) / jnp.maximum(jnp.sum(elements, axis=-1), 1)
    return jnp.argmax(votes, axis=-1).astype(jnp.int32), share


def group_all_to_all(
    outputs: Outputs, inside: Bool[Array, "h w"], slots: int, thresholds: Thresholds, stuff: tuple[int, ...] = ()
) -> Groups:
    """Clusters the elements of one image without centers: the baseline of Table I; arguments are those of `group`.

    Objects are in the order of their discovery. Only the assignment radius is read, as the bandwidth.
    """
    classes, things, probability = _classified(outputs, inside, stuff)
    found = clustering.all_to_all(outputs.embedding, things, probability, slots, thresholds.assignment)
    _, center_of_mass, element = components.middles(found.ids, slots)
    confidence = found.valid.astype(jnp.float32)
    peaks = clustering.Peaks(found.valid, found.class_id, confidence, element, center_of_mass, found.left)
    return Groups(classes, found.ids, peaks, found.mean, _mean_probability(found.ids, probability, slots))


def _grouping(capacity: Capacity) -> Callable[..., Groups]:
    """How elements become objects."""
    return (
        group_all_to_all
        if capacity.clustering == "all_to_all"
        else functools.partial(group, as_printed=capacity.as_printed)
    )


def _classified(
    outputs: Outputs, inside: Bool[Array, "h w"], stuff: tuple[int, ...]
) -> tuple[Int[Array, "h w"], Int[Array, "h w"], Float[Array, "h w"]]:
    """Class of each element, the same with 0 for classes without instances, and the probability of the class."""
    classes = jnp.where(inside, jnp.argmax(outputs.semantic, axis=-1), 0)
    own = jnp.take_along_axis(jax.nn.softmax(outputs.semantic), classes[..., None], axis=-1)[..., 0]
    return classes, jnp.where(_is_stuff(classes, stuff), 0, classes), own


def _mean_probability(ids: Int[Array, "h w"], probability: Float[Array, "h w"], slots: int) -> Float[Array, " n"]:
    count, total = _sums(ids, slots, jnp.stack([jnp.ones_like(probability), probability], axis=-1)).T
    return total / jnp.maximum(count, 1)


def _is_stuff(classes: Int[Array, "h w"], stuff: tuple[int, ...]) -> Bool[Array, "h w"]:
    return functools.reduce(jnp.logical_or, [classes == i for i in stuff], jnp.zeros(classes.shape, bool))


def _sums(ids: Int[Array, "h w"], slots: int, values: Float[Array, "h w v"]) -> Float[Array, "n v"]:
    return jnp.zeros((slots + 1, values.shape[-1])).at[ids].add(values)[1:]


def finish(
    outputs: Outputs,
    assignment: UInt8[Array, "H W"],
    plan: Geometry,
    capacity: Capacity,
    thresholds: Thresholds,
) -> Segmentation:
    """Outputs of one image to finished masks: grouping, then one-to-many upsampling through the superpixels.

    With `Capacity.clustering` "all_to_all", mean shift and bilinear upsampling take their places.

    Args:
      outputs: the three heads on the grid.
      assignment: superpixels of the canvas.
      plan: the geometry of this frame size.
      capacity: slots.
      thresholds: numbers of the grouping.
    """
    on_frame = (_ceil(plan.frame[0], plan.cell), _ceil(plan.frame[1], plan.cell)) if not plan.resized else plan.grid
    cluster = _grouping(capacity)
    with jax.named_scope("grouping"):
        groups = cluster(outputs, _inside(plan.grid, on_frame), capacity.slots, thresholds, capacity.stuff)
    with jax.named_scope("upsampling"):
        semantic, instance = _enlarged(groups, assignment, plan, capacity)
    with jax.named_scope("measuring"):
        if plan.resized or plan.cell > MOST_BY_WORDS or capacity.clustering == "all_to_all":
            area, box = _measure(instance, capacity.slots)
        else:
            area, box = superpixels.areas_and_boxes(groups.ids, assignment, plan.cell, capacity.slots)
    return Segmentation(semantic, instance, _instances(groups, area, box, plan), groups.peaks.lost)


def _enlarged(
    groups: Groups, assignment: UInt8[Array, "H W"], plan: Geometry, capacity: Capacity
) -> tuple[UInt8[Array, "H_frame W_frame"], UInt16[Array, "H_frame W_frame"]]:
    """Class and id of each pixel of the frame."""
    if capacity.clustering == "all_to_all":
        # Class and object are voted on as one label.
        packed = upsampling.bilinear(groups.classes.astype(jnp.int32) * (1 << 16) + groups.ids, plan.cell)
        semantic, instance = (packed >> 16).astype(jnp.uint8), (packed & 0xFFFF).astype(jnp.uint16)
    else:
        # Two narrow maps: of a packed one, XLA would compute all of it for each half that is taken out.
        semantic = superpixels.upsample(groups.classes.astype(jnp.uint8), assignment, plan.cell)
        instance = superpixels.upsample(groups.ids.astype(jnp.uint16), assignment, plan.cell)
    return _on_frame(semantic, plan), _on_frame(instance, plan)


def _on_frame(canvas: Integer[Array, "H W"], plan: Geometry) -> Integer[Array, "H_frame W_frame"]:
    """A map of the canvas at the frame's size: resized with it, or less the padding."""
    if plan.resized:
        return resizing.nearest(canvas, plan.frame)
    return canvas[: plan.frame[0], : plan.frame[1]]


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)


def _instances(groups: Groups, area: Int[Array, " n"], box: Int[Array, "n 4"], plan: Geometry) -> Instances:
    """Rows of the result; an object whose superpixels own no pixel is not one."""
    valid = groups.peaks.valid & (area > 0)
    scale = jnp.array([plan.frame[i] / plan.canvas[i] if plan.resized else 1.0 for i in range(2)])
    center = ((groups.peaks.center_of_mass + 0.5) * plan.cell) * scale[None, :] - 0.5
    rows = Instances(
        valid=valid,
        class_id=groups.peaks.class_id.astype(jnp.uint8),
        score=groups.score,
        center=center,
        box=box,
        area=area,
        embedding=groups.embedding,
        track_id=jnp.zeros_like(area),
    )
    return jax.tree.map(lambda x: jnp.where(valid.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros_like(x)), rows)


def _measure(ids: Integer[Array, "H W"], slots: int) -> tuple[Int[Array, " n"], Int[Array, "n 4"]]:
    """Area and box of each object of a pixel map."""
    rows = jnp.broadcast_to(jnp.arange(ids.shape[0])[:, None], ids.shape)
    columns = jnp.broadcast_to(jnp.arange(ids.shape[1])[None, :], ids.shape)
    position = jnp.stack([rows, columns], axis=-1).astype(jnp.int32)
    area = jnp.zeros(slots + 1, jnp.int32).at[ids].add(1)[1:]
    low = jnp.full((slots + 1, 2), jnp.iinfo(jnp.int32).max).at[ids].min(position)[1:]
    high = jnp.zeros((slots + 1, 2), jnp.int32).at[ids].max(position + 1)[1:]
    return area, jnp.concatenate([low, high], axis=-1)


def oracle(targets: Targets, classes: int, dimensions: int = 32) -> Outputs:
    """Outputs of a network that makes no mistake on the grid: what grid, grouping and upsampling cost is what is left.

    Args:
      targets: of one image; ignored elements become background.
      classes: length of the class list.
      dimensions: of the embedding; each instance gets a point of its own on a line.
    """
    semantic = jnp.where(targets.semantic == IGNORED, 0, targets.semantic)
    embedding = jnp.zeros((*semantic.shape, dimensions)).at[..., 0].set(10.0 * targets.instance)
    y, x = targets.center[:, 0], targets.center[:, 1]
    center = jnp.full(semantic.shape, -20.0).at[y, x].max(jnp.where(targets.valid, 20.0, -20.0))
    return Outputs(40.0 * jax.nn.one_hot(semantic, classes), embedding, center)
