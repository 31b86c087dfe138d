"""The rooms of the house and who may import whom; public names are documented."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jaxseg"
BASE = {"types", "config", "lookup"}
MIDDLE = {"nn", "losses", "targets", "metrics", "data"}
UPPER = {"segment", "track", "train", "weights"}
ALLOWED = {
    "types": set(),
    "config": set(),
    "lookup": set(),
    "runtime": set(),
    "ops": BASE,
    **{room: BASE | {"ops"} for room in MIDDLE},
    **{room: BASE | {"ops", "segment"} | MIDDLE for room in UPPER},
    "visualize": {"types"},
    "results": {"types", "visualize"},
    "apps": BASE | {"runtime", "ops", "visualize", "results"} | MIDDLE | UPPER,
    "cli": BASE | {"runtime", "apps", "train"},
    "__init__": {"apps"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(tree: ast.AST) -> set[str]:
    """Dotted names of all imported modules; `from package import name` counts as package.name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_left(file):
    room = room_of(file)
    rooms = {name.split(".")[1] for name in imports_of(ast.parse(file.read_text())) if name.startswith("jaxseg.")}
    assert rooms - {room} <= ALLOWED[room]


@pytest.mark.parametrize("file", ["config.py", "lookup.py", "runtime.py"])
def test_what_comes_first_imports_the_standard_library_only(file):
    import sys

    names = imports_of(ast.parse((PACKAGE / file).read_text()))
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_only_data_knows_tfds_and_grain():
    for file in FILES:
        names = {name.split(".")[0] for name in imports_of(ast.parse(file.read_text()))}
        if names & {"tensorflow_datasets", "grain"}:
            assert room_of(file) == "data", file


def test_only_one_file_knows_devices():
    words = ("pmap", "jax.devices", "local_devices", "device_count", "shard_map")
    knowing = {str(f.relative_to(PACKAGE)) for f in FILES if any(word in f.read_text() for word in words)}
    assert knowing <= {"train/parallel.py", "apps/benchmark.py"}


def test_nothing_heavy_is_imported_with_the_package():
    import subprocess
    import sys

    code = "import jaxseg.cli, sys; print([m for m in ('jax', 'grain', 'tensorflow_datasets') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_public_names_are_documented(file):
    tree = ast.parse(file.read_text())
    public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    assert [n.name for n in public if not ast.get_docstring(n)] == []
