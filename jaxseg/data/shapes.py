"""Street-like scenes drawn from a random generator: shapes on a road, told apart by silhouette, with exact labels.

Every class has a silhouette of its own and a usual hue. The hue alone misleads: it spreads around the class's own, and
some objects have any hue at all. Sizes are in pixels of an image 128 high and scale with the image.
"""

import colorsys
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from jaxseg.config import Data, UserError
from jaxseg.data import Example, Label, images, layouts
from jaxseg.types import IGNORED, ClassList

CLASSES = ("disc", "square", "triangle", "star", "cross", "ring", "crescent", "bar")
"""Names of the classes; class id i + 1 is row i."""

SMALLEST, LARGEST = 12.0, 80.0
MOST_OBJECTS = 12
FEWEST_PIXELS = 12
HUE_SPREAD = 18 / 360
ANY_HUE = 0.15
TOUCHING = 0.3
HIDDEN_PATCH = 0.3
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Shape:
    """One object before it is drawn.

    Attributes:
      class_id: 1..classes.
      center: (y, x) in pixels of the image; may lie near its edge.
      size: extent in pixels of the image.
      angle: rotation in radians.
      aspect: stretch along its own axis.
    """

    class_id: int
    center: tuple[float, float]
    size: float
    angle: float
    aspect: float


def _circle(radius: float, points: int = 40) -> np.ndarray:
    t = np.arange(points) * (2 * np.pi / points)
    return radius * np.stack([np.cos(t), np.sin(t)], axis=-1)


def _star(points: int = 5, inner: float = 0.4) -> np.ndarray:
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return _circle(1.0, 2 * points) * radius[:, None]


def _cross(width: float = 0.3) -> np.ndarray:
    w, arm = width, 0.95
    corners = [(w, arm), (w, w), (arm, w), (arm, -w), (w, -w), (w, -arm)]
    return np.array(corners + [(-x, -y) for x, y in corners])


def _crescent() -> np.ndarray:
    # The inner arc is a circle of 0.8 around x = 0.5; the arcs meet where both radii hold.
    x = (1 - 0.8**2 + 0.5**2) / (2 * 0.5)
    outer = np.linspace(np.arccos(x), 2 * np.pi - np.arccos(x), 28)
    start = np.arctan2(-np.sqrt(1 - x * x), x - 0.5) + 2 * np.pi
    inner = np.linspace(start, 2 * np.pi - start, 20)
    arcs = [
        np.stack([np.cos(outer), np.sin(outer)], -1),
        np.stack([0.5 + 0.8 * np.cos(inner), 0.8 * np.sin(inner)], -1),
    ]
    return np.concatenate(arcs)


# Contours of each class in a circle of about radius 1; a second contour is a hole.
_CONTOURS: dict[str, tuple[np.ndarray, ...]] = {
    "disc": (_circle(0.9),),
    "square": (_circle(1.05, 4),),
    "triangle": (_circle(1.1, 3),),
    "star": (_star() * 1.1,),
    "cross": (_cross(),),
    "ring": (_circle(1.0), _circle(0.52)),
    "crescent": (_crescent(),),
    "bar": (np.array([(-1.15, -0.24), (1.15, -0.24), (1.15, 0.24), (-1.15, 0.24)]),),
}


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
    if min(size) < 32:
        raise ValueError(f"`size` must be at least 32 x 32: got {size[0]} x {size[1]}.")
    if not 1 <= classes <= len(CLASSES):
        raise ValueError(f"`classes` must be 1 to {len(CLASSES)}: got {classes}.")
    horizon = rng.uniform(0.15, 0.45) * size[0]
    shapes = _place(rng, size, classes, horizon)
    patch = _ignored_patch(rng, size)
    drawn = [_rasterize(shape, size) for shape in shapes]
    kept = _visible(drawn, patch, size)
    shapes, drawn = [shapes[i] for i in kept], [drawn[i] for i in kept]

    image = _background(rng, size, horizon)
    semantic, instance = np.zeros(size, np.uint8), np.zeros(size, np.uint16)
    for i, (shape, (window, mask)) in enumerate(zip(shapes, drawn, strict=True)):
        _paint(rng, image[window], mask, _object_color(rng, shape.class_id, classes))
        semantic[window][mask] = shape.class_id
        instance[window][mask] = i + 1
    if patch is not None:
        _paint_patch(rng, image, patch)
        semantic[patch], instance[patch] = IGNORED, 0
    return Example(image=_expose(rng, image), semantic=semantic, instance=instance)


def _place(rng: np.random.Generator, size: tuple[int, int], classes: int, horizon: float) -> list[Shape]:
    """Objects from the horizon to the viewer; some have a twin of their class right beside them."""
    shapes: list[Shape] = []
    wanted = int(rng.integers(1, MOST_OBJECTS + 1))
    while len(shapes) < wanted:
        shapes.append(_random_shape(rng, size, classes, horizon))
        if len(shapes) < wanted and rng.random() < TOUCHING:
            shapes.append(_beside(rng, shapes[-1], size))
    return sorted(shapes, key=lambda shape: shape.center[0] + shape.size / 2)


def _random_shape(rng: np.random.Generator, size: tuple[int, int], classes: int, horizon: float) -> Shape:
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


Window = tuple[slice, slice]


def _rasterize(shape: Shape, size: tuple[int, int]) -> tuple[Window, np.ndarray]:
    """Window of the image around a shape, and its mask there."""
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    turn = np.array([[cos, -sin], [sin, cos]]) * np.array([shape.aspect, 1 / shape.aspect]) * (shape.size / 2)
    contours = [c @ turn.T + shape.center[::-1] for c in _CONTOURS[CLASSES[shape.class_id - 1]]]
    low = np.clip(np.floor(contours[0].min(0)).astype(int), 0, size[::-1])
    high = np.clip(np.ceil(contours[0].max(0)).astype(int) + 1, low, size[::-1])
    mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    if mask.size:
        # Two contours in one call fill by the even-odd rule; shift keeps 4 binary digits of the fraction.
        cv2.fillPoly(mask, [np.round((c - low) * 16).astype(np.int32) for c in contours], 1, cv2.LINE_8, 4)
    return (slice(low[1], high[1]), slice(low[0], high[0])), mask.astype(bool)


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


def _color(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32)


def _object_color(rng: np.random.Generator, class_id: int, classes: int) -> np.ndarray:
    usual = (class_id - 1) / classes + rng.normal(0, HUE_SPREAD)
    hue = rng.random() if rng.random() < ANY_HUE else usual
    return _color(hue, rng.uniform(0.3, 1.0), rng.uniform(0.35, 1.0))


def _clouds(rng: np.random.Generator, size: tuple[int, int], cell: float, strength: float) -> np.ndarray:
    """Smooth gray noise, (H, W, 1)."""
    grid = [max(2, round(side / cell)) for side in size]
    noise = rng.standard_normal(grid, np.float32) * strength
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_LINEAR)[..., None]


def _ramp(size: tuple[int, int], angle: float) -> np.ndarray:
    """Linear ramp from about -1 to 1 across the image in a direction, (H, W, 1)."""
    y = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size[1], dtype=np.float32)[None]
    return (np.float32(np.sin(angle)) * y + np.float32(np.cos(angle)) * x)[..., None]


def _background(rng: np.random.Generator, size: tuple[int, int], horizon: float) -> np.ndarray:
    height, width = size
    image = np.empty((*size, 3), np.float32)
    sky = _color(rng.uniform(0, 1), rng.uniform(0, 0.5), rng.uniform(0.5, 1.0))
    ground = _color(rng.uniform(0, 1), rng.uniform(0, 0.35), rng.uniform(0.2, 0.7))
    line = int(horizon)
    image[:line] = sky + _ramp((line, width), np.pi / 2) * rng.uniform(-40, 40)
    _draw_buildings(rng, image, line)
    image[line:] = ground + _ramp((height - line, width), np.pi / 2) * rng.uniform(-30, 30)
    _draw_markings(rng, image, line)
    scale = height / 128
    image += _clouds(rng, size, 24 * scale, 10) + _clouds(rng, size, 5 * scale, rng.uniform(2, 10))
    return image


def _draw_buildings(rng: np.random.Generator, image: np.ndarray, line: int) -> None:
    height, width = image.shape[:2]
    for _ in range(rng.integers(2, 9)):
        x, top = int(rng.uniform(-0.1, 1) * width), int(line * rng.uniform(0.0, 0.9))
        right = x + int(rng.uniform(0.1, 0.4) * width)
        wall = _color(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.2, 0.9))
        cv2.rectangle(image, (x, top), (right, line), wall.tolist(), cv2.FILLED)
        pane, step = (wall * rng.uniform(0.4, 1.4)).tolist(), max(4, int(rng.uniform(0.05, 0.12) * height))
        for y in range(top + step // 2, line - step // 2, step):
            for left in range(x + step // 2, right - step // 2, step):
                cv2.rectangle(image, (left, y), (left + step // 2, y + step // 2), pane, cv2.FILLED)


def _draw_markings(rng: np.random.Generator, image: np.ndarray, line: int) -> None:
    """Lines towards a vanishing point, shadows and poles: things with edges that belong to no class."""
    height, width = image.shape[:2]
    vanishing = (int(rng.uniform(0.2, 0.8) * width), line)
    for _ in range(rng.integers(0, 5)):
        foot = (int(rng.uniform(-0.5, 1.5) * width), height)
        shade = _color(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.1, 1.0)).tolist()
        cv2.line(image, vanishing, foot, shade, max(1, int(rng.uniform(0.5, 3) * height / 128)))
    for _ in range(rng.integers(0, 4)):
        x, base = int(rng.uniform(0, 1) * width), int(rng.uniform(line, height))
        shade = _color(rng.random(), rng.uniform(0, 0.8), rng.uniform(0.1, 0.9)).tolist()
        cv2.line(image, (x, 0), (x, base), shade, max(1, int(rng.uniform(1, 4) * height / 128)))


def _paint(rng: np.random.Generator, view: np.ndarray, mask: np.ndarray, color: np.ndarray) -> None:
    """Draws one object with shading, and with stripes or mottles of its own color, in place."""
    size = mask.shape
    shade = 1 + rng.uniform(0, 0.35) * _ramp(size, rng.uniform(0, 2 * np.pi))
    kind = rng.random()
    if kind < 0.3:
        period = rng.uniform(2.0, 5.0)
        shade = shade + rng.uniform(0.05, 0.25) * np.sin(2 * np.pi * period * _ramp(size, rng.uniform(0, 2 * np.pi)))
    elif kind < 0.7:
        shade = shade + _clouds(rng, size, rng.uniform(2, 8), rng.uniform(0.03, 0.15))
    np.copyto(view, color * shade.astype(np.float32), where=mask[..., None])


def _paint_patch(rng: np.random.Generator, image: np.ndarray, patch: Window) -> None:
    """Hatches the ignored patch in a dark and a light gray, in place."""
    view = image[patch]
    y, x = np.ogrid[: view.shape[0], : view.shape[1]]
    period = max(4, image.shape[0] // 16)
    stripes = ((x + y) % period < period // 2)[..., None]
    dark, light = rng.uniform(10, 60), rng.uniform(60, 140)
    view[...] = np.where(stripes, np.float32(dark), np.float32(light))


def _expose(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What a camera adds: light, a gradient of light, blur and noise."""
    size = image.shape[:2]
    light = rng.uniform(0.6, 1.25) + rng.uniform(0, 0.25) * _ramp(size, rng.uniform(0, 2 * np.pi))
    image = image * light.astype(np.float32)
    blur = rng.uniform(0, 0.9) * size[0] / 128
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    image = image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(1, 10))
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)
