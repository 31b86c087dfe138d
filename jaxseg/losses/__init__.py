"""Losses for one image, one function an equation; each returns a `Sum`, so that whoever adds up divides once."""

from jaxtyping import Array, Float

Scalar = float | int | Float[Array, ""]
"""A number, which may be traced."""
