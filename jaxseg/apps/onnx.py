"""A trained network as one ONNX file: superpixels, network, grouping and upsampling, for onnxruntime.

The package jax2onnx writes the program primitive by primitive. `rewritten` first puts in other primitives, with equal
results, what it cannot write, what onnxruntime has no kernel for, and what either makes slow.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

import jaxseg
from jaxseg import config, segment
from jaxseg.apps import files
from jaxseg.apps import model as models
from jaxseg.train import storage

OPSET = 26
"""Of the operators. It is the first with BitCast, which the color conversion of the superpixels needs."""


def export(model: models.Model, file: storage.Folder, size: tuple[int, int]) -> None:
    """Writes a model as an ONNX file for frames of one size, one in a call.

    Input is ``frame``, uint8 RGB (H, W, 3). Outputs are the fields of `types.Segmentation` and of its instances, by
    their names: ``semantic``, ``instance``, ``valid``, ``class_id`` and so on. The thresholds are those of the run. The
    network computes in float32, whatever the run's dtype: onnxruntime has no convolution in bfloat16 on CPUs.

    Args:
      model: the trained network.
      file: where to; one that is there is replaced.
      size: (height, width) of the frames, pixels.

    Raises:
      UserError: jax2onnx is not installed, or the file cannot be written.
      ValueError: an empty frame.
    """
    files.require_file(file)
    files.write_bytes(file, converted(model, size).SerializeToString())


def converted(model: models.Model, size: tuple[int, int]) -> Any:
    """The ``onnx.ModelProto`` that `export` writes.

    Args:
      model: the trained network.
      size: (height, width) of the frames, pixels.

    Raises:
      UserError: jax2onnx is not installed.
      ValueError: an empty frame.
    """
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise config.UserError('ONNX needs the package jax2onnx: pip install "jaxseg[onnx]".') from error
    frame = jax.ShapeDtypeStruct((*size, 3), np.uint8)
    run, names = _program(model, frame)
    # Traced before jax2onnx replaces functions of jax.numpy and jax.lax: it is given primitives alone.
    given = jax.make_jaxpr(rewritten(jax.make_jaxpr(run)(frame)))(frame)
    written = to_onnx(
        core.jaxpr_as_fun(given), [frame], model_name="jaxseg", opset=OPSET, input_names=["frame"], output_names=names
    )
    for key, value in metadata(model).items():
        entry = written.metadata_props.add()
        entry.key, entry.value = key, value
    return written


def metadata(model: models.Model) -> dict[str, str]:
    """What the file says of its model; lists and numbers are JSON.

    Args:
      model: the trained network.

    Returns:
      The version of jaxseg, the run's name and step, its classes (position is the id), and the numbers of the grouping.
    """
    classes, numbers = model.classes, models.thresholds(model.settings)
    return {
        "jaxseg": jaxseg.__version__,
        "name": model.settings.name,
        "step": json.dumps(model.step),
        "classes": json.dumps(classes.names),
        "stuff": json.dumps(classes.stuff),
        "thresholds": json.dumps(dataclasses.asdict(numbers)),
    }


def _program(model: models.Model, frame: jax.ShapeDtypeStruct) -> tuple[Callable[[Any], list[Any]], list[str]]:
    """The inference of a frame of this shape, in float32, and the names of what it returns."""
    settings = dataclasses.replace(model.settings, model=dataclasses.replace(model.settings.model, dtype="float32"))
    network = models.network(settings)
    capacity, numbers = models.capacity(settings), jax.tree.map(jnp.float32, models.thresholds(settings))

    def run(frame: Any) -> Any:
        return segment.segment(network, model.variables, frame, capacity, numbers)

    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(run, frame))
    return lambda frame: jax.tree.leaves(run(frame)), [path[-1].name for path, _ in leaves]


def rewritten(program: core.ClosedJaxpr) -> Callable[..., list[Any]]:
    """A function that computes what a program does, with other primitives where `RULES` has them.

    Calls of other programs are opened; of what depends on the platform it takes the default.

    Args:
      program: any that `jax.make_jaxpr` gives.

    Returns:
      A function of the program's arguments, to be traced, that returns a list of its results.
    """

    def run(*args: Any) -> list[Any]:
        values: dict[Any, Any] = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
        values |= zip(program.jaxpr.invars, args, strict=True)

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else values[atom]

        for eqn in program.jaxpr.eqns:
            rule = RULES.get(eqn.primitive.name, _bound)
            values |= zip(eqn.outvars, rule(eqn, *map(read, eqn.invars)), strict=True)
        return [read(atom) for atom in program.jaxpr.outvars]

    return run


def _bound(eqn: core.JaxprEqn, *args: Any, **changed: Any) -> list[Any]:
    """The primitive itself, with its parameters or changed ones."""
    out = eqn.primitive.bind(*args, **(eqn.params | changed))
    return list(out) if eqn.primitive.multiple_results else [out]


def _called(eqn: core.JaxprEqn, *args: Any) -> list[Any]:
    """Opens a call. Leaky ReLU becomes the greater of two: onnxruntime is slow at selections."""
    if eqn.params.get("name") == "leaky_relu" and isinstance(args[1], float | np.ndarray) and 0 <= args[1] <= 1:
        return [jnp.maximum(args[0], args[1] * args[0])]
    return rewritten(eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"])(*args)


def _chosen(eqn: core.JaxprEqn, index: Any, *args: Any) -> list[Any]:
    branches, platforms = eqn.params["branches"], eqn.params.get("branches_platforms")
    if platforms:
        return rewritten(branches[platforms.index(None)])(*args)
    return lax.switch(index, [rewritten(branch) for branch in branches], *args)


def _repeated(eqn: core.JaxprEqn, *args: Any) -> list[Any]:
    tests, steps = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    test, step = rewritten(eqn.params["cond_jaxpr"]), rewritten(eqn.params["body_jaxpr"])
    return lax.while_loop(
        lambda state: test(*args[:tests], *state)[0], lambda state: step(*args[tests:steps], *state), [*args[steps:]]
    )


def _concatenated(eqn: core.JaxprEqn, *args: Any) -> list[Any]:
    """Leaves out what has no elements: a size of 0 says "as it was" to ONNX's Reshape."""
    parts = [arg for arg in args if np.size(arg)]
    return _bound(eqn, *parts) if len(parts) > 1 else parts or [args[0]]


def _joined(eqn: core.JaxprEqn, x: Any) -> list[Any]:
    """Words from their bytes, lowest first, by shifts: ONNX's BitCast keeps the number of elements."""
    word, parts = np.dtype(eqn.params["new_dtype"]), x.shape[-1] if x.ndim else 1
    if word.itemsize <= x.dtype.itemsize:
        return _bound(eqn, x)
    wide, bits = x.astype(word), 8 * x.dtype.itemsize
    return [sum((wide[..., i] << word.type(bits * i) for i in range(1, parts)), wide[..., 0])]


def _population(eqn: core.JaxprEqn, x: Any) -> list[Any]:
    """Twelve operations, where jax2onnx takes three a bit."""
    return [_ones(x)] if x.dtype == np.uint32 else _bound(eqn, x)


def _leading(eqn: core.JaxprEqn, x: Any) -> list[Any]:
    """Zeros before the first one, which are those left when all bits after it are set."""
    if x.dtype != np.uint32:
        return _bound(eqn, x)
    for step in (1, 2, 4, 8, 16):
        x = x | x >> np.uint32(step)
    return [_ones(~x)]


def _ones(x: Any) -> Any:
    """Number of ones in each word, by sums of pairs, nibbles and bytes (Warren, Hacker's Delight, 2012, 5-1)."""
    pairs, nibbles, bytes_ = (np.uint32(mask) for mask in (0x55555555, 0x33333333, 0x0F0F0F0F))
    x = x - (x >> np.uint32(1) & pairs)
    x = (x & nibbles) + (x >> np.uint32(2) & nibbles)
    return (x + (x >> np.uint32(4)) & bytes_) * np.uint32(0x01010101) >> np.uint32(24)


def _window(eqn: core.JaxprEqn, x: Any) -> list[Any]:
    """Cuts off first what a negative padding cuts off: a convolution of ONNX does not."""
    around = eqn.params["padding"]
    if min(map(min, around)) >= 0:
        return _bound(eqn, x)
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(*pair, 0) for pair in around])
    return _bound(eqn, padded, padding=((0, 0),) * x.ndim)


def _wider(eqn: core.JaxprEqn, *args: Any) -> list[Any]:
    """In int32 where onnxruntime has no kernel for bool or uint16, or has one for uint32 since 1.31 only."""
    result: Any = eqn.outvars[0].aval
    if result.dtype not in (np.dtype(bool), np.dtype(np.uint16), np.dtype(np.uint32)):
        return _bound(eqn, *args)
    first = 1 if eqn.primitive.name == "select_n" else 0  # What selects stays bool.
    wide = (_as(jnp.asarray(arg), np.dtype(np.int32)) for arg in args[first:])
    return [_as(x, result.dtype) for x in _bound(eqn, *args[:first], *wide)]


def _as(x: Any, dtype: np.dtype) -> Any:
    """Of another type: the same bits if it is as wide, else the same number."""
    return lax.bitcast_convert_type(x, dtype) if x.dtype.itemsize == dtype.itemsize else x.astype(dtype)


RULES: Mapping[str, Callable[..., list[Any]]] = {
    "jit": _called,
    "custom_jvp_call": _called,
    "platform_index": lambda eqn: [np.int32(0)],  # Read by nothing: `_chosen` takes the default.
    "cond": _chosen,
    "while": _repeated,
    "concatenate": _concatenated,
    "bitcast_convert_type": _joined,
    "population_count": _population,
    "clz": _leading,
    "reduce_window_sum": _window,
    "select_n": _wider,
    "pad": _wider,
}
"""What is put otherwise, by the primitive's name: functions of an equation and its arguments to the list of results."""
