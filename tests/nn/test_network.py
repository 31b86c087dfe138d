"""The network: shapes, the center's prior, gradients, refusals, encoders from elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxseg.nn import network
from jaxseg.nn.darknet53 import Darknet53
from jaxseg.nn.layers import Norm
from jaxseg.nn.mobilenet_v2 import MobileNetV2
from jaxseg.nn.network import Network


class Patches(nn.Module):
    """An encoder that shares nothing with those of the package."""

    stride: int = 8
    channels: int = 8

    @nn.compact
    def __call__(self, images, train):
        s = self.stride
        return {s: nn.Conv(self.channels, (s, s), strides=s)(images)}


class Uneven(nn.Module):
    """An encoder whose features are not where it says."""

    def __call__(self, images, train):
        return {8: images[:, ::4, ::4]}


def small(**fields: object) -> Network:
    settings = {"encoder": Patches(), "classes": 3, "embedding": 5, "widths": (8,) * 4} | fields
    return Network(**settings)


def start(module: Network, images: jax.Array) -> tuple:
    return jax.jit(lambda key: module.init_with_output(key, images, False))(jax.random.key(0))


def filled(module: nn.Module, images: jax.Array) -> dict:
    """Random variables without the programs that draw them, whose compilation takes longer than the network's."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, False))

    def draw(path, leaf):
        kernel = path[-1].key == "kernel"
        values = rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape) if kernel else rng.random(leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


IMAGES = jax.random.randint(jax.random.key(7), (2, 16, 24, 3), 0, 256).astype(jnp.uint8)


@pytest.mark.parametrize("name", sorted(network.ENCODERS))
@pytest.mark.parametrize("superpixel", [1, 2, 4, 8, 16])
def test_builds_with_every_encoder_and_superpixel_size(name, superpixel):
    module = Network(network.encoder(name, stride=16), classes=9, superpixel=superpixel)
    images = jnp.zeros((2, 64, 128, 3), jnp.uint8)
    out = jax.eval_shape(lambda key: module.init_with_output(key, images, False)[0], jax.random.key(0))
    grid = (2, 64 // superpixel, 128 // superpixel)
    assert (out.semantic.shape, out.embedding.shape, out.center.shape) == ((*grid, 9), (*grid, 32), grid)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype("float32")}


def test_has_one_encoder_and_three_decoders_of_one_form():
    params = start(small(), IMAGES)[1]["params"]
    assert set(params) == {"encoder", "semantic", "embedding", "center"}
    bodies = [{k: v for k, v in params[d].items() if k != "predict"} for d in ("semantic", "embedding", "center")]
    assert len({str(jax.tree.map(jnp.shape, body)) for body in bodies}) == 1


def test_bytes_and_fractions_are_the_same_image():
    out, variables = start(small(), IMAGES)
    fractions = small().apply(variables, IMAGES.astype(jnp.float32) / 255.0, False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), out, fractions)


@pytest.mark.parametrize("prior", [0.1, 0.01])
def test_center_confidence_starts_near_its_prior(prior):
    module = small(prior=prior)
    variables = start(module, IMAGES)[1]
    np.testing.assert_allclose(
        variables["params"]["center"]["predict"]["bias"], -np.log((1 - prior) / prior), rtol=1e-6
    )
    out, _ = module.apply(variables, IMAGES, True, mutable=["batch_stats"])
    np.testing.assert_allclose(jax.nn.sigmoid(out.center).mean(), prior, rtol=0.3)


def test_embedding_starts_at_its_scale():
    spread = {}
    for scale in (0.2, 0.4):
        module = small(embedding_scale=scale)
        variables = start(module, IMAGES)[1]
        spread[scale] = module.apply(variables, IMAGES, True, mutable=["batch_stats"])[0].embedding
    np.testing.assert_allclose(spread[0.4], 2 * spread[0.2], rtol=1e-4, atol=1e-6)


def test_every_parameter_of_a_real_network_learns_and_stays_finite():
    encoder = Darknet53(stride=16, width=0.1, blocks=(1, 0, 0, 1, 1))
    module = Network(encoder, classes=3, embedding=4, superpixel=8, widths=(8,) * 5)
    images = jax.random.uniform(jax.random.key(1), (2, 32, 48, 3))

    variables = filled(module, images)

    def loss(params):
        out, _ = module.apply(variables | {"params": params}, images, True, mutable=["batch_stats"])
        return sum(jnp.sum((leaf - 1.0) ** 2) for leaf in jax.tree.leaves(out))

    gradients = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(variables["params"]))
    assert all(np.isfinite(leaf).all() and (leaf != 0).any() for leaf in jax.tree.leaves(gradients))


def test_an_image_does_not_depend_on_its_batch_in_inference():
    out, variables = start(small(), IMAGES)
    alone = small().apply(variables, IMAGES[1:], False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1:], b, atol=1e-5), out, alone)


def test_frozen_statistics_hold_in_encoder_and_decoders():
    norm = Norm(frozen=True)
    module = small(encoder=Darknet53(8, 0.1, (1, 0, 0, 0, 0), norm=norm), norm=norm)
    out, variables = start(module, IMAGES)
    trained, updated = jax.jit(lambda: module.apply(variables, IMAGES, True, mutable=["batch_stats"]))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), out, trained)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


def refusal(module: Network, height: int = 16, width: int = 24) -> str:
    with pytest.raises(ValueError, match="got") as caught:
        module.init(jax.random.key(0), jnp.zeros((1, height, width, 3)), False)
    return str(caught.value)


def test_refuses_sizes_that_the_stride_does_not_divide():
    wanted = "image sizes must be multiples of the encoder's stride 8: got 16 x 20. Pad or resize first."
    assert refusal(small(), 16, 20) == wanted


@pytest.mark.parametrize("superpixel", [3, 16, 0])
def test_refuses_superpixels_that_the_decoder_cannot_reach(superpixel):
    wanted = f"`superpixel` must be a power of two, at most the encoder's 8: got {superpixel}."
    assert refusal(small(superpixel=superpixel)) == wanted


def test_refuses_an_encoder_whose_features_are_misplaced():
    wanted = "the encoder's features of stride 8 must be smaller by 8: got 4 x 6 from 16 x 24."
    assert refusal(small(encoder=Uneven())) == wanted


def test_finds_encoders_by_name_and_by_import_path():
    assert network.encoder("darknet53", stride=8, width=0.5) == Darknet53(stride=8, width=0.5)
    assert network.encoder("jaxseg.nn.mobilenet_v2:MobileNetV2", head=True) == MobileNetV2(head=True)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("resnet", {}, "`encoder` must be one of darknet53, mobilenet_v2, or an import path"),
        (
            "no_such_package.module:Class",
            {},
            "`encoder` 'no_such_package.module:Class' cannot be imported: ModuleNotFoundError: No module",
        ),
        ("jaxseg.nn.network:Nothing", {}, "cannot be imported: .*Nothing"),
        ("my/file.py:Class", {}, "`encoder` is an import path .*, not one of a file: got 'my/file.py:Class'"),
        (":Class", {}, "`encoder` ':Class' cannot be imported"),
        (
            "jaxseg.nn.network:WIDTHS",
            {},
            "`encoder` must be a class of flax.linen modules: got 'jaxseg.nn.network:WIDTHS'",
        ),
        (
            "darknet53",
            {"depth": 3},
            "encoder `darknet53` takes blocks, dtype, frozen, mean, .*, std, stride, width: got depth.",
        ),
    ],
)
def test_says_what_is_wrong_with_an_encoder(name, fields, message):
    with pytest.raises(ValueError, match=message):
        network.encoder(name, **fields)


def test_position_separates_elements_that_look_alike():
    """A constant embedding becomes the position in units of 8 pixels, from the middle; other dimensions stay."""
    embedding = jnp.ones((1, 3, 5, 4))
    found = network.located(embedding, 4, 8.0)
    np.testing.assert_allclose(found[0, :, 0, 0], [0.5, 1.0, 1.5])
    np.testing.assert_allclose(found[0, 0, :, 1], [0.0, 0.5, 1.0, 1.5, 2.0])
    np.testing.assert_array_equal(found[..., 2:], embedding[..., 2:])
    assert network.located(embedding, 4, 0.0) is embedding


def test_position_is_added_to_the_embedding_alone():
    plain, placed = (small(coordinates=c) for c in (0.0, 16.0))
    variables = start(plain, IMAGES)[1]
    # Both run in the same way: compiled as one program, the last bit may differ.
    before, after = (module.apply(variables, IMAGES, False) for module in (plain, placed))
    np.testing.assert_allclose(after.embedding, network.located(before.embedding, 4, 16.0), atol=1e-6)
    np.testing.assert_array_equal(after.center, before.center)


def test_without_centers_there_is_no_head_for_them():
    outputs, variables = start(small(centers=False), IMAGES)
    assert set(variables["params"]) == {"encoder", "semantic", "embedding"}
    assert np.isneginf(outputs.center).all()
    assert outputs.center.shape == outputs.semantic.shape[:-1]


@pytest.mark.parametrize(
    ("module", "frozen"),
    [
        (MobileNetV2(width=0.25, frozen=2), {f"features_{i}" for i in range(4)}),
        (
            Darknet53(width=0.125, blocks=(1, 1, 1, 1, 1), frozen=2),
            {"stem", "down_0", "block_0_0", "down_1", "block_1_0"},
        ),
    ],
)
def test_frozen_stages_get_no_gradient_and_keep_their_statistics(module, frozen):
    assert set(module.frozen_modules()) == frozen
    image = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))

    variables = filled(module, image)

    def loss(params, stats):
        out, changed = module.apply({"params": params, "batch_stats": stats}, image, True, mutable=["batch_stats"])
        return sum(jnp.square(f).sum() for f in out.values()), changed["batch_stats"]

    before = variables["batch_stats"]
    gradients, after = jax.jit(jax.grad(loss, has_aux=True))(variables["params"], before)
    for name in gradients:
        moved = any(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients[name]))
        pairs = zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True)
        changed = any(not np.array_equal(*pair) for pair in pairs)
        assert moved == changed == (name not in frozen), name
