"""Pytrees shared by every room of the house.

Conventions, stated once: coordinates are (y, x); boxes are half-open (y0, x0, y1, x1); ``H W`` are pixels of an image,
``h w = H/k W/k`` elements of the network's grid, ``k`` the superpixel size; class 0 is background; instance id 0 is
none; 255 means ignored, in semantic maps only. Functions of ops, targets and losses take one image; callers ``vmap``.
"""

import dataclasses
from collections.abc import Mapping

import jax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt16

IGNORED = 255
"""Semantic label of pixels that no loss and no metric counts."""


@struct.dataclass
class Batch:
    """Raw training examples as the host hands them over.

    Attributes:
      image: RGB.
      semantic: class ids; 255 is ignored (void, crowd, group, padding).
      instance: 0 is none (background, stuff, ignored); any other value names one object; ids need not be contiguous.
    """

    image: UInt8[Array, "*b H W 3"]
    semantic: UInt8[Array, "*b H W"]
    instance: UInt16[Array, "*b H W"]


@struct.dataclass
class ClassBatch:
    """Images of one class each, for classification.

    Attributes:
      image: RGB.
      label: class ids, from 0 on; there is no background.
    """

    image: UInt8[Array, "*b H W 3"]
    label: Int[Array, "*b"]


@struct.dataclass
class Outputs:
    """What the three decoders predict for each grid element, always float32.

    Attributes:
      semantic: unnormalised class logits.
      embedding: unbounded embedding.
      center: logit of the confidence that the element is an object's center; minus infinity of a network that
        predicts no centers.
    """

    semantic: Float[Array, "*b h w c"]
    embedding: Float[Array, "*b h w d"]
    center: Float[Array, "*b h w"]


@struct.dataclass
class Targets:
    """What the three decoders should predict, on the grid. Row i of the per-instance arrays is instance id i + 1.

    Attributes:
      semantic: class ids, 255 where ignored.
      instance: 0 none or ignored, otherwise 1..n.
      unknown: elements of an instance that found no row: whether they are a center is not known.
      confidence: target of the center head, in [0, 1]; 1 at least at each instance's center.
      center: grid position (y, x) of each instance's center: its element nearest to its center of mass.
      class_id: class of each instance; 0 in unused rows.
      valid: which rows hold an instance.
      vanished: instances of the image that own no grid element; they have no center and no loss.
      overflow: instances on the grid beyond the n rows; their elements are ignored by every instance term.
    """

    semantic: UInt8[Array, "*b h w"]
    instance: Int[Array, "*b h w"]
    unknown: Bool[Array, "*b h w"]
    confidence: Float[Array, "*b h w"]
    center: Int[Array, "*b n 2"]
    class_id: UInt8[Array, "*b n"]
    valid: Bool[Array, "*b n"]
    vanished: Int[Array, "*b"]
    overflow: Int[Array, "*b"]


@struct.dataclass
class Sum:
    """A loss before its division: add up over images, devices and accumulation steps, then divide once.

    Attributes:
      total: summed loss.
      count: what to divide by; 0 where the image says nothing about the term.
    """

    total: Float[Array, "*b"]
    count: Float[Array, "*b"]

    def __add__(self, other: "Sum") -> "Sum":
        return Sum(self.total + other.total, self.count + other.count)

    def mean(self) -> Float[Array, "*b"]:
        """Total over count, 0 where nothing was counted."""
        return self.total / jax.numpy.maximum(self.count, 1.0)


@struct.dataclass
class Instances:
    """Found objects, a fixed number of rows; row i has id i + 1 in the instance map. Rows that are not valid are 0.

    Attributes:
      valid: which rows hold an object that owns at least one pixel.
      class_id: class of the object.
      score: center confidence times the mean probability of its class over its grid elements, in [0, 1]; elements that
        say another class count 0.
      center: (y, x) of the detected center, in pixels of the map.
      box: smallest half-open box (y0, x0, y1, x1) around the mask, in pixels of the map.
      area: pixels of the mask.
      embedding: embedding at the center.
      track_id: identity over time; 0 until a tracker sets it.
    """

    valid: Bool[Array, "*b n"]
    class_id: UInt8[Array, "*b n"]
    score: Float[Array, "*b n"]
    center: Float[Array, "*b n 2"]
    box: Int[Array, "*b n 4"]
    area: Int[Array, "*b n"]
    embedding: Float[Array, "*b n d"]
    track_id: Int[Array, "*b n"]


@struct.dataclass
class Segmentation:
    """Finished masks of one frame (or, with a leading axis everywhere, of a batch).

    What `jaxseg.load` gives returns it as a `results.Result`, which converts and draws itself.

    Attributes:
      semantic: class of every pixel.
      instance: 0, or the id of the object that owns the pixel; id i + 1 is row i of ``instances``.
      instances: the objects.
      lost: centers that found no slot; 0 unless the frame holds more objects than the capacity. With all-to-all
        clustering, elements that no cluster took.
    """

    semantic: UInt8[Array, "*b H W"]
    instance: UInt16[Array, "*b H W"]
    instances: Instances
    lost: Int[Array, "*b"]


@struct.dataclass
class Thresholds:
    """Numbers of the post-processing. Traced: they may change from call to call without recompiling.

    Attributes:
      center: confidence that a center must exceed, in (0, 1).
      assignment: largest embedding distance from an element to the center (or mean) that takes it, >= 0.
      duplicate: a center within this embedding distance of a more confident one (as printed: of its class) is
        dropped, >= 0.
      compactness: weight of the spatial distance in superpixels, in Lab units per pixel at the network's size, > 0.
    """

    center: float | Float[Array, ""] = 0.6
    assignment: float | Float[Array, ""] = 0.5
    duplicate: float | Float[Array, ""] = 0.2
    compactness: float | Float[Array, ""] = 3.0


@struct.dataclass
class Matching:
    r"""Numbers of the tracker. Traced: they may change from frame to frame without recompiling.

    A found object may continue a known one if that costs less than 1,

    .. math:: w_o (1 - \mathrm{IoU}) + w_e \|e - e'\| + w_d \frac{\|c - c'\|}{\sqrt{a} (1 + s u)} + w_c [k \ne k'] < 1,

    with the overlap of its box and the predicted one, the distance of embeddings, that of its center from the predicted
    one by the root of its box's area a, and the classes k; u is for how many frames the known object was unseen.
    Defaults were chosen by the F1 of identities on generated sequences.

    Attributes:
      overlap: w_o, >= 0.
      embedding: w_e, for a unit of embedding distance, >= 0.
      drift: w_d, >= 0.
      change: w_c, for another class than when the object was last seen, >= 0; 1 forbids it.
      slack: s: how much farther off an object may be for each frame in which it was unseen, >= 0.
      patience: frames in a row that an object may be unseen and yet be found again, >= 0.
      velocity: share of the last displacement in the velocity, in (0, 1].
      renewal: share of the last embedding in the one that is remembered, in (0, 1].
      coordinates: pixels of the frame per embedding unit of the position that the network adds to the first two
        dimensions (`nn.network.located`), which is taken out before embeddings are compared; 0: it adds none.
    """

    overlap: float | Float[Array, ""] = 0.3
    embedding: float | Float[Array, ""] = 0.2
    drift: float | Float[Array, ""] = 0.2
    change: float | Float[Array, ""] = 0.6
    slack: float | Float[Array, ""] = 0.05
    patience: float | Float[Array, ""] = 45.0
    velocity: float | Float[Array, ""] = 0.1
    renewal: float | Float[Array, ""] = 0.2
    coordinates: float | Float[Array, ""] = 0.0


@struct.dataclass
class KnownObjects:
    """Objects of earlier frames. Rows that are not valid mean nothing.

    Attributes:
      valid: which rows hold an object.
      track_id: its identity, from 1 on.
      class_id: class when it was last seen, as center and box are.
      center: (y, x), pixels.
      box: half-open (y0, x0, y1, x1), pixels.
      velocity: (y, x), pixels a frame, smoothed.
      embedding: smoothed, without position.
      seen: frames that showed it.
      unseen: frames since the last of them.
    """

    valid: Bool[Array, "*b m"]
    track_id: Int[Array, "*b m"]
    class_id: UInt8[Array, "*b m"]
    center: Float[Array, "*b m 2"]
    box: Int[Array, "*b m 4"]
    velocity: Float[Array, "*b m 2"]
    embedding: Float[Array, "*b m d"]
    seen: Int[Array, "*b m"]
    unseen: Int[Array, "*b m"]


@struct.dataclass
class Tracks:
    """What is known after some frames of n rows each.

    Attributes:
      objects: 2n rows: first those of the last frame, in its order, then n for objects that it did not show, the last
        seen first. Of more than n, the longest unseen are forgotten: back again, they are new.
      born: identities given so far; none is given twice.
    """

    objects: KnownObjects
    born: Int[Array, "*b"]


@dataclasses.dataclass(frozen=True)
class Capacity:
    """What fixes the shapes of inference. Static and hashable: another value is another compilation.

    Attributes:
      slots: most objects in a frame, 1 to 65535.
      superpixel: size k of a grid element, in pixels of the network's input.
      size: the network's (height, width), or None to run at the frame's own size, padded to ``stride``.
      stride: what native sizes are padded to a multiple of (the encoder's largest stride).
      stuff: ids of classes without instances, which are predicted but not grouped.
      clustering: "centers", or "all_to_all": the paper's baseline, without centers and superpixels.
      as_printed: whether elements are grouped as the paper prints it; see `segment.group`.
    """

    slots: int = 128
    superpixel: int = 4
    size: tuple[int, int] | None = None
    stride: int = 32
    stuff: tuple[int, ...] = ()
    clustering: str = "centers"
    as_printed: bool = False


@dataclasses.dataclass(frozen=True)
class ClassList:
    """The classes of a data set; position is the class id. Id 0 is background.

    Things have instances, stuff (road, sky) has none. The semantic head predicts both; only things are grouped.

    Attributes:
      names: "background" first.
      stuff: ids of the classes without instances, background left out, ascending.
      colors: RGB of each class, 0..255; empty for those of `visualize.palette`.
    """

    names: tuple[str, ...]
    stuff: tuple[int, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def of(
        cls, names: tuple[str, ...], stuff: tuple[str, ...] = (), colors: tuple[tuple[int, int, int], ...] = ()
    ) -> "ClassList":
        """The list with background put first.

        Args:
          names: classes from id 1 on.
          stuff: those of them that have no instances.
          colors: RGB of each of them, or none; background is given nearly black.
        """
        everything = ("background", *names)
        ids = tuple(i for i, name in enumerate(everything) if name in stuff)
        return cls(everything, ids, ((24, 24, 24), *colors) if colors else ())

    @property
    def things(self) -> Mapping[int, str]:
        """Class id to name, of the classes that have instances."""
        return {i: name for i, name in enumerate(self.names) if i > 0 and i not in self.stuff}

    def __len__(self) -> int:
        return len(self.names)
