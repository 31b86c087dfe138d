"""COCO annotations: what is found where, how masks become labels, and what is refused, word for word."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jaxseg.config import Coco, Data, Folder, UserError
from jaxseg.data import coco, folder, images, masks
from jaxseg.data.layouts import DataError, Labelled

HEIGHT, WIDTH = 12, 16
CATEGORIES = [{"id": 1, "name": "cell"}, {"id": 2, "name": "wall"}]
SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]
SHARED = Path(__file__).parents[3] / "shared" / "data"


def _fails(message: str, kind: str | None = None):
    """An error that begins like this, is one line, and of this kind."""
    if kind is None:
        return pytest.raises(UserError, match="^" + re.escape(message) + r"[^\n]*$")
    return pytest.raises(DataError, match="^" + re.escape(message) + r"[^\n]*$", check=lambda e: e.kind == kind)


def _image(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), 77, np.uint8))


def _annotation(segmentation: Any, category: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"id": 7, "image_id": 1, "category_id": category, "iscrowd": 0, "segmentation": segmentation} | fields


def _content(annotations: list[Any] = [], name: str = "a.png", **fields: Any) -> dict[str, Any]:  # noqa: B006
    entries = [{"id": 1, "file_name": name, "height": HEIGHT, "width": WIDTH}]
    return {"images": entries, "annotations": annotations, "categories": CATEGORIES} | fields


def _write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def _data(root: Path, annotations: Any = "instances", classes=(), stuff=(), **files: str) -> Data:
    settings = Coco(annotations=annotations, **files)
    return Data(builder="coco", root=str(root), classes=classes, stuff=stuff, coco=settings)


def _root(root: Path, annotations: list[Any], **fields: Any) -> Path:
    _image(root / "train" / "images" / "a.png")
    return _write(root / "train" / "instances.json", _content(annotations, **fields))


def _read(root: Path, annotations: list[Any], classes=(), stuff=(), **fields: Any) -> Labelled:
    _root(root, annotations, **fields)
    layout = coco.layout(_data(root, classes=classes, stuff=stuff))
    assert layout.faults == ()
    return layout.read(layout.splits["train"][0])


def _runs(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed run-length code."""
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def _code(mask: np.ndarray) -> dict[str, Any]:
    """Compressed run-length code."""
    from pycocotools import mask as tools

    return {
        "size": list(mask.shape),
        "counts": tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode(),
    }


def _mask(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Half-open boxes (y0, x0, y1, x1), painted by turns in and out."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for i, (y0, x0, y1, x1) in enumerate(boxes):
        mask[y0:y1, x0:x1] = i % 2 == 0
    return mask


# Where files are looked for.


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("train/instances.json", "train/a.png"),
        ("train/instances.json", "train/images/a.png"),
        ("train/_annotations.coco.json", "train/a.png"),
        ("train/annotations.json", "images/a.png"),
        ("annotations/instances_train2017.json", "train2017/a.png"),
        ("annotations/instances_train.json", "images/train/a.png"),
        ("annotations/instances_train.json", "train/a.png"),
        ("annotations/instances_train.json", "annotations/images/a.png"),
        ("instances_train_half.json", "images/train_half/a.png"),
        ("train.json", "a.png"),
        ("train.json", "images/a.png"),
    ],
)
def test_usual_names_are_found(tmp_path, file, image):
    _image(tmp_path / image)
    _write(tmp_path / file, _content())
    layout = coco.layout(_data(tmp_path))
    assert list(layout.splits) == ["train"]
    assert [(item.name, item.image) for item in layout.splits["train"]] == [("a", tmp_path / image)]
    assert layout.read(layout.splits["train"][0]).content == (tmp_path / image).read_bytes()


def test_roboflow_calls_val_valid(tmp_path):
    for split in ("train", "valid", "test"):
        _image(tmp_path / split / f"{split}.png")
        _write(tmp_path / split / "_annotations.coco.json", _content(name=f"{split}.png"))
    splits = coco.layout(_data(tmp_path)).splits
    assert {split: [item.name for item in items] for split, items in splits.items()} == {
        "train": ["train"],
        "val": ["valid"],
        "test": ["test"],
    }


def test_the_first_usual_name_is_taken(tmp_path):
    _image(tmp_path / "images" / "a.png")
    _write(tmp_path / "train.json", _content())
    chosen = _write(tmp_path / "train" / "instances.json", _content())
    assert coco.layout(_data(tmp_path)).splits["train"][0].document == chosen


def test_files_may_be_named(tmp_path):
    _image(tmp_path / "a.png")
    for name in ("x.json", "y.json"):
        _write(tmp_path / "sub" / name, _content())
    layout = coco.layout(_data(tmp_path, train="sub/x.json", val="sub/y.json"))
    assert {s: items[0].document.name for s, items in layout.splits.items()} == {"train": "x.json", "val": "y.json"}
    with _fails(f"{tmp_path / 'sub/z.json'} does not exist. Set --data.coco.val to a file, from {tmp_path}."):
        coco.layout(_data(tmp_path, train="sub/x.json", val="sub/z.json"))
    with _fails(f"{tmp_path / ('z' * 999)} does not exist. Set --data.coco.val to a file, from {tmp_path}."):
        coco.layout(_data(tmp_path, train="sub/x.json", val="z" * 999))


def test_several_files_are_named(tmp_path):
    paths = [_write(tmp_path / "annotations" / f"instances_train{year}.json", _content()) for year in (2014, 2017)]
    with _fails(f"Several files may hold the annotations: {paths[0]}, {paths[1]}. Choose one with --data.coco.train."):
        coco.layout(_data(tmp_path))
    lone = [_write(tmp_path / "lone" / name, _content()) for name in ("instances.json", "annotations.json")]
    with _fails(f"Several files may hold the annotations: {lone[0]}, {lone[1]}. Choose one with --data.coco.train."):
        coco.layout(_data(tmp_path / "lone"))


@pytest.mark.parametrize("file", [*coco.LONE["instances"], "mine.json"])
def test_a_lone_file_is_split_by_names(tmp_path, file):
    names = [f"image{i}.png" for i in range(30)]
    for name in names:
        _image(tmp_path / "images" / name)
    _write(tmp_path / file, _content(images=[{"id": i, "file_name": name} for i, name in enumerate(names)]))
    layout = coco.layout(_data(tmp_path, train="mine.json" if file == "mine.json" else ""))
    assert list(layout.splits) == ["train", "val"]
    found = [item.name for items in layout.splits.values() for item in items]
    assert sorted(found) == sorted(name[:-4] for name in names)
    assert 1 <= len(layout.splits["val"]) <= 8


def test_nothing_to_find(tmp_path):
    with _fails(
        f"{tmp_path} holds no instances annotations. Put them in train/instances.json or instances.json, "
        "or name the file with --data.coco.train."
    ):
        coco.layout(_data(tmp_path))
    with _fails(f"{tmp_path} holds no panoptic annotations. Put them in train/panoptic.json or panoptic.json, or"):
        coco.layout(_data(tmp_path, "panoptic"))
    with _fails(f"The data folder {tmp_path / 'none'} does not exist. Set --data.root."):
        coco.layout(_data(tmp_path / "none"))
    with _fails("The data folder (none given) does not exist. Set --data.root."):
        coco.layout(Data(builder="coco"))


def test_images_that_are_not_there(tmp_path):
    path = _write(tmp_path / "train" / "instances.json", _content())
    with _fails(
        f"None of the 1 images that {path} lists is there, 'a.png' for one. Put them in {tmp_path / 'train/images'}."
    ):
        coco.layout(_data(tmp_path))
    _image(tmp_path / "train" / "images" / "b.png")
    _write(path, _content(images=[{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]))
    layout = coco.layout(_data(tmp_path))
    assert [item.name for item in layout.splits["train"]] == ["b"]
    missing = tmp_path / "train" / "images" / "a.png"
    assert layout.faults == (
        ("missing", f"{missing}, which {path} lists, is missing. Add it, or take it off the list."),
    )


def test_names_may_hold_folders_and_are_in_order(tmp_path):
    for name in ("b/2.png", "a/1.png", "b/1.png"):
        _image(tmp_path / "train" / name)
    entries = [{"id": i, "file_name": name} for i, name in enumerate(("b/2.png", "./a/1.png", "b/1.png"))]
    _write(tmp_path / "train" / "instances.json", _content(images=entries))
    assert [item.name for item in coco.layout(_data(tmp_path)).splits["train"]] == ["a/1", "b/1", "b/2"]


@pytest.mark.parametrize("other", ["a.png", "a.jpg", "./a.png"])
def test_two_images_of_one_name(tmp_path, other):
    path = _root(tmp_path, [], images=[{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": other}])
    with _fails(f"{path} lists {Path(other)} beside a.png. Give each image its own id and name."):
        coco.layout(_data(tmp_path))


def test_two_images_of_one_id(tmp_path):
    path = _root(tmp_path, [], images=[{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}])
    with _fails(f"{path} lists b.png beside another of id 1. Give each image its own id and name."):
        coco.layout(_data(tmp_path))


# Classes.


def test_categories_are_mapped_by_name(tmp_path):
    categories = [{"id": 90, "name": "wall"}, {"id": 0, "name": "cell"}, {"id": 4, "name": "other"}]
    annotations = [_annotation([SQUARE], 0)]
    _root(tmp_path, [_annotation([SQUARE], 1)])
    _image(tmp_path / "val" / "a.png")
    _write(tmp_path / "val" / "instances.json", _content(annotations, categories=categories))
    layout = coco.layout(_data(tmp_path))
    assert layout.classes.names == ("background", "cell", "wall", "other")
    for split in ("train", "val"):
        label = layout.read(layout.splits[split][0]).label
        assert set(np.unique(label.semantic)) == {0, 1}


def test_classes_are_in_order_of_ids_and_stuff_waits_to_be_asked_for(tmp_path):
    categories = [
        {"id": 9, "name": "sky", "isthing": 0, "color": [1, 2, 3]},
        {"id": 2, "name": "cell", "isthing": 1, "color": [4, 5, 6]},
        {"id": 5, "name": "background", "color": [7, 8, 9]},
    ]
    _root(tmp_path, [], categories=categories)
    classes = coco.layout(_data(tmp_path)).classes
    assert (classes.names, classes.colors[1:]) == (("background", "cell"), ((4, 5, 6),))
    classes = coco.layout(_data(tmp_path, classes=("sky", "cell"))).classes
    assert (classes.names, classes.stuff) == (("background", "sky", "cell"), (1,))
    assert classes.colors[1:] == ((1, 2, 3), (4, 5, 6))
    with _fails(f"'dog' is no class of {tmp_path}. Choose from cell, background, sky."):
        coco.layout(_data(tmp_path, classes=("dog",)))


def test_classes_left_out_are_background(tmp_path):
    annotations = [_annotation(_runs(_mask((0, 0, 4, 4))), 1), _annotation(_runs(_mask((2, 2, 9, 9))), 2)]
    label = _read(tmp_path, annotations, classes=("wall",)).label
    np.testing.assert_array_equal(label.semantic, _mask((2, 2, 9, 9)))
    np.testing.assert_array_equal(label.instance, _mask((2, 2, 9, 9)))


@pytest.mark.parametrize(
    "entry",
    [
        3,
        {"id": 1},
        {"name": "x"},
        {"id": True, "name": "x"},
        {"id": 1.5, "name": "x"},
        {"id": [1], "name": "x"},
        {"id": 1, "name": ""},
        {"id": 1, "name": 3},
        {"id": 1, "name": "a\nb"},
        {"id": 1, "name": "\ud800"},
        {"id": 1, "name": "x", "isthing": 2},
        {"id": 1, "name": "x", "isthing": True},
        {"id": 1, "name": "x", "color": [1, 2]},
        {"id": 1, "name": "x", "color": [1, 2, 256]},
        {"id": 1, "name": "x", "color": "red"},
    ],
)
def test_malformed_category(tmp_path, entry):
    path = _root(tmp_path, [], categories=[{"id": 100, "name": "y"}, entry])
    with _fails(f"{path}: category number 1 is {coco.shown(entry)}. Give it an id, a name, and if you like isthing"):
        coco.layout(_data(tmp_path))


@pytest.mark.parametrize("entry", [{"id": 3, "name": "cell"}, {"id": 1, "name": "x"}])
def test_category_listed_twice(tmp_path, entry):
    path = _root(tmp_path, [], categories=[*CATEGORIES, entry])
    with _fails(f"{path} lists category {entry['name']!r} or its id twice. Merge or rename them."):
        coco.layout(_data(tmp_path))


def test_unknown_category_is_a_fault_and_ignored(tmp_path):
    annotations = [_annotation(_runs(_mask((0, 0, 4, 4))), 33, id=n) for n in (1, 2)]
    annotations.append(_annotation(_runs(_mask((2, 2, 9, 9)))))
    _, _, label, _, faults = _read(tmp_path, annotations)
    assert [fault.kind for fault in faults] == ["class"]
    assert faults[0].message == (
        f"{tmp_path / 'train/instances.json'}: annotation 1 of {tmp_path / 'train/images/a.png'} (and 1 more) is of "
        "category id 33, which is not listed. List it, or mend the annotation."
    )
    cell = _mask((2, 2, 9, 9))
    np.testing.assert_array_equal(label.semantic, np.where(cell, 1, np.where(_mask((0, 0, 4, 4)), 255, 0)))
    np.testing.assert_array_equal(label.instance, cell)


def test_annotations_of_images_that_are_not_listed(tmp_path):
    strangers = [_annotation([SQUARE], image_id=key) for key in (9, "1", [1], None, True, 1.0)]
    path = _root(tmp_path, [*strangers, _annotation([SQUARE])])
    layout = coco.layout(_data(tmp_path))
    text = f"{path} holds 6 annotations of images that it does not list, the first of image id 9."
    assert layout.faults == (("label", f"{text} List them, or remove these."),)
    assert layout.read(layout.splits["train"][0]).label.instance.max() == 1


# Masks.


@pytest.mark.parametrize("code", [_runs, _code])
@pytest.mark.parametrize(
    "mask",
    [
        _mask((2, 3, 9, 12), (4, 5, 6, 8)),
        _mask((0, 0, HEIGHT, WIDTH)),
        _mask((0, 0, HEIGHT, WIDTH), (0, 0, 1, 1)),
        _mask((0, 0, 2, 2), (0, 0, 0, 0), (HEIGHT - 1, WIDTH - 1, HEIGHT, WIDTH)),
        _mask((5, 5, 6, 6)),
    ],
)
def test_codes_keep_holes_and_parts(tmp_path, code, mask):
    label = _read(tmp_path, [_annotation(code(mask))]).label
    np.testing.assert_array_equal(label.instance, mask)
    np.testing.assert_array_equal(label.semantic, mask)
    assert (label.semantic.dtype, label.instance.dtype) == (np.uint8, np.uint16)
    assert label.semantic.flags.c_contiguous
    assert label.instance.flags.c_contiguous


def test_polygons_of_an_annotation_are_one_object(tmp_path):
    label = _read(tmp_path, [_annotation([SQUARE, [4, 4, 8, 4, 8, 8, 4, 8], [10.0, 1, 14, 1, 14, 4, 10, 4]])]).label
    boxes = _mask((2, 2, 6, 6)) | _mask((4, 4, 8, 8)) | _mask((1, 10, 4, 14))
    np.testing.assert_array_equal(label.instance, boxes)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # In pycocotools' decode.
def test_masks_are_those_of_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    rng = np.random.default_rng(0)
    annotations: list[Any] = []
    for n in range(60):
        parts = [rng.uniform(-6, 20, 2 * rng.integers(3, 9)).round(2).tolist() for _ in range(rng.integers(1, 4))]
        noise = rng.random((HEIGHT, WIDTH)) < rng.random()
        annotations.append(_annotation([parts, _runs(noise), _code(noise)][n % 3], id=n + 1))
    path = _root(tmp_path, annotations)
    trusted = COCO(str(path))
    for annotation in annotations:
        _write(path, _content([annotation]))
        layout = coco.layout(_data(tmp_path))
        mask = layout.read(layout.splits["train"][0]).label.instance
        np.testing.assert_array_equal(mask, trusted.annToMask(trusted.anns[annotation["id"]]))


@pytest.mark.parity
def test_codes_of_large_masks_are_those_of_pycocotools():
    from pycocotools import mask as tools

    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 4000), (4000, 1), (900, 1100)):
        for share in (0.0, 0.001, 0.5, 1.0):
            mask = np.asfortranarray(rng.random(size) < share).astype(np.uint8)
            runs = masks._decompressed(tools.encode(mask)["counts"].decode())
            np.testing.assert_array_equal(np.repeat(np.arange(len(runs)) % 2, runs), mask.ravel(order="F"))


def test_a_pixel_belongs_to_the_smallest_and_then_to_the_first(tmp_path):
    boxes = [(0, 0, 4, 4), (1, 1, 11, 11), (2, 2, 6, 6), (0, 0, 12, 16)]
    label = _read(tmp_path, [_annotation(_runs(_mask(box))) for box in boxes]).label
    wanted = np.full((HEIGHT, WIDTH), 4)
    wanted[1:11, 1:11] = 2
    wanted[2:6, 2:6] = 3
    wanted[0:4, 0:4] = 1
    np.testing.assert_array_equal(label.instance, wanted)


def test_an_object_that_is_covered_vanishes_without_a_gap(tmp_path):
    first, second, third = ((0, 0, 4, 4), (0, 0, 4, 4), (6, 6, 8, 8))
    label = _read(tmp_path, [_annotation(_runs(_mask(box))) for box in (first, second, third)]).label
    np.testing.assert_array_equal(label.instance, _mask(first) + 2 * _mask(third))


def test_crowds_are_ignored_below_everything(tmp_path):
    crowd = _annotation(_runs(_mask((1, 1, 3, 3))), iscrowd=1)
    label = _read(tmp_path, [_annotation(_code(_mask((2, 2, 9, 9)))), crowd]).label
    cell = _mask((2, 2, 9, 9))
    np.testing.assert_array_equal(label.semantic, np.where(cell, 1, np.where(_mask((1, 1, 3, 3)), 255, 0)))
    np.testing.assert_array_equal(label.instance, cell)


def test_evaluation_knows_crowds(tmp_path):
    """Training ignores them; where there is none, evaluation reads the same label."""
    crowd = _annotation(_runs(_mask((1, 1, 3, 3))), iscrowd=1)
    cell = _annotation(_code(_mask((2, 2, 9, 9))))
    labelled = _read(tmp_path / "a", [cell, crowd])
    np.testing.assert_array_equal(labelled.full.semantic, _mask((2, 2, 9, 9)) | _mask((1, 1, 3, 3)))
    np.testing.assert_array_equal(labelled.full.instance, _mask((2, 2, 9, 9)))
    assert _read(tmp_path / "b", [cell]).full is None


def test_stuff_lies_between_objects_and_crowds(tmp_path):
    wall = _annotation(_runs(_mask((2, 2, 4, 4))), 2)
    crowd = _annotation(_runs(_mask((2, 2, 3, 5))), iscrowd=1)
    label = _read(tmp_path, [crowd, wall, _annotation(_runs(_mask((3, 3, 9, 9))))], ("cell", "wall"), ("wall",)).label
    cell = _mask((3, 3, 9, 9))
    below = np.where(_mask((2, 2, 4, 4)), 2, np.where(_mask((2, 2, 3, 5)), 255, 0))
    np.testing.assert_array_equal(label.semantic, np.where(cell, 1, below))
    np.testing.assert_array_equal(label.instance, cell)


@pytest.mark.parametrize("nothing", [None, [], [[]]])
def test_an_image_with_an_object_that_has_no_segmentation_is_no_example(tmp_path, nothing):
    """Its pixels would be background otherwise."""
    message = (
        f"{tmp_path / 'train/instances.json'}: annotation 7 of {tmp_path / 'train/images/a.png'} has no segmentation, "
        "only a box. Mend it, or remove it."
    )
    with _fails(message, "label"):
        _read(tmp_path, [_annotation(nothing, bbox=[1, 2, 3, 4]), _annotation([SQUARE])])


PIXELS = HEIGHT * WIDTH
POLYGON = "has a polygon that is no list of three or more pairs x, y: "
COORDINATE = "has a polygon with the coordinate "
OTHER = "has a segmentation that is neither a list of polygons nor a run-length code with size and counts"
COUNTS = "has a run-length code with counts that are not whole numbers from 0 to the image's pixels"
COVER = f"has a run-length code that does not cover the {PIXELS} pixels of the image, no more and no less"
SIZE = [HEIGHT, WIDTH]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4]], f"{POLYGON}[1, 2, 3, 4]"),
        ([[1, 2, 3, 4, 5, 6, 7]], f"{POLYGON}[1, 2, 3, 4, ...]"),
        ([1, 2, 3, 4, 5, 6], f"{POLYGON}1"),
        ([SQUARE, "x"], f"{POLYGON}'x'"),
        ([{"a": 1}], f"{POLYGON}{{'a': 1}}"),
        ([[1, 2, 3, 4, 5, "6"]], f"{COORDINATE}'6'"),
        ([[1, 2, 3, 4, 5, None]], f"{COORDINATE}None"),
        ([[1, 2, 3, 4, 5, True]], f"{COORDINATE}True"),
        ([[1, 2, 3, 4, 5, [6]]], f"{COORDINATE}[6]"),
        ([[1, 2, 3, 4, 5, 3 * HEIGHT + 1]], f"{COORDINATE}{3 * HEIGHT + 1}, which is none or far outside of the image"),
        ([[-2 * WIDTH - 1, 2, 3, 4, 5, 6]], f"{COORDINATE}{-2 * WIDTH - 1}"),
        ([[10**400, 2, 3, 4, 5, 6]], f"{COORDINATE}1000"),
        ("abc", OTHER),
        (3, OTHER),
        (True, OTHER),
        ({}, OTHER),
        ({"size": SIZE}, OTHER),
        (
            {"size": [WIDTH, HEIGHT], "counts": [PIXELS]},
            "has a run-length code of size [16, 12], but the image is [12, 16]",
        ),
        ({"size": [12.0, 16], "counts": [PIXELS]}, "has a run-length code of size [12.0, 16]"),
        ({"size": 12, "counts": [PIXELS]}, "has a run-length code of size 12"),
        ({"size": SIZE, "counts": None}, "has a run-length code whose counts are None"),
        ({"size": SIZE, "counts": {}}, "has a run-length code whose counts are {}"),
        ({"size": SIZE, "counts": [PIXELS, "0"]}, COUNTS),
        ({"size": SIZE, "counts": [PIXELS - 1, True]}, COUNTS),
        ({"size": SIZE, "counts": [PIXELS + 1, -1]}, COUNTS),
        ({"size": SIZE, "counts": [10**400]}, COUNTS),
        ({"size": SIZE, "counts": []}, COVER),
        ({"size": SIZE, "counts": [PIXELS - 1]}, COVER),
        ({"size": SIZE, "counts": [PIXELS, 1]}, COVER),
        ({"size": SIZE, "counts": ""}, "has a run-length code that is none: ''"),
        ({"size": SIZE, "counts": "\x00"}, "has a run-length code that is none: '\\x00'"),
        ({"size": SIZE, "counts": "é"}, "has a run-length code that is none: 'é'"),
        ({"size": SIZE, "counts": "p"}, "has a run-length code that is none: 'p'"),
        ({"size": SIZE, "counts": "1X"}, "has a run-length code that is none: '1X'"),
        ({"size": SIZE, "counts": "ooooooo0"}, "has a run-length code with a number beyond reason: 'ooooooo0'"),
        ({"size": SIZE, "counts": "oooooo" * 50 + "0"}, "has a run-length code with a number beyond reason: 'oooooo"),
        ({"size": SIZE, "counts": "11"}, COVER),
        ({"size": SIZE, "counts": "O"}, COVER),
    ],
)
def test_wrong_masks_are_named(tmp_path, segmentation, message):
    image = tmp_path / "train" / "images" / "a.png"
    with _fails(f"{tmp_path / 'train/instances.json'}: annotation 7 of {image} {message}", "label"):
        _read(tmp_path, [_annotation(segmentation)])


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_infinite_coordinates(tmp_path, number):
    path = _root(tmp_path, [_annotation([[1, 2, 3, 4, 5, 12345]])])
    path.write_text(path.read_text().replace("12345", number))
    layout = coco.layout(_data(tmp_path))
    with pytest.raises(DataError, match=r"polygon with the coordinate -?inf"):
        layout.read(layout.splits["train"][0])


@pytest.mark.parametrize("value", [2, -1, True, "0", None, [], 1.0])
def test_wrong_crowd(tmp_path, value):
    path, image = tmp_path / "train" / "instances.json", tmp_path / "train" / "images" / "a.png"
    with _fails(f"{path}: annotation 7 of {image} has iscrowd {value!r}, which must be 0 or 1. Mend it, or", "label"):
        _read(tmp_path, [_annotation([SQUARE], iscrowd=value)])


def test_work_and_objects_are_bounded(tmp_path, monkeypatch):
    annotations = [_annotation(_runs(_mask((n, 0, n + 1, 1))), id=n) for n in range(4)]
    monkeypatch.setattr(masks, "OBJECTS", 3)
    with pytest.raises(DataError, match=r"annotation 3 of .* is one of more than 3 objects in an image. Mend it"):
        _read(tmp_path, annotations)
    monkeypatch.setattr(masks, "WORK", 2)
    with pytest.raises(
        DataError, match=r"annotation 2 of .* is the one at which the masks of this image cover more than"
    ):
        _read(tmp_path, annotations)
    monkeypatch.setattr(masks, "OUTLINE", 50)
    with pytest.raises(DataError, match=r"annotation 7 of .* has a polygon whose outline is longer than 10 pixels"):
        _read(tmp_path, [_annotation([SQUARE])])
    monkeypatch.setattr(masks, "CODE", 5)
    with pytest.raises(DataError, match="has a run-length code that is none"):
        _read(tmp_path, [_annotation(_code(_mask((0, 0, 3, 3))))])
    with pytest.raises(DataError, match="has a run-length code whose counts are"):
        _read(tmp_path, [_annotation(_runs(_mask((0, 0, 3, 3))))])


# Sizes and structure.


def test_sizes_that_differ_are_both_named(tmp_path):
    path = _root(tmp_path, [])
    _image(tmp_path / "train" / "images" / "a.png", (HEIGHT, WIDTH + 1))
    layout = coco.layout(_data(tmp_path))
    image = tmp_path / "train" / "images" / "a.png"
    with _fails(f"{path} says that {image} is 12 x 16 (height x width), but it is 12 x 17. Make them equal.", "size"):
        layout.read(layout.splits["train"][0])


@pytest.mark.parametrize(
    "size",
    [(0, 16), (12, None), (12.0, 16), (True, 16), ("12", 16), ([], {}), (-12, -16), (10**400, 1), (1 << 14, 1 << 14)],
)
def test_claimed_sizes(tmp_path, size):
    entry = {"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}
    path = _root(tmp_path, [], images=[entry])
    layout = coco.layout(_data(tmp_path))
    image = tmp_path / "train" / "images" / "a.png"
    image.write_bytes(b"not even opened")
    shown = [coco.shown(value) for value in size]
    message = (
        f"{path} says that {image} has height {shown[0]} and width {shown[1]}. Write its size in pixels, at most 64"
    )
    with _fails(message, "size"):
        layout.read(layout.splits["train"][0])


def test_sizes_need_not_be_written(tmp_path):
    assert _read(tmp_path, [_annotation([SQUARE])], images=[{"id": 1, "file_name": "a.png"}]).label.instance.max() == 1


@pytest.mark.parametrize(
    "content", [[], 3, "x", None, {}, *({**_content(), k: v} for k in _content() for v in (None, {}, 3))]
)
def test_files_of_another_form(tmp_path, content):
    path = _write(tmp_path / "train.json", content)
    with _fails(f"{path} is no COCO file: it lacks a list of images, annotations or categories. Mend it."):
        coco.layout(_data(tmp_path))


@pytest.mark.parametrize("entry", [3, None, {}, {"id": True}, {"id": 1.0}, {"id": [1]}])
def test_malformed_image(tmp_path, entry):
    path = _root(tmp_path, [], images=[{"id": 5, "file_name": "a.png"}, entry])
    with _fails(f"{path}: image number 1 is {coco.shown(entry)}. Give it an id and a file_name."):
        coco.layout(_data(tmp_path))


@pytest.mark.parametrize("entry", [3, None, "x", []])
def test_malformed_annotation(tmp_path, entry):
    path = _root(tmp_path, [_annotation([SQUARE]), entry])
    with _fails(f"{path}: annotation number 1 is {entry!r}. Write an object."):
        coco.layout(_data(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../a.png", "x/../../a.png", "..", ".", "", "x\\a.png", "a\n.png", "a\x00.png", "\x1b[31ma.png",
        "\ud800.png", "a\u2028.png", None, 3, True, [], {"a": 1},
    ],
)  # fmt: skip
def test_names_that_leave_the_folder_or_the_line(tmp_path, name):
    path = _root(tmp_path, [], images=[{"id": 1, "file_name": name}])
    with _fails(
        f"{path} names the file {coco.shown(name)}. Write a path from the images' folder, with / and without .., that "
        "shows on one line."
    ):
        coco.layout(_data(tmp_path))


def test_panoptic_files_are_recognized(tmp_path):
    path = _root(tmp_path, [{"image_id": 1, "file_name": "a.png", "segments_info": []}])
    with _fails(f"{path}: annotation number 0 is of panoptic, not instances. Set --data.coco.annotations panoptic, or"):
        coco.layout(_data(tmp_path))
    path = _write(tmp_path / "train" / "panoptic.json", _content([_annotation([SQUARE])]))
    with _fails(
        f"{path}: annotation number 0 is of instances, not panoptic. Set --data.coco.annotations instances, or"
    ):
        coco.layout(_data(tmp_path, "panoptic"))


# Panoptic labels.

PANOPTIC = [
    {"id": 5, "name": "cell", "isthing": 1},
    {"id": 6, "name": "sky", "isthing": 0},
    {"id": 7, "name": "rock", "isthing": 1},
]


def _png(path: Path, ids: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=2).astype(np.uint8))
    return path


def _segment(key: Any, category: Any = 5, crowd: Any = 0) -> dict[str, Any]:
    return {"id": key, "category_id": category, "iscrowd": crowd}


def _panoptic(root: Path, ids: np.ndarray, segments: Any, file="train/panoptic.json", labels="train/panoptic") -> Path:
    folder = "train/images" if file.startswith("train/") else "images"
    _image(root / folder / "a.png", (ids.shape[0], ids.shape[1]))
    _png(root / labels / "a.png", ids)
    annotation = {"image_id": 1, "file_name": "a.png", "segments_info": segments}
    entry = {"id": 1, "file_name": "a.png"}
    return _write(root / file, {"images": [entry], "annotations": [annotation], "categories": PANOPTIC})


def _only(root: Path, **settings: Any) -> Labelled:
    layout = coco.layout(_data(root, "panoptic", **settings))
    assert layout.faults == ()
    return layout.read(layout.splits["train"][0])


IDS = np.array([[0, 7, 7, 300], [70000, 70000, (1 << 24) - 1, 9]])
SEGMENTS = [_segment(300), _segment(7), _segment(70000, 6), _segment((1 << 24) - 1, 7), _segment(9, 5, 1), _segment(11)]


def test_panoptic_labels(tmp_path):
    _panoptic(tmp_path, IDS, SEGMENTS)
    labelled = _only(tmp_path)
    np.testing.assert_array_equal(labelled.label.semantic, [[255, 1, 1, 1], [2, 2, 3, 255]])
    np.testing.assert_array_equal(labelled.label.instance, [[0, 2, 2, 1], [0, 0, 3, 0]])
    assert (labelled.label.semantic.dtype, labelled.label.instance.dtype) == (np.uint8, np.uint16)
    assert labelled.faults == ()
    classes = coco.layout(_data(tmp_path, "panoptic")).classes
    assert (classes.names[1:], classes.stuff) == (("cell", "sky", "rock"), (2,))


def test_evaluation_knows_panoptic_crowds_of_things_alone(tmp_path):
    """A crowd of stuff has nothing to tell apart: it stays ignored."""
    _panoptic(tmp_path, IDS, SEGMENTS)
    full = _only(tmp_path).full
    np.testing.assert_array_equal(full.semantic, [[255, 1, 1, 1], [2, 2, 3, 1]])
    np.testing.assert_array_equal(full.instance, [[0, 2, 2, 1], [0, 0, 3, 0]])
    _panoptic(tmp_path, IDS, [_segment(70000, 6, 1), *(segment for segment in SEGMENTS if segment["id"] != 70000)])
    np.testing.assert_array_equal(_only(tmp_path).full.semantic, [[255, 1, 1, 1], [255, 255, 3, 1]])
    _panoptic(tmp_path, IDS, [segment | {"iscrowd": 0} for segment in SEGMENTS])
    assert _only(tmp_path).full is None


def test_panoptic_classes_left_out_are_background(tmp_path):
    _panoptic(tmp_path, IDS, SEGMENTS)
    label = _only(tmp_path, classes=("rock", "sky")).label
    np.testing.assert_array_equal(label.semantic, [[255, 0, 0, 0], [2, 2, 1, 255]])
    np.testing.assert_array_equal(label.instance, [[0, 0, 0, 0], [0, 0, 1, 0]])


@pytest.mark.parametrize(
    ("file", "labels"),
    [
        ("train/panoptic.json", "train/panoptic"),
        ("annotations/panoptic_train2017.json", "annotations/panoptic_train2017"),
        ("annotations/panoptic_train2017.json", "annotations/panoptic"),
        ("panoptic_train.json", "train/panoptic"),
    ],
)
def test_panoptic_files_are_found(tmp_path, file, labels):
    _panoptic(tmp_path, IDS, SEGMENTS, file, labels)
    assert _only(tmp_path).label.instance.max() == 3


def test_a_lone_panoptic_file_is_split(tmp_path):
    annotations = []
    for n in range(3):
        _image(tmp_path / "images" / f"{n}.png")
        _png(tmp_path / "panoptic" / f"{n}.png", np.zeros((HEIGHT, WIDTH), int))
        annotations.append({"image_id": n, "file_name": f"{n}.png", "segments_info": []})
    entries = [{"id": n, "file_name": f"{n}.png"} for n in range(3)]
    _write(tmp_path / "panoptic.json", {"images": entries, "annotations": annotations, "categories": PANOPTIC})
    assert {s: len(items) for s, items in coco.layout(_data(tmp_path, "panoptic")).splits.items()} == {
        "train": 2,
        "val": 1,
    }


def test_panoptic_segments_that_nobody_describes(tmp_path):
    path = _panoptic(tmp_path, IDS, [*SEGMENTS[1:], _segment(12, 99), _segment(13, [1])])
    labelled = _only(tmp_path)
    png = tmp_path / "train" / "panoptic" / "a.png"
    assert labelled.faults == (
        ("class", f"{png} holds segment 300, which {path} does not describe. Describe it, or paint it black."),
        (
            "class",
            f"{path}: annotation 12 of {tmp_path / 'train/images/a.png'} (and 1 more) is of category id 99, which is "
            "not listed. List it, or mend the annotation.",
        ),
    )
    np.testing.assert_array_equal(labelled.label.semantic, [[255, 1, 1, 255], [2, 2, 3, 255]])
    np.testing.assert_array_equal(labelled.label.instance, [[0, 1, 1, 0], [0, 0, 2, 0]])


def test_panoptic_segments_of_no_known_category_are_ignored(tmp_path):
    _panoptic(tmp_path, IDS, [_segment(key, 99 if key == 7 else 5) for key in (7, 300, 70000, (1 << 24) - 1, 9)])
    labelled = _only(tmp_path)
    assert [fault.kind for fault in labelled.faults] == ["class"]
    np.testing.assert_array_equal(labelled.label.semantic, [[255, 255, 255, 1], [1, 1, 1, 1]])


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (None, "the annotation of {} describes the segment None. Give it an id from 1 to 16777215."),
        ([3], "the annotation of {} describes the segment 3. Give it an id from 1 to 16777215."),
        ([_segment(0)], "the annotation of {} describes the segment {'category_id': 5, 'id': 0, 'iscrowd': 0}."),
        ([_segment(1 << 24)], "the annotation of {} describes the segment {"),
        ([_segment(True)], "the annotation of {} describes the segment {"),
        ([_segment(10**400)], "the annotation of {} describes the segment {"),
        ([_segment(7), _segment(7)], "annotation 7 of {} is described twice. Mend it, or remove it."),
        ([_segment(7, 5, 3)], "annotation 7 of {} has iscrowd 3, which must be 0 or 1. Mend it, or remove it."),
    ],
)
def test_wrong_segments(tmp_path, segments, message):
    path = _panoptic(tmp_path, IDS, segments)
    with _fails(f"{path}: " + message.replace("{}", str(tmp_path / "train/images/a.png")), "label"):
        _only(tmp_path)


def test_too_many_segments(tmp_path, monkeypatch):
    _panoptic(tmp_path, IDS, SEGMENTS)
    monkeypatch.setattr(masks, "OBJECTS", 3)
    with pytest.raises(DataError, match="is one of more than 3 segments in an image"):
        _only(tmp_path)


def test_panoptic_pngs_of_another_kind(tmp_path):
    _panoptic(tmp_path, IDS, SEGMENTS)
    path = tmp_path / "train" / "panoptic" / "a.png"
    for pixels in (np.zeros((2, 4), np.uint8), np.zeros((2, 4, 3), np.uint16), np.zeros((2, 4, 4), np.uint8)):
        cv2.imwrite(str(path), pixels)
        with _fails(f"{path} is not an RGB image of 8 bits, which panoptic labels are. Export it again.", "label"):
            _only(tmp_path)
    _png(path, np.zeros((2, 5), int))
    with _fails(f"{path} is 2 x 5 (height x width), but its image a.png is 2 x 4. Make them equal.", "size"):
        _only(tmp_path)


def test_panoptic_labels_that_are_missing(tmp_path):
    path = _panoptic(tmp_path, IDS, SEGMENTS)
    content = json.loads(path.read_text())
    for n in (2, 3, 4):
        _image(tmp_path / "train" / "images" / f"{n}.png")
        content["images"].append({"id": n, "file_name": f"{n}.png"})
    content["annotations"] += [{"image_id": n, "file_name": f"{n}.png", "segments_info": []} for n in (3, 4, 4)]
    _write(path, content)
    layout = coco.layout(_data(tmp_path, "panoptic"))
    train = tmp_path / "train"
    assert [item.name for item in layout.splits["train"]] == ["a"]
    assert layout.faults == (
        ("missing", f"{path} holds no annotation of {train / 'images/2.png'}. Write one."),
        ("missing", f"{train / 'panoptic/3.png'}, which {path} lists, is missing. Add it, or take it off the list."),
        ("label", f"{path} holds 2 annotations of {train / 'images/4.png'}. Write one."),
    )
    (train / "panoptic" / "a.png").unlink()
    with _fails(f"{path} has no label PNGs. Put those that it lists in {train / 'panoptic'}."):
        coco.layout(_data(tmp_path, "panoptic"))


@pytest.mark.parametrize("name", ["../a.png", "/a.png", None])
def test_panoptic_pngs_stay_in_their_folder(tmp_path, name):
    path = _panoptic(tmp_path, IDS, SEGMENTS)
    content = json.loads(path.read_text())
    content["annotations"][0]["file_name"] = name
    _write(path, content)
    with _fails(f"{path} names the file {name!r}. Write a path from the images' folder"):
        coco.layout(_data(tmp_path, "panoptic"))


# The layout as a whole.


def test_fingerprint_follows_files_and_settings(tmp_path):
    path = _root(tmp_path, [_annotation([SQUARE])])

    def now(**settings: Any) -> str:
        return coco.layout(_data(tmp_path, **settings)).fingerprint()

    first = now()
    assert now() == first
    seen = {first, now(classes=("wall",)), now(stuff=("wall",))}
    for file in (path, tmp_path / "train" / "images" / "a.png"):
        status = file.stat()
        file.write_bytes(file.read_bytes())
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        seen.add(now())
    assert len(seen) == 5


def test_panoptic_fingerprint_follows_pngs(tmp_path):
    _panoptic(tmp_path, IDS, SEGMENTS)
    first = coco.layout(_data(tmp_path, "panoptic")).fingerprint()
    _png(tmp_path / "train" / "panoptic" / "a.png", IDS * 0)
    assert coco.layout(_data(tmp_path, "panoptic")).fingerprint() != first


def test_threads_read_what_one_reads(tmp_path):
    rng = np.random.default_rng(0)
    entries, annotations = [], []
    for n in range(12):
        _image(tmp_path / "train" / f"{n:02}.png")
        entries.append({"id": n, "file_name": f"{n:02}.png", "height": HEIGHT, "width": WIDTH})
        outlines = [rng.uniform(0, 12, 8).tolist() for _ in range(5)]
        annotations += [_annotation([outline], image_id=n) for outline in outlines]
    _write(tmp_path / "train.json", _content(annotations, images=entries))
    layout = coco.layout(_data(tmp_path))
    items = layout.splits["train"]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(map(layout.read, items), pool.map(layout.read, items), strict=True):
            np.testing.assert_array_equal(one.label.instance, other.label.instance)


def _same_objects(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    one_to_one = pairs.shape[1] == np.unique(one).size == np.unique(other).size
    return one_to_one and np.array_equal(one == 0, other == 0)


@pytest.mark.parity
@pytest.mark.skipif(not (SHARED / "dsb2018").is_dir(), reason="shared data is not there")
def test_nuclei_are_the_same_as_coco_and_as_a_folder():
    root = str(SHARED / "dsb2018")
    one = coco.layout(Data(builder="coco", root=root))
    other = folder.layout(Data(builder="folder", root=root, classes=("nucleus",)))
    assert one.classes == other.classes
    assert [item.name for item in one.splits["val"]] == [item.name for item in other.splits["val"]]
    for a, b in list(zip(one.splits["val"], other.splits["val"], strict=True))[::12]:
        read, wanted = one.read(a), other.read(b)
        assert (read.content, read.digest, read.faults) == (wanted.content, wanted.digest, ())
        np.testing.assert_array_equal(read.label.semantic, wanted.label.semantic)
        assert _same_objects(read.label.instance, wanted.label.instance)


@pytest.mark.parity
@pytest.mark.skipif(not (SHARED / "coco200").is_dir(), reason="shared data is not there")
def test_things_of_coco_are_the_same_as_coco_and_as_a_folder():
    root = SHARED / "coco200"
    categories = json.loads((root / "val" / "instances.json").read_text())["categories"]
    names = tuple(category["name"] for category in categories)
    stuff = tuple(category["name"] for category in categories if not category["isthing"])
    one = coco.layout(Data(builder="coco", root=str(root)))
    form = Folder(divisor=256, zero_is_instance=False)
    other = folder.layout(Data(builder="folder", root=str(root), classes=names, stuff=stuff, folder=form))
    assert one.classes.names == other.classes.names[:81]
    for a, b in list(zip(one.splits["val"], other.splits["val"], strict=True))[::7]:
        label, wanted = one.read(a).label, other.read(b).label
        assert _same_objects(label.instance, wanted.instance)
        for where in (wanted.instance > 0, wanted.semantic == 255):
            np.testing.assert_array_equal(label.semantic[where], wanted.semantic[where])


def test_limits_fit_the_numbers_that_hold_them():
    assert 3 * masks.LEVEL < 2**31
    assert 5 * 3 * images.PIXELS < 2**31, "pycocotools keeps fifths of a pixel in 32 bits"
