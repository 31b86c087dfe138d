"""`jaxseg` and its commands. train.py and eval.py call the same functions."""

import argparse
import contextlib
import difflib
import io
import os
import re
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jaxseg import config, runtime
from jaxseg.train import debug

R = TypeVar("R", bound=config.Run)


class _Parser(argparse.ArgumentParser):
    """Reports a bad command line in one line."""

    def error(self, message: str) -> NoReturn:
        raise config.UserError(f"{message}. See {self.prog} --help.")


def guarded(command: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and leaves the program.

    Status 0; 2 with one line for what the user must mend; 128 and its number after a signal: 130 on Ctrl-C.
    """
    try:
        status = command(sys.argv[1:] if argv is None else argv) or 0
    except config.UserError as error:
        line = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))
        print(f"jaxseg: {line}", file=sys.stderr, flush=True)
        if isinstance(error, config.Lost):
            sys.stdout.flush()
            os._exit(error.status)  # JAX would wait for the other processes.
        status = error.status
    except KeyboardInterrupt:
        print(
            "jaxseg: interrupted. Give the command again; training goes on from its last checkpoint.", file=sys.stderr
        )
        status = 130
    sys.stdout.flush()
    sys.exit(status)


def main() -> NoReturn:
    """The `jaxseg` program."""
    guarded(_dispatch)


def _dispatch(argv: Sequence[str]) -> int | None:
    commands = {
        "train": (train, "train a network, or go on training it"),
        "sweep": (sweep, "train runs that differ in a few settings and seeds, and compare them"),
        "eval": (evaluate, "measure a trained network and write a report"),
        "predict": (predict, "segment images, videos and what cameras see"),
        "look": (look, "show what the method does with images"),
        "export": (export, "write a trained network as one file, for programs that know JAX alone"),
        "data": (data, "prepare, check or show a data set"),
        "weights": (weights, "import an encoder's weights, or show what they are"),
        "superpixels": (superpixels, "what superpixels of each size and compactness cost"),
        "benchmark": (benchmark, "time every stage of inference on this hardware"),
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(
            "usage: jaxseg COMMAND ...\n\n" + "\n".join(f"  {name:10} {text}" for name, (_, text) in commands.items())
        )
        return 0 if argv else 2
    if argv[0] not in commands:
        raise config.UserError(f"unknown command {argv[0]!r}{_suggest(argv[0], commands)}. See jaxseg --help.")
    return commands[argv[0]][0](argv[1:])


def train(argv: Sequence[str]) -> None:
    """``--config FILE --workdir DIR [--section.setting value ...]``."""
    parser = _Parser("train", description="Trains a network; goes on where DIR holds a run.", add_help=False)
    parser.add_argument("--config", type=Path, help="a file that defines config = Config(...)")
    parser.add_argument("--workdir", help="folder of the run, or gs://BUCKET/...")
    parser.add_argument("--coordinator", default="", help="host:port of process 0, for a run of several processes")
    parser.add_argument("--processes", type=int, help="how many processes there are")
    parser.add_argument("--process", type=int, help="which of them this is, from 0")
    parser.add_argument("-h", "--help", action="store_true")
    known, rest = parser.parse_known_args(argv)
    if known.help and known.config is None:
        parser.print_help()
        print("\nWith --config FILE --help: every setting, to be overridden as --section.setting value.")
        return
    if known.config is None or (known.workdir is None and not known.help):
        raise config.UserError("--config FILE and --workdir DIR are required. See --help.")
    settings = override(read_config(known.config), [*rest, *(["--help"] if known.help else [])])
    if settings.train.debug:
        debug.check_shapes()
    _prepare(settings.train.deterministic)
    from jaxseg.apps.train import train as run
    from jaxseg.train import parallel, storage

    parallel.prepare_host()
    parallel.connect(known.coordinator, known.processes, known.process)
    run(settings, storage.folder(known.workdir))


def sweep(argv: Sequence[str]) -> None:
    """``--config FILE --workdir DIR [--vary section.setting=A,B ...] [--seeds N] [--section.setting value ...]``."""
    parser = _Parser(
        "jaxseg sweep",
        description="Trains runs that differ in settings and seeds; goes on where DIR holds the sweep.",
        allow_abbrev=False,  # --seed is a setting.
    )
    parser.add_argument("--config", type=Path, required=True, help="a file that defines config = Config(...)")
    parser.add_argument("--workdir", required=True, help="folder of the sweep; each run has one in it")
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="SETTING=A,B",
        help="values of a setting; of several settings, all combinations",
    )
    parser.add_argument("--seeds", default="", metavar="N", help="number of seeds, or a list: 3 is 0,1,2")
    parser.add_argument(
        "--together", type=int, default=0, help="runs that a device computes at once (default: by device)"
    )
    known, rest = parser.parse_known_args(argv)
    if known.together < 0:
        raise config.UserError("--together must be at least 1.")
    base = override(read_segmentation(known.config), rest)
    vary = _varied(known.vary, rest)
    given = {word.split("=")[0] for word in rest}
    if known.seeds and "--seed" in given:
        raise config.UserError("--seeds and --seed are given. Leave one of them out.")
    _prepare(base.train.deterministic)
    from jaxseg.apps.experiments import plan
    from jaxseg.apps.experiments import sweep as app
    from jaxseg.train import parallel, storage

    planned = plan.plan(base, vary, _seeds(known.seeds, base.seed), override)
    parallel.prepare_host()
    app.sweep(base, planned, storage.folder(known.workdir), known.together)


def _varied(words: Sequence[str], given: Sequence[str]) -> dict[str, list[str]]:
    """Values of each setting that varies, by its dotted name.

    Raises:
      UserError: not SETTING=A,B, or a setting that is given twice.
    """
    vary: dict[str, list[str]] = {}
    for word in words:
        option, equals, text = word.removeprefix("--").partition("=")
        values = [value.strip() for value in text.split(",")]
        if not option or not equals or not all(values):
            raise config.UserError(f"--vary {word}: it takes a setting and its values, losses.alpha=0.25,0.9.")
        name = option.replace("-", "_")
        if name in vary or name in {w.split("=")[0].removeprefix("--").replace("-", "_") for w in given}:
            raise config.UserError(f"--vary {option}: that setting is given twice. Give it once.")
        vary[name] = values
    return vary


def _seeds(text: str, own: int) -> list[int]:
    """Seeds of a sweep: the config's own, the first N, or a list.

    Raises:
      UserError: it is neither.
    """
    if not text:
        return [own]
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or (len(parts) == 1 and int(text) < 1):
        raise config.UserError(f"--seeds {text}: it takes how many there are, or a list such as 0,1,2.")
    return list(range(int(text))) if len(parts) == 1 else [int(part) for part in parts]


def evaluate(argv: Sequence[str]) -> None:
    """``--workdir DIR [--split val] [--best] [--sweep] [--submission DIR] [--data.root ELSEWHERE] [--output DIR]``."""
    parser = _Parser("eval", description="Measures a trained network: a table, metrics.json, report.html.")
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val")
    parser.add_argument("--output", type=Path, help="where results go (default: DIR/SPLIT)")
    parser.add_argument("--submission", type=Path, help="also write results there, in the data set's official format")
    parser.add_argument(
        "--best", action="store_true", help="the best checkpoint that training measured, not the latest"
    )
    parser.add_argument("--sweep", action="store_true", help="try thresholds of the grouping, and write sweep.html")
    known, rest = parser.parse_known_args(argv)
    if known.sweep and known.submission:
        raise config.UserError("--sweep and --submission are two evaluations. Give one of them.")
    _prepare()
    from jaxseg.apps import evaluate as app
    from jaxseg.apps import model
    from jaxseg.apps.tasks import classification
    from jaxseg.train import storage

    workdir = storage.folder(known.workdir)
    settings, output = override(model.read_run(workdir), rest), known.output or workdir / known.split
    if isinstance(settings, config.Classification):
        if known.sweep or known.submission:
            raise config.UserError(
                "--sweep and --submission are of segmentation, this is a classifier. Leave them out."
            )
        classification.evaluate(workdir, settings, known.split, output, known.best)
    elif known.sweep:
        app.sweep(workdir, settings, known.split, output, known.best)
    else:
        app.evaluate(workdir, settings, known.split, output, known.submission, known.best)


def predict(argv: Sequence[str]) -> int:
    """``--model DIR|FILE INPUT... [--output DIR] [--video FILE] [--view] [--best]``."""
    parser = _Parser("jaxseg predict", description="Segments images, videos and what cameras see.")
    parser.add_argument("--model", required=True, help="work directory of a run, or file of jaxseg export")
    parser.add_argument("--output", type=Path, help="folder for overlay, masks and list of objects of each frame")
    parser.add_argument("--video", type=Path, help="file for the overlays: .mp4, .mov, .mkv, .webp or .gif")
    parser.add_argument("--view", action="store_true", help="show the overlays in a window; q ends")
    parser.add_argument(
        "--best", action="store_true", help="the best checkpoint that training measured, not the latest"
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image, video, folder, glob, or number of a camera")
    known = parser.parse_args(argv)
    _prepare()
    from jaxseg.apps import predict as app
    from jaxseg.train import storage

    network = storage.folder(known.model)
    return app.predict(network, known.inputs, known.output, known.video, known.view, known.best)


def look(argv: Sequence[str]) -> int:
    """``--model DIR INPUT... --output DIR [--best]``."""
    parser = _Parser(
        "jaxseg look", description="Draws superpixels, classes, centers, embeddings and objects of each image."
    )
    parser.add_argument("--model", required=True, help="work directory of a run")
    parser.add_argument("--output", type=Path, required=True, help="folder for pictures")
    parser.add_argument(
        "--best", action="store_true", help="the best checkpoint that training measured, not the latest"
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image, video, folder or glob")
    known = parser.parse_args(argv)
    _prepare()
    from jaxseg.apps import look as app
    from jaxseg.train import storage

    return app.write(storage.folder(known.model), known.inputs, known.output, known.best)


def export(argv: Sequence[str]) -> None:
    """``--model DIR --output FILE [--frame H W] [--platforms NAME ...] [--best]``."""
    parser = _Parser("jaxseg export", description="Writes a trained network as one file: StableHLO with its weights.")
    parser.add_argument("--model", required=True, help="work directory of a run")
    parser.add_argument("--output", type=Path, required=True, help="file to write; NAME.onnx for ONNX")
    parser.add_argument(
        "--frame", type=int, nargs=2, metavar=("H", "W"), help="size of the frames (default: the network's own)"
    )
    parser.add_argument("--platforms", nargs="+", default=[], help="cpu, cuda, rocm, tpu (default: all but rocm)")
    parser.add_argument(
        "--best", action="store_true", help="the best checkpoint that training measured, not the latest"
    )
    known = parser.parse_args(argv)
    _prepare()
    from jaxseg.apps import export as app
    from jaxseg.apps import model
    from jaxseg.train import storage

    trained = model.load(storage.folder(known.model), best=known.best)
    app.command(trained, known.output, tuple(known.frame) if known.frame else None, known.platforms)


DATA = {
    "prepare": "stores a data set the way training reads it",
    "check": "opens every file, says what is wrong and what the data holds",
    "show": "writes a page of labels, augmented images and targets",
}


def data(argv: Sequence[str]) -> None:
    """``prepare|check|show --config FILE [--section.setting value ...]``."""
    if not argv or argv[0] in ("-h", "--help"):
        usage = "usage: jaxseg data prepare|check|show --config FILE [--section.setting value ...]\n\n"
        print(usage + "\n".join(f"  {name:10} {text}" for name, text in DATA.items()))
        if not argv:
            raise config.UserError("no command of data given. Choose prepare, check or show.")
        return
    if argv[0] not in DATA:
        raise config.UserError(f"unknown command data {argv[0]!r}{_suggest(argv[0], DATA)}. See jaxseg data --help.")
    known, rest = _data_parser(argv[0]).parse_known_args(argv[1:])
    if getattr(known, "images", 1) < 1:
        raise config.UserError("--images must be at least 1.")
    from jaxseg.apps import check, prepare, show

    if argv[0] == "prepare":
        prepare.prepare(override(read_config(known.config), rest))
        return
    settings = override(read_segmentation(known.config), rest)
    _prepare()
    if argv[0] == "check":
        check.check(settings, known.images, known.json)
    else:
        show.show(settings, known.split, known.images, known.output)


def _data_parser(name: str) -> _Parser:
    parser = _Parser(f"jaxseg data {name}", description=f"{DATA[name].capitalize()}.")
    parser.add_argument("--config", type=Path, required=True, help="a file that defines config = Config(...)")
    if name == "check":
        parser.add_argument("--images", type=int, default=500, help="most images to count vanishing objects on")
        parser.add_argument("--json", type=Path, help="also write the figures there")
    if name == "show":
        parser.add_argument("--split", choices=("train", "val", "test"), default="train")
        parser.add_argument("--images", type=int, default=12, help="most images to show")
        parser.add_argument("--output", type=Path, required=True, help="HTML file")
    return parser


WEIGHTS = {
    "import": "makes an encoder checkpoint of published weights",
    "show": "says what an encoder checkpoint holds, and classifies images with it",
}


def weights(argv: Sequence[str]) -> None:
    """``import FILE --output FILE [--images IMAGE ...] [--labels FILE]`` or ``show FILE [IMAGE ...]``."""
    if not argv or argv[0] in ("-h", "--help"):
        usage = "usage: jaxseg weights import FILE --output FILE | show FILE [IMAGE ...]\n\n"
        print(usage + "\n".join(f"  {name:10} {text}" for name, text in WEIGHTS.items()))
        if not argv:
            raise config.UserError("no command of weights given. Choose import or show.")
        return
    if argv[0] not in WEIGHTS:
        raise config.UserError(
            f"unknown command weights {argv[0]!r}{_suggest(argv[0], WEIGHTS)}. See jaxseg weights --help."
        )
    parser = _Parser(f"jaxseg weights {argv[0]}", description=f"{WEIGHTS[argv[0]].capitalize()}.")
    if argv[0] == "import":
        parser.add_argument("file", type=Path, metavar="FILE", help="PyTorch, Keras, TensorFlow, NumPy or Darknet file")
        parser.add_argument("--output", type=Path, required=True, help="file to write, .safetensors")
        parser.add_argument("--images", nargs="+", default=[], help="images that folded batch norm is measured on")
        parser.add_argument("--labels", type=Path, help="text file with the name of a class in each line")
    else:
        parser.add_argument("file", type=Path, metavar="FILE", help="encoder checkpoint, or work directory of a run")
        parser.add_argument("images", nargs="*", metavar="IMAGE", help="image, folder or glob")
    known = parser.parse_args(argv[1:])
    _prepare()
    from jaxseg.apps import weights as app

    if argv[0] == "import":
        app.import_weights(known.file, known.output, known.images, known.labels)
    else:
        app.show(known.file, known.images)


def superpixels(argv: Sequence[str]) -> None:
    """``--config FILE [--images N] [--sizes K ...] [--compactness C ...] [--json FILE] [--output HTML]``."""
    parser = _Parser("jaxseg superpixels", description="Chooses the superpixel size on the training set.")
    parser.add_argument("--config", type=Path, required=True, help="a file that defines config = Config(...)")
    parser.add_argument("--images", type=int, default=50, help="most training images to look at")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4, 8, 16], help="superpixel sizes, pixels")
    parser.add_argument("--compactness", type=float, nargs="+", default=[1, 2, 3, 4, 8], help="Lab units per pixel")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--output", type=Path, help="also write them there, as HTML with plots")
    known, rest = parser.parse_known_args(argv)
    if known.images < 1 or min(known.sizes) < 1 or min(known.compactness) <= 0:
        raise config.UserError("--images and --sizes must be at least 1 and --compactness above 0.")
    settings = override(read_segmentation(known.config), rest)
    _prepare()
    from jaxseg.apps import superpixels as app

    app.study(settings, known.images, known.sizes, known.compactness, known.json, known.output)


def benchmark(argv: Sequence[str]) -> None:
    """``--config FILE [--json FILE] [--frames N] [--batch N] [--section.setting value ...]``."""
    parser = _Parser("jaxseg benchmark", description="Times Table I's columns on generated frames.")
    parser.add_argument("--config", type=Path, required=True, help="a file that defines config = Config(...)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--frames", type=int, default=50, help="calls to time")
    parser.add_argument("--batch", type=int, default=1, help="frames in a call")
    known, rest = parser.parse_known_args(argv)
    if known.frames < 1 or known.batch < 1:
        raise config.UserError("--frames and --batch must be at least 1.")
    settings = override(read_segmentation(known.config), rest)
    _prepare()
    from jaxseg.apps import benchmark as app

    app.benchmark(settings, known.frames, known.batch, known.json)


def _prepare(deterministic: bool = False) -> None:
    """Sets up the process. Compiled programs are kept in the user's cache folder: only the first start is slow."""
    runtime.prepare(deterministic)
    import jax

    if not jax.config.values["jax_compilation_cache_dir"]:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(f"{base}/jaxseg/compiled").expanduser()))


def read_config(path: Path) -> config.Run:
    """The ``config`` that a Python file defines, of segmentation or classification.

    Raises:
      UserError: no such file, an error in it, or no ``config`` in it.
    """
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], 1)
        raise config.UserError(
            f"config {path} does not exist{f'. Did you mean {path.parent / near[0]}?' if near else '.'}"
        )
    try:
        found = runpy.run_path(str(path)).get("config")
    except config.UserError:
        raise
    except Exception as error:
        raise config.UserError(f"config {path} fails with {type(error).__name__}: {error}. Mend it.") from error
    if not isinstance(found, config.Run):
        raise config.UserError(f"config {path} defines no `config = Config(...)`. Add it.")
    return found


def read_segmentation(path: Path) -> config.Config:
    """The same, of a file that must define a run of segmentation.

    Raises:
      UserError: it defines a classifier, or nothing that can be used.
    """
    found = read_config(path)
    if not isinstance(found, config.Config):
        raise config.UserError(
            f"config {path} is of classification: train, eval and data prepare know it. Choose another."
        )
    return found


def override(settings: R, argv: Sequence[str]) -> R:
    """Replaces settings by ``--section.setting value``, those of a loss term by ``--losses.terms.NAME.setting value``.

    Raises:
      UserError: an unknown setting, or a value of another type or out of range.
    """
    import tyro

    places = {f"--{name}.": f"--{place}." for name, place in config.places(settings).items()}
    named = {name.replace("_", "-") for name in config.flatten(settings)}
    names = named | {_placed(f"--{name}", places).removeprefix("--") for name in named}
    for word in argv:
        given = word.split("=")[0].removeprefix("--").replace("_", "-")
        given_name = re.sub(r"(^|\.)no-(?=[^.]*$)", r"\1", given)
        if word.startswith("--") and given_name not in names | {"help"} and given not in names:
            raise config.UserError(f"unknown setting {word.split('=')[0]}{_suggest(given, named, '--')}. See --help.")
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            args = [_placed(word, places) for word in argv]
            return tyro.cli(type(settings), default=settings, args=args, prog="settings")
    except SystemExit as stop:
        if not stop.code:
            raise
        text = re.sub(r"[^\x20-\x7e\n]", " ", errors.getvalue())
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        body = [line for line in lines if not line.startswith(("For full helptext", "Parsing error", "usage"))]
        told = " ".join(body)
        for name, place in places.items():
            told = told.replace(place, name)
        raise config.UserError(f"bad setting: {told} See --help.") from None


def _placed(word: str, places: Mapping[str, str]) -> str:
    """An option with a place instead of a name in it."""
    for name, place in places.items():
        if word.replace("-", "_").startswith(name.replace("-", "_")):
            return place + word[len(name) :]
    return word


def _suggest(word: str, known: Any, prefix: str = "") -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {prefix}{near[0]}" if near else ""
