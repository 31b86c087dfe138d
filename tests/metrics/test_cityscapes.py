"""Agreement with the official Cityscapes scripts, run on files, and the laws that AP and iIoU obey."""

import importlib
import pickle
import sys
import types

import numpy as np
import pytest
from PIL import Image

from jaxseg.metrics import Confusion, Counts, InstanceIoU, PanopticQuality, Truth, cityscapes, coco
from jaxseg.metrics.cityscapes import THRESHOLDS, AveragePrecision
from jaxseg.types import ClassList
from tests.metrics import scenes
from tests.metrics.scenes import CLASSES, IDS

OFFICIAL = "cityscapesscripts.evaluation"
FILE = "city_{:06d}_000000"


@pytest.fixture
def official(monkeypatch, tmp_path):
    """The official modules, patched for NumPy 2.3 and kept from writing into the working directory."""
    if not hasattr(np, "in1d"):
        monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    monkeypatch.chdir(tmp_path)

    def load(name):
        module = importlib.import_module(f"{OFFICIAL}.{name}")
        monkeypatch.setattr(module, "writeDict2JSON", lambda *_: None, raising=False)
        return module

    return load


def arguments(module, **changed):
    """A copy of a tool's settings, quiet, with some changed."""
    args = types.SimpleNamespace(**vars(module.args))
    args.quiet, args.JSONOutput = True, False
    for name, value in changed.items():
        setattr(args, name, value)
    return args


def instance_ids(scene):
    """The official coding: id * 1000 + n for objects, the id alone elsewhere; several void ids, and a trailer."""
    ids = np.array([11, *IDS[1:]])[np.where(scene.semantic == 255, 0, scene.semantic)]
    rows = np.broadcast_to(np.arange(scenes.SIZE[0])[:, None], scenes.SIZE)
    ids = np.where(scene.semantic == 255, np.array([0, 3, 4, 6, 9, 18, 29])[rows % 7], ids)
    ids = np.where((scene.semantic == 255) & (scene.instance > 0), 30, ids)
    return np.where(scene.instance > 0, ids * 1000 + scene.instance, ids).astype(np.uint16)


def write(folder, number, scene):
    """The files of one scene; returns paths of the instance ids and of the two predictions."""
    name = FILE.format(number)
    ids = instance_ids(scene)
    Image.fromarray(ids).save(folder / f"{name}_gtFine_instanceIds.png")
    labels = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
    Image.fromarray(labels).save(folder / f"{name}_gtFine_labelIds.png")
    Image.fromarray(np.array(IDS, np.uint8)[scene.predicted]).save(folder / f"{name}_pred_labels.png")
    lines = []
    for i, found in enumerate(scene.objects):
        Image.fromarray(found.mask.astype(np.uint8) * 255).save(folder / f"{number}_{i}.png")
        lines.append(f"{number}_{i}.png {IDS[found.class_id]} {found.score!r}\n")
    (folder / f"{name}_pred.txt").write_text("".join(lines))
    return str(folder / name)


def official_instances(official, folder, stems):
    """Averages of the official instance-level tool."""
    tool = official("evalInstanceLevelSemanticLabeling")
    args = arguments(tool, predictionPath=str(folder), gtInstancesFile=str(folder / "none.json"))
    predictions, truths = ([f"{stem}_{end}" for stem in stems] for end in ("pred.txt", "gtFine_instanceIds.png"))
    return tool.evaluateImgLists(predictions, truths, args)["averages"]


def official_pixels(official, stems):
    """Results of the official pixel-level tool."""
    tool = official("evalPixelLevelSemanticLabeling")
    predictions, truths = ([f"{stem}_{end}" for stem in stems] for end in ("pred_labels.png", "gtFine_labelIds.png"))
    return tool.evaluateImgLists(predictions, truths, arguments(tool))


def close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours, float), np.asarray(theirs, float), rtol=0, atol=1e-9)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")
@pytest.mark.parametrize("seed", range(60))
def test_equals_the_official_scripts(official, tmp_path, seed):
    """60 data sets of 1 to 7 scenes, 234 in all: AP, AP50, IoU and iIoU of every class and their means."""
    rng = np.random.default_rng(seed)
    made = [scenes.scene(rng, overlapping=seed % 2 == 0) for _ in range(1 + seed % 7)]
    stems = [write(tmp_path, i, scene) for i, scene in enumerate(made)]
    counts = [scene.counts() for scene in made]
    found = sum((AveragePrecision.of(cityscapes.matches(c)) for c in counts), AveragePrecision.empty())
    result, confusion = found.compute(len(CLASSES)), sum((Confusion.of_counts(c) for c in counts), Confusion.empty(6))
    pixels = official_pixels(official, stems)
    close(confusion.iou()[1:], [pixels["classScores"][name] for name in CLASSES.names[1:]])
    weighted = sum((InstanceIoU.of(c) for c in counts), InstanceIoU.empty(6)).compute(CLASSES, cityscapes.SIZES)
    close(weighted[list(CLASSES.things)], [pixels["classInstScores"][n] for n in CLASSES.things.values()])
    if np.isnan(result["ap"]):
        assert all(not c.truth_object.any() or c.truth_area[c.truth_object].max() < 100 for c in counts)
        return
    averages = official_instances(official, tmp_path, stems)
    close(result["ap"], averages["allAp"])
    close(result["ap50"], averages["allAp50%"])
    for i, name in CLASSES.things.items():
        close(result["ap_class"][i], averages["classes"][name]["ap"])
        close(result["ap50_class"][i], averages["classes"][name]["ap50%"])


@pytest.mark.parity
def test_the_scenes_hold_what_they_are_for():
    """Groups, void, foreign and small objects, ties, empty images, masks of no and one pixel, twins, overlaps."""
    made = [scenes.scene(np.random.default_rng(seed)) for seed in range(200)]
    counts = [scene.counts() for scene in made]
    assert sum(c.truth_group.any() for c in counts) > 50
    assert sum(c.void.any() for c in counts) > 50
    assert sum(c.truth_foreign.any() for c in counts) > 20
    assert sum((c.truth_area[c.truth_object] < 100).any() for c in counts) > 50
    assert sum(not c.truth_object.any() for c in counts) > 10
    assert sum(not len(c.area) for c in counts) > 5
    assert sum(len(np.unique(c.score)) < len(c.score) for c in counts) > 100
    for pixels in (0, 1):
        assert sum((c.area == pixels).any() for c in counts) > 20
    verdicts = [cityscapes.matches(c) for c in counts]
    assert sum(v.right[0].any() for v in verdicts) > 100
    assert sum((~v.right[0] & ~v.wrong[0]).any() for v in verdicts) > 30


@pytest.mark.parity
def test_our_sizes_and_void_are_the_official_ones(official):
    tool = official("evalPixelLevelSemanticLabeling")
    assert {name: tool.args.avgClassSize[name] for name in cityscapes.SIZES} == cityscapes.SIZES
    close(THRESHOLDS, official("evalInstanceLevelSemanticLabeling").args.overlaps)
    assert "cityscapesscripts" in sys.modules


ONE = ClassList.of(("car",))


def simple(masks, truth, semantic, scores=(0.9, 0.8, 0.7)):
    """Matches of one row of pixels at most; objects of any size count."""
    segments = Truth.of(np.array([semantic], np.uint8), np.array([truth]), ONE)
    rows = [np.array([mask], bool) for mask in masks]
    kinds = np.ones(len(rows), np.int64)
    counts = Counts.of_masks(
        np.zeros((1, len(truth)), np.uint8), rows, kinds, np.array(scores[: len(rows)]), segments, ONE
    )
    return cityscapes.matches(counts, smallest=1)


def test_an_iou_of_exactly_one_half_does_not_match():
    found = simple([[1, 1, 0, 0]], [1, 0, 0, 0], [1, 0, 0, 0])
    assert not found.right.any()
    assert found.wrong.all()


def test_the_less_confident_of_two_matches_is_wrong():
    found = simple([[1, 1, 1, 0], [1, 1, 1, 1]], [1, 1, 1, 1], [1, 1, 1, 1])
    np.testing.assert_array_equal(found.right[0], [True, False])
    np.testing.assert_array_equal(found.wrong[0], [False, True])
    np.testing.assert_array_equal(found.right[-1], [False, True])


def test_a_prediction_on_a_group_is_left_out_and_a_foreign_object_excuses_nothing():
    group = simple([[1, 1, 1, 0]], [0, 0, 0, 2], [1, 1, 1, 1])
    assert not (group.wrong | group.right).any()
    foreign = simple([[1, 1, 1, 0]], [7, 7, 7, 2], [255, 255, 255, 1])
    assert foreign.wrong.all()
    void = simple([[1, 1, 1, 0]], [0, 0, 0, 2], [255, 255, 255, 1])
    assert not (void.wrong | void.right).any()


def test_a_perfect_prediction_scores_one_and_order_does_not_matter():
    made = [scenes.scene(np.random.default_rng(seed)) for seed in range(30)]
    found = [cityscapes.matches(scene.counts()) for scene in made]
    forward, backward = (AveragePrecision.of(*part).compute(6) for part in (found, found[::-1]))
    for name in forward:
        close(forward[name], backward[name])
    halves = AveragePrecision.of(*found[:11]).merge(AveragePrecision.of(*found[11:]) + AveragePrecision.empty())
    close(halves.compute(6)["ap_class"], forward["ap_class"])
    perfect = [
        scenes.Scene(s.semantic, s.instance, s.predicted, [
            scenes.Prediction(s.truth.index == i, int(s.truth.class_id[i]), 0.5) for i in np.flatnonzero(s.truth.object)
        ]) for s in made
    ]  # fmt: skip
    result = AveragePrecision.of(*(cityscapes.matches(s.counts()) for s in perfect)).compute(6)
    assert result["ap"] == result["ap50"] == 1.0


def test_maps_and_masks_without_overlap_count_the_same():
    for seed in range(20):
        scene = scenes.scene(np.random.default_rng(seed), overlapping=False)
        instance = np.zeros(scenes.SIZE, np.int64)
        for i, each in enumerate(scene.objects):
            instance[each.mask] = i + 1
        kinds = np.array([o.class_id for o in scene.objects], np.int64)
        scores = np.array([o.score for o in scene.objects], np.float64)
        valid = np.ones(len(kinds), bool)
        maps = Counts.of(scene.predicted, instance, kinds, scores, valid, scene.truth, CLASSES)
        masks = scene.counts()
        for name in ("class_id", "score", "area", "common", "semantic", "rest"):
            np.testing.assert_array_equal(getattr(maps, name), getattr(masks, name))


def test_the_curve_integrates_to_the_ap():
    found = AveragePrecision.of(
        *(cityscapes.matches(scenes.scene(np.random.default_rng(s)).counts()) for s in range(9))
    )
    curve = found.curve(4)
    assert (np.diff(curve.recall) >= 0).all()
    assert (np.diff(curve.score) < 0).all()
    recall, precision = np.append(0.0, curve.recall), np.append(1.0, curve.precision)
    ends = np.concatenate([[0.0], recall, recall[-1:]])
    assert np.dot(precision, (ends[2:] - ends[:-2]) / 2) == pytest.approx(found.compute(6)["ap50_class"][4])
    with pytest.raises(ValueError, match="`threshold` must be one of"):
        found.curve(4, 0.52)


def test_every_metric_travels_between_processes_and_adds_up_there():
    """Sums of two halves, pickled, equal those of the whole."""
    counts = [scenes.scene(np.random.default_rng(seed), False).counts() for seed in range(8)]

    def total(part):
        ranked = AveragePrecision.of(*(cityscapes.matches(c) for c in part))
        by_coco = coco.AveragePrecision.of(*(coco.matches(c) for c in part))
        sums = [Confusion.of_counts(part[0]), InstanceIoU.of(part[0]), PanopticQuality.of(part[0])]
        for c in part[1:]:
            sums = [a + type(a).of_counts(c) if isinstance(a, Confusion) else a + type(a).of(c) for a in sums]
        return [ranked, by_coco, *sums]

    sent = pickle.loads(pickle.dumps([total(counts[:3]), total(counts[3:])]))
    merged, whole = [a.merge(b) for a, b in zip(*sent, strict=True)], total(counts)
    for one, other in zip(merged[:2], whole[:2], strict=True):
        close(one.compute(6)["ap_class"], other.compute(6)["ap_class"])
    close(merged[2].iou(), whole[2].iou())
    close(merged[3].compute(CLASSES), whole[3].compute(CLASSES))
    close(merged[4].compute(CLASSES)["pq_class"], whole[4].compute(CLASSES)["pq_class"])


def test_nothing_at_all_is_nan():
    result = AveragePrecision.empty().compute(3)
    assert np.isnan([result["ap"], result["ap50"], *result["ap_class"]]).all()


def test_own_sizes_need_every_class():
    with pytest.raises(ValueError, match="`sizes` must name every class with instances: car is missing"):
        InstanceIoU.empty(2).compute(ONE, {"person": 1.0})


def test_without_given_sizes_objects_weigh_as_their_mean():
    """Two objects of 1 and 3 pixels, mean 2: the small one is hit, the large one missed, one pixel wrong."""
    truth = Truth.of(np.array([[1, 1, 1, 1, 0]], np.uint8), np.array([[1, 2, 2, 2, 0]]), ONE)
    predicted = np.array([[1, 0, 0, 0, 1]], np.uint8)
    none = np.zeros(0, np.int64)
    counts = Counts.of(predicted, np.zeros((1, 5), int), none, none.astype(float), none.astype(bool), truth, ONE)
    assert InstanceIoU.of(counts).compute(ONE)[1] == pytest.approx(2 / (2 * 2 + 1))
