"""Silhouettes."""

import numpy as np
import pytest

from jaxseg.data import drawing


@pytest.mark.parametrize("name", drawing.CLASSES)
def test_silhouettes_keep_their_area_when_turned(name):
    def area(angle: float) -> int:
        shape = drawing.Shape(drawing.CLASSES.index(name) + 1, (64.0, 64.0), 60.0, angle, 1.0)
        return int(drawing.rasterize(shape, (128, 128))[1].sum())

    turned = [area(angle) for angle in np.linspace(0, 2 * np.pi, 9)]
    assert min(turned) > 0.9 * max(turned) > 0.9 * 500


def test_ring_has_a_hole_and_disc_has_none():
    def at_center(name: str) -> bool:
        shape = drawing.Shape(drawing.CLASSES.index(name) + 1, (32.5, 32.5), 40.0, 0.3, 1.0)
        (rows, columns), mask = drawing.rasterize(shape, (64, 64))
        return bool(mask[32 - rows.start, 32 - columns.start])

    assert at_center("disc")
    assert not at_center("ring")
