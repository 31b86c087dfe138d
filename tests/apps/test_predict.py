"""`jaxseg predict` as a user runs it: on images, videos and cameras, whole and broken ones; its parts overlap."""

import contextlib
import dataclasses
import json
import os
import struct
import threading
from fractions import Fraction
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from PIL import Image

from jaxseg import cli, config
from jaxseg.apps import export, files, model, predict
from jaxseg.apps.media import films, inputs, window
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.types import ClassList, Instances, Segmentation

SETTINGS = config.Config(
    name="tiny",
    data=config.Data(builder="shapes", classes=("disc", "square"), crop=(32, 64)),
    model=config.Model(encoder="tests.tiny_encoder:TinyEncoder", encoder_stride=8, decoder_width=0.25, embedding=4),
    grouping=config.Grouping(slots=12, center=0.099, assignment=10.0),
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose network is untrained, and finds something all the same: background has a low prior."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    state = jax.device_get(model.begin(model.network(SETTINGS), SETTINGS))
    state.params["semantic"]["predict"]["bias"] = np.array([-0.5, 0, 0], np.float32)
    files.write_text(folder / model.CONFIG, config.to_json(SETTINGS))
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state)
    return folder


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def smooth(height, width, number=0):
    """A picture of colored blocks, which a video codec keeps well; its red says which one it is."""
    blocks = np.kron(noise(-(-height // 8), -(-width // 8), 3), np.ones((8, 8, 1), np.uint8))[:height, :width]
    blocks[..., 0] = (20 * number + 10) % 256
    return blocks


def clip(path, count=8, size=(40, 56), seed=None, **options):
    """A video file of smooth pictures, or of noise."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", Fraction(30000, 1001), options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for i in range(count):
            picture = smooth(*size, i) if seed is None else noise(*size, 3, seed=seed + i)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def played(path):
    """Pictures of a video, and their times in seconds."""
    with av.open(str(path)) as container:
        found = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)]
    return np.array([picture for picture, _ in found]), [time for _, time in found]


def run(workdir, *argv):
    return cli.predict(["--model", str(workdir), *map(str, argv)])


def said(capsys):
    """What was reported of inputs."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("jaxseg:")]


def test_each_image_gives_four_files(workdir, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    Image.fromarray(noise(45, 70, 3)).save(tmp_path / "a" / "x.png")
    Image.fromarray(noise(45, 70)).save(tmp_path / "b" / "x.png")
    assert run(workdir, tmp_path / "a", tmp_path / "b" / "*.png", "--output", tmp_path / "out") == 0
    assert "2 frames, " in capsys.readouterr().err
    assert len(list((tmp_path / "out").iterdir())) == 8
    for document in (tmp_path / "out").glob("*.json"):
        stem = document.with_suffix("").name
        listed = json.loads(document.read_text())
        instance = np.asarray(Image.open(tmp_path / "out" / f"{stem}_instance.png"))
        semantic = np.asarray(Image.open(tmp_path / "out" / f"{stem}_semantic.png"))
        overlay = np.asarray(Image.open(tmp_path / "out" / f"{stem}_overlay.png"))
        assert overlay.shape == (45, 70, 3)
        assert instance.shape == semantic.shape == (45, 70)
        assert semantic.dtype == np.uint8
        assert instance.dtype == np.uint16
        assert listed["instances"]
        assert {row["id"] for row in listed["instances"]} == set(np.unique(instance).tolist()) - {0}
        for row in listed["instances"]:
            assert set(row) == {"id", "class", "class_id", "score", "box", "area", "center"}
            assert row["area"] == int((instance == row["id"]).sum())


def test_each_frame_of_a_video_gives_four_files_and_a_picture_of_the_film(workdir, tmp_path):
    clip(tmp_path / "clip.mp4")
    assert run(workdir, tmp_path / "clip.mp4", "--output", tmp_path, "--video", tmp_path / "out.mp4") == 0
    pictures, times = played(tmp_path / "out.mp4")
    assert pictures.shape == (8, 40, 56, 3)
    np.testing.assert_allclose(times, np.arange(8) * 1001 / 30000, atol=1e-4)
    for i, picture in enumerate(pictures):
        overlay = np.asarray(Image.open(tmp_path / f"clip_{i:06}_overlay.png")).astype(int)
        assert np.abs(picture - overlay).mean() < 12
        rows = json.loads((tmp_path / f"clip_{i:06}.json").read_text())["instances"]
        tracks = [row["track"] for row in rows]
        assert tracks
        assert 0 not in tracks
        assert len(set(tracks)) == len(tracks)
    assert len(list(tmp_path.glob("clip_*"))) == 4 * 8
    assert not list(tmp_path.glob("*.partial"))


def test_the_masks_are_those_of_the_frames_by_themselves(workdir, tmp_path):
    """In order, though many are on their way at once."""
    clip(tmp_path / "clip.mp4", count=12, seed=0)
    assert run(workdir, tmp_path / "clip.mp4", "--output", tmp_path) == 0
    trained = model.load(workdir)
    for i, frame in enumerate(played(tmp_path / "clip.mp4")[0]):
        found = trained(frame)
        for kind in ("semantic", "instance"):
            stored = np.asarray(Image.open(tmp_path / f"clip_{i:06}_{kind}.png"))
            np.testing.assert_array_equal(stored, getattr(found, kind))


def test_images_of_a_film_are_a_sequence_and_fit_into_it(workdir, tmp_path):
    """Odd sizes are padded; a frame of another shape stands in the middle of a dark ground."""
    for i, size in enumerate([(45, 71), (45, 71), (40, 56)]):
        Image.fromarray(smooth(*size, i)).save(tmp_path / f"{i}.png")
    argv = [tmp_path / f"{i}.png" for i in range(3)]
    assert run(workdir, *argv, "--video", tmp_path / "out.mkv", "--output", tmp_path / "out") == 0
    pictures, times = played(tmp_path / "out.mkv")
    assert pictures.shape == (3, 46, 72, 3)
    np.testing.assert_allclose(times, [0, 1 / inputs.RATE, 2 / inputs.RATE], atol=2e-3)
    assert np.abs(pictures[2][:, :2].astype(int) - films.GROUND).mean() < 8
    assert pictures[2][:, 6:60].std() > 20
    assert all("track" in row for i in range(3) for row in _listed(tmp_path / "out", i))


def _listed(output, i):
    return json.loads((output / f"{i}.json").read_text())["instances"]


@pytest.mark.parametrize("suffix", films.ANIMATIONS)
def test_animated_images(suffix, tmp_path):
    with films.film(tmp_path / f"a{suffix}") as film:
        for i in range(4):
            film.write(smooth(40, 57, i), 0.04)
    with Image.open(tmp_path / f"a{suffix}") as animation:
        assert (animation.n_frames, animation.size, animation.info["loop"]) == (4, (57, 40), 0)
        for i in range(4):
            animation.seek(i)
            animation.load()
            assert animation.info["duration"] == 40
            assert abs(np.asarray(animation.convert("RGB"))[..., 0].mean() - (20 * i + 10)) < 8


def test_a_film_keeps_colors(tmp_path):
    colors = np.array([(250, 30, 30), (30, 250, 30), (30, 30, 250), (240, 240, 240), (20, 20, 20)], np.uint8)
    picture = np.repeat(np.repeat(colors[None], 32, 0), 32, 1)
    with films.film(tmp_path / "a.mp4") as film:
        film.write(picture, 0.04)
    shown = played(tmp_path / "a.mp4")[0][0][16, 16::32]
    assert np.abs(shown.astype(int) - colors).max() < 12


def test_what_was_there_stays_where_a_film_fails(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("before")
    with contextlib.suppress(RuntimeError), films.film(path) as film:
        film.write(smooth(40, 56), 0.04)
        raise RuntimeError
    assert path.read_text() == "before"
    (tmp_path / "a.mp4.partial").rename(tmp_path / "b.mp4")
    assert len(played(tmp_path / "b.mp4")[0]) == 1
    with films.film(path):
        pass
    assert path.read_text() == "before"


def test_videos_that_cannot_be_written_are_refused_before_anything_is_done(workdir, tmp_path):
    movie = clip(tmp_path / "clip.mp4")
    with pytest.raises(config.UserError, match=r"out\.txt has no suffix of a video\. Choose one of \.mp4"):
        run(workdir, movie, "--video", tmp_path / "out.txt")
    with pytest.raises(config.UserError, match=r"clip\.mp4 is an input as well"):
        run(workdir, movie, "--video", tmp_path / "x" / ".." / "clip.mp4")
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(config.UserError, match=r"out\.mp4 is a folder"):
        run(workdir, movie, "--video", tmp_path / "out.mp4")
    with pytest.raises(config.UserError, match=r"Give --output DIR, --video FILE or --view"):
        run(workdir, movie)
    assert len(played(movie)[0]) == 8


CONVERTED = {
    "gray": (Image.fromarray(np.full((4, 6), 80, np.uint8)), (80, 80, 80)),
    "gray 16": (Image.fromarray(np.full((4, 6), 80 * 257, np.uint16)), (80, 80, 80)),
    "one bit": (Image.new("1", (6, 4), 1), (255, 255, 255)),
    "palette": (Image.new("RGB", (6, 4), (9, 80, 200)).quantize(4), (9, 80, 200)),
    "opaque": (Image.new("RGBA", (6, 4), (9, 80, 200, 255)), (9, 80, 200)),
    "half": (Image.new("RGBA", (6, 4), (9, 80, 200, 51)), (2, 16, 40)),
    "gray half": (Image.new("LA", (6, 4), (80, 51)), (16, 16, 16)),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_images_of_every_kind_become_rgb(kind, tmp_path):
    image, color = CONVERTED[kind]
    image.save(tmp_path / "x.png")
    found = inputs.read_image(tmp_path / "x.png")
    assert (found.shape, found.dtype) == ((4, 6, 3), np.uint8)
    assert np.abs(found.astype(int) - color).max() <= 1


def test_what_is_transparent_is_black_whatever_is_stored_there(tmp_path):
    """As an alpha channel, and as a color of the palette."""
    pixels = np.concatenate([noise(8, 8, 3), np.full((8, 8, 1), 255, np.uint8)], -1)
    pixels[:4, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = inputs.read_image(tmp_path / "x.png")
    assert not found[:4].any()
    np.testing.assert_array_equal(found[4:], pixels[4:, :, :3])
    indexed = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8), 8).reshape(4, 4), "P")
    indexed.putpalette([250, 10, 10, 10, 20, 30])
    indexed.save(tmp_path / "p.png", transparency=0)
    found = inputs.read_image(tmp_path / "p.png")
    assert not found[:2].any()
    assert (found[2:] == (10, 20, 30)).all()


def test_sixteen_bits_of_color_are_scaled(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "x.png"), np.full((4, 6, 3), (200 * 257, 80 * 257, 9 * 257), np.uint16))
    np.testing.assert_array_equal(inputs.read_image(tmp_path / "x.png"), np.full((4, 6, 3), (9, 80, 200)))


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_unreadable_image_is_reported_and_the_others_are_written(content, workdir, tmp_path, capsys):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(noise(45, 70, 3)).save(good)
    bad.write_bytes(good.read_bytes()[:3000] if content is None else content)
    assert run(workdir, bad, good, tmp_path / "gone.png", "--output", tmp_path / "out") == 2
    lines = said(capsys)
    assert len(lines) == 2
    assert "bad.png cannot be read as an image" in lines[0]
    assert "gone.png does not exist" in lines[1]
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_inputs_that_hold_nothing_are_reported_and_the_others_are_written(workdir, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    picture = tmp_path / "a[1].png"  # not a glob: there is a file of that name
    Image.fromarray(np.zeros((45, 70, 3), np.uint8)).save(picture)
    assert run(workdir, tmp_path / "empty", picture, "--output", tmp_path / "out") == 2
    lines = said(capsys)
    assert len(lines) == 1
    assert f"{tmp_path / 'empty'} holds no image or video" in lines[0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir())[0] == "a[1].json"
    with pytest.raises(config.UserError, match="holds no image or video"):
        run(workdir, tmp_path / "empty", "--output", tmp_path / "out")


def test_broken_videos_are_reported_and_the_others_are_done(workdir, tmp_path, capsys):
    """One cut short, one without its table of contents, one with a damaged frame, a text, sound alone."""
    whole = clip(tmp_path / "whole.mp4", count=30, seed=0, movflags="faststart").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    later = clip(tmp_path / "later.mp4").read_bytes()
    (tmp_path / "later.mp4").write_bytes(later[: len(later) * 6 // 10])
    middle = len(whole) // 2
    (tmp_path / "hurt.mp4").write_bytes(whole[:middle] + bytes(4000) + whole[middle + 4000 :])
    (tmp_path / "text.mp4").write_text("hello")
    _sound(tmp_path / "sound.mp4")
    names = ("cut", "later", "hurt", "text", "sound", "whole")
    argv = [tmp_path / f"{name}.mp4" for name in names]
    assert run(workdir, *argv, "--output", tmp_path / "out") == 2
    lines = said(capsys)
    assert len(lines) == 5
    assert "later.mp4 cannot be read as a video: Invalid data found when processing input." in lines[0]
    assert "text.mp4 cannot be read as a video" in lines[1]
    assert "sound.mp4 holds no video" in lines[2]
    done = {name: len(list((tmp_path / "out").glob(f"{name}_*.json"))) for name in names}
    assert f"cut.mp4 ends after {done['cut']} of 30 frames." in lines[3]
    assert 10 < done["cut"] < 25
    assert "hurt.mp4: frame 1" in lines[4]
    assert "cannot be decoded" in lines[4]
    assert 25 <= done["hurt"] < 30
    assert done["whole"] == 30


def _sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", 16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".mov"])
def test_videos_of_other_containers(suffix, tmp_path):
    clip(tmp_path / f"a{suffix}", seed=0, count=20)
    (found,), problems = inputs.sources([str(tmp_path)])
    assert not problems
    assert found.count == 20
    assert [frame.name for frame in found.frames()] == [f"a_{i:06}" for i in range(20)]
    if suffix == ".mov":
        return  # Its table of contents is at the end.
    content = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"a{suffix}").write_bytes(content[: len(content) * 6 // 10])
    (found,), problems = inputs.sources([str(tmp_path)])
    with pytest.raises(config.UserError, match=r"ends after 1\d of 20 frames"):
        list(found.frames())


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_frames_are_turned_upright(turns, tmp_path):
    """By the matrix in the header, as phones write it: 90 degrees to the right are (0, 1, -1, 0)."""
    content = bytearray(clip(tmp_path / "a.mp4", count=2).read_bytes())
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
    at = content.index(b"tkhd") + 4 + 40
    content[at : at + 36] = struct.pack(">9i", *(65536 * n for n in (cos, sin, 0, -sin, cos, 0, 0, 0)), 1 << 30)
    (tmp_path / "a.mp4").write_bytes(content)
    frame = next(inputs.Video.opened(tmp_path / "a.mp4").frames())
    wanted = np.rot90(smooth(40, 56), -turns)
    assert frame.pixels.shape == wanted.shape
    assert np.abs(frame.pixels.astype(int) - wanted).mean() < 4


def test_names_are_distinct(tmp_path):
    for name in ("a.png", "a.jpg", "b/a.png", "c.png", "v_000003.png", "w_000003.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise(8, 8, 3)).save(tmp_path / name)
    clip(tmp_path / "v.mp4")
    texts = [str(tmp_path / name) for name in ("a.png", "a.jpg", "b", "c.png", "v_000003.png", "w_000003.png", "v.mp4")]
    found, _ = inputs.sources(texts)
    names = [source.name for source in found]
    assert names == ["a_png", "a_jpg", "a_png_2", "c", "v_000003_png", "w_000003", "v_mp4"]


class Capture:
    """OpenCV's camera, with frames of ours."""

    def __init__(self, frames):
        self.frames, self.released = list(frames), False

    def isOpened(self):
        return True

    def set(self, *_):
        return True

    def read(self):
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def release(self):
        self.released = True


def test_a_camera_gives_rgb_until_it_fails(workdir, tmp_path, monkeypatch, capsys):
    import cv2

    capture = Capture(smooth(40, 56, i)[..., ::-1] for i in range(5))
    opened = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: opened.append(number) or capture)
    assert run(workdir, "/dev/video2", "--output", tmp_path, "--video", tmp_path / "out.mp4") == 2
    assert opened == [2]
    assert capture.released
    assert said(capsys) == ["jaxseg: camera_2 gave no frame after 5 frames. Check its connection."]
    assert len(played(tmp_path / "out.mp4")[0]) == 5
    first = next(inputs.Camera(Path("c"), "c", Capture([smooth(40, 56)[..., ::-1]])).frames())
    np.testing.assert_array_equal(first.pixels, smooth(40, 56))


def test_ctrl_c_is_how_a_camera_ends(workdir, tmp_path, monkeypatch, capsys):
    import cv2

    capture = Capture([smooth(40, 56)[..., ::-1]] * 1000)
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: capture)
    _interrupt_after(3, monkeypatch)
    assert run(workdir, "0", "--video", tmp_path / "out.mp4") == 0
    assert said(capsys) == []
    assert capture.released
    assert 3 <= len(played(tmp_path / "out.mp4")[0]) < 20


def test_ctrl_c_leaves_what_is_finished_complete(workdir, tmp_path, monkeypatch, capsys):
    clip(tmp_path / "clip.mp4", count=60)
    _interrupt_after(3, monkeypatch)
    status = run(workdir, tmp_path / "clip.mp4", "--output", tmp_path / "out", "--video", tmp_path / "out.mp4")
    assert status == 130
    pictures = len(played(tmp_path / "out.mp4")[0])
    assert 3 <= pictures < 30
    assert len(list((tmp_path / "out").iterdir())) == 4 * pictures
    assert said(capsys) == [f"jaxseg: interrupted. What was made of {pictures} frames is complete."]


def _interrupt_after(frames, monkeypatch):
    """Ctrl-C reaches the main thread while that many frames are done."""
    advance = predict.Bar.advance

    def interrupted(bar):
        advance(bar)
        if bar.done == frames:
            raise KeyboardInterrupt

    monkeypatch.setattr(predict.Bar, "advance", interrupted)


def test_a_camera_that_is_not_there(workdir, tmp_path):
    with pytest.raises(config.UserError, match=r"camera 93 cannot be opened\. Connect it"):
        run(workdir, "93", "--output", tmp_path)


def test_a_result_that_cannot_be_written_ends_it_and_the_others_stay(workdir, tmp_path):
    clip(tmp_path / "clip.mp4", count=60)
    (tmp_path / "out" / "clip_000004_overlay.png").mkdir(parents=True)
    (tmp_path / "out.mp4").write_text("before")
    with pytest.raises(config.UserError, match=r"clip_000004_overlay\.png is a folder"):
        run(workdir, tmp_path / "clip.mp4", "--output", tmp_path / "out", "--video", tmp_path / "out.mp4")
    written = len(list((tmp_path / "out").glob("*.json")))
    assert 4 <= written < 40
    assert (tmp_path / "out.mp4").read_text() == "before"


def test_a_full_disk_ends_it_in_one_line(workdir, tmp_path, monkeypatch):
    clip(tmp_path / "clip.mp4", count=60)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(films.H264, "_add", full)
    with pytest.raises(config.UserError, match=r"out\.mp4 cannot be written: No space left on device\. Make room"):
        run(workdir, tmp_path / "clip.mp4", "--video", tmp_path / "out.mp4")


# The parts overlap


def found(height=8, width=8):
    """A result without objects."""
    rows = Instances(
        valid=np.zeros(2, bool),
        class_id=np.zeros(2, np.uint8),
        score=np.zeros(2, np.float32),
        center=np.zeros((2, 2), np.float32),
        box=np.zeros((2, 4), np.int32),
        area=np.zeros(2, np.int32),
        embedding=np.zeros((2, 4), np.float32),
        track_id=np.zeros(2, np.int32),
    )
    maps = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint16)
    return Segmentation(*maps, rows, np.zeros((), np.int32))


@dataclasses.dataclass
class Numbered:
    """An input whose reading is counted."""

    path: Path = Path("numbered")
    name: str = "numbered"
    count: int = 200
    moving: bool = False
    live: bool = False
    read: int = 0

    def frames(self):
        for i in range(self.count):
            self.read += 1
            yield inputs.Frame(f"{i}", np.full((8, 8, 3), i, np.uint8), 0.04)


class Standing:
    """A function in the place of a network."""

    classes, frame = ClassList(("background",)), None

    def __init__(self, run):
        self.run = run

    def __call__(self, frames):
        return self.run(frames)

    def pixels_per_unit(self, size):
        return 0.0


@contextlib.contextmanager
def bar(source):
    with predict.Bar([source]) as shown:
        yield shown


def test_the_next_frames_are_segmented_while_a_picture_is_written(tmp_path, monkeypatch):
    """The first picture is not written before the model was called on two more frames."""
    called, waited = threading.Event(), []
    write, calls = files.write_image, []

    def slow(path, image):
        if path.name.startswith("0_overlay"):
            waited.append(called.wait(20))
        write(path, image)

    def trained(frames):
        calls.append(int(frames[0, 0, 0]))
        if len(calls) == 3:
            called.set()
        return found()

    monkeypatch.setattr(files, "write_image", slow)
    source = Numbered(count=6)
    with bar(source) as shown:
        assert not predict.run(Standing(trained), [source], shown, tmp_path)
    assert waited == [True]
    assert calls == [0, 1, 2, 3, 4, 5]
    assert shown.done == 6


def test_nothing_runs_far_ahead_of_what_is_slowest(tmp_path, monkeypatch):
    gate, source = threading.Event(), Numbered()
    read, calls = [], []

    def blocked(*_):
        gate.wait(20)

    def trained(frames):
        calls.append(frames)
        return found()

    monkeypatch.setattr(predict, "write", blocked)
    timer = threading.Timer(1.0, lambda: (read.append((source.read, len(calls))), gate.set()))
    timer.start()
    with bar(source) as shown:
        predict.run(Standing(trained), [source], shown, tmp_path)
    assert shown.done == 200
    ((ahead, segmented),) = read
    most = predict.WORKERS + 2
    assert 2 <= segmented <= most
    assert segmented <= ahead <= most + predict.AHEAD + 1


@pytest.mark.parametrize("where", ["reading", "model", "drawing", "film"])
def test_an_error_anywhere_ends_it(where, tmp_path, monkeypatch):
    class Failing(Numbered):
        def frames(self):
            for frame in Numbered.frames(self):
                if where == "reading" and frame.name == "5":
                    raise RuntimeError("reading failed")
                yield frame

    calls = []

    def trained(frames):
        calls.append(frames)
        if where == "model" and len(calls) == 5:
            raise RuntimeError("model failed")
        return found()

    def failing(*_, **__):
        raise RuntimeError(f"{where} failed")

    if where == "drawing":
        monkeypatch.setattr(predict.visualize, "overlay", failing)
    if where == "film":
        monkeypatch.setattr(films.H264, "_add", failing)
    source = Failing(count=10**6)
    error = config.UserError if where == "film" else RuntimeError
    with pytest.raises(error, match=f"{where} failed"), films.film(tmp_path / "a.mp4") as film, bar(source) as shown:
        predict.run(Standing(trained), [source], shown, None, film)
    assert source.read < 100


# Exported files


def test_an_exported_file_gives_what_its_network_gives(workdir, tmp_path, capsys):
    export.export(model.load(workdir), tmp_path / "net", (32, 64))
    for name, size in (("a", (32, 64)), ("large", (48, 80)), ("z", (32, 64))):
        Image.fromarray(noise(*size, 3)).save(tmp_path / f"{name}.png")
    assert run(tmp_path / "net", tmp_path / "*.png", "--output", tmp_path / "out") == 2
    (line,) = said(capsys)
    assert "large.png is 48 x 80, and the exported file takes 32 x 64" in line
    assert "--frame 48 80" in line
    assert run(workdir, tmp_path / "*.png", "--output", tmp_path / "same") == 0
    assert len(list((tmp_path / "out").iterdir())) == 8
    for file in (tmp_path / "out").iterdir():
        if file.suffix == ".png":
            np.testing.assert_array_equal(
                *(np.asarray(Image.open(f / file.name)) for f in (file.parent, tmp_path / "same"))
            )
    with pytest.raises(config.UserError, match="is an exported file, which holds one state"):
        run(tmp_path / "net", tmp_path / "a.png", "--output", tmp_path / "out", "--best")


# The window


def test_a_window_without_a_screen_is_refused(workdir, tmp_path, monkeypatch):
    pytest.importorskip("tkinter")
    clip(tmp_path / "clip.mp4")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(config.UserError, match=r"--view needs a screen: .* write a file: --video FILE\.mp4"):
        run(workdir, tmp_path / "clip.mp4", "--view")


def test_a_window_without_tkinter_is_refused(workdir, tmp_path, monkeypatch):
    import sys

    clip(tmp_path / "clip.mp4")
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(config.UserError, match=r"--view needs tkinter, .* Install it"):
        run(workdir, tmp_path / "clip.mp4", "--view")


@pytest.mark.skipif(not os.environ.get("DISPLAY"), reason="there is no screen")
def test_the_window_shows_frames_until_it_is_closed(workdir, tmp_path, monkeypatch):
    clip(tmp_path / "clip.mp4", count=100)
    show, titles = window.Window.show, []

    def closing(self, picture, title, seconds=0.0):
        titles.append(title)
        show(self, picture, title, seconds)
        if len(titles) == 3:
            self._root.focus_force()
            self._root.update()
            self._root.event_generate("<Key>", keysym="q")
            self._root.update()

    monkeypatch.setattr(window.Window, "show", closing)
    assert run(workdir, tmp_path / "clip.mp4", "--view") == 0
    assert titles == ["clip_000000", "clip_000001", "clip_000002"]
