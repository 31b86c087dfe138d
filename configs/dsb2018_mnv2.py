"""Nuclei in microscopy (Data Science Bowl 2018, CC0), dozens of touching objects an image.

python train.py --config configs/dsb2018_mnv2.py --data.root FOLDER --workdir runs/dsb

ImageNet's weights are worth 2.5 AP50 and 5 AP (docs/measured.md): add --model.encoder-weights FILE
--optimizer.encoder-rate 0.3.
"""

from jaxseg.config import Augment, Config, Data, Grouping, Model, Optimizer, Superpixels, TargetSettings, Train

config = Config(
    name="dsb2018_mnv2",
    data=Data(
        builder="folder",
        classes=("nucleus",),
        crop=(128, 128),
        augment=Augment(
            scale=(0.7, 1.5),
            flip_horizontal=True,
            flip_vertical=True,
            transpose=True,
            saturation=0.2,
            hue=0.05,
        ),
    ),
    model=Model(encoder="mobilenet_v2", encoder_stride=16, decoder_width=0.5, coordinates=16.0),
    superpixels=Superpixels(size=2, compactness=2.0),
    targets=TargetSettings(max_instances=192),
    grouping=Grouping(slots=512, center=0.5),
    optimizer=Optimizer(learning_rate=3e-3),
    train=Train(steps=3000, batch=8, save_every=200, picture_every=1500),
)
