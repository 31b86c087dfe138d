"""MobileNetV2: published sizes, features by stride, dilation, normalization of the input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn.mobilenet_v2 import MEAN, STD, InvertedResidual, MobileNetV2


def count(tree: object) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(module: MobileNetV2) -> object:
    return jax.eval_shape(lambda key: module.init(key, jnp.zeros((1, 64, 64, 3)), False), jax.random.key(0))


def test_holds_as_many_parameters_as_torchvision():
    variables = shapes(MobileNetV2(head=True))
    # torchvision's mobilenet_v2: 3,504,872 parameters, of which the classifier has 1280 * 1000 + 1000.
    assert count(variables["params"]) == 3_504_872 - 1_281_000 == 2_223_872
    # Two statistics for each channel: 32; 32 + 16; then 2 * 6c + o for each block; 1280.
    hidden = 32 + 32 + 16 + 1280
    inputs = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160]
    hidden += sum(12 * c for c in inputs) + sum([*inputs[1:], 320])
    assert count(variables["batch_stats"]) == 2 * hidden == 34_112


def test_names_its_modules_as_torchvision():
    params = shapes(MobileNetV2(head=True))["params"]
    assert set(params) == {f"features_{i}" for i in range(19)}
    assert set(params["features_1"]) == {"depthwise", "project"}
    assert set(params["features_17"]) == {"expand", "depthwise", "project"}
    assert params["features_17"]["depthwise"]["kernel"].shape == (3, 3, 1, 960)


@pytest.mark.parametrize(("stride", "deepest"), [(32, {16: 96, 32: 320}), (16, {16: 320}), (8, {8: 320})])
def test_returns_features_by_stride(stride, deepest):
    module = MobileNetV2(stride=stride)
    out = jax.eval_shape(lambda v: module.apply(v, jnp.zeros((2, 64, 96, 3)), False), shapes(module))
    wanted = {2: 16, 4: 24, 8: 32} | deepest
    assert {s: f.shape for s, f in out.items()} == {s: (2, 64 // s, 96 // s, c) for s, c in wanted.items()}


def test_the_head_takes_the_place_of_the_last_features():
    module = MobileNetV2(stride=16, head=True)
    out = jax.eval_shape(lambda v: module.apply(v, jnp.zeros((1, 32, 32, 3)), False), shapes(module))
    assert out[16].shape == (1, 2, 2, 1280)


def test_dilation_keeps_every_coarse_feature():
    image = jax.random.uniform(jax.random.key(0), (1, 64, 96, 3))
    variables = jax.jit(lambda key: MobileNetV2(width=0.25).init(key, image, False))(jax.random.key(1))
    run = jax.jit(lambda: {s: MobileNetV2(s, 0.25).apply(variables, image, False)[s] for s in (8, 16, 32)})
    deepest = run()
    np.testing.assert_allclose(deepest[16][:, ::2, ::2], deepest[32], atol=1e-4)
    np.testing.assert_allclose(deepest[8][:, ::4, ::4], deepest[32], atol=1e-4)


def test_an_image_of_the_mean_color_is_zero_to_the_first_convolution():
    image = jnp.broadcast_to(jnp.array(MEAN), (1, 32, 32, 3))
    module = MobileNetV2(width=0.25)
    variables = jax.jit(lambda key: module.init(key, image, False))(jax.random.key(0))

    def first(image: jax.Array) -> jax.Array:
        run = jax.jit(lambda image: module.apply(variables, image, False, capture_intermediates=True)[1])
        return run(image)["intermediates"]["features_0"]["__call__"][0]

    np.testing.assert_allclose(first(image), 0.0, atol=1e-6)
    assert float(jnp.abs(first(image + jnp.array(STD))).max()) > 0.01


@pytest.mark.parametrize(("features", "residual", "adds"), [(8, True, True), (16, True, False), (8, False, False)])
def test_a_block_adds_its_input_where_shapes_allow(features, residual, adds):
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
    block = InvertedResidual(features, residual=residual)
    variables = jax.tree.map(jnp.zeros_like, block.init(jax.random.key(1), x, False))
    wanted = x if adds else jnp.zeros((1, 4, 4, features))
    np.testing.assert_array_equal(block.apply(variables, x, False), wanted)
