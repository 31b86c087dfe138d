"""Darknet-53: published sizes, file order, features by stride, dilation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn import darknet53
from jaxseg.nn.darknet53 import Darknet53
from jaxseg.nn.layers import Norm

SMALL = {"width": 0.125, "blocks": (1, 1, 1, 1, 1)}


def count(tree: object) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(module: Darknet53, size: tuple[int, int] = (64, 64)) -> object:
    return jax.eval_shape(lambda key: module.init(key, jnp.zeros((1, *size, 3)), False), jax.random.key(0))


def test_holds_as_many_numbers_as_the_published_file():
    variables = shapes(Darknet53())
    # 162,482,580 bytes: a header of 20, then float32 weights with beta, gamma, mean and variance of every channel.
    floats = (162_482_580 - 20) // 4
    # Channels: 32, then for each stage c (opening) and c/2 + c for each block: 32 + 160 + 512 + 3328 + 6656 + 7168.
    statistics = 2 * 17_856
    assert count(variables["batch_stats"]) == statistics
    assert count(variables["params"]) == floats - statistics == 40_584_928


def test_lists_every_convolution_in_file_order():
    params, order = shapes(Darknet53())["params"], darknet53.convolutions()
    kernels = []
    for path in order:
        node = params
        for key in path:
            node = node[key]
        kernels.append(node["kernel"].shape)
    assert len(set(order)) == 52
    assert count(params) == sum(int(np.prod(k)) + 2 * k[-1] for k in kernels)
    # Each convolution of the chain takes what the one before it gives; blocks keep the channels of their stage.
    assert all(after[2] == before[3] for before, after in itertools.pairwise(kernels))
    assert kernels[:3] == [(3, 3, 3, 32), (3, 3, 32, 64), (1, 1, 64, 32)]


@pytest.mark.parametrize(("stride", "deepest"), [(32, {16: 512, 32: 1024}), (16, {16: 1024}), (8, {8: 1024})])
def test_returns_features_by_stride(stride, deepest):
    module = Darknet53(stride=stride)
    out = jax.eval_shape(lambda v: module.apply(v, jnp.zeros((2, 64, 96, 3)), False), shapes(module))
    wanted = {1: 32, 2: 64, 4: 128, 8: 256} | deepest
    assert {s: f.shape for s, f in out.items()} == {s: (2, 64 // s, 96 // s, c) for s, c in wanted.items()}


def test_dilation_keeps_every_coarse_feature():
    image = jax.random.uniform(jax.random.key(0), (1, 64, 96, 3))
    variables = jax.jit(lambda key: Darknet53(**SMALL).init(key, image, False))(jax.random.key(1))
    run = jax.jit(lambda: {s: Darknet53(s, **SMALL).apply(variables, image, False)[s] for s in (8, 16, 32)})
    deepest = run()
    np.testing.assert_allclose(deepest[16][:, ::2, ::2], deepest[32], atol=1e-4)
    np.testing.assert_allclose(deepest[8][:, ::4, ::4], deepest[32], atol=1e-4)


def test_a_residual_block_of_zero_gain_is_the_identity():
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 16))
    block = darknet53.Residual()
    variables = jax.tree.map(jnp.zeros_like, block.init(jax.random.key(1), x, False))
    np.testing.assert_array_equal(block.apply(variables, x, False), x)


@pytest.mark.parametrize(("slope", "negative"), [(darknet53.SLOPE, -0.2), (0.01, -0.02)])
def test_leaks_as_much_as_asked(slope, negative):
    """A block whose kernels copy one channel and whose norms do nothing: the input plus twice the leak of it."""
    x = jnp.full((1, 1, 1, 2), -2.0)
    block = darknet53.Residual(slope=slope, norm=Norm(epsilon=0.0))
    variables = block.init(jax.random.key(0), x, False)
    params = jax.tree.map(jnp.ones_like, variables["params"])
    params["reduce"]["kernel"] = jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1)
    params["reduce"]["norm"]["bias"] = jnp.zeros(1)
    params["expand"]["kernel"] = jnp.zeros((3, 3, 1, 2)).at[1, 1].set(1.0)
    params["expand"]["norm"]["bias"] = jnp.zeros(2)
    found = block.apply({**variables, "params": params}, x, False)
    np.testing.assert_allclose(found, -2.0 + slope * negative, rtol=1e-6)
