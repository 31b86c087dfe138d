"""Data that nobody vouches for: whatever it holds, it is read or refused with one line, soon and in little memory.

Run as a program, this file breaks valid data thousands of times, in a process whose memory and time are limited:
``python test_hostile.py FOLDER`` prints what came of it.
"""

import copy
import faulthandler
import json
import os
import random
import resource
import struct
import subprocess
import sys
import time
import traceback
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jaxseg.config import Coco, Data, UserError
from jaxseg.data import check, coco, documents, folder, images, masks
from jaxseg.data.layouts import DataError, Layout

HEIGHT, WIDTH = 12, 16
CASES = 1000
MEMORY = 2 << 30
SECONDS = 20
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _claiming(form: str, side: int) -> bytes:
    """A small file whose header speaks of side x side pixels."""
    if form == "png":
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(99))) + _chunk(b"IEND", b"")
    if form == "bmp":
        header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 54 + 99, 0, 0, 54) + header + bytes(99)
    if form == "tif":
        tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 200), (277, 1), (278, side), (279, 99)]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        return b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(tags)) + entries + bytes(200)
    pixels = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    at = pixels.index(b"\xff\xc0") + 5
    return pixels[:at] + struct.pack(">HH", min(side, 65535), min(side, 65535)) + pixels[at + 4 :]


@pytest.mark.parametrize("form", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("side", [8193, 10_000, 65_535, 100_000])
def test_sizes_are_refused_before_pixels_are_decoded(form, side, monkeypatch):
    def never(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    monkeypatch.setattr(cv2, "imdecode", never)
    content = _claiming(form, side)
    for reader, kind in ((images.image, "unreadable"), (images.label_map, "label")):
        with pytest.raises(DataError, match=r"^big\.x ") as refusal:
            reader(content, "big.x")
        assert refusal.value.kind == kind
        _check_line(str(refusal.value))


def _check_line(text: str) -> None:
    assert len(text) < 1500
    assert documents.printable(text), text


def test_the_largest_size_is_read_as_far_as_it_is_there():
    with pytest.raises(DataError, match=r"^big\.png cannot be read: "):
        images.image(_claiming("png", 8192), "big.png")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_beyond_reason_is_refused(tmp_path, opening):
    path = tmp_path / "train.json"
    path.write_text(opening * 100_000)
    with pytest.raises(UserError, match=f"^{path} is nested too deeply to be annotations. Export it again.$"):
        coco.layout(_data(tmp_path))


def test_json_over_the_limit_is_not_even_read(tmp_path, monkeypatch):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(_instances()))
    monkeypatch.setattr(documents, "LARGEST", 100)
    monkeypatch.setattr(documents.json, "loads", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(UserError, match=f"^{path} holds over 0 GiB. Split it.$"):
        coco.layout(_data(tmp_path))


def test_json_that_would_fill_the_memory_is_not_parsed(tmp_path, monkeypatch):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(_instances()))
    monkeypatch.setattr(documents, "MEMORY", 10_000)
    monkeypatch.setattr(documents.json, "loads", lambda *_, **__: pytest.fail("parsed"))
    with pytest.raises(UserError, match=f"^{path} would take over 0 GiB of memory. Split it.$"):
        coco.layout(_data(tmp_path))


@pytest.mark.parametrize("item", ["[]", "{}", '{"a": 1}', "1.5", '"ab"', "[1, 2]", "12345678901234567890", '"é"'])
def test_what_json_takes_is_not_underestimated(item):
    content = f"[{','.join([item] * 20_000)}]".encode()
    tracemalloc.start()
    kept = json.loads(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == 20_000
    assert peak < documents._memory(content) < 8 * peak


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"images": [NaN]}', "NaN is no number"),
        (b'{"images": [-Infinity]}', "-Infinity is no number"),
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe\x00", ""),
        (b"\x00\x01\x02", ""),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'"\xf0\x28\x8c\xbc"', ""),
    ],
)
def test_what_is_not_json(tmp_path, content, reason):
    path = tmp_path / "train.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} is not JSON: {reason}[^\n]*. Export it again.$"):
        coco.layout(_data(tmp_path))


@pytest.mark.parametrize("name", ["<script>alert(1)<", "a b%20&amp;'\"", "$(touch x)`touch y`", "{0}%s", "~", "-rf"])
def test_names_are_taken_literally(tmp_path, name):
    content = _instances()
    for entry in content["images"]:
        entry["file_name"] = name + entry["file_name"]
        cv2.imwrite(str(tmp_path / entry["file_name"]), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (tmp_path / "train.json").write_text(json.dumps(content))
    layout = coco.layout(_data(tmp_path))
    assert [item.name for item in layout.splits["train"]] == [f"{name}0", f"{name}1"]
    assert [layout.read(item).faults for item in layout.splits["train"]] == [(), ()]


@pytest.mark.parametrize(
    "name", ["x\n0.png", "x\r0.png", "x\x1b]0;y\x070.png", "x\x000.png", "x\x7f0.png", "x\x850.png"]
)
def test_names_that_would_upset_a_terminal_are_refused(tmp_path, name):
    content = _instances()
    content["images"][0]["file_name"] = name
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="names the file ") as refusal:
        coco.layout(_data(tmp_path))
    _check_line(str(refusal.value))


@pytest.mark.parametrize("counts", [[10**9] * 3, [2**31], [2**32 - 1, 1], [-(2**63)], [10**400], "o" * 999, "oooo1"])
def test_run_length_codes_never_reach_memory(tmp_path, counts):
    content = _instances()
    content["annotations"][0]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    _prepare(tmp_path, content)
    layout = coco.layout(_data(tmp_path))
    with pytest.raises(DataError, match="has a run-length code") as refusal:
        layout.read(layout.splits["train"][0])
    _check_line(str(refusal.value))


def test_an_image_is_not_painted_for_ever(tmp_path, monkeypatch):
    """A small file may ask for any number of masks of the whole image."""
    content = _instances()
    content["images"] = [{"id": 1, "file_name": "0.png", "height": 4096, "width": 4096}]
    whole = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": {"size": [4096, 4096], "counts": [0, 1 << 24]}}
    content["annotations"] = [whole] * 100_000
    _prepare(tmp_path, content)
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((4096, 4096), np.uint8))
    layout = coco.layout(_data(tmp_path))
    monkeypatch.setattr(masks, "WORK", masks.WORK // 32)
    start = time.perf_counter()
    with pytest.raises(
        DataError, match="is the one at which the masks of this image cover more than 64 million pixels"
    ):
        layout.read(layout.splits["train"][0])
    assert time.perf_counter() - start < 60  # not minutes, on any machine


# What is broken.


def _instances() -> dict[str, Any]:
    """Two images with everything that an annotation may be."""
    square, ring = [2, 2, 6, 2, 6, 6.5, 2, 6], np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    ring[1:9, 3:12], ring[4:6, 5:7] = 1, 0
    from pycocotools import mask

    code = {"size": [HEIGHT, WIDTH], "counts": mask.encode(ring)["counts"].decode()}
    runs = {"size": [HEIGHT, WIDTH], "counts": [5, 7, 100, 8, 72]}
    segmentations = [[square], [square, [8, 8, 12, 8, 12, 11, 8, 11]], code, runs]
    return {
        "info": {"year": 2017},
        "images": [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in range(2)],
        "annotations": [
            {"id": n, "image_id": n % 2, "category_id": 1 + n % 3, "iscrowd": n // 7, "area": 3, "segmentation": s}
            for n, s in enumerate(2 * segmentations)
        ],
        "categories": [{"id": n, "name": f"class {n}", "isthing": 1, "color": [n, 0, 9]} for n in (1, 2, 3)],
    }


def _panoptic() -> dict[str, Any]:
    segments = [{"id": 1000 * n, "category_id": 1 + n % 3, "iscrowd": n // 3, "area": 3} for n in range(1, 4)]
    content = _instances()
    content["categories"][2]["isthing"] = 0
    labels = [{"image_id": n, "file_name": f"{n}.png", "segments_info": segments} for n in range(2)]
    return content | {"annotations": labels}


def _prepare(root: Path, content: dict[str, Any], name: str = "train.json") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))
    for n in range(2):
        cv2.imwrite(str(root / f"{n}.png"), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    return root / name


def _data(root: Path, annotations: Any = "instances") -> Data:
    return Data(builder="coco", root=str(root), coco=Coco(annotations=annotations))


# How it is broken.

JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 255, 256, 65536, 1 << 24, 1 << 26, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 63,
    -(1 << 63), 1 << 64, 10**400, -(10**400), 0.0, -0.0, 0.5, 1e-320, 1e300, -1e300, 3.0, "", "0", "1", "a", "oooo",
    "O" * 40, "0" * 1000, "o" * 1000, "../secret.png", "/etc/passwd", "\x00", "\n", "\x1b[2J", "\ud800", "é",
    "x" * 5000, "0.png", "1.png", "1/../0.png", ".", "class 1", [], {}, [[]], [None], [True] * 6, [[1, 2, 3, 4, 5, 6]],
    [0] * 1000, [[0] * 1000], [["x"] * 6], {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, {"id": 1},
    {"": {"": {"": []}}},
    {"size": [1 << 13, 1 << 13], "counts": "o"}, {"counts": None}, [1e300, 5e-324] * 3, [[[[[[[[[[]]]]]]]]]],
]  # fmt: skip


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document, as a container and a key."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _nodes(value[key])


def _break_document(content: Any, rng: random.Random) -> bytes:
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        places = list(_nodes(content))
        if not places:
            break
        holder, key = rng.choice(places)
        how = rng.randrange(6)
        if how < 3:
            holder[key] = copy.deepcopy(rng.choice(JUNK))
        elif how == 3:
            del holder[key]
        elif how == 4:
            other, place = rng.choice(places)
            holder[key] = copy.deepcopy(other.get(place) if isinstance(other, dict) else other[place : place + 1])
        elif isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
        else:
            holder[str(rng.choice(JUNK))[:9]] = holder.pop(key)
    text = json.dumps(content).encode()
    if rng.random() < 0.1:
        text = text.replace(b"1", b"1e999", 1)
    return _break_bytes(text, rng) if rng.random() < 0.25 else text


def _break_bytes(content: bytes, rng: random.Random) -> bytes:
    broken = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(broken)) if rng.random() < 0.6 else rng.randrange(min(len(broken), 64))
        how = rng.randrange(8)
        if how < 4:
            broken[at] ^= 1 << rng.randrange(8)
        elif how == 4:
            broken[at] = rng.choice([0, 1, 127, 128, 255])
        elif how == 5:
            broken[at:at] = rng.randbytes(rng.randint(1, 9))
        elif how == 6:
            del broken[at : at + rng.randint(1, 9)]
        elif rng.random() < 0.3 and at:
            del broken[at:]
        if not broken:
            return b""
    return bytes(broken)


def _inflated(body: bytes) -> bytes:
    try:
        return zlib.decompress(body) or b"x"
    except zlib.error:
        return b"x"


def _break_png(content: bytes, rng: random.Random) -> bytes:
    """Bytes as above, or what a chunk says, with its checksum repaired."""
    if rng.random() < 0.4:
        return _break_bytes(content, rng)
    chunks, at = [], len(SIGNATURE)
    while at + 12 <= len(content):
        size = struct.unpack(">I", content[at : at + 4])[0]
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    for _ in range(rng.randint(1, 2)):
        place = rng.choice([0, rng.randrange(len(chunks)), rng.randrange(len(chunks))])
        kind, body = chunks[place]
        how = rng.randrange(6)
        if how == 0 and kind == b"IHDR":
            side = rng.choice([0, 1, 7, HEIGHT, WIDTH, 300, 8192, 8193, 65535, 1 << 20, (1 << 31) - 1, 1 << 31])
            where = rng.choice([0, 4])
            chunks[place] = kind, body[:where] + struct.pack(">I", side) + body[where + 4 :]
        elif how == 1 and kind == b"IHDR":
            where = rng.randrange(8, 13)
            chunks[place] = kind, body[:where] + bytes([rng.randrange(17)]) + body[where + 1 :]
        elif how == 2:
            chunks.insert(place, chunks[place])
        elif how == 3 and len(chunks) > 1:
            del chunks[place]
        elif how == 4:
            name = rng.choice(
                [b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"gAMA", b"sBIT", b"acTL", b"fcTL"]
            )
            inner = rng.choice([rng.randbytes(rng.randint(0, 60)), b"x\x00\x00" + zlib.compress(bytes(1 << 20))])
            chunks.insert(min(1, len(chunks)), (name, inner))
        elif kind == b"IDAT" and rng.random() < 0.8:
            chunks[place] = kind, zlib.compress(_break_bytes(_inflated(body), rng))
        elif body:
            chunks[place] = kind, _break_bytes(body, rng)
    return SIGNATURE + b"".join(_chunk(kind, body) for kind, body in chunks)


# The process that is limited.


def _read_everything(layout: Layout) -> bool:
    """Whether all of it could be read; each item may be refused on its own."""
    read = any(layout.splits.values())
    for message in layout.faults:
        _check_line(message.message)
    for items in layout.splits.values():
        for item in items:
            try:
                labelled = layout.read(item)
            except DataError as error:
                _check_line(str(error))
                read = False
                continue
            _check_labelled(labelled)
    layout.fingerprint()
    return read


def _check_labelled(labelled: Any) -> None:
    """What was read can be counted, stored and shown."""
    pixels = images.rgb(labelled.content)
    for array in labelled.label:
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(images.png(array), np.uint8), -1), array)
    record = check.Record.of("x", labelled)
    assert len(json.loads(json.dumps(record))[4]) == labelled.label.instance.max()
    semantic, instance = labelled.label
    assert pixels.shape[:2] == semantic.shape == instance.shape
    assert (semantic.dtype, instance.dtype) == (np.uint8, np.uint16)
    assert not instance[semantic == 255].any()
    assert np.array_equal(np.unique(instance[instance > 0]), np.arange(1, instance.max() + 1))
    for fault in labelled.faults:
        _check_line(fault.message)


def _cases(root: Path) -> Iterator[tuple[str, Path, Callable[[random.Random], bytes], Data]]:
    """What is broken, in which file, how, and what reads it."""
    for form, content, name in (
        ("instances", _instances(), "train.json"),
        ("panoptic", _panoptic(), "panoptic_train.json"),
    ):
        place = root / form
        path = _prepare(place, content, name)
        _write_ids(place / "panoptic")
        yield form, path, lambda rng, content=content: _break_document(content, rng), _data(place, form)  # type: ignore[misc]
    breakers = {".png": _break_png, ".jpg": _break_bytes, ".bmp": _break_bytes, ".tif": _break_bytes}
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    for suffix, breaker in breakers.items():
        place = root / f"image{suffix}"
        image, _ = _pair(place, noise, suffix)
        yield place.name, image, _breaking(image, breaker), _folder_data(place)
    place = root / "label.png"
    _, label = _pair(place, noise, ".png")
    yield place.name, label, _breaking(label, _break_png), _folder_data(place)
    place = root / "panoptic.png"
    _prepare(place, _panoptic(), "panoptic_train.json")
    path = _write_ids(place / "panoptic")
    yield place.name, path, _breaking(path, _break_png), _data(place, "panoptic")


def _write_ids(place: Path) -> Path:
    place.mkdir()
    ids = np.repeat(1000 * np.arange(4), HEIGHT * WIDTH // 4).reshape(HEIGHT, WIDTH)
    for n in range(2):
        cv2.imwrite(str(place / f"{n}.png"), np.stack([ids >> 16, ids >> 8, ids & 255], axis=2).astype(np.uint8))
    return place / "0.png"


def _breaking(path: Path, breaker: Callable[[bytes, random.Random], bytes]) -> Callable[[random.Random], bytes]:
    content = path.read_bytes()
    return lambda rng: breaker(content, rng)


def _folder_data(root: Path) -> Data:
    return Data(builder="folder", root=str(root), classes=("a", "b", "c"))


def _pair(root: Path, pixels: np.ndarray, suffix: str) -> tuple[Path, Path]:
    image, label = root / "train" / "images" / f"0{suffix}", root / "train" / "instances" / "0.png"
    for path in (image, label):
        path.parent.mkdir(parents=True)
    raw = np.zeros((HEIGHT, WIDTH), np.uint16)
    raw[2:8, 3:9], raw[5:9, 10:14] = 1000, 3007
    cv2.imwrite(str(image), pixels)
    cv2.imwrite(str(label), raw)
    return image, label


class _Watch:
    """Notes what files are opened while data is read; pixels pass OpenCV and Pillow as bytes."""

    def __init__(self, root: Path) -> None:
        self.allowed = tuple(
            os.path.realpath(p) for p in (root, sys.prefix, sys.base_prefix, Path(__file__).parents[2])
        )
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, details: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(details[0], str):
            inside = os.path.realpath(details[0]).startswith(self.allowed)
            writes = details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes or not inside:
                self.seen.append(f"open {details[0]!r}")
        elif event in (
            "os.remove",
            "os.rename",
            "os.mkdir",
            "os.symlink",
            "subprocess.Popen",
            "os.system",
            "socket.connect",
        ):
            self.seen.append(f"{event} {details!r}")


def _attempt(data: Data, watch: _Watch) -> str:
    watch.on = True
    try:
        layout = coco.layout(data) if data.builder == "coco" else folder.layout(data)
        return "read" if _read_everything(layout) else "refused"
    except UserError as error:
        watch.on = False
        _check_line(str(error))
        return "refused"
    finally:
        watch.on = False


def _main(root: Path) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (pages + MEMORY, pages + MEMORY))
    report: dict[str, Any] = {"failures": [], "seconds": {}}
    watch = _Watch(root)
    for title, path, breaker, data in _cases(root):
        valid, start = path.read_bytes(), time.perf_counter()
        assert _attempt(data, watch) == "read", title
        found: Counter[str] = Counter()
        for seed in range(CASES):
            path.write_bytes(breaker(random.Random(seed)))
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            begun = time.perf_counter()
            try:
                found[_attempt(data, watch)] += 1
            except BaseException:
                report["failures"].append(f"{title}, seed {seed}: {traceback.format_exc()}")
            faulthandler.cancel_dump_traceback_later()
            found["slowest"] = max(found["slowest"], round(1000 * (time.perf_counter() - begun)))
        path.write_bytes(valid)
        report[title] = found
        report["seconds"][title] = round(time.perf_counter() - start, 1)
    print(json.dumps(report | {"touched": watch.seen, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def _listing(root: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_broken_data_is_read_or_refused(tmp_path):
    """A crash, a hang, memory without end or any other exception than the one for users fails here."""
    inside = tmp_path / "inside"
    for path in (inside / "data", tmp_path / "home", tmp_path / "temporary", tmp_path / "here"):
        path.mkdir(parents=True)
    for place in (tmp_path, inside):
        cv2.imwrite(str(place / "secret.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    before = _listing(tmp_path)
    result = subprocess.run(
        [sys.executable, "-B", __file__, str(inside / "data")],
        cwd=tmp_path / "here",
        env=os.environ | {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary")},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-5000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report.pop("failures") == []
    assert report.pop("touched") == []
    after = {path: state for path, state in _listing(tmp_path).items() if not path.startswith(str(inside / "data"))}
    assert after == before
    for title in report["seconds"]:
        assert report[title]["read"] + report[title]["refused"] == CASES
        assert min(report[title]["read"], report[title]["refused"]) > CASES // 50, title


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
