"""A ROS 2 node (Jazzy or newer) that segments the images of a camera.

python examples/ros2_node.py --ros-args -p model:=runs/demo -p height:=480 -p width:=640 -r image:=/camera/image_raw

It subscribes to ``image`` (sensor_msgs/Image) and takes the newest one: what arrives while a frame is segmented
replaces what waits. For each it publishes, with the header of the image,

- ``~/overlay`` (sensor_msgs/Image, rgb8), drawn only while somebody listens;
- ``~/semantic`` (sensor_msgs/Image, mono8), the class of every pixel;
- ``~/instance`` (sensor_msgs/Image, mono16), 0 or the id of the object that owns the pixel;
- ``~/detections`` (vision_msgs/Detection2DArray), class, score and box of each object, under its id in ``~/instance``,
  or, with ``-p track:=true``, under one that stays with it from image to image.

ROS is imported in `main` alone, so that the conversions can be used and tested without it.
"""

import array
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxseg
from jaxseg import config, runtime
from jaxseg.types import Segmentation


class Encoding(NamedTuple):
    """How sensor_msgs/image_encodings lays out a pixel.

    Attributes:
      bits: of a channel, 8 or 16.
      channels: of a pixel.
      rgb: the channels that are red, green and blue.
    """

    bits: int
    channels: int
    rgb: tuple[int, int, int]


ENCODINGS = {
    f"{name}{bits}": Encoding(bits, channels, rgb)
    for bits in (8, 16)
    for name, channels, rgb in (
        ("rgb", 3, (0, 1, 2)),
        ("bgr", 3, (2, 1, 0)),
        ("rgba", 4, (0, 1, 2)),
        ("bgra", 4, (2, 1, 0)),
        ("mono", 1, (0, 0, 0)),
    )
}
"""The encodings that are understood, by name. Bayer patterns and YUV are image_proc's work."""


def to_frame(message: Any) -> np.ndarray:
    """The picture of a sensor_msgs/Image.

    Rows may be padded to ``step`` bytes, and channels of 16 bits in either order of bytes. These are scaled to 8 bits,
    65535 to 255, as `jaxseg predict` does.

    Args:
      message: of an encoding in `ENCODINGS`.

    Returns:
      (height, width, 3) uint8 RGB, a copy.

    Raises:
      ValueError: another encoding, no pixel, or fewer bytes than the header says.
    """
    if message.encoding not in ENCODINGS:
        raise ValueError(
            f"encoding {message.encoding!r} is none of {', '.join(ENCODINGS)}. Put image_proc before the node."
        )
    bits, channels, rgb = ENCODINGS[message.encoding]
    height, width, row = message.height, message.width, message.width * channels * bits // 8
    data = np.frombuffer(message.data, np.uint8)
    if height < 1 or width < 1 or message.step < row or data.size < height * message.step:
        raise ValueError(
            f"an image of {height} x {width} {message.encoding} needs pixels, rows of at least {row} bytes, and all of "
            f"them: got step {message.step} and {data.size} bytes."
        )
    rows = np.ascontiguousarray(data[: height * message.step].reshape(height, message.step)[:, :row])
    if bits == 16:
        wide = rows.view(">u2" if message.is_bigendian else "<u2")
        rows = ((wide.astype(np.uint32) + 128) // 257).astype(np.uint8)
    pixels, frame = rows.reshape(height, width, channels), np.empty((height, width, 3), np.uint8)
    # One after the other: indexed by all three, NumPy would leave three planes, which whoever reads them pays for.
    for i, channel in enumerate(rgb):
        frame[..., i] = pixels[..., channel]
    return frame


def to_image(kind: type, header: Any, encoding: str, picture: np.ndarray) -> Any:
    """A sensor_msgs/Image without padding, little-endian.

    Args:
      kind: sensor_msgs.msg.Image.
      header: of the image that the picture was made from.
      encoding: rgb8, mono8 or mono16.
      picture: (H, W, 3) uint8, (H, W) uint8 or (H, W) uint16.

    Raises:
      ValueError: the picture is not of that encoding.
    """
    bits, channels, _ = ENCODINGS[encoding]
    wanted = picture.shape[:2] if channels == 1 else (*picture.shape[:2], channels)
    if picture.shape != wanted or picture.dtype != f"uint{bits}":
        raise ValueError(f"`picture` must be uint{bits} of {channels} channels: got {picture.dtype} {picture.shape}.")
    message = kind()
    message.header, message.encoding = header, encoding
    message.height, message.width = picture.shape[:2]
    message.step, message.is_bigendian = picture.shape[1] * channels * bits // 8, 0
    # rclpy takes an array as it is; of bytes it would check every single one.
    message.data = array.array("B", picture.astype(picture.dtype.newbyteorder("<")).tobytes())
    return message


def to_detections(messages: Any, header: Any, found: Segmentation, names: tuple[str, ...]) -> Any:
    """A vision_msgs/Detection2DArray of the objects of a frame, most confident center first.

    Args:
      messages: vision_msgs.msg, of version 4 or newer.
      header: of the image.
      found: host arrays of one frame.
      names: of the classes, background first.
    """
    rows = found.instances
    listed = messages.Detection2DArray()
    listed.header = header
    for i in np.flatnonzero(rows.valid):
        y0, x0, y1, x1 = (float(v) for v in rows.box[i])
        hypothesis = messages.ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = names[int(rows.class_id[i])]
        hypothesis.hypothesis.score = float(rows.score[i])
        detection = messages.Detection2D()
        detection.header, detection.id = header, str(rows.track_id[i] or i + 1)
        detection.bbox.center.position.x, detection.bbox.center.position.y = (x0 + x1) / 2, (y0 + y1) / 2
        detection.bbox.size_x, detection.bbox.size_y = x1 - x0, y1 - y0
        detection.results.append(hypothesis)
        listed.detections.append(detection)
    return listed


class Segmenter:
    """Segments each image that arrives, and publishes what is found.

    Args:
      node: of rclpy.
      model: of `jaxseg.load`, warmed up.
      image: sensor_msgs.msg.Image.
      vision: vision_msgs.msg.
      newest: quality of service that keeps the last image alone.
      tracked: whether objects keep their id from image to image.
    """

    def __init__(self, node: Any, model: Any, image: type, vision: Any, newest: Any, tracked: bool = False) -> None:
        self.node, self.image, self.vision, self.classes = node, image, vision, model.classes
        self.segment = model.stream() if tracked else model
        self.maps = {name: node.create_publisher(image, f"~/{name}", 1) for name in ("overlay", "semantic", "instance")}
        self.detections = node.create_publisher(vision.Detection2DArray, "~/detections", 1)
        # Last: from here on images arrive.
        self.subscription = node.create_subscription(image, "image", self.receive, newest)

    def receive(self, message: Any) -> None:
        """Segments one image. One that cannot be read, or is not of an exported file's size, is reported and left."""
        try:
            frame = to_frame(message)
            found = jax.device_get(self.segment(frame))
        except ValueError as error:
            self.node.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        header = message.header
        self.maps["semantic"].publish(to_image(self.image, header, "mono8", found.semantic))
        self.maps["instance"].publish(to_image(self.image, header, "mono16", found.instance))
        self.detections.publish(to_detections(self.vision, header, found, self.classes.names))
        if self.maps["overlay"].get_subscription_count():
            drawn = found.draw(frame, self.classes)
            self.maps["overlay"].publish(to_image(self.image, header, "rgb8", drawn))


def main() -> int:
    """Opens the model, compiles it for the frame size (0: its own), and then subscribes."""
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs import msg as sensor
    from vision_msgs import msg as vision

    runtime.prepare()
    rclpy.init()
    node = rclpy.create_node("jaxseg")
    defaults = {"model": "runs/demo", "height": 0, "width": 0, "track": False}
    path, height, width, tracked = (node.declare_parameter(name, value).value for name, value in defaults.items())
    try:
        model = jaxseg.load(path)
        seconds = model.warmup((height, width) if height and width else None)
        node.get_logger().info(f"{path} is compiled, which took {seconds:.1f} s")
        newest = QoSProfile(depth=1, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT)
        segmenter = Segmenter(node, model, sensor.Image, vision, newest, tracked)
        node.get_logger().info(f"waiting for images on {segmenter.subscription.topic_name}")
        rclpy.spin(node)
    except (config.UserError, ValueError) as error:
        node.get_logger().fatal(str(error))
        return config.UserError.status
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
