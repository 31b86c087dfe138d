"""Loss terms that a config names: found by their import path, and tried on shapes before anything is computed."""

import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxseg import config, lookup
from jaxseg.losses import total
from jaxseg.types import Outputs, Sum, Targets

SHARED = MappingProxyType({"class_weights": "class_weights", "correction": "class_correction"})
"""Arguments of a function that are those of eq. 1 where nothing else gives them, and the names of these numbers."""


class Own(NamedTuple):
    """A term beside those of the paper. Static and hashable; its weight and constants are traced numbers.

    Attributes:
      name: what it is logged under.
      function: takes outputs and targets of one image, constants by their names, and what is static.
      static: names and values of arguments that fix the program.
      task: whose uncertainty it shares, where weights are learnt; "none" for no task's.
    """

    name: str
    function: Callable[..., Sum]
    static: tuple[tuple[str, int | str], ...] = ()
    task: str = "none"


def find(term: config.Term) -> Own:
    """The term that a config names.

    Raises:
      UserError: its function cannot be imported, or is none.
    """
    try:
        function = lookup.find(term.function).value
    except ValueError as error:
        raise config.UserError(f"Loss term {term.name}: {error}. Mend `losses.terms`.") from error
    if not callable(function):
        raise config.UserError(
            f"Loss term {term.name}: {term.function} is {function!r}, not a function of outputs and targets."
        )
    return Own(term.name, function, term.static, term.task)


def terms(
    own: Sequence[Own], constants: Mapping[str, Mapping[str, Any]], hyper: total.Hyperparameters
) -> dict[str, total.Term]:
    """Functions of (outputs, targets), by name.

    Args:
      own: the terms.
      constants: numbers by argument, of each term that takes any.
      hyper: of the paper's terms, for those that have an argument among `SHARED`.
    """

    def bound(term: Own) -> total.Term:
        shared = {name: getattr(hyper, SHARED[name]) for name in SHARED.keys() & _arguments(term.function)}
        return partial(term.function, **shared | dict(term.static) | dict(constants.get(term.name, {})))

    return {term.name: bound(term) for term in own}


def check(settings: config.Term, grid: tuple[int, int], classes: int, embedding: int, instances: int) -> None:
    """Tries a term on shapes; nothing is computed.

    Args:
      settings: of the term.
      grid: (h, w) of outputs and targets.
      classes: with background.
      embedding: dimensions.
      instances: rows of targets.

    Raises:
      UserError: it fails there, returns no `Sum` of two scalars, or has no gradient.
    """
    own, title = find(settings), f"Loss term {settings.name}: {settings.function}"
    constants = {settings.name: {name: jnp.float32(value) for name, value in settings.constants}}
    hyper = total.Hyperparameters(jnp.ones(classes), *jnp.ones(5))
    term = terms([own], constants, hyper)[settings.name]
    outputs, targets = _shapes(grid, classes, embedding, instances)
    try:
        found = jax.eval_shape(term, outputs, targets)
    except Exception as error:  # a function of the user's may fail in any way
        raise config.UserError(f"{title} fails with {_said(error)} Mend it, or its arguments.") from error
    if not isinstance(found, Sum):
        kind = f"an array of shape {found.shape}" if hasattr(found, "shape") else type(found).__name__
        raise config.UserError(f"{title} returns {kind}. Return a jaxseg.types.Sum(total, count).")
    for part in ("total", "count"):
        shape = getattr(getattr(found, part), "shape", None)
        if shape != ():
            raise config.UserError(f"{title} returns a {part} of shape {shape}. Return one number of one image.")
    if not jnp.issubdtype(found.total.dtype, jnp.floating):
        raise config.UserError(
            f"{title} returns a total of {found.total.dtype}, which has no gradient. Return a float."
        )
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), (outputs, targets))
    try:
        jax.eval_shape(jax.grad(lambda o, t: total.evaluate({settings.name: term}, o, t)[settings.name].mean()), *batch)
    except Exception as error:
        raise config.UserError(f"{title} has no gradient over a batch: {_said(error)} Mend it.") from error


def _shapes(grid: tuple[int, int], classes: int, embedding: int, instances: int) -> tuple[Outputs, Targets]:
    """Outputs and targets of one image, without values."""

    def array(kind: Any, *more: int, on: tuple[int, ...] = grid) -> Any:
        return jax.ShapeDtypeStruct((*on, *more), kind)

    floats, ids, rows = jnp.float32, jnp.int32, (instances,)
    outputs = Outputs(array(floats, classes), array(floats, embedding), array(floats))
    targets = Targets(
        semantic=array(jnp.uint8),
        instance=array(ids),
        unknown=array(jnp.bool_),
        confidence=array(floats),
        center=array(ids, 2, on=rows),
        class_id=array(jnp.uint8, on=rows),
        valid=array(jnp.bool_, on=rows),
        vanished=array(ids, on=()),
        overflow=array(ids, on=()),
    )
    return outputs, targets


def _said(error: Exception) -> str:
    """Kind and first line of an error, as a sentence."""
    line = next(iter(str(error).splitlines()), "")[:300]
    return f"{type(error).__name__}: {line.rstrip('.')}."


def _arguments(function: Callable) -> Set[str]:
    """Names of its arguments; none where it does not say."""
    try:
        return inspect.signature(function).parameters.keys()
    except (TypeError, ValueError):
        return frozenset()
