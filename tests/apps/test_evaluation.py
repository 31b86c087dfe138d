"""What evaluation adds up: the oracle study, the sweep, official formats, and the baseline, on tiny runs."""

import html.parser
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import cli, config, segment
from jaxseg.apps import model
from jaxseg.apps.evaluation import breakdown, oracle, scores, submission, sweep
from jaxseg.data import Label, prepare
from jaxseg.metrics import Counts, Truth, coco
from jaxseg.types import Capacity, ClassList, Instances

CONFIG = """
from jaxseg.config import *

config = Config(
    name="tiny<b>",
    data=Data(builder="shapes", classes=("disc", "square"), crop=(32, 64), cache={cache!r},
              shapes=Shapes(size=(32, 64), train=8, val=3)),
    model=Model(encoder="tests.tiny_encoder:TinyEncoder", encoder_stride=8, decoder_width=0.25, embedding=4,
                clustering={clustering!r}),
    targets=TargetSettings(max_instances=12),
    grouping=Grouping(slots=12, center=0.05, assignment=0.75),
    optimizer=Optimizer(learning_rate=1e-2),
    train=Train(steps=4, batch=4, log_every=2, save_every=4, picture_every=0),
)
"""


def trained(folder, clustering):
    """A work directory."""
    file = folder / f"{clustering}.py"
    file.write_text(CONFIG.format(cache=str(folder / "cache"), clustering=clustering))
    cli.train(["--config", str(file), "--workdir", str(folder / clustering)])
    return folder / clustering


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("tiny"), "centers")


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("baseline"), "all_to_all")


def studied(workdir):
    """Results of every variant for the first validation image, its label and the model."""
    run = model.load(workdir)
    example = prepare.source(run.settings.data, "val")[0]
    capacity, numbers = model.capacity(run.settings), jax.tree.map(np.float32, model.thresholds(run.settings))
    found = oracle.study(
        run.network, run.variables, example.image, example.semantic, example.instance, capacity, numbers
    )
    names = oracle.variants_for(capacity)
    variants = {name: jax.tree.map(lambda x, i=i: np.asarray(x[i]), found) for i, name in enumerate(names)}
    return variants, Label(example.semantic, example.instance), run, example


def test_the_first_variant_is_what_users_get_and_the_last_is_the_truth(tiny):
    variants, label, run, example = studied(tiny)
    for one, other in zip(
        jax.tree.leaves(variants["network"]), jax.tree.leaves(jax.device_get(run(example.image))), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    known = label.semantic != 255
    assert (variants["everything"].semantic == label.semantic)[known].mean() > 0.99
    # Objects vote on their class, so that other objects change the classes; what belongs to none keeps its own.
    for name, other in (("semantic", "all heads"), ("centers", "network"), ("embeddings", "network")):
        alone = (variants[name].instance == 0) & (variants[other].instance == 0)
        assert alone.any()
        np.testing.assert_array_equal(variants[name].semantic[alone], variants[other].semantic[alone])
    assert (variants["network"].semantic != variants["semantic"].semantic).any()


def test_the_truth_in_every_part_scores_nearly_one(tiny):
    variants, label, run, _ = studied(tiny)
    truth = Truth.of(label.semantic, label.instance, run.classes)
    ap = {}
    for name, found in variants.items():
        matches = coco.matches(scores.counts_of(found, truth, label.semantic.shape, run.classes))
        ap[name] = coco.AveragePrecision.of(matches).compute(len(run.classes))["ap50"]
    assert ap["everything"] > 0.9  # two centers side by side are one
    assert ap["network"] <= ap["all heads"] <= ap["everything"]


def test_the_baseline_has_neither_centers_nor_superpixels(baseline):
    variants, *_ = studied(baseline)
    assert list(variants) == ["network", "semantic", "embeddings", "all heads"]
    assert oracle.variants_for(Capacity()) == dict(oracle.VARIANTS)


def test_embeddings_alone_leave_elements_without_an_instance_to_one_another():
    """A center on true background groups what lies around it, not the object beside it."""
    outputs = jnp.zeros((2, 4, 3))
    from jaxseg.types import Outputs, Targets

    semantic = jnp.zeros((2, 4, 2)).at[..., 1].set(5.0)
    center = jnp.full((2, 4), -9.0).at[0, 0].set(9.0).at[0, 3].set(8.0)
    instance = jnp.asarray([[1, 1, 0, 0], [1, 1, 0, 0]])
    fields = {name: jnp.zeros(()) for name in Targets.__dataclass_fields__}
    targets = Targets(**fields | {"instance": instance})
    true = Outputs(semantic, outputs.at[..., 0].set(10.0 * instance), center)
    truth = oracle.Truth(true, targets, jnp.zeros((2, 4), jnp.uint8))
    flags = jnp.asarray([False, False, True, False])
    mixed, _ = oracle._mixed(Outputs(semantic, outputs, center), truth.assignment, truth, flags)
    groups = segment.group(mixed, jnp.ones((2, 4), bool), 4, model.thresholds(config.Config()))
    np.testing.assert_array_equal(groups.ids, [[1, 1, 2, 2], [1, 1, 2, 2]])


def test_the_sweep_tries_everything_and_agrees_with_evaluation(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "CENTER", (0.05, 0.5))
    monkeypatch.setattr(sweep, "ASSIGNMENT", (0.3,))
    monkeypatch.setattr(sweep, "DUPLICATE", (0.2, 0.4))
    cli.evaluate(["--workdir", str(tiny), "--sweep", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert len(found["rows"]) == 2 * 2 * 2
    assert found["best"]["ap"] == max(row["ap"] for row in found["rows"])
    cli.evaluate(["--workdir", str(tiny), "--output", str(tmp_path / "plain")])
    plain = json.loads((tmp_path / "plain" / "metrics.json").read_text())
    assert found["own"]["ap"] == pytest.approx(plain["ap"], abs=1e-12)
    assert found["own"]["ap50"] == pytest.approx(plain["ap50"], abs=1e-12)
    other = {name: found["best"][name] for name in ("center", "assignment", "duplicate")}
    changed = [word for name, value in other.items() for word in (f"--grouping.{name}", str(value))]
    cli.evaluate(["--workdir", str(tiny), "--output", str(tmp_path / "best"), *changed])
    best = json.loads((tmp_path / "best" / "metrics.json").read_text())
    assert best["ap"] == pytest.approx(found["best"]["ap"], abs=1e-12)
    page = (tmp_path / "sweep.html").read_text()
    assert page.count("<svg") == 3
    assert "tiny&lt;b&gt;" in page
    assert "best AP50" in capsys.readouterr().out


def test_the_report_of_a_baseline_and_the_sweep_of_its_bandwidth(baseline, tmp_path):
    cli.evaluate(["--workdir", str(baseline), "--output", str(tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics["oracles"]) == ["network", "semantic", "embeddings", "all heads"]
    assert metrics["ceiling"]["ap50"] > 0.4
    page = (tmp_path / "report.html").read_text()
    assert "<b>" not in page.split("<body>")[1].split("</h1>")[0]
    for part in ("What is lost where", "Precision and recall", "Confusion", "Calibration of the scores"):
        assert part in page
    cli.evaluate(["--workdir", str(baseline), "--sweep", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert {row["center"] for row in found["rows"]} == {0.05}
    assert len(found["rows"]) == len(sweep.ASSIGNMENT)


HOSTILE = "<img src=x onerror=alert(1)>&quot;'\""


def test_names_from_the_data_are_text_in_the_report(tmp_path):
    """A class and an image with markup for names: nothing of it becomes an element or an attribute."""
    for split in ("train", "val"):
        for part in ("images", "instances"):
            (tmp_path / "data" / split / part).mkdir(parents=True)
        for i in range(2):
            raw = np.zeros((32, 64), np.uint16)
            raw[4:14, 4 + 9 * i : 24], raw[18:30, 30:50] = 1000, 2001
            name = f"<b onclick=x>&{split}{i}.png"
            image = np.random.default_rng(i + 7 * len(split)).integers(0, 256, (32, 64, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "data" / split / "images" / name), image)
            cv2.imwrite(str(tmp_path / "data" / split / "instances" / name), raw)
    file = tmp_path / "hostile.py"
    text = CONFIG.format(cache=str(tmp_path / "cache"), clustering="centers")
    data = f'builder="folder", root={str(tmp_path / "data")!r}, classes=({HOSTILE!r}, "square")'
    file.write_text(text.replace('builder="shapes", classes=("disc", "square")', data).replace("steps=4", "steps=1"))
    cli.train(["--config", str(file), "--workdir", str(tmp_path / "run")])
    cli.evaluate(["--workdir", str(tmp_path / "run"), "--output", str(tmp_path / "out")])
    page = (tmp_path / "out" / "report.html").read_text()
    tags, texts = set(), []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.add(tag)
            assert not any(name.startswith("on") for name, _ in attrs)
            assert tag != "img" or dict(attrs)["src"].startswith("data:image/")

        def handle_data(self, data):
            texts.append(data)

    Reader().feed(page)
    assert HOSTILE in texts
    assert "<b onclick=x>&val0" in texts
    assert "script" not in tags


def test_sweep_and_submission_are_two_things(tiny, tmp_path):
    with pytest.raises(config.UserError, match="--sweep and --submission are two evaluations"):
        cli.evaluate(["--workdir", str(tiny), "--sweep", "--submission", str(tmp_path)])


def test_generated_scenes_have_no_official_format(tiny, tmp_path):
    with pytest.raises(config.UserError, match=r"data of --data\.builder shapes has no official format"):
        cli.evaluate(["--workdir", str(tiny), "--submission", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


ONE = ClassList.of(("car",))


def matches(scored, truths):
    """An image with as many objects; predictions of a score and whether they hit, one object each."""
    size = max(truths, len(scored), 1)
    instance = np.zeros((2, size), np.int64)
    instance[0, :truths] = np.arange(1, truths + 1)
    truth = Truth.of((instance > 0).astype(np.uint8), instance, ONE)
    found, score = np.zeros((2, size), np.int64), np.zeros(len(scored))
    for i, (value, hit) in enumerate(scored):
        found[0 if hit else 1, i], score[i] = i + 1, value
    ones = np.ones(len(scored), np.int64)
    counts = Counts.of((found > 0).astype(np.uint8), found, ones, score, ones.astype(bool), truth, ONE)
    return coco.matches(counts)


def test_calibration_is_the_share_that_is_right():
    """Two of score 0.85, one right; one of 0.15, wrong: errors 0.35 and 0.15, weighted 2 to 1."""
    found = breakdown.Breakdown(ONE)
    found.add(matches([(0.85, True), (0.85, False), (0.15, False)], 3))
    values = found.calibration()
    assert values["predictions"] == [0, 1, 0, 0, 0, 0, 0, 0, 2, 0]
    assert values["right"][8] == 0.5
    assert values["right"][1] == 0.0
    assert values["right"][0] is None
    assert values["error"] == pytest.approx((2 * 0.35 + 0.15) / 3)
    assert breakdown.Breakdown(ONE).calibration()["error"] is None


def test_images_are_grouped_by_their_objects():
    found = breakdown.Breakdown(ONE)
    found.add(matches([(0.5, True)], 1))
    found.add(matches([(0.5, False)], 7))
    rows = {label: (images, values["ap50"]) for label, images, values in found.by_count()}
    assert rows["1-5"] == (1, 1.0)
    assert rows["6-20"] == (1, 0.0)
    assert rows["21-50"][0] == rows["51 or more"][0] == 0


def test_what_others_wrote_is_not_replaced_and_ours_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(config.UserError, match="holds files that are no submission"):
        submission.Cityscapes(tmp_path, ONE)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    out = tmp_path / "out"
    for name in ("a_1_1", "b_1_1"):
        written = submission.Cityscapes(out, ONE)
        written.add(name, Label(np.ones((3, 4), np.uint8), np.ones((3, 4), np.uint16)), rows(1))
    assert sorted(p.name for p in out.rglob("*.png")) == ["b_1_1.png", "b_1_1_000.png"]
    assert cv2.imread(str(out / "semantic" / "b_1_1.png"), cv2.IMREAD_UNCHANGED).tolist() == [[26] * 4] * 3
    with pytest.raises(config.UserError, match="'disc' is no class of Cityscapes"):
        submission.Cityscapes(tmp_path / "new", ClassList.of(("disc",)))


def rows(count, kinds=1, score=0.1):
    """Instances as a network gives them, on the host."""
    filled = {name: np.zeros(count) for name in Instances.__dataclass_fields__}
    one = np.ones(count)
    return Instances(**filled | {"valid": one > 0, "class_id": (one * kinds).astype(np.uint8), "score": one * score})
