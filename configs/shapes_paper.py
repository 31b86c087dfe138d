"""The demo's scenes and network with the loss, target and grouping settings that the paper prints, for comparison.

python train.py --config configs/shapes_paper.py --workdir runs/shapes_paper
"""

from dataclasses import replace
from pathlib import Path
from runpy import run_path

from jaxseg.config import Grouping, Losses, TargetSettings

_works = run_path(str(Path(__file__).with_name("shapes.py")))["config"]

config = replace(
    _works,
    name="shapes_paper",
    targets=TargetSettings.paper(_works.targets.max_instances),
    losses=Losses.paper(),
    grouping=Grouping.paper(_works.grouping.slots),
)
