"""The recipe of the scenes with soft centers and the focal loss that was made for them, in place of eq. 5."""

from dataclasses import replace
from pathlib import Path
from runpy import run_path

from jaxseg.config import TargetSettings, Term

_recipe = run_path(str(Path(__file__).parents[2] / "configs" / "shapes.py"))["config"]
_term = Term(
    "soft_center",
    "jaxseg.losses.centers:penalty_reduced_focal",
    constants=(("gamma", 2.0), ("beta", 4.0)),
    static=(("normalize", "positives"),),
)
config = replace(
    _recipe,
    targets=TargetSettings(_recipe.targets.max_instances, "gaussian", 3.0),
    losses=replace(_recipe.losses, center=0.0, terms=(_term,)),
)
