"""Every setting of a run, as frozen dataclasses with their validation. Imports the standard library only.

A config file defines ``config = Config(...)``. Numbers are validated here, on the host, and nowhere else.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints


class UserError(Exception):
    """Something the user must mend. The message is one line that names the thing and the remedy.

    Attributes:
      status: exit status of the program.
    """

    status = 2


class Stopped(UserError):
    """A signal ended the program in good order; the message says what was saved."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.status = 128 + signal


class Lost(UserError):
    """Another process of the run is gone, so that none is to be waited for at the end."""


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(message)


def _range(value: float, name: str, low: float, high: float = math.inf) -> None:
    wanted = f"at least {low:g}" if high == math.inf else f"in {low:g}..{high:g}"
    _check(low <= value <= high, f"`{name}` must be {wanted}: got {value:g}.")


def _finite(value: float, name: str) -> None:
    _check(0 <= value < math.inf, f"`{name}` must be at least 0 and finite: got {value:g}.")


def _size(size: tuple[int, int], name: str) -> None:
    _check(min(size) >= 1, f"`{name}` is (height, width) in pixels, each at least 1: got {size[0]} x {size[1]}.")


@dataclass(frozen=True)
class Shapes:
    """Generated street-like scenes.

    Attributes:
      size: (height, width) of a scene, pixels. Objects scale with the height.
      train: number of training scenes.
      val: number of validation scenes.
    """

    size: tuple[int, int] = (128, 256)
    train: int = 4000
    val: int = 200

    def __post_init__(self) -> None:
        _size(self.size, "data.shapes.size")
        _check(
            min(self.size) >= 32, f"`data.shapes.size` must be at least 32 x 32: got {self.size[0]} x {self.size[1]}."
        )
        _range(self.train, "data.shapes.train", 1)
        _range(self.val, "data.shapes.val", 1)


@dataclass(frozen=True)
class Folder:
    """A folder of images and 16-bit instance maps, pixel = class * divisor + n.

    Attributes:
      divisor: what a pixel value is divided by to get its class id.
      zero_is_instance: whether n = 0 is an object (Cityscapes counts from 0). If not, it is the only n of a class
        without instances, and in a class with instances a group that nobody told apart, which training ignores.
      ignored: raw pixel values that no loss and no metric counts.
    """

    divisor: int = 1000
    zero_is_instance: bool = True
    ignored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _range(self.divisor, "data.folder.divisor", 1, 65535)


@dataclass(frozen=True)
class Cityscapes:
    """Cityscapes as it is published: the folders leftImg8bit and gtFine, or the zips that hold them.

    Attributes:
      size: (height, width) that images and training labels are stored at, pixels; published are 1024 x 2048.
      coarse: whether the coarsely labelled train_extra images are training images too.
    """

    size: tuple[int, int] = (512, 1024)
    coarse: bool = False

    def __post_init__(self) -> None:
        _size(self.size, "data.cityscapes.size")


@dataclass(frozen=True)
class Coco:
    """COCO annotations with their images.

    Attributes:
      annotations: "instances" (polygons or RLE), or "panoptic" (JSON and PNGs, stuff included).
      train: annotation file, from the data's root; empty to find it by its usual names.
      val: the same; images of a lone annotation file are split by a hash of their names.
      test: the same.
    """

    annotations: Literal["instances", "panoptic"] = "instances"
    train: str = ""
    val: str = ""
    test: str = ""


@dataclass(frozen=True)
class Color:
    """Random changes of an image's colors.

    Attributes:
      brightness: largest shift, as a fraction of the full range.
      contrast: largest relative change.
      saturation: largest relative change.
      hue: largest turn of the hue circle, as a fraction of it.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            _range(getattr(self, name), f"data.augment.{name}", 0, 1)
        _range(self.hue, "data.augment.hue", 0, 0.5)


@dataclass(frozen=True)
class Augment(Color):
    """Random changes of training examples.

    Attributes:
      scale: range of the resize factor before cropping.
      flip_horizontal: mirror left and right half of the time.
      flip_pairs: pairs of classes that mirroring left and right turns into one another ("left hand", "right hand").
      flip_vertical: mirror top and bottom half of the time.
      transpose: swap the axes half of the time (with both flips: all eight symmetries).
    """

    scale: tuple[float, float] = (1.0, 1.0)
    flip_horizontal: bool = True
    flip_pairs: tuple[tuple[str, str], ...] = ()
    flip_vertical: bool = False
    transpose: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.scale
        _check(0 < low <= high, f"`data.augment.scale` is (lowest, highest), both positive: got {low:g}, {high:g}.")


@dataclass(frozen=True)
class RandomWindow(Color):
    """Random changes of classification's training images: the inception crop, mirroring, colors.

    Attributes:
      area: range of the window's share of the image.
      aspect: range of its width over its height.
      flip_horizontal: mirror left and right half of the time.
    """

    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_horizontal: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("area", "aspect"):
            low, high = getattr(self, name)
            _check(
                0 < low <= high, f"`data.augment.{name}` is (lowest, highest), both positive: got {low:g}, {high:g}."
            )
        _range(self.area[1], "data.augment.area", 0, 1)


Problem = Literal["missing", "unreadable", "label", "size", "class", "duplicate", "empty", "crowded"]
"""Kinds of what may be wrong with a data set; see `Data.accept`."""


@dataclass(frozen=True)
class Data:
    """Where examples come from.

    Attributes:
      builder: "shapes" (generated), "folder" (your own), "cityscapes", "coco".
      root: folder of the data set; unused by "shapes".
      classes: names of the classes to learn; class ids count from 1 in this order, 0 is background. Empty for those
        that the data set lists. Classes of the data set that are left out are background.
      stuff: classes without instances, beside those that the data set itself calls so.
      colors: RGB of each class, in pictures; empty for those of the data set.
      accept: what may be wrong with the data. Images that are "missing" or "unreadable", or whose "label" is wrong or
        of another "size", are then left out, and so are annotations of images that nobody lists; pixels of an unknown
        "class" are ignored; a picture that two splits share ("duplicate"), a split that is missing or without instances
        ("empty") and more instances in a crop than ``max_instances`` ("crowded") are taken as they are. Anything else
        that is wrong stops before training.
      cache: where prepared data is kept; empty for the user's cache folder.
      seed: seed of generated scenes.
      crop: (height, width) of training examples, pixels.
      shapes: settings of that builder.
      folder: settings of that builder.
      cityscapes: settings of that builder.
      coco: settings of that builder.
      augment: random changes of training examples.
      workers: processes that read and augment ahead; 0 does it in a thread.
    """

    builder: Literal["shapes", "folder", "cityscapes", "coco"] = "shapes"
    root: str = ""
    classes: tuple[str, ...] = ()
    stuff: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    accept: tuple[Problem, ...] = ()
    cache: str = ""
    seed: int = 0
    crop: tuple[int, int] = (128, 256)
    shapes: Shapes = field(default_factory=Shapes)
    folder: Folder = field(default_factory=Folder)
    cityscapes: Cityscapes = field(default_factory=Cityscapes)
    coco: Coco = field(default_factory=Coco)
    augment: Augment = field(default_factory=Augment)
    workers: int = 0

    def __post_init__(self) -> None:
        _size(self.crop, "data.crop")
        check_classes(self.classes, self.stuff, self.colors)
        kinds = get_args(Problem)
        _check(
            set(self.accept) <= set(kinds),
            f"`data.accept` takes {', '.join(kinds)}: got {', '.join(map(str, self.accept))}.",
        )
        pairs = [name for pair in self.augment.flip_pairs for name in pair]
        _check(len(set(pairs)) == len(pairs), "`data.augment.flip_pairs` names a class twice. Pair each at most once.")
        unknown = [name for name in (*pairs, *self.stuff) if self.classes and name not in self.classes]
        _check(
            not unknown,
            f"`data.classes` does not name {', '.join(unknown)} of `data.stuff` or `data.augment.flip_pairs`. Add it.",
        )
        _range(self.workers, "data.workers", 0)
        _range(self.seed, "data.seed", 0, 2**32 - 1)


def check_classes(
    names: tuple[str, ...], stuff: tuple[str, ...] = (), colors: tuple[tuple[int, int, int], ...] = ()
) -> None:
    """Refuses a class list that cannot be one; an empty list leaves it to the data set.

    Raises:
      UserError: too many classes, one named twice or like background, none with instances, or not a color for each.
    """
    _check(len(names) <= 254, f"`data.classes` must name at most 254 classes: got {len(names)}.")
    _check(len(set(names)) == len(names), "`data.classes` names a class twice. Give each its own name.")
    _check("background" not in names, "`data.classes` must not name background: it is class 0 already.")
    _check("" not in names, "`data.classes` holds an empty name. Give each class a name.")
    _check(not names or bool(set(names) - set(stuff)), "`data.classes` must name a class that has instances.")
    _check(
        len(colors) in (0, len(names)),
        f"`data.colors` must be one a class: got {len(colors)} for {len(names)} classes.",
    )
    _check(
        all(len(rgb) == 3 and min(rgb) >= 0 and max(rgb) <= 255 for rgb in colors),
        "`data.colors` are red, green and blue, each 0 to 255.",
    )


@dataclass(frozen=True)
class Conventions:
    """What an encoder's weights take for granted. A checkpoint brings its own, which take the place of these.

    Attributes:
      mean: subtracted from RGB in [0, 1]; empty for the encoder's own.
      std: what is divided by then; empty for the encoder's own.
      padding: of windows at stride 2: "symmetric" (PyTorch, Darknet), or "same" (TensorFlow), which shifts by one.
      epsilon: added to the variance in batch norm: 1e-5 (PyTorch, Darknet) or 1e-3 (TensorFlow).
      slope: of leaky ReLU below zero, for encoders that have one: 0.1 (Darknet) or 0.01 (timm).
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    padding: Literal["symmetric", "same"] = "symmetric"
    epsilon: float = 1e-5
    slope: float = 0.1

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            _check(
                len(values) in (0, 3), f"`model.conventions.{name}` are 3 numbers, or none: got {len(values)} of them."
            )
            _check(all(map(math.isfinite, values)), f"`model.conventions.{name}` must be finite.")
        _check(min(self.std, default=1.0) > 0, "`model.conventions.std` must be positive.")
        _check(self.epsilon > 0, f"`model.conventions.epsilon` must be positive: got {self.epsilon:g}.")
        _range(self.slope, "model.conventions.slope", 0, 1)


@dataclass(frozen=True)
class Encoder:
    """The encoder, in segmentation and classification alike.

    Attributes:
      encoder: "mobilenet_v2", "darknet53", or the import path "package.module:Class" of an encoder of your own.
      encoder_width: multiplier of the encoder's channels.
      encoder_blocks: blocks of each stage, for encoders that let you choose; empty for the published numbers.
      encoder_weights: what a new run's encoder starts from: a file of `jaxseg weights import`, or the work directory of
        a run (of ImageNet pretraining, say); empty for random numbers.
      frozen_stages: first stages of the encoder that stay as they start; stage i ends at the published stride 2**i.
      batch_norm: "synchronized" statistics over all devices, or "frozen" at their initial (imported) values.
      dtype: what convolutions compute in; parameters, losses and grouping are float32 always.
      remat: compute what is inside the network's blocks again for the gradient instead of storing it: less memory, more
        time.
      conventions: what the encoder's weights take for granted.
    """

    encoder: str = "mobilenet_v2"
    encoder_width: float = 1.0
    encoder_blocks: tuple[int, ...] = ()
    encoder_weights: str = ""
    frozen_stages: int = 0
    batch_norm: Literal["synchronized", "frozen"] = "synchronized"
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    conventions: Conventions = field(default_factory=Conventions)

    def __post_init__(self) -> None:
        _check(self.encoder_width > 0, f"`model.encoder_width` must be positive: got {self.encoder_width:g}.")
        _range(self.frozen_stages, "model.frozen_stages", 0, 5)
        blocks = self.encoder_blocks
        _check(
            self.encoder != "darknet53" or len(blocks) in (0, 5),
            f"`model.encoder_blocks` of darknet53 are 5 numbers, one a stage: got {len(blocks)}.",
        )
        _range(min(blocks, default=1), "model.encoder_blocks", 1)


@dataclass(frozen=True)
class Model(Encoder):
    """The network of segmentation: an encoder, and three decoders.

    Attributes:
      encoder_stride: output stride of the encoder; below 32 the last stages are dilated.
      decoder_width: multiplier of the decoders' channels.
      embedding: dimensions of the embedding.
      coordinates: pixels per embedding unit of the element's position, which is added to the first two dimensions, so
        that objects that look alike differ by where they are; 0 adds nothing (the paper).
      center_prior: confidence that the center head starts from.
      clustering: "centers", or "all_to_all" for the baseline of Table I: no center head and no superpixels; losses pull
        embeddings to each instance's mean, mean shift finds the instances, and masks are enlarged bilinearly.
      size: the network's (height, width): every frame is resized to it. None: frames keep their own size.
    """

    encoder_stride: Literal[8, 16, 32] = 16
    decoder_width: float = 1.0
    embedding: int = 32
    coordinates: float = 0.0
    center_prior: float = 0.1
    clustering: Literal["centers", "all_to_all"] = "centers"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.decoder_width > 0, f"`model.decoder_width` must be positive: got {self.decoder_width:g}.")
        _range(self.embedding, "model.embedding", 1 if not self.coordinates else 2)
        _range(self.coordinates, "model.coordinates", 0)
        prior = self.center_prior
        _check(0 < prior < 1, f"`model.center_prior` is a probability between 0 and 1: got {prior:g}.")
        if self.size is not None:
            _size(self.size, "model.size")
            divides = self.size[0] % self.encoder_stride == 0 and self.size[1] % self.encoder_stride == 0
            _check(
                divides,
                f"`model.size` must be a multiple of the encoder's stride {self.encoder_stride}: "
                f"got {self.size[0]} x {self.size[1]}.",
            )


@dataclass(frozen=True)
class Superpixels:
    """The grid and how it follows the image.

    Attributes:
      size: edge k of a cell, pixels; the decoders' output stride.
      compactness: weight of the spatial distance, Lab units per pixel.
    """

    size: Literal[1, 2, 4, 8, 16] = 4
    compactness: float = 3.0

    def __post_init__(self) -> None:
        _check(self.compactness > 0, f"`superpixels.compactness` must be positive: got {self.compactness:g}.")


@dataclass(frozen=True)
class TargetSettings:
    """What the heads are asked for.

    Attributes:
      max_instances: most instances in a training example; more are left out of the instance losses and counted.
      center: an instance's center is a "point", a "disc" or a "gaussian" around it, clipped to the instance.
      radius: radius of the disc, or two sigmas of the Gaussian, in grid elements.
    """

    max_instances: int = 64
    center: Literal["point", "disc", "gaussian"] = "disc"
    radius: float = 1.5

    @classmethod
    def paper(cls, max_instances: int = 64) -> "TargetSettings":
        """As printed in the paper: a center is a single element."""
        return cls(max_instances, "point")

    def __post_init__(self) -> None:
        _range(self.max_instances, "targets.max_instances", 1, 65535)
        _range(self.radius, "targets.radius", 0)


TERMS = ("semantic", "attraction", "repulsion", "regularization", "center")
"""The paper's loss terms, each of which has a weight in `Losses`."""

TAKEN = frozenset(TERMS) | {"loss", "gradient_norm", "skipped", "in_a_row", "stop", "vanished", "overflow"}
TAKEN |= {"learning_rate", "images_per_second"}
"""What the log names already, so that no term may."""


@dataclass(frozen=True)
class Term:
    """A loss term beside the paper's five.

    Attributes:
      name: what it is logged under: letters, digits and underscores.
      function: where it is: "package.module:function" or "path/to/file.py:function", both searched for from the current
        folder; it takes `Outputs` and `Targets` of one image and returns a `Sum`. Arguments `class_weights` and
        `correction` that nothing gives are those of eq. 1, see `Losses.class_weight_power` and `class_correction`.
      weight: of its mean in the loss.
      constants: names and numbers of further arguments; traced.
      static: names and values of arguments that fix the program, such as a radius in elements or "positives".
      task: which task's uncertainty it shares where weights are learnt; "none": its weight stays as it is.
    """

    name: str
    function: str
    weight: float = 1.0
    constants: tuple[tuple[str, float], ...] = ()
    static: tuple[tuple[str, int | str], ...] = ()
    task: Literal["semantic", "embedding", "center", "none"] = "none"

    def __post_init__(self) -> None:
        title = f"losses.terms.{self.name}"
        _check(
            self.name.isidentifier(), f"Names in `losses.terms` are letters, digits and underscores: got {self.name!r}."
        )
        _check(self.name not in TAKEN, f"`losses.terms` must not name a term {self.name}: the log has that already.")
        _check(
            all(self.function.rpartition(":")),
            f'`{title}.function` is "package.module:function" or "file.py:function": got {self.function!r}.',
        )
        _finite(self.weight, f"{title}.weight")
        for name, value in self.constants:
            _check(
                isinstance(value, int | float) and math.isfinite(value),
                f"`{title}.constants` are finite numbers: {name} is {value!r}. What is none goes into `static`.",
            )
        for name, fixed in self.static:
            _check(
                isinstance(fixed, int | str),
                f"`{title}.static` are whole numbers and texts: {name} is {fixed!r}. Others go into `constants`.",
            )
        names = [name for name, _ in (*self.constants, *self.static)]
        _check(len(set(names)) == len(names), f"`{title}` gives an argument twice. Give each once.")


@dataclass(frozen=True)
class Schedule:
    """How a loss term's weight changes over a run.

    Attributes:
      name: of the term, the paper's or one of your own.
      points: fraction of the run, in [0, 1], and what the weight is multiplied by there; linear between points,
        constant before the first and after the last.
    """

    name: str
    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        title = f"losses.schedules.{self.name}.points"
        fractions = [fraction for fraction, _ in self.points]
        ascending = all(0 <= f <= 1 for f in fractions) and sorted(set(fractions)) == fractions
        _check(bool(fractions) and ascending, f"`{title}` are at ascending fractions of the run, in 0..1.")
        for _, multiplier in self.points:
            _finite(multiplier, title)


@dataclass(frozen=True)
class Losses:
    """Weights and constants of the loss terms; all of them are traced numbers but ``normalize`` and ``weighting``.

    A weight of 0 takes a term out of the loss; it is computed all the same, and has to be finite.

    Attributes:
      semantic: weight of eq. 1.
      attraction: weight of eq. 3.
      repulsion: weight of eq. 4.
      regularization: weight of the norm of embeddings at centers.
      center: weight of eq. 5.
      class_weight_power: exponent on w_c of eq. 2: 1 as printed, 0.5 its root, 0 uniform.
      class_correction: share of the bias towards rare classes, which w_c brings, that stays inside the loss: 1 for
        predictions as if unweighted, 0 as printed.
      alpha: weight of the positives in eq. 5; the negatives get 1 - alpha.
      gamma: focusing exponent of eq. 5.
      attraction_margin: delta_a of eq. 3.
      repulsion_margin: delta_r of eq. 4.
      normalize: eq. 5 is divided by the number of "positives" (RetinaNet) or of "elements".
      terms: further terms, added to the five.
      schedules: of weights that change over the run, at most one a term.
      weighting: "fixed", or "uncertainty": each task's terms are also divided by an uncertainty that is learnt.
    """

    semantic: float = 1.0
    attraction: float = 1.0
    repulsion: float = 1.0
    regularization: float = 0.001
    center: float = 1.0
    class_weight_power: float = 0.5
    class_correction: float = 1.0
    alpha: float = 0.9
    gamma: float = 2.0
    attraction_margin: float = 0.1
    repulsion_margin: float = 1.0
    normalize: Literal["positives", "elements"] = "positives"
    terms: tuple[Term, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    weighting: Literal["fixed", "uncertainty"] = "fixed"

    @classmethod
    def paper(cls) -> "Losses":
        """As printed in the paper: w_c of eq. 2, and alpha = 0.01 on the positives of eq. 5, per element."""
        return cls(class_weight_power=1.0, class_correction=0.0, alpha=0.01, gamma=2.0, normalize="elements")

    def __post_init__(self) -> None:
        for name in (*TERMS, "class_weight_power", "gamma", "attraction_margin", "repulsion_margin"):
            _finite(getattr(self, name), f"losses.{name}")
        _range(self.class_correction, "losses.class_correction", 0, 1)
        _range(self.alpha, "losses.alpha", 0, 1)
        known = [*TERMS, *(term.name for term in self.terms)]
        _check(len(set(known)) == len(known), "`losses.terms` names a term twice. Give each its own name.")
        scheduled = [schedule.name for schedule in self.schedules]
        unknown = sorted(set(scheduled) - set(known))
        _check(not unknown, f"`losses.schedules` names {', '.join(unknown)}: the terms are {', '.join(known)}.")
        _check(len(set(scheduled)) == len(scheduled), "`losses.schedules` names a term twice. Give each one schedule.")


@dataclass(frozen=True)
class Grouping:
    """Post-processing; all of them are traced numbers but ``slots`` and ``as_printed``.

    Attributes:
      slots: most objects found in a frame.
      center: confidence that a center must exceed.
      assignment: largest embedding distance of an element to its center; the bandwidth of all-to-all clustering.
      duplicate: embedding distance up to which two centers (as printed: of one class) are one object.
      as_printed: each connected blob of confidence is one center, and each class is grouped by itself, as the paper
        prints it. Otherwise each maximum of confidence is one, and objects vote on their class.
    """

    slots: int = 128
    center: float = 0.6
    assignment: float = 0.5
    duplicate: float = 0.2
    as_printed: bool = False

    @classmethod
    def paper(cls, slots: int = 128) -> "Grouping":
        """As printed in the paper: blobs over 0.7, delta_a = 0.1 for both radii, and each class by itself."""
        return cls(slots, center=0.7, assignment=0.1, duplicate=0.1, as_printed=True)

    def __post_init__(self) -> None:
        _range(self.slots, "grouping.slots", 1, 65535)
        _check(0 < self.center < 1, f"`grouping.center` is a confidence between 0 and 1: got {self.center:g}.")
        _range(self.assignment, "grouping.assignment", 0)
        _range(self.duplicate, "grouping.duplicate", 0)


@dataclass(frozen=True)
class Optimizer:
    """How parameters are updated. All numbers but ``warmup`` are traced.

    Attributes:
      name: "adamw", or "sgd" with Nesterov momentum 0.9.
      learning_rate: peak of the schedule.
      warmup: fraction of the steps over which the rate rises linearly from 0.
      decay: "cosine" or "poly" (power 0.9), down to 0 at the last step, or "constant".
      weight_decay: decoupled; never on norms and biases.
      clip: global norm that gradients are scaled down to.
      encoder_rate: multiplier of the rate for the encoder; below 1 it keeps closer to the weights that it starts from.
      average: decay of a moving average of parameters and batch statistics, which is what is evaluated; 0 for none.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 3e-3
    warmup: float = 0.05
    decay: Literal["cosine", "poly", "constant"] = "cosine"
    weight_decay: float = 1e-4
    clip: float = 5.0
    encoder_rate: float = 1.0
    average: float = 0.0

    def __post_init__(self) -> None:
        rate = self.learning_rate
        _check(rate > 0, f"`optimizer.learning_rate` must be positive: got {rate:g}.")
        _finite(rate, "optimizer.learning_rate")
        _range(self.warmup, "optimizer.warmup", 0, 1)
        _finite(self.weight_decay, "optimizer.weight_decay")
        _check(self.clip > 0, f"`optimizer.clip` must be positive: got {self.clip:g}.")
        _finite(self.encoder_rate, "optimizer.encoder_rate")
        _check(0 <= self.average < 1, f"`optimizer.average` must be at least 0, below 1: got {self.average:g}.")


@dataclass(frozen=True)
class Train:
    """Length and rhythm of a run.

    Attributes:
      steps: number of updates.
      batch: examples in an update, over all devices.
      log_every: steps between logged scalars.
      picture_every: steps between pictures of predictions; 0 for none.
      save_every: steps between checkpoints; the last step is always saved.
      keep: number of latest checkpoints kept.
      gradients_every: steps between measurements of each loss term's gradient: its norm in each part of the network,
        and the cosine between every two on the encoder; 0 for none.
      validate_every: steps between measurements on the validation images (panoptic quality; top-1 of a classifier);
        the best of the states measured is kept beside the latest. 0 for none.
      accumulate: parts that each device computes its examples in, one after another, to save memory; batch norm
        normalizes each part by itself.
      skip: updates in a row whose loss or gradient is not finite that are left out; one more stops the run.
      deterministic: on a GPU, only operations that give the same bits every time; slower.
      debug: run on one device and stop at the first operation that makes a NaN or gets a wrong shape; much slower.
    """

    steps: int = 10_000
    batch: int = 8
    log_every: int = 20
    picture_every: int = 500
    save_every: int = 500
    keep: int = 2
    gradients_every: int = 0
    validate_every: int = 0
    accumulate: int = 1
    skip: int = 0
    deterministic: bool = False
    debug: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every", "save_every", "keep", "accumulate"):
            _range(getattr(self, name), f"train.{name}", 1)
        for name in ("picture_every", "gradients_every", "validate_every", "skip"):
            _range(getattr(self, name), f"train.{name}", 0)
        _check(
            self.batch % self.accumulate == 0,
            f"`train.accumulate` must divide `train.batch` {self.batch}: got {self.accumulate}.",
        )


@dataclass(frozen=True)
class Pictures:
    """Where images of one class each come from.

    Attributes:
      builder: "imagenet" (the official ILSVRC2012 tars), or "folders": train/CLASS/ and val/CLASS/ with images, or
        CLASS/ alone, of which a hash of each name puts about one image in ten into val.
      root: folder of the data set.
      classes: names of the classes in the order of their ids, which count from 0; empty for those of the data set.
      accept: "unreadable" leaves images out that cannot be decoded; otherwise they stop the preparation.
      cache: where prepared data is kept; empty for the user's cache folder.
      crop: (height, width) of the classifier's input, pixels.
      margin: the crop's share of the image's shorter side in evaluation, where the middle is cut out.
      augment: random changes of training images.
      workers: processes that read and augment ahead; 0 does it in threads.
    """

    builder: Literal["imagenet", "folders"] = "folders"
    root: str = ""
    classes: tuple[str, ...] = ()
    accept: tuple[Literal["unreadable"], ...] = ()
    cache: str = ""
    crop: tuple[int, int] = (224, 224)
    margin: float = 0.875
    augment: RandomWindow = field(default_factory=RandomWindow)
    workers: int = 0

    def __post_init__(self) -> None:
        _size(self.crop, "data.crop")
        _check(len(set(self.classes)) == len(self.classes), "`data.classes` names a class twice. Name each once.")
        _check(0 < self.margin <= 1, f"`data.margin` must be above 0, at most 1: got {self.margin:g}.")
        _check(set(self.accept) <= {"unreadable"}, f"`data.accept` takes unreadable: got {', '.join(self.accept)}.")
        _range(self.workers, "data.workers", 0)


@dataclass(frozen=True)
class ClassLoss:
    """The loss of classification.

    Attributes:
      smoothing: share of the target that all classes get equally.
    """

    smoothing: float = 0.1

    def __post_init__(self) -> None:
        _check(0 <= self.smoothing < 1, f"`losses.smoothing` must be at least 0, below 1: got {self.smoothing:g}.")


@dataclass(frozen=True)
class Classification:
    """A run that trains an encoder as a classifier, so that segmentation can start from it.

    Attributes:
      name: shown in logs and reports.
      seed: of initialisation, order and augmentation.
      data: where examples come from.
      model: the encoder; the classifier on top is an average over the image and one linear layer.
      losses: cross-entropy.
      optimizer: how parameters are updated.
      train: length and rhythm.
    """

    name: str = "classification"
    seed: int = 0
    data: Pictures = field(default_factory=Pictures)
    model: Encoder = field(default_factory=Encoder)
    losses: ClassLoss = field(default_factory=ClassLoss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)

    def __post_init__(self) -> None:
        _choices(self)
        _range(self.seed, "seed", 0, 2**32 - 1)


@dataclass(frozen=True)
class Config:
    """A whole run. The resolved config is stored with the run, and later commands need nothing else.

    Attributes:
      name: shown in logs and reports.
      seed: of initialisation, order and augmentation.
      data: where examples come from.
      model: the network.
      superpixels: the grid.
      targets: what the heads are asked for.
      losses: weights and constants of the loss terms.
      grouping: post-processing.
      optimizer: how parameters are updated.
      train: length and rhythm.
    """

    name: str = "run"
    seed: int = 0
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    superpixels: Superpixels = field(default_factory=Superpixels)
    targets: TargetSettings = field(default_factory=TargetSettings)
    losses: Losses = field(default_factory=Losses)
    grouping: Grouping = field(default_factory=Grouping)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)

    def __post_init__(self) -> None:
        _choices(self)
        _range(self.seed, "seed", 0, 2**32 - 1)
        k, stride = self.superpixels.size, self.model.encoder_stride
        _check(
            k <= stride,
            f"`superpixels.size` must not exceed the encoder's stride {stride}: got {k}. The decoders only go up.",
        )
        height, width = self.data.crop
        _check(
            height % stride == 0 and width % stride == 0,
            f"`data.crop` must be a multiple of the encoder's stride {stride}: got {height} x {width}.",
        )
        h, w = height // k, width // k
        # The limit of `targets.fits`, which this file may not import.
        _check(
            2 * h * w * (h + w) < 2**31,
            f"`data.crop` must be smaller, or `superpixels.size` larger: {h} x {w} elements overflow 32-bit sums.",
        )


Run = Config | Classification
"""What a config file may define."""

TASKS: dict[str, type[Run]] = {"segmentation": Config, "classification": Classification}
"""What a stored config calls its kind."""

MEANING = ("seed", "data", "model", "superpixels", "targets", "losses", "optimizer")
"""Sections that change what a run is; a run is not resumed with others. Of train, steps, batch and accumulate do."""

FREE = frozenset({"data.root", "data.cache", "data.workers", "data.colors", "model.remat"})
"""Settings inside those sections that may differ all the same: they say where things are and how they look."""


def flatten(config: Any) -> dict[str, Any]:
    """Dotted name to value of every setting; of what there may be several, each has its name in it."""
    return {name: value for name, _, value in _settings(config)}


def _settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, type and value of every setting."""
    hints = get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value, name = getattr(config, f.name), f"{prefix}{f.name}"
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{name}.")
        elif _listed(hints[f.name]):
            for item in value:
                yield from _settings(item, f"{name}.{item.name}.")
        else:
            yield name, hints[f.name], value


def _choices(config: Any) -> None:
    """Refuses what a setting does not list. Called by whole configs, which files, options and stored runs all make."""
    for name, hint, value in _settings(config):
        if get_origin(hint) is Literal:
            listed = get_args(hint)
            _check(
                any(type(value) is type(choice) and value == choice for choice in listed),
                f"`{name}` must be one of {', '.join(map(str, listed))}: got {value!r}.",
            )


def places(config: Any, prefix: str = "") -> dict[str, str]:
    """Dotted name of everything that there may be several of, to the same with its place: losses.terms.0."""
    found: dict[str, str] = {}
    hints = get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value, name = getattr(config, f.name), f"{prefix}{f.name}"
        if dataclasses.is_dataclass(value):
            found |= places(value, f"{name}.")
        elif _listed(hints[f.name]):
            found |= {f"{name}.{item.name}": f"{name}.{i}" for i, item in enumerate(value)}
    return found


def _listed(hint: Any) -> Any:
    """The dataclass that a tuple holds any number of; None for other types."""
    item = get_args(hint)[0] if get_origin(hint) is tuple else None
    return item if dataclasses.is_dataclass(item) else None


def differences(old: Run, new: Run) -> dict[str, tuple[Any, Any]]:
    """Settings that differ: dotted name to (old, new); a setting that the other kind of run has not is None there."""
    a, b = flatten(old), flatten(new)
    return {n: (a.get(n), b.get(n)) for n in a | b if n not in a or n not in b or a[n] != b[n]}


def changes_meaning(name: str) -> bool:
    """Whether another value of this setting makes it another run, so that resuming would mix two."""
    return name not in FREE and (
        name.split(".")[0] in MEANING or name in ("train.steps", "train.batch", "train.accumulate")
    )


def to_json(config: Run) -> str:
    """The config as readable JSON text; `from_json` is its inverse."""
    (task,) = (name for name, kind in TASKS.items() if isinstance(config, kind))
    return json.dumps({"task": task} | dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str, source: str = "config.json") -> Run:
    """Reads what `to_json` wrote.

    Raises:
      UserError: not JSON, a setting that this version does not know, one that is missing, or a value out of range.
    """
    try:
        values = dict(json.loads(text))
        task = values.pop("task", None)
        _check(task in TASKS, f"`task` must be {' or '.join(TASKS)}: got {task}.")
        return _build(TASKS[task], values, "")
    except (ValueError, TypeError, AttributeError, UserError) as error:
        raise UserError(
            f"{source} is not a config of this version: {error} Train again or restore the file."
        ) from error


def _build(cls: type, values: dict[str, Any], prefix: str) -> Any:
    hints = get_type_hints(cls)
    unknown, missing = sorted(set(values) - set(hints)), sorted(set(hints) - set(values))
    _check(not unknown, f"unknown setting `{prefix}{unknown[0] if unknown else ''}`.")
    _check(not missing, f"no setting `{prefix}{missing[0] if missing else ''}`.")
    return cls(**{name: _convert(hints[name], value, f"{prefix}{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{name}.")  # type: ignore[arg-type]
    if _listed(hint):
        return tuple(_build(_listed(hint), item, f"{name}.") for item in value)
    return _tuple(value)


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
