"""Table I's baseline on nuclei: the network of dsb2018_mnv2 without centers and superpixels, clustered all to all.

python train.py --config configs/dsb2018_baseline.py --data.root FOLDER --workdir runs/dsb_baseline
"""

from dataclasses import replace
from pathlib import Path
from runpy import run_path

_ours = run_path(str(Path(__file__).with_name("dsb2018_mnv2.py")))["config"]

config = replace(_ours, name="dsb2018_baseline", model=replace(_ours.model, clustering="all_to_all"))
