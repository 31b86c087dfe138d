"""Frames for the benchmarks: photographs, crowded scenes, and what is hard on superpixels and grouping."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from jaxseg.data import Example, shapes


def photos(folder: Path, size: tuple[int, int]) -> list[np.ndarray]:
    """Photographs enlarged to cover the frame, and its middle cut out."""
    found = []
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png")):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else 1)
        top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
        found.append(np.ascontiguousarray(image[top : top + size[0], left : left + size[1], ::-1]))
    if not found:
        sys.exit(f"{folder} holds no image.")
    return found


def crowd(seed: int, size: tuple[int, int], across: int = 6, classes: int = 4) -> Example:
    """Several generated scenes side by side in one frame: about five objects in each.

    Args:
      seed: of all randomness.
      size: (height, width) of the frame.
      across: scenes, each `size[1] / across` wide.
      classes: how many occur.
    """
    rng, edges = np.random.default_rng(seed), np.linspace(0, size[1], across + 1).astype(int)
    image, semantic, instance = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8), np.zeros(size, np.uint16)
    for left, right in itertools.pairwise(edges):
        scene = shapes.scene(rng, (size[0], right - left), classes)
        image[:, left:right], semantic[:, left:right] = scene.image, scene.semantic
        instance[:, left:right] = np.where(scene.instance > 0, scene.instance + instance.max(), 0)
    return Example(image, semantic, instance, f"crowd {seed}")


def components(height: int, width: int) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Grids to find components in, by name: blobs, and those that are hard on one or another algorithm."""
    blobs = [cv2.GaussianBlur(np.random.default_rng(i).random((height, width)), (0, 0), 3) > 0.52 for i in range(4)]
    yield "blobs", blobs
    yield "spiral", [_spiral(height, width)]
    yield "snake", [_snake(height, width)]
    yield "columns", [_snake(width, height).T.copy()]
    yield "checkerboard", [np.indices((height, width)).sum(0) % 2 == 0]
    yield "noise", [np.random.default_rng(i).random((height, width)) < 0.45 for i in range(4)]
    yield "comb", [_comb(height, width)]


def _spiral(h: int, w: int) -> np.ndarray:
    """One path from the border to the middle."""
    mask = np.zeros((h, w), bool)
    top, left, bottom, right = 0, 0, h - 1, w - 1
    while top <= bottom and left <= right:
        mask[top, left : right + 1] = True
        mask[top : bottom + 1, right] = True
        mask[bottom, left : right + 1] = True
        mask[top + 2 : bottom + 1, left] = True
        if top + 2 <= bottom and left + 2 <= right:
            mask[top + 2, left : left + 2] = True
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    return mask


def _snake(h: int, w: int) -> np.ndarray:
    """One path that runs to and fro."""
    mask = np.zeros((h, w), bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    return mask


def _comb(h: int, w: int) -> np.ndarray:
    """Teeth that meet at the bottom only: the root of each is far from all others."""
    mask = np.zeros((h, w), bool)
    mask[:, ::2] = True
    mask[-1] = True
    return mask
