"""What the compiled inference consists of, and the memory it needs; nothing is run.

python benchmarks/program.py [--config FILE ...] [--size 512 1024] [--compare RESULT] [--section.setting value ...]

Counts, in the optimized HLO of the whole program for one frame, the operations that cost a launch (a kernel on a GPU, a
thunk on a CPU), loops, scatters, sorts and the like, and what must not be computed twice: the square roots of the nine
distances of superpixels, which XLA repeats where their minimum and its index are fused apart. Memory is the compiler's
own figure. With --compare the counts are held against a line of an earlier result, and more of anything but memory
ends with status 1. Prints a table on stderr, a line of JSON on stdout.
"""

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import turns  # isort: skip (before JAX)
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import cli, config, segment
from jaxseg.apps import benchmark, model

CONFIGS = Path(__file__).parents[1] / "configs"
DEFAULT = [CONFIGS / "cityscapes_mnv2_os4.py", CONFIGS / "cityscapes_dn53_os4.py"]
DEFAULT_SIZES = [(512, 1024), (1024, 2048)]
MIB = 2**20

COUNTED = ("while", "conditional", "scatter", "gather", "sort", "convolution", "dot", "custom-call", "copy")
"""Operations that are counted, fused ones too; those inside loops and branches once."""

STAGES = {
    "superpixels": r"superpixels",
    "network": r"Network",
    "grouping": r"grouping",
    "upsampling": r"upsampling",
    "measuring": r"measuring",
}
"""Whose launches are counted apart, by the names of their operations."""

INFRASTRUCTURE = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast")
"""What costs nothing."""


def main() -> None:
    """Compiles and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, nargs="+", default=DEFAULT)
    parser.add_argument("--size", type=int, nargs=2, action="append", help="height and width; may be repeated")
    parser.add_argument("--compare", type=Path, help="an earlier result, a file of JSON lines")
    options, rest = parser.parse_known_args()
    sizes = [tuple(size) for size in options.size or DEFAULT_SIZES]
    rows = []
    for path in options.config:
        for size in sizes:
            rows.append(_row(cli.override(cli.read_segmentation(path), rest), size))
            print(f"{path.stem} at {size[0]} x {size[1]}: {rows[-1]['launches']} launches", file=sys.stderr, flush=True)
    keys = [key for key in rows[0] if key not in ("largest", "config", "size")]
    turns.table(("", *(f"{row['config']}, {row['size'][1]} x {row['size'][0]}" for row in rows)), _turned(rows, keys))
    for row in rows:
        print(f"{row['config']} {row['size']}: largest results {row['largest']}", file=sys.stderr)
    print(json.dumps({**turns.about(), "rows": rows}))
    if options.compare and _more(rows, options.compare):
        sys.exit(1)


def _turned(rows: list[dict[str, Any]], keys: list[str]) -> list[tuple[Any, ...]]:
    return [(key.replace("_", " "), *(row[key] for row in rows)) for key in keys]


def _row(settings: config.Config, size: tuple[int, int]) -> dict[str, Any]:
    """Counts and memory of one program: a native network, so that the frame's size is the network's."""
    settings = cli.override(settings, ["--model.size", "None"])
    network, capacity = model.network(settings), model.capacity(settings)
    shapes = jax.eval_shape(lambda: benchmark.variables(settings))
    frame = jax.ShapeDtypeStruct((*size, 3), jnp.uint8)
    thresholds = jax.tree.map(np.float32, model.thresholds(settings))
    program = segment.jitted.lower(network, shapes, frame, capacity, thresholds).compile()
    return {"config": settings.name, "size": size, **counts(program.as_text()), **_memory(program)}


def counts(text: str) -> dict[str, Any]:
    """What an optimized HLO module consists of.

    Args:
      text: of the module.

    Returns:
      Launches, those of them in loops and of each stage, each kind of `COUNTED`, square roots, and the largest results.
    """
    computations = _computations(text)
    called = _called(text)
    top = [name for name in computations if name not in called["fusion"]]
    loops = set(called["while"])
    found: Counter[str] = Counter()
    launches, inside, largest = 0, 0, []
    stages = dict.fromkeys(STAGES, 0)
    for name in top:
        for kind, shape, line in computations[name]:
            if name in called["reducer"] or kind in INFRASTRUCTURE:
                continue
            launches += 1
            inside += name in loops
            stage = next((stage for stage, pattern in STAGES.items() if re.search(pattern, _name(line))), None)
            if stage:
                stages[stage] += 1
            found[kind] += 1
            largest.append((_bytes(shape), kind, _origin(line)))
    for name in called["fusion"]:
        found.update(kind for kind, _, _ in computations.get(name, []))
    names = sorted(set(largest), reverse=True)[:3]
    return {
        "launches": launches,
        "in_loops": inside,
        **{f"of_{stage}": number for stage, number in stages.items()},
        "fusions": len(called["fusion"]),
        **{kind: found[kind] for kind in COUNTED},
        "square_roots": sum(line.count(" sqrt(") for line in text.splitlines()),
        "largest": [f"{size / MIB:.0f} MiB {kind} of {origin}" for size, kind, origin in names],
    }


def _computations(text: str) -> dict[str, list[tuple[str, str, str]]]:
    """Name of each computation to the (kind, shape, line) of its operations."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    name = ""
    for line in text.splitlines():
        opening = re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if opening:
            name = opening.group(1)
            found[name] = []
        operation = re.match(r"^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(", line)
        if name and operation:
            found[name].append((operation.group(2), operation.group(1), line))
    return found


def _called(text: str) -> dict[str, set[str]]:
    """Names of computations by who calls them: fusions, loops, and the small functions of scatters and reductions."""
    called: dict[str, set[str]] = {"fusion": set(), "while": set(), "reducer": set()}
    for line in text.splitlines():
        if " fusion(" in line:
            called["fusion"] |= set(re.findall(r"calls=%?([\w.\-]+)", line))
        if " while(" in line:
            called["while"] |= set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", line))
        if " call(" not in line:
            called["reducer"] |= set(re.findall(r"to_apply=%?([\w.\-]+)", line))
        called["reducer"] |= set(re.findall(r"called_computations=\{%?([\w.\-]+)", line))
    return called


def _bytes(shape: str) -> int:
    total = 0
    for kind, dimensions in re.findall(r"(pred|[a-z]+\d+)\[([\d,]*)\]", shape):
        width = 1 if kind == "pred" else int(re.sub(r"\D", "", kind)) // 8
        size = 1
        for n in filter(None, dimensions.split(",")):
            size *= int(n)
        total += width * size
    return total


def _origin(line: str) -> str:
    return "/".join(_name(line).split("/")[-3:]) or "?"


def _name(line: str) -> str:
    name = re.search(r'op_name="([^"]*)"', line)
    return name.group(1) if name else ""


def _memory(program: Any) -> dict[str, Any]:
    """Of the compiled program, MiB; what runs at once beside parameters and results is "temporaries"."""
    figures = program.memory_analysis()
    return {
        "parameters_mib": round(figures.argument_size_in_bytes / MIB, 1),
        "temporaries_mib": round(figures.temp_size_in_bytes / MIB, 1),
        "results_mib": round(figures.output_size_in_bytes / MIB, 1),
    }


def _more(rows: list[dict[str, Any]], file: Path) -> bool:
    """Whether a program has become larger than the last line of a result says; prints what has."""
    try:
        stored = json.loads(file.read_text().strip().splitlines()[-1])
        earlier = {(row["config"], tuple(row["size"])): row for row in stored["rows"]}
        device = stored["device"]
    except (OSError, ValueError, KeyError, IndexError) as error:
        sys.exit(f"--compare: {file} is no result of this benchmark ({type(error).__name__}). Give another file.")
    grown, here = False, jax.devices()[0].device_kind
    for row in rows:
        old = earlier.get((row["config"], tuple(row["size"])))
        if old is None or device != here:
            sys.exit(
                f"--compare: {file} says nothing of {row['config']} at {row['size']} on {here}. Give another file."
            )
        for key, value in row.items():
            if isinstance(value, int) and value > old.get(key, value):
                print(f"{row['config']} {row['size']}: {key} {old[key]} -> {value}", file=sys.stderr)
                grown = True
    return grown


if __name__ == "__main__":
    main()
