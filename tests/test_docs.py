"""Commands in the documentation name commands, configs and settings that exist."""

import re
import shlex
from pathlib import Path

import pytest

from jaxseg import cli, config

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
OWN = {"--config", "--workdir", "--split", "--output", "--model", "--json", "--images", "--submission", "--frames"}
OWN |= {"--coordinator", "--processes", "--process"}
OWN |= {"--vary", "--seeds", "--together"}
FLAGS = {"--sweep", "--best"}
COMMANDS = ("data", "predict", "look", "export", "benchmark", "superpixels", "train", "sweep", "eval", "weights")


def _commands() -> list[tuple[str, str]]:
    """(page, command) of every line of a code block, or of inline code, that runs something of ours."""
    found = []
    for page in PAGES:
        for line in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.S | re.M):
            found += [(page.name, part.strip()) for row in line.splitlines() for part in row.split("&&")]
        found += [(page.name, code) for code in re.findall(r"`([^`\n]+)`", page.read_text())]
    return [(page, line) for page, line in found if re.match(r"(python (train|eval)\.py|jaxseg) .*--", line)]


@pytest.mark.parametrize(("page", "line"), _commands())
def test_a_documented_command_is_understood(page, line):
    words = shlex.split(line.split("#")[0].replace("FOLDER", "x"))
    if words[0] == "jaxseg":
        assert words[1] in COMMANDS
    settings = config.Config()
    if "--config" in words:
        settings = cli.read_config(ROOT / words[words.index("--config") + 1])
    for vary in [words[j + 1] for j, word in enumerate(words) if word == "--vary"]:
        assert vary.split("=")[0].replace("-", "_") in config.flatten(settings)
    rest, i = [], next(i for i, word in enumerate(words) if word.startswith("--"))
    while i < len(words):
        if words[i] in OWN:
            i += 2
        elif words[i] in FLAGS:
            i += 1
        else:
            rest.append(words[i])
            i += 1
    cli.override(settings, [] if words[1] in ("predict", "look", "export", "weights") else rest)


def test_pages_name_files_that_exist():
    for page in PAGES:
        for name in re.findall(r"(?:configs|docs|examples|jaxseg|benchmarks|tests)/[\w/-]+\.\w+", page.read_text()):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_there_are_commands_to_check():
    assert len(_commands()) > 10
