"""Your own photographs, from scratch; see docs/your-own-data.md for what to change first.

python train.py --config configs/own.py --data.root mydata --workdir runs/mine
python train.py --config configs/own.py --data.builder coco --data.root mydata --workdir runs/mine
"""

from jaxseg.config import Augment, Config, Data, Grouping, Model, Optimizer, Superpixels, TargetSettings, Train

config = Config(
    name="own",
    data=Data(
        builder="folder",
        crop=(256, 256),
        augment=Augment(scale=(0.7, 1.5), brightness=0.1, contrast=0.2, saturation=0.2, hue=0.05),
    ),
    model=Model(encoder="mobilenet_v2", encoder_stride=16, coordinates=16.0),
    superpixels=Superpixels(size=4),
    targets=TargetSettings(max_instances=128),
    grouping=Grouping(slots=256, center=0.5),
    optimizer=Optimizer(learning_rate=3e-3),
    train=Train(steps=10_000, batch=8, save_every=500, picture_every=1000),
)
"""Encoder and learning rate are those of the nuclei; crop, k and steps depend on the data."""
