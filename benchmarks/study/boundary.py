"""The recipe of the scenes with half of the cross-entropy weighing three times as much near borders."""

from dataclasses import replace
from pathlib import Path
from runpy import run_path

from jaxseg.config import Term

_recipe = run_path(str(Path(__file__).parents[2] / "configs" / "shapes.py"))["config"]
_term = Term(
    "border",
    "jaxseg.losses.semantic:boundary_cross_entropy",
    weight=0.25,
    constants=(("weight", 2.0),),
    static=(("radius", 1),),
)
config = replace(_recipe, losses=replace(_recipe.losses, semantic=0.25, terms=(_term,)))
