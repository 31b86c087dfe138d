"""Every Python snippet of the pages runs, prints what the page says, and quick commands are really given.

Snippets of a page share one namespace, in their order, which begins with `frame`, a picture. They run in a folder
that holds what the pages name: runs/demo and runs/mine (tiny networks), mydata, mine.jaxseg, photo.jpg, more_photos,
video.mp4, and a tiny stand-in for each config. A line ``print(...)  # text`` must print that text. What cannot run has
the comment ``<!-- not run: reason -->`` right before its block.
"""

import ast
import contextlib
import io
import itertools
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxseg import cli
from jaxseg.data import shapes
from tests import tiny_encoder

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SIZE = (32, 64)
NOT_RUN = [
    "deployment.md: onnxruntime is no dependency; tests/apps/test_onnx.py runs such a session where it is installed"
]
"""Page and reason of each block that is marked as one that cannot run."""

STAND_IN = """
from dataclasses import replace
from pathlib import Path
from runpy import run_path

from jaxseg.config import Model, Shapes, TargetSettings, Train

whole = run_path(str(Path({root!r}) / "configs" / Path(__file__).name))["config"]
config = replace(
    whole,
    data=replace(whole.data, crop={size}, cache={cache!r}, shapes=Shapes(size={size}, train=4, val=2)),
    model=Model(
        encoder="tests.tiny_encoder:TinyEncoder",
        encoder_stride=8, decoder_width=0.25, embedding=4, clustering=whole.model.clustering
    ),
    targets=TargetSettings(max_instances=12),
    grouping=replace(whole.grouping, slots=12, center=0.05),
    train=Train(steps=2, batch=2, log_every=1, save_every=1, picture_every=0, validate_every=2),
)
"""

OURS = re.compile(r"(python (train|eval)\.py|jaxseg) ")
"""How a line begins that gives a command of the program."""

ELSEWHERE = (".onnx", "--coordinator", "--train.debug", "--data.builder", "--submission", "--view", "://", "CITYSCAPES")
"""Parts of words of commands that need other machines, other data, a camera or a screen."""

IN_OTHER_TESTS = {"weights", "benchmark", "sweep"}
"""Commands that need files of other projects, or compile all anew: tests/apps runs them."""


class Block(NamedTuple):
    """A code block of a page.

    Attributes:
      page: its name.
      line: of its first line in the page.
      kind: "python", or "" for commands.
      text: of the block.
      reason: why it is not run; empty where it is.
    """

    page: str
    line: int
    kind: str
    text: str
    reason: str


def blocks(page: Path) -> list[Block]:
    """Code blocks of a page, in order."""
    text, found = page.read_text(), []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M):
        marked = re.search(r"<!-- not run: (.+?) -->\s*\Z", text[: match.start()], re.S)
        line = text.count("\n", 0, match.start(2)) + 1
        found.append(Block(page.name, line, match[1], match[2], marked[1] if marked else ""))
    return found


BLOCKS = {page.name: blocks(page) for page in PAGES}


def commands(page: str) -> list[list[str]]:
    """Words of the commands of a page that can be given here."""
    found: list[list[str]] = []
    for block in BLOCKS[page]:
        if block.kind in ("", "bash", "sh") and not block.reason:
            lines = block.text.replace("\\\n", " ").splitlines()
            parts = [part.strip() for line in lines for part in line.split("&&")]
            rows = [shlex.split(part, comments=True) for part in parts if OURS.match(part)]
            found += [words for words in rows if possible(words) and words not in found]
    return found


def name(words: list[str]) -> str:
    """The command of the program: train.py is train."""
    return words[1].removesuffix(".py") if len(words) > 1 else ""


def possible(words: list[str]) -> bool:
    """Whether a command is one on what the folder holds."""
    if name(words) in IN_OTHER_TESTS or any(away in word for away in ELSEWHERE for word in words):
        return False
    value = dict(itertools.pairwise(words))
    if name(words) == "predict" and any(word.isdigit() for word in words):
        return False  # A camera.
    known = ("runs/demo", "runs/mine")
    if name(words) == "train" and (value.get("--workdir") != "runs/mine" or "--model.encoder-weights" in words):
        return False
    if value.get("--config", "configs/own.py") != "configs/own.py":
        return False
    given = [value[option] for option in ("--workdir", "--model") if option in value]
    files = [word for word in words if re.search(r"\.(jpg|png|mp4)$", word) and word != value.get("--video")]
    return all(g in known for g in given) and all(f in ("photo.jpg", "video.mp4") for f in files)


def shorter(words: list[str]) -> list[str]:
    """The command with a smaller budget, where it leaves that open."""
    budget = ["--images", "2", "--sizes", "4", "--compactness", "3"]
    return [*words, *budget] if name(words) == "superpixels" else words


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the pages name."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "configs").mkdir()
    for config in (ROOT / "configs").glob("*.py"):
        text = STAND_IN.format(root=str(ROOT), size=SIZE, cache=str(folder / "cache"))
        (folder / "configs" / config.name).write_text(text)
    pictures = [shapes.scene(np.random.default_rng(seed), SIZE, 2) for seed in range(5)]
    Image.fromarray(pictures[0].image).save(folder / "photo.jpg")
    (folder / "more_photos").mkdir()
    Image.fromarray(pictures[1].image).save(folder / "more_photos" / "a.png")
    video = cv2.VideoWriter(str(folder / "video.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, SIZE[::-1])
    for scene in pictures:
        video.write(scene.image[..., ::-1])
    video.release()
    for i, (scene, split) in enumerate(zip(pictures, ("train", "train", "train", "val", "val"), strict=True)):
        for kind, pixels in (
            ("images", scene.image),
            ("instances", np.where(scene.semantic == 255, 0, scene.semantic * np.uint16(1000) + scene.instance)),
        ):
            (folder / "mydata" / split / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "mydata" / split / kind / f"{i}.png")
    (folder / "mydata" / "classes.json").write_text(json.dumps(["person", "car"]))
    with contextlib.chdir(folder):
        cli.train(["--config", "configs/own.py", "--data.root", "mydata", "--workdir", "runs/mine"])
        cli.export(["--model", "runs/mine", "--output", "mine.jaxseg", "--frame", "480", "640"])
    shutil.copytree(folder / "runs" / "mine", folder / "runs" / "demo")
    return folder


def printed(snippet: str) -> list[str]:
    """What the calls of print say that they print, behind `#` in the line they end in."""
    lines, found = snippet.splitlines(), []
    for node in ast.parse(snippet).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "print":
            rest = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
            found += [rest.partition("#")[2].strip()] if "#" in rest else []
    return found


def run(block: Block, names: dict) -> None:
    """Runs a snippet; its lines have the numbers that they have in the page."""
    said, expected = io.StringIO(), printed(block.text)
    with contextlib.redirect_stdout(said):
        exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), names)
    if expected:
        assert said.getvalue().splitlines() == expected, f"{block.page}:{block.line}"


def test_a_snippet_that_fails_is_found_where_it_stands():
    with pytest.raises(AssertionError, match=r"page\.md:7"):
        run(Block("page.md", 7, "python", "print(1 + 1)  # 3\n", ""), {})
    run(Block("page.md", 7, "python", "print(1 + 1)  # 2\nprint(\n    '#'\n)  # #\n", ""), {})
    with pytest.raises(ZeroDivisionError) as failed:
        run(Block("page.md", 7, "python", "x = 1\nx / 0\n", ""), {})
    assert (str(failed.traceback[-1].path), failed.traceback[-1].lineno + 1) == ("page.md", 8)


@pytest.mark.parametrize("page", [page for page, found in BLOCKS.items() if any(b.kind == "python" for b in found)])
def test_the_snippets_of_a_page_run_and_print_what_they_say(page, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path, str(place)])  # Where an encoder is named, the folder is added.
    frame = shapes.scene(np.random.default_rng(9), SIZE, 2).image
    names = {"__name__": "__main__", "frame": frame}
    snippets = [block for block in BLOCKS[page] if block.kind == "python"]
    for block in snippets:
        if not block.reason:
            run(block, names)
    assert snippets


@pytest.mark.parametrize("page", [page for page in BLOCKS if commands(page)])
def test_the_quick_commands_of_a_page_end_well(page, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path, str(place)])  # Where an encoder is named, the folder is added.
    for words in commands(page):
        given = shorter(words)[1:] if words[0] == "jaxseg" else [name(words), *words[2:]]
        outputs = [place / words[words.index(option) + 1] for option in {"--output", "--video"} & set(words)]
        for output in filter(Path.is_file, outputs):
            output.unlink()
        monkeypatch.setattr(sys, "argv", ["jaxseg", *given])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 0, f"{shlex.join(words)}\n{capsys.readouterr().err}"
        assert all(output.exists() for output in outputs), shlex.join(words)


def test_every_command_is_documented_and_really_given(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jaxseg", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    known = set(re.findall(r"^  (\w+) ", capsys.readouterr().out, re.M))
    given = {name(words) for page in BLOCKS for words in commands(page)}
    assert known > IN_OTHER_TESTS
    assert given == known - IN_OTHER_TESTS


def test_blocks_that_do_not_run_say_why():
    marked = [f"{block.page}: {block.reason}" for found in BLOCKS.values() for block in found if block.reason]
    assert marked == NOT_RUN


def test_every_snippet_is_looked_at():
    """No fence that the pattern misses, and no Python in a block that does not say so."""
    for page in PAGES:
        assert page.read_text().count("\n```") == 2 * len(BLOCKS[page.name]), page.name
    for found in BLOCKS.values():
        for block in found:
            assert block.kind in ("", "python", "bash", "sh", "json"), f"{block.page}:{block.line}"
            assert block.kind == "python" or "import jax" not in block.text, f"{block.page}:{block.line}"


def test_the_tiny_encoder_is_found_by_its_name():
    """The stand-ins name it so, from a folder that is not the project's."""
    assert sys.modules["tests.tiny_encoder"] is tiny_encoder
