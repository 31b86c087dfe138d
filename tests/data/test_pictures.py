"""Images of one class each: what is read and refused, word for word; what is prepared; and the order of training."""

import dataclasses
import io
import os
import pickle
import re
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import shuffle

from jaxseg.config import Pictures, RandomWindow, UserError
from jaxseg.data import augment, builders, images, pictures, pipeline
from jaxseg.data.pictures import DEVKIT, TRAIN, VAL, Picture

WORDNET = {1: "n30", 2: "n10", 3: "n20"}
"""ILSVRC2012_ID to WordNet id: neither order is the other's."""

TRUTH = (3, 1, 2, 2)
"""ILSVRC2012_ID of each validation image."""

WINDOW = RandomWindow(area=(0.3, 1.0), brightness=0.2, hue=0.05)
Arrays = list[tuple[np.ndarray, np.ndarray]]


def _pixels(seed: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)


def _encoded(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form, **({"quality": 95} if form == "JPEG" else {}))
    return file.getvalue()


def _png(seed: int) -> bytes:
    return _encoded(Image.fromarray(_pixels(seed)))


def _put(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_png(seed))
    return path


def _fails(message: str):
    return pytest.raises(UserError, match=re.escape(message))


def _names(data: Pictures) -> dict[str, list[str]]:
    layout = pictures.layout(data)
    return {split: [raw.name for raw in layout.stream(split)] for split in layout.splits}


def _all(data: Pictures, split: str) -> list[Picture]:
    return list(pictures.dataset(data).split(split))


@pytest.fixture
def animals(tmp_path) -> Pictures:
    root = tmp_path / "data"
    for seed, name in enumerate(("dog/b", "dog/a", "cat/c", "cat/a-1", "cat/a", "owl/d")):
        _put(root / "train" / f"{name}.png", seed)
    for seed, name in enumerate(("owl/e", "cat/f")):
        _put(root / "val" / f"{name}.png", 10 + seed)
    return Pictures(root=str(root), cache=str(tmp_path / "cache"), crop=(16, 24), augment=WINDOW)


def _tar(members: Mapping[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _devkit(truth: Sequence[object] = TRUTH) -> dict[str, bytes]:
    """The devkit's two files; meta.mat also lists an inner node of the hierarchy, as the official one does."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "num_children", "children")
    rows = np.empty((4, 1), [(name, object) for name in fields])
    for row, number in enumerate((1, 2, 3, 4)):
        children = np.array([1.0, 2.0]) if number == 4 else np.array([])
        rows[row, 0] = (float(number), WORDNET.get(number, "n05"), "a word, another", float(children.size), children)
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": rows})
    top = "ILSVRC2012_devkit_t12"
    return {
        f"{top}/readme.txt": b"read me",
        f"{top}/data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{number}\n" for number in truth).encode(),
        f"{top}/data/meta.mat": meta.getvalue(),
    }


def _training(name: str) -> dict[str, bytes]:
    return {f"{name}_{i}.JPEG": _png(int(name[1:]) + i) for i in (7, 3)}


@pytest.fixture
def imagenet(tmp_path) -> Pictures:
    root = tmp_path / "official"
    root.mkdir()
    (root / TRAIN).write_bytes(_tar({f"{name}.tar": _tar(_training(name)) for name in WORDNET.values()}))
    (root / VAL).write_bytes(_tar({f"ILSVRC2012_val_{i:08}.JPEG": _png(100 + i) for i in (2, 1, 3, 4)}))
    (root / DEVKIT).write_bytes(_tar(_devkit(), "w:gz"))
    return Pictures(builder="imagenet", root=str(root), cache=str(tmp_path / "cache"))


def test_folders_are_listed_in_order_of_their_names(animals):
    layout = pictures.layout(animals)
    assert layout.classes == ("cat", "dog", "owl")
    assert layout.title == animals.root
    assert _names(animals) == {
        "train": ["cat/a", "cat/a-1", "cat/c", "dog/a", "dog/b", "owl/d"],
        "val": ["cat/f", "owl/e"],
    }
    assert [raw.label for raw in layout.stream("train")] == [0, 0, 0, 1, 1, 2]
    assert next(layout.stream("train")).content == (Path(animals.root) / "train" / "cat" / "a.png").read_bytes()


def test_images_of_every_kind_and_nothing_else(animals):
    folder = Path(animals.root) / "train" / "owl"
    for i, suffix in enumerate(("JPEG", "Jpg", "bmp", "TIF", "tiff")):
        _put(folder / f"{i}.{suffix}")
    for name in (".hidden.png", "notes.txt", "Thumbs.db"):
        _put(folder / name)
    (Path(animals.root) / "train" / ".cache").mkdir()
    (Path(animals.root) / "notes").mkdir()
    assert [name for name in _names(animals)["train"] if name.startswith("owl")] == [
        *(f"owl/{i}" for i in range(5)),
        "owl/d",
    ]
    assert pictures.layout(animals).classes == ("cat", "dog", "owl")


@pytest.mark.parametrize("parent", ["", "train"])
def test_without_val_about_a_tenth_is_split_off_and_stays(tmp_path, parent):
    data = Pictures(root=str(tmp_path))
    for i in range(60):
        _put(tmp_path / parent / "ab"[i % 2] / f"{i}.png", 0)
    before = _names(data)
    for i in range(60, 100):
        _put(tmp_path / parent / "ab"[i % 2] / f"{i}.png", 0)
    after = _names(data)
    assert 0.03 < len(after["val"]) / 100 < 0.2
    assert len({*after["train"], *after["val"]}) == 100
    assert {*before["val"]} <= {*after["val"]}
    assert {*before["train"]} <= {*after["train"]}


def test_a_test_split_is_read_too(animals):
    _put(Path(animals.root) / "test" / "dog" / "z.png")
    assert _names(animals)["test"] == ["dog/z"]


def test_the_settings_choose_and_order_classes(animals):
    _put(Path(animals.root) / "val" / "yak" / "y.png")
    data = dataclasses.replace(animals, classes=("owl", "cat"))
    layout = pictures.layout(data)
    assert layout.classes == ("owl", "cat")
    found = [(raw.name, raw.label) for raw in layout.stream("train")]
    assert found == [("cat/a", 1), ("cat/a-1", 1), ("cat/c", 1), ("owl/d", 0)]
    assert [raw.name for raw in layout.stream("val")] == ["cat/f", "owl/e"]


def test_the_classes_of_the_data_set_become_those_of_the_settings(animals, imagenet):
    for data, classes in ((animals, ("cat", "dog", "owl")), (imagenet, ("n10", "n20", "n30"))):
        resolved, layout = pictures.resolve(data)
        assert resolved == dataclasses.replace(data, classes=classes)
        assert layout.classes == classes
        again, other = pictures.resolve(resolved)
        assert again == resolved
        assert other.fingerprint() == layout.fingerprint()


def test_a_folder_that_is_not_there(tmp_path):
    with _fails(f"The data folder {tmp_path / 'none'} does not exist. Set --data.root."):
        pictures.layout(Pictures(root=str(tmp_path / "none")))
    with _fails("The data folder (none given) does not exist. Set --data.root."):
        pictures.layout(Pictures(builder="imagenet"))


def test_folders_that_cannot_be_learnt_from(animals, tmp_path):
    root = Path(animals.root)
    with _fails("'yak' is no class of " + f"{root}. Remove it from --data.classes, or add its images."):
        pictures.layout(dataclasses.replace(animals, classes=("cat", "yak")))
    with _fails(f"{root} holds one class, cat, so that there is nothing to learn. Add another."):
        pictures.layout(dataclasses.replace(animals, classes=("cat",)))
    (tmp_path / "empty").mkdir()
    with _fails(f"{tmp_path / 'empty'} holds no folder of a class. Put the images of each class into a folder of its"):
        pictures.layout(Pictures(root=str(tmp_path / "empty")))
    twin = _put(root / "val" / "cat" / "f.jpg")
    with _fails(f"{root / 'val' / 'cat' / 'f.png'} and {twin.name} have one name. Rename one of them."):
        pictures.layout(animals)


def test_classes_without_images(animals):
    root = Path(animals.root)
    (root / "train" / "yak").mkdir()
    with _fails(f"No training image shows class yak of {root}. Add some, or remove its folder."):
        pictures.layout(animals)
    for path in (root / "val").rglob("*.png"):
        path.unlink()
    with _fails(
        f"{root / 'val'} holds no image in the folders of its classes. Put png, jpg, jpeg, bmp, tif, tiff files"
    ):
        pictures.layout(animals)


def test_a_class_of_val_that_train_has_not(animals):
    _put(Path(animals.root) / "val" / "yak" / "y.png")
    with _fails(f"{Path(animals.root) / 'val' / 'yak'} is of a class that train has not. Add it there, or remove it."):
        pictures.layout(animals)


@pytest.mark.parametrize("odd", [b"\xfcber.png", b"two\nlines.png"])
def test_names_that_do_not_show_on_one_line(animals, odd):
    folder = Path(animals.root) / "train" / "owl"
    os.rename(folder / "d.png", os.fsencode(folder) + b"/" + odd)
    with _fails(f"{os.fsdecode(odd)!a} in {folder} has a name that does not show on one line. Rename it."):
        pictures.layout(animals)
    os.rename(folder, os.fsencode(folder.parent) + b"/" + odd)
    with _fails(f"{os.fsdecode(odd)!a} in {folder.parent} has a name that does not show on one line. Rename it."):
        pictures.layout(animals)


def test_class_ids_of_imagenet_are_ranks_of_wordnet_ids(imagenet):
    layout = pictures.layout(imagenet)
    assert layout.classes == ("n10", "n20", "n30")
    assert layout.splits == ("train", "val")
    train = list(layout.stream("train"))
    # As they lie in the tars: those of n30 first.
    assert [raw.name for raw in train] == [f"{name}/{name}_{i}" for name in WORDNET.values() for i in (7, 3)]
    assert [raw.label for raw in train] == [2, 2, 0, 0, 1, 1]
    assert train[2].content == _png(17)
    val = list(layout.stream("val"))
    assert [raw.name for raw in val] == [f"ILSVRC2012_val_{i:08}" for i in (2, 1, 3, 4)]
    # The ground truth 3, 1, 2, 2 is n20, n30, n10, n10; the tar holds the second image first.
    assert [raw.label for raw in val] == [2, 1, 0, 0]
    assert [raw.content for raw in val] == [_png(100 + i) for i in (2, 1, 3, 4)]


def test_classes_of_imagenet_may_be_chosen(imagenet):
    layout = pictures.layout(dataclasses.replace(imagenet, classes=("n20", "n10")))
    assert [(raw.name, raw.label) for raw in layout.stream("train")] == [
        (f"{name}/{name}_{i}", label) for name, label in (("n10", 1), ("n20", 0)) for i in (7, 3)
    ]
    assert [raw.label for raw in layout.stream("val")] == [0, 1, 1]
    with _fails(f"'n05' is no class of {imagenet.root}."):
        pictures.layout(dataclasses.replace(imagenet, classes=("n05", "n10")))


@pytest.mark.parametrize("name", [TRAIN, VAL, DEVKIT])
def test_every_official_file_is_needed(imagenet, name):
    path = Path(imagenet.root) / name
    path.unlink()
    with _fails(f"{path} is missing. Put the official file there, as it was downloaded."):
        pictures.layout(imagenet)


@pytest.mark.parametrize(("split", "name"), [("train", TRAIN), ("val", VAL)])
def test_a_tar_that_is_cut_short_anywhere_is_named(imagenet, split, name):
    path, layout = Path(imagenet.root) / name, pictures.layout(imagenet)
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        end = max(member.offset_data + -(-member.size // 512) * 512 for member in tar)
    path.write_bytes(whole[: end + 512])
    whole_names = [raw.name for raw in layout.stream(split)]
    assert len(whole_names) in (4, 6)
    for cut in (*range(0, end, 512), 100, end // 2 + 7, end, end + 511):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError) as caught:
            list(layout.stream(split))
        assert str(caught.value).startswith(f"{path} cannot be read: "), cut
        assert str(caught.value).endswith(". It is damaged or cut short: get it again.")


def test_a_damaged_tar_is_named(imagenet):
    path, layout = Path(imagenet.root) / VAL, pictures.layout(imagenet)
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1].offset
    content = bytearray(path.read_bytes())
    content[second : second + 200] = bytes(range(200))
    path.write_bytes(content)
    with _fails(f"{path} cannot be read: no mark shows its end. It is damaged or cut short: get it again."):
        list(layout.stream("val"))


def test_train_must_show_every_class(imagenet):
    path = Path(imagenet.root) / TRAIN
    path.write_bytes(_tar({"n10.tar": _tar(_training("n10")), "n20.tar": _tar({}), "n30.tar": _tar(_training("n30"))}))
    with _fails(f"{path} holds no image of class n20. Get it again."):
        list(pictures.layout(imagenet).stream("train"))


@pytest.mark.parametrize("truth", [(1, 2, 3, 3, 1), (1, 2, 3)])
def test_the_ground_truth_must_be_of_the_validation_images(imagenet, truth):
    root = Path(imagenet.root)
    (root / DEVKIT).write_bytes(_tar(_devkit(truth), "w:gz"))
    message = (
        f"{root / VAL} holds 4 images, but {DEVKIT} knows 5. Get both again."
        if len(truth) == 5
        else f"{root / VAL} holds 'ILSVRC2012_val_00000004.JPEG', whose class {DEVKIT} does not tell. Get both again."
    )
    with _fails(message):
        list(pictures.layout(imagenet).stream("val"))


def test_a_devkit_that_cannot_be_read(imagenet):
    path = Path(imagenet.root) / DEVKIT
    good, files = path.read_bytes(), _devkit()
    lacking = {name: content for name, content in files.items() if not name.endswith("meta.mat")}
    broken = {name: b"nothing" if name.endswith("meta.mat") else content for name, content in files.items()}
    for content, reason in (
        (good[: len(good) // 2], ""),
        (b"nothing", "not a gzip file. "),
        (_tar(lacking, "w:gz"), "it lacks data/meta.mat. "),
        (_tar(broken, "w:gz"), ""),
        (_tar(_devkit((1, "x")), "w:gz"), "invalid literal for int() with base 10: b'x'. "),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            pictures.layout(imagenet)
        assert str(caught.value).startswith(f"{path} cannot be read: {reason}")
        assert str(caught.value).endswith(". Get it again.")
    path.write_bytes(_tar(_devkit((1, 9)), "w:gz"))
    with _fails(f"{path} names no class 9 of its ground truth. Get it again."):
        pictures.layout(imagenet)


def test_without_scipy_the_devkit_cannot_be_read(imagenet, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with _fails(f"Reading {Path(imagenet.root) / DEVKIT} needs SciPy. Install it: pip install scipy"):
        pictures.layout(imagenet)


def test_pictures_come_back_in_order(animals):
    dataset = pictures.dataset(animals)
    assert (dataset.title, dataset.classes) == (animals.root, ("cat", "dog", "owl"))
    train = dataset.split("train")
    assert len(train) == 6
    assert [p.name for p in train] == _names(animals)["train"]
    assert [p.label for p in train] == [0, 0, 0, 1, 1, 2]
    for picture, seed in zip(train, (4, 3, 2, 1, 0, 5), strict=True):
        np.testing.assert_array_equal(picture.image, _pixels(seed))
        assert (type(picture.label), picture.image.dtype) == (int, np.uint8)
    assert dataset.builder.info.metadata == {"classes": ["cat", "dog", "owl"]}


def test_imagenet_comes_back_as_it_lies_in_its_tars(imagenet):
    layout = pictures.layout(imagenet)
    dataset = pictures.dataset(imagenet, layout)
    for split in ("train", "val"):
        raws = list(layout.stream(split))
        assert [p[1:] for p in dataset.split(split)] == [(raw.label, raw.name) for raw in raws]
        for picture, raw in zip(dataset.split(split), raws, strict=True):
            np.testing.assert_array_equal(picture.image, images.rgb(raw.content))


def test_unusual_files_of_imagenet_come_out_as_rgb(animals):
    """CMYK and gray JPEGs, and a PNG that calls itself JPEG, stay the files that they are."""
    smooth = cv2.resize(_pixels(3, (4, 6)), (30, 20), interpolation=cv2.INTER_CUBIC)
    folder = Path(animals.root) / "val" / "dog"
    folder.mkdir()
    for name, image, form in (
        ("cmyk", Image.fromarray(smooth).convert("CMYK"), "JPEG"),
        ("gray", Image.fromarray(smooth[..., 0]), "JPEG"),
        ("png", Image.fromarray(smooth), "PNG"),
    ):
        (folder / f"{name}.JPEG").write_bytes(_encoded(image, form))
    found = {p.name: p.image for p in _all(animals, "val")}
    expected = {"cmyk": smooth, "gray": smooth[..., :1].repeat(3, -1), "png": smooth}
    for name, pixels in expected.items():
        image = found[f"dog/{name}"]
        assert (image.shape, image.dtype) == ((20, 30, 3), np.uint8)
        assert abs(image.astype(int) - pixels).max() <= (0 if name == "png" else 6), name
    view = pictures.dataset(animals).builder.as_data_source("val", decoders={"image": tfds.decode.SkipDecoding()})
    stored = {example["name"].decode(): example["image"] for example in (view[i] for i in range(len(view)))}
    assert all(stored[f"dog/{name}"] == (folder / f"{name}.JPEG").read_bytes() for name in expected)


def _state(data: Pictures) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(data.cache).rglob("*") if path.is_file()}


def test_prepared_once_and_anew_when_a_file_changes(animals, capsys):
    assert _all(animals, "val")[0].label == 0
    before = _state(animals)
    assert before
    _all(animals, "train")
    assert _state(animals) == before
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"prepared {animals.root} in ")
    _put(Path(animals.root) / "val" / "cat" / "f.png", 77)
    np.testing.assert_array_equal(_all(animals, "val")[0].image, _pixels(77))
    assert before.items() < _state(animals).items()


def test_other_classes_are_other_data(animals):
    few = dataclasses.replace(animals, classes=("owl", "cat"))
    assert [p.label for p in _all(animals, "val")] == [0, 2]
    assert [p.label for p in _all(few, "val")] == [1, 0]


@pytest.mark.parametrize("kind", ["text", "nowhere"])
def test_images_that_cannot_be_read_stop_unless_that_is_accepted(animals, kind):
    path = Path(animals.root) / "train" / "cat" / "a-1.png"
    path.unlink()
    if kind == "text":
        path.write_text("this is no image")
        reason = "is not an image that can be read. Restore it or remove it with its pair."
    else:
        path.symlink_to("nowhere")
        reason = "cannot be read: No such file or directory. Restore it or remove it with its pair."
    with _fails(f"{path} {reason} --data.accept unreadable leaves such images out."):
        pictures.dataset(animals)
    assert not list(Path(animals.cache).rglob("*.array_record*"))
    accepting = dataclasses.replace(animals, accept=("unreadable",))
    assert [p.name for p in _all(accepting, "train")] == ["cat/a", "cat/c", "dog/a", "dog/b", "owl/d"]


def test_unreadable_images_of_tars_are_named_and_may_be_accepted(imagenet):
    path = Path(imagenet.root) / VAL
    path.write_bytes(_tar({f"ILSVRC2012_val_{i:08}.JPEG": _png(i) if i != 2 else b"nothing" for i in (1, 2, 3, 4)}))
    with _fails(f"{path}/ILSVRC2012_val_00000002.JPEG is not an image that can be read."):
        pictures.dataset(imagenet)
    assert [p.label for p in _all(dataclasses.replace(imagenet, accept=("unreadable",)), "val")] == [1, 0, 0]


def test_a_split_without_a_usable_image(animals):
    for path in (Path(animals.root) / "val").rglob("*.png"):
        path.write_bytes(b"nothing")
    with _fails(f"No image of {animals.root}/val can be used. Mend or replace them."):
        pictures.dataset(dataclasses.replace(animals, accept=("unreadable",)))


def test_a_split_that_is_not_there(animals):
    for _ in range(2):
        with _fails(f"{animals.root} has no split test, only train, val. Add it, or choose one of these."):
            pictures.dataset(animals).split("test")


def test_a_split_ends_where_it_should_and_can_be_pickled(animals):
    val = pictures.dataset(animals).split("val")
    for index in (2, -1):
        with pytest.raises(IndexError, match=f"must be 0 to 1: got {index}"):
            val[index]
    copy = pickle.loads(pickle.dumps(val))
    assert len(copy) == 2
    np.testing.assert_array_equal(copy[1].image, val[1].image)


def test_worker_processes_do_not_get_the_listing(animals):
    few = len(pickle.dumps(pictures.dataset(animals).split("val")))
    for i in range(40):
        _put(Path(animals.root) / "train" / "owl" / f"{i}.png")
    assert len(pickle.dumps(pictures.dataset(animals).split("val"))) < few + 500


@pytest.mark.parametrize(("limit", "files"), [(1, 6), (4000, 3), (1 << 30, 1)])
def test_large_splits_take_several_files(animals, monkeypatch, limit, files):
    """Each of the images takes about 1800 bytes."""
    monkeypatch.setattr(builders, "SHARD", limit)
    dataset = pictures.dataset(animals)
    info = dataset.builder.info.splits["train"]
    assert (len(info.shard_lengths), sum(info.shard_lengths)) == (files, 6)
    assert [p.name for p in dataset.split("train")] == _names(animals)["train"]
    assert len(list(Path(dataset.builder.data_path).glob("*-train.array_record-*"))) == files
    assert not list(Path(dataset.builder.data_path).glob("*.partial"))


def test_more_than_tfds_keeps_in_memory(animals, monkeypatch):
    """What is larger, it would need TensorFlow for."""
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1)
    assert len(_all(animals, "train")) == 6


def test_an_interrupted_preparation_starts_again(animals, monkeypatch):
    read, image = [], images.image

    def interrupted(content, name):
        read.append(name)
        if len(read) == 5:
            raise KeyboardInterrupt
        return image(content, name)

    with monkeypatch.context() as patch:
        patch.setattr(images, "image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pictures.dataset(animals)
    assert not list(Path(animals.cache).rglob("*.array_record*"))
    assert len(_all(animals, "train")) == 6


@pytest.mark.parametrize("damage", ["truncated", "removed", "metadata"])
def test_a_half_written_result_is_refused(animals, damage):
    path = Path(pictures.dataset(animals).builder.data_path)
    (file,) = path.glob("*train.array_record*")
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if damage == "removed":
        file.unlink()
    if damage == "metadata":
        (path / "metadata.json").write_text("{}")
    with pytest.raises(UserError, match=r"damaged: .*Remove that folder; it is made again\."):
        pictures.dataset(animals)


def test_a_cache_that_cannot_be_written(animals, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Check --data.root and --data.cache"):
        pictures.dataset(dataclasses.replace(animals, cache=str(tmp_path / "file" / "cache")))


@pytest.mark.parametrize("whole", [(375, 500), (500, 375), (60, 400), (400, 60), (7, 5), (1, 1)])
def test_windows_lie_in_the_image_and_in_their_ranges(whole):
    settings = RandomWindow(area=(0.08, 0.7), aspect=(0.75, 4 / 3))
    for seed in range(200):
        window = augment._window(np.random.default_rng(seed), whole, settings)
        (h, w) = (s.stop - s.start for s in window)
        assert all(0 <= s.start < s.stop <= length for s, length in zip(window, whole, strict=True))
        if min(whole) < 60:
            continue
        # Sides are rounded to whole pixels. Long images cannot hold the largest of the windows.
        slack = 1 / min(h, w)
        assert 0.75 * (1 - slack) <= w / h <= 4 / 3 * (1 + slack)
        assert (0.08 - slack) * whole[0] * whole[1] <= h * w <= (0.7 + slack) * whole[0] * whole[1]


def test_areas_and_aspects_spread_over_their_ranges():
    settings, areas, aspects = RandomWindow(area=(0.1, 0.5), aspect=(0.5, 2.0)), [], []
    for seed in range(2000):
        window = augment._window(np.random.default_rng(seed), (1000, 1000), settings)
        (h, w) = (s.stop - s.start for s in window)
        areas.append(h * w / 1e6)
        aspects.append(np.log2(w / h))
    # Area is uniform, aspect is uniform in its logarithm: where no window is refused, quarters hold a quarter each.
    for values, low, high in ((areas, 0.1, 0.5), (aspects, -1, 1)):
        counts, _ = np.histogram(values, 4, (low - 1e-2, high + 1e-2))
        assert (abs(counts / 2000 - 0.25) < 0.04).all()


def test_where_no_window_fits_the_middle_is_taken():
    """A third of 4 x 40 at an aspect of 1 is 7 x 7; the largest window is 4 x 4, in columns 18 to 21."""
    window = augment._window(np.random.default_rng(0), (4, 40), RandomWindow(area=(0.33, 0.34), aspect=(1.0, 1.0)))
    assert window == (slice(0, 4), slice(18, 22))


def test_the_whole_image_is_a_window_of_all_of_its_area():
    image = _pixels(0, (20, 30))
    settings = RandomWindow(area=(1.0, 1.0), aspect=(1.5, 1.5), flip_horizontal=False)
    found = augment.random_window(np.random.default_rng(0), image, (20, 30), settings)
    np.testing.assert_array_equal(found, image)


def test_half_of_the_windows_are_mirrored():
    image = _pixels(0, (20, 30))
    settings = RandomWindow(area=(1.0, 1.0), aspect=(1.5, 1.5))
    found = [augment.random_window(np.random.default_rng(seed), image, (20, 30), settings) for seed in range(200)]
    mirrored = [np.array_equal(window, image[:, ::-1]) for window in found]
    assert all(np.array_equal(window, image) for window, flip in zip(found, mirrored, strict=True) if not flip)
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize("whole", [(100, 150), (9, 200), (1, 1), (12, 12)])
@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
def test_crops_have_their_size_and_follow_from_the_generator(whole, size):
    image = _pixels(1, whole)
    a, b = (augment.random_window(np.random.default_rng(7), image, size, WINDOW) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    for crop in (a, augment.middle(image, size, 0.875)):
        assert (crop.shape, crop.dtype) == ((*size, 3), np.uint8)
        assert crop.flags.c_contiguous
    np.testing.assert_array_equal(image, _pixels(1, whole))


def test_windows_of_one_color_keep_it():
    image = np.full((40, 50, 3), (10, 200, 90), np.uint8)
    window = augment.random_window(np.random.default_rng(0), image, (16, 24), RandomWindow())
    assert (window == (10, 200, 90)).all()
    assert (augment.middle(image, (16, 24), 0.5) == (10, 200, 90)).all()


def test_the_middle_of_an_image_of_the_crops_size_is_the_image():
    image = _pixels(0)
    np.testing.assert_array_equal(augment.middle(image, (20, 30), 1.0), image)


def test_the_middle_is_the_margins_share_of_the_largest_window():
    """Of 20 x 30, the largest square is columns 5 to 24; half of it is rows 5 to 14 and columns 10 to 19."""
    image = _pixels(0)
    np.testing.assert_array_equal(augment.middle(image, (20, 20), 1.0), image[:, 5:25])
    np.testing.assert_array_equal(augment.middle(image, (10, 10), 0.5), image[5:15, 10:20])
    # Halved by averages: every pixel counts.
    blocks = image[:, 5:25].reshape(10, 2, 10, 2, 3).mean((1, 3))
    assert abs(augment.middle(image, (10, 10), 1.0) - blocks).max() <= 0.5


def test_the_middle_shrinks_by_averages_at_any_scale():
    """Three columns become two: each is the mean of one and a half, (0 + 45) / 1.5 and (45 + 240) / 1.5."""
    image = np.repeat(np.tile(np.array([[0, 90, 240]], np.uint8), (3, 1))[..., None], 3, axis=-1)
    np.testing.assert_array_equal(augment.middle(image, (2, 2), 1.0)[0, :, 0], [30, 190])


@pytest.fixture
def source() -> list[Picture]:
    return [Picture(_pixels(i, (30 + i, 44)), i % 3, str(i)) for i in range(10)]


DATA = Pictures(crop=(16, 24), augment=WINDOW)


def _batches(source, data=DATA, batch=4, seed=3, start=0, steps=7, shard=0, shards=1) -> Arrays:
    batches = pipeline.class_batches(source, data, batch, seed, start, steps, shard, shards)
    return [(b.image, b.label) for b in batches]


def _same(a: Arrays, b: Arrays) -> bool:
    pairs = [pair for x, y in zip(a, b, strict=True) for pair in zip(x, y, strict=True)]
    return all(np.array_equal(x, y) for x, y in pairs)


def test_batches_have_their_types_and_sizes(source):
    batches = _batches(source)
    assert len(batches) == 7
    for image, label in batches:
        assert (image.shape, image.dtype) == ((4, 16, 24, 3), np.uint8)
        assert (label.shape, label.dtype) == ((4,), np.int32)


def test_every_epoch_shows_every_picture_once_with_its_label(source):
    plain = [Picture(np.full((16, 24, 3), 10 * i, np.uint8), i, str(i)) for i in range(10)]
    data = Pictures(crop=(16, 24))
    batches = _batches(plain, data, batch=5, steps=6)
    assert all((image == 10 * label[:, None, None, None]).all() for image, label in batches)
    seen = np.concatenate([label for _, label in batches]).reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in seen.tolist())
    assert len({tuple(epoch) for epoch in seen.tolist()}) == 3


@pytest.mark.parametrize("start", [1, 2, 5, 7])
def test_resuming_sees_what_an_uninterrupted_run_would_have_seen(source, start):
    assert _same(_batches(source)[start:], _batches(source, start=start))


@pytest.mark.parametrize("shards", [2, 4])
def test_shards_put_together_are_the_whole_batch(source, shards):
    parts = [_batches(source, start=1, steps=5, shard=i, shards=shards) for i in range(shards)]
    joined = [tuple(map(np.concatenate, zip(*rows, strict=True))) for rows in zip(*parts, strict=True)]
    assert _same(joined, _batches(source, start=1, steps=5))


def test_the_seed_changes_order_and_windows(source):
    assert _same(_batches(source), _batches(source))
    assert not _same(_batches(source), _batches(source, seed=4))
    (first, _), (second, _) = _batches(source[:1], batch=1, steps=2)
    assert (first != second).any()


def test_bad_arguments_are_refused_at_once(source):
    with _fails("2 shards do not divide a batch of 7. Set --train.batch to 6 or 8."):
        pipeline.class_batches(source, DATA, 7, 0, 0, 1, 0, 2)
    with pytest.raises(ValueError, match="`shard_index` must be 0 to 1: got 2"):
        pipeline.class_batches(source, DATA, 4, 0, 0, 1, 2, 2)
    with pytest.raises(ValueError, match="`source` must hold at least one example"):
        pipeline.class_batches([], DATA, 4, 0, 0, 1)


def test_evaluation_shows_the_middle_of_each_picture_once_in_order(source):
    shown = list(pipeline.class_examples(source, DATA))
    assert [label for _, label in shown] == [p.label for p in source]
    for (image, _), picture in zip(shown, source, strict=True):
        np.testing.assert_array_equal(image, augment.middle(picture.image, (16, 24), 0.875))


@pytest.mark.filterwarnings("ignore")
def test_worker_processes_change_nothing(animals):
    train = pictures.dataset(animals).split("train")
    assert _same(_batches(train, animals, steps=3), _batches(train, dataclasses.replace(animals, workers=1), steps=3))
