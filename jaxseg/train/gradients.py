"""The gradient of each loss term by itself: how long it is in each part of the network, and what it works against."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseg import config
from jaxseg.train import state as states
from jaxseg.train import storage
from jaxseg.train.state import TrainState
from jaxseg.train.step import Numbers, Task, effective, scheduled

FILE = "gradients.jsonl"
"""Where a run's folder keeps what was measured: a line a step."""

Products = Mapping[str, Float[Array, "t t"]]
"""Of the gradients of every two terms, in the order of their names, on each part of the network."""


def of_term(
    state: TrainState, batch: Any, numbers: Numbers, task: Task, chosen: Float[Array, " t"], parts: int = 1
) -> Any:
    """The gradient of one term by the network's parameters, weighted as in the loss; pure.

    One program for all terms, each of which goes through the network forward and back. With a loop over terms in it, it
    would go forward only once, but on a processor, where loops make convolutions slow, it took four times as long.

    Args:
      state: before the update.
      batch: this device's examples.
      numbers: traced weights and constants.
      task: static parts of the step.
      chosen: 1 at the term, in the order of their names, and 0 elsewhere.
      parts: that the examples are computed in, one after another; divides their number.

    Returns:
      What the next update would add up for this term, over all devices.
    """
    params = {name: part for name, part in state.params.items() if name != states.LOG_VARIANCE}
    this = dict(zip(sorted(numbers.weights), chosen > 0, strict=True))

    def one(part: Any) -> tuple[Any, Array]:
        truth = task.prepare(part, numbers)

        def total(params: Any) -> tuple[Array, Array]:
            found = task.evaluate(params, state.batch_stats, part, truth, numbers, this).sums
            totals = {name: value.total for name, value in found.items()}
            counts = {name: value.count for name, value in found.items()}
            return _only(totals, this), _only(counts, this)

        return jax.grad(total, has_aux=True)(params)

    def add(before: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, before, one(part)), None

    if parts == 1:
        gradient, count = one(batch)
    else:
        split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
        zeros = (jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))
        (gradient, count), _ = jax.lax.scan(add, zeros, split)
    if task.axis_name is not None:
        gradient, count = jax.lax.psum((gradient, count), task.axis_name)
    weights = effective(state, scheduled(numbers, state.step), task)
    # Nothing is differentiated by the divisor, so that sums over parts and devices are divided at the end.
    by = _only(weights, this) / jnp.maximum(count, 1.0)
    return jax.tree.map(lambda leaf: by * leaf, gradient)


def _only(values: Mapping[str, Array | float], chosen: Mapping[str, Array]) -> Array:
    """The value of the chosen name, whatever the others are."""
    return jnp.sum(jnp.array([jnp.where(chosen[name], value, 0.0) for name, value in values.items()]))


def products(gradients: Sequence[Mapping[str, Any]]) -> Products:
    """Products of every two terms' gradients, by part of the network; pure."""

    def product(*leaves: Array) -> Array:
        rows = jnp.stack([leaf.ravel() for leaf in leaves])
        return jnp.matmul(rows, rows.T, precision="highest")

    tables = jax.tree.map(product, *gradients)
    return {name: jax.tree.reduce(jnp.add, part) for name, part in tables.items()}


def row(step: int, products: Products, terms: Iterable[str]) -> dict[str, Any]:
    """What was measured, as JSON has it.

    Args:
      step: updates, with that which was measured.
      products: on the host.
      terms: their names, in any order.

    Returns:
      "step"; "norms" by term and part; "cosines" on the encoder by two terms, each pair once, None where one of them
      has no gradient there.
    """
    names = sorted(terms)
    lengths = {part: np.sqrt(np.diag(np.asarray(table, np.float64))) for part, table in products.items()}
    norms = {name: {part: _number(length[i]) for part, length in lengths.items()} for i, name in enumerate(names)}
    table, length = np.asarray(products[states.ENCODER], np.float64), lengths[states.ENCODER]
    both = length[:, None] * length
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    cosines: dict[str, dict[str, float | None]] = {name: {} for name in names[:-1]}
    for i, j in pairs:
        defined = 0 < both[i, j] < np.inf
        cosines[names[i]][names[j]] = _number(table[i, j] / both[i, j]) if defined else None
    return {"step": step, "norms": norms, "cosines": cosines}


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The same, by one name each: gradient/TERM/PART and cosine/TERM/TERM."""
    groups = {"gradient": row["norms"], "cosine": row["cosines"]}
    return {
        f"{group}/{a}/{b}": value
        for group, rows in groups.items()
        for a, values in rows.items()
        for b, value in values.items()
        if value is not None
    }


class Record:
    """The file of a run's measurements. An object store holds whole files only, so that each line writes all of them.

    Args:
      workdir: the run's folder.
      start: step that the run goes on from; what was measured later is forgotten.

    Raises:
      UserError: it is damaged, or cannot be written.
    """

    def __init__(self, workdir: storage.Folder, start: int) -> None:
        self._file = workdir / FILE
        self._rows = [row for row in read(workdir) if row["step"] <= start]

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes another line."""
        self._rows.append(dict(row))
        try:
            storage.write_whole(self._file, "".join(json.dumps(row) + "\n" for row in self._rows).encode())
        except Exception as error:  # Each store's client has errors of its own.
            raise config.UserError(f"{self._file} cannot be written: {storage.reason(error)}.") from error


def read(workdir: storage.Folder) -> list[dict[str, Any]]:
    """What was measured in a run, in the order of steps; nothing where nothing was.

    Raises:
      UserError: the file is damaged.
    """
    file = workdir / FILE
    if not file.is_file():
        return []
    try:
        rows = [json.loads(line) for line in file.read_bytes().decode(errors="replace").splitlines()]
        return [{"step": int(row["step"]), "norms": row["norms"], "cosines": row["cosines"]} for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise config.UserError(f"{file} is damaged. Remove it: later measurements are written anew.") from error


def _number(value: Any) -> float | None:
    """A float that JSON has; None of others."""
    return float(value) if np.isfinite(value) else None
