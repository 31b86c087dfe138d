"""What TensorBoard's files of a run hold."""

from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto import event_pb2


def events(folder: Path) -> Iterator[event_pb2.Event]:
    """Every event, in the order in which they were written."""
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:
            # Length of the event, its checksum, the event, its checksum.
            size = int.from_bytes(content[:8], "little")
            yield event_pb2.Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every scalar, by tag."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found
