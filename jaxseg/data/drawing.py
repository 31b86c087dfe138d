"""How generated scenes are drawn: silhouettes of the classes, their colors and textures, the street, the camera.

Images are float RGB, 0..255, until the camera has seen them. Every function draws its random numbers in a fixed order.
"""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

CLASSES = ("disc", "square", "triangle", "star", "cross", "ring", "crescent", "bar")
"""Names of the classes; class id i + 1 is row i."""

HUE_SPREAD = 18 / 360
ANY_HUE = 0.15


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


Window = tuple[slice, slice]


def rasterize(shape: Shape, size: tuple[int, int]) -> tuple[Window, np.ndarray]:
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


def _color(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32)


def object_color(rng: np.random.Generator, class_id: int, classes: int) -> np.ndarray:
    """Random color (3,) of an object: near its class's hue, or of any."""
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


def background(rng: np.random.Generator, size: tuple[int, int], horizon: float) -> np.ndarray:
    """A street to draw objects on, (H, W, 3): sky and buildings above the horizon, ground and markings below.

    Args:
      rng: source of all randomness.
      size: (height, width) in pixels.
      horizon: row, in pixels.
    """
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


def paint(rng: np.random.Generator, view: np.ndarray, mask: np.ndarray, color: np.ndarray) -> None:
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


@dataclass(frozen=True)
class Camera:
    """What a camera does to every image alike.

    Attributes:
      light: factor of each pixel, (H, W, 1).
      blur: standard deviation in pixels.
    """

    light: np.ndarray
    blur: float


def camera(rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    """A random camera: light, a gradient of light, blur."""
    light = rng.uniform(0.6, 1.25) + rng.uniform(0, 0.25) * _ramp(size, rng.uniform(0, 2 * np.pi))
    return Camera(light.astype(np.float32), rng.uniform(0, 0.9) * size[0] / 128)


def expose(image: np.ndarray, seen_by: Camera, noise: np.ndarray) -> np.ndarray:
    """The uint8 image that a camera takes.

    Args:
      image: (H, W, 3) float, 0..255.
      seen_by: the camera.
      noise: (H, W, 3), what it adds.
    """
    image = image * seen_by.light
    if seen_by.blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), seen_by.blur)
    return np.clip(image + noise + 0.5, 0, 255).astype(np.uint8)
