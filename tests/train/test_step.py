"""The update: terms are what their sums say, parts add up to the whole, state is pure."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxseg import config
from jaxseg.data import shapes
from jaxseg.nn.layers import Norm
from jaxseg.nn.network import Network
from jaxseg.train import segmentation, state, step
from jaxseg.types import Batch
from tests.tiny_encoder import TinyEncoder

SIZE = (32, 64)


def recipe(update, axis_name=None):
    norm = Norm(axis_name)
    network = Network(TinyEncoder(norm=norm), classes=4, embedding=4, width=0.25, norm=norm)
    return segmentation.Recipe(network, update, 4, config.TargetSettings(max_instances=6), axis_name=axis_name)


def batch(seeds=(1, 2, 3, 4)):
    """Scenes with none of their objects, one, many, and a void half; devices get unequal shares of each loss."""
    scenes = [shapes.scene(np.random.default_rng(seed), SIZE, 3) for seed in seeds]
    image, semantic, instance = (np.stack([getattr(s, k) for s in scenes]) for k in ("image", "semantic", "instance"))
    semantic[0], instance[0] = 0, 0
    instance[1] = np.where(instance[1] == 1, 1, 0)
    semantic[3, :, :32], instance[3, :, :32] = 255, 0
    return Batch(image, semantic, instance)


@pytest.fixture(scope="module")
def numbers():
    return segmentation.numbers(config.Losses(), np.array([0.7, 0.1, 0.1, 0.1], np.float32), 3.0)


def test_loss_is_the_weighted_sum_of_its_terms(numbers):
    update = optax.sgd(0.0)
    begin = state.create(recipe(update).network, update, 0, SIZE)
    _, scalars = jax.jit(lambda s, b, n: step.step(s, b, n, recipe(update)))(begin, batch(), numbers)
    expected = sum(numbers.weights[name] * scalars[name] for name in numbers.weights)
    assert float(scalars["loss"]) == pytest.approx(float(expected), rel=1e-6)
    assert float(scalars["semantic"]) > 0
    assert float(scalars["attraction"]) > 0


class Tinted(nn.Module):
    """An encoder that cannot be hashed: one of its fields is an array."""

    tint: np.ndarray

    @nn.compact
    def __call__(self, images, train):
        return {8: nn.Conv(4, (8, 8), 8)(images * self.tint)}


@pytest.mark.parametrize("encoder", [Tinted(np.float32([1, 2, 3])), TinyEncoder()])
def test_states_differ_by_their_seed_alone(encoder):
    network = Network(encoder, classes=4, embedding=4, width=0.25)
    a, again, b = (state.create(network, optax.sgd(0.1), seed, SIZE) for seed in (0, 0, 1))
    same = [np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(again), strict=True)]
    differ = [not np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]
    assert all(same)
    assert any(differ)


def test_all_seeds_are_one_compilation():
    update, before = optax.sgd(0.1), state._created_by_seed._cache_size()
    for seed in range(3):
        state.create(recipe(update).network, update, seed, SIZE)
    assert state._created_by_seed._cache_size() == before + 1


def test_weights_are_traced(numbers):
    """Another weight or margin changes the loss without another compilation."""
    update = optax.sgd(0.0)
    begin = state.create(recipe(update).network, update, 0, SIZE)
    run = jax.jit(lambda s, b, n: step.step(s, b, n, recipe(update))[1]["loss"])
    first = run(begin, batch(), numbers)
    other = numbers._replace(weights={**numbers.weights, "semantic": jnp.float32(2.0)})
    assert float(run(begin, batch(), other)) > float(first)
    assert run._cache_size() == 1


def test_frozen_statistics_stay():
    norm = Norm(frozen=True)
    network = Network(TinyEncoder(norm=norm), classes=4, embedding=4, width=0.25, norm=norm)
    update = optax.sgd(0.1)
    begin = state.create(network, update, 0, SIZE)
    settings = segmentation.Recipe(network, update, 4, config.TargetSettings(max_instances=6))
    numbers = segmentation.numbers(config.Losses(), np.full(4, 0.25, np.float32), 3.0)
    after, _ = jax.jit(lambda s, b: step.step(s, b, numbers, settings))(begin, batch())
    for a, b in zip(jax.tree.leaves(begin.batch_stats), jax.tree.leaves(after.batch_stats), strict=True):
        np.testing.assert_array_equal(a, b)


def test_parts_and_rematerialization_change_nothing(numbers):
    """Images with no object, one and many are in different parts; batch norm would see the parts, so it is frozen."""
    results = []
    for accumulate, again in ((1, False), (4, True)):
        norm = Norm(frozen=True)
        network = Network(TinyEncoder(norm=norm), classes=4, embedding=4, width=0.25, norm=norm, remat=again)
        update = optax.sgd(1.0)
        task = segmentation.Recipe(network, update, 4, config.TargetSettings(max_instances=6))
        begin = state.create(network, update, 0, SIZE)
        run = jax.jit(lambda s, b, task=task, n=accumulate: step.step(s, b, numbers, task, n))
        results.append(run(begin, batch()))
    (one, scalars), (other, more) = results
    assert scalars.keys() == more.keys()
    for name, value in scalars.items():
        assert float(value) == pytest.approx(float(more[name]), rel=1e-5, abs=1e-6), name
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(a).max()))


def test_weight_decay_leaves_norms_and_biases():
    update = state.optimizer(config.Optimizer(name="sgd", learning_rate=0.1, warmup=0.0, weight_decay=0.5), 10)
    params = {"conv": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.ones(1)}, "norm": {"scale": jnp.ones(4)}}
    updates, _ = update.update(jax.tree.map(jnp.zeros_like, params), update.init(params), params)
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.1 * 0.5, rtol=1e-6)
    assert float(jnp.abs(updates["conv"]["bias"]).max()) == 0
    assert float(jnp.abs(updates["norm"]["scale"]).max()) == 0


@pytest.mark.parametrize(("decay", "last"), [("cosine", 0.0), ("poly", 0.0), ("constant", 1.0)])
def test_schedule_warms_up_and_decays(decay, last):
    rate = state.schedule(config.Optimizer(learning_rate=1.0, warmup=0.1, decay=decay), 100)
    values = [float(rate(i)) for i in (0, 5, 10, 55, 100)]
    assert values[0] == 0.0
    assert values[1] == pytest.approx(0.5)
    assert values[2] == pytest.approx(1.0)
    assert values[4] == pytest.approx(last, abs=1e-6)
    assert values[3] <= values[2]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_encoders_rate_scales_its_updates_and_frozen_modules_get_none(name):
    """Weight decay included: a frozen kernel keeps every bit."""
    kernel = {"kernel": jnp.full((1, 1, 2, 2), 0.5)}
    params = {"encoder": {"stem": kernel, "late": kernel}, "semantic": kernel}
    settings = config.Optimizer(name=name, learning_rate=0.1, warmup=0.0, weight_decay=0.1, encoder_rate=0.25)
    update = state.optimizer(settings, 10, frozen=("stem",))
    opt_state = update.init(params)
    for _ in range(2):  # Twice, so that momenta count.
        updates, opt_state = update.update(jax.tree.map(jnp.ones_like, params), opt_state, params)
    encoder, decoder = updates["encoder"], updates["semantic"]
    np.testing.assert_array_equal(encoder["stem"]["kernel"], 0.0)
    np.testing.assert_allclose(encoder["late"]["kernel"], 0.25 * decoder["kernel"], rtol=1e-6)
    assert float(jnp.abs(decoder["kernel"]).min()) > 0


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_optimizers_numbers_are_traced(name):
    """An optimizer does what one of other numbers does, given these; one compilation for both."""
    half = {"kernel": jnp.full((1, 1, 2, 2), 0.5, jnp.float32)}
    params = {"encoder": {"stem": half}, "semantic": {"kernel": jnp.ones((1, 1, 2, 2))}}
    gradients = jax.tree.map(lambda p: 3.0 * p, params)
    first = config.Optimizer(name=name, learning_rate=0.1, warmup=0.0, weight_decay=0.1, clip=100.0, encoder_rate=0.25)
    other = config.Optimizer(name=name, learning_rate=0.3, warmup=0.0, weight_decay=0.5, clip=0.5, encoder_rate=0.5)
    update = state.optimizer(first, 10)
    traced = jax.jit(lambda opt_state, rates: update.update(gradients, opt_state, params, rates=rates))
    begin = jax.jit(update.init)(params)
    for settings in (first, other):
        own, rates = state.optimizer(settings, 10), state.Rates.of(settings)
        expected, found = own.init(params), begin
        for _ in range(2):  # Twice, so that momenta count.
            wanted, expected = own.update(gradients, expected, params)
            got, found = traced(found, rates)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, wanted)
        assert float(jnp.abs(got["semantic"]["kernel"]).min()) > 0
    assert traced._cache_size() == 1


def test_the_moving_average_follows_slowly_and_is_what_predicts():
    begin = {"params": {"w": jnp.zeros(())}, "batch_stats": {}}
    after = {"params": {"w": jnp.ones(())}, "batch_stats": {}}
    early = state.averaged(begin, after, 0.99, jnp.zeros((), jnp.int32))
    late = state.averaged(begin, after, 0.99, jnp.full((), 10_000, jnp.int32))
    assert float(early["params"]["w"]) == pytest.approx(0.9)
    assert float(late["params"]["w"]) == pytest.approx(0.01)
    kept = state.TrainState(jnp.zeros(()), after["params"], {}, (), begin, 0, 0)
    assert kept.variables is begin
