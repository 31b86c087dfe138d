"""The page parses, holds what it was given, escapes names, and refers to nothing outside itself."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from jaxseg.apps.evaluation import report

VOID = {"meta", "img"}


class _Page(HTMLParser):
    """Tags that are open, texts by tag, and every attribute."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.attributes, self.images = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))


def _parse(path):
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def _texts(page, tag):
    return [text for inside, text in page.texts if inside == tag]


def _picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _write(path, **more):
    rows = [
        {"class": "person", "AP": 0.21449, "IoU": float("nan"), "objects": 12345},
        {"class": "<b>car</b>", "AP": np.float64(1.0), "IoU": None, "objects": np.int64(7)},
    ]
    return report.write(
        path, title="A <run> & more", summary=[("AP", 0.5), ("images", 3), ("split", "val")], per_class=rows, **more
    )


def test_tables_and_summary_show_what_was_given(tmp_path):
    page = _parse(_write(tmp_path / "report.html", notes=["One & all."]))
    assert _texts(page, "h1") == ["A <run> & more"] == _texts(page, "title")
    assert _texts(page, "dd") == ["0.500", "3", "val"]
    assert _texts(page, "th") == ["class", "AP", "IoU", "objects"]
    assert _texts(page, "td") == ["person", "0.214", "\N{EN DASH}", "12,345", "<b>car</b>", "1.000", "\N{EN DASH}", "7"]
    assert _texts(page, "li") == ["One & all."]


def test_columns_of_numbers_are_right_aligned(tmp_path):
    text = _write(tmp_path / "report.html").read_text()
    assert text.count('class="number"') == 9
    assert "<td>person</td>" in text
    assert '<td class="number">0.214</td>' in text


def test_names_are_escaped_everywhere(tmp_path):
    evil = '"><script>alert(1)</script>'
    picture = _picture(8, 8)
    text = report.write(
        tmp_path / "report.html", title=evil, summary=[(evil, evil)], per_class=[{evil: evil}], notes=[evil],
        colors=[evil], examples=[report.Example(evil, {evil: picture}, evil)],
    ).read_text()  # fmt: skip
    assert "<script" not in text


def test_images_are_inside_the_page(tmp_path):
    small, large = _picture(12, 9), _picture(300, 400, 1)
    page = _parse(
        _write(
            tmp_path / "report.html",
            examples=[report.Example("a", {"Ground truth": small, "Prediction": large}, "worst")],
        )
    )
    assert [image["alt"] for image in page.images] == ["Ground truth: a", "Prediction: a"]
    kinds = []
    for image, picture in zip(page.images, (small, large), strict=True):
        kind, data = re.fullmatch(r"data:image/(\w+);base64,(.*)", image["src"]).groups()
        kinds.append(kind)
        decoded = np.array(Image.open(io.BytesIO(base64.b64decode(data))))
        assert decoded.shape == picture.shape
        assert (int(image["height"]), int(image["width"])) == picture.shape[:2]
        if kind == "png":
            np.testing.assert_array_equal(decoded, picture)
    assert kinds == ["png", "jpeg"]
    assert "worst" in "".join(_texts(page, "span"))


def test_the_page_refers_to_no_address(tmp_path):
    picture = _picture(8, 8)
    path = _write(tmp_path / "report.html", examples=[report.Example("a", {"Picture": picture})])
    page = _parse(path)
    assert not [value for name, value in page.attributes if name in {"href", "action", "srcset"}]
    assert all(value.startswith("data:") for name, value in page.attributes if name == "src")
    assert "://" not in path.read_text()
    assert "@import" not in path.read_text()
    assert "url(" not in path.read_text()


def test_an_empty_report_is_a_page_without_sections(tmp_path):
    page = _parse(report.write(tmp_path / "report.html", title="Nothing"))
    assert _texts(page, "h1") == ["Nothing"]
    assert _texts(page, "h2") == []


def test_a_page_is_replaced_whole(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    assert _write(path) == path
    assert "old" not in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_sections_hold_text_tables_and_charts_and_escape_what_is_text(tmp_path):
    hostile = '<b onload="x">&'
    section = report.Section(
        hostile, [hostile], [report.Table(hostile, [{hostile: hostile, "n": 3}])], ["<svg><title>t</title></svg>"]
    )
    page = _parse(report.write(tmp_path / "p.html", title="t", sections=[section, report.Section("empty")]))
    assert [text for tag, text in page.texts if hostile in text and tag in ("h2", "p", "h3", "th", "td")] == [
        hostile
    ] * 5
    assert ("title", "t") in page.texts
    assert not any(name == "onload" for name, _ in page.attributes)
    assert "empty" not in [text for _, text in page.texts]
