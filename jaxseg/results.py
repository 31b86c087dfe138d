"""Finished masks in the forms that others read. Host-side NumPy on one frame; a `Result` has all of it as methods.

Boxes and polygons keep the house's order, (y, x); COCO's formats have COCO's, x first.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import struct
from jaxtyping import Bool, Int, UInt8

from jaxseg import visualize
from jaxseg.types import ClassList, Instances, Segmentation

CLASS_STEP = 1 << 16
"""Segment ids of a panoptic map are class * this + instance: the three bytes of COCO's PNGs, class last."""


class Panoptic(NamedTuple):
    """A panoptic map: every pixel belongs to one segment, or to none.

    Attributes:
      ids: segment of each pixel, 0 for none: background, and pixels of a class with instances that are in no object.
      segments: ``id``, ``category_id``, ``isthing``, ``area`` and ``bbox`` (x, y, width, height) of each segment, and
        ``score`` of an object: what COCO calls segments_info.
    """

    ids: Int[np.ndarray, "H W"]
    segments: list[dict[str, Any]]

    def rgb(self) -> UInt8[np.ndarray, "H W 3"]:
        """The ids as COCO's PNGs hold them: R + 256 G + 65536 B."""
        return np.stack([(self.ids >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)], axis=-1)


@struct.dataclass
class Result(Segmentation):
    """A `Segmentation` that converts and draws itself: its methods are the functions of this module."""

    def unstack(self) -> "list[Result]":
        """The frames of a batch, one by one, on the host; see `unstacked`."""
        return unstacked(self)

    def objects(self, classes: ClassList) -> list[dict[str, Any]]:
        """The objects by name, with score, box, area and center; see `objects`."""
        return objects(self, classes)

    def boxes(self) -> Int[np.ndarray, "n 4"]:
        """Half-open boxes (y0, x0, y1, x1) of the objects; see `boxes`."""
        return boxes(self)

    def polygons(self) -> list[list[Int[np.ndarray, "m 2"]]]:
        """Exact outlines of the objects along the edges of pixels, (y, x); see `polygons`."""
        return polygons(self)

    def panoptic(self, classes: ClassList, categories: Mapping[int, int] | None = None) -> Panoptic:
        """One map of objects and stuff, with COCO's segments_info; see `panoptic`."""
        return panoptic(self, classes, categories)

    def coco(self, image_id: int, categories: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
        """The objects as COCO's results, with run-length codes; see `coco`."""
        return coco(self, image_id, categories)

    def draw(self, image: Any, classes: ClassList | None = None, **how: Any) -> UInt8[np.ndarray, "H W 3"]:
        """The frame with its objects drawn over it; see `draw`."""
        return draw(self, image, classes, **how)


def result(found: Segmentation) -> Result:
    """The same with methods."""
    return Result(**vars(found))


def unstacked(found: Segmentation) -> list[Result]:
    """The frames of a batch, one by one, on the host; a lone frame is a list of one."""
    host = result(jax.device_get(found))
    if np.ndim(host.semantic) == 2:
        return [host]
    return [jax.tree.map(lambda x, i=i: x[i], host) for i in range(len(host.semantic))]


def _one(found: Segmentation) -> Segmentation:
    """The frame, on the host.

    Raises:
      ValueError: there are several.
    """
    if np.ndim(found.semantic) != 2:
        raise ValueError(f"This is a batch of {len(found.semantic)} frames: take one of `unstack()`.")
    return jax.device_get(found)


def objects(found: Segmentation, classes: ClassList) -> list[dict[str, Any]]:
    """The objects, as `jaxseg predict` lists them in its JSON; most confident center first.

    Args:
      found: one frame.
      classes: of the network.

    Returns:
      Of each object: ``id`` in the instance map, ``class`` and ``class_id``, ``score``, ``box`` (y0, x0, y1, x1),
      ``area`` in pixels, ``center`` (y, x); and ``track`` where a tracker named it.
    """
    rows = _one(found).instances
    return [
        {
            "id": int(i) + 1,
            "class": classes.names[int(rows.class_id[i])],
            "class_id": int(rows.class_id[i]),
            "score": round(float(rows.score[i]), 6),
            "box": [int(v) for v in rows.box[i]],
            "area": int(rows.area[i]),
            "center": [round(float(v), 2) for v in rows.center[i]],
            **({"track": int(rows.track_id[i])} if rows.track_id[i] else {}),
        }
        for i in np.flatnonzero(rows.valid)
    ]


def boxes(found: Segmentation) -> Int[np.ndarray, "n 4"]:
    """Half-open boxes (y0, x0, y1, x1) of the objects, in pixels, most confident center first."""
    rows = _one(found).instances
    return np.asarray(rows.box)[np.asarray(rows.valid)]


def panoptic(found: Segmentation, classes: ClassList, categories: Mapping[int, int] | None = None) -> Panoptic:
    """One map of objects and stuff, with a table of its segments.

    Args:
      found: one frame.
      classes: of the network; says which classes are stuff.
      categories: class id to what ``category_id`` says; None for the class ids themselves.

    Returns:
      The map, and its segments in the order of their ids.
    """
    found = _one(found)
    rows, semantic = found.instances, found.semantic.astype(np.int32)
    class_id = np.concatenate([[0], rows.class_id]).astype(np.int32)
    stuff = np.isin(semantic, classes.stuff) & (found.instance == 0)
    ids = np.where(stuff, semantic, class_id[found.instance]) * CLASS_STEP + found.instance
    present, area = np.unique(ids, return_counts=True)
    segments = []
    for segment, size in zip(present.tolist(), area, strict=True):
        if not segment:
            continue
        kind, row = segment // CLASS_STEP, segment % CLASS_STEP - 1
        y0, x0, y1, x1 = rows.box[row] if row >= 0 else _extent(ids == segment)
        category = kind if categories is None else categories[kind]
        entry = {"id": segment, "category_id": category, "isthing": int(row >= 0), "area": int(size)}
        entry["bbox"] = [int(v) for v in (x0, y0, x1 - x0, y1 - y0)]
        segments.append(entry | ({"score": float(rows.score[row])} if row >= 0 else {}))
    return Panoptic(ids, segments)


def _extent(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """Half-open box of the pixels that are set; there is one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def coco(found: Segmentation, image_id: int, categories: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
    """The objects as COCO's results: what pycocotools' ``loadRes`` and the evaluation server read.

    There is no ``bbox``: pycocotools would take its area for the mask's.

    Args:
      found: one frame.
      image_id: of the frame, in the annotations.
      categories: class id to ``category_id``; None for the class ids themselves.

    Returns:
      Of each object: ``image_id``, ``category_id``, ``segmentation`` (compressed run lengths) and ``score``.
    """
    found = _one(found)
    return coco_entries(found.instance, found.instances, image_id, categories)


def coco_entries(
    instance: Any, rows: Instances, image_id: int, categories: Mapping[int, int] | None = None
) -> list[dict[str, Any]]:
    """`coco`, of a map (H, W) that need not have the size that its rows were measured at; all of it on the host."""
    from pycocotools import mask

    height, width = instance.shape
    # The runs of all objects in one pass, column by column.
    flat = instance.T.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] + 1))
    ends, owner = np.append(starts[1:], flat.size), flat[starts]
    entries = []
    for row in np.flatnonzero(rows.valid):
        own = owner == row + 1
        bounds = np.stack([starts[own], ends[own]], axis=1).ravel()
        rest = [flat.size] if not bounds.size or bounds[-1] < flat.size else []
        counts = np.diff([0, *bounds, *rest]).tolist()
        code = mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        kind = int(rows.class_id[row])
        entries.append(
            {
                "image_id": image_id,
                "category_id": kind if categories is None else categories[kind],
                "segmentation": {"size": [height, width], "counts": code["counts"].decode()},
                "score": float(rows.score[row]),
            }
        )
    return entries


def polygons(found: Segmentation) -> list[list[Int[np.ndarray, "m 2"]]]:
    """The outlines of the objects, exact: along the edges of pixels.

    Of each object a list of rings, one around each 4-connected part and one around each hole. Their corners (y, x) are
    corners of pixels: pixel (i, j) covers [i, i + 1] x [j, j + 1]. Seen with y downward, outer rings run clockwise and
    holes the other way, so that the signed areas of an object's rings add up to its pixels.

    Args:
      found: one frame.

    Returns:
      Rings of each object, in the order of `boxes`; the last corner of a ring joins its first.
    """
    found = _one(found)
    rings = []
    for row in np.flatnonzero(found.instances.valid):
        y0, x0, y1, x1 = (int(v) for v in found.instances.box[row])
        mask = np.asarray(found.instance[y0:y1, x0:x1] == row + 1)
        rings.append([ring + np.array([y0, x0]) for ring in _rings(mask)])
    return rings


def _rings(mask: Bool[np.ndarray, "H W"]) -> list[Int[np.ndarray, "m 2"]]:
    """Closed paths along the border of a mask, the mask on the right hand, corners only."""
    start, end, direction = _border(mask)
    order = np.argsort(start, kind="stable")
    start, end, direction = start[order], end[order], direction[order]
    # Edges that leave the corner where each one ends: one, or two where pixels touch by a corner alone. There the path
    # turns right, around its own pixel, so that parts which are not 4-connected get rings of their own.
    first, last = np.searchsorted(start, end), np.searchsorted(start, end, side="right") - 1
    right = (direction + 1) % 4
    following = np.where(direction[last] == right, last, first)
    turns = direction[following] != direction
    left, width = set(range(len(start))), mask.shape[1] + 1
    rings = []
    while left:
        edge, corners = left.pop(), []
        opened = edge
        while True:
            if turns[edge]:
                corners.append(end[edge])
            edge = following[edge]
            if edge == opened:
                break
            left.remove(edge)
        rings.append(np.stack(np.divmod(np.array(corners), width), axis=-1))
    return rings


def _border(
    mask: Bool[np.ndarray, "H W"],
) -> tuple[Int[np.ndarray, " e"], Int[np.ndarray, " e"], Int[np.ndarray, " e"]]:
    """Sides of pixels between mask and no mask: where each starts and ends, and its direction.

    Corners are numbered row * (W + 1) + column. Directions 0 to 3 are right, down, left and up, along the upper, right,
    lower and left side of a pixel of the mask.
    """
    stride = mask.shape[1] + 1
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    outside = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    begins, steps = (0, 1, stride + 1, stride), (1, stride, -1, -stride)
    parts = []
    for number, beyond in enumerate(outside):
        y, x = np.nonzero(inner & ~beyond)
        from_ = y * stride + x + begins[number]
        parts.append((from_, from_ + steps[number], np.full(from_.size, number)))
    start, end, direction = (np.concatenate(column) for column in zip(*parts, strict=True))
    return start, end, direction


def draw(found: Segmentation, image: Any, classes: ClassList | None = None, **how: Any) -> UInt8[np.ndarray, "H W 3"]:
    """The frame with its objects drawn over it; see `visualize.overlay`.

    Args:
      found: one frame.
      image: uint8 RGB, of the same size.
      classes: names, colors and which classes are stuff.
      **how: other arguments of `visualize.overlay`.
    """
    found = _one(found)
    return visualize.overlay(np.asarray(image), found.semantic, found.instance, found.instances, classes, **how)
