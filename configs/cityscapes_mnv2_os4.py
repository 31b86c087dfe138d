"""Table I, "ours" with MobileNetV2 and decoder OS 4, on Cityscapes.

Milioto et al., ICRA 2019, report AP50 45.2, AP 21.1, IoU 60.4; 31 frames/s.

The paper gives no training recipe; this one is that of the related embedding methods (Adam 5e-4, poly decay).
python train.py --config configs/cityscapes_mnv2_os4.py --data.root CITYSCAPES --workdir DIR

Without Cityscapes, on generated images:
python train.py --config configs/cityscapes_mnv2_os4.py --data.builder shapes --data.shapes.size 512 1024 --workdir DIR
"""

from jaxseg.config import Augment, Config, Data, Grouping, Model, Optimizer, Superpixels, TargetSettings, Train

config = Config(
    name="cityscapes_mnv2_os4",
    data=Data(
        builder="cityscapes",
        classes=("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
        crop=(512, 1024),
        augment=Augment(scale=(0.8, 1.5), brightness=0.03, contrast=0.03, saturation=0.03, hue=0.03),
    ),
    model=Model(encoder="mobilenet_v2", encoder_stride=16, size=(512, 1024)),
    superpixels=Superpixels(size=4),
    targets=TargetSettings(max_instances=128),
    grouping=Grouping(slots=128),
    optimizer=Optimizer(name="adamw", learning_rate=5e-4, decay="poly"),
    train=Train(steps=75_000, batch=8, save_every=1000, validate_every=5000),
)
