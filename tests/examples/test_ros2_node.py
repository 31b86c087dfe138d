"""The conversions of the ROS 2 example, and what it publishes, with stand-ins for ROS."""

import array
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import numpy as np
import pytest

from jaxseg import config
from jaxseg.apps.stream import Stream
from jaxseg.results import Result
from jaxseg.types import ClassList, Instances

FILE = Path(__file__).parents[2] / "examples" / "ros2_node.py"


def _node():
    spec = importlib.util.spec_from_file_location("ros2_node", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


node = _node()


class Image:
    """sensor_msgs.msg.Image."""

    def __init__(self):
        self.header, self.height, self.width, self.encoding = None, 0, 0, ""
        self.is_bigendian, self.step, self.data = 0, 0, array.array("B")


def hypothesis():
    return SimpleNamespace(hypothesis=SimpleNamespace(class_id="", score=0.0), pose=None)


def detection():
    center = SimpleNamespace(position=SimpleNamespace(x=0.0, y=0.0), theta=0.0)
    return SimpleNamespace(header=None, results=[], id="", bbox=SimpleNamespace(center=center, size_x=0.0, size_y=0.0))


class Detections:
    """vision_msgs.msg.Detection2DArray."""

    def __init__(self):
        self.header, self.detections = None, []


VISION = ModuleType("vision_msgs.msg")
VISION.Detection2DArray, VISION.Detection2D, VISION.ObjectHypothesisWithPose = Detections, detection, hypothesis


def message(pixels, encoding, padding=0, big=False, data=None):
    """A message whose rows are padded with bytes that belong to no pixel."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")))
    rows = np.pad(rows.reshape(height, -1).view(np.uint8), ((0, 0), (0, padding)), constant_values=77)
    image = Image()
    image.header, image.height, image.width, image.encoding = object(), height, width, encoding
    image.is_bigendian, image.step = int(big), rows.shape[1]
    image.data = array.array("B", rows.tobytes()) if data is None else data(rows.tobytes())
    return image


def picture(channels, dtype=np.uint8, height=3, width=5):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(channels).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("data", [None, bytes, lambda raw: np.frombuffer(raw, np.uint8)])
def test_channels_are_put_in_order(padding, data):
    rgb, rgba, gray = picture(3), picture(4), picture(1)
    for pixels, encoding, wanted in (
        (rgb, "rgb8", rgb),
        (rgb[..., ::-1], "bgr8", rgb),
        (rgba, "rgba8", rgba[..., :3]),
        (rgba[..., [2, 1, 0, 3]], "bgra8", rgba[..., :3]),
        (gray, "mono8", np.stack([gray] * 3, -1)),
    ):
        frame = node.to_frame(message(pixels, encoding, padding, data=data))
        assert frame.dtype == np.uint8
        assert frame.flags.c_contiguous
        np.testing.assert_array_equal(frame, wanted, err_msg=encoding)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 2, 3])
def test_sixteen_bits_are_scaled_in_either_order_of_bytes(big, padding):
    # 65535 / 255 = 257: a multiple of it, half a step below the next one, and that half step itself.
    gray = np.array([[0, 257, 385], [386, 65406, 65535]], np.uint16)
    frame = node.to_frame(message(gray, "mono16", padding, big))
    np.testing.assert_array_equal(frame[..., 1], [[0, 1, 1], [2, 254, 255]])
    rgb = picture(3, np.uint16)
    for pixels, encoding in ((rgb, "rgb16"), (rgb[..., ::-1], "bgr16")):
        np.testing.assert_array_equal(
            node.to_frame(message(pixels, encoding, padding, big)), np.rint(rgb / 257).astype(np.uint8)
        )


def test_a_frame_is_a_copy():
    image = message(picture(3), "rgb8", data=bytearray)
    frame = node.to_frame(image)
    image.data[:] = bytes(len(image.data))
    assert frame.any()
    frame[:] = 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "bayer_rggb8"}, "bayer_rggb8"),
        ({"encoding": ""}, "''"),
        ({"height": 0}, "0 x 5"),
        ({"width": 0, "step": 0}, "3 x 0"),
        ({"step": 14}, "rows of at least 15 bytes"),
        ({"data": array.array("B", bytes(44))}, "44 bytes"),
        ({"data": array.array("B")}, "0 bytes"),
    ],
)
def test_what_is_no_image_is_refused(change, words):
    image = message(picture(3), "rgb8")
    vars(image).update(change)
    with pytest.raises(ValueError, match=words):
        node.to_frame(image)


def test_images_come_back():
    header = object()
    for encoding, pixels in (("rgb8", picture(3)), ("mono8", picture(1)), ("mono16", picture(1, np.uint16))):
        image = node.to_image(Image, header, encoding, pixels)
        assert image.header is header
        assert (image.height, image.width, image.is_bigendian) == (3, 5, 0)
        assert image.step * 3 == len(image.data)
        assert image.data.typecode == "B"
        raw = np.frombuffer(image.data, "<u2" if encoding == "mono16" else "u1")
        np.testing.assert_array_equal(raw.reshape(pixels.shape), pixels)
    for encoding, pixels in (("mono8", picture(3)), ("rgb8", picture(1)), ("mono16", picture(1))):
        with pytest.raises(ValueError, match="`picture` must be"):
            node.to_image(Image, header, encoding, pixels)


def segmentation():
    """Two objects in 4 x 6 pixels: a cup in rows 0, 1 and columns 2 to 4, a can at the bottom; row 1 is unused."""
    instance = np.zeros((4, 6), np.uint16)
    instance[:2, 2:5], instance[3, 0] = 1, 3
    semantic = np.select([instance == 1, instance == 3], [1, 2], 0).astype(np.uint8)
    rows = Instances(
        valid=np.array([True, False, True]),
        class_id=np.array([1, 0, 2], np.uint8),
        score=np.array([0.75, 0.0, 0.5], np.float32),
        center=np.array([[0.5, 3], [0, 0], [3, 0]], np.float32),
        box=np.array([[0, 2, 2, 5], [0, 0, 0, 0], [3, 0, 4, 1]], np.int32),
        area=np.array([6, 0, 1], np.int32),
        embedding=np.zeros((3, 4), np.float32),
        track_id=np.zeros(3, np.int32),
    )
    return Result(semantic, instance, rows, np.int32(0))


NAMES = ("background", "cup", "can")


def test_detections_are_the_objects_in_pixels_of_the_image():
    header = object()
    listed = node.to_detections(VISION, header, segmentation(), NAMES)
    assert listed.header is header
    assert [d.id for d in listed.detections] == ["1", "3"]
    cup, can = listed.detections
    assert cup.header is header
    # Columns 2 to 4 and rows 0 and 1: x spans 2 to 5, y spans 0 to 2.
    assert (cup.bbox.center.position.x, cup.bbox.center.position.y) == (3.5, 1.0)
    assert (cup.bbox.size_x, cup.bbox.size_y) == (3.0, 2.0)
    assert [(h.hypothesis.class_id, h.hypothesis.score) for h in cup.results] == [("cup", 0.75)]
    assert [(h.hypothesis.class_id, h.hypothesis.score) for h in can.results] == [("can", 0.5)]


def test_an_object_that_is_followed_has_the_id_of_its_track():
    found = segmentation()
    found = found.replace(instances=found.instances.replace(track_id=np.array([7, 0, 0], np.int32)))
    assert [d.id for d in node.to_detections(VISION, object(), found, NAMES).detections] == ["7", "3"]


class Publisher:
    def __init__(self, listeners):
        self.sent, self.listeners = [], listeners

    def publish(self, message):
        self.sent.append(message)

    def get_subscription_count(self):
        return self.listeners


class Node:
    """rclpy.node.Node; what was done, in order."""

    def __init__(self, parameters=(), listeners=1):
        self.parameters, self.listeners = dict(parameters), listeners
        self.publishers, self.said, self.done = {}, [], []
        self.logger = SimpleNamespace(
            **{level: lambda text, **_: self.said.append(text) for level in ("info", "warning", "fatal")}
        )

    def get_logger(self):
        return self.logger

    def declare_parameter(self, name, value):
        return SimpleNamespace(value=self.parameters.get(name, value))

    def create_publisher(self, kind, topic, depth):
        assert depth == 1
        return self.publishers.setdefault(topic, Publisher(self.listeners))

    def create_subscription(self, kind, topic, callback, newest):
        self.done.append(("subscribe", topic, newest))
        self.callback = callback
        return SimpleNamespace(topic_name=topic)

    def destroy_node(self):
        self.done.append("destroyed")


class Model:
    """Of jaxseg.load, without a network."""

    classes = ClassList(NAMES)

    def __init__(self, done):
        self.done, self.frames = done, []

    def warmup(self, size):
        if size is None:
            raise ValueError("`size` must be given")
        self.done.append(("warmup", size))
        return 0.5

    def __call__(self, frame):
        if frame.shape != (4, 6, 3):
            raise ValueError(f"`frames` must be 4 x 6: got {frame.shape}")
        self.frames.append(frame)
        return segmentation()


@pytest.mark.parametrize("listeners", [0, 1])
def test_every_image_is_answered_under_its_own_header(listeners):
    ros = Node(listeners=listeners)
    segmenter = node.Segmenter(ros, Model([]), Image, VISION, "newest")
    images = [message(picture(3, height=4, width=6), "bgr8", padding=2) for _ in range(2)]
    for image in images:
        ros.callback(image)
    sent = {topic: publisher.sent for topic, publisher in ros.publishers.items()}
    assert set(sent) == {"~/overlay", "~/semantic", "~/instance", "~/detections"}
    for topic, messages in sent.items():
        expected = images if listeners or topic != "~/overlay" else []
        assert [m.header for m in messages] == [image.header for image in expected]
    found = segmentation()
    np.testing.assert_array_equal(node.to_frame(sent["~/semantic"][0])[..., 0], found.semantic)
    ids = np.frombuffer(sent["~/instance"][0].data, "<u2").reshape(4, 6)
    np.testing.assert_array_equal(ids, found.instance)
    assert sent["~/instance"][0].encoding == "mono16"
    np.testing.assert_array_equal(segmenter.segment.frames[0], node.to_frame(images[0]))


class Moving:
    """Gives one result after the other."""

    def __init__(self, results):
        self.results, self.classes = iter(results), Model([]).classes

    def __call__(self, frame):
        return next(self.results)

    def pixels_per_unit(self, size):
        return 0.0

    def stream(self):
        return Stream(self)


def test_objects_keep_their_ids_from_image_to_image():
    """Two objects, then one of them in another row: its id is that of before, not of its row."""
    first, second = segmentation(), segmentation()
    rows = second.instances
    second = second.replace(instances=jax.tree.map(lambda x: x[[2, 1, 0]], rows))
    second = second.replace(instances=second.instances.replace(valid=np.array([True, False, False])))
    found = [first, second]
    ros = Node()
    node.Segmenter(ros, Moving(found), Image, VISION, "newest", tracked=True)
    for _ in range(2):
        ros.callback(message(picture(3, height=4, width=6), "rgb8"))
    sent = ros.publishers["~/detections"].sent
    assert [[d.id for d in listed.detections] for listed in sent] == [["1", "2"], ["2"]]


def test_an_image_that_cannot_be_read_is_reported_and_the_next_one_is_segmented():
    ros = Node()
    node.Segmenter(ros, Model([]), Image, VISION, "newest")
    ros.callback(message(picture(3), "yuv422"))
    ros.callback(message(picture(3), "rgb8"))
    assert len(ros.said) == 2
    assert "yuv422" in ros.said[0]
    assert "(3, 5, 3)" in ros.said[1]
    ros.callback(message(picture(3, height=4, width=6), "rgb8"))
    assert len(ros.publishers["~/detections"].sent) == 1


@pytest.fixture
def ros(monkeypatch):
    """ROS as far as `main` uses it; its node is given two parameters."""
    created = Node({"model": "runs/robot", "height": 48, "width": 64})
    modules = {
        name: ModuleType(name) for name in ("rclpy", "rclpy.executors", "rclpy.qos", "sensor_msgs", "vision_msgs")
    }
    modules["rclpy"].init = lambda: None
    modules["rclpy"].create_node = lambda name: created
    modules["rclpy"].spin = lambda n: n.done.append("spin")
    modules["rclpy"].try_shutdown = lambda: created.done.append("shutdown")
    modules["rclpy.executors"].ExternalShutdownException = type("ExternalShutdownException", (Exception,), {})
    modules["rclpy.qos"].QoSProfile = dict
    modules["rclpy.qos"].HistoryPolicy = SimpleNamespace(KEEP_LAST="keep last")
    modules["rclpy.qos"].ReliabilityPolicy = SimpleNamespace(BEST_EFFORT="best effort")
    modules["sensor_msgs"].msg, modules["vision_msgs"].msg = SimpleNamespace(Image=Image), VISION
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return created


def test_the_node_warms_up_before_it_subscribes_and_keeps_the_newest_image_alone(ros, monkeypatch):
    monkeypatch.setattr(node.jaxseg, "load", lambda path: ros.done.append(("load", path)) or Model(ros.done))
    assert node.main() == 0
    newest = {"depth": 1, "history": "keep last", "reliability": "best effort"}
    assert ros.done == [
        ("load", "runs/robot"),
        ("warmup", (48, 64)),
        ("subscribe", "image", newest),
        "spin",
        "destroyed",
        "shutdown",
    ]


def test_a_model_that_is_not_there_ends_the_node_in_one_line(ros, tmp_path):
    ros.parameters["model"] = str(tmp_path)
    assert node.main() == config.UserError.status
    assert len(ros.said) == 1
    assert "is not a work directory" in ros.said[0]
    assert ros.done == ["destroyed", "shutdown"]


def test_a_model_of_no_size_needs_that_of_the_frames(ros, monkeypatch):
    monkeypatch.setattr(node.jaxseg, "load", lambda path: Model(ros.done))
    ros.parameters["height"] = 0
    assert node.main() == config.UserError.status
    assert ros.said == ["`size` must be given"]
    assert ros.done == ["destroyed", "shutdown"]
