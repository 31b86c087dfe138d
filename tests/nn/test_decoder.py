"""The decoder: its squash against a plain concatenation, its shapes for every superpixel size, its start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn import layers
from jaxseg.nn.decoder import Decoder, Merge


def pyramid(strides: tuple[int, ...], size: int = 32, channels: int = 4) -> dict[int, jax.Array]:
    keys = jax.random.split(jax.random.key(0), len(strides))
    return {s: jax.random.normal(k, (2, size // s, size // s, channels)) for s, k in zip(strides, keys, strict=True)}


def test_merge_equals_upsampling_concatenating_and_squashing():
    coarse, skip = (
        jax.random.normal(jax.random.key(0), (2, 3, 4, 5)),
        jax.random.normal(jax.random.key(1), (2, 6, 8, 3)),
    )
    variables = Merge(8).init(jax.random.key(2), coarse, skip, False)
    joined = jnp.concatenate([layers.upsample(coarse), skip], -1)
    wanted = jnp.einsum("bhwc,co->bhwo", joined, variables["params"]["kernel"][0, 0])
    wanted = jax.nn.relu(wanted / np.sqrt(1 + 1e-5))
    np.testing.assert_allclose(Merge(8).apply(variables, coarse, skip, False), wanted, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16])
def test_reaches_every_superpixel_size(stride):
    features = pyramid((2, 4, 8, 16))
    module = Decoder(3, stride, widths=(8,) * 5)
    out, variables = jax.eval_shape(lambda key: module.init_with_output(key, features, False), jax.random.key(0))
    assert (out.shape, out.dtype) == ((2, 32 // stride, 32 // stride, 3), jnp.float32)
    steps = [s for s in (8, 4, 2, 1) if s >= stride] or [16]
    wanted = {name for s in steps for name in (f"squash_{s}", f"refine_{s}_0", f"refine_{s}_1")}
    assert set(variables["params"]) == wanted | {"predict"}


def test_goes_on_without_a_skip_where_the_encoder_has_none():
    module, key = Decoder(1, 4, widths=(8,) * 4), jax.random.key(0)
    inputs = {}
    for strides in [(4, 8, 16), (8, 16), (16,)]:
        params = jax.eval_shape(lambda k, f: module.init(k, f, False), key, pyramid(strides))["params"]
        inputs[strides] = (params["squash_8"]["kernel"].shape[2], params["squash_4"]["kernel"].shape[2])
    # 4 channels of every encoder feature, 8 from the step before.
    assert inputs == {(4, 8, 16): (8, 12), (8, 16): (8, 8), (16,): (4, 8)}


def test_widths_follow_the_stride_and_the_multiplier():
    module = Decoder(1, 2, widths=(8, 16, 32, 64), width=0.5)
    shapes = jax.eval_shape(lambda k: module.init(k, pyramid((16,)), False), jax.random.key(0))["params"]
    assert [shapes[f"squash_{s}"]["kernel"].shape[-1] for s in (8, 4, 2)] == [32, 16, 8]


def test_starts_at_its_bias_and_spreads_with_its_scale():
    features = pyramid((4, 8))

    def start(scale: float) -> jax.Array:
        module = Decoder(64, 4, widths=(8,) * 4, scale=scale, bias=-2.0)
        variables = module.init(jax.random.key(0), features, False)
        return module.apply(variables, features, True, mutable=["batch_stats"])[0]

    np.testing.assert_array_equal(start(1e-9).round(6), -2.0)
    np.testing.assert_allclose((start(0.4) + 2.0), 2 * (start(0.2) + 2.0), rtol=1e-3, atol=1e-5)


def test_predicts_in_float32_whatever_it_computes_in():
    features, module = pyramid((4, 8)), Decoder(3, 4, widths=(8,) * 4, dtype=jnp.bfloat16)
    out, variables = module.init_with_output(jax.random.key(0), features, False)
    assert {a.dtype for a in jax.tree.leaves((out, variables))} == {jnp.dtype("float32")}
    exact = Decoder(3, 4, widths=(8,) * 4).apply(variables, features, False)
    np.testing.assert_allclose(out, exact, atol=0.05)
    assert (out != exact).any()
