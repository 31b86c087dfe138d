"""How other projects name the parameters of MobileNetV2 and Darknet-53, and what their weights take for granted."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxseg.config import Conventions
from jaxseg.nn import darknet53, mobilenet_v2

Path = tuple[str, ...]
"""Submodule of an encoder that holds a convolution."""

Names = Mapping[str, str]
"""The part of a convolution or of the classifier (kernel, scale, bias, mean, var) to the name of its tensor."""

TORCH = Conventions(mean=mobilenet_v2.MEAN, std=mobilenet_v2.STD)
"""ImageNet's mean and standard deviation, symmetric padding."""

KERAS = Conventions(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), padding="same", epsilon=1e-3)
"""RGB in -1..1, TensorFlow's padding."""

QUANTISED = Conventions(mean=(128 / 255,) * 3, std=(128 / 255,) * 3, padding="same")
"""(RGB - 128) / 128, TensorFlow's padding; batch norm is folded in, and its epsilon with it."""

DARKNET = Conventions(mean=darknet53.MEAN, std=darknet53.STD, slope=darknet53.SLOPE)
"""RGB in 0..1."""

TIMM_DARKNET = Conventions(mean=mobilenet_v2.MEAN, std=mobilenet_v2.STD, slope=0.01)
"""timm trains with PyTorch's default slope of leaky ReLU."""


def torch_kernel(kernel: np.ndarray) -> np.ndarray:
    """(o, i, h, w) to (h, w, i, o); (o, i) to (i, o)."""
    return kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T


def tensorflow_kernel(kernel: np.ndarray, depthwise: bool) -> np.ndarray:
    """(h, w, i, o) as it is; a depthwise (h, w, c, 1) becomes (h, w, 1, c)."""
    return kernel.transpose(0, 1, 3, 2) if depthwise and kernel.ndim == 4 else kernel


@dataclass(frozen=True)
class Source:
    """How one project writes one encoder.

    Attributes:
      title: what messages and checkpoints call it.
      encoder: name of the encoder.
      mark: a name that only this source's files have.
      conventions: what its weights take for granted.
      convolution: names of a convolution's tensors.
      classifier: names of the classifier's tensors; several where they changed over time.
      turn: kernel as stored, and whether it is depthwise, to (h, w, i, o).
      spare: names of tensors that nobody needs.
      folded: whether batch norm is folded into kernels and biases.
      blocks: residual blocks that the names tell of; none where the number is fixed.
    """

    title: str
    encoder: str
    mark: str
    conventions: Conventions
    convolution: Callable[[Path], Names]
    classifier: tuple[Names, ...]
    turn: Callable[[np.ndarray, bool], np.ndarray]
    spare: str = r"(?!)"
    folded: bool = False
    blocks: Callable[[Sequence[str]], tuple[int, ...]] = field(default=lambda names: ())


def convolutions(encoder: str, blocks: tuple[int, ...]) -> tuple[Path, ...]:
    """Every convolution of an encoder in the order of its layers, classification's head included."""
    if encoder == "darknet53":
        return darknet53.convolutions(blocks or darknet53.BLOCKS)
    paths: list[Path] = [("features_0",)]
    for (t, _, n, _), first in zip(mobilenet_v2.STAGES, mobilenet_v2.FIRST, strict=True):
        parts = ("depthwise", "project") if t == 1 else ("expand", "depthwise", "project")
        paths += [(f"features_{first + i}", part) for i in range(n) for part in parts]
    return (*paths, ("features_18",))


def _batch_norm(kernel: str, norm: str) -> Names:
    """PyTorch's names of a convolution and of the batch norm behind it."""
    parts = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return {"kernel": f"{kernel}.weight"} | {part: f"{norm}.{name}" for part, name in parts.items()}


def _number(path: Path) -> int:
    """The number of a block of MobileNetV2, as torchvision counts its features."""
    return int(path[0].removeprefix("features_"))


def _torchvision(path: Path) -> Names:
    block = f"features.{_number(path)}"
    if len(path) == 1:
        return _batch_norm(f"{block}.0", f"{block}.1")
    later = _number(path) > 1  # The first block has no expanding convolution, so that the others move up.
    if path[1] == "project":
        return _batch_norm(f"{block}.conv.{1 + later}", f"{block}.conv.{2 + later}")
    inner = int(later and path[1] == "depthwise")
    return _batch_norm(f"{block}.conv.{inner}.0", f"{block}.conv.{inner}.1")


def _timm_mobilenet(path: Path) -> Names:
    if len(path) == 1:
        return _batch_norm("conv_stem", "bn1") if path[0] == "features_0" else _batch_norm("conv_head", "bn2")
    number = _number(path)
    stage = max(i for i, first in enumerate(mobilenet_v2.FIRST) if first <= number)
    block = f"blocks.{stage}.{number - mobilenet_v2.FIRST[stage]}"
    first = {"depthwise": ("conv_dw", 1), "project": ("conv_pw", 2)}
    later = {"expand": ("conv_pw", 1), "depthwise": ("conv_dw", 2), "project": ("conv_pwl", 3)}
    kernel, norm = (first if number == 1 else later)[path[1]]
    return _batch_norm(f"{block}.{kernel}", f"{block}.bn{norm}")


def _timm_darknet(path: Path) -> Names:
    if path[0] == "stem":
        at = "stem.conv1"
    elif path[0].startswith("down"):
        at = f"stages.{path[0].removeprefix('down_')}.conv_down"
    else:
        _, stage, block = path[0].split("_")
        at = f"stages.{stage}.blocks.{block}.{'conv1' if path[1] == 'reduce' else 'conv2'}"
    return _batch_norm(f"{at}.conv", f"{at}.bn")


def _timm_blocks(names: Sequence[str]) -> tuple[int, ...]:
    """Residual blocks of each stage of timm's Darknet-53."""
    found: dict[int, int] = {}
    for name in names:
        match = re.match(r"stages\.(\d)\.blocks\.(\d{1,2})\.", name)
        if match:
            stage, block = map(int, match.groups())
            found[stage] = max(found.get(stage, 0), block + 1)
    return tuple(found.get(stage, 1) for stage in range(len(darknet53.BLOCKS)))


def _darknet(path: Path) -> Names:
    return {part: "/".join((*path, part)) for part in ("kernel", "scale", "bias", "mean", "var")}


KERAS_NORM = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
"""Keras's and TensorFlow's names of batch norm's parameters, in Keras's order."""


def _keras_layers(path: Path) -> tuple[str, str]:
    """Keras's layers of a convolution and of its batch norm."""
    if len(path) == 1:
        return ("Conv1", "bn_Conv1") if path[0] == "features_0" else ("Conv_1", "Conv_1_bn")
    number = _number(path)
    block = "expanded_conv" if number == 1 else f"block_{number - 1}"
    return f"{block}_{path[1]}", f"{block}_{path[1]}_BN"


def _keras(path: Path) -> Names:
    kernel, norm = _keras_layers(path)
    return {"kernel": f"{kernel}/kernel"} | {part: f"{norm}/{name}" for part, name in KERAS_NORM.items()}


def _keras3(path: Path) -> Names:
    """Keras 3 names layers by their class and counts them, and numbers the variables of a layer."""
    paths = convolutions("mobilenet_v2", ())
    depthwise = path[-1] == "depthwise"
    kind = "depthwise_conv2d" if depthwise else "conv2d"
    before = [p for p in paths[: paths.index(path)] if (p[-1] == "depthwise") == depthwise]
    found = {"kernel": f"{_counted(kind, len(before))}/0"}
    norm = _counted("batch_normalization", paths.index(path))
    return found | {part: f"{norm}/{i}" for i, part in enumerate(KERAS_NORM)}


def _counted(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def _slim(path: Path, average: str = "") -> Names:
    """Names of TensorFlow-Slim's checkpoints; ``average`` ends those of the moving averages."""
    if len(path) == 1:
        scope = "MobilenetV2/Conv" if path[0] == "features_0" else "MobilenetV2/Conv_1"
    else:
        scope = f"MobilenetV2/{_counted('expanded_conv', _number(path) - 1)}/{path[1]}"
    kernel = "depthwise_weights" if path[-1] == "depthwise" else "weights"
    parts = {"kernel": kernel} | {part: f"BatchNorm/{name}" for part, name in KERAS_NORM.items()}
    return {part: f"{scope}/{name}{average}" for part, name in parts.items()}


def _folded(path: Path) -> Names:
    if len(path) == 1:
        block = "stem" if path[0] == "features_0" else "head"
        return {"kernel": f"{block}/kernel", "bias": f"{block}/bias"}
    block = f"block{_number(path) - 1:02}/{path[1]}"
    return {"kernel": f"{block}/kernel", "bias": f"{block}/bias"}


SLIM = "MobilenetV2/Logits/Conv2d_1c_1x1"
"""TensorFlow-Slim's last layer, a 1x1 convolution."""

AVERAGE = "/ExponentialMovingAverage"
"""Ends the names of moving averages; batch statistics, which are averages themselves, may have none."""


def _torch(kernel: np.ndarray, depthwise: bool) -> np.ndarray:
    return torch_kernel(kernel)


def _as_stored(kernel: np.ndarray, depthwise: bool) -> np.ndarray:
    return kernel


def _flat(kernel: np.ndarray, depthwise: bool) -> np.ndarray:
    return tensorflow_kernel(kernel, depthwise)


def _classifier(*kernels: tuple[str, str]) -> tuple[Names, ...]:
    return tuple({"kernel": kernel, "bias": bias} for kernel, bias in kernels)


def _torch_classifier(name: str) -> tuple[Names, ...]:
    return _classifier((f"{name}.weight", f"{name}.bias"))


_MOBILENET: dict[str, Any] = {"encoder": "mobilenet_v2"}
_TORCH: dict[str, Any] = {"turn": _torch, "spare": r".*num_batches_tracked"}

SOURCES: tuple[Source, ...] = (
    Source(
        title="torchvision",
        mark="features.0.0.weight",
        conventions=TORCH,
        convolution=_torchvision,
        classifier=_torch_classifier("classifier.1"),
        **_MOBILENET,
        **_TORCH,
    ),
    Source(
        title="timm",
        mark="conv_stem.weight",
        conventions=TORCH,
        convolution=_timm_mobilenet,
        classifier=_torch_classifier("classifier"),
        **_MOBILENET,
        **_TORCH,
    ),
    Source(
        title="timm",
        encoder="darknet53",
        mark="stem.conv1.conv.weight",
        conventions=TIMM_DARKNET,
        convolution=_timm_darknet,
        classifier=_torch_classifier("head.fc"),
        blocks=_timm_blocks,
        **_TORCH,
    ),
    Source(
        title="Darknet",
        encoder="darknet53",
        mark="stem/scale",
        conventions=DARKNET,
        convolution=_darknet,
        classifier=_classifier(("logits/kernel", "logits/bias")),
        turn=_torch,
    ),
    Source(
        title="Keras",
        mark="Conv1/kernel",
        conventions=KERAS,
        convolution=_keras,
        classifier=_classifier(("predictions/kernel", "predictions/bias"), ("Logits/kernel", "Logits/bias")),
        turn=_flat,
        **_MOBILENET,
    ),
    Source(
        title="Keras 3",
        mark="depthwise_conv2d/0",
        conventions=KERAS,
        convolution=_keras3,
        classifier=_classifier(("dense/0", "dense/1")),
        turn=_flat,
        **_MOBILENET,
    ),
    Source(
        title="TensorFlow-Slim, moving averages",
        mark=f"MobilenetV2/Conv/weights{AVERAGE}",
        conventions=KERAS,
        convolution=lambda path: _slim(path, AVERAGE),
        classifier=_classifier((f"{SLIM}/weights{AVERAGE}", f"{SLIM}/biases{AVERAGE}")),
        turn=_flat,
        spare=r"global_step|.*(?<!ExponentialMovingAverage)$",
        **_MOBILENET,
    ),
    Source(
        title="TensorFlow-Slim",
        mark="MobilenetV2/Conv/weights",
        conventions=KERAS,
        convolution=_slim,
        classifier=_classifier((f"{SLIM}/weights", f"{SLIM}/biases")),
        turn=_flat,
        spare=r"global_step|.*/(RMSProp|RMSProp_1|Momentum|Adam|Adam_1)",
        **_MOBILENET,
    ),
    Source(
        title="folded batch norm",
        mark="block00/depthwise/kernel",
        conventions=QUANTISED,
        convolution=_folded,
        classifier=_classifier(("logits/kernel", "logits/bias")),
        turn=_as_stored,
        folded=True,
        **_MOBILENET,
    ),
)
"""Every source that is known; the first whose mark a file holds is its own."""
