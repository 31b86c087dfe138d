"""Cityscapes from folders and zips: what its pixels mean, and what is refused, word for word."""

import os
import pickle
import re
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxseg.config import Cityscapes, Data, UserError
from jaxseg.data import cityscapes, images, layouts
from jaxseg.data.layouts import DataError, Fault

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco200"
SIZE, STORED = (32, 64), (16, 32)
THINGS = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
ZIPS = {
    ("leftImg8bit", False): "leftImg8bit_trainvaltest.zip",
    ("gtFine", False): "gtFine_trainvaltest.zip",
    ("leftImg8bit", True): "leftImg8bit_trainextra.zip",
    ("gtCoarse", True): "gtCoarse.zip",
}


def _raw() -> np.ndarray:
    """Road under a sky, two cars, a person, a group of persons, and the void around them."""
    raw = np.full(SIZE, 7, np.uint16)
    raw[:10], raw[30:] = 23, 1
    raw[12:20, 4:14], raw[12:20, 20:31], raw[8:24, 40:44], raw[8:24, 50:60] = 26000, 26003, 24000, 24
    return raw


def _image_path(root: Path, split: str, name: str, suffix: str = ".png") -> Path:
    return root / "leftImg8bit" / split / name.split("_")[0] / f"{name}_leftImg8bit{suffix}"


def _label_path(root: Path, split: str, name: str) -> Path:
    kind = "gtCoarse" if split == "train_extra" else "gtFine"
    return root / kind / split / name.split("_")[0] / f"{name}_{kind}_instanceIds.png"


def _write(root: Path, split: str, name: str, raw: np.ndarray | None = None, seed: int = 0) -> None:
    raw = _raw() if raw is None else raw
    image = np.random.default_rng(seed).integers(0, 256, (*raw.shape, 3)).astype(np.uint8)
    for path, pixels in ((_image_path(root, split, name), image), (_label_path(root, split, name), raw)):
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), pixels)


def _whole(root: Path) -> Path:
    """A small data set, laid out as published."""
    for i, name in enumerate(("ulm_000001_000019", "aachen_000000_000019")):
        _write(root, "train", name, seed=i)
    for i, (split, city) in enumerate((("val", "lindau"), ("test", "berlin"), ("train_extra", "nuremberg"))):
        _write(root, split, f"{city}_000000_000019", seed=9 + i)
    (root / "gtFine" / "train" / "ulm" / "ulm_000001_000019_gtFine_polygons.json").write_text("{}")
    return root


def _pack(root: Path, into: Path, tops: tuple[str, ...] = ("leftImg8bit", "gtFine", "gtCoarse")) -> Path:
    """The zips of a data set."""
    into.mkdir(exist_ok=True)
    for (top, extra), name in ZIPS.items():
        files = [p for p in sorted((root / top).glob("*/*/*")) if (p.parts[-3] == "train_extra") == extra]
        if files and top in tops:
            with zipfile.ZipFile(into / name, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("README", "")
                archive.writestr(f"{top}/", "")
                for path in files:
                    archive.write(path, path.relative_to(root).as_posix())
    return into


def _data(root: Path, classes: tuple[str, ...] = (), stuff: tuple[str, ...] = (), **settings) -> Data:
    settings = {"size": STORED} | settings
    return Data(builder="cityscapes", root=str(root), classes=classes, stuff=stuff, cityscapes=Cityscapes(**settings))


def _layout(root: Path, **settings) -> cityscapes.Layout:
    return cityscapes.layout(_data(root, **settings))


def _classes(*names: str, stuff: tuple[str, ...] = ()):
    return cityscapes._classes(Data(classes=names, stuff=stuff))


def _only(root: Path, split: str = "train"):
    layout = _layout(root)
    (item,) = layout.splits[split]
    return layout.read(item)


def _fails(message: str, kind: type[UserError] = UserError):
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


def _equal(one, other) -> None:
    assert (one.content, one.digest, one.faults) == (other.content, other.digest, other.faults)
    for a, b in ((one.label, other.label), (one.full, other.full)):
        np.testing.assert_array_equal(a.semantic, b.semantic)
        np.testing.assert_array_equal(a.instance, b.instance)


# What pixels mean.


def test_the_official_table():
    classes = _classes(*(row.name for row in cityscapes.EVALUATED))
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert [row.id for row in cityscapes.EVALUATED] == ids
    assert len(set(classes.colors)) == 20
    assert tuple(classes.things.values()) == THINGS
    assert classes.names[classes.stuff[0]] == "road"


def test_default_classes_are_the_things_in_their_order():
    classes = _classes()
    assert classes.names == ("background", *THINGS)
    assert classes.stuff == ()
    assert classes.colors[1:4] == ((220, 20, 60), (255, 0, 0), (0, 0, 142))


@pytest.mark.parametrize(
    ("value", "semantic", "instance"),
    [
        *((void, 255, 0) for void in (*range(7), 9, 10, 14, 15, 16, 18, 29, 30)),
        *((void * 1000 + n, 255, 65535) for void in (1, 6, 9, 18, 29, 30) for n in (0, 999)),
        *((-1 & 0xFFFF, 255, 0), (-1000 & 0xFFFF, 255, 0), (-997 & 0xFFFF, 255, 0)),
        *((24, 2, 0), (26, 1, 0)),
        *((24000, 2, 1), (24999, 2, 1), (26000, 1, 1), (26042, 1, 1)),
        *((7, 3, 0), (7000, 3, 0), (7005, 3, 0)),
        *((other, 0, 0) for other in (8, 11, 23, 25, 27, 33, 8000, 25000, 33002)),
    ],
)
def test_meaning_of_a_pixel(value, semantic, instance):
    label, faults = cityscapes.decode(np.full((2, 3), value, np.uint16), _classes("car", "person", "road"), "label.png")
    np.testing.assert_array_equal(label.semantic, np.full((2, 3), semantic))
    np.testing.assert_array_equal(label.instance, np.full((2, 3), instance))
    assert (label.semantic.dtype, label.instance.dtype, faults) == (np.uint8, np.uint16, ())


def test_ids_have_no_gaps_and_follow_the_values():
    raw = np.array([[26007, 24003, 7], [26001, 33000, 26]], np.uint16)
    (semantic, instance), _ = cityscapes.decode(raw, _classes("car", "person"), "label.png")
    np.testing.assert_array_equal(semantic, [[1, 2, 0], [1, 0, 1]])
    np.testing.assert_array_equal(instance, [[3, 1, 0], [2, 0, 0]])


def test_groups_and_objects_of_no_class_are_for_evaluation_alone(tmp_path):
    """A group of persons and a trailer; training sees both as void, without an instance."""
    raw = _raw()
    raw[26:30, 2:12] = 30002
    _write(tmp_path, "train", "ulm_1", raw)
    labelled = _only(tmp_path)
    np.testing.assert_array_equal(labelled.full.semantic[8:24, 50:60], 1)
    np.testing.assert_array_equal(labelled.full.instance[8:24, 50:60], 0)
    np.testing.assert_array_equal(labelled.full.semantic[26:30, 2:12], 255)
    np.testing.assert_array_equal(labelled.full.instance[26:30, 2:12], cityscapes.FOREIGN)
    for place in (np.s_[4:12, 25:30], np.s_[13:15, 1:6]):
        np.testing.assert_array_equal(labelled.label.semantic[place], 255)
        np.testing.assert_array_equal(labelled.label.instance[place], 0)
    assert labelled.label.instance.max() == 3


def test_a_thing_may_be_learnt_as_stuff_groups_included():
    raw = np.array([[24, 24000, 24001, 26000]], np.uint16)
    (semantic, instance), _ = cityscapes.decode(raw, _classes("car", "person", stuff=("person",)), "label.png")
    np.testing.assert_array_equal(semantic, [[2, 2, 2, 1]])
    np.testing.assert_array_equal(instance, [[0, 0, 0, 1]])


def test_labels_of_8_bits_are_read():
    (semantic, _), faults = cityscapes.decode(np.array([[7, 24, 0, 8]], np.uint8), _classes("car", "road"), "label.png")
    np.testing.assert_array_equal(semantic, [[2, 0, 255, 0]])
    assert faults == ()


@pytest.mark.parametrize(
    ("value", "class_id"), [(34, 34), (255, 255), (999, 999), (34000, 34), (50001, 50), (64535, 64)]
)
def test_unknown_class_is_ignored_and_said(value, class_id):
    label, faults = cityscapes.decode(np.array([[26000, value]], np.uint16), _classes("car"), "label.png")
    np.testing.assert_array_equal(label.semantic, [[1, 255]])
    np.testing.assert_array_equal(label.instance, [[1, 0]])
    text = f"label.png holds {value}, which means class {class_id} of 0 to 33. Mend the label: a pixel is an id of "
    assert faults == (Fault("class", text + "Cityscapes' own, or id * 1000 + n."),)


def test_a_class_that_cityscapes_has_not(tmp_path):
    _whole(tmp_path)
    with pytest.raises(
        UserError, match=f"^'license plate' is no class of {re.escape(str(tmp_path))}. Choose from road"
    ):
        _layout(tmp_path, classes=("car", "license plate"))


# What is listed.


def test_splits_in_order_of_names(tmp_path):
    layout = _layout(_whole(tmp_path))
    assert {split: [item.name for item in items] for split, items in layout.splits.items()} == {
        "train": ["aachen_000000_000019", "ulm_000001_000019"],
        "val": ["lindau_000000_000019"],
        "test": ["berlin_000000_000019"],
    }
    assert layout.faults == ()
    assert layout.title == str(tmp_path)


def test_zips_equal_folders(tmp_path):
    plain = _layout(_whole(tmp_path / "folders"), coarse=True)
    packed = _layout(_pack(tmp_path / "folders", tmp_path / "zips"), coarse=True)
    assert list(plain.splits) == list(packed.splits)
    for split, items in plain.splits.items():
        assert [item.name for item in items] == [item.name for item in packed.splits[split]]
        for one, other in zip(items, packed.splits[split], strict=True):
            _equal(plain.read(one), packed.read(other))
    assert len(plain.splits["train"]) == 3
    assert sorted(p.name for p in (tmp_path / "zips").iterdir()) == sorted(ZIPS.values())


def test_a_folder_wins_for_images_and_labels_separately(tmp_path):
    for name, raw in (("old", np.full(SIZE, 26000, np.uint16)), ("new", np.full(SIZE, 24000, np.uint16))):
        _write(tmp_path / name, "train", "ulm_1", raw, seed=int(name == "new"))
    root = _pack(tmp_path / "old", tmp_path / "root")
    label = _label_path(root, "train", "ulm_1")
    label.parent.mkdir(parents=True)
    label.write_bytes(_label_path(tmp_path / "new", "train", "ulm_1").read_bytes())
    mixed = _only(root)
    assert mixed.digest == _only(tmp_path / "old").digest != _only(tmp_path / "new").digest
    assert (mixed.full.semantic == 1).all()
    assert (_only(tmp_path / "old").full.semantic == 3).all()


def test_coarse_images_are_training_images_where_asked_for(tmp_path):
    root = _pack(_whole(tmp_path / "folders"), tmp_path / "zips")
    assert [item.name for item in _layout(root, coarse=True).splits["train"]] == [
        "aachen_000000_000019",
        "nuremberg_000000_000019",
        "ulm_000001_000019",
    ]
    assert [item.name for item in _layout(root, coarse=True).splits["val"]] == ["lindau_000000_000019"]
    (root / "leftImg8bit_trainextra.zip").unlink()
    assert len(_layout(root).splits["train"]) == 2
    message = (
        f"{root} holds no leftImg8bit/train_extra, which --data.cityscapes.coarse asks for. "
        "Put leftImg8bit_trainextra.zip and gtCoarse.zip there."
    )
    with _fails(message):
        _layout(root, coarse=True)


def test_hidden_files_and_others_are_no_images(tmp_path):
    _write(tmp_path, "train", "ulm_1")
    city = _image_path(tmp_path, "train", "ulm_1").parent
    for name in ("._ulm_2_leftImg8bit.png", "ulm_3_leftImg8bit.txt", "ulm_4_rightImg8bit.png"):
        (city / name).write_bytes(b"")
    assert [item.name for item in _layout(tmp_path).splits["train"]] == ["ulm_1"]
    assert _layout(tmp_path).faults == ()


def test_test_images_need_no_label(tmp_path):
    _write(tmp_path, "test", "bonn_1")
    _label_path(tmp_path, "test", "bonn_1").unlink()
    layout = _layout(tmp_path)
    assert layout.faults == ()
    labelled = layout.read(layout.splits["test"][0])
    for (semantic, instance), size in ((labelled.label, STORED), (labelled.full, SIZE)):
        assert semantic.shape == instance.shape == size
        assert (semantic == 255).all()
        assert not instance.any()
        assert (semantic.dtype, instance.dtype) == (np.uint8, np.uint16)


@pytest.mark.parametrize("zipped", [False, True])
def test_missing_label_and_missing_image(tmp_path, zipped):
    root = _whole(tmp_path / "folders")
    _label_path(root, "val", "lindau_000000_000019").unlink()
    _image_path(root, "train", "ulm_000001_000019").unlink()
    left = f"{root}/leftImg8bit/"
    right = f"{root}/gtFine/"
    if zipped:
        root = _pack(root, tmp_path / "zips")
        left, right = f"{root}/leftImg8bit_trainvaltest.zip:leftImg8bit/", f"{root}/gtFine_trainvaltest.zip:gtFine/"
    layout = _layout(root)
    assert layout.faults == (
        Fault(
            "missing",
            f"{right}train/ulm/ulm_000001_000019_gtFine_instanceIds.png has no image. Add one, or remove the label.",
        ),
        Fault(
            "missing",
            f"{left}val/lindau/lindau_000000_000019_leftImg8bit.png has no label. Add gtFine/val/lindau/"
            "lindau_000000_000019_gtFine_instanceIds.png where the other labels are, or remove the image.",
        ),
    )
    assert [item.name for item in layout.splits["train"]] == ["aachen_000000_000019"]
    assert layout.splits["val"] == ()


def test_two_images_of_one_name(tmp_path):
    _write(tmp_path, "train", "ulm_1")
    image = _image_path(tmp_path, "train", "ulm_1")
    other = image.with_suffix(".jpg")
    other.write_bytes(b"")
    with _fails(f"{image} and {other} share one name. Rename or remove one of them."):
        _layout(tmp_path)


def test_one_name_in_two_zips_or_in_fine_and_coarse(tmp_path):
    _write(tmp_path / "a", "train", "ulm_1")
    root = _pack(tmp_path / "a", tmp_path / "zips")
    path = root / "leftImg8bit_trainvaltest.zip"
    (root / "leftImg8bit_copy.zip").write_bytes(path.read_bytes())
    member = "leftImg8bit/train/ulm/ulm_1_leftImg8bit.png"
    message = f"{path}:{member} and {root}/leftImg8bit_copy.zip:{member} share one name. Rename or remove one of them."
    with _fails(message):
        _layout(root)
    _write(tmp_path / "a", "train_extra", "ulm_1")
    coarse, fine = (_image_path(tmp_path / "a", split, "ulm_1") for split in ("train_extra", "train"))
    with _fails(f"{coarse} and {fine} share one name. Rename or remove one of them."):
        _layout(tmp_path / "a", coarse=True)


def test_nothing_there(tmp_path):
    with _fails(f"The data folder {tmp_path / 'none'} does not exist. Set --data.root."):
        _layout(tmp_path / "none")
    with _fails("The data folder (none given) does not exist. Set --data.root."):
        cityscapes.layout(Data(builder="cityscapes"))
    message = (
        f"{tmp_path} holds no image of Cityscapes. Put leftImg8bit and gtFine there, as folders (SPLIT/CITY/"
        "NAME_leftImg8bit.png) or as the zips that are published (leftImg8bit_trainvaltest.zip)."
    )
    with _fails(message):
        _layout(tmp_path)
    (tmp_path / "leftImg8bit" / "train" / "ulm").mkdir(parents=True)
    with _fails(message):
        _layout(tmp_path)


# What is read.


def test_images_and_labels_are_stored_smaller(tmp_path):
    _write(tmp_path, "train", "ulm_1")
    labelled = _only(tmp_path)
    published = cv2.imread(str(_image_path(tmp_path, "train", "ulm_1")))
    stored = cv2.imdecode(np.frombuffer(labelled.content, np.uint8), cv2.IMREAD_UNCHANGED)
    means = published.reshape(16, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(stored - means).max() <= 0.5
    assert labelled.digest == images.digest(published)
    assert labelled.full.semantic.shape == SIZE
    full, label = layouts.ungrouped(labelled.full, _layout(tmp_path).classes), labelled.label
    for y, x in np.ndindex(*STORED):
        assert label.semantic[y, x] in full.semantic[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        assert label.instance[y, x] in full.instance[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
    np.testing.assert_array_equal((full.instance > 0), np.isin(full.semantic, (1, 3)))
    assert (full.semantic[12, 4], full.instance[12, 4], full.instance[12, 20], full.instance[8, 40]) == (3, 2, 3, 1)


def test_the_stored_size_leaves_files_untouched(tmp_path):
    _write(tmp_path, "train", "ulm_1")
    layout = _layout(tmp_path, size=SIZE)
    labelled = layout.read(layout.splits["train"][0])
    assert labelled.content == _image_path(tmp_path, "train", "ulm_1").read_bytes()
    for one, other in zip(labelled.label, layouts.ungrouped(labelled.full, layout.classes), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [(48, 80), (48, 32), (16, 80), (33, 64), (1, 1)])
def test_any_stored_size(tmp_path, size):
    _write(tmp_path, "train", "ulm_1", np.full(SIZE, 26000, np.uint16))
    image = _image_path(tmp_path, "train", "ulm_1")
    assert cv2.imwrite(str(image), np.full((*SIZE, 3), (10, 20, 30), np.uint8))
    layout = _layout(tmp_path, size=size)
    labelled = layout.read(layout.splits["train"][0])
    stored = cv2.imdecode(np.frombuffer(labelled.content, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored, np.full((*size, 3), (10, 20, 30)))
    np.testing.assert_array_equal(labelled.label.semantic, np.full(size, 3))
    np.testing.assert_array_equal(labelled.label.instance, np.ones(size))


def test_sizes_that_differ_are_both_named(tmp_path):
    _write(tmp_path, "train", "ulm_1")
    label = _label_path(tmp_path, "train", "ulm_1")
    assert cv2.imwrite(str(label), np.zeros((32, 63), np.uint16))
    message = f"{label} is 32 x 63 (height x width), but its image ulm_1_leftImg8bit.png is 32 x 64. Make them equal."
    with _fails(message, DataError) as error:
        _only(tmp_path)
    assert error.value.kind == "size"


def test_unknown_class_comes_with_the_image(tmp_path):
    raw = _raw()
    raw[0, 0] = 40007
    _write(tmp_path, "train", "ulm_1", raw)
    (fault,) = _only(tmp_path).faults
    assert fault.kind == "class"
    assert fault.message.startswith(f"{_label_path(tmp_path, 'train', 'ulm_1')} holds 40007, which means class 40 ")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("where", "kind"), [(_image_path, "unreadable"), (_label_path, "label")])
def test_no_image_at_all(tmp_path, where, kind, zipped):
    root = tmp_path / "folders"
    _write(root, "train", "ulm_1")
    path = where(root, "train", "ulm_1")
    path.write_text("this is no image")
    name = str(path)
    if zipped:
        name = f"{tmp_path}/zips/{ZIPS[path.parts[-4], False]}:{path.relative_to(root).as_posix()}"
        root = _pack(root, tmp_path / "zips")
    message = f"{name} is not an image that can be read. Restore it or remove it with its pair."
    with _fails(message, DataError) as error:
        _only(root)
    assert error.value.kind == kind


def test_a_file_that_vanished(tmp_path):
    _write(tmp_path, "train", "ulm_1")
    layout = _layout(tmp_path)
    image = _image_path(tmp_path, "train", "ulm_1")
    image.unlink()
    message = f"{image} cannot be read: No such file or directory. Restore it or remove it with its pair."
    with _fails(message, DataError):
        layout.read(layout.splits["train"][0])


def test_threads_read_one_zip_and_layouts_travel(tmp_path):
    for i in range(12):
        _write(tmp_path / "a", "train", f"ulm_{i:02}", seed=i)
    plain, packed = _layout(tmp_path / "a"), _layout(_pack(tmp_path / "a", tmp_path / "zips"))
    copy = pickle.loads(pickle.dumps(packed))
    assert copy == packed
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(copy.read, copy.splits["train"] * 4))
    for one, other in zip([plain.read(item) for item in plain.splits["train"]] * 4, read, strict=True):
        _equal(one, other)


# Zips that nobody vouches for.


def _zips(tmp_path: Path) -> Path:
    _write(tmp_path / "folders", "train", "ulm_1")
    return _pack(tmp_path / "folders", tmp_path / "zips")


def _tree(root: Path) -> list[str]:
    return sorted(str(path) for path in root.parent.rglob("*"))


MEMBER = "leftImg8bit/train/ulm/ulm_1_leftImg8bit.png"


@pytest.mark.parametrize(
    ("member", "shown"),
    [
        ("../outside.png", "../outside.png"),
        ("leftImg8bit/train/../../../outside_leftImg8bit.png", "leftImg8bit/train/../../../outside_leftImg8bit.png"),
        ("leftImg8bit/train/ulm/..", "leftImg8bit/train/ulm/.."),
        ("/tmp/outside_leftImg8bit.png", "/tmp/outside_leftImg8bit.png"),
        ("..\\outside.png", "..\\outside.png"),
        ("C:/outside.png", "C:/outside.png"),
        ("leftImg8bit/train/ulm/a\nb\x1b[2J.png", "'leftImg8bit/train/ulm/a\\nb\\x1b[2J.png'"),
    ],
)
def test_members_that_lead_outside(tmp_path, member, shown):
    root = _zips(tmp_path)
    path = root / "leftImg8bit_trainvaltest.zip"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, b"outside")
    before = _tree(tmp_path)
    with _fails(f"{path}:{shown} is no plain path inside the zip. Use the zip as it is published."):
        _layout(root)
    assert not Path("/tmp/outside_leftImg8bit.png").exists()
    assert _tree(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "File is not a zip file"), (b"<html>Please log in</html>", "File is not a zip file"), (None, None)],
)
def test_no_zip_at_all(tmp_path, content, reason):
    root = _zips(tmp_path)
    path = root / "gtFine_trainvaltest.zip"
    if content is None:
        content, reason = path.read_bytes()[:-40], "File is not a zip file"
    path.write_bytes(content)
    with _fails(f"{path} is not a zip that can be read: {reason}. Download it again."):
        _layout(root)


def test_every_damage_of_the_listing_is_one_line(tmp_path):
    root = _zips(tmp_path)
    path = root / "gtFine_trainvaltest.zip"
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    messages = []
    for _ in range(300):
        damaged = bytearray(whole)
        for place in random.integers(whole.index(b"PK\1\2"), len(whole), 3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            layout = _layout(root)
            for item in layout.splits["train"]:
                layout.read(item)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(str(path) in message and message.isprintable() for message in messages)


def _patch(path: Path, central: dict[int, bytes], local: dict[int, bytes]) -> None:
    """Overwrites fields of both headers of the last member."""
    content = bytearray(path.read_bytes())
    for start, fields in ((content.rindex(b"PK\1\2"), central), (content.rindex(b"PK\3\4"), local)):
        for offset, value in fields.items():
            content[start + offset : start + offset + len(value)] = value
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "kind"), [("leftImg8bit_trainvaltest.zip", "unreadable"), ("gtFine_trainvaltest.zip", "label")]
)
@pytest.mark.parametrize(
    ("central", "local", "text"),
    [
        ({8: b"\1"}, {6: b"\1"}, "is encrypted. Replace {zip} by one without a password."),
        (
            {24: struct.pack("<L", (1 << 29) + 1)},
            {},
            "claims over 512 MiB, no image holds that. Replace {zip}.",
        ),
        ({10: b"\x0c"}, {8: b"\x0c"}, "is packed by method 12. Replace {zip} by one that uses deflate."),
        ({10: b"\x63"}, {8: b"\x63"}, "is packed by method 99. Replace {zip} by one that uses deflate."),
        ({16: b"\0\0\0\0"}, {}, "cannot be read: Bad CRC-32 for file '{member}'. Download {zip} again."),
        ({24: b"\x10\0\0\0"}, {}, "cannot be read: Bad CRC-32 for file '{member}'. Download {zip} again."),
        ({}, {0: b"PKxx"}, "cannot be read: Bad magic number for file header. Download {zip} again."),
    ],
)
def test_members_that_are_damaged_or_hostile(tmp_path, name, kind, central, local, text):
    root = _zips(tmp_path)
    path = root / name
    _patch(path, central, local)
    member = MEMBER if kind == "unreadable" else "gtFine/train/ulm/ulm_1_gtFine_instanceIds.png"
    before = _tree(tmp_path)
    with _fails(f"{path}:{member} {text.format(zip=name, member=member)}", DataError) as error:
        _only(root)
    assert error.value.kind == kind
    assert _tree(tmp_path) == before


def test_damaged_compression_is_named(tmp_path):
    root = _zips(tmp_path)
    path = root / "leftImg8bit_trainvaltest.zip"
    content = bytearray(path.read_bytes())
    start = content.rindex(b"PK\3\4") + 30 + len(MEMBER)
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)
    start = re.escape(f"{path}:{MEMBER} cannot be read: Error -3 while decompressing data: invalid")
    end = re.escape("Download leftImg8bit_trainvaltest.zip again.")
    with pytest.raises(DataError, match=f"^{start}.*{end}$"):
        _only(root)


def test_a_zip_that_is_replaced_or_vanishes(tmp_path):
    root = _zips(tmp_path)
    layout = _layout(root)
    path = root / "leftImg8bit_trainvaltest.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README", "another")
    reason = f"\"There is no item named '{MEMBER}' in the archive\""
    with _fails(f"{path}:{MEMBER} cannot be read: {reason}. Download {path.name} again.", DataError):
        layout.read(layout.splits["train"][0])
    path.unlink()
    reason = f"[Errno 2] No such file or directory: '{path}'"
    with _fails(f"{path} is not a zip that can be read: {reason}. Download it again."):
        layout.read(layout.splits["train"][0])


# Fingerprints.


@pytest.mark.parametrize("zipped", [False, True])
def test_fingerprint_follows_files(tmp_path, zipped):
    folders = _whole(tmp_path / "folders")

    def now() -> str:
        return _layout(_pack(folders, tmp_path / "zips") if zipped else folders).fingerprint()

    found = {now()}
    image = _image_path(folders, "train", "ulm_000001_000019")
    status = image.stat()
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    found.add(now())
    _label_path(folders, "test", "berlin_000000_000019").unlink()
    found.add(now())
    _write(folders, "train", "ulm_000002_000019")
    found.add(now())
    assert len(found) == 4


@pytest.mark.parametrize("zipped", [False, True])
def test_fingerprint_follows_settings(tmp_path, zipped):
    root = _whole(tmp_path / "folders")
    root = _pack(root, tmp_path / "zips") if zipped else root
    first = _layout(root).fingerprint()
    assert _layout(root).fingerprint() == first
    changes = [{"size": (16, 33)}, {"coarse": True}, {"classes": ("car",)}, {"stuff": ("rider",)}]
    assert len({first, *(_layout(root, **change).fingerprint() for change in changes)}) == 5


def test_fingerprint_of_zips_follows_the_zip(tmp_path):
    root = _zips(tmp_path)
    first = _layout(root).fingerprint()
    path = root / "gtFine_trainvaltest.zip"
    path.write_bytes(path.read_bytes())
    assert _layout(root).fingerprint() != first


# Real images.


@pytest.mark.skipif(not COCO.is_dir(), reason="shared/data/coco200 is not there")
@pytest.mark.parametrize("zipped", [False, True])
def test_coco_laid_out_as_cityscapes(tmp_path, zipped):
    root = tmp_path / "folders"
    labels = sorted((COCO / "train" / "cityscapes_ids").glob("*.png"))[:6]
    for path in labels:
        name = path.name.removesuffix("_gtFine_instanceIds.png")
        image = _image_path(root, "train", f"coco_{name}")
        label = _label_path(root, "train", f"coco_{name}")
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(image), cv2.imread(str(COCO / "train" / "images" / f"{name}.jpg")))
        label.write_bytes(path.read_bytes())
    layout = _layout(_pack(root, tmp_path / "zips") if zipped else root, size=(120, 160), classes=("person", "car"))
    assert layout.faults == ()
    for item, path in zip(layout.splits["train"], labels, strict=True):
        raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(int)
        void = np.isin(raw, [*range(7), 9, 10, 14, 15, 16, 18, 29, 30, 24, 26])
        semantic = np.where(void, 255, np.select([raw // 1000 == 24, raw // 1000 == 26], [1, 2], 0))
        values = np.unique(raw[(semantic == 1) | (semantic == 2)])
        instance = np.where(np.isin(raw, values), np.searchsorted(values, raw) + 1, 0)
        labelled = layout.read(item)
        np.testing.assert_array_equal(labelled.full.semantic, semantic)
        np.testing.assert_array_equal(labelled.full.instance, instance)
        assert labelled.label.semantic.shape == labelled.label.instance.shape == (120, 160)
        assert labelled.faults == ()
