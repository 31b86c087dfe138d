"""The recipe of the scenes with `semantic.dice` beside the cross-entropy."""

from dataclasses import replace
from pathlib import Path
from runpy import run_path

from jaxseg.config import Term

_recipe = run_path(str(Path(__file__).parents[2] / "configs" / "shapes.py"))["config"]
_term = Term("dice", "jaxseg.losses.semantic:dice", weight=0.5)
config = replace(_recipe, losses=replace(_recipe.losses, terms=(_term,)))
