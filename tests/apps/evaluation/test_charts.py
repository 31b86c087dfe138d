"""Charts parse, put values where they belong, survive any data and any name, and refer to nothing outside."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from jaxseg.apps.evaluation import charts

HOSTILE = '<script>alert("x")</script>&]]>\x00\x1b\n'


def drawings(name="plain"):
    """One of each kind, with a name everywhere."""
    x = np.linspace(0, 1, 5)
    return [
        charts.lines(name, name, name, {name: (x, x)}, colors=[name], markers=True),
        charts.spread(name, name, name, {name: [[1.0, 2.0], []], "b": [[3.0], [4.0]]}, [name, "c"]),
        charts.spread(name, name, name, {name: [[], []]}, [0.1, 10.0]),
        charts.bars(name, name, [name, "b"], {name: [0.5, None]}, [3, 4]),
        charts.matrix(name, name, name, [name, "b"], [[0.9, 0.1], [np.nan, np.nan]]),
        charts.calibration(name, [0, 0.5, 1], [0.25, np.nan], [0.4, np.nan], [7, 0]),
    ]


def texts(svg):
    return ["".join(e.itertext()) for e in ET.fromstring(svg).iter("text")]


@pytest.mark.parametrize("name", ["plain", HOSTILE])
def test_they_are_xml_without_scripts_or_references(name):
    for svg in drawings(name):
        root = ET.fromstring(svg)
        assert {e.tag for e in root.iter()} <= {"svg", "title", "text", "line", "polyline", "circle", "rect"}
        assert "http" not in svg
        assert "href" not in svg
        assert not re.search(r"nan|inf", svg.replace(name, ""))
        shown = "".join(c if c.isprintable() else "?" for c in name)
        assert root.find("title").text == shown


def test_a_line_goes_through_its_points():
    """The axes run from 0 to 10 and 0 to 1: (5, 0.5) lies in the middle of the frame."""
    svg = charts.lines("t", "x", "y", {"a": ([0, 5, 10], [0, 0.5, 1])}, x_range=(0, 10), y_range=(0, 1))
    points = [tuple(map(float, p.split(","))) for p in ET.fromstring(svg).find("polyline").get("points").split()]
    left, right, top, base = charts.LEFT, charts.WIDTH - charts.RIGHT, charts.TOP, charts.HEIGHT - charts.BOTTOM
    np.testing.assert_allclose(points, [(left, base), ((left + right) / 2, (top + base) / 2), (right, top)], atol=0.06)


def test_measurements_of_a_value_are_spread_around_their_mean():
    """Means of 1 and 3 with a deviation of sqrt(2), and of one alone none. The axis is even in decades."""
    svg = charts.spread("t", "x", "y", {"a": [[0.0, 2.0], [3.0], []]}, [0.01, 0.1, 1.0])
    root = ET.fromstring(svg)
    (line,) = root.findall("polyline")
    points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
    assert len(points) == 2
    dots = [c for c in root.iter("circle") if c.get("r") == "2.5"]
    assert len(dots) == 3
    upright = [e for e in root.findall("line") if e.get("x1") == e.get("x2")]
    ticks = [float(e.get("x1")) for e in upright if e.get("stroke") != charts.PALETTE[0]]
    assert ticks[1] - ticks[0] == pytest.approx(ticks[2] - ticks[1], abs=0.2)
    first, alone = (e for e in upright if e.get("stroke") == charts.PALETTE[0])
    per_unit = (points[0][1] - points[1][1]) / 2
    assert float(first.get("y1")) - float(first.get("y2")) == pytest.approx(2 * 2**0.5 * per_unit, abs=0.3)
    assert alone.get("y1") == alone.get("y2")


def test_labels_that_would_overlap_are_left_out():
    svg = charts.spread("t", "x", "y", {"a": [[1.0]] * 3}, [0.25, 0.98, 0.99])
    assert "0.98" in texts(svg)
    assert "0.99" not in texts(svg)


def test_nan_breaks_a_line_and_long_lines_are_thinned():
    y = np.arange(5000.0)
    y[2500] = np.nan
    lines = ET.fromstring(charts.lines("t", "x", "y", {"a": (np.arange(5000.0), y)})).findall("polyline")
    assert len(lines) == 2
    assert all(len(line.get("points").split()) <= charts.POINTS for line in lines)


def test_nothing_at_all_is_drawn_as_empty_axes():
    none = np.zeros(0)
    for svg in (
        charts.lines("t", "x", "y", {}),
        charts.lines("t", "x", "y", {"a": (none, none)}, log_x=True),
        charts.lines("t", "x", "y", {"a": ([np.nan], [np.nan])}),
        charts.lines("t", "x", "y", {"a": ([2.0], [3.0])}, markers=True),
        charts.bars("t", "y", [], {}),
        charts.bars("t", "y", ["a"], {"s": [float("nan")]}),
        charts.matrix("t", "r", "c", [], np.zeros((0, 0))),
        charts.calibration("t", [0, 1], [np.nan], [np.nan], [0]),
    ):
        assert ET.fromstring(svg).find("title").text == "t"
        assert not re.search(r"nan|inf", svg)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 100), (-3.2, 8.9), (1e-4, 3e-4), (10, 10.5)])
def test_ticks_are_few_round_and_inside(low, high):
    found = charts.ticks(low, high)
    assert 3 <= len(found) <= 8
    assert low - 1e-9 <= found[0] <= found[-1] <= high + 1e-9
    step = found[1] - found[0]
    np.testing.assert_allclose(np.diff(found), step)
    assert min(abs(step / 10 ** np.floor(np.log10(step) + 1e-9) - m) for m in (1, 2, 5)) < 1e-6


def test_bars_and_cells_show_their_figures():
    assert {"50", "30", "-"} <= set(texts(charts.bars("t", "y", ["a", "b", "c"], {"s": [0.5, 0.3, None]})))
    assert {"90", "10", "one"} <= set(texts(charts.matrix("t", "r", "c", ["one", "two"], [[0.9, 0.1], [0.0, 1.0]])))
    height = [float(r.get("height")) for r in ET.fromstring(charts.bars("t", "y", ["a"], {"s": [0.5]})).findall("rect")]
    assert height == [pytest.approx((charts.HEIGHT - charts.TOP - charts.BOTTOM) * 50 / 106, abs=0.1)]


def test_many_classes_stay_apart():
    """Twenty lines: no two have the same color and dash; names wrap in the legend."""
    svg = charts.lines("t", "x", "y", {f"class number {i}": ([0, 1], [0, i]) for i in range(20)})
    lines = ET.fromstring(svg).findall("polyline")
    assert len({(line.get("stroke"), line.get("stroke-dasharray")) for line in lines}) == 20
    assert all(f"class number {i}" in texts(svg) for i in range(20))
