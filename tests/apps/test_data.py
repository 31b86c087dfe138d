"""`jaxseg data` as a user runs it, and what training makes of broken, hostile and panoptic data."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxseg import cli, config
from jaxseg.apps import files, model

CONFIG = """
from jaxseg.config import *

config = Config(
    name="tiny",
    data=Data(builder={builder!r}, root={root!r}, classes={classes!r}, crop=(32, 64), cache={cache!r},
              cityscapes=Cityscapes(size=(32, 64))),
    model=Model(encoder="tests.tiny_encoder:TinyEncoder", encoder_stride=8, decoder_width=0.25, embedding=4),
    targets=TargetSettings(max_instances=3),
    grouping=Grouping(slots=12, center=0.05),
    train=Train(steps=2, batch=2, log_every=1, save_every=2, picture_every=0),
)
"""


def _image(seed: int, size=(32, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


def _label(objects: int = 2, value: int = 1000, size=(32, 64)) -> np.ndarray:
    label = np.zeros(size, np.uint16)
    for i in range(objects):
        label[4:28, 2 + 12 * i : 11 + 12 * i] = value + i
    return label


def _folder(root: Path) -> Path:
    """Two images in each split, each with two objects of class 1."""
    for split in ("train", "val"):
        for part in ("images", "instances"):
            (root / split / part).mkdir(parents=True)
        for i in range(2):
            _image(10 * len(split) + i).save(root / split / "images" / f"{i}.png")
            Image.fromarray(_label()).save(root / split / "instances" / f"{i}.png")
    return root


def _rectangle(key: int, image: int, x: int, **more) -> dict:
    corners = [x, 4, x + 9, 4, x + 9, 28, x, 28]
    return {"id": key, "image_id": image, "category_id": 7, "iscrowd": 0, "segmentation": [corners], **more}


def _coco(root: Path) -> Path:
    """The same objects as COCO annotations."""
    for split in ("train", "val"):
        (root / split / "images").mkdir(parents=True)
        entries, annotations = [], []
        for i in range(2):
            _image(10 * len(split) + i).save(root / split / "images" / f"{i}.png")
            entries.append({"id": i, "file_name": f"{i}.png", "height": 32, "width": 64})
            annotations += [_rectangle(10 * i + n, i, 2 + 12 * n) for n in range(2)]
        document = {"images": entries, "annotations": annotations, "categories": [{"id": 7, "name": "disc"}]}
        (root / split / "instances.json").write_text(json.dumps(document))
    return root


def _cityscapes(root: Path) -> Path:
    """The same objects as cars on a road, below them sky."""
    for split in ("train", "val"):
        for top in ("leftImg8bit", "gtFine"):
            (root / top / split / "ulm").mkdir(parents=True)
        for i in range(2):
            _image(10 * len(split) + i).save(root / "leftImg8bit" / split / "ulm" / f"ulm_{i}_leftImg8bit.png")
            label = np.where(_label() > 0, 25000 + _label(), 7).astype(np.uint16)
            label[28:] = 23
            Image.fromarray(label).save(root / "gtFine" / split / "ulm" / f"ulm_{i}_gtFine_instanceIds.png")
    return root


MAKE = {"folder": _folder, "coco": _coco, "cityscapes": _cityscapes}


def _config(tmp_path: Path, builder: str, classes=("disc",)) -> str:
    file = tmp_path / "tiny.py"
    root, cache = tmp_path / "data", tmp_path / "cache"
    file.write_text(CONFIG.format(builder=builder, root=str(root), cache=str(cache), classes=classes))
    return str(file)


def _edited(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def _huge_png() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


IMAGE, LABEL = Path("train/images/1.png"), Path("train/instances/1.png")


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _save(array: np.ndarray, path: Path) -> None:
    Image.fromarray(array).save(path)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


BROKEN = {
    "image ends early": ("folder", "unreadable", "1.png", lambda root: _truncate(root / IMAGE)),
    "image is text": ("folder", "unreadable", "1.png", lambda root: _write(root / IMAGE, b"no image")),
    "image claims too much": ("folder", "unreadable", "1.png", lambda root: _write(root / IMAGE, _huge_png())),
    "label is missing": ("folder", "missing", "1.png", lambda root: (root / LABEL).unlink()),
    "image is missing": ("folder", "missing", "1.png", lambda root: (root / IMAGE).unlink()),
    "label has colors": ("folder", "label", "1.png", lambda root: _image(0).save(root / LABEL)),
    "sizes differ": ("folder", "size", "1.png", lambda root: _save(_label(size=(30, 64)), root / LABEL)),
    "class is unknown": ("folder", "class", "1.png", lambda root: _save(_label(value=7000), root / LABEL)),
    "too many objects": ("folder", "crowded", "train/1", lambda root: _save(_label(4), root / LABEL)),
    "picture in two splits": (
        "folder", "duplicate", "val/0",
        lambda root: _write(root / "val/images/0.png", (root / "train/images/0.png").read_bytes()),
    ),
    "split without objects": (
        "folder", "empty", "val/0",
        lambda root: [_save(_label(0), root / f"val/instances/{i}.png") for i in range(2)],
    ),
    "COCO: image is missing": ("coco", "missing", "1.png", lambda root: (root / IMAGE).unlink()),
    "COCO: polygon is none": (
        "coco", "label", "1.png",
        lambda root: _edited(root / "train/instances.json", lambda d: d["annotations"][3].update(segmentation=[[1]])),
    ),
    "COCO: image is not listed": (
        "coco", "label", "instances.json",
        lambda root: _edited(root / "train/instances.json", lambda d: d["annotations"][3].update(image_id=99)),
    ),
    "COCO: size is wrong": (
        "coco", "size", "1.png",
        lambda root: _edited(root / "train/instances.json", lambda d: d["images"][1].update(height=33)),
    ),
    "COCO: category is not listed": (
        "coco", "class", "1.png",
        lambda root: _edited(root / "train/instances.json", lambda d: d["annotations"][3].update(category_id=8)),
    ),
    "Cityscapes: label is missing": (
        "cityscapes", "missing", "ulm_1_leftImg8bit.png",
        lambda root: (root / "gtFine/train/ulm/ulm_1_gtFine_instanceIds.png").unlink(),
    ),
    "Cityscapes: class is unknown": (
        "cityscapes", "class", "ulm_1_gtFine_instanceIds.png",
        lambda root: _save(_label(value=40_000), root / "gtFine/train/ulm/ulm_1_gtFine_instanceIds.png"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_data_is_found_and_stops_training_unless_it_is_accepted(name, tmp_path, capsys):
    builder, kind, named, harm = BROKEN[name]
    harm(MAKE[builder](tmp_path / "data"))
    file = _config(tmp_path, builder, ("car",) if builder == "cityscapes" else ("disc",))
    with pytest.raises(
        config.UserError, match=rf"training stops at 1 of the faults.*--data.accept {kind}\."
    ) as stopped:
        cli.data(["check", "--config", file])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{kind}: ")]
    assert len(lines) == 1
    assert named in lines[0]
    assert "\n" not in str(stopped.value)
    with pytest.raises(config.UserError, match=named) as stopped:
        cli.train(["--config", file, "--workdir", str(tmp_path / "run"), "--train.steps", "1"])
    assert str(stopped.value) == (
        lines[0].removeprefix(f"{kind}: ")
        + f" `jaxseg data check` lists all; --data.accept {kind} goes on all the same."
    )
    figures = tmp_path / "figures.json"
    cli.data(["check", "--config", file, "--data.accept", kind, "--json", str(figures)])
    assert [f["accepted"] for f in json.loads(figures.read_text())["faults"]] == [True]
    cli.data(["prepare", "--config", file, "--data.accept", kind])
    cli.data(["show", "--config", file, "--data.accept", kind, "--output", str(tmp_path / "show.html")])


@pytest.mark.parametrize("builder", MAKE)
def test_data_of_ones_own_trains_and_is_evaluated(builder, tmp_path, capsys):
    MAKE[builder](tmp_path / "data")
    file = _config(tmp_path, builder, ("car",) if builder == "cityscapes" else ("disc",))
    cli.data(["check", "--config", file])
    cli.data(["prepare", "--config", file])
    out, err = capsys.readouterr()
    assert "train 2 images with 4 objects, val 2 images with 4 objects" in out
    assert err.startswith("prepared")
    cli.train(["--config", file, "--workdir", str(tmp_path / "run")])
    cli.evaluate(["--workdir", str(tmp_path / "run")])
    metrics = json.loads((tmp_path / "run" / "val" / "metrics.json").read_text())
    assert metrics["ceiling"]["ap50"] == 1
    (values,) = metrics["classes"].values()
    assert values["truths"] == 4


def test_stuff_is_predicted_beside_things_and_not_grouped(tmp_path):
    _cityscapes(tmp_path / "data")
    file = _config(tmp_path, "cityscapes", ("road", "car", "sky"))
    cli.train(["--config", file, "--workdir", str(tmp_path / "run"), "--train.steps", "60", "--train.save-every", "60"])
    settings = model.read_config(tmp_path / "run")
    assert settings.data.stuff == ("road", "sky")
    assert settings.data.colors[0] == (128, 64, 128)
    trained = model.load(tmp_path / "run")
    assert trained.classes.things == {2: "car"}
    found = trained(np.asarray(Image.open(tmp_path / "data/leftImg8bit/val/ulm/ulm_0_leftImg8bit.png")))
    assert {1, 3} <= set(np.unique(found.semantic))
    assert set(np.unique(np.asarray(found.semantic)[np.asarray(found.instance) > 0])) <= {2}
    assert set(np.asarray(found.instances.class_id)[np.asarray(found.instances.valid)]) <= {2}
    cli.evaluate(["--workdir", str(tmp_path / "run")])
    metrics = json.loads((tmp_path / "run" / "val" / "metrics.json").read_text())
    assert {name: row["thing"] for name, row in metrics["classes"].items()} == {
        "road": False,
        "car": True,
        "sky": False,
    }
    assert metrics["classes"]["road"]["ap"] is None
    assert metrics["ceiling"]["classes"]["road"]["iou"] > 0.7
    page = (tmp_path / "run" / "val" / "report.html").read_text()
    assert "#804080" in page
    assert "stuff" in page
    image = str(tmp_path / "data/leftImg8bit/val/ulm/ulm_1_leftImg8bit.png")
    assert cli.predict(["--model", str(tmp_path / "run"), image, "--output", str(tmp_path / "out")]) == 0
    (document,) = (tmp_path / "out").glob("*.json")
    road = {"id": 1, "name": "road", "isthing": 0, "color": [128, 64, 128]}
    assert json.loads(document.read_text())["classes"][1] == road


def test_a_run_goes_on_with_the_class_list_that_it_began_with(tmp_path):
    root = _folder(tmp_path / "data")
    (root / "classes.json").write_text('["disc"]')
    file = _config(tmp_path, "folder", ())
    argv = ["--config", file, "--workdir", str(tmp_path / "run")]
    cli.train(argv)
    assert model.read_config(tmp_path / "run").data.classes == ("disc",)
    cli.train(argv)
    (root / "classes.json").write_text('["cell"]')
    with pytest.raises(config.UserError, match=r"holds another run: data\.classes differ"):
        cli.train(argv)


def test_a_run_does_not_go_on_with_other_images(tmp_path):
    root = _folder(tmp_path / "data")
    argv = ["--config", _config(tmp_path, "folder"), "--workdir", str(tmp_path / "run")]
    cli.train(argv)
    (root / "train/images/0.png").touch()
    cli.train(argv)
    _image(77).save(root / "train/images/0.png")
    with pytest.raises(config.UserError, match=r"training images of .*/data changed since .*/run began\. Restore them"):
        cli.train(argv)
    (tmp_path / "run" / "class_frequencies.json").unlink()
    cli.train(argv)


def test_labels_that_mean_something_else_are_not_evaluated(tmp_path):
    root = _folder(tmp_path / "data")
    (root / "classes.json").write_text('["disc", "floor", "sky"]')
    cli.train(["--config", _config(tmp_path, "folder", ()), "--workdir", str(tmp_path / "run")])
    argv = ["--workdir", str(tmp_path / "run")]
    with pytest.raises(
        config.UserError, match=r"as floor, disc, sky, but the network was trained for disc, floor, sky"
    ):
        cli.evaluate([*argv, "--data.classes", "floor", "disc", "sky"])
    (root / "classes.json").write_text('[{"name": "floor", "isthing": 0}, "disc", "sky"]')
    with pytest.raises(config.UserError, match=r"are read as disc, floor \(stuff\), sky, but"):
        cli.evaluate(argv)
    (root / "classes.json").write_text('["disc", "floor", "sky"]')
    cli.evaluate(argv)


@pytest.mark.parametrize("gone", ["train", "val"])
def test_a_missing_split_is_found_and_stops_training(tmp_path, gone, capsys):
    shutil.rmtree(_folder(tmp_path / "data") / gone)
    argv = ["--config", _config(tmp_path, "folder")]
    with pytest.raises(config.UserError, match="training stops at 1 of the faults"):
        cli.data(["check", *argv])
    assert f"has no {gone} split. Add it" in capsys.readouterr().out
    argv += ["--workdir", str(tmp_path / "run")]
    with pytest.raises(config.UserError, match=f"has no {gone} split. Add it"):
        cli.train(argv)
    accepted = [*argv, "--data.accept", "empty", "--train.steps", "1"]
    if gone == "val":
        cli.train(accepted)
        assert model.load(tmp_path / "run").step == 1
    else:
        with pytest.raises(config.UserError, match=r"has no train split to train on\. Add it\."):
            cli.train(accepted)


def test_check_names_images_without_objects_and_those_that_are_ignored(tmp_path, capsys):
    root = _folder(tmp_path / "data")
    _save(_label(0), root / "train/instances/0.png")
    _save(np.full((32, 64), 9, np.uint16), root / "val/instances/1.png")
    cli.data(["check", "--config", _config(tmp_path, "folder"), "--data.folder.ignored", "9"])
    out = capsys.readouterr().out
    assert "train: images without objects: 0\n" in out
    assert "val: images without objects: 1\n" in out
    assert "val: images that are ignored altogether: 1\n" in out


@pytest.mark.parametrize(("height", "width", "crop"), [(1640, 1640, (32, 64)), (33, 700, (16, 640)), (1, 1, (640, 8))])
def test_images_and_crops_of_any_shape_are_checked_and_shown(tmp_path, height, width, crop):
    root = _folder(tmp_path / "data")
    _image(3, (height, width)).save(root / "train/images/1.png")
    _save(_label(size=(height, width)), root / "train/instances/1.png")
    argv = ["--config", _config(tmp_path, "folder"), "--data.crop", *map(str, crop)]
    cli.data(["check", *argv])
    cli.data(["show", *argv, "--output", str(tmp_path / "show.html")])


def test_a_turned_image_is_checked_and_shown_upright(tmp_path):
    root = _folder(tmp_path / "data")
    exif = Image.Exif()
    exif[0x0112] = 6
    _image(3, (64, 32)).save(root / "train/images/1.png", exif=exif)
    argv = ["--config", _config(tmp_path, "folder")]
    cli.data(["check", *argv])
    cli.data(["show", *argv, "--output", str(tmp_path / "show.html")])
    cli.data(["prepare", *argv])


def test_show_names_nothing_that_a_browser_would_run(tmp_path):
    root = _folder(tmp_path / "data")
    evil = "<img src=x onerror=alert(1)>"
    for part in ("images", "instances"):
        (root / "train" / part / "1.png").rename(root / "train" / part / f"{evil}.png")
    cli.data(["show", "--config", _config(tmp_path, "folder"), "--output", str(tmp_path / "show.html")])
    page = (tmp_path / "show.html").read_text()
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert evil not in page


@pytest.mark.parametrize("argv", [[], ["chek"], ["check"], ["show", "--config", "x"]])
def test_data_commands_that_are_none(argv):
    with pytest.raises(config.UserError):
        cli.data(argv)


def test_names_of_any_origin_become_names_of_files():
    assert files.as_name("../../etc/passwd") == "_.._etc_passwd"
    assert files.as_name("a/b <c>\n") == "a_b _c__"
    assert files.as_name("..") == "unnamed"
    assert len(files.as_name("x" * 500)) == 150
