"""Street-like scenes drawn from a random generator: shapes on a road, told apart by silhouette, with exact labels.

Every class has a silhouette of its own and a usual hue. The hue alone misleads: it spreads around the class's own, and
some objects have any hue at all. Sizes are in pixels of an image 128 high and scale with the image.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxseg.config import Data, UserError
from jaxseg.data import Example, Label, drawing, images, layouts
from jaxseg.data.drawing import CLASSES, Shape, Window
from jaxseg.types import IGNORED, ClassList

SMALLEST, LARGEST = 12.0, 80.0
MOST_OBJECTS = 12
FEWEST_PIXELS = 12
TOUCHING = 0.3
HIDDEN_PATCH = 0.3
SPLITS = ("train", "val")


class Place(NamedTuple):
    """A scene that is not drawn yet.

    Attributes:
      name: of the scene.
      split: "train" or "val".
      number: in its split.
    """

    name: str
    split: str
    number: int


@dataclass(frozen=True)
class Layout(layouts.Layout):
    """Scenes to be drawn.

    Attributes:
      seed: of all of them.
      size: (height, width), pixels.
    """

    seed: int
    size: tuple[int, int]

    def fingerprint(self) -> str:
        """Of what decides what is drawn."""
        counts = {split: len(items) for split, items in self.splits.items()}
        return layouts.fingerprint(self.seed, self.size, layouts.meaning(self.classes), counts)

    def read(self, item: Place) -> layouts.Labelled:
        """Draws one scene."""
        drawn = generate(self.seed, item.split, item.number, self.size, len(self.classes) - 1)
        pixels = drawn.image[..., ::-1]
        things = np.where(np.isin(drawn.semantic, self.classes.stuff), np.uint16(0), drawn.instance)
        label = Label(drawn.semantic, layouts.numbered(things))
        return layouts.Labelled(images.png(pixels), images.digest(pixels), label)


def layout(data: Data) -> Layout:
    """Lists scenes.

    Args:
      data: settings; classes, seed and shapes are read.

    Returns:
      Train and val.

    Raises:
      UserError: names that do not mean what is drawn.
    """
    given, s = data.classes or CLASSES, data.shapes
    misplaced = any(name in CLASSES and CLASSES[i : i + 1] != (name,) for i, name in enumerate(given))
    if len(given) > len(CLASSES) or misplaced:
        raise UserError(
            f"`data.classes` of shapes must be the first 1 to {len(CLASSES)} of {', '.join(CLASSES)}: "
            f"got {', '.join(given)}."
        )
    classes = layouts.choose(data, ClassList.of(given), given)
    places = {split: tuple(Place(f"{split}_{i:06d}", split, i) for i in range(getattr(s, split))) for split in SPLITS}
    return Layout("shapes", classes, places, data.seed, (s.size[0], s.size[1]))


def generate(seed: int, split: str, index: int, size: tuple[int, int], classes: int = len(CLASSES)) -> Example:
    """Scene of one place in a data set: a function of its arguments alone.

    Args:
      seed: of the data set, >= 0.
      split: "train" or "val".
      index: of the scene in its split, >= 0.
      size: (height, width) in pixels.
      classes: how many of ``CLASSES`` occur, 1 to 8.

    Returns:
      The scene, named after its split and index.
    """
    example = scene(np.random.default_rng([seed, SPLITS.index(split), index]), size, classes)
    return example._replace(name=f"{split}_{index:06d}")


def scene(rng: np.random.Generator, size: tuple[int, int], classes: int = len(CLASSES)) -> Example:
    """Random street-like scene with its labels.

    Args:
      rng: source of all randomness.
      size: (height, width) in pixels, each at least 32.
      classes: how many of ``CLASSES`` occur, 1 to 8.

    Returns:
      Image, class ids and instance ids; ids are 1..n in the order in which objects were drawn, each with 12 visible
      pixels or more.

    Raises:
      ValueError: if size or classes is out of its range.
    """
    check(size, classes)
    horizon = rng.uniform(0.15, 0.45) * size[0]
    shapes = _place(rng, size, classes, horizon)
    patch = _ignored_patch(rng, size)
    drawn = [drawing.rasterize(shape, size) for shape in shapes]
    kept = _visible(drawn, patch, size)
    shapes, drawn = [shapes[i] for i in kept], [drawn[i] for i in kept]

    image = drawing.background(rng, size, horizon)
    semantic, instance = np.zeros(size, np.uint8), np.zeros(size, np.uint16)
    for i, (shape, (window, mask)) in enumerate(zip(shapes, drawn, strict=True)):
        drawing.paint(rng, image[window], mask, drawing.object_color(rng, shape.class_id, classes))
        semantic[window][mask] = shape.class_id
        instance[window][mask] = i + 1
    if patch is not None:
        _paint_patch(rng, image, patch)
        semantic[patch], instance[patch] = IGNORED, 0
    camera = drawing.camera(rng, size)
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(1, 10))
    return Example(image=drawing.expose(image, camera, noise), semantic=semantic, instance=instance)


def check(size: tuple[int, int], classes: int) -> None:
    """Refuses what cannot be drawn.

    Args:
      size: (height, width) in pixels, each at least 32.
      classes: how many of ``CLASSES`` occur, 1 to 8.

    Raises:
      ValueError: if one is out of its range.
    """
    if min(size) < 32:
        raise ValueError(f"`size` must be at least 32 x 32: got {size[0]} x {size[1]}.")
    if not 1 <= classes <= len(CLASSES):
        raise ValueError(f"`classes` must be 1 to {len(CLASSES)}: got {classes}.")


def _place(rng: np.random.Generator, size: tuple[int, int], classes: int, horizon: float) -> list[Shape]:
    """Objects from the horizon to the viewer; some have a twin of their class right beside them."""
    shapes: list[Shape] = []
    wanted = int(rng.integers(1, MOST_OBJECTS + 1))
    while len(shapes) < wanted:
        shapes.append(random_shape(rng, size, classes, horizon))
        if len(shapes) < wanted and rng.random() < TOUCHING:
            shapes.append(_beside(rng, shapes[-1], size))
    return sorted(shapes, key=lambda shape: shape.center[0] + shape.size / 2)


def random_shape(rng: np.random.Generator, size: tuple[int, int], classes: int, horizon: float) -> Shape:
    """A shape that stands somewhere between the horizon and the viewer; the nearer, the larger.

    Args:
      rng: source of all randomness.
      size: (height, width) of the image in pixels.
      classes: how many of ``CLASSES`` occur.
      horizon: row, in pixels.
    """
    near = rng.random() ** 1.3
    y = horizon + near * (0.95 * size[0] - horizon)
    extent = (SMALLEST + near * 0.7 * (LARGEST - SMALLEST)) * np.exp(rng.normal(0, 0.35))
    return Shape(
        class_id=int(rng.integers(1, classes + 1)),
        center=(y, rng.uniform(0.02, 0.98) * size[1]),
        size=float(np.clip(extent, SMALLEST, LARGEST)) * size[0] / 128,
        angle=rng.uniform(0, 2 * np.pi),
        aspect=rng.uniform(0.85, 1.15),
    )


def _beside(rng: np.random.Generator, shape: Shape, size: tuple[int, int]) -> Shape:
    scale = size[0] / 128
    extent = float(np.clip(shape.size * rng.uniform(0.8, 1.2), SMALLEST * scale, LARGEST * scale))
    distance = rng.uniform(0.65, 0.95) * (shape.size + extent) / 2
    # Towards the middle, so that the twin is not beyond the edge; mostly sideways, as things stand on a street.
    side = -1 if shape.center[1] > size[1] / 2 else 1
    direction = rng.normal(0, 0.4)
    center = (shape.center[0] + distance * np.sin(direction), shape.center[1] + side * distance * np.cos(direction))
    return Shape(shape.class_id, center, extent, rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.15))


def _visible(drawn: list[tuple[Window, np.ndarray]], patch: Window | None, size: tuple[int, int]) -> list[int]:
    """Indices of the shapes that keep enough pixels once all are drawn."""
    owner = np.zeros(size, np.int32)
    for i, (window, mask) in enumerate(drawn):
        owner[window][mask] = i + 1
    if patch is not None:
        owner[patch] = 0
    pixels = np.bincount(owner.ravel(), minlength=len(drawn) + 1)[1:]
    return [i for i, n in enumerate(pixels) if n >= FEWEST_PIXELS]


def _ignored_patch(rng: np.random.Generator, size: tuple[int, int]) -> Window | None:
    """Place of the hood of the own car or of an unlabelled patch, or None."""
    if rng.random() >= HIDDEN_PATCH:
        return None
    if rng.random() < 0.5:
        return slice(size[0] - int(rng.uniform(0.05, 0.14) * size[0]), size[0]), slice(0, size[1])
    height, width = (int(rng.uniform(0.1, 0.3) * min(size)) for _ in range(2))
    y, x = int(rng.integers(0, size[0] - height)), int(rng.integers(0, size[1] - width))
    return slice(y, y + height), slice(x, x + width)


def _paint_patch(rng: np.random.Generator, image: np.ndarray, patch: Window) -> None:
    """Hatches the ignored patch in a dark and a light gray, in place."""
    view = image[patch]
    y, x = np.ogrid[: view.shape[0], : view.shape[1]]
    period = max(4, image.shape[0] // 16)
    stripes = ((x + y) % period < period // 2)[..., None]
    dark, light = rng.uniform(10, 60), rng.uniform(60, 140)
    view[...] = np.where(stripes, np.float32(dark), np.float32(light))
