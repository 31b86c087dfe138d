"""Table I, "ours" with Darknet53 and decoder OS 1, on Cityscapes.

Milioto et al., ICRA 2019, report AP50 46.7, AP 22.3, IoU 65.4; 5.5 frames/s.

The paper gives no training recipe; this one is that of the related embedding methods (Adam 5e-4, poly decay).
python train.py --config configs/cityscapes_dn53_os1.py --data.root CITYSCAPES --workdir DIR

Without Cityscapes, on generated images:
python train.py --config configs/cityscapes_dn53_os1.py --data.builder shapes --data.shapes.size 512 1024 --workdir DIR
"""

from dataclasses import replace
from pathlib import Path
from runpy import run_path

_mnv2_os4 = run_path(str(Path(__file__).with_name("cityscapes_mnv2_os4.py")))["config"]

config = replace(
    _mnv2_os4,
    name="cityscapes_dn53_os1",
    model=replace(_mnv2_os4.model, encoder="darknet53"),
    superpixels=replace(_mnv2_os4.superpixels, size=1),
)
