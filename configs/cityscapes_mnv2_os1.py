"""Table I, "ours" with MobileNetV2 and decoder OS 1, on Cityscapes.

Milioto et al., ICRA 2019, report AP50 46.2, AP 21.9, IoU 62.3; 11 frames/s.

The paper gives no training recipe; this one is that of the related embedding methods (Adam 5e-4, poly decay).
python train.py --config configs/cityscapes_mnv2_os1.py --data.root CITYSCAPES --workdir DIR

Without Cityscapes, on generated images:
python train.py --config configs/cityscapes_mnv2_os1.py --data.builder shapes --data.shapes.size 512 1024 --workdir DIR
"""

from dataclasses import replace
from pathlib import Path
from runpy import run_path

_mnv2_os4 = run_path(str(Path(__file__).with_name("cityscapes_mnv2_os4.py")))["config"]

config = replace(
    _mnv2_os4,
    name="cityscapes_mnv2_os1",
    superpixels=replace(_mnv2_os4.superpixels, size=1),
)
