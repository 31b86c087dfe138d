"""Metrics as sums that merge, with one division at the end."""

from jaxseg.metrics.instance import AveragePrecision, Curve, ImageMatches, Verdict, matches
from jaxseg.metrics.semantic import Confusion

__all__ = ["AveragePrecision", "Confusion", "Curve", "ImageMatches", "Verdict", "matches"]
