"""Real-time instance and semantic segmentation for robots, in JAX.

Milioto, Mandtler, Stachniss: Fast Instance and Semantic Segmentation Exploiting Local Connectivity, Metric Learning,
and One-Shot Detection for Robotics. ICRA 2019.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxseg.apps.model import Model

__version__ = "0.1.0"
__all__ = ["load"]


def load(path: str | Path, best: bool = False) -> "Model":
    """Opens a trained network: a callable from uint8 RGB frames, (H, W, 3) or a batch, to a `types.Segmentation`.

    Args:
      path: the work directory of a run.
      best: the best of the states that training measured, instead of the latest.

    Raises:
      UserError: not a work directory, or a checkpoint that cannot be used.
    """
    from jaxseg.apps.model import load as open_model

    return open_model(path, best=best)
