"""Charts as SVG text for the pages of `report`: no script, no reference to anything outside, colors of the page."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#e69f00", "#7f7f7f")
"""Colors that stay apart for color-blind readers (Okabe and Ito), dark enough for white and light enough for black."""

DASHES = ("", "6 3", "2 3", "8 3 2 3")
"""How lines differ once the colors are used up."""

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 34, 46

LOG_FROM = 20
"""Factor between values from which an axis grows by factors."""

APART = 26
"""Least distance of two labels on an axis, pixels."""

POINTS = 400
"""Most points of a drawn line."""


class Frame(NamedTuple):
    """Where the axes lie.

    Attributes:
      x: (lowest, highest) value.
      y: (lowest, highest) value.
      log_x: whether x grows by factors.
      height: of the chart, without a legend.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    log_x: bool = False
    height: int = HEIGHT

    def across(self, values: ArrayLike) -> np.ndarray:
        """Horizontal places of x values."""
        low, high = self.x
        scale = np.log if self.log_x else np.asarray
        share = (scale(np.asarray(values, float)) - scale(low)) / (scale(high) - scale(low))
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def up(self, values: ArrayLike) -> np.ndarray:
        """Vertical places of y values."""
        low, high = self.y
        return self.height - BOTTOM - (np.asarray(values, float) - low) / (high - low) * (self.height - BOTTOM - TOP)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values from low to high: multiples of 1, 2 or 5 times a power of ten.

    Args:
      low: least value.
      high: greatest value, above low.
      most: about how many.
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.8 * rough)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def lines(
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    colors: Sequence[str] = (),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    markers: bool = False,
    log_x: bool = False,
) -> str:
    """Lines over common axes, with a legend below.

    Args:
      title: above the chart.
      x_label: what x is, with its unit.
      y_label: what y is, with its unit.
      series: name to x and y; a NaN breaks the line.
      colors: of each line, as `report.css` writes them; `PALETTE` where there are none.
      x_range: lowest and highest x; None for those of the values.
      y_range: the same for y.
      markers: whether each point is marked.
      log_x: whether x grows by factors; all x are positive then.

    Returns:
      The SVG element.
    """
    data = {name: (np.asarray(x, float), np.asarray(y, float)) for name, (x, y) in series.items()}
    frame = Frame(
        x_range or _range([x for x, _ in data.values()], log_x), y_range or _range([y for _, y in data.values()]), log_x
    )
    marks = sorted({float(v) for x, _ in data.values() for v in x}) if log_x else ticks(*frame.x)
    parts = [_axes(title, x_label, y_label, frame, marks)]
    styles = []
    for i, (x, y) in enumerate(data.values()):
        color = colors[i] if colors else PALETTE[i % len(PALETTE)]
        dash = "" if colors else DASHES[i // len(PALETTE) % len(DASHES)]
        styles.append((color, dash))
        parts.append(_line(frame, x, y, color, dash))
        if markers:
            known = np.isfinite(x) & np.isfinite(y)
            places = zip(frame.across(x[known]), frame.up(y[known]), strict=True)
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{_attribute(color)}"/>' for a, b in places]
    legend, height = _legend(list(data), styles, frame.height)
    return _svg(title, WIDTH, height, [*parts, legend])


def spread(
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Sequence[Sequence[float]]],
    values: Sequence[float] | Sequence[str],
) -> str:
    """Repeated measurements at a few values: each as a dot, the means joined by a line, one deviation to either side.

    Args:
      title: above the chart.
      x_label: what varies.
      y_label: what was measured, with its unit.
      series: name to the measurements at each value; there may be none.
      values: numbers, whose axis grows by factors where they differ by a factor of `LOG_FROM`; or texts, side by side.

    Returns:
      The SVG element.
    """
    labels = [v if isinstance(v, str) else f"{v:g}" for v in values]
    numbers = np.array([i if isinstance(v, str) else v for i, v in enumerate(values)], float)
    log_x = not isinstance(values[0], str) and numbers.min() > 0 and bool(numbers.max() / numbers.min() >= LOG_FROM)
    reached = [_reach(some) for rows in series.values() for some in rows if len(some)]
    frame = Frame(_range([numbers], log_x), _range(reached), log_x)
    parts = [_axes(title, x_label, y_label, frame, numbers.tolist(), labels)]
    for i, rows in enumerate(series.values()):
        shift = 5.0 * (i - (len(series) - 1) / 2)
        parts.append(_repeated(frame, frame.across(numbers) + shift, rows, PALETTE[i % len(PALETTE)]))
    styles = [(PALETTE[i % len(PALETTE)], "") for i in range(len(series))]
    legend, height = _legend(list(series), styles, frame.height)
    named = len(series) > 1
    return _svg(title, WIDTH, height if named else frame.height, [*parts, legend if named else ""])


def _reach(values: Sequence[float]) -> np.ndarray:
    """The values, and their mean with one deviation to either side."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return np.array([*values, np.mean(values) - deviation, np.mean(values) + deviation])


def _repeated(frame: Frame, places: np.ndarray, rows: Sequence[Sequence[float]], color: str) -> str:
    """Dots, means with their deviations, and the line that joins these."""
    parts, means = [], []
    for x, some in zip(places, rows, strict=True):
        if not len(some):
            continue
        means.append((float(x), float(frame.up(np.mean(some)))))
        low, high = frame.up(_reach(some)[-2:])
        parts.append(f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="{color}"/>')
        dots = [f'<circle cx="{x:.1f}" cy="{float(frame.up(v)):.1f}" r="2.5" fill="{color}"/>' for v in some]
        parts += [dot.replace("/>", ' opacity="0.45"/>') for dot in dots]
        parts.append(f'<circle cx="{x:.1f}" cy="{means[-1][1]:.1f}" r="4" fill="{color}"/>')
    parts.append(f'<polyline points="{_points(means)}" fill="none" stroke="{color}" stroke-width="2"/>')
    return "".join(parts)


def bars(
    title: str,
    y_label: str,
    labels: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    counts: Sequence[int] = (),
) -> str:
    """Groups of bars from 0 to 100 percent, one group a label.

    Args:
      title: above the chart.
      y_label: what the height is.
      labels: below each group.
      series: name to the fraction of each label; None and NaN are drawn as a dash.
      counts: how many each label stands for, shown below it.

    Returns:
      The SVG element.
    """
    frame = Frame((0.0, float(max(len(labels), 1))), (0.0, 106.0))
    parts = [_axes(title, "", y_label, frame, [])]
    wide = (WIDTH - LEFT - RIGHT) / max(len(labels), 1)
    each = 0.72 * wide / max(len(series), 1)
    base = frame.height - BOTTOM
    for i, label in enumerate(labels):
        middle = LEFT + (i + 0.5) * wide
        parts.append(_text(middle, base + 16, label, size=11))
        if counts:
            parts.append(_text(middle, base + 31, f"{counts[i]:,}", size=10, dim=True))
        for j, values in enumerate(series.values()):
            left = middle - 0.36 * wide + j * each
            parts.append(_bar(frame, left, each, values[i], PALETTE[j % len(PALETTE)]))
    legend, height = _legend(list(series), [(PALETTE[j % len(PALETTE)], "") for j in range(len(series))], frame.height)
    return _svg(title, WIDTH, height, [*parts, legend if len(series) > 1 else ""])


def matrix(
    title: str, row_label: str, column_label: str, names: Sequence[str], values: ArrayLike, *, side: int = 46
) -> str:
    """A square table of fractions as colors, with the percentage in each cell.

    Args:
      title: above the chart.
      row_label: what the rows are.
      column_label: what the columns are.
      names: of rows and columns.
      values: (n, n) fractions of each row; NaN is left empty.
      side: width of a cell, pixels.

    Returns:
      The SVG element.
    """
    table, count = np.asarray(values, float), len(names)
    side = max(18, min(side, 640 // max(count, 1)))
    short = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
    left = 30 + 7 * max((len(name) for name in short), default=0)
    top = left + 6
    size = count * side
    parts = [
        _text(left, 18, title, size=14, anchor="start", bold=True),
        _text(left + size / 2, top + size + 18, column_label, size=11, dim=True),
        _text(14, top + size / 2, row_label, size=11, dim=True, turn=-90),
    ]
    for i, name in enumerate(short):
        middle = i * side + side / 2
        parts.append(_text(left - 6, top + middle + 4, name, size=11, anchor="end"))
        parts.append(_text(left + middle + 4, top - 6, name, size=11, anchor="start", turn=-90))
        for j in range(count):
            parts.append(_cell(left + j * side, top + i * side, side, table[i, j]))
    return _svg(title, max(left + size + 14, left + 9 * len(title)), top + size + 28, parts)


def calibration(title: str, edges: ArrayLike, observed: ArrayLike, mean: ArrayLike, counts: Sequence[int]) -> str:
    """A reliability diagram: what share is right of those with about one score, over the diagonal.

    Args:
      title: above the chart.
      edges: (b + 1,) limits of the bins of scores, in [0, 1].
      observed: (b,) share that is right; NaN for an empty bin.
      mean: (b,) mean score of each bin.
      counts: in each bin, drawn as gray bars from below.

    Returns:
      The SVG element.
    """
    limits, share, score = (np.asarray(v, float) for v in (edges, observed, mean))
    frame = Frame((0.0, 1.0), (0.0, 1.0))
    parts = [_axes(title, "score", "share that is right", frame, ticks(0, 1))]
    most, base = max([*counts, 1]), frame.up(0.0)
    for i, number in enumerate(counts):
        x0, x1 = frame.across(limits[i]), frame.across(limits[i + 1])
        height = 0.3 * (base - frame.up(1.0)) * number / most
        shown = f'width="{x1 - x0 - 1:.1f}" height="{height:.1f}" fill="var(--dim)" opacity="0.3"'
        parts.append(f'<rect x="{x0:.1f}" y="{base - height:.1f}" {shown}/>')
    ends = zip(frame.across([0, 1]), frame.up([0, 1]), strict=True)
    parts.append(f'<polyline points="{_points(ends)}" fill="none" stroke="var(--dim)" stroke-dasharray="4 4"/>')
    known = np.isfinite(share) & np.isfinite(score)
    parts.append(_line(frame, score[known], share[known], PALETTE[0], ""))
    places = zip(frame.across(score[known]), frame.up(share[known]), strict=True)
    parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{PALETTE[0]}"/>' for a, b in places]
    return _svg(title, WIDTH, frame.height, parts)


def _range(values: Sequence[np.ndarray], exact: bool = False) -> tuple[float, float]:
    """Limits of an axis: those of the values, with a little room; 0 to 1 without any."""
    joined = np.concatenate([np.zeros(0), *values])
    joined = joined[np.isfinite(joined)]
    if not joined.size:
        return (1.0, 2.0) if exact else (0.0, 1.0)
    low, high = float(joined.min()), float(joined.max())
    if exact:
        return low / 1.08, high * 1.08
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (max(low - room, 0.0) if low >= 0 else low - room), high + room


def _axes(
    title: str, x_label: str, y_label: str, frame: Frame, marks: Sequence[float], labels: Sequence[str] = ()
) -> str:
    base, right = frame.height - BOTTOM, WIDTH - RIGHT
    parts = [_text(LEFT, 18, title, size=14, anchor="start", bold=True)]
    for value in ticks(*frame.y):
        y = float(frame.up(value))
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{value:g}", size=11, anchor="end", dim=True))
    free = 0.0
    for value, label in zip(marks, labels or [f"{value:g}" for value in marks], strict=True):
        x = float(frame.across(value))
        parts.append(f'<line x1="{x:.1f}" y1="{base}" x2="{x:.1f}" y2="{base + 4}" stroke="var(--dim)"/>')
        if x >= free:
            parts.append(_text(x, base + 17, label, size=11, dim=True))
            free = x + max(APART, 7 * len(label)) if labels else 0.0
    parts.append(f'<line x1="{LEFT}" y1="{base}" x2="{right}" y2="{base}" stroke="var(--dim)"/>')
    parts.append(_text((LEFT + right) / 2, base + 35, x_label, size=12))
    parts.append(_text(14, (TOP + base) / 2, y_label, size=12, turn=-90))
    return "".join(parts)


def _line(frame: Frame, x: np.ndarray, y: np.ndarray, color: str, dash: str) -> str:
    """Polylines between the gaps; of very long lines, evenly spread points."""
    broken = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y)))
    parts = []
    for piece in np.split(np.arange(len(x)), broken):
        piece = piece[np.isfinite(x[piece]) & np.isfinite(y[piece])]
        if len(piece) > POINTS:
            piece = piece[np.unique(np.linspace(0, len(piece) - 1, POINTS).round().astype(int))]
        if len(piece) > 1:
            style = f'stroke="{_attribute(color)}" stroke-width="2" stroke-linejoin="round"'
            drawn = _points(zip(frame.across(x[piece]), frame.up(y[piece]), strict=True))
            parts.append(f'<polyline points="{drawn}" fill="none" {style} stroke-dasharray="{dash}"/>')
    return "".join(parts)


def _points(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _bar(frame: Frame, left: float, width: float, value: float | None, color: str) -> str:
    base = float(frame.up(0.0))
    if value is None or math.isnan(value):
        return _text(left + width / 2, base - 4, "-", size=12, dim=True)
    top = float(frame.up(100 * value))
    shown = f'width="{max(width - 2, 1):.1f}" height="{base - top:.1f}" fill="{color}" rx="2"'
    figure = _text(left + width / 2, top - 4, f"{100 * value:.0f}", size=10) if width > 14 else ""
    return f'<rect x="{left:.1f}" y="{top:.1f}" {shown}/>{figure}'


def _cell(x: float, y: float, side: int, value: float) -> str:
    """One cell: blue by its fraction, its root so that small ones show."""
    if math.isnan(value):
        return f'<rect x="{x:.1f}" y="{y:.1f}" width="{side - 1}" height="{side - 1}" fill="var(--card)"/>'
    strength = math.sqrt(min(max(value, 0.0), 1.0))
    shown = f'width="{side - 1}" height="{side - 1}" fill="{PALETTE[0]}" opacity="{0.06 + 0.94 * strength:.3f}"'
    rect = f'<rect x="{x:.1f}" y="{y:.1f}" {shown}/>'
    figure = f"{100 * value:.0f}" if value >= 0.005 else ""
    ink = "#ffffff" if strength > 0.62 else "var(--ink)"
    return rect + (
        _text(x + side / 2, y + side / 2 + 4, figure, size=11 if side > 26 else 9, ink=ink) if figure else ""
    )


def _legend(names: Sequence[str], styles: Sequence[tuple[str, str]], top: int) -> tuple[str, int]:
    """Names beside their lines, as many in a row as fit; the height of the chart with it."""
    parts, x, y = [], float(LEFT), top + 6
    for name, (color, dash) in zip(names, styles, strict=True):
        short = name if len(name) <= 26 else f"{name[:25]}…"
        wide = 34 + 6.6 * len(short)
        if x > LEFT and x + wide > WIDTH:
            x, y = float(LEFT), y + 17
        stroke = f'stroke="{_attribute(color)}" stroke-width="3" stroke-dasharray="{dash}"'
        parts.append(f'<line x1="{x:.1f}" y1="{y - 4}" x2="{x + 18:.1f}" y2="{y - 4}" {stroke}/>')
        parts.append(_text(x + 23, y, short, size=11, anchor="start"))
        x += wide
    return "".join(parts), y + 10 if names else top


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int,
    anchor: str = "middle",
    dim: bool = False,
    bold: bool = False,
    turn: int = 0,
    ink: str = "",
) -> str:
    fill = ink or ("var(--dim)" if dim else "var(--ink)")
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    weight = ' font-weight="600"' if bold else ""
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{fill}"{weight}{turned}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    """Text from anywhere as SVG may hold it: no markup, and none of the control characters that XML forbids."""
    return html.escape("".join(c if c.isprintable() else "?" for c in text))


def _attribute(text: str) -> str:
    """Text from anywhere as the value of an attribute."""
    return _escaped(text)


def _svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    font = 'font-family="system-ui, -apple-system, Segoe UI, Roboto, Liberation Sans, sans-serif"'
    head = f'<svg {box} role="img" {font}>'
    return f"{head}<title>{_escaped(title)}</title>{''.join(parts)}</svg>"
