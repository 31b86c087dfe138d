"""The recipe of the scenes with De Brabandere's terms, around means, in place of eq. 3 and 4."""

from dataclasses import replace
from pathlib import Path
from runpy import run_path

from jaxseg.config import Term

_recipe = run_path(str(Path(__file__).parents[2] / "configs" / "shapes.py"))["config"]
_terms = (
    Term("variance", "jaxseg.losses.embedding:variance", constants=(("margin", 0.1),)),
    Term("distance", "jaxseg.losses.embedding:distance", constants=(("margin", 0.5),)),
    Term("origin", "jaxseg.losses.embedding:regularization", weight=0.001, static=(("anchor", "mean"),)),
)
config = replace(
    _recipe,
    losses=replace(_recipe.losses, attraction=0.0, repulsion=0.0, regularization=0.0, terms=_terms),
)
