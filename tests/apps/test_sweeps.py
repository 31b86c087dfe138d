"""Sweeps: the runs are those that train.py makes, one program trains them all, and a stopped sweep goes on."""

import contextlib
import json
import re
import shutil
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxseg import cli, config
from jaxseg.apps import model
from jaxseg.apps.experiments import plan, sweep
from jaxseg.data import pipeline
from jaxseg.train import parallel
from tests.apps import test_terms as own
from tests.apps.events import scalars
from tests.train.runs import Training, assert_same, saved
from tests.train.runs import state as last_state

STEPS = 10
CONFIG = """
from jaxseg.config import *

config = Config(
    name="tiny",
    data=Data(builder="shapes", classes=("disc", "square"), crop=(40, 64), cache={cache!r},
              shapes=Shapes(size=(40, 64), train=10, val=3)),
    model=Model(encoder="tests.tiny_encoder:TinyEncoder", encoder_stride=8, decoder_width=0.25, embedding=4),
    targets=TargetSettings(max_instances=12),
    grouping=Grouping(slots=12, center=0.05),
    optimizer=Optimizer(learning_rate=1e-2, warmup=0.2, average=0.9),
    train=Train(steps={steps}, batch=4, log_every=1, save_every=4, picture_every=0),
)
"""


def write(folder):
    file = folder / "tiny.py"
    file.write_text(CONFIG.format(cache=str(folder / "cache"), steps=STEPS))
    return file


@contextlib.contextmanager
def compilations():
    """Names of the programs that are compiled meanwhile."""
    compiled = []

    def listen(event, _, fun_name="", **__):
        if event.endswith("backend_compile_duration"):
            compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """(config file, folder of a sweep, the programs that were compiled for it)."""
    folder = tmp_path_factory.mktemp("swept")
    file = write(folder)
    with compilations() as compiled:
        argv = ["--config", str(file), "--workdir", str(folder / "sweep"), "--seeds", "2"]
        cli.sweep([*argv, "--vary", "losses.alpha=0.25,0.9", "--vary", "optimizer.learning-rate=1e-2,3e-3"])
    return file, folder / "sweep", compiled


def test_eight_runs_take_one_compilation(swept):
    """Of the step (what `jax.pmap` maps has no name of its own), of the first parameters and of the inference each."""
    _, _, compiled = swept
    assert [compiled.count(f"jit({name})") for name in ("_fun", "_created", "segment")] == [1, 1, 1]


@pytest.mark.parametrize(("alpha", "rate", "seed"), [("0.25", "0.01", 0), ("0.25", "0.003", 1), ("0.9", "0.01", 1)])
def test_a_run_of_a_sweep_is_the_run_alone(swept, tmp_path, alpha, rate, seed):
    """Alone, two devices share the batch; the first ten losses agree within 1e-3, the learning rates altogether."""
    file, folder, _ = swept
    argv = ["--config", str(file), "--workdir", str(tmp_path), "--losses.alpha", alpha, "--seed", str(seed)]
    cli.train([*argv, "--optimizer.learning-rate", rate])
    one = folder / f"alpha={alpha}_learning_rate={rate}_seed={seed}"
    mine, theirs = (scalars(path / "tensorboard") for path in (one, tmp_path))
    for tag in ("train/loss", "train/center", "train/learning_rate"):
        together, alone = dict(mine[tag]), dict(theirs[tag])
        assert list(together) == list(alone) == list(range(1, STEPS + 1))
        limit = 1e-6 if tag == "train/learning_rate" else 1e-3
        np.testing.assert_allclose(list(together.values()), list(alone.values()), rtol=limit)
    mine, theirs = (model.read_config(path) for path in (one, tmp_path))
    assert set(config.differences(mine, theirs)) == {"name"}
    assert saved(one) == saved(tmp_path)


def test_the_figures_are_those_of_eval(swept, tmp_path):
    _, folder, _ = swept
    found = json.loads((folder / "sweep.json").read_text())
    assert len(found["runs"]) == 8
    assert {row["state"] for row in found["runs"]} == {"finished"}
    row = found["runs"][3]
    cli.evaluate(["--workdir", str(folder / row["folder"]), "--output", str(tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert row["figures"] == {name: metrics[name] for name in ("ap", "ap50", "iou", "pq")}


def test_mean_and_spread_are_over_the_seeds(swept):
    _, folder, _ = swept
    found = json.loads((folder / "sweep.json").read_text())
    setting = found["settings"][0]
    values = [row["figures"]["iou"] for row in found["runs"] if row["values"] == setting["values"]]
    assert setting["n"] == len(values) == 2
    assert setting["figures"]["iou"] == pytest.approx({"mean": np.mean(values), "deviation": np.std(values, ddof=1)})
    page = (folder / "sweep.html").read_text()
    assert "AP by losses.alpha" in page
    assert "AP by optimizer.learning_rate" in page
    assert "http" not in page


def argv(swept, folder, *more, alphas="0.25,0.9", rates="1e-2,3e-3", seeds="2"):
    vary = ["--vary", f"losses.alpha={alphas}", "--vary", f"optimizer.learning-rate={rates}", "--seeds", seeds]
    return ["--config", str(swept[0]), "--workdir", str(folder), *vary, *more]


def test_a_sweep_goes_on_where_it_stopped(swept, tmp_path, capsys):
    """One run lost its last checkpoint and one is missing; the others are not touched."""
    _, folder, _ = swept
    again = tmp_path / "sweep"
    shutil.copytree(folder, again)
    names = sorted(p.name for p in folder.iterdir() if p.is_dir())
    shutil.rmtree(again / names[0])
    shutil.rmtree(again / names[5] / "checkpoints" / str(STEPS))
    times = {name: (again / name / "result.json").stat().st_mtime_ns for name in names[1:]}
    cli.sweep(argv(swept, again))
    told = capsys.readouterr().err
    assert "2 runs" in told
    assert told.count(f"step {STEPS}/{STEPS}") == 1  # The run that is ahead ends long before the other.
    for name in names:
        assert_same(last_state(again / name), last_state(folder / name))
        ours, theirs = (json.loads((path / name / "result.json").read_text()) for path in (again, folder))
        assert (ours["figures"], ours["curve"]) == (theirs["figures"], theirs["curve"])
    changed = [name for name in times if (again / name / "result.json").stat().st_mtime_ns != times[name]]
    assert changed == [names[5]]


def test_values_and_seeds_may_be_added(swept, tmp_path, capsys):
    _, folder, _ = swept
    again = tmp_path / "sweep"
    shutil.copytree(folder, again)
    cli.sweep(argv(swept, again, alphas="0.25,0.9,0.5", rates="1e-2", seeds="0,1"))
    assert "2 runs" in capsys.readouterr().err
    found = json.loads((again / "sweep.json").read_text())
    assert [row["n"] for row in found["settings"]] == [2, 2, 2]


def test_what_finished_runs_learnt_from_is_compared_too(swept, tmp_path):
    """Otherwise figures of other images would stand beside those of added seeds."""
    _, folder, _ = swept
    again = tmp_path / "sweep"
    shutil.copytree(folder, again)
    kept = again / "alpha=0.9_learning_rate=0.01_seed=1" / "class_frequencies.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"images": "others"}))
    with pytest.raises(config.UserError, match=r"training images of .* changed since .*seed=1 began"):
        cli.sweep(argv(swept, again, seeds="3"))
    assert not list(again.glob("*_seed=2"))


def test_a_run_that_diverges_stops_no_other(swept, tmp_path, capsys):
    """A rate of 1e30 gives parameters whose loss is not finite; it is reported, and not tried again."""
    cli.sweep(argv(swept, tmp_path, "--train.steps", "6", alphas="0.9", rates="1e30,1e-2", seeds="1"))
    said = capsys.readouterr()
    bad, good = json.loads((tmp_path / "sweep.json").read_text())["runs"]
    assert good["state"] == "finished"
    assert good["step"] == 6
    assert bad["state"] == "diverged"
    assert 1 < bad["diverged"]["step"] <= 6
    assert f"diverged at step {bad['diverged']['step']}" in said.out
    assert 1 <= bad["step"] < bad["diverged"]["step"]
    before = (tmp_path / bad["folder"] / "result.json").stat().st_mtime_ns
    page = (tmp_path / "sweep.html").read_text()
    cli.sweep(argv(swept, tmp_path, "--train.steps", "6", alphas="0.9", rates="1e30,1e-2", seeds="1"))
    assert "runs" not in capsys.readouterr().err
    assert (tmp_path / bad["folder"] / "result.json").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "sweep.json").read_text())["runs"] == [bad, good]
    assert (tmp_path / "sweep.html").read_text() == page


def test_runs_are_measured_again_on_other_images(swept, tmp_path):
    """Otherwise figures on images that are gone would stand beside those of added seeds."""
    _, folder, _ = swept
    again = tmp_path / "sweep"
    shutil.copytree(folder, again)
    files = sorted(again.glob("*/result.json"))
    known = [json.loads(file.read_text()) for file in files]
    for file, one in zip(files[:2], known, strict=False):
        nothing = dict.fromkeys(one["figures"], 0.0)
        images = {"images": "others"} if file == files[0] else {}
        file.write_text(json.dumps(one | {"figures": nothing, "measure": one["measure"] | images}))
    cli.sweep(argv(swept, again))
    first, second = (json.loads(file.read_text()) for file in files[:2])
    assert (first["figures"], first["measure"]) == (known[0]["figures"], known[0]["measure"])
    assert second["figures"] == dict.fromkeys(second["figures"], 0.0)


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"curve": 3}', '{"step": 3, "curve": {"step": [1]}}'])
def test_a_damaged_result_is_named(swept, tmp_path, content):
    again = tmp_path / "sweep"
    shutil.copytree(swept[1], again)
    file = sorted(again.glob("*/result.json"))[0]
    file.write_text(content)
    with pytest.raises(config.UserError, match=r"result\.json is damaged\. Remove it: the run is measured again\."):
        cli.sweep(argv(swept, again))


def test_results_are_stored_with_checkpoints_and_without_losses_that_are_not_finite(tmp_path):
    settings = config.Config()
    run = sweep.Run(plan.Planned("one", {}, 0, settings), settings, tmp_path, None, 0)
    for done, loss in ((1, 2.0), (2, np.nan), (3, 1.0)):
        run.told(done, {"loss": loss}, 0.5, done == 3, "")
        assert (tmp_path / "result.json").is_file() == (done == 3)
    known = json.loads((tmp_path / "result.json").read_text())
    assert known["curve"] == {"step": [1, 3], "loss": [2.0, 1.0]}
    assert (known["step"], known["seconds"]) == (3, 1.5)


def test_runs_of_other_programs_are_trained_too(swept, tmp_path):
    """Superpixels of another size are another network; targets of another radius are not. Two at once, by vmap."""
    vary = ["--vary", "superpixels.size=4,8", "--vary", "targets.radius=1,1.5", "--train.steps", "2"]
    cli.sweep(["--config", str(swept[0]), "--workdir", str(tmp_path), *vary, "--together", "2"])
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["state"] for row in found["runs"]] == ["finished"] * 4
    assert len({row["loss"] for row in found["runs"]}) == 4


def test_runs_that_a_device_computes_at_once_are_the_same_runs(swept, tmp_path):
    """Three with two places on one of the two devices: the fourth place repeats the last, and nobody looks at it."""
    vary = ["--vary", "losses.alpha=0.25,0.5,0.9", "--train.steps", "3"]
    for together in ("1", "2"):
        folder = tmp_path / together
        cli.sweep(["--config", str(swept[0]), "--workdir", str(folder), *vary, "--together", together])
    for alpha in (0.25, 0.5, 0.9):
        one, other = (tmp_path / together / f"alpha={alpha}_seed=0" for together in ("1", "2"))
        losses = [dict(scalars(run / "tensorboard")["train/loss"]) for run in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        for a, b in zip(*(jax.tree.leaves(last_state(run)) for run in (one, other)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)
    losses = [scalars(tmp_path / "2" / f"alpha={alpha}_seed=0" / "tensorboard")["train/loss"] for alpha in (0.25, 0.9)]
    assert losses[0] != losses[1]


def test_a_signal_saves_every_run(swept, tmp_path):
    program = ("-c", "from jaxseg import cli; cli.main()", "sweep")
    more = ["--vary", "losses.alpha=0.25,0.5,0.9", "--train.steps", "5000", "--train.save-every", "2000"]
    training = Training(swept[0], tmp_path / "sweep", *more, program=program)
    assert training.until(lambda: "step 1/5000" in training.said.read_text()), training.said.read_text()
    status, said = training.signal(signal.SIGTERM).end()
    assert status == 143, said
    (step,) = re.findall(r"^jaxseg: stopped by SIGTERM at step (\d+) of 5000, which is saved\.", said, re.M)
    assert "Traceback" not in said
    names = [f"alpha={alpha}_seed=0" for alpha in (0.25, 0.5, 0.9)]
    assert [saved(tmp_path / "sweep" / name) for name in names] == [[0, int(step)]] * 3


def test_loss_terms_of_ones_own_are_swept(tmp_path, monkeypatch):
    """With a schedule and learnt uncertainties; the first losses differ by that of the weight that varies."""
    file, made, train_batches = own.write(tmp_path), [], pipeline.train_batches
    monkeypatch.setattr(pipeline, "train_batches", lambda *a, **more: made.append(a) or train_batches(*a, **more))
    given = ["--config", str(file), "--workdir", str(tmp_path / "sweep"), "--train.gradients-every", "0"]
    given += ["--train.steps", "2", "--vary", "losses.terms.soft.weight=0.1,0.5"]
    with compilations() as compiled:
        cli.sweep(given)
    assert compiled.count("jit(_fun)") == 1
    assert len(made) == 1  # Runs of a seed share their images.
    runs = [tmp_path / "sweep" / f"weight={weight}_seed=0" for weight in ("0.1", "0.5")]
    assert [(run / "terms" / "soft.py").read_text() for run in runs] == [own.SOURCE] * 2
    low, high = ({tag: dict(values) for tag, values in scalars(run / "tensorboard").items()} for run in runs)
    assert low["train/soft"][1] == pytest.approx(high["train/soft"][1], rel=1e-5)
    assert low["train/soft"][1] > 0
    assert high["train/loss"][1] - low["train/loss"][1] == pytest.approx(0.4 * low["train/soft"][1], rel=1e-3)
    assert low["train/weight/attraction"] == pytest.approx({1: 1.0, 2: 0.75})
    assert low["train/log_variance/embedding"].keys() == {1, 2}
    (tmp_path / "mine.py").write_text(own.SOURCE.replace("scale *", "2 * scale *"))
    with pytest.raises(config.UserError, match="Loss term soft changed since"):
        cli.sweep([*given, "--seeds", "2"])


@pytest.mark.parametrize(("count", "together", "slots"), [(2, 8, 2), (8, 2, 4), (3, 2, 4), (1, 0, 1)])
def test_a_call_has_no_more_places_than_runs_need(count, together, slots):
    """Two devices; with two runs each, the last of three has one beside it that nobody looks at."""
    assert parallel.Variants(None, count, together).slots == slots


@pytest.mark.parametrize(
    ("count", "devices", "slots"), [(9, 1, 3), (5, 1, 3), (4, 1, 4), (2, 1, 2), (9, 4, 9), (3, 8, 3)]
)
def test_calls_of_accelerators_are_even(monkeypatch, count, devices, slots):
    """Nine runs are three times three, not four, four and one."""
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform="gpu")] * devices)
    monkeypatch.setattr(jax, "pmap", lambda *_, **__: None)
    assert parallel.Variants(None, count).slots == slots


@pytest.mark.parametrize(
    ("seeds", "slots", "expected"),
    [([0, 0, 1, 1], 2, [[0, 0], [1, 1]]), ([0, 1, 2], 2, [[0, 1], [2]]), ([0, 0, 0, 1, 1, 1], 2, [[0, 0, 0, 1, 1, 1]])],
)
def test_runs_of_as_few_seeds_as_fill_every_call_train_side_by_side(seeds, slots, expected):
    runs = [SimpleNamespace(settings=SimpleNamespace(seed=seed, data=None)) for seed in seeds]
    found = [[run.settings.seed for run in part] for part in sweep.parts(runs, slots)]
    assert found == expected


def test_a_seed_of_the_data_is_not_taken_for_that_of_the_run():
    runs = plan.plan(config.Config(), {"data.seed": ["1", "2"]}, [0, 1], cli.override)
    assert [run.title for run in runs] == [f"data.seed={data}_seed={seed}" for data in (1, 2) for seed in (0, 1)]


def test_programs_differ_in_what_is_not_traced():
    base = config.Config()
    flat = config.flatten(base)
    assert flat.keys() >= plan.TRACED
    assert plan.program(base) == plan.program(cli.override(base, ["--losses.alpha", "0.5", "--seed", "3"]))
    assert plan.program(base) == plan.program(cli.override(base, ["--data.augment.hue", "0.1"]))
    for words in (
        ["--losses.normalize", "elements"],
        ["--model.embedding", "8"],
        ["--optimizer.average", "0.9"],
        ["--optimizer.encoder-rate", "0.1"],
    ):
        assert plan.program(base) != plan.program(cli.override(base, words))


def test_loss_terms_fix_a_program_by_which_they_are():
    def of(schedules=(), **more):
        term = config.Term(**{"name": "own", "function": "a.b:c", "constants": (("margin", 1.0),)} | more)
        return plan.program(config.Config(losses=config.Losses(terms=(term,), schedules=schedules)))

    assert of() == of(weight=2.0) == of(constants=(("margin", 3.0),))
    assert of() != plan.program(config.Config())
    assert len({of(), of(function="a.b:d"), of(static=(("radius", 1),)), of(constants=(("other", 1.0),))}) == 4
    ramps = [((0.0, 0.0), (0.5, 1.0)), ((0.0, 1.0), (0.9, 0.0)), ((0.0, 1.0),)]
    one, other, short = (of(schedules=(config.Schedule("own", points),)) for points in ramps)
    assert one == other
    assert len({of(), one, short}) == 3


def test_loss_terms_vary_by_name():
    base = config.Config(losses=config.Losses(terms=(config.Term("own", "a.b:c"),)))
    runs = plan.plan(base, {"losses.terms.own.weight": ["1", "2"]}, [0], cli.override)
    assert [run.settings.losses.terms[0].weight for run in runs] == [1, 2]
    place = r"--vary losses\.terms\.0\.weight: give its name, not its place: losses\.terms\.own\.weight\."
    with pytest.raises(config.UserError, match=place):
        plan.plan(base, {"losses.terms.0.weight": ["1", "2"]}, [0], cli.override)
    with pytest.raises(config.UserError, match=r"--vary losses\.terms\.own\.name: it cannot be varied"):
        plan.plan(base, {"losses.terms.own.name": ["one", "other"]}, [0], cli.override)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--vary", "losses.alhpa=0.1"], r"unknown setting --losses\.alhpa; did you mean --losses\.alpha"),
        (["--vary", "losses.alpha=0.1,high"], r"bad setting: .*high"),
        (["--vary", "losses.alpha=0.1,1.5"], r"`losses\.alpha` must be in 0\.\.1: got 1\.5"),
        (["--vary", "losses.alpha=0.1", "--losses.alpha", "0.2"], r"--vary losses\.alpha: that setting is given twice"),
        (["--vary", "losses.alpha=0.1", "--vary", "losses.alpha=0.2"], r"losses\.alpha: that setting is given twice"),
        (["--vary", "losses.alpha=0.5,0.50"], r"Two runs would be alpha=0\.5_seed=0"),
        (["--vary", "losses.alpha="], r"--vary losses\.alpha=: it takes a setting and its values"),
        (["--vary", "losses.alpha"], r"--vary losses\.alpha: it takes a setting and its values"),
        (["--vary", "help=1"], r"--vary help: it is no setting"),
        (["--vary", "seed=1,2"], r"--vary seed: it cannot be varied\. Give --seeds instead"),
        (["--seeds", "0"], r"--seeds 0: it takes how many there are, or a list"),
        (["--seeds", "1,x"], r"--seeds 1,x: it takes"),
        (["--seeds", "1,1"], r"Two runs would be seed=1"),
        (["--seeds", "2", "--seed", "1"], r"--seeds and --seed are given"),
        (["--vary", "train.batch=4,6", "--train.accumulate", "4"], r"`train\.accumulate` must divide `train\.batch` 6"),
        (["--train.debug"], r"not for debugging"),
        (["--train.gradients-every", "5"], r"A sweep measures no gradients"),
        (["--vary", "train.gradients-every=0,10"], r"A sweep measures no gradients"),
        (["--together", "-1"], r"--together must be at least 1"),
    ],
)
def test_bad_sweeps_are_refused(swept, tmp_path, more, message):
    with pytest.raises(config.UserError, match=message):
        cli.sweep(["--config", str(swept[0]), "--workdir", str(tmp_path / "sweep"), *more])
    assert not (tmp_path / "sweep").exists()


def test_folders_of_something_else_are_refused(swept, tmp_path):
    _, folder, _ = swept
    with pytest.raises(config.UserError, match=r"holds another sweep: losses\.gamma differ"):
        cli.sweep(argv(swept, folder, "--losses.gamma", "1"))
    with pytest.raises(
        config.UserError, match=r"holds a sweep of losses\.alpha, optimizer\.learning_rate, not of seeds"
    ):
        cli.sweep(["--config", str(swept[0]), "--workdir", str(folder), "--seeds", "2"])
    run = folder / "alpha=0.25_learning_rate=0.01_seed=0"
    with pytest.raises(config.UserError, match="holds a run, not a sweep"):
        cli.sweep(argv(swept, run))
