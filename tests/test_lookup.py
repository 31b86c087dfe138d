"""What a user names is found from the current folder, and run once."""

import sys
from pathlib import Path

import pytest

from jaxseg import lookup

SOURCE = "import jaxseg\ncalls = []\n\n\ndef half(x):\n    return x / 2\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, which holds a file; the search path is as before afterwards."""
    (tmp_path / "folder_of_terms").mkdir()
    (tmp_path / "folder_of_terms" / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_a_module_and_a_file_are_found_from_the_current_folder(here):
    file = here / "folder_of_terms" / "mine.py"
    module = lookup.find("folder_of_terms.mine:half")
    assert module.value(3) == 1.5
    assert module.file == file
    found = lookup.find("folder_of_terms/mine.py:half")
    assert (found.value(3), found.file) == (1.5, file)
    assert lookup.find(f"{file}:half").value is found.value
    assert lookup.find("math:sqrt").file is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:half", r"'no_such_module:half' cannot be imported: ModuleNotFoundError: No module named"),
        ("folder_of_terms/yours.py:half", r"cannot be imported: FileNotFoundError: no file .*yours\.py"),
        ("folder_of_terms/mine.py:third", r"cannot be imported: AttributeError: .* has no attribute 'third'"),
        ("folder_of_terms/bad.py:half", r"cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_what_cannot_be_imported_is_named(here, path, message):
    (here / "folder_of_terms" / "bad.py").write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            lookup.find(path)


def test_a_file_has_one_path_however_it_is_given(here):
    expected = "folder_of_terms/mine.py:half"
    for path in (expected, f"./{expected}", f"{here}/{expected}", "folder_of_terms/../folder_of_terms/mine.py:half"):
        assert lookup.relative(path) == expected
    elsewhere = f"{here.parent}/mine.py:half"
    assert lookup.relative(elsewhere) == lookup.relative("../mine.py:half") == elsewhere
    assert lookup.relative("package.module:half") == "package.module:half"
    assert Path.cwd() == here
