"""Agreement with the official panoptic code, run on files, and what PQ means on small drawings."""

import importlib

import numpy as np
import pytest
from PIL import Image

from jaxseg.metrics import Counts, PanopticQuality, Truth
from jaxseg.types import ClassList
from tests.metrics import scenes
from tests.metrics.scenes import CLASSES

OTHER = 999
"""Id of true background: neither void nor a segment."""


def panoptic_maps(scene):
    """Official ids of truth and prediction, with their segments."""
    truth, segments, index = np.zeros(scenes.SIZE, np.int64), [], scene.truth
    for i, class_id in enumerate(index.class_id):
        if class_id == 255:
            continue
        truth[index.index == i] = 1 + i if class_id else OTHER
        if class_id:
            crowd = int(index.group[i])
            info = {"id": 1 + i, "category_id": int(class_id), "area": int(index.area[i]), "iscrowd": crowd}
            segments.append(info)
    predicted, found = np.zeros(scenes.SIZE, np.int64), []
    for c in CLASSES.stuff:
        if (scene.predicted == c).any():
            predicted[scene.predicted == c] = c
    for i, each in enumerate(scene.objects):
        predicted[each.mask] = 100 + i
    for number in np.unique(predicted[predicted > 0]):
        kind = scene.objects[number - 100].class_id if number >= 100 else number
        found.append({"id": int(number), "category_id": int(kind)})
    return truth, segments, predicted, found


def save(path, ids):
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)).save(path)


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(52))
def test_equals_the_official_code(tmp_path, seed):
    """52 data sets of 1 to 7 scenes, 202 in all."""
    tool = importlib.import_module("cityscapesscripts.evaluation.evalPanopticSemanticLabeling")
    rng = np.random.default_rng(seed)
    made = [scenes.scene(rng, overlapping=False) for _ in range(1 + seed % 7)]
    pairs = []
    for i, scene in enumerate(made):
        truth, segments, predicted, found = panoptic_maps(scene)
        save(tmp_path / f"t{i}.png", truth)
        save(tmp_path / f"p{i}.png", predicted)
        pairs.append(({"file_name": f"t{i}.png", "segments_info": segments, "image_id": i},
                      {"file_name": f"p{i}.png", "segments_info": found}))  # fmt: skip
    categories = {i: {"isthing": int(i in CLASSES.things)} for i in range(1, len(CLASSES))}
    stat = tool.pq_compute_single_core(0, pairs, str(tmp_path), str(tmp_path), categories)
    total = sum((PanopticQuality.of(scene.counts()) for scene in made), PanopticQuality.empty(len(CLASSES)))
    ours = total.compute(CLASSES)
    for i in categories:
        theirs = stat[i]
        assert (total.right[i], total.wrong[i], total.missed[i]) == (theirs.tp, theirs.fp, theirs.fn)
        assert total.iou[i] == pytest.approx(theirs.iou, abs=1e-9)
    for name, part in (("", None), ("_things", True), ("_stuff", False)):
        if np.isnan(ours[f"pq{name}"]):
            continue
        means, _ = stat.pq_average(categories, part)
        assert ours[f"pq{name}"] == pytest.approx(means["pq"], abs=1e-9)
        if part is None:
            assert [ours["sq"], ours["rq"]] == pytest.approx([means["sq"], means["rq"]], abs=1e-9)


ONE = ClassList.of(("car",))


def simple(predicted, truth, semantic, rows=2):
    """PQ of one row of pixels with one class."""
    segments = Truth.of(np.array([semantic], np.uint8), np.array([truth]), ONE)
    ids = np.array([predicted])
    ones = np.ones(rows, np.int64)
    counts = Counts.of((ids > 0).astype(np.uint8), ids, ones, ones.astype(float), ones.astype(bool), segments, ONE)
    return PanopticQuality.of(counts)


def test_void_does_not_count_in_the_union():
    found = simple([1, 1, 1, 0], [5, 5, 0, 0], [1, 1, 255, 0], rows=1)
    assert found.compute(ONE)["pq"] == 1.0


def test_one_right_one_wrong_one_missed():
    """IoU 2/3; the second prediction is on background, the second car is not found: PQ = 2/3 / 2."""
    found = simple([1, 1, 1, 0, 2, 0], [3, 3, 0, 4, 0, 0], [1, 1, 0, 1, 0, 0]).compute(ONE)
    assert found["pq"] == pytest.approx(1 / 3)
    assert (found["sq"], found["rq"]) == (pytest.approx(2 / 3), 0.5)


def test_a_perfect_prediction_scores_one_and_nothing_is_nan():
    assert simple([1, 2, 2, 0], [8, 9, 9, 0], [1, 1, 1, 0]).compute(ONE)["pq"] == 1.0
    assert np.isnan(PanopticQuality.empty(2).compute(ONE)["pq"])


def test_merging_is_counting_together():
    made = [PanopticQuality.of(scenes.scene(np.random.default_rng(s), False).counts()) for s in range(6)]
    together = sum(made, PanopticQuality.empty(6)).compute(CLASSES)
    halves = sum(made[:2], PanopticQuality.empty(6)).merge(sum(made[2:], PanopticQuality.empty(6))).compute(CLASSES)
    for name in together:
        np.testing.assert_allclose(together[name], halves[name])
