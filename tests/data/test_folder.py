"""Folders of images and instance maps: what is read, and what is refused, word for word."""

import dataclasses
import io
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxseg.config import Data, Folder, UserError
from jaxseg.data import Label, folder, images
from jaxseg.data.layouts import Fault

CLASSES = ("cell", "wall")


def _write(root: Path, name: str, raw: np.ndarray, image: np.ndarray | None = None, suffix: str = ".png") -> Path:
    for part in ("images", "instances"):
        (root / part).mkdir(parents=True, exist_ok=True)
    image = np.full((*raw.shape, 3), 77, np.uint8) if image is None else image
    assert cv2.imwrite(str(root / "images" / f"{name}{suffix}"), image)
    assert cv2.imwrite(str(root / "instances" / f"{name}.png"), raw)
    return root / "images" / f"{name}{suffix}"


def _data(root: Path, **settings) -> Data:
    return Data(builder="folder", root=str(root), classes=CLASSES, folder=Folder(**settings))


def _decoded(raw, things=(True, True), **settings) -> tuple[Label, tuple[Fault, ...]]:
    values = dataclasses.asdict(Folder(**settings))
    return folder.decode(np.array(raw, np.uint16), folder.Coding((1, 2), things, **values), Path("label.png"))


def _label(raw, **settings) -> Label:
    label, faults = _decoded(raw, **settings)
    assert not faults
    return label


def _first(root: Path) -> tuple[bytes, Label]:
    layout = folder.layout(_data(root))
    read = layout.read(layout.splits["train"][0])
    return read.content, read.label


def _fails(message: str):
    return pytest.raises(UserError, match=re.escape(message))


@pytest.fixture
def raw() -> np.ndarray:
    values = np.zeros((20, 30), np.uint16)
    values[2:8, 3:9], values[10:15, 3:9], values[5:9, 20:25] = 1000, 1007, 2001
    return values


def test_values_become_classes_and_ids_without_gaps():
    semantic, instance = _label([[0, 1000, 1007], [2001, 1000, 0]])
    np.testing.assert_array_equal(semantic, [[0, 1, 1], [2, 1, 0]])
    np.testing.assert_array_equal(instance, [[0, 1, 2], [3, 1, 0]])
    assert (semantic.dtype, instance.dtype) == (np.uint8, np.uint16)


def test_zero_may_mean_a_group_or_stuff():
    semantic, instance = _label([[1000, 1001, 2000]], things=(True, False), zero_is_instance=False)
    np.testing.assert_array_equal(semantic, [[1, 1, 2]])
    np.testing.assert_array_equal(instance, [[0, 1, 0]])


def test_groups_are_for_evaluation_alone(tmp_path):
    _write(tmp_path / "train", "a", np.array([[1000, 1001, 2003, 0]], np.uint16))
    _write(tmp_path / "train", "b", np.array([[1001, 1001, 2003, 0]], np.uint16))
    layout = folder.layout(_data(tmp_path, zero_is_instance=False))
    grouped, plain = (layout.read(pair) for pair in layout.splits["train"])
    np.testing.assert_array_equal(grouped.label.semantic, [[255, 1, 2, 0]])
    np.testing.assert_array_equal(grouped.label.instance, [[0, 1, 2, 0]])
    np.testing.assert_array_equal(grouped.full.semantic, [[1, 1, 2, 0]])
    np.testing.assert_array_equal(grouped.full.instance, [[0, 1, 2, 0]])
    assert plain.full is None


def test_stuff_has_no_instances_whatever_its_n():
    semantic, instance = _label([[1000, 2000, 2001]], things=(True, False))
    np.testing.assert_array_equal(semantic, [[1, 2, 2]])
    np.testing.assert_array_equal(instance, [[1, 0, 0]])


def test_ignored_values_are_255_and_no_instance():
    semantic, instance = _label([[65535, 0, 1003]], ignored=(65535, 0))
    np.testing.assert_array_equal(semantic, [[255, 255, 1]])
    np.testing.assert_array_equal(instance, [[0, 0, 1]])


def test_divisor_one_means_one_object_a_class():
    semantic, instance = _label([[0, 1, 2, 2]], divisor=1)
    np.testing.assert_array_equal(semantic, [[0, 1, 2, 2]])
    np.testing.assert_array_equal(instance, [[0, 1, 2, 2]])


def test_an_empty_label_is_all_background():
    semantic, instance = _label(np.zeros((3, 4)))
    assert not semantic.any()
    assert not instance.any()


@pytest.mark.parametrize(("value", "class_id"), [(3001, 3), (17, 0)])
def test_unknown_class_names_file_id_and_remedy(value, class_id):
    message = f"label.png holds {value}, which means class {class_id} of 1 to 2 (divisor 1000). Mend the label,"
    label, faults = _decoded([[0, 1000, value]])
    assert [kind for kind, _ in faults] == ["class"]
    assert faults[0].message.startswith(message)
    np.testing.assert_array_equal(label.semantic, [[0, 1, 255]])
    np.testing.assert_array_equal(label.instance, [[0, 1, 0]])


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_common_files_are_kept_as_they_are(tmp_path, raw, suffix, channels):
    image = np.random.default_rng(0).integers(0, 255, (*raw.shape, *channels)).astype(np.uint8)
    path = _write(tmp_path / "train", "a", raw, image, suffix)
    content, label = _first(tmp_path)
    assert content == path.read_bytes()
    assert label.instance.max() == 3


def test_other_files_become_png_of_8_bits(tmp_path, raw):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (*raw.shape, 3)).astype(np.uint8)
    for i, (stored, suffix) in enumerate(
        [
            (rgb, ".bmp"),
            (rgb, ".tif"),
            (rgb.astype(np.uint16) * 257, ".png"),
            (np.dstack([rgb, np.full(raw.shape, 9, np.uint8)]), ".png"),
        ]
    ):
        _write(tmp_path / str(i) / "train", "a", raw, stored, suffix)
        content, _ = _first(tmp_path / str(i))
        assert content[1:4] == b"PNG"
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED), rgb)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_photos_are_turned_the_way_the_camera_was_held(tmp_path, orientation, suffix):
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[:8, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(_with_exif(stored, exif)))
    path = _write(tmp_path / "train", "a", np.zeros(upright.shape[:2], np.uint16), suffix=suffix)
    Image.fromarray(stored).save(path, exif=exif)
    content, label = _first(tmp_path)
    assert label.semantic.shape == upright.shape[:2]
    assert abs(images.rgb(content).astype(int) - upright).max() < 40
    # OpenCV, as TFDS decodes with it, and Pillow see the same.
    assert abs(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).astype(int) - upright).max() < 40


def _with_exif(pixels: np.ndarray, exif: Image.Exif) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return Image.open(file)


def test_a_name_that_is_no_text_is_a_fault(tmp_path, raw):
    _write(tmp_path / "train", "a", raw)
    for part in ("images", "instances"):
        os.rename(tmp_path / "train" / part / "a.png", os.fsencode(tmp_path / "train" / part) + b"/\xfcber.png")
    _write(tmp_path / "train", "b", raw)
    layout = folder.layout(_data(tmp_path))
    assert [pair.name for pair in layout.splits["train"]] == ["b"]
    assert [fault.kind for fault in layout.faults] == ["unreadable"]
    assert layout.faults[0].message.endswith("has a name that does not show on one line. Rename it, and its label.")
    layout.faults[0].message.encode()


def test_a_side_that_no_file_can_store_is_refused(tmp_path):
    path = _write(tmp_path / "train", "a", np.zeros((1, 70_000), np.uint16), suffix=".bmp")
    with _fails(f"{path} claims 1 x 70000 pixels"):
        _first(tmp_path)


def test_any_mix_of_sizes_in_order_of_names(tmp_path):
    for name, side in (("b", 9), ("c", 12), ("a", 17)):
        _write(tmp_path / "train", name, np.zeros((side, side + 1), np.uint16))
    (tmp_path / "train" / "images" / ".hidden.png").write_bytes(b"")
    (tmp_path / "train" / "images" / "notes.txt").write_text("not an image")
    layout = folder.layout(_data(tmp_path))
    assert [pair.name for pair in layout.splits["train"]] == ["a", "b", "c"]
    assert list(layout.splits) == ["train"]
    assert layout.faults == ()


def _flat(root: Path, count: int) -> dict[str, set[str]]:
    for i in range(count):
        _write(root, f"image{i}", np.zeros((2, 2), np.uint16))
    return {split: {pair.name for pair in pairs} for split, pairs in folder.layout(_data(root)).splits.items()}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_folder_without_splits_is_never_split_into_nothing(tmp_path, count):
    splits = _flat(tmp_path, count)
    assert splits["train"]
    assert splits["val"]
    assert len(splits["train"] | splits["val"]) == count
    assert not splits["train"] & splits["val"]


def test_the_split_by_names_is_about_a_tenth_and_stays(tmp_path):
    before = _flat(tmp_path, 120)
    after = _flat(tmp_path, 200)
    assert 0.04 < len(after["val"]) / 200 < 0.18
    assert before["val"] <= after["val"]
    assert before["train"] <= after["train"]


def test_missing_folder(tmp_path):
    with _fails(f"The data folder {tmp_path / 'none'} does not exist. Set --data.root."):
        folder.layout(_data(tmp_path / "none"))
    with _fails("The data folder (none given) does not exist. Set --data.root."):
        folder.layout(Data(builder="folder", classes=CLASSES))


def test_folder_without_images(tmp_path):
    with _fails(f"{tmp_path} has neither train/images nor images."):
        folder.layout(_data(tmp_path))
    (tmp_path / "train" / "images").mkdir(parents=True)
    with _fails(f"{tmp_path / 'train' / 'images'} holds no image. Put png, jpg, jpeg, bmp, tif, tiff files there."):
        folder.layout(_data(tmp_path))


def test_a_lone_image_cannot_be_split(tmp_path, raw):
    _write(tmp_path, "a", raw)
    with _fails(f"{tmp_path} holds one image, which cannot be train and val."):
        folder.layout(_data(tmp_path))


def test_missing_label(tmp_path, raw):
    image = _write(tmp_path / "train", "a", raw)
    label = tmp_path / "train" / "instances" / "a.png"
    label.unlink()
    _write(tmp_path / "train", "b", raw)
    layout = folder.layout(_data(tmp_path))
    assert [pair.name for pair in layout.splits["train"]] == ["b"]
    message = f"{image} has no label. Add {label}, all 0 where the image shows no object."
    assert layout.faults == (Fault("missing", message),)


def test_label_without_image(tmp_path, raw):
    image = _write(tmp_path / "train", "a", raw)
    _write(tmp_path / "train", "b", raw)
    image.unlink()
    message = f"{tmp_path / 'train' / 'instances' / 'a.png'} has no image. Add one, or remove the label."
    assert folder.layout(_data(tmp_path)).faults == (Fault("missing", message),)


def test_two_images_of_one_name(tmp_path, raw):
    _write(tmp_path / "train", "a", raw, suffix=".jpg")
    image = _write(tmp_path / "train", "a", raw)
    with _fails(f"{image} and a.jpg share one label. Rename one of them."):
        folder.layout(_data(tmp_path))


def test_sizes_that_differ_are_both_named(tmp_path, raw):
    _write(tmp_path / "train", "a", raw, np.zeros((20, 31, 3), np.uint8))
    message = "a.png is 20 x 30 (height x width), but its image a.png is 20 x 31. Make them equal."
    with _fails(message):
        _first(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_truncated_image_is_named(tmp_path, raw, suffix, keep):
    noise = np.random.default_rng(0).integers(0, 255, (*raw.shape, 3)).astype(np.uint8)
    path = _write(tmp_path / "train", "a", raw, noise, suffix)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with _fails(str(path)):
        _first(tmp_path)


def test_text_that_calls_itself_an_image_is_named(tmp_path, raw):
    path = _write(tmp_path / "train", "a", raw)
    path.write_text("this is no image")
    with _fails(f"{path} is not an image that can be read. Restore it or remove it with its pair."):
        _first(tmp_path)


def test_truncated_label_is_named(tmp_path):
    path = tmp_path / "train" / "instances" / "a.png"
    _write(tmp_path / "train", "a", np.random.default_rng(0).integers(1000, 1200, (40, 40)).astype(np.uint16))
    path.write_bytes(path.read_bytes()[:300])
    with _fails(f"{path} cannot be read"):
        _first(tmp_path)


def test_label_with_colors_is_refused(tmp_path, raw):
    _write(tmp_path / "train", "a", raw)
    path = tmp_path / "train" / "instances" / "a.png"
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
    with _fails(f"{path} has 3 channels of uint8. Store one channel of 16 bits, class * divisor + n."):
        _first(tmp_path)


@pytest.mark.parametrize(
    "listed",
    [["cell", "wall"], [{"name": "cell"}, {"name": "wall", "isthing": 0, "color": [1, 2, 3]}]],
)
def test_the_folder_may_list_its_classes(tmp_path, raw, listed):
    _write(tmp_path / "train", "a", raw)
    (tmp_path / "classes.json").write_text(json.dumps(listed))
    layout = folder.layout(dataclasses.replace(_data(tmp_path), classes=()))
    assert layout.classes.names == ("background", "cell", "wall")
    assert layout.classes.stuff == ((2,) if isinstance(listed[1], dict) else ())
    assert layout.read(layout.splits["train"][0]).label.instance.max() == (2 if layout.classes.stuff else 3)


def test_classes_that_are_not_chosen_are_background(tmp_path, raw):
    _write(tmp_path / "train", "a", raw)
    (tmp_path / "classes.json").write_text('["cell", "wall"]')
    layout = folder.layout(dataclasses.replace(_data(tmp_path), classes=("wall",)))
    label = layout.read(layout.splits["train"][0]).label
    assert layout.classes.names == ("background", "wall")
    np.testing.assert_array_equal(label.semantic, raw == 2001)
    np.testing.assert_array_equal(label.instance, raw == 2001)


def test_a_class_that_the_folder_does_not_list(tmp_path, raw):
    _write(tmp_path / "train", "a", raw)
    (tmp_path / "classes.json").write_text('["cell"]')
    with _fails(f"'wall' is no class of {tmp_path}. Choose from cell."):
        folder.layout(_data(tmp_path))


def test_a_folder_without_names_of_classes(tmp_path, raw):
    _write(tmp_path / "train", "a", raw)
    with _fails(f"The classes of {tmp_path} have no names. Give them as --data.classes, or list them in"):
        folder.layout(dataclasses.replace(_data(tmp_path), classes=()))


@pytest.mark.parametrize("text", ["{}", "[]", "[1]", '[{"id": 3}]', "[[]]", '["a", "a"]', "[null]", "[", "nothing"])
def test_a_list_of_classes_that_is_none(tmp_path, raw, text):
    _write(tmp_path / "train", "a", raw)
    (tmp_path / "classes.json").write_text(text)
    with _fails(str(tmp_path / "classes.json")):
        folder.layout(_data(tmp_path))


def test_colors_do_not_change_what_is_prepared(tmp_path, raw):
    _write(tmp_path / "train", "a", raw)
    plain, colored = (
        folder.layout(dataclasses.replace(_data(tmp_path), colors=colors)) for colors in ((), ((1, 2, 3), (4, 5, 6)))
    )
    assert colored.classes.colors[1] == (1, 2, 3)
    assert plain.fingerprint() == colored.fingerprint()


def test_fingerprint_follows_files_and_settings(tmp_path, raw):
    image = _write(tmp_path / "train", "a", raw)

    def now(**settings) -> str:
        return folder.layout(_data(tmp_path, **settings)).fingerprint()

    first = now()
    assert now() == first
    assert len({first, now(divisor=100), now(zero_is_instance=False), now(ignored=(9,))}) == 4
    status = image.stat()
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    rewritten = now()
    _write(tmp_path / "train", "b", raw)
    assert len({first, rewritten, now()}) == 3


def test_pillow_and_opencv_agree_on_what_is_kept(tmp_path, raw):
    """The stored bytes decode to the image that a viewer shows, RGB in this order."""
    rgb = np.random.default_rng(1).integers(0, 255, (*raw.shape, 3)).astype(np.uint8)
    _write(tmp_path / "train", "a", raw, rgb[..., ::-1])
    content, _ = _first(tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), rgb)
