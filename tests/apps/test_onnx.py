"""The whole inference as ONNX: what is put otherwise computes the same, and onnxruntime gives JAX's result."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxseg import config
from jaxseg.apps import model as models
from jaxseg.apps import onnx
from jaxseg.types import Segmentation


def words(seed=0):
    found = np.random.default_rng(seed).integers(0, 1 << 32, 1000, np.uint32)
    return np.concatenate(
        [found >> np.arange(1000, dtype=np.uint32) % 32, np.array([0, 1, 1 << 31, 2**32 - 1], np.uint32)]
    )


def floats(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def doubled_until(x, end):
    return lax.while_loop(lambda state: state[0] < end, lambda state: (state[0] + 1, state[1] * 2), (jnp.int32(0), x))[
        1
    ]


@pytest.mark.parametrize(
    ("function", "argument", "gone"),
    [
        (lax.population_count, words(), "population_count"),
        (lax.clz, words(), "clz"),
        (lambda x: lax.bitcast_convert_type(x, jnp.uint32), words().view(np.uint8).reshape(-1, 4), "bitcast"),
        (lambda x: lax.bitcast_convert_type(x, jnp.uint16), words().view(np.uint8).reshape(-1, 2), "bitcast"),
        (lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 1), (4, 1), ((-1, -1), (0, 0))), floats(16, 5), "(-1, -1)"),
        (lambda x: jnp.pad(x, ((0, 3), (0, 0)), mode="edge"), floats(4, 5), "concatenate[dimension=1]"),
        (lambda x: jnp.pad(x, 2, constant_values=7), np.arange(5, dtype=np.uint16), "u16[9] = pad"),
        (lambda x: jnp.where(x > 3, x, 65535), np.arange(9, dtype=np.uint16), "u16[9] = select_n"),
        (lambda x: jnp.where(x > 3, x, np.uint32(1 << 31)), words(), "u32[1004] = select_n"),
        (lambda x: jax.nn.leaky_relu(x, 0.1), floats(100), "select_n"),
        (lambda x: lax.platform_dependent(x, cpu=jnp.square, default=lambda x: x * x), floats(9), "platform_index"),
        (lambda x: doubled_until(x, jnp.sum(x > 0)), floats(9), "nothing"),
        (lambda x: lax.cond(x[0] > 0, jax.nn.relu, jnp.negative, x), floats(9), "custom_jvp_call"),
    ],
)
def test_what_is_put_otherwise_computes_the_same(function, argument, gone):
    given = jax.make_jaxpr(function)(argument)
    run = onnx.rewritten(given)
    assert gone in str(given) or gone == "nothing"
    assert gone not in str(jax.make_jaxpr(run)(argument))
    (found,), wanted = jax.jit(run)(argument), jax.jit(function)(argument)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_a_missing_package_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(config.UserError, match=r'needs the package jax2onnx: pip install "jaxseg\[onnx\]"'):
        onnx.export(tiny(), tmp_path / "model.onnx", (48, 64))
    assert list(tmp_path.iterdir()) == []


def tiny(size=None):
    """A network of random parameters whose centers are confident here and there."""
    settings = config.Config(
        name="tiny",
        data=config.Data(classes=("disc", "road"), stuff=("road",)),
        model=config.Model(
            encoder="tests.tiny_encoder:TinyEncoder",
            encoder_stride=8,
            decoder_width=0.5,
            embedding=8,
            size=size,
        ),
        grouping=config.Grouping(slots=8, center=0.1, assignment=1.0, duplicate=0.1),
    )
    network = models.network(settings)
    init = jax.jit(lambda key: network.init(key, jnp.zeros((1, 32, 32, 3), jnp.uint8), train=False))
    # Larger last kernels spread what is predicted, so that rounding decides nothing.
    variables = jax.tree_util.tree_map_with_path(_spread, init(jax.random.key(1)))
    return models.Model(settings, network, variables, 7)


def _spread(path, value):
    return 5 * value if [key.key for key in path][-2:] == ["predict", "kernel"] else value


def frame(seed, size):
    """Blocks of color with some noise: between flat ones many pixels would be equally near to two superpixels."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(16, 240, (size[0] // 8 + 1, size[1] // 8 + 1, 3))
    noisy = blocks.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]] + rng.integers(-16, 17, (*size, 3))
    return noisy.astype(np.uint8)


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Of packages that the project does not depend on.
@pytest.mark.parametrize(("network", "size"), [(None, (45, 61)), ((48, 64), (50, 75))], ids=["padded", "resized"])
def test_onnxruntime_gives_the_result(network, size, tmp_path):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = tiny(network)
    onnx.export(model, tmp_path / "model.onnx", size)
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [*size, 3]
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == ["background", "disc", "road"]
    assert (json.loads(told["stuff"]), json.loads(told["thresholds"])["center"]) == ([2], 0.1)
    objects = 0
    for seed in range(3):
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(None, {"frame": frame(seed, size)}), strict=True))
        wanted = jax.device_get(model(frame(seed, size)))
        assert set(found) == set(fields(wanted))
        for name, value in fields(wanted).items():
            assert found[name].dtype == value.dtype
            if value.dtype == np.float32:
                np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
            else:
                np.testing.assert_array_equal(found[name], value, err_msg=name)
        objects += wanted.instances.valid.sum()
    assert objects > 0, "a test without objects would say nothing"


def fields(found: Segmentation):
    rest = {"semantic": found.semantic, "instance": found.instance, "lost": found.lost}
    return rest | vars(found.instances)
