"""Metrics as sums that merge, with one division at the end. All are computed from the counts of an image."""

from jaxseg.metrics.counts import Counts, Truth
from jaxseg.metrics.panoptic import PanopticQuality
from jaxseg.metrics.semantic import Confusion, InstanceIoU

__all__ = ["Confusion", "Counts", "InstanceIoU", "PanopticQuality", "Truth"]
