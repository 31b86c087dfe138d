"""The network: one encoder and three decoders on the grid of superpixels."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from jaxseg import config, lookup
from jaxseg.nn.darknet53 import Darknet53
from jaxseg.nn.decoder import WIDTHS, Decoder
from jaxseg.nn.layers import Norm
from jaxseg.nn.mobilenet_v2 import MobileNetV2
from jaxseg.types import Outputs

ENCODERS: Mapping[str, type[nn.Module]] = MappingProxyType({"darknet53": Darknet53, "mobilenet_v2": MobileNetV2})
"""The encoders that have a name. Any linen module that returns features by stride serves as well."""


def encoder(name: str, **fields: object) -> nn.Module:
    """Builds an encoder by its name or by the import path of its class.

    Args:
      name: a key of ``ENCODERS``, or "package.module:Class" for an encoder from elsewhere.
      **fields: of the module, such as stride, width, norm and dtype.

    Returns:
      The module, to be called as ``module(images, train)`` on float RGB in [0, 1]; it returns features by stride.

    Raises:
      ValueError: no such encoder, or the encoder does not take one of the fields.
    """
    kind = ENCODERS[name] if name in ENCODERS else _imported(name)
    unknown = sorted(set(fields) - set(kind.__dataclass_fields__))
    if unknown:
        known = sorted(set(kind.__dataclass_fields__) - {"parent", "name"})
        raise ValueError(f"encoder `{name}` takes {', '.join(known)}: got {', '.join(unknown)}.")
    return kind(**fields)


def _imported(path: str) -> type[nn.Module]:
    """The class that an import path names."""
    if ":" not in path:
        names = ", ".join(ENCODERS)
        raise ValueError(f'`encoder` must be one of {names}, or an import path "package.module:Class": got {path!r}.')
    if path.rpartition(":")[0].endswith(".py"):
        raise ValueError(f'`encoder` is an import path "package.module:Class", not one of a file: got {path!r}.')
    try:
        found = lookup.find(path).value
    except ValueError as error:
        raise ValueError(f"`encoder` {error}.") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"`encoder` must be a class of flax.linen modules: got {path!r}, which is {found!r}.")
    return found


class Network(nn.Module):
    """Predicts class, embedding and center confidence of each superpixel.

    Attributes:
      encoder: any module that, called with float RGB in [0, 1] and ``train``, returns features by stride.
      classes: number of classes with background.
      embedding: dimensions of the embedding.
      superpixel: size k of a grid element in pixels; a power of two, at most the encoder's output stride.
      widths: channels of the decoders at stride 1, 2, 4 and so on.
      width: multiplier of the decoders' channels.
      prior: initial probability pi of a center; the bias starts at -log((1 - pi) / pi).
      centers: whether there is a head for centers; the baseline of Table I has none.
      embedding_scale: standard deviation of the embedding's last kernel, relative to one that keeps variance.
      coordinates: pixels per embedding unit of the position that is added to the first two dimensions; 0 adds nothing.
      norm: batch norm's settings of the decoders.
      dtype: of the decoders' computation; outputs are float32.
      remat: store the inputs of the decoders' layers alone for the gradient.

    References:
      Milioto et al., ICRA 2019, section III-A.
    """

    encoder: nn.Module
    classes: int
    embedding: int = 32
    superpixel: int = 4
    widths: tuple[int, ...] = WIDTHS
    width: float = 1.0
    prior: float = 0.1
    centers: bool = True
    embedding_scale: float = 0.2
    coordinates: float = 0.0
    norm: Norm = Norm()
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: UInt8[Array, "b H W 3"] | Float[Array, "b H W 3"], train: bool) -> Outputs:
        """Runs the network.

        Args:
          images: RGB, uint8 or float in [0, 1]; H and W are multiples of the encoder's output stride.
          train: normalize with the batch's statistics and update the running ones.

        Returns:
          Predictions on the (H/k, W/k) grid.

        Raises:
          ValueError: the image or the superpixel size does not fit the encoder's strides.
        """
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255.0
        features = self.encoder(images, train)
        _check(images.shape[1:3], features, self.superpixel)
        settings: dict[str, Any] = {
            "stride": self.superpixel,
            "widths": self.widths,
            "width": self.width,
            "norm": self.norm,
            "dtype": self.dtype,
            "remat": self.remat,
        }
        bias = -math.log((1.0 - self.prior) / self.prior)
        semantic = Decoder(self.classes, name="semantic", **settings)(features, train)
        embedding = Decoder(self.embedding, scale=self.embedding_scale, name="embedding", **settings)(features, train)
        if self.centers:
            center = Decoder(1, bias=bias, name="center", **settings)(features, train)[..., 0]
        else:
            center = jnp.full(semantic.shape[:-1], -jnp.inf)
        return Outputs(semantic, located(embedding, self.superpixel, self.coordinates), center)


def encoder_from_config(settings: config.Encoder, axis_name: str | None = None, stride: int = 32) -> nn.Module:
    """Builds the encoder of a config.

    Args:
      settings: of the encoder.
      axis_name: mapped axis that batch statistics are averaged over in training; None for a lone device.
      stride: output stride.

    Returns:
      The module. Settings that say nothing (no blocks, no mean, symmetric padding) are left to it, so that an encoder
      from elsewhere need not take them.

    Raises:
      UserError: no such encoder, or one that does not take the settings.
    """
    taken = settings.conventions
    said: dict[str, object] = {
        "blocks": settings.encoder_blocks,
        "mean": taken.mean,
        "std": taken.std,
        "frozen": settings.frozen_stages,
        "remat": settings.remat,
        "padding": "" if taken.padding == config.Conventions().padding else taken.padding,
        "slope": 0 if taken.slope == config.Conventions().slope else taken.slope,
    }
    said = {name: value for name, value in said.items() if value}
    try:
        return encoder(
            settings.encoder,
            norm=norm(settings, axis_name, taken.epsilon),
            dtype=jnp.dtype(settings.dtype),
            stride=stride,
            width=settings.encoder_width,
            **said,
        )
    except ValueError as error:
        raise config.UserError(f"--model.encoder: {error}") from error


def norm(settings: config.Encoder, axis_name: str | None, epsilon: float = Norm.epsilon) -> Norm:
    """How batch norm normalizes by a config; arguments are those of `encoder_from_config` and `Norm`."""
    return Norm(axis_name, frozen=settings.batch_norm == "frozen", epsilon=epsilon)


def from_config(settings: config.Model, classes: int, superpixel: int, axis_name: str | None = None) -> Network:
    """Builds the network of a config.

    Args:
      settings: of the encoder and the decoders.
      classes: number of classes with background.
      superpixel: size k of a grid element in pixels.
      axis_name: mapped axis that batch statistics are averaged over in training; None for a lone device.

    Returns:
      The module.

    Raises:
      UserError: no such encoder, or one that does not take the settings.
    """
    return Network(
        encoder=encoder_from_config(settings, axis_name, settings.encoder_stride),
        classes=classes,
        embedding=settings.embedding,
        superpixel=superpixel,
        width=settings.decoder_width,
        prior=settings.center_prior,
        centers=settings.clustering == "centers",
        coordinates=settings.coordinates,
        norm=norm(settings, axis_name),
        dtype=jnp.dtype(settings.dtype),
        remat=settings.remat,
    )


def located(embedding: Float[Array, "b h w d"], superpixel: int, pixels_per_unit: float) -> Float[Array, "b h w d"]:
    r"""Adds each element's position to the first two dimensions of its embedding.

    .. math:: e_{ij} \leftarrow e_{ij} + \frac{k}{s} (i - \bar i,\; j - \bar j,\; 0, \dots)

    A convolution sees no position, so that objects that look alike and lie further apart than it sees would share one
    embedding. With their position they differ, and the decoder learns the offset to the center; shifting an image still
    shifts its embeddings only.

    Args:
      embedding: of each element.
      superpixel: size k of an element in pixels.
      pixels_per_unit: s; 0 leaves the embedding as it is.

    Returns:
      The embedding, with positions counted from the middle of the grid.

    References:
      Neven et al., Instance segmentation by jointly optimizing spatial embeddings and clustering bandwidth, CVPR 2019
      (position plus learned offset).
    """
    if not pixels_per_unit:
        return embedding
    _, h, w, d = embedding.shape
    y, x = (jnp.arange(n, dtype=jnp.float32) - (n - 1) / 2 for n in (h, w))
    position = jnp.stack(jnp.meshgrid(y, x, indexing="ij"), axis=-1) * (superpixel / pixels_per_unit)
    return embedding + jnp.pad(position, ((0, 0), (0, 0), (0, d - 2)))[None]


def _check(size: tuple[int, ...], features: Mapping[int, Array], superpixel: int) -> None:
    """Raises unless the image, the encoder's features and the grid fit together."""
    (height, width), stride = size, max(features)
    if height % stride or width % stride:
        wanted = f"image sizes must be multiples of the encoder's stride {stride}"
        raise ValueError(f"{wanted}: got {height} x {width}. Pad or resize first.")
    if superpixel not in (2**i for i in range(stride.bit_length())):
        raise ValueError(f"`superpixel` must be a power of two, at most the encoder's {stride}: got {superpixel}.")
    for at, feature in features.items():
        if feature.shape[1:3] != (height // at, width // at):
            got = f"{feature.shape[1]} x {feature.shape[2]} from {height} x {width}"
            raise ValueError(f"the encoder's features of stride {at} must be smaller by {at}: got {got}.")
