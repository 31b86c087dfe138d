"""Table I, first row: semantic and embedding decoders on Darknet53 at OS 1, clustered all to all, on Cityscapes.

Milioto et al., ICRA 2019, report AP50 46.9, AP 24.3, IoU 65.4; 2 frames/s.

The paper gives no training recipe; this one is that of the related embedding methods (Adam 5e-4, poly decay).
python train.py --config configs/cityscapes_dn53_baseline.py --data.root CITYSCAPES --workdir DIR

Without Cityscapes, on generated images, with --data.builder shapes --data.shapes.size 512 1024 in place of the root.
"""

from dataclasses import replace
from pathlib import Path
from runpy import run_path

_ours = run_path(str(Path(__file__).with_name("cityscapes_dn53_os1.py")))["config"]

config = replace(_ours, name="cityscapes_dn53_baseline", model=replace(_ours.model, clustering="all_to_all"))
