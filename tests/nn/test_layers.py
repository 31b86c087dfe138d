"""Convolutions, batch norm and upsampling against naive loops, XLA's own forms and laws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxseg.nn import layers
from jaxseg.nn.layers import Convolution, Norm

FORMS = [(1, 1), (2, 1), (1, 2), (1, 4), (2, 2)]


def features(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def naive(x: np.ndarray, kernel: np.ndarray, stride: int, dilation: int) -> np.ndarray:
    b, h, w, _ = x.shape
    out = np.zeros((b, -(-h // stride), -(-w // stride), kernel.shape[-1]))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            for u in range(3):
                for v in range(3):
                    y, z = i * stride + (u - 1) * dilation, j * stride + (v - 1) * dilation
                    if 0 <= y < h and 0 <= z < w:
                        out[:, i, j] += x[:, y, z] @ kernel[u, v]
    return out


@pytest.mark.parametrize(("stride", "dilation"), FORMS)
def test_convolution_pads_evenly(stride, dilation):
    x, kernel = features(2, 6, 9, 3), features(3, 3, 3, 4, seed=1)
    wanted = naive(np.asarray(x), np.asarray(kernel), stride, dilation)
    np.testing.assert_allclose(layers.convolution(x, kernel, stride, dilation), wanted, atol=1e-5)


@pytest.mark.parametrize(("stride", "dilation"), FORMS)
@pytest.mark.parametrize("shape", [(2, 8, 12, 4), (1, 5, 7, 3)])
def test_depthwise_equals_a_grouped_convolution_and_so_do_its_gradients(stride, dilation, shape):
    x, kernel = features(*shape), features(3, 3, 1, shape[-1], seed=1)

    @jax.jit
    def results(x, kernel):
        both = []
        for form in (layers.depthwise, layers.depthwise_grouped):
            value, pullback = jax.vjp(partial(form, stride=stride, dilation=dilation), x, kernel)
            both.append((value, *pullback(jnp.cos(value))))
        return both

    for got, wanted in zip(*results(x, kernel), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5)


def test_depthwise_maps_over_axes_and_devices():
    x, kernel = features(2, 1, 4, 6, 3), features(3, 3, 1, 3, seed=1)
    wanted = layers.depthwise_grouped(x[:, 0], kernel, 2)
    gradient = jax.grad(lambda x, kernel: (layers.depthwise(x, kernel, 2) ** 2).sum(), 1)
    np.testing.assert_allclose(jax.vmap(lambda x: layers.depthwise(x, kernel, 2))(x)[:, 0], wanted, atol=1e-5)
    devices = jax.pmap(lambda x: layers.depthwise(x, kernel, 2))(x[:1])
    np.testing.assert_allclose(devices[0, 0], wanted[0], atol=1e-5)
    whole = gradient(x[:, 0], kernel)
    np.testing.assert_allclose(jax.vmap(gradient, (0, None))(x, kernel).sum(0), whole, atol=1e-4)


def test_depthwise_is_compiled_for_one_platform_only():
    def loss(x, kernel):
        return (layers.depthwise(x, kernel) ** 2).sum()

    arguments = features(1, 4, 4, 8), features(3, 3, 1, 8)
    text = jax.jit(jax.grad(loss, (0, 1))).trace(*arguments).lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" not in text
    text = jax.jit(loss).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert "feature_group_count = 8" in text


def test_depthwise_sums_in_float32():
    x = jnp.full((1, 3, 3, 1), 1.0, jnp.bfloat16)
    kernel = jnp.array([256, 1, 1, 1, 1, 1, 1, 1, 1], jnp.bfloat16).reshape(3, 3, 1, 1)
    assert layers.depthwise(x, kernel).dtype == jnp.bfloat16
    assert float(layers.depthwise(x, kernel)[0, 1, 1, 0]) == 264.0


def plain(x, kernel, stride=1, dilation=1, around=None):
    around = around or layers.pads(x.shape[1:3], kernel.shape[0], stride, dilation)
    return layers._convolution(x, kernel, (stride, stride), dilation, around, 1)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(("size", "taps", "stride"), [((5, 8), 3, 1), ((6, 10), 3, 2), ((7, 6), 7, 2), ((4, 4), 5, 1)])
def test_thin_convolution_is_the_plain_one(size, taps, stride, padding):
    x, kernel = features(2, *size, 3), features(taps, taps, 3, 5, seed=1)
    around = layers.pads(size, taps, stride, padding=padding)
    wanted = plain(x, kernel, stride, 1, around)
    np.testing.assert_allclose(layers._thin_convolution(x, kernel, stride, around), wanted, atol=1e-4)
    np.testing.assert_allclose(layers.convolution(x, kernel, stride, 1, around), wanted, atol=1e-4)


@pytest.mark.parametrize(("size", "dilation"), [((2, 4), 1), ((8, 4), 2), ((8, 16), 4)])
def test_winograd_is_the_plain_convolution_and_so_are_its_gradients(size, dilation):
    x, kernel = features(2, *size, 64), features(3, 3, 64, 64, seed=1)
    weight = features(2, *size, 64, seed=2)

    def value(run):
        return jax.value_and_grad(lambda x, k: jnp.sum(weight * run(x, k)), (0, 1))(x, kernel)

    def fast(x, k):
        return layers._winograd(x, k, dilation)

    wanted = plain(x, kernel, 1, dilation)
    scale = jnp.abs(wanted).max()
    np.testing.assert_allclose(fast(x, kernel) / scale, wanted / scale, atol=2e-6)
    np.testing.assert_allclose(layers.convolution(x, kernel, 1, dilation) / scale, wanted / scale, atol=2e-6)
    found, given = value(fast)[1], value(lambda x, k: plain(x, k, 1, dilation))[1]
    for a, b in zip(found, given, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
    moved = jax.jvp(lambda x: fast(x, kernel), (x,), (weight,))[1]
    np.testing.assert_allclose(moved / scale, plain(weight, kernel, 1, dilation) / scale, atol=2e-6)


def test_a_1x1_convolution_is_a_product_of_matrices():
    x, kernel = features(2, 3, 5, 4), features(1, 1, 4, 6, seed=1)
    np.testing.assert_allclose(layers.convolution(x, kernel), plain(x, kernel), atol=1e-5)


def test_only_processors_use_their_own_forms():
    """What an accelerator has kernels for stays one convolution there."""
    x, kernel = jax.ShapeDtypeStruct((1, 8, 8, 64), jnp.float32), jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.float32)
    thin, stem = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 8), jnp.float32)
    for image, window in ((x, kernel), (thin, stem)):
        text = jax.export.export(jax.jit(layers.convolution), platforms=["cuda"])(image, window).mlir_module()
        assert text.count("stablehlo.convolution") == 1
        assert "stablehlo.dot_general" not in text


@pytest.mark.parametrize("shape", [(2, 3, 5, 2), (1, 1, 4, 1)])
def test_upsample_is_bilinear_with_half_pixel_centers(shape):
    b, h, w, c = shape
    x = features(*shape)
    wanted = jax.image.resize(x, (b, 2 * h, 2 * w, c), "bilinear")
    np.testing.assert_allclose(layers.upsample(x), wanted, atol=1e-6)


def test_upsample_commutes_with_flips():
    x = features(1, 3, 4, 2)
    for axis in (1, 2):
        np.testing.assert_array_equal(layers.upsample(jnp.flip(x, axis)), jnp.flip(layers.upsample(x), axis))


def test_divisible_stays_within_a_tenth():
    # 11.2 would round to 8, which loses more than a tenth; the published code takes 16.
    assert [layers.divisible(c) for c in (1, 11.2, 12, 24 * 0.75, 32 * 1.4)] == [8, 16, 16, 24, 48]
    assert all(layers.divisible(c) >= 0.9 * c and layers.divisible(c) % 8 == 0 for c in range(1, 400))


def test_stages_turn_strides_into_dilation():
    assert layers.stages((2, 2, 2, 2, 2), 32)[-1] == (2, 1, 1, 32, 2)
    # The convolution that loses its stride still runs undilated; those behind it do not.
    assert layers.stages((2, 2, 2, 2, 2), 16)[-2:] == ((2, 1, 1, 16, 2), (1, 1, 2, 16, 2))
    assert layers.stages((2, 2, 2, 2, 2), 8)[-2:] == ((1, 1, 2, 8, 2), (1, 2, 4, 8, 2))


@pytest.mark.parametrize("stride", [4, 12, 64])
def test_stages_refuse_other_strides(stride):
    with pytest.raises(ValueError, match=f"`stride` must be 32, 16 or 8: got {stride}."):
        layers.stages((2, 2), stride)


def test_training_normalizes_and_updates_the_statistics():
    x, module = 3.0 + 2.0 * features(4, 6, 6, 3), Convolution(8, 3, activation=None)
    variables = module.init(jax.random.key(0), x, False)
    y, updated = module.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1.0, atol=1e-3)
    kernel = variables["params"]["kernel"]
    batch = layers.convolution(x, kernel).mean((0, 1, 2))
    np.testing.assert_allclose(updated["batch_stats"]["norm"]["mean"], 0.1 * batch, atol=1e-5)


def test_frozen_norm_trains_as_it_infers():
    x, module = features(2, 4, 4, 3), Convolution(8, norm=Norm(axis_name="data", frozen=True))
    variables = module.init(jax.random.key(0), x, False)
    y, updated = module.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, module.apply(variables, x, False))
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


def test_synchronized_norm_equals_one_device_on_the_whole_batch():
    x, norm = features(4, 4, 4, 3), Norm(axis_name="data")
    variables = Convolution(8).init(jax.random.key(0), x, False)
    whole = Convolution(8).apply(variables, x, True, mutable=["batch_stats"])
    run = partial(Convolution(8, norm=norm).apply, variables, train=True, mutable=["batch_stats"])
    y, updated = jax.vmap(run, axis_name="data")(x.reshape(2, 2, 4, 4, 3))
    np.testing.assert_allclose(y.reshape(4, 4, 4, 8), whole[0], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-6), updated, whole[1])


@pytest.mark.parametrize("depthwise", [False, True])
def test_bfloat16_computes_small_and_stores_large(depthwise):
    x = features(2, 4, 4, 8)
    module = Convolution(8, 3, depthwise=depthwise, dtype=jnp.bfloat16)
    variables = module.init(jax.random.key(0), x, False)
    y, updated = module.apply(variables, x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}
    exact = Convolution(8, 3, depthwise=depthwise).apply(variables, x, True, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.1)


def test_a_batch_of_any_size_is_the_same_program():
    """With a symbol for its size too, parts are slices: as gathers they were slower, and rounded otherwise."""
    (batch,) = export.symbolic_shape("b")
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((batch, 8, 12, 64), (3, 3, 64, 64)))
    run = jax.jit(lambda x, kernel: layers.convolution(x, kernel, 1, 2, ((2, 2), (2, 2))))
    exported = export.export(run, platforms=["cpu"])(x, kernel)
    text = exported.mlir_module()
    assert "gather" not in text
    assert text.count("stablehlo.dot_general") == 16, "the form by matrices"
    values = [jnp.asarray(np.random.default_rng(0).normal(size=(2, *x.shape[1:])), jnp.float32)]
    values.append(jnp.asarray(np.random.default_rng(1).normal(size=kernel.shape), jnp.float32))
    np.testing.assert_array_equal(jax.jit(exported.call)(*values), run(*values))
