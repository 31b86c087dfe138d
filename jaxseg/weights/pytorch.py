"""Tensors of PyTorch's .pth files, without PyTorch and without running anything that is in them.

A .pth file is a pickle, which is a program for a small machine with a stack. `_Machine` runs the few instructions that
a dict of tensors needs; the only calls it knows are those that build tensors and ordered dicts, and it imports nothing.
"""

import io
import math
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from jaxseg.config import UserError

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files begin that PyTorch wrote before 1.6: a pickled number."""

DTYPES: Mapping[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
"""Types of PyTorch's storages; numbers are little-endian."""

STATE = ("state_dict_ema", "state_dict", "model")
"""Where training checkpoints keep the parameters; averaged ones first."""


@dataclass(frozen=True)
class _Storage:
    """A block of numbers that tensors are views of."""

    key: str
    dtype: np.dtype
    length: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage, in numbers of its type; offset, size and stride are whatever the file says."""

    storage: _Storage
    offset: Any
    size: Any
    stride: Any


@dataclass(frozen=True)
class _Global:
    """Something that a pickle names."""

    name: str


def from_zip(archive: zipfile.ZipFile, name: str) -> dict[str, np.ndarray]:
    """Tensors of a file of PyTorch 1.6 or newer.

    Args:
      archive: opened.
      name: of the file, for messages.

    Returns:
      Tensors by name.

    Raises:
      UserError: the file holds anything but tensors, or is damaged.
    """
    (member,) = (n for n in archive.namelist() if n == "data.pkl" or n.endswith("/data.pkl"))
    root = member.removesuffix("data.pkl")
    names = set(archive.namelist())
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder").strip() != b"little":
        raise UserError(f"{name} holds big-endian numbers. Save it again on a common machine.")
    state = _Machine(name).run(io.BytesIO(archive.read(member)))
    return _tensors(state, lambda storage: archive.read(f"{root}data/{storage.key}"), name)


def from_legacy(content: bytes, name: str) -> dict[str, np.ndarray]:
    """Tensors of a file of PyTorch before 1.6, which holds its pickles one after another, and then the storages.

    Args:
      content: of the file.
      name: of the file, for messages.

    Returns:
      Tensors by name.

    Raises:
      UserError: the file holds anything but tensors, or is damaged.
    """
    file, machine = io.BytesIO(content), _Machine(name)
    for _ in range(3):  # The magic number, the protocol's version, and what the machine was.
        machine.run(file)
    state, keys = machine.run(file), machine.run(file)
    blocks: dict[str, bytes] = {}
    known = {storage.key: storage for storage in machine.storages}
    for key in keys:
        length = int.from_bytes(file.read(8), "little")
        blocks[key] = file.read(min(length, known[key].length) * known[key].dtype.itemsize)
    return _tensors(state, lambda storage: blocks[storage.key], name)


class _Machine:
    """Runs pickles made of plain values and tensors."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.storages: list[_Storage] = []

    def run(self, file: io.BytesIO) -> Any:
        """The value of the pickle that begins at the file's position."""
        stack: list[Any] = []
        memo: dict[int, Any] = {}
        marks: list[int] = []
        for opcode, argument, _ in pickletools.genops(file):
            code = opcode.name
            if code == "STOP":
                return stack.pop()
            if code == "MARK":
                marks.append(len(stack))
            elif code in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if argument is None else int(argument)] = stack[-1]
            elif code in ("BINGET", "LONG_BINGET") and argument is not None:
                stack.append(memo[int(argument)])
            elif code in _VALUES:
                stack.append(_VALUES[code](argument))
            elif code in _TUPLES:
                count = _TUPLES[code]
                stack[len(stack) - count :] = [tuple(stack[len(stack) - count :])]
            elif code == "TUPLE":
                mark = marks.pop()
                stack[mark:] = [tuple(stack[mark:])]
            elif code == "SETITEMS":
                mark = marks.pop()
                items = stack[mark:]
                del stack[mark:]
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            elif code == "APPENDS":
                mark = marks.pop()
                items = stack[mark:]
                del stack[mark:]
                stack[-1].extend(items)
            elif code in ("SETITEM", "APPEND", "REDUCE", "BUILD", "BINPERSID", "STACK_GLOBAL"):
                self._two(code, stack)
            elif code not in ("PROTO", "FRAME"):
                raise ValueError(f"a pickle with {code}")
        raise ValueError("a pickle without an end")

    def _two(self, code: str, stack: list[Any]) -> None:
        """Instructions that take one or more values from the stack."""
        value = stack.pop()
        if code == "SETITEM":
            key = stack.pop()
            stack[-1][key] = value
        elif code == "APPEND":
            stack[-1].append(value)
        elif code == "BINPERSID":
            stack.append(self._storage(value))
        elif code == "STACK_GLOBAL":
            stack.append(_Global(f"{stack.pop()}.{value}"))
        elif code == "REDUCE":
            stack.append(self._call(stack.pop(), value))
        # What BUILD gives an ordered dict is attributes, such as the versions of its modules: nobody needs them.

    def _storage(self, given: Any) -> _Storage:
        kind, storage_type, key, _, length, *_ = given
        type_name = getattr(storage_type, "name", "").rpartition(".")[2]
        if kind != "storage" or type_name not in DTYPES or not isinstance(length, int):
            raise ValueError(f"a storage of type {type_name or storage_type}")
        self.storages.append(_Storage(str(key), np.dtype(DTYPES[type_name]), length))
        return self.storages[-1]

    def _call(self, function: Any, arguments: Any) -> Any:
        """The calls that make up a dict of tensors; any other would run code, and is refused by its name."""
        called = getattr(function, "name", str(function))
        if called == "collections.OrderedDict":
            return dict(*arguments)
        if called == "torch._utils._rebuild_tensor_v2":
            storage, offset, size, stride, *_ = arguments
            return _Tensor(storage, offset, size, stride)
        if called == "torch._utils._rebuild_parameter":
            return arguments[0]
        raise UserError(
            f"{self._name} holds {called}, not tensors alone, and nothing in it is run. "
            "Save the network's state_dict() instead."
        )


_VALUES: Mapping[str, Callable[[Any], Any]] = {
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "GLOBAL": lambda names: _Global(names.replace(" ", ".")),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"), lambda value: value
    ),
}
"""Instructions that put a value on the stack, and how they make it of their argument."""

_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _tensors(state: Any, block: Callable[[_Storage], bytes], name: str) -> dict[str, np.ndarray]:
    """The tensors of a state dict, or of the one that a training checkpoint holds."""
    for key in STATE:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not all(isinstance(v, _Tensor) for v in state.values()):
        odd = [str(k) for k, v in state.items() if not isinstance(v, _Tensor)] if isinstance(state, dict) else []
        what = f"{odd[0]}, which is no tensor" if odd else "no dict of tensors"
        raise UserError(f"{name} holds {what}. Save the network's state_dict() instead.")
    return {str(key).removeprefix("module."): _view(tensor, block(tensor.storage)) for key, tensor in state.items()}


def _view(tensor: _Tensor, content: bytes) -> np.ndarray:
    """The numbers of one tensor, within the bounds of its storage."""
    numbers = np.frombuffer(content, tensor.storage.dtype)
    size, stride = tensor.size, tensor.stride
    if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in (*size, *stride, tensor.offset)):
        raise ValueError("a tensor of impossible shape")
    last = tensor.offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    count: int = math.prod(size)
    if count > len(numbers) or (count and last >= len(numbers)):
        raise ValueError("a tensor that reaches beyond its numbers")
    steps = [s * numbers.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], size, steps).copy()
