"""A run with loss terms of its own: what it stores, how it goes on, and what later commands need of it."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxseg import cli, config
from jaxseg.apps import export, model, train
from jaxseg.apps.evaluation import losses as listed
from jaxseg.apps.tasks import start, terms
from jaxseg.train import gradients, parallel
from tests.apps.events import scalars
from tests.train.runs import assert_same, state

SOURCE = """
import jax.numpy as jnp

from jaxseg.types import Sum


def soft(outputs, targets, scale):
    return Sum(scale * jnp.square(outputs.center).sum(), jnp.float32(outputs.center.size))


def no_sum(outputs, targets):
    return jnp.mean(outputs.center)
"""
CONFIG = """
from jaxseg.config import *

config = Config(
    name="tiny",
    data=Data(builder="shapes", classes=("disc", "square"), crop=(32, 64), cache={cache!r},
              shapes=Shapes(size=(32, 64), train=8, val=2)),
    model=Model(encoder="tests.tiny_encoder:TinyEncoder", encoder_stride=8, decoder_width=0.25, embedding=4),
    targets=TargetSettings(max_instances=12, center="gaussian"),
    losses=Losses(
        center=0.0,
        terms=(
            Term("soft", {function!r}, 0.1, (("scale", 2.0),)),
            Term("focal", "jaxseg.losses.centers:penalty_reduced_focal", 1.0, (("beta", 4.0),),
                 (("normalize", "elements"),), "center"),
        ),
        schedules=(Schedule("attraction", ((0.0, 1.0), (1.0, 0.5))),),
        weighting="uncertainty",
    ),
    grouping=Grouping(slots=12, center=0.05),
    optimizer=Optimizer(learning_rate=1e-2, average=0.9),
    train=Train(steps=4, batch=4, log_every=1, save_every=2, picture_every=0, gradients_every=2),
)
"""


def write(folder):
    """A config file, and beside it the file of its terms."""
    (folder / "mine.py").write_text(SOURCE)
    file = folder / "tiny.py"
    file.write_text(CONFIG.format(cache=str(folder / "cache"), function=f"{folder / 'mine.py'}:soft"))
    return file


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(config file, trained work directory)."""
    folder = tmp_path_factory.mktemp("terms")
    file = write(folder)
    cli.train(["--config", str(file), "--workdir", str(folder / "run")])
    return file, folder / "run"


@pytest.fixture
def again(tiny, tmp_path):
    """The same run, stopped after step 2."""
    shutil.copytree(tiny[1], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    return tmp_path / "run"


def test_a_run_stores_its_terms_and_the_source_of_those_that_are_its_own(tiny):
    file, workdir = tiny
    stored = json.loads((workdir / "config.json").read_text())["losses"]["terms"]
    assert [term["function"].rpartition("/")[2] for term in stored] == [
        "mine.py:soft",
        "jaxseg.losses.centers:penalty_reduced_focal",
    ]
    assert [path.name for path in (workdir / "terms").iterdir()] == ["soft.py"]
    assert (workdir / "terms" / "soft.py").read_bytes() == (file.parent / "mine.py").read_bytes()


def test_terms_weights_uncertainties_and_gradients_are_logged(tiny):
    """Terms without their weights; nothing about gradients is among the terms."""
    logged = scalars(tiny[1] / "tensorboard")
    assert [step for step, _ in logged["train/soft"]] == [1, 2, 3, 4]
    assert [value for _, value in logged["train/weight/attraction"]] == pytest.approx([1, 0.875, 0.75, 0.625])
    assert len({value for _, value in logged["train/log_variance/embedding"]}) == 4
    assert [step for step, _ in logged["gradient/focal/center"]] == [2, 4]
    assert [step for step, _ in logged["cosine/focal/soft"]] == [2, 4]
    assert {value for _, value in logged["gradient/center/encoder"]} == {0}
    assert not [name for name in logged if name.startswith("train/") and ("gradient/" in name or "cosine" in name)]


def test_a_run_with_terms_resumes_bit_for_bit(tiny, again, capsys):
    """Uncertainties, their averages and the measured gradients with it."""
    cli.train(["--config", str(tiny[0]), "--workdir", str(again)])
    assert_same(state(tiny[1]), state(again))
    assert state(again).params["log_variance"].keys() == {"semantic", "embedding", "center"}
    assert gradients.read(again) == gradients.read(tiny[1])
    said = capsys.readouterr().err
    assert "soft" in said
    last = next(line for line in said.splitlines() if line.startswith("step 4/4"))
    assert "/" not in last.removeprefix("step 4/4").replace("images/s", "")


def test_another_source_is_refused_and_so_is_another_weight(tiny, again):
    file, source = tiny[0], tiny[0].parent / "mine.py"
    source.write_text(SOURCE.replace("scale *", "2 * scale *"))
    try:
        with pytest.raises(config.UserError) as told:
            cli.train(["--config", str(file), "--workdir", str(again)])
    finally:
        source.write_text(SOURCE)
    for part in ("Loss term soft changed since", str(source), str(again / "terms" / "soft.py"), "remove"):
        assert part in str(told.value)
    with pytest.raises(config.UserError, match=r"holds another run: losses\.terms\.soft\.weight differ"):
        cli.train(["--config", str(file), "--workdir", str(again), "--losses.terms.soft.weight", "0.3"])


def test_processes_have_the_terms_of_the_leading_one(tmp_path, monkeypatch):
    """Another file of one process, or a term that it alone has."""
    losses, told = cli.read_config(write(tmp_path)).losses, []
    monkeypatch.setattr(parallel, "shared_text", lambda text: told.append(text) or text)
    terms.require_shared(losses)
    lead = json.loads(told[0])
    assert lead.keys() == {"soft", "focal"}
    for change, names in (({"soft": "0"}, "soft"), ({"third": "", "focal": "1"}, "focal, third")):
        monkeypatch.setattr(parallel, "shared_text", lambda _, change=change: json.dumps(lead | change))
        with pytest.raises(config.UserError, match=f"^Loss terms {names} of this process are not those of process 0"):
            terms.require_shared(losses)


def test_the_report_names_every_constant_of_the_papers_terms():
    """A new one is not forgotten."""
    settings = {f.name for f in dataclasses.fields(config.Losses)} - {"terms", "schedules", "weighting"}
    constants = [name for names in listed.CONSTANTS.values() for name in names]
    assert sorted(constants) == sorted(settings - set(config.TERMS))


def test_a_run_goes_on_from_another_folder(tmp_path, monkeypatch):
    """Paths of files are stored as from the current folder. Another function of the same file is another run."""
    settings, run = cli.read_config(write(tmp_path)), tmp_path / "run"
    terms.keep(settings.losses, run)
    monkeypatch.chdir(tmp_path)
    here = dataclasses.replace(settings, losses=terms.resolved(settings.losses))
    assert here.losses.terms[0].function == "mine.py:soft"
    monkeypatch.chdir(run)
    elsewhere = dataclasses.replace(settings, losses=terms.resolved(settings.losses))
    assert elsewhere.losses.terms[0].function == f"{tmp_path}/mine.py:soft"
    train.compare(here, elsewhere, run, Console(quiet=True))
    other = config.from_json(config.to_json(elsewhere).replace("mine.py:soft", "mine.py:no_sum"))
    with pytest.raises(config.UserError, match=r"another run: losses\.terms\.soft\.function differ"):
        train.compare(here, other, run, Console(quiet=True))
    (tmp_path / "mine.py").write_text(SOURCE.replace("scale *", "2 * scale *"))
    with pytest.raises(config.UserError, match="Loss term soft changed since"):
        train.compare(here, elsewhere, run, Console(quiet=True))


def test_later_commands_need_no_function(tiny, tmp_path):
    """In a process that cannot find it: the report names it, and predictions know nothing of the loss."""
    file, workdir = tiny
    source = file.parent / "mine.py"
    source.rename(tmp_path / "away.py")
    try:
        code = "import sys; from jaxseg import cli; cli.guarded(cli.evaluate)"
        argv = [sys.executable, "-c", code, "--workdir", str(workdir), "--output", str(tmp_path / "val")]
        subprocess.run(argv, check=True, capture_output=True)
        trained = model.load(workdir)
        export.export(trained, tmp_path / "tiny.jaxseg", (32, 64), ["cpu"])
    finally:
        (tmp_path / "away.py").rename(source)
    page = (tmp_path / "val" / "report.html").read_text()
    for text in (
        "mine.py:soft",
        "Loss terms",
        "1 at 0%, 0.5 at 100%",
        "beta 4.0, normalize elements",
        "class_weight_power 0.5, class_correction 1.0",
        "alpha 0.9, gamma 2.0",
        "Cosine between",
    ):
        assert text in page
    assert set(trained.variables["params"]) == {"encoder", "semantic", "embedding", "center"}
    with np.load(tmp_path / "tiny.jaxseg") as stored:
        assert not [name for name in stored if "log_variance" in name]
    frame = np.zeros((32, 64, 3), np.uint8)
    assert np.asarray(trained(frame).semantic).shape == (32, 64)


def test_a_run_may_start_from_the_encoder_of_one_with_uncertainties(tiny):
    names = jax.tree_util.tree_leaves_with_path(start.load(tiny[1]).variables["params"])
    assert {path[0].key for path, _ in names} == {"encoder"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--losses.terms.soft.function", "nowhere.py:soft"], r"Loss term soft: .*no file .*nowhere\.py"),
        (["--losses.terms.soft.constants", "scal", "1"], r"soft fails with TypeError: .*unexpected keyword"),
        (
            ["--losses.terms.soft.function", "MINE:no_sum", "--losses.terms.soft.constants"],
            r"Return a jaxseg\.types\.Sum",
        ),
        (["--losses.terms.focal.static", "normalize", "boxes"], r"fails with ValueError: `normalize` must be"),
    ],
)
def test_terms_that_cannot_be_trained_with_are_refused_before_anything_is_prepared(argv, message, tiny, tmp_path):
    argv = [word.replace("MINE", str(tiny[0].parent / "mine.py")) for word in argv]
    where = ["--config", str(tiny[0]), "--workdir", str(tmp_path / "run"), "--data.cache", str(tmp_path / "cache")]
    with pytest.raises(config.UserError, match=message):
        cli.train([*where, *argv])
    assert not list(tmp_path.iterdir())
