"""Terms that a config names: bound to their numbers, and refused on shapes where they cannot be trained with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import config
from jaxseg.config import Term
from jaxseg.losses import centers, own, semantic, total
from jaxseg.types import Sum

SHAPES = {"grid": (5, 6), "classes": 4, "embedding": 3, "instances": 4}

SHIPPED = [
    Term("a", "jaxseg.losses.semantic:dice"),
    Term("a", "jaxseg.losses.semantic:lovasz_softmax"),
    Term("a", "jaxseg.losses.semantic:cross_entropy"),
    Term("a", "jaxseg.losses.semantic:boundary_cross_entropy", 1.0, (("weight", 2.0),), (("radius", 2),)),
    Term("a", "jaxseg.losses.centers:focal", 1.0, (("alpha", 0.9), ("gamma", 2))),
    Term("a", "jaxseg.losses.centers:penalty_reduced_focal", 1.0, (("beta", 3.0),), (("normalize", "elements"),)),
    Term("a", "jaxseg.losses.embedding:variance", 1.0, (("margin", 0.5),)),
    Term("a", "jaxseg.losses.embedding:distance", 1.0, (("margin", 1.5),)),
    Term("a", "jaxseg.losses.embedding:attraction", 1.0, (("margin", 0.5),), (("anchor", "mean"),)),
    Term("a", "jaxseg.losses.embedding:repulsion", 1.0, (("margin", 0.5),)),
    Term("a", "jaxseg.losses.embedding:regularization", 1.0, (), (("anchor", "mean"),)),
]


@pytest.mark.parametrize("term", SHIPPED, ids=lambda t: t.function.rpartition(":")[2])
def test_every_term_of_the_package_is_one_that_a_config_may_name(term):
    own.check(term, **SHAPES)
    assert own.find(term).function.__module__.startswith("jaxseg.losses")


WEIGHTS = jnp.array([0.5, 1.0, 2.0, 3.0])
HYPER = total.Hyperparameters(WEIGHTS, 0.9, 2.0, 0.1, 1.0, class_correction=0.75)


def test_a_term_gets_its_constants_and_what_is_static(outputs, targets):
    soft = SHIPPED[5]
    given = own.terms([own.find(soft)], {"a": dict(soft.constants)}, HYPER)["a"](outputs, targets)
    expected = centers.penalty_reduced_focal(outputs, targets, beta=3.0, normalize="elements")
    np.testing.assert_allclose(given.mean(), expected.mean())


def test_a_term_gets_the_class_weights_and_the_correction_of_the_paper_s(outputs, targets):
    """Of eq. 1, unless the config says otherwise."""
    plain = own.terms([own.find(SHIPPED[2])], {}, HYPER)["a"](outputs, targets)
    assert float(plain.total) == float(total.paper_terms(HYPER)["semantic"](outputs, targets).total)
    border = own.find(SHIPPED[3])
    for constants, correction in (({"weight": 2.0}, 0.75), ({"weight": 2.0, "correction": 0.0}, 0.0)):
        given = own.terms([border], {"a": constants}, HYPER)["a"](outputs, targets)
        expected = semantic.boundary_cross_entropy(outputs, targets, WEIGHTS, 2.0, 2, correction)
        assert (float(given.total), float(given.count)) == (float(expected.total), float(expected.count))


def no_sum(outputs, targets):
    return jnp.mean(outputs.center)


def not_scalar(outputs, targets):
    return Sum(outputs.center, jnp.float32(1))


def integer(outputs, targets):
    return Sum(jnp.round(outputs.center).astype(jnp.int32).sum(), jnp.float32(1))


def not_differentiable(outputs, targets):
    return Sum(jax.lax.while_loop(lambda x: x < 1, lambda x: x + 1, outputs.center.sum()), jnp.float32(1))


def branches(outputs, targets):
    return Sum(jnp.sum(outputs.center), 1.0) if targets.valid.any() else Sum(0.0, 0.0)


def takes_margin(outputs, targets, margin):
    return Sum(jnp.sum(outputs.center) * margin, 1.0)


def wants_wide(outputs, targets):
    return Sum(jnp.sum(outputs.embedding @ jnp.ones((32, 1))), 1.0)


NUMBER = 3


@pytest.mark.parametrize(
    ("name", "constants", "message"),
    [
        ("NUMBER", (), r"Loss term mine: .*:NUMBER is 3, not a function of outputs and targets\."),
        ("missing", (), r"Loss term mine: '.*:missing' cannot be imported: AttributeError"),
        ("no_sum", (), r"no_sum returns an array of shape \(\)\. Return a jaxseg\.types\.Sum\(total, count\)\."),
        ("not_scalar", (), r"not_scalar returns a total of shape \(5, 6\)\. Return one number of one image\."),
        ("integer", (), r"integer returns a total of int32, which has no gradient\. Return a float\."),
        ("not_differentiable", (), r"not_differentiable has no gradient over a batch: ValueError: Reverse-mode"),
        ("branches", (), r"branches fails with TracerBoolConversionError: Attempted boolean conversion"),
        ("takes_margin", (), r"takes_margin fails with TypeError: .*missing 1 required .*'margin'"),
        ("takes_margin", (("margn", 1.0),), r"takes_margin fails with TypeError: .*unexpected keyword .*'margn'"),
        ("wants_wide", (), r"wants_wide fails with TypeError: .*\(3,\).*\(32,\)"),
    ],
)
def test_a_term_that_cannot_be_trained_with_is_refused_in_one_line(name, constants, message):
    with pytest.raises(config.UserError, match=message) as error:
        own.check(Term("mine", f"{__file__}:{name}", 1.0, constants), **SHAPES)
    assert "\n" not in str(error.value)


def test_plain_numbers_and_counts_of_integers_are_sums_too():
    own.check(Term("mine", f"{__file__}:takes_margin", 1.0, (("margin", 2.0),)), **SHAPES)
