"""The nuclei's data and network with the loss, target and grouping settings that the paper prints, for comparison.

python train.py --config configs/dsb2018_paper.py --data.root FOLDER --workdir runs/dsb_paper
"""

from dataclasses import replace
from pathlib import Path
from runpy import run_path

from jaxseg.config import Grouping, Losses, TargetSettings

_works = run_path(str(Path(__file__).with_name("dsb2018_mnv2.py")))["config"]

config = replace(
    _works,
    name="dsb2018_paper",
    targets=TargetSettings.paper(_works.targets.max_instances),
    losses=Losses.paper(),
    grouping=Grouping.paper(_works.grouping.slots),
)
