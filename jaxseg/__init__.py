"""Real-time instance and semantic segmentation for robots, in JAX.

Milioto, Mandtler, Stachniss: Fast Instance and Semantic Segmentation Exploiting Local Connectivity, Metric Learning,
and One-Shot Detection for Robotics. ICRA 2019.

`load` opens a trained network, `jaxseg.apps` holds the commands of `jaxseg.cli`. What they are made of: `jaxseg.types`,
`jaxseg.config`; `jaxseg.ops`, `jaxseg.nn`, `jaxseg.losses`, `jaxseg.targets`, `jaxseg.metrics`, `jaxseg.data`;
`jaxseg.segment`, `jaxseg.train`, `jaxseg.weights`; `jaxseg.results`, `jaxseg.visualize`, `jaxseg.runtime`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxseg.apps.exported import Exported
    from jaxseg.apps.model import Model

__version__ = "0.1.0"
__all__ = ["load"]


def load(path: str | Path, best: bool = False) -> "Model | Exported":
    """Opens a trained network: a callable from uint8 RGB frames, (H, W, 3) or a batch, to a `types.Segmentation`.

    Args:
      path: the work directory of a run, or a file of ``jaxseg export``.
      best: of a run, the best of the states that training measured, instead of the latest.

    Raises:
      UserError: neither, or one that cannot be used.
    """
    from jaxseg.apps.exported import open_model

    return open_model(path, best=best)
