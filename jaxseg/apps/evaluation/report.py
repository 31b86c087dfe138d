"""HTML pages of figures and pictures: self-contained, so that they can be mailed, archived and opened offline."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxseg.apps import files
from jaxseg.train import storage

Cell = str | int | float | np.integer | np.floating | np.bool_ | None
"""What a table shows: text as it is, fractions with three digits, None and NaN as a dash."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #5b6570; --line: #d8dde3; --paper: #ffffff; --card: #f5f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --dim: #9aa5b1; --line: #343b44; --paper: #14171b; --card: #1d2228; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1400px; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1.2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .7rem; }
.summary { display: flex; flex-wrap: wrap; gap: .7rem; margin: 0; }
.summary div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem 1rem;
  min-width: 7rem; max-width: 100%; }
.summary dt { color: var(--dim); font-size: .85rem; }
.summary dd { margin: 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { color: var(--dim); font-weight: 600; font-size: .85rem; }
th.number, td.number { text-align: right; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border-radius: 2px; }
ul { padding-left: 1.2rem; }
figure { margin: 0 0 1.6rem; padding: .8rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
figcaption { margin-bottom: .6rem; overflow-wrap: anywhere; }
figcaption span { color: var(--dim); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem; }
.pair.many { grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.pair small { color: var(--dim); }
.pair img { display: block; width: 100%; height: auto; border-radius: 4px; }
.pair img.small { image-rendering: pixelated; max-width: 512px; }
.charts { margin-top: 1rem; display: flex; flex-wrap: wrap; gap: 1rem; }
.charts > div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem;
  max-width: 100%; }
.charts svg { display: block; max-width: 100%; height: auto; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { max-width: 52rem; }
.examples.narrow { display: grid; grid-template-columns: repeat(auto-fill, minmax(380px, 1fr)); gap: 1rem; }
.examples.narrow figure { margin: 0; }
@media (max-width: 640px) { .pair { grid-template-columns: 1fr; } }
"""


class Example(NamedTuple):
    """One image, as the page shows it.

    Attributes:
      name: of the image.
      pictures: title to RGB picture, shown beside each other.
      caption: what to know about it, such as its score.
    """

    name: str
    pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]
    caption: str = ""


class Table(NamedTuple):
    """Rows under a title.

    Attributes:
      title: above it; may be empty.
      rows: column name to value; columns are those of the first row.
    """

    title: str
    rows: Sequence[Mapping[str, Cell]]


class Section(NamedTuple):
    """A part of the page.

    Attributes:
      title: its heading.
      text: paragraphs.
      tables: below them.
      charts: SVG elements of `charts`, which escapes what they show.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[str] = ()


def css(rgb: Sequence[int] | UInt8[np.ndarray, "3"]) -> str:
    """A color as HTML writes it."""
    return "#" + "".join(f"{int(v):02x}" for v in rgb)


def write(
    path: storage.Folder,
    *,
    title: str,
    summary: Sequence[tuple[str, Cell]] = (),
    per_class: Sequence[Mapping[str, Cell]] = (),
    colors: Sequence[str] = (),
    sections: Sequence[Section] = (),
    notes: Sequence[str] = (),
    examples: Sequence[Example] = (),
) -> storage.Folder:
    """Writes the page; its images are inside it, and it refers to no address.

    Args:
      path: where to; a file there is replaced, once the page is complete.
      title: of the page.
      summary: (name, value) pairs, shown large.
      per_class: one row a class, column name to value; columns are those of the first row.
      colors: of each row's class, as `css` writes them; shown before its name.
      sections: further parts, shown before the notes.
      notes: sentences on how the numbers came about.
      examples: images with their pictures, in the order to be shown.

    Returns:
      The path.

    Raises:
      UserError: it cannot be written.
    """
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _summary(summary),
        _section("By class", _table(per_class, colors)),
        *(_section(section.title, _body(section)) for section in sections),
        _section("Notes", _list(notes)),
        _section("Examples", _examples(examples)),
    ]
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{meta}<title>{html.escape(title)}</title><style>{STYLE}</style>"
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n'
    files.write_text(path, page + "\n".join(part for part in parts if part) + "\n</body></html>\n")
    return path


def _section(title: str, body: str) -> str:
    """A heading over a body; nothing over nothing."""
    return f"<h2>{html.escape(title)}</h2>\n{body}" if body else ""


def _body(section: Section) -> str:
    """Paragraphs, tables and charts."""
    parts = [f"<p>{html.escape(text)}</p>" for text in section.text]
    for table in section.tables:
        parts.append((f"<h3>{html.escape(table.title)}</h3>" if table.title else "") + _table(table.rows))
    if section.charts:
        parts.append('<div class="charts">' + "".join(f"<div>{chart}</div>" for chart in section.charts) + "</div>")
    return "\n".join(parts)


def _is_number(value: Cell) -> bool:
    """Whether a cell is right-aligned."""
    return value is None or (isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool))


def _text(value: Cell) -> str:
    """A cell as escaped text."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return "&ndash;"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:.3f}" if abs(float(value)) < 100 else f"{value:,.1f}"
    return html.escape(str(value))


def _summary(rows: Sequence[tuple[str, Cell]]) -> str:
    """The large numbers."""
    if not rows:
        return ""
    cards = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in rows)
    return f'<dl class="summary">{cards}</dl>'


def _table(rows: Sequence[Mapping[str, Cell]], colors: Sequence[str] = ()) -> str:
    """One line a row, behind a swatch where there are colors; a column of numbers is right-aligned, its title too."""
    if not rows:
        return ""
    names = list(rows[0])
    align = {n: ' class="number"' if all(_is_number(row.get(n)) for row in rows) else "" for n in names}
    head = "".join(f"<th{align[n]}>{html.escape(n)}</th>" for n in names)
    lead = [f'<i class="swatch" style="background:{html.escape(color)}"></i>' for color in colors] or [""] * len(rows)
    cells = [[f"<td{align[n]}>{_text(row.get(n))}</td>" for n in names] for row in rows]
    body = "\n".join(
        "<tr>" + "".join(row).replace(">", f">{swatch}", 1) + "</tr>" for row, swatch in zip(cells, lead, strict=True)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _list(notes: Sequence[str]) -> str:
    """The notes as a list."""
    return "<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>" if notes else ""


def _examples(examples: Sequence[Example]) -> str:
    """The figures; several in a row where all images are small."""
    if not examples:
        return ""
    narrow = all(len(e.pictures) == 2 and max(p.shape) <= 320 for e in examples for p in e.pictures.values())
    figures = "\n".join(_figure(example) for example in examples)
    return f'<div class="examples{" narrow" if narrow else ""}">\n{figures}\n</div>'


def _figure(example: Example) -> str:
    """The pictures beside each other under the image's name."""
    caption = f" <span>{html.escape(example.caption)}</span>" if example.caption else ""
    cells = "".join(
        f"<div><small>{html.escape(kind)}</small>{_image(picture, f'{kind}: {example.name}')}</div>"
        for kind, picture in example.pictures.items()
    )
    arranged = "pair" if len(example.pictures) == 2 else "pair many"
    name = html.escape(example.name)
    return f'<figure><figcaption><b>{name}</b>{caption}</figcaption><div class="{arranged}">{cells}</div></figure>'


def _image(picture: UInt8[np.ndarray, "_ _ 3"], alt: str) -> str:
    """An image element with its data: JPEG, or PNG where the image is so small that every pixel shows."""
    from PIL import Image

    small = max(picture.shape[:2]) <= 256
    buffer = io.BytesIO()
    image = Image.fromarray(np.asarray(picture))
    image.save(buffer, "PNG", optimize=True) if small else image.save(buffer, "JPEG", quality=88, subsampling=0)
    kind, style = ("png", ' class="small"') if small else ("jpeg", "")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = picture.shape[:2]
    size = f'width="{width}" height="{height}"'
    return f'<img{style} {size} loading="lazy" alt="{html.escape(alt)}" src="data:image/{kind};base64,{data}">'
