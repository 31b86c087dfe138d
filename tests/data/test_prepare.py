"""Preparing data sets: complete or not at all, once for each state of settings and files."""

import dataclasses
import os
import pickle
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxseg.config import Data, Folder, Shapes, UserError
from jaxseg.data import Label, builders, check, prepare, shapes

DSB2018 = Path(__file__).parents[3] / "shared" / "data" / "dsb2018"


@pytest.fixture
def data(tmp_path) -> Data:
    return Data(
        builder="shapes",
        classes=shapes.CLASSES[:4],
        cache=str(tmp_path / "cache"),
        seed=5,
        crop=(32, 32),
        shapes=Shapes(size=(32, 48), train=6, val=3),
    )


@pytest.fixture
def cells(tmp_path) -> Data:
    rng = np.random.default_rng(0)
    for split, names in (("train", "ba"), ("val", "c")):
        for part in ("images", "instances"):
            (tmp_path / "data" / split / part).mkdir(parents=True)
        for i, name in enumerate(names):
            size = (20 + i, 30)
            image = rng.integers(0, 255, (*size, 3) if i else size).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "data" / split / "images" / f"{name}.png"), image)
            raw = np.where(rng.random(size) < 0.5, 1000 + 60 * i, 0).astype(np.uint16)
            cv2.imwrite(str(tmp_path / "data" / split / "instances" / f"{name}.png"), raw)
    return Data(builder="folder", root=str(tmp_path / "data"), classes=("cell",), cache=str(tmp_path / "cache"))


def _prepared(data: Data) -> set[Path]:
    """Complete preparations in the cache, and what is left of incomplete ones."""
    return {path.parent for path in Path(data.cache).rglob("*.array_record*")}


def test_scenes_come_back_exactly(data):
    source = prepare.source(data, "val")
    assert len(source) == 3
    for i in range(3):
        for stored, drawn in zip(source[i], shapes.generate(5, "val", i, (32, 48), 4), strict=True):
            np.testing.assert_array_equal(stored, drawn)
            assert getattr(stored, "dtype", None) == getattr(drawn, "dtype", None)


def test_prepared_once(data):
    prepare.source(data, "train")
    before = {path: path.stat().st_mtime_ns for path in Path(data.cache).rglob("*") if path.is_file()}
    prepare.source(data, "val")
    assert before == {path: path.stat().st_mtime_ns for path in Path(data.cache).rglob("*") if path.is_file()}


def test_scenes_are_the_same_data_wherever_a_command_is_run(data, tmp_path, monkeypatch):
    before = prepare.dataset(data).builder.data_path
    monkeypatch.chdir(tmp_path)
    assert prepare.dataset(data).builder.data_path == before


def test_other_settings_are_other_data(data):
    prepare.source(data, "train")
    other = prepare.source(dataclasses.replace(data, seed=6), "train")
    assert len(_prepared(data)) == 2
    assert (other[0].image != prepare.source(data, "train")[0].image).any()


def test_worker_processes_do_not_get_the_listing(data):
    few, many = (
        len(pickle.dumps(prepare.source(dataclasses.replace(data, shapes=Shapes((32, 48), train, 1)), "val")))
        for train in (1, 60)
    )
    assert many < few + 1000


def test_source_ends_where_it_should_and_can_be_pickled(data):
    source = prepare.source(data, "train")
    assert [e.name for e in source] == [f"train_{i:06d}" for i in range(6)]
    with pytest.raises(IndexError, match="must be 0 to 5: got 6"):
        source[6]
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[2].image, source[2].image)


def test_class_pixels_are_counted_while_the_data_is_prepared(data):
    dataset = prepare.dataset(data)
    source = dataset.split("train")
    semantic = np.concatenate([source[i].semantic.ravel() for i in range(len(source))])
    expected = np.bincount(semantic, minlength=256)[:5]
    np.testing.assert_array_equal(check.class_pixels(dataset.records["train"], 5), expected)
    assert expected.sum() == (semantic != 255).sum()


def test_records_are_those_of_the_stored_examples(data):
    dataset = prepare.dataset(data)
    for split, rows in dataset.records.items():
        source = dataset.split(split)
        examples = [source[i] for i in range(len(source))]
        assert [row.name for row in rows] == [e.name for e in examples]
        for row, e in zip(rows, examples, strict=True):
            assert row.instances == check.objects(Label(e.semantic, e.instance))
            assert row.size == e.semantic.shape


@pytest.mark.parametrize("classes", [("star", "disc"), tuple(f"c{i}" for i in range(9))])
def test_names_of_shapes_must_mean_what_is_drawn(data, classes):
    with pytest.raises(UserError, match="must be the first 1 to 8 of disc, square"):
        prepare.source(dataclasses.replace(data, classes=classes), "train")


def test_folder_comes_back_in_order_of_names(cells):
    source = prepare.source(cells, "train")
    assert [e.name for e in source] == ["a", "b"]
    a, b = source[0], source[1]
    path = Path(cells.root) / "train" / "images"
    np.testing.assert_array_equal(a.image, cv2.imread(str(path / "a.png"))[..., ::-1])
    # Gray is repeated over the channels.
    np.testing.assert_array_equal(
        b.image, cv2.imread(str(path / "b.png"), cv2.IMREAD_GRAYSCALE)[..., None].repeat(3, -1)
    )
    assert a.image.shape == (21, 30, 3)
    assert set(np.unique(a.instance)) == {0, 1}
    np.testing.assert_array_equal(a.semantic, a.instance)


def test_groups_are_ignored_in_training_and_known_in_evaluation(cells):
    """A group (n = 0) beside an object in one label, an object alone in the other: one stored label serves both."""
    raw = np.zeros((21, 30), np.uint16)
    raw[2:9, 2:9], raw[12:, 5:] = 1000, 1003
    for name, label in (("a", raw), ("b", np.where(raw[:20] == 1000, 0, raw[:20]))):
        cv2.imwrite(str(Path(cells.root) / "train" / "instances" / f"{name}.png"), label)
    data = dataclasses.replace(cells, folder=Folder(zero_is_instance=False), accept=("empty",))
    plain, whole = prepare.source(data, "train"), prepare.source(data, "train", full=True)
    np.testing.assert_array_equal(plain[0].semantic, np.where(raw == 1000, 255, raw == 1003))
    np.testing.assert_array_equal(plain[0].instance, raw == 1003)
    assert plain[0].full is None
    np.testing.assert_array_equal(whole[0].semantic, plain[0].semantic)
    np.testing.assert_array_equal(whole[0].full.semantic, raw > 0)
    np.testing.assert_array_equal(whole[0].full.instance, raw == 1003)
    assert whole[1].full is None
    again = pickle.loads(pickle.dumps(whole))
    np.testing.assert_array_equal(again[0].full.semantic, raw > 0)


def test_unknown_split_names_those_there(cells):
    with pytest.raises(UserError, match="has no split test, only train, val"):
        prepare.source(cells, "test")


def test_a_changed_folder_is_prepared_again(cells):
    prepare.source(cells, "val")
    path = Path(cells.root) / "val" / "instances" / "c.png"
    cv2.imwrite(str(path), np.full((20, 30), 1003, np.uint16))
    assert prepare.source(cells, "val")[0].instance.all()


def test_other_meaning_of_the_same_folder_is_prepared_again(cells):
    assert prepare.source(cells, "val")[0].instance.any()
    regions = dataclasses.replace(cells, folder=Folder(zero_is_instance=False), accept=("empty",))
    assert not prepare.source(regions, "val")[0].instance.any()


def _grouped(cells: Data) -> Data:
    """Group and two objects in the image a of train; no group elsewhere."""
    for path in Path(cells.root).rglob("instances/*.png"):
        raw = np.zeros(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape, np.uint16)
        raw[:4, :5], raw[6:9, :5], raw[:4, 8:12] = 1001, 1002, 1000 if path.stem == "a" else 0
        cv2.imwrite(str(path), raw)
    return dataclasses.replace(cells, folder=Folder(zero_is_instance=False))


def test_training_ignores_groups_and_evaluation_knows_them(cells):
    dataset = prepare.dataset(_grouped(cells))
    for full in (False, True):
        source = pickle.loads(pickle.dumps(dataset.split("train", full=full)))
        a, b = source[0], source[1]
        assert (a.semantic[:4, 8:12] == 255).all()
        assert not a.instance[:4, 8:12].any()
        assert (a.semantic == 255).sum() == 16
        assert (a.full is not None) == full
        assert b.full is None
    np.testing.assert_array_equal(source[0].full.semantic, np.where(a.semantic == 255, 1, a.semantic))
    np.testing.assert_array_equal(source[0].full.instance, a.instance)


def test_records_count_groups_as_ignored(cells):
    a, b = prepare.dataset(_grouped(cells)).records["train"]
    assert (a.pixels[255], a.pixels[1], 255 in b.pixels) == (16, 35, False)
    assert [row[:2] for row in a.instances] == [row[:2] for row in b.instances] == [(1, 20), (1, 15)]


def test_an_image_without_groups_is_stored_as_training_reads_it(cells):
    stored = prepare.dataset(_grouped(cells)).builder.as_data_source("train")
    assert [example["grouped"] for example in (stored[0], stored[1])] == [True, False]
    raw = cv2.imread(str(Path(cells.root) / "train" / "instances" / "b.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored[1]["semantic"][..., 0], raw > 0)
    np.testing.assert_array_equal(stored[1]["instance"][..., 0], np.where(raw > 0, raw - 1000, 0))


def test_bad_data_leaves_nothing_behind_and_old_data_alone(cells):
    prepare.source(cells, "val")
    before = _prepared(cells)
    path = Path(cells.root) / "val" / "instances" / "c.png"
    good = path.read_bytes()
    cv2.imwrite(str(path), np.full((20, 30), 7000, np.uint16))
    for _ in range(2):
        with pytest.raises(UserError, match=f"^{path} holds 7000"):
            prepare.source(cells, "train")
        assert _prepared(cells) == before
    path.write_bytes(good)
    assert len(prepare.source(cells, "train")) == 2


def test_a_preparation_that_was_interrupted_goes_on_where_it_stopped(data, monkeypatch):
    drawn, generate = [], shapes.generate

    def interrupted(seed, split, index, *rest):
        if index == 5 and not resumed:
            raise KeyboardInterrupt
        drawn.append((split, index))
        return generate(seed, split, index, *rest)

    monkeypatch.setattr(shapes, "generate", interrupted)
    monkeypatch.setattr(builders, "PART", 2)
    resumed = False
    with pytest.raises(KeyboardInterrupt):
        prepare.source(data, "train")
    assert not _prepared(data)
    assert {("train", i) for i in range(4)} <= set(drawn)
    drawn.clear()
    resumed = True
    source = prepare.source(data, "train")
    assert set(drawn) <= {("train", 4), ("train", 5), *(("val", i) for i in range(3))}
    for i in range(6):
        np.testing.assert_array_equal(source[i].image, generate(5, "train", i, (32, 48), 4).image)
    assert not list((Path(data.cache) / "parts").iterdir())


def test_a_damaged_part_is_made_again(data, monkeypatch):
    monkeypatch.setattr(builders, "PART", 2)
    part = builders._Builder._part

    def damaged(self, split, start):
        part(self, split, start)
        for path in self.builder_config.parts.glob("*.part"):
            path.write_bytes(path.read_bytes()[:-9])
        return part(self, split, start)

    monkeypatch.setattr(builders._Builder, "_part", damaged)
    assert len(prepare.source(data, "train")) == 6


@pytest.mark.parametrize("damage", ["truncated", "removed", "records"])
def test_a_half_written_result_is_refused(data, damage):
    path = Path(prepare.dataset(data).builder.data_path)
    (shard,) = path.glob("*train.array_record*")
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    if damage == "removed":
        shard.unlink()
    if damage == "records":
        (path / "metadata.json").write_text("{}")
    with pytest.raises(UserError, match=r"damaged: .*Remove that folder; it is made again\."):
        prepare.source(data, "train")


def test_old_rests_of_preparations_are_removed_and_young_ones_left(data):
    path = Path(prepare.dataset(data).builder.data_path)
    old, young = path.parent / "incomplete.A_1.0.1", path.parent / "incomplete.B_1.0.1"
    shutil.rmtree(path)
    for rest, age in ((old, 2 * prepare.STALE), (young, 0)):
        rest.mkdir()
        os.utime(rest, (time.time() - age,) * 2)
    prepare.dataset(data)
    assert not old.exists()
    assert young.exists()


def test_the_class_list_of_the_data_set_becomes_that_of_the_settings(cells):
    listed = '[{"name": "cell", "color": [9, 8, 7]}, {"name": "ground", "isthing": 0}]'
    (Path(cells.root) / "classes.json").write_text(listed)
    resolved, layout = prepare.resolve(dataclasses.replace(cells, classes=()))
    assert (resolved.classes, resolved.stuff, resolved.colors) == (("cell", "ground"), ("ground",), ())
    assert layout.classes.things == {1: "cell"}
    again, other = prepare.resolve(resolved)
    assert again == resolved
    assert other.fingerprint() == layout.fingerprint()


def test_what_is_accepted_is_left_out(cells):
    (Path(cells.root) / "train" / "images" / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a.png is not an image .*--data.accept unreadable goes on all the same"):
        prepare.source(cells, "train")
    accepting = dataclasses.replace(cells, accept=("unreadable",))
    source = prepare.source(accepting, "train")
    assert [source[i].name for i in range(len(source))] == ["b"]


def test_a_split_without_a_usable_image(cells):
    (Path(cells.root) / "val" / "images" / "c.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"No image of .*/data/val can be used"):
        prepare.source(dataclasses.replace(cells, accept=("unreadable",)), "train")


def test_nothing_is_printed_on_stdout(data, capsys):
    prepare.source(data, "train")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("prepared shapes in ")


def test_cache_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Check --data.root and --data.cache"):
        prepare.source(dataclasses.replace(data, cache=str(tmp_path / "file" / "cache")), "train")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert prepare.cache(Data()) == tmp_path / "jaxseg"
    assert prepare.cache(Data(cache="here")) == Path("here")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert prepare.cache(Data()) == Path.home() / ".cache" / "jaxseg"


@pytest.mark.skipif(not DSB2018.is_dir(), reason="needs the nuclei data set")
def test_nuclei(tmp_path):
    """Three images of the data set, linked, against the counts of its own instance maps."""
    names = sorted(path.stem for path in (DSB2018 / "val" / "images").iterdir())[:3]
    for part, suffix in (("images", ""), ("instances", ".png")):
        (tmp_path / "val" / part).mkdir(parents=True)
        for name in names:
            (found,) = (DSB2018 / "val" / part).glob(f"{name}{suffix}*")
            (tmp_path / "val" / part / found.name).symlink_to(found)
    data = Data(builder="folder", root=str(tmp_path), classes=("nucleus",), cache=str(tmp_path / "cache"))
    source = prepare.source(data, "val")
    assert [e.name for e in source] == names
    for e in source:
        raw = cv2.imread(str(DSB2018 / "val" / "instances" / f"{e.name}.png"), cv2.IMREAD_UNCHANGED)
        assert e.instance.max() == len(np.unique(raw[raw > 0]))
        np.testing.assert_array_equal(e.semantic == 1, raw > 0)
