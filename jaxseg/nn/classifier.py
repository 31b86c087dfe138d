"""A classifier on an encoder: what ImageNet pretraining trains, so that segmentation can start from its encoder."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from jaxseg import config
from jaxseg.nn import network


class Classifier(nn.Module):
    """An encoder, the average of its coarsest features over the image, and one linear layer in float32.

    Attributes:
      encoder: any module that, called with float RGB in [0, 1] and ``train``, returns features by stride.
      classes: number of classes.
    """

    encoder: nn.Module
    classes: int

    @nn.compact
    def __call__(self, images: UInt8[Array, "b H W 3"] | Float[Array, "b H W 3"], train: bool) -> Float[Array, "b c"]:
        """Runs the classifier.

        Args:
          images: RGB, uint8 or float in [0, 1].
          train: normalize with the batch's statistics and update the running ones.

        Returns:
          Logits, float32.
        """
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255.0
        features = self.encoder(images, train)
        pooled = features[max(features)].astype(jnp.float32).mean((1, 2))
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01), name="logits")(pooled)


def from_config(settings: config.Encoder, classes: int, axis_name: str | None = None) -> Classifier:
    """Builds the classifier of a config.

    Args:
      settings: of the encoder, which runs at output stride 32, with the head that classification uses if it has one.
      classes: number of classes.
      axis_name: mapped axis that batch statistics are averaged over in training; None for a lone device.

    Returns:
      The module.

    Raises:
      UserError: no such encoder, or one that does not take the settings.
    """
    encoder = network.encoder_from_config(settings, axis_name)
    return Classifier(encoder.clone(head=True) if hasattr(encoder, "head") else encoder, classes)
