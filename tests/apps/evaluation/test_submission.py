"""Submissions: the official tools find, read and score what we write, and give our own figures."""

import importlib
import json
import types

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxseg import cli
from jaxseg.apps.evaluation import scores, submission
from jaxseg.config import Data, UserError
from jaxseg.data import Label, prepare
from jaxseg.types import Instances
from tests.metrics import scenes
from tests.metrics.scenes import CLASSES, IDS

NAMES = [f"{city}_{i:06d}_{10 + i:06d}" for city in ("aachen", "ulm") for i in range(8)]
"""As Cityscapes names images: city, sequence, frame."""


def maps(scene):
    """Predicted maps of a scene whose masks do not overlap, and the rows of its objects, empty ones not valid."""
    instance = np.zeros(scenes.SIZE, np.uint16)
    for i, each in enumerate(scene.objects):
        instance[each.mask] = i + 1
    count = len(scene.objects) + 2
    filled = {name: np.zeros(count) for name in Instances.__dataclass_fields__}
    kinds, value = np.zeros(count, np.uint8), np.zeros(count, np.float32)
    for i, each in enumerate(scene.objects):
        kinds[i], value[i] = each.class_id, each.score * 0.7
    valid = np.bincount(instance.ravel(), minlength=count + 1)[1 : count + 1] > 0
    return Label(scene.predicted, instance), Instances(**filled | {"valid": valid, "class_id": kinds, "score": value})


class Found(types.SimpleNamespace):
    """A result of inference, on the host."""


def write_truth(folder, name, scene):
    """The two official label files of a scene."""
    ids = np.array([11, *IDS[1:]])[np.where(scene.semantic == 255, 0, scene.semantic)]
    ids = np.where(scene.semantic == 255, np.where(scene.instance > 0, 30, 4), ids)
    Image.fromarray(ids.astype(np.uint8)).save(folder / f"{name}_gtFine_labelIds.png")
    raw = np.where(scene.instance > 0, ids * 1000 + scene.instance, ids).astype(np.uint16)
    Image.fromarray(raw).save(folder / f"{name}_gtFine_instanceIds.png")


def official(monkeypatch, name, folder):
    """An official tool that looks for predictions in a folder."""
    if not hasattr(np, "in1d"):
        monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    module = importlib.import_module(f"cityscapesscripts.evaluation.{name}")
    monkeypatch.setattr(module, "writeDict2JSON", lambda *_: None, raising=False)
    args = types.SimpleNamespace(**vars(module.args))
    args.quiet, args.JSONOutput, args.predictionPath, args.predictionWalk = True, False, str(folder), None
    args.gtInstancesFile = str(folder / "none.json")
    return module, args


@pytest.mark.parity
def test_the_official_cityscapes_scripts_read_a_submission(tmp_path, monkeypatch):
    """Files are found by the scripts' own search, which takes any file of an image's name."""
    monkeypatch.chdir(tmp_path)
    truths, out = tmp_path / "gtFine", tmp_path / "out"
    truths.mkdir()
    ours, written = scores.Score(CLASSES, "cityscapes"), submission.Cityscapes(out, CLASSES)
    for seed, name in enumerate(NAMES):
        scene = scenes.scene(np.random.default_rng(100 + seed), overlapping=False)
        write_truth(truths, name, scene)
        found, instances = maps(scene)
        written.add(name, found, instances)
        result = Found(semantic=found.semantic, instance=found.instance, instances=instances)
        ours.add(scores.counts_of(result, scene.truth, scenes.SIZE, CLASSES), 0)
    written.close()
    values = ours.metrics()
    tool, args = official(monkeypatch, "evalInstanceLevelSemanticLabeling", out / "instance")
    files = [str(truths / f"{name}_gtFine_instanceIds.png") for name in NAMES]
    theirs = tool.evaluateImgLists([tool.getPrediction(file, args) for file in files], files, args)["averages"]
    assert values["ap"] == pytest.approx(theirs["allAp"], abs=1e-9)
    assert values["ap50"] == pytest.approx(theirs["allAp50%"], abs=1e-9)
    tool, args = official(monkeypatch, "evalPixelLevelSemanticLabeling", out / "semantic")
    files = [str(truths / f"{name}_gtFine_labelIds.png") for name in NAMES]
    theirs = tool.evaluateImgLists([tool.getPrediction(args, file) for file in files], files, args)
    for name, row in values["classes"].items():
        assert row["iou"] == pytest.approx(theirs["classScores"][name], abs=1e-9)
        if row["thing"]:
            assert row["iiou"] == pytest.approx(theirs["classInstScores"][name], abs=1e-9)
    assert 0.05 < values["ap"] < 0.95


def _coco(root, made):
    """An annotation file with crowds, and its images."""
    from pycocotools import mask

    annotations = []

    def add(image, category, where, crowd):
        code = mask.encode(np.asfortranarray(where.astype(np.uint8)))
        row = {"id": len(annotations) + 1, "image_id": image, "category_id": category, "iscrowd": crowd}
        code = {"size": list(code["size"]), "counts": code["counts"].decode()}
        annotations.append(row | {"segmentation": code, "area": int(where.sum()), "bbox": [0, 0, 1, 1]})

    (root / "val" / "images").mkdir(parents=True)
    for image, scene in enumerate(made, start=40):
        Image.fromarray(np.zeros((*scenes.SIZE, 3), np.uint8) + image).save(root / "val" / "images" / f"i{image}.png")
        truth = scene.truth
        for i in np.flatnonzero(truth.object | truth.group):
            add(image, 10 * int(truth.class_id[i]), truth.index == i, int(truth.group[i]))
    things = [{"id": 10 * i, "name": name} for i, name in CLASSES.things.items()]
    images = [{"id": 40 + i, "file_name": f"i{40 + i}.png", "height": 48, "width": 64} for i in range(len(made))]
    content = {"images": images, "annotations": annotations, "categories": things}
    (root / "val" / "instances.json").write_text(json.dumps(content))


@pytest.mark.parity
def test_pycocotools_reads_a_submission(tmp_path, capsys):
    made = []
    for seed in range(12):
        scene = scenes.scene(np.random.default_rng(seed), overlapping=False)
        semantic = np.where(np.isin(scene.semantic, scenes.THINGS), scene.semantic - 2, 0).astype(np.uint8)
        objects = [o._replace(class_id=o.class_id - 2) for o in scene.objects if o.mask.any()]
        made.append((scene, scenes.Scene(semantic, scene.instance * (semantic > 0), semantic, objects)))
    _coco(tmp_path, [scene._replace(semantic=np.where(scene.semantic == 255, 0, scene.semantic)) for scene, _ in made])
    data = Data(builder="coco", root=str(tmp_path), cache=str(tmp_path / "cache"), accept=("empty",))
    resolved, layout = prepare.resolve(data)
    assert resolved.classes == ("person", "car", "bicycle")
    examples = prepare.dataset(data, layout).split("val", full=True)
    written = submission.Submission.open(tmp_path / "out", "coco", layout, "val")
    ours = scores.Score(layout.classes)
    for i, (_, scene) in enumerate(made):
        label = examples[i].full or Label(examples[i].semantic, examples[i].instance)
        found, instances = maps(scene)
        written.add(examples[i].name, found, instances)
        truth = scores.Truth.of(label.semantic, label.instance, layout.classes)
        result = Found(semantic=found.semantic, instance=found.instance, instances=instances)
        ours.add(scores.counts_of(result, truth, scenes.SIZE, layout.classes), 0)
    written.close()
    truth = COCO(str(tmp_path / "val" / "instances.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "out" / "results.json")), "segm")
    evaluation.params.maxDets = [1, 10, 100]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    values = ours.metrics()
    assert values["ap"] == pytest.approx(evaluation.stats[0], abs=1e-9)
    assert values["ap50"] == pytest.approx(evaluation.stats[1], abs=1e-9)
    assert 0.05 < values["ap"] < 0.95
    capsys.readouterr()


CONFIG = """
from jaxseg.config import *

config = Config(
    name="streets",
    data=Data(builder="cityscapes", root={root!r}, classes=("person", "car", "bicycle"), crop=(32, 64), cache={cache!r},
              cityscapes=Cityscapes(size=(32, 64)), accept=("empty",)),
    model=Model(encoder="tests.tiny_encoder:TinyEncoder", encoder_stride=8, decoder_width=0.25, embedding=4,
                size=(32, 64)),
    targets=TargetSettings(max_instances=12),
    grouping=Grouping(slots=40, center=0.02),
    train=Train(steps=2, batch=2, log_every=2, save_every=2, picture_every=0),
)
"""


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    """A small Cityscapes at twice the network's size, and a network trained on it for two steps."""
    root = tmp_path_factory.mktemp("streets")
    for seed, (split, name) in enumerate(zip(["train"] * 2 + ["val"] * 3 + ["test"], NAMES, strict=False)):
        city = name.split("_")[0]
        image, label = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
        image.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 128, 3), np.uint8)
        Image.fromarray(pixels).save(image / f"{name}_leftImg8bit.png")
        if split != "test":
            label.mkdir(parents=True, exist_ok=True)
            scene, pad = scenes.scene(np.random.default_rng(5 + seed)), ((0, 16), (0, 64))
            padded = {part: np.pad(getattr(scene, part), pad) for part in ("semantic", "instance")}
            write_truth(label, name, scene._replace(**padded))
    (root / "streets.py").write_text(CONFIG.format(root=str(root), cache=str(root / "cache")))
    cli.train(["--config", str(root / "streets.py"), "--workdir", str(root / "run")])
    return root


@pytest.mark.parity
def test_what_eval_prints_is_what_the_official_scripts_find_in_its_submission(streets, tmp_path, monkeypatch):
    cli.evaluate(["--workdir", str(streets / "run"), "--submission", str(tmp_path / "out"), "--output", str(tmp_path)])
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert values["rule"] == "cityscapes"
    monkeypatch.chdir(tmp_path)
    names = sorted(path.name.removesuffix(".txt") for path in (tmp_path / "out" / "instance").glob("*.txt"))
    assert names == NAMES[2:5]
    folder = streets / "gtFine" / "val" / "aachen"
    tool, args = official(monkeypatch, "evalInstanceLevelSemanticLabeling", tmp_path / "out" / "instance")
    files = [str(folder / f"{name}_gtFine_instanceIds.png") for name in names]
    theirs = tool.evaluateImgLists([tool.getPrediction(file, args) for file in files], files, args)["averages"]
    for name in ("person", "car", "bicycle"):
        ours = values["classes"][name]
        expected = (theirs["classes"][name]["ap"], theirs["classes"][name]["ap50%"])
        for mine, other in zip((ours["ap"], ours["ap50"]), expected, strict=True):
            assert (mine is None and np.isnan(other)) or mine == pytest.approx(other, abs=1e-9)
    tool, args = official(monkeypatch, "evalPixelLevelSemanticLabeling", tmp_path / "out" / "semantic")
    files = [str(folder / f"{name}_gtFine_labelIds.png") for name in names]
    theirs = tool.evaluateImgLists([tool.getPrediction(args, file) for file in files], files, args)
    for name in ("person", "car", "bicycle"):
        assert values["classes"][name]["iou"] == pytest.approx(theirs["classScores"][name], abs=1e-9)
        assert values["classes"][name]["iiou"] == pytest.approx(theirs["classInstScores"][name], abs=1e-9)


def test_a_split_without_labels_is_submitted_all_the_same(streets, tmp_path):
    argv = ["--workdir", str(streets / "run"), "--split", "test", "--submission", str(tmp_path / "out")]
    cli.evaluate([*argv, "--output", str(tmp_path)])
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert values["ap"] is None
    assert values["iou"] is None
    (labels,) = (tmp_path / "out" / "semantic").iterdir()
    assert np.asarray(Image.open(labels)).shape == (64, 128)
    assert (tmp_path / "out" / "instance" / f"{labels.stem}.txt").is_file()


def test_a_panoptic_data_set_has_no_format_here(tmp_path):
    layout = types.SimpleNamespace(settings=types.SimpleNamespace(annotations="panoptic"))
    with pytest.raises(UserError, match="has no official format"):
        submission.Submission.open(tmp_path / "out", "coco", layout, "val")


def _found(class_id=1):
    """An object of 4 x 3 pixels in each corner of the maps, the second one not valid."""
    instance = np.zeros((8, 8), np.uint16)
    instance[:4, :3], instance[4:, 5:] = 1, 2
    filled = {name: np.zeros(2) for name in Instances.__dataclass_fields__}
    row = {"valid": np.array([True, False]), "class_id": np.full(2, class_id, np.uint8), "score": np.full(2, 0.1)}
    return Label((instance == 1).astype(np.uint8) * class_id, instance), Instances(**filled | row)


def _tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_earlier_submission_is_replaced_and_nothing_else(tmp_path):
    out, classes = tmp_path / "out", scenes.CLASSES
    for name in NAMES[:2]:
        written = submission.Cityscapes(out, classes)
        written.add(name, *_found(4))
        written.close()
    stem = NAMES[1]
    files = {f"semantic/{stem}.png", f"instance/{stem}.txt", f"instance/masks/{stem}_000.png", submission.MARK}
    assert set(_tree(out)) == files
    for strange in (out / "instance" / "notes.txt", out / "results.zip"):
        strange.write_text("mine")
        before = _tree(out)
        with pytest.raises(UserError, match=f"holds files that are no submission, {strange.relative_to(out)} for one"):
            submission.Cityscapes(out, classes)
        assert _tree(out) == before
        strange.unlink()


def test_a_link_in_an_earlier_submission_is_not_followed(tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    submission.Cityscapes(out, scenes.CLASSES).add(NAMES[0], *_found(4))
    other.mkdir()
    (other / "kept").write_text("mine")
    (out / "link").symlink_to(other)
    with pytest.raises(UserError, match="holds files that are no submission, link for one"):
        submission.Cityscapes(out, scenes.CLASSES)
    assert (other / "kept").read_text() == "mine"


def test_an_image_without_objects_has_an_empty_list(tmp_path):
    written = submission.Cityscapes(tmp_path / "out", scenes.CLASSES)
    label, instances = _found(4)
    written.add(NAMES[0], label, instances.replace(valid=np.zeros(2, bool)))
    assert (tmp_path / "out" / "instance" / f"{NAMES[0]}.txt").read_bytes() == b""
    assert not list((tmp_path / "out" / "instance" / "masks").iterdir())


@pytest.mark.parametrize("name", ["ulm_1", "a b_000000_000019", "ulm_000000_000019_x", "u*_000000_000019"])
def test_names_that_the_official_scripts_do_not_find(tmp_path, name):
    layout = types.SimpleNamespace(splits={"val": [types.SimpleNamespace(name=name)]}, classes=scenes.CLASSES)
    with pytest.raises(UserError, match="--submission: the official scripts find no results of"):
        submission.Submission.open(tmp_path / "out", "cityscapes", layout, "val")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("builder", ["folder", "shapes"])
def test_other_data_has_no_format(tmp_path, builder):
    message = f"--data.builder {builder} has no official format; Cityscapes and COCO have"
    with pytest.raises(UserError, match=message):
        submission.Submission.open(tmp_path / "out", builder, None, "val")


def test_a_category_that_the_annotations_of_the_split_do_not_list(tmp_path):
    """Files of one data set may list different categories."""
    categories = [{"id": 3, "name": "cell"}, {"id": 5, "name": "wall"}]
    for image, (split, listed) in enumerate({"train": categories, "val": categories[:1]}.items()):
        (tmp_path / split).mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8) + image).save(tmp_path / split / f"{split}.png")
        entries = [{"id": 7, "file_name": f"{split}.png"}]
        content = {"images": entries, "annotations": [], "categories": listed}
        (tmp_path / split / "instances.json").write_text(json.dumps(content))
    _, layout = prepare.resolve(Data(builder="coco", root=str(tmp_path)))
    with pytest.raises(UserError, match="the annotations of val list no category 'wall', whose id results need"):
        submission.Submission.open(tmp_path / "out", "coco", layout, "val")
    assert not (tmp_path / "out").exists()
    written = submission.Submission.open(tmp_path / "out", "coco", layout, "train")
    written.add("train", *_found(2))
    written.close()
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (row["image_id"], row["category_id"], row["score"]) == (7, 5, 0.1)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    written = submission.Cityscapes(tmp_path / "out", scenes.CLASSES)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(UserError, match=r"png cannot be written: No space left on device\. Make room for it\.$"):
        written.add(NAMES[0], *_found(4))
