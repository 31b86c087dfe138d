"""Terms of one's own in the update: traced numbers, schedules, uncertainties, and gradients by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import config
from jaxseg.apps.evaluation.losses import section
from jaxseg.losses import own as owns
from jaxseg.losses import total
from jaxseg.losses.own import Own
from jaxseg.train import debug, faults, gradients, parallel, segmentation, state, step
from jaxseg.types import Outputs, Sum
from tests.train import test_step as small

FREQUENCIES = np.array([0.7, 0.1, 0.1, 0.1], np.float32)
SGD = optax.sgd(0.1)
STEPS = 10


def far(outputs, targets, margin):
    """Confidence beyond a margin: of the center head alone."""
    over = jax.nn.relu(jnp.abs(outputs.center) - margin)
    return Sum(jnp.sum(over), jnp.float32(outputs.center.size))


def settings(**changed):
    term = config.Term("far", f"{__file__}:far", 0.5, (("margin", 0.1),), task="center")
    return config.Losses(**{"terms": (term,), "attraction_margin": 0.0} | changed)


def numbers(losses):
    return segmentation.numbers(losses, FREQUENCIES, 3.0, steps=STEPS)


def recipe(uncertain=False, frozen=False):
    own = (Own("far", far, task="center"),)
    made = small.recipe(SGD)._replace(own=own, uncertain=segmentation.uncertain(own) if uncertain else ())
    if not frozen:
        return made
    norm = small.Norm(frozen=True)
    encoder = small.TinyEncoder(norm=norm)
    return made._replace(network=small.Network(encoder, classes=4, embedding=4, width=0.25, norm=norm))


def begin(task):
    names = sorted({name for _, name in task.uncertain})
    return state.create(task.network, SGD, 0, small.SIZE, uncertain=tuple(names))


@pytest.fixture(scope="module")
def update():
    task = recipe()
    return jax.jit(lambda s, b, n: step.step(s, b, n, task))


def test_weights_constants_and_schedules_change_without_another_compilation(update):
    schedule = config.Schedule("far", ((0.0, 1.0), (0.5, 0.0)))
    ramp = config.Schedule("far", ((0.0, 2.0), (1.0, 2.0)))
    lighter = config.Term("far", "m:far", 0.25, (("margin", 0.1),))
    wider = config.Term("far", "m:far", 0.5, (("margin", 0.5),))
    first, changes = begin(recipe()), ({}, {"terms": (lighter,)}, {"terms": (wider,)}, {"schedules": (ramp,)})
    results = [
        update(first, small.batch(), numbers(settings(**{"schedules": (schedule,)} | change)))[1] for change in changes
    ]
    assert update._cache_size() == 1
    a, lighter, wider, doubled = ({name: float(value) for name, value in found.items()} for found in results)
    assert a["far"] == lighter["far"] > wider["far"] > 0
    assert a["loss"] - lighter["loss"] == pytest.approx(0.25 * a["far"], rel=1e-4)
    assert doubled["loss"] - a["loss"] == pytest.approx(0.5 * a["far"], rel=1e-4)
    assert (a["weight/far"], lighter["weight/far"], doubled["weight/far"]) == (0.5, 0.25, 1.0)


@pytest.mark.parametrize(("done", "weight"), [(0, 0.0), (1, 0.0), (3, 1.0), (5, 2.0), (6, 1.5), (9, 0.0)])
def test_a_weight_follows_its_schedule(done, weight):
    """0 until 1/10 of the run, then up to 4 times 0.5 at the middle, and down to 0 at 9/10."""
    losses = config.Losses(semantic=0.5, schedules=(config.Schedule("semantic", ((0.1, 0.0), (0.5, 4.0), (0.9, 0.0))),))
    found = step.scheduled(numbers(losses), jnp.int32(done))
    assert float(found["semantic"]) == pytest.approx(weight, abs=1e-6)
    assert float(found["center"]) == 1.0


def test_a_schedule_of_a_term_that_is_not_there_does_nothing():
    losses = config.Losses(schedules=(config.Schedule("center", ((0.0, 1.0),)),))
    assert segmentation.numbers(losses, FREQUENCIES, 3.0, clustering="all_to_all").schedules == {}


def assert_close(one, other, limit=1e-5):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, atol=limit * max(1, np.abs(b).max()), err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def measure():
    task = recipe(uncertain=True, frozen=True)
    return jax.jit(lambda s, b, n, chosen: gradients.of_term(s, b, n, task, chosen))


@pytest.fixture(scope="module")
def uncertain(measure):
    """Two updates, and the gradients before them, by which uncertainties count too."""
    task, given = recipe(uncertain=True, frozen=True), numbers(settings(schedules=()))
    run = jax.jit(lambda s, b: step.step(s, b, given, task))
    first = begin(task)
    second, scalars = run(first, small.batch())
    third, _ = run(second, small.batch())
    each = [measure(second, small.batch(), given, chosen) for chosen in jnp.eye(6)]
    return task, given, first, second, third, scalars, gradients.products(each)


def test_uncertainties_are_learnt_beside_the_network(uncertain):
    """By a rate of 0.1 each s goes from 0 to -0.1 (1 - L), with L the weighted sum of its task's terms, own ones too.

    With s = 0 the loss is that of fixed weights. The network for predictions knows nothing of it.
    """
    _, given, _, second, third, scalars, _ = uncertain
    assert float(scalars["loss"]) == pytest.approx(
        sum(float(given.weights[name] * scalars[name]) for name in given.weights), rel=1e-5
    )
    tasks = dict.fromkeys(("semantic", "embedding", "center"), 0.0)
    for name, task in segmentation.uncertain((Own("far", far, task="center"),)):
        tasks[task] += float(given.weights[name] * scalars[name])
    for task, loss in tasks.items():
        assert float(scalars[f"log_variance/{task}"]) == 0
        assert float(second.params["log_variance"][task]) == pytest.approx(-0.1 * (1 - loss), rel=1e-4)
    assert set(third.variables["params"]) == {"encoder", "semantic", "embedding", "center"}
    outputs = recipe(frozen=True).network.apply(third.variables, jnp.asarray(small.batch().image), train=False)
    assert outputs.center.shape == (4, 8, 16)


def test_parts_and_devices_change_nothing_about_uncertainties_and_gradients(uncertain):
    task, given, first, second, third, _, products = uncertain
    for devices, accumulate in ((jax.devices()[:1], 4), (jax.devices()[:2], 2)):
        run = parallel.train_step(task, devices, accumulate)
        measure = parallel.measure_gradients(task, devices, accumulate)
        batch = parallel.shard(small.batch(), devices)
        now, _ = run(parallel.replicate(first, devices), batch, given)
        assert_close(parallel.unreplicate(now).params, second.params)
        assert_close(parallel.unreplicate(measure(now, batch, given)), products)
        now, _ = run(now, batch, given)
        assert_close(parallel.unreplicate(now).params, third.params)


def test_gradients_of_terms_add_up_to_the_updates(uncertain):
    """The norm of a sum from its parts' products: a plain SGD update by 0.1 is 0.1 times the sum of them all."""
    _, given, _, second, third, _, products = uncertain
    moved = jax.tree.map(lambda a, b: (a - b) / 0.1, second.params, third.params)
    assert set(products) == {"encoder", "semantic", "embedding", "center"}
    for part, table in products.items():
        assert float(jnp.sum(table)) == pytest.approx(float(optax.tree.norm(moved[part])) ** 2, rel=1e-3), part
    row = gradients.row(7, products, given.weights)
    assert row["step"] == 7
    heads = {name: {p for p, norm in norms.items() if norm} for name, norms in row["norms"].items()}
    assert heads == {
        "semantic": {"encoder", "semantic"},
        **{name: {"encoder", "embedding"} for name in ("attraction", "repulsion", "regularization")},
        **{name: {"encoder", "center"} for name in ("center", "far")},
    }
    cosines = gradients.scalars(row)
    pairs = [name for name in cosines if name.startswith("cosine/")]
    assert len(pairs) == 6 * 5 / 2
    assert all(-1 <= cosines[name] <= 1 for name in pairs)


def test_a_term_that_is_not_finite_spoils_the_gradients_of_no_other(uncertain, measure):
    _, given, _, second, _, _, products = uncertain
    losses = given.hyper.losses.replace(gamma=jnp.float32(jnp.nan))
    spoilt = given._replace(hyper=given.hyper._replace(losses=losses))
    found = gradients.products([measure(second, small.batch(), spoilt, chosen) for chosen in jnp.eye(6)])
    others = np.array([name != "center" for name in sorted(given.weights)])
    assert_close(*({part: np.asarray(p[part])[others][:, others] for part in p} for p in (found, products)))
    assert np.isnan(np.asarray(found["encoder"])[~others]).all()


def test_cosines_are_those_of_the_vectors():
    """(3, 0), (3, 3) and 0 on the encoder; the third has a gradient elsewhere."""
    rows = {"encoder": np.array([[3.0, 0], [3, 3], [0, 0]]), "center": np.array([[0.0], [0], [2]])}
    row = gradients.row(1, {part: r @ r.T for part, r in rows.items()}, ["c", "a", "b"])
    assert row["norms"]["b"]["encoder"] == pytest.approx(18**0.5)
    assert row["norms"]["c"] == {"encoder": 0, "center": 2}
    assert row["cosines"]["a"] == {"b": pytest.approx(0.5**0.5), "c": None}
    assert row["cosines"]["b"] == {"c": None}
    assert "cosine/a/c" not in gradients.scalars(row)
    assert gradients.scalars(row)["gradient/c/center"] == 2
    spoilt = gradients.row(1, {"encoder": np.array([[np.inf, np.nan], [np.nan, np.nan]])}, ["a", "b"])
    assert spoilt == {
        "step": 1,
        "norms": {"a": {"encoder": None}, "b": {"encoder": None}},
        "cosines": {"a": {"b": None}},
    }


def test_what_was_measured_after_the_step_to_go_on_from_is_forgotten(tmp_path):
    record = gradients.Record(tmp_path, 0)
    for done in (2, 4, 6):
        record.add({"step": done, "norms": {}, "cosines": {}})
    gradients.Record(tmp_path, 5).add({"step": 8, "norms": {}, "cosines": {}})
    assert [row["step"] for row in gradients.read(tmp_path)] == [2, 4, 8]
    (tmp_path / gradients.FILE).write_bytes(b'{"step": 2}\n\xff')
    for use in (gradients.read, lambda folder: gradients.Record(folder, 0)):
        with pytest.raises(config.UserError, match=r"gradients\.jsonl is damaged\. Remove it: later"):
            use(tmp_path)
    page = section(config.Config(), tmp_path)
    assert "gradients.jsonl is damaged" in page.text[-1]
    assert len(page.tables) == 1
    (tmp_path / "file").touch()
    with pytest.raises(config.UserError, match=r"gradients\.jsonl cannot be written"):
        gradients.Record(tmp_path / "file", 0).add({})


def test_a_term_of_ones_own_is_named_where_it_is_not_finite(update):
    """A margin that is not a number spoils this term alone."""
    losses = settings(schedules=(config.Schedule("far", ((0.0, 1.0), (1.0, 1.0))),))
    spoilt = numbers(losses)
    spoilt = spoilt._replace(hyper=spoilt.hyper._replace(own={"far": {"margin": jnp.float32(jnp.nan)}}))
    after, scalars = update(begin(recipe()), small.batch(), spoilt)
    assert faults.culprit({name: float(value) for name, value in scalars.items()}) == "`far` is nan"
    assert int(after.skipped) == 1


def fragile(outputs, targets):
    return Sum(jnp.log(-jnp.square(outputs.center).sum()), jnp.float32(1))


def test_debug_mode_names_the_line_of_a_term():
    """What runs again one operation at a time is a step of this term alone, as that of a network takes a minute."""
    own = owns.terms([Own("fragile", fragile)], {}, total.Hyperparameters(jnp.ones(4), *jnp.ones(5)))
    outputs = Outputs(*(jnp.ones((1, 2, 3, *more)) for more in ((4,), (2,), ())))
    with pytest.raises(config.UserError, match=r"step 3: .*nan.* at .*test_terms\.py:\d+ \(.*jnp\.log"), debug.nans(3):
        jax.jit(jax.vmap(lambda o: own["fragile"](o, None)))(outputs)
