"""Tensors of TensorFlow's checkpoints (NAME.index and NAME.data-00000-of-00001), without TensorFlow.

The index is a table in LevelDB's format, whose values are small protocol buffers; numbers lie in the data files. Only
what a checkpoint needs of both formats is read: no compression, no partitioned variables. Checksums are not compared.

References:
  TensorFlow, tensorflow/core/util/tensor_bundle; LevelDB, doc/table_format.md.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
"""How an index ends."""

FOOTER, TRAILER = 48, 5
"""Bytes of a table's footer, and of what follows each of its blocks."""

DTYPES: dict[int, Any] = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    9: np.int64,
    14: ml_dtypes.bfloat16,
    19: np.float16,
}
"""TensorFlow's numbers of the types that weights come in."""


def read(index: Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint.

    Args:
      index: its file NAME.index.

    Returns:
      Tensors by name.

    Raises:
      ValueError: the index or a data file is damaged, or holds what this reader does not know.
      OSError: a data file cannot be read.
    """
    entries = dict(_table(index.read_bytes()))
    header = dict(_fields(entries.pop(b"", b"")))
    shards = header.get(1, 1)
    if not 1 <= shards <= 1000:
        raise ValueError(f"{shards} data files")
    stem = index.with_suffix("")
    files = [stem.with_name(f"{stem.name}.data-{i:05}-of-{shards:05}") for i in range(shards)]
    contents = [file.read_bytes() for file in files]
    tensors = {key.decode(): _tensor(value, contents) for key, value in entries.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table."""
    if content[-8:] != MAGIC:
        raise ValueError("an index that ends early")
    footer = content[-FOOTER:]
    position = _varint(footer, _varint(footer, 0)[1])[1]
    offset, position = _varint(footer, position)
    for _, handle in _block(content, offset, _varint(footer, position)[0]):
        start, position = _varint(handle, 0)
        yield from _block(content, start, _varint(handle, position)[0])


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of a block; a key is stored as what differs from the one before."""
    if offset + size + TRAILER > len(content) or size < 4:
        raise ValueError("a block beyond the end")
    if content[offset + size]:
        raise ValueError("a compressed block")
    block = content[offset : offset + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    end, position, key = size - 4 * (restarts + 1), 0, b""
    if end < 0:
        raise ValueError("a block without entries")
    while position < end:
        shared, position = _varint(block, position)
        length, position = _varint(block, position)
        value_length, position = _varint(block, position)
        if shared > len(key) or position + length + value_length > end:
            raise ValueError("an entry beyond its block")
        key = key[:shared] + block[position : position + length]
        position += length
        yield key, block[position : position + value_length]
        position += value_length


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(content):
            raise ValueError("a number that ends early")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 64 bits")


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a protocol buffer's fields; nested messages are bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            value: Any
            value, position = _varint(message, position)
        elif kind in (1, 5):
            value, position = None, position + (8 if kind == 1 else 4)
        elif kind == 2:
            length, position = _varint(message, position)
            value, position = message[position : position + length], position + length
        else:
            raise ValueError(f"a field of kind {kind}")
        if position > len(message):
            raise ValueError("a field that ends early")
        yield tag >> 3, value


def _tensor(entry: bytes, contents: list[bytes]) -> np.ndarray | None:
    """The tensor of an index entry; None for what holds no numbers, such as Keras's object graph."""
    fields = list(_fields(entry))
    values = dict(fields)
    if values.get(1) not in DTYPES:
        return None
    if 7 in values:
        raise ValueError("a variable in several parts")
    shape = [dict(_fields(dim)).get(1, 0) for number, dim in _fields(values.get(2, b"")) if number == 2]
    shard, offset, size = (values.get(number, 0) for number in (3, 4, 5))
    dtype = np.dtype(DTYPES[values[1]])
    if shard >= len(contents) or offset + size > len(contents[shard]) or math.prod(shape) * dtype.itemsize != size:
        raise ValueError("a variable beyond the end of its data")
    return np.frombuffer(contents[shard], dtype, math.prod(shape), offset).reshape(shape)
