"""ImageNet pretraining of MobileNetV2: aims at the 72 % top-1 that the paper's encoder has (72.0 in its own paper).

Sandler et al., MobileNetV2, CVPR 2018, report 72.0 %. Rate, cosine decay, weight decay and length (240 epochs) are
those of PaddlePaddle/models, PaddleCV/image_classification/scripts/train/MobileNetV2.sh, with batches of 500;
smoothing and moving average are added. Weight decay is 4e-5 on the gradient there; here it is decoupled from a momentum
of 0.9, which takes ten times the number. Never trained in full: 240 epochs are 615,000 steps of 500 images.

python train.py --config configs/imagenet_mnv2.py --data.root ILSVRC2012 --workdir runs/imagenet
python eval.py --workdir runs/imagenet
python train.py --config configs/cityscapes_mnv2_os4.py --model.encoder-weights runs/imagenet --workdir DIR
"""

from jaxseg.config import Classification, ClassLoss, Encoder, Optimizer, Pictures, RandomWindow, Train

config = Classification(
    name="imagenet_mnv2",
    data=Pictures(
        builder="imagenet",
        crop=(224, 224),
        augment=RandomWindow(area=(0.08, 1.0), brightness=0.1, contrast=0.4, saturation=0.4),
        workers=8,
    ),
    model=Encoder(encoder="mobilenet_v2"),
    losses=ClassLoss(smoothing=0.1),
    optimizer=Optimizer(
        name="sgd", learning_rate=0.1, warmup=1 / 30, decay="cosine", weight_decay=4e-4, clip=10.0, average=0.9999
    ),
    train=Train(steps=615_000, batch=500, save_every=5000, picture_every=0, validate_every=25_000),
)
