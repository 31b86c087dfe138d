"""Makes the weight files beside this script with the projects that they imitate, and what those compute with them.

    python make.py torch        # with torch, torchvision, timm and safetensors installed
    python make.py tensorflow   # with tensorflow installed, which brings Keras

Networks are narrow and their weights random, multiples of 1/64, so that the files stay small once they are zipped.
"""

import gzip
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SIZES = {"even": (32, 64), "odd": (45, 37)}
WIDTH, CLASSES = 0.1, 10


def pictures() -> dict[str, np.ndarray]:
    """Smooth random images, (1, H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    found = {}
    for name, (h, w) in SIZES.items():
        coarse = rng.uniform(0, 255, (h // 8 + 2, w // 8 + 2, 3)).repeat(8, 0).repeat(8, 1)[:h, :w]
        found[name] = np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)[None]
    return found


def rounded(values: np.ndarray) -> np.ndarray:
    """Multiples of 1/64."""
    return (np.round(values * 64) / 64).astype(np.float32)


def draw(rng: np.random.Generator, kind: str, shape: tuple[int, ...], fan: int = 1) -> np.ndarray:
    """Random numbers for a parameter of a kind: kernel, scale, bias, mean or var."""
    if kind == "kernel":
        return rounded(rng.normal(0, (2 / fan) ** 0.5, shape))
    if kind == "scale":
        return rounded(rng.uniform(0.5, 1.5, shape))
    if kind == "var":
        return rounded(rng.uniform(0.5, 2.0, shape))
    return rounded(rng.normal(0, 0.3, shape))


def write(name: str, content: bytes) -> None:
    """Writes a file, zipped without the time of day."""
    (HERE / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))


def saved(save, suffix: str) -> bytes:
    """What a function writes to the path that it is given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        save(str(path))
        return path.read_bytes()


def torch_files() -> None:
    """Files of PyTorch, torchvision and timm."""
    import dataclasses

    import timm
    import torch
    import torchvision
    from safetensors.torch import save
    from timm.models import cspnet, efficientnet

    def fill(model: torch.nn.Module, seed: int) -> torch.nn.Module:
        rng = np.random.default_rng(seed)
        kinds = {"running_mean": "mean", "running_var": "var", "bias": "bias"}
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                kind = kinds.get(name.rpartition(".")[2], "scale" if value.ndim == 1 else "kernel")
                fan = int(np.prod(value.shape[1:]))
                value.copy_(torch.from_numpy(draw(rng, kind, tuple(value.shape), fan)))
        return model.eval()

    def run(model: torch.nn.Module, prefix: str, stages: dict[int, torch.nn.Module]) -> dict[str, np.ndarray]:
        found = {}
        for name, image in pictures().items():
            kept: dict[int, torch.Tensor] = {}
            hooks = [
                m.register_forward_hook(lambda _, __, out, s=s, kept=kept: kept.update({s: out}))
                for s, m in stages.items()
            ]
            x = torch.from_numpy(((image / 255 - MEAN) / STD).astype(np.float32)).permute(0, 3, 1, 2)
            with torch.no_grad():
                logits = model(x)
            [hook.remove() for hook in hooks]
            found |= {f"{prefix}_{name}_{s}": f.permute(0, 2, 3, 1).numpy().copy() for s, f in kept.items()}
            found[f"{prefix}_{name}_logits"] = logits.numpy().copy()
        return found

    vision = fill(torchvision.models.mobilenet_v2(width_mult=WIDTH, num_classes=CLASSES), 1)
    blocks = {2: vision.features[1], 4: vision.features[3], 8: vision.features[6], 16: vision.features[13]}
    features = run(vision, "torchvision", blocks | {32: vision.features[17]})
    state = vision.state_dict()
    write("mobilenet_v2_torchvision.pth", saved(lambda p: torch.save(state, p), ".pth"))
    legacy = saved(lambda p: torch.save(state, p, _use_new_zipfile_serialization=False), ".pth")
    write("mobilenet_v2_torchvision_legacy.pth", legacy)

    mobile = fill(efficientnet._gen_mobilenet_v2("mobilenetv2_100", WIDTH, num_classes=CLASSES), 2)
    ends = {2: mobile.blocks[0], 4: mobile.blocks[1], 8: mobile.blocks[2], 16: mobile.blocks[4], 32: mobile.blocks[6]}
    features |= run(mobile, "timm_mnv2", ends)
    write("mobilenet_v2_timm.safetensors", save(mobile.state_dict()))

    published = cspnet.model_cfgs["darknet53"]
    stem = dataclasses.replace(published.stem, out_chs=8)
    stages = dataclasses.replace(published.stages, depth=(1, 2, 1, 2, 1), out_chs=(8, 16, 32, 64, 128))
    dark = cspnet.CspNet(dataclasses.replace(published, stem=stem, stages=stages), num_classes=CLASSES)
    dark = fill(dark, 3)
    ends = {1: dark.stem} | {2 ** (i + 1): stage for i, stage in enumerate(dark.stages)}
    features |= run(dark, "timm_dn53", ends)
    write("darknet53_timm.safetensors", save(dark.state_dict()))

    class Canary:
        def __reduce__(self):
            return os.system, ('touch "$JAXSEG_TEST_CANARY"',)

    write("malicious.pth", saved(lambda p: torch.save({"features.0.0.weight": Canary()}, p), ".pth"))
    malicious = saved(lambda p: torch.save({"x": Canary()}, p, _use_new_zipfile_serialization=False), ".pth")
    write("malicious_legacy.pth", malicious)
    np.savez_compressed(HERE / "features_torch.npz", **features)
    print(torch.__version__, torchvision.__version__, timm.__version__)


def tensorflow_files() -> None:
    """Files of Keras 3, of the Keras before it, and of TensorFlow-Slim."""
    import keras
    import tensorflow as tf
    from keras.src.legacy.saving import legacy_h5_format

    def build(size: tuple[int, int] = (224, 224)) -> keras.Model:
        keras.utils.clear_session()
        model = keras.applications.MobileNetV2(
            input_shape=(*size, 3), alpha=WIDTH, weights=None, classes=CLASSES, classifier_activation=None
        )
        rng = np.random.default_rng(4)
        for variable in model.weights:
            kind = {"gamma": "scale", "moving_variance": "var", "beta": "bias", "moving_mean": "mean", "bias": "bias"}
            fan = int(np.prod(variable.shape[:-1]))
            fan = 9 if variable.shape[-1] == 1 else fan
            variable.assign(draw(rng, kind.get(variable.name, "kernel"), tuple(variable.shape), fan))
        return model

    # So narrow a network has as many channels before its first block as behind it, and adds them.
    ends = ("expanded_conv_add", "block_2_add", "block_5_add", "block_12_add", "block_16_project_BN")
    features = {}
    for name, image in pictures().items():
        model = build(SIZES[name])
        outputs = [model.get_layer(end).output for end in ends]
        *found, logits = keras.Model(model.input, [*outputs, model.output])(image / 127.5 - 1)
        features |= {f"keras_{name}_{2 ** (i + 1)}": np.array(f) for i, f in enumerate(found)}
        features[f"keras_{name}_logits"] = np.array(logits)
    np.savez_compressed(HERE / "features_tensorflow.npz", **features)
    model = build()
    write("mobilenet_v2_keras.weights.h5", saved(model.save_weights, ".weights.h5"))
    write("mobilenet_v2_keras.keras", saved(model.save, ".keras"))
    write("mobilenet_v2_keras_legacy.h5", saved(model.save, ".h5"))

    def save_legacy(path: str) -> None:
        import h5py

        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)

    write("mobilenet_v2_keras_legacy_weights.h5", saved(save_legacy, ".h5"))
    names, values = [], []
    for name, value in slim(model):
        plain = value * np.float32(0.5)
        names += [name, f"{name}/ExponentialMovingAverage"]
        values += [plain, value]
    names, values = [*names, "global_step"], [*values, np.int64(7)]
    with tempfile.TemporaryDirectory() as folder:
        prefix = f"{folder}/model"
        tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
        for suffix in ("index", "data-00000-of-00001"):
            write(f"mobilenet_v2_slim.ckpt.{suffix}", Path(f"{prefix}.{suffix}").read_bytes())
    print(tf.__version__, keras.__version__)


def slim(model) -> list[tuple[str, np.ndarray]]:
    """Values by the names that TensorFlow-Slim's published checkpoints have."""
    parts = {"kernel": "weights", "bias": "biases"}
    rows = []
    for layer in model.layers:
        scope = layer.name.removeprefix("bn_").removesuffix("_bn").removesuffix("_BN")
        for variable in layer.weights:
            value, part = np.array(variable), parts.get(variable.name, f"BatchNorm/{variable.name}")
            if scope == "predictions":
                value = value[None, None] if value.ndim == 2 else value
                rows.append((f"MobilenetV2/Logits/Conv2d_1c_1x1/{part}", value))
                continue
            block, _, kind = scope.rpartition("_")
            if scope in ("Conv1", "Conv_1"):
                where = {"Conv1": "Conv", "Conv_1": "Conv_1"}[scope]
            else:
                number = 0 if block == "expanded_conv" else int(block.removeprefix("block_"))
                where = f"expanded_conv{f'_{number}' if number else ''}/{kind}"
            part = part.replace("weights", "depthwise_weights") if kind == "depthwise" else part
            rows.append((f"MobilenetV2/{where}/{part}", value))
    return rows


if __name__ == "__main__":
    {"torch": torch_files, "tensorflow": tensorflow_files}[sys.argv[1]]()
    images = pictures()
    np.savez_compressed(HERE / "images.npz", **images)
    print(json.dumps({p.name: p.stat().st_size for p in sorted(HERE.glob("*.*"))}, indent=1))
