"""ImageNet pretraining of Darknet-53: aims at the 77.2 % top-1 that the paper's encoder has.

Redmon and Farhadi, YOLOv3: An Incremental Improvement, 2018, report 77.2 % on 256 x 256 pixels. Batch, rate, cosine
decay, weight decay, smoothing and length (200 epochs) are those of PaddlePaddle/models,
PaddleCV/image_classification/scripts/train/DarkNet53.sh; its mixup is left out, a moving average is added. Weight decay
is 1e-4 on the gradient there; here it is decoupled from a momentum of 0.9, which takes ten times the number. Never
trained in full: 200 epochs are 1,000,000 steps of 256 images.

python train.py --config configs/imagenet_dn53.py --data.root ILSVRC2012 --workdir runs/imagenet53
python eval.py --workdir runs/imagenet53
python train.py --config configs/cityscapes_dn53_os4.py --model.encoder-weights runs/imagenet53 --workdir DIR
"""

from jaxseg.config import Classification, ClassLoss, Encoder, Optimizer, Pictures, RandomWindow, Train

config = Classification(
    name="imagenet_dn53",
    data=Pictures(
        builder="imagenet",
        crop=(256, 256),
        augment=RandomWindow(area=(0.08, 1.0), brightness=0.1, contrast=0.4, saturation=0.4),
        workers=8,
    ),
    model=Encoder(encoder="darknet53"),
    losses=ClassLoss(smoothing=0.1),
    optimizer=Optimizer(
        name="sgd", learning_rate=0.1, warmup=1 / 24, decay="cosine", weight_decay=1e-3, clip=10.0, average=0.9999
    ),
    train=Train(steps=1_000_000, batch=256, save_every=5000, picture_every=0, validate_every=25_000),
)
