"""The networks of this project in PyTorch, with the same parameters: the peer of `cnn.py`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from jaxseg.nn import darknet53, mobilenet_v2
from jaxseg.nn.layers import divisible, stages
from jaxseg.nn.network import Network


class Convolution(nn.Module):
    """`jaxseg.nn.layers.Convolution`: convolution, batch norm, activation."""

    def __init__(
        self,
        inputs: int,
        features: int,
        size: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activation: Callable | None = F.relu,
    ):
        super().__init__()
        around = dilation * (size // 2)
        self.conv = nn.Conv2d(inputs, features, size, stride, around, dilation, groups, bias=False)
        self.norm = nn.BatchNorm2d(features, eps=1e-5)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return x if self.activation is None else self.activation(x)


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, features: int, expansion: int, stride: int, dilation: int, residual: bool):
        super().__init__()
        hidden = inputs * expansion
        self.expand = nn.Identity() if expansion == 1 else Convolution(inputs, hidden, activation=F.relu6)
        self.depthwise = Convolution(hidden, hidden, 3, stride, dilation, hidden, F.relu6)
        self.project = Convolution(hidden, features, activation=None)
        self.residual = residual and inputs == features and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    def __init__(self, stride: int, width: float):
        super().__init__()
        stem, *plan = stages((2, *(s for _, _, _, s in mobilenet_v2.STAGES)), stride)
        channels = divisible(32 * width)
        self.features_0 = Convolution(3, channels, 3, stem.stride, activation=F.relu6)
        self.rows, self.channels = [], {}
        rows = zip(mobilenet_v2.STAGES, plan, mobilenet_v2.FIRST, strict=True)
        for (t, c, n, s), stage, first in rows:
            names, features = [], divisible(c * width)
            for i in range(n):
                step, dilation = (stage.stride, stage.first) if i == 0 else (1, stage.rest)
                block = InvertedResidual(channels, features, t, step, dilation, residual=i > 0 or s == 1)
                names.append(f"features_{first + i}")
                self.add_module(names[-1], block)
                channels = features
            self.rows.append((stage.total, names))
            self.channels[stage.total] = channels
        self.register_buffer("mean", torch.tensor(mobilenet_v2.MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(mobilenet_v2.STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        x, features = self.features_0((x - self.mean) / self.std), {}
        for total, names in self.rows:
            for name in names:
                x = getattr(self, name)(x)
            features[total] = x
        return features


class Residual(nn.Module):
    def __init__(self, channels: int, dilation: int):
        super().__init__()
        leaky = partial(F.leaky_relu, negative_slope=darknet53.SLOPE)
        self.reduce = Convolution(channels, channels // 2, activation=leaky)
        self.expand = Convolution(channels // 2, channels, 3, 1, dilation, activation=leaky)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.expand(self.reduce(x))


class Darknet53(nn.Module):
    def __init__(self, stride: int, width: float):
        super().__init__()
        leaky = partial(F.leaky_relu, negative_slope=darknet53.SLOPE)
        channels = divisible(32 * width)
        self.stem = Convolution(3, channels, 3, activation=leaky)
        self.rows, self.channels = [], {1: channels}
        plan = stages((2,) * len(darknet53.CHANNELS), stride)
        rows = zip(plan, darknet53.CHANNELS, darknet53.BLOCKS, strict=True)
        for i, (stage, wanted, count) in enumerate(rows):
            names, features = [f"down_{i}"], divisible(wanted * width)
            down = Convolution(channels, features, 3, stage.stride, stage.first, activation=leaky)
            self.add_module(names[0], down)
            for j in range(count):
                names.append(f"block_{i}_{j}")
                self.add_module(names[-1], Residual(features, stage.rest))
            channels = features
            self.rows.append((stage.total, names))
            self.channels[stage.total] = channels

    def forward(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        features = {1: self.stem(x)}
        x = features[1]
        for total, names in self.rows:
            for name in names:
                x = getattr(self, name)(x)
            features[total] = x
        return features


class Merge(nn.Module):
    """The squashing 1x1 convolution, its coarse share before the upsampling, as in `jaxseg.nn.decoder.Merge`."""

    def __init__(self, coarse: int, fine: int, features: int):
        super().__init__()
        self.coarse = nn.Conv2d(coarse, features, 1, bias=False)
        self.fine = nn.Conv2d(fine, features, 1, bias=False) if fine else None
        self.norm = nn.BatchNorm2d(features, eps=1e-5)

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        y = F.interpolate(self.coarse(x), scale_factor=2, mode="bilinear", align_corners=False)
        y = y if self.fine is None else y + self.fine(skip)
        return F.relu(self.norm(y))


class Decoder(nn.Module):
    def __init__(self, given: dict[int, int], outputs: int, stride: int, widths: tuple[int, ...], width: float):
        super().__init__()
        reached = max(given)
        channels, self.steps = given[reached], []
        while reached > stride:
            reached //= 2
            features = divisible(widths[reached.bit_length() - 1] * width)
            self.add_module(f"squash_{reached}", Merge(channels, given.get(reached, 0), features))
            for i in range(2):
                self.add_module(f"refine_{reached}_{i}", Convolution(features, features, 3))
            channels = features
            self.steps.append(reached)
        self.predict = nn.Conv2d(channels, outputs, 1)

    def forward(self, features: dict[int, torch.Tensor]) -> torch.Tensor:
        x = features[max(features)]
        for reached in self.steps:
            x = getattr(self, f"squash_{reached}")(x, features.get(reached))
            for i in range(2):
                x = getattr(self, f"refine_{reached}_{i}")(x)
        return self.predict(x)


class Peer(nn.Module):
    """A `jaxseg.nn.network.Network` with its parameters; class, embedding and center logits as two or three maps.

    Args:
      network: what to build; with a named encoder, no coordinates, and a grid finer than its features.
      variables: its parameters and statistics.
    """

    def __init__(self, network: Network, variables: Any):
        super().__init__()
        kinds = {mobilenet_v2.MobileNetV2: MobileNetV2, darknet53.Darknet53: Darknet53}
        encoder: Any = network.encoder
        self.encoder = kinds[type(encoder)](encoder.stride, encoder.width)
        self.heads = {"semantic": network.classes, "embedding": network.embedding}
        self.heads |= {"center": 1} if network.centers else {}
        for name, outputs in self.heads.items():
            decoder = Decoder(self.encoder.channels, outputs, network.superpixel, network.widths, network.width)
            self.add_module(name, decoder)
        _fill(self, jax.device_get(variables))
        self.eval()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs the network on uint8 images (b, 3, H, W)."""
        dtype = next(self.parameters()).dtype
        features = self.encoder(images.to(dtype) / 255)
        return tuple(getattr(self, head)(features) for head in self.heads)


def _fill(module: nn.Module, variables: Any) -> None:
    """Copies the parameters of every layer, found by its path."""
    for name, layer in module.named_modules():
        path = name.split(".") if name else []
        params, statistics = (_at(variables[kind], path) for kind in ("params", "batch_stats"))
        if isinstance(layer, Convolution):
            _set(layer.conv.weight, params["kernel"].transpose(3, 2, 0, 1))
            _set_norm(layer.norm, params["norm"], statistics["norm"])
        elif isinstance(layer, Merge):
            kernel, coarse = params["kernel"].transpose(3, 2, 0, 1), layer.coarse.in_channels
            _set(layer.coarse.weight, kernel[:, :coarse])
            if layer.fine is not None:
                _set(layer.fine.weight, kernel[:, coarse:])
            _set_norm(layer.norm, params["norm"], statistics["norm"])
        elif isinstance(layer, Decoder):
            _set(layer.predict.weight, params["predict"]["kernel"].T[:, :, None, None])
            _set(layer.predict.bias, params["predict"]["bias"])


def _at(tree: Any, path: list[str]) -> Any:
    for name in path:
        tree = tree.get(name, {}) if isinstance(tree, dict) else {}
    return tree


def _set(parameter: torch.Tensor, value: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.array(value)))


def _set_norm(layer: nn.BatchNorm2d, params: Any, statistics: Any) -> None:
    for parameter, value in (
        (layer.weight, params["scale"]),
        (layer.bias, params["bias"]),
        (layer.running_mean, statistics["mean"]),
        (layer.running_var, statistics["var"]),
    ):
        _set(parameter, value)
