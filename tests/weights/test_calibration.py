"""Calibration needs images; what it does with them is tested with the command, tests/apps/test_weights.py."""

import pytest

from jaxseg.weights import calibration, imported
from tests.weights import golden


def test_no_images_are_refused(tmp_path):
    weights, _ = imported.read(golden.unpack("mobilenet_v2_torchvision.pth", tmp_path))
    with pytest.raises(ValueError, match="at least one batch of images"):
        calibration.calibrate(weights, [])
