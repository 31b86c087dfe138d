"""Debug mode: shapes and types of every call are checked, and the first operation that makes a NaN is named."""

import contextlib
import importlib.util
import traceback
from collections.abc import Iterator
from pathlib import Path

from jaxseg import config

ROOMS = ("jaxseg.ops", "jaxseg.nn", "jaxseg.losses", "jaxseg.targets", "jaxseg.metrics", "jaxseg.segment")
"""Where shapes are annotated."""


def check_shapes() -> None:
    """Has every annotation checked when a function is called. Call before those modules are imported.

    Raises:
      UserError: beartype is not installed.
    """
    if importlib.util.find_spec("beartype") is None:
        raise config.UserError("--train.debug checks shapes by beartype, which is not installed: pip install beartype.")
    import jaxtyping

    jaxtyping.install_import_hook(list(ROOMS), "beartype.beartype")


@contextlib.contextmanager
def nans(step: int) -> Iterator[None]:
    """Stops at the first operation that makes a NaN.

    XLA runs the whole step first; where its results hold a NaN it is run again, one operation at a time.

    Args:
      step: for the message.

    Raises:
      UserError: which operation, and where it was written.
    """
    import jax

    try:
        with jax.debug_nans(True):
            yield
    except FloatingPointError as error:
        reason = str(error).splitlines()[0]
        raise config.UserError(f"step {step}: {reason} at {_place(error)}.") from error


def _place(error: BaseException) -> str:
    """The innermost line that belongs neither to JAX nor to Flax."""
    frames = traceback.extract_tb(error.__traceback__)
    cause = error.__cause__ or error.__context__
    if cause is not None:
        frames = traceback.StackSummary.from_list([*frames, *traceback.extract_tb(cause.__traceback__)])
    own = [
        f
        for f in frames
        if not {"jax", "flax", "jaxlib", "jaxtyping", "beartype", "optax"} & set(Path(f.filename).parts)
    ]
    place = own[-1] if own else frames[-1]
    return f"{place.filename}:{place.lineno} ({place.line})"
