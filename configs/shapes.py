"""Generated scenes, from scratch: the demo.

python train.py --config configs/shapes.py --workdir runs/shapes
"""

from jaxseg.config import Augment, Config, Data, Grouping, Losses, Model, Optimizer, Shapes, Train

config = Config(
    name="shapes",
    data=Data(
        builder="shapes",
        shapes=Shapes(size=(128, 256), train=6000, val=200),
        crop=(64, 128),
        augment=Augment(flip_horizontal=True),
    ),
    model=Model(
        encoder="darknet53", encoder_stride=16, encoder_width=0.25, encoder_blocks=(1, 1, 2, 2, 1), decoder_width=0.5
    ),
    losses=Losses(semantic=0.5),
    grouping=Grouping(slots=32),
    optimizer=Optimizer(learning_rate=4e-3),
    train=Train(steps=12_000, batch=8, save_every=1000, picture_every=4000),
)
