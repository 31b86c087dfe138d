"""The gradient of each loss term by itself: how long it is in each part of the network, and what it works against."""

import json
from collections.abc import Iterable, Mapping
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


def measure(state: TrainState, batch: Any, numbers: Numbers, task: Task, parts: int = 1) -> Products:
    """Products of the gradients that the next update would add up, each weighted as in the loss; pure.

    Examples go through the network once forward, and back once for each term. Nothing is differentiated by divisors, so
    that what is summed over parts and devices is divided at the end.

    Args:
      state: before the update.
      batch: this device's examples.
      numbers: traced weights and constants.
      task: static parts of the step.
      parts: that the examples are computed in, one after another; divides their number.
    """
    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

    def totals(part: Any) -> Any:
        return _totals(state, part, numbers, task)

    def add(before: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, before, totals(part)), None

    shapes = jax.eval_shape(totals, jax.tree.map(lambda x: x[0], split))
    (gradients, counts), _ = jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), split)
    if task.axis_name is not None:
        gradients, counts = jax.lax.psum((gradients, counts), task.axis_name)
    weights = effective(state, scheduled(numbers, state.step), task)
    by = jnp.array([weights[name] for name in sorted(weights)]) / jnp.maximum(counts, 1.0)

    def products(leaf: Array) -> Array:
        rows = by[:, None] * leaf.reshape(len(leaf), -1)
        return jnp.matmul(rows, rows.T, precision="highest")

    return {name: jax.tree.reduce(jnp.add, jax.tree.map(products, part)) for name, part in gradients.items()}


def _totals(state: TrainState, batch: Any, numbers: Numbers, task: Task) -> tuple[Any, Float[Array, " t"]]:
    """Gradient of each term's sum by the parts of the network, along a first axis, and each term's count."""
    truth = task.prepare(batch, numbers)

    def sums(params: Any) -> tuple[Array, Array]:
        found = task.evaluate(params, state.batch_stats, batch, truth, numbers).sums
        return jnp.stack([found[n].total for n in sorted(found)]), jnp.stack([found[n].count for n in sorted(found)])

    params = {name: part for name, part in state.params.items() if name != states.LOG_VARIANCE}
    values, back, counts = jax.vjp(sums, params, has_aux=True)
    return jax.lax.map(lambda one: back(one)[0], jnp.eye(len(values), dtype=values.dtype)), counts


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
      UserError: it cannot be written.
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
    """What was measured in a run, in the order of steps; nothing where nothing was, or where the file is damaged."""
    file = workdir / FILE
    if not file.is_file():
        return []
    try:
        rows = [json.loads(line) for line in file.read_bytes().decode(errors="replace").splitlines()]
        return [{"step": int(row["step"]), "norms": row["norms"], "cosines": row["cosines"]} for row in rows]
    except (ValueError, KeyError, TypeError):
        return []


def _number(value: Any) -> float | None:
    """A float that JSON has; None of others."""
    return float(value) if np.isfinite(value) else None
