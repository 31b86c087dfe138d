import dataclasses
from typing import Literal, get_origin, get_type_hints

import pytest

from jaxseg import cli, config


def test_json_is_the_inverse():
    data = config.Data(
        classes=("a", "b"), colors=((1, 2, 3), (4, 5, 6)), augment=config.Augment(flip_pairs=(("a", "b"),))
    )
    settings = config.Config(name="x", data=data, model=config.Model(size=(512, 1024), encoder_blocks=(1, 2)))
    assert config.from_json(config.to_json(settings)) == settings


WITH_TERMS = config.Config(
    losses=config.Losses(
        alpha=0.5,
        terms=(
            config.Term("dice", "jaxseg.losses.semantic:dice"),
            config.Term("flat_one", "my/file.py:flat", 0.5, (("margin", 1), ("scale", 0.5)), (("n", 2), ("by", "all"))),
        ),
        schedules=(config.Schedule("repulsion", ((0.0, 0.0), (0.5, 1.0))), config.Schedule("flat_one", ((1.0, 2.0),))),
        weighting="uncertainty",
    )
)


def test_json_is_the_inverse_with_terms():
    assert config.from_json(config.to_json(WITH_TERMS)) == WITH_TERMS
    for old, new in (('"name": "dice"', '"title": "dice"'), ('"weight": 0.5', '"weight": -1'), ('"n"', '"margin"')):
        with pytest.raises(config.UserError, match=r"config\.json is not a config of this version"):
            config.from_json(config.to_json(WITH_TERMS).replace(old, new))


def test_settings_of_terms_go_by_name():
    flat = config.flatten(WITH_TERMS)
    assert flat["losses.terms.flat_one.weight"] == 0.5
    assert flat["losses.schedules.repulsion.points"] == ((0.0, 0.0), (0.5, 1.0))
    assert config.differences(config.Config(), WITH_TERMS)["losses.terms.dice.weight"] == (None, 1.0)
    assert config.changes_meaning("losses.terms.dice.weight")
    assert not [name for name in config.flatten(config.Config()) if name.startswith("losses.terms")]


def test_overrides_know_terms_by_name():
    argv = ["--losses.alpha", "0.9", "--losses.terms.flat-one.weight", "0.25", "--losses.terms.flat_one.constants"]
    argv += ["margin", "3", "--losses.schedules.repulsion.points", "0", "1", "1", "0", "--losses.terms.dice.weight=2"]
    losses = cli.override(WITH_TERMS, argv).losses
    assert [term.weight for term in losses.terms] == [2.0, 0.25]
    assert losses.terms[1].constants == (("margin", 3.0),)
    assert losses.terms[1].static == WITH_TERMS.losses.terms[1].static
    assert losses.schedules[0].points == ((0.0, 1.0), (1.0, 0.0))
    assert losses.schedules[1] == WITH_TERMS.losses.schedules[1]
    assert (losses.alpha, losses.weighting) == (0.9, "uncertainty")
    assert cli.override(WITH_TERMS, ["--losses.terms.1.weight", "7"]).losses.terms[1].weight == 7  # As --help has it.
    with pytest.raises(config.UserError, match=r"dise\.weight; did you mean --losses\.terms\.dice\.weight\. See"):
        cli.override(WITH_TERMS, ["--losses.terms.dise.weight", "1"])
    with pytest.raises(config.UserError, match=r"bad setting: .*--losses\.terms\.dice\.weight"):
        cli.override(WITH_TERMS, ["--losses.terms.dice.weight", "much"])
    with pytest.raises(config.UserError, match=r"unknown setting --losses\.terms"):
        cli.override(config.Config(), ["--losses.terms", "dice"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: config.Optimizer(learning_rate=0.0), "`optimizer.learning_rate` must be positive: got 0."),
        (lambda: config.Grouping(center=1.0), "`grouping.center` is a confidence between 0 and 1: got 1."),
        (lambda: config.Data(classes=("a", "a")), "`data.classes` names a class twice. Give each its own name."),
        (
            lambda: config.Data(classes=("a", "b"), stuff=("a", "b")),
            "`data.classes` must name a class that has instances.",
        ),
        (
            lambda: config.Data(classes=("a",), colors=((1, 2, 3), (4, 5, 6))),
            "`data.colors` must be one a class: got 2 for 1 classes.",
        ),
        (
            lambda: config.Data(classes=("a",), colors=((1, 2, 300),)),
            "`data.colors` are red, green and blue, each 0 to 255.",
        ),
        (
            lambda: config.Data(classes=("a",), augment=config.Augment(flip_pairs=(("a", "b"),))),
            "`data.classes` does not name b of `data.stuff` or `data.augment.flip_pairs`. Add it.",
        ),
        (
            lambda: config.Data(accept=("everything",)),
            "`data.accept` takes missing, unreadable, label, size, class, duplicate, empty, crowded: got everything.",
        ),
        (lambda: config.Losses(alpha=2.0), "`losses.alpha` must be in 0..1: got 2."),
        (
            lambda: config.Config(data=config.Data(crop=(100, 256))),
            "`data.crop` must be a multiple of the encoder's stride 16: got 100 x 256.",
        ),
        (
            lambda: config.Model(size=(500, 1024)),
            "`model.size` must be a multiple of the encoder's stride 16: got 500 x 1024.",
        ),
        (
            lambda: config.Model(encoder="darknet53", encoder_blocks=(1, 1)),
            "`model.encoder_blocks` of darknet53 are 5 numbers, one a stage: got 2.",
        ),
        (
            lambda: config.Losses(semantic=float("inf")),
            "`losses.semantic` must be at least 0 and finite: got inf.",
        ),
        (
            lambda: config.Optimizer(learning_rate=float("inf")),
            "`optimizer.learning_rate` must be at least 0 and finite: got inf.",
        ),
        (
            lambda: config.Term("a-b", "m:f"),
            "Names in `losses.terms` are letters, digits and underscores: got 'a-b'.",
        ),
        (
            lambda: config.Term("center", "m:f"),
            "`losses.terms` must not name a term center: the log has that already.",
        ),
        (
            lambda: config.Term("a", "m.f"),
            '`losses.terms.a.function` is "package.module:function" or "file.py:function": got \'m.f\'.',
        ),
        (
            lambda: config.Term("a", "m:f", weight=float("inf")),
            "`losses.terms.a.weight` must be at least 0 and finite: got inf.",
        ),
        (
            lambda: config.Term("a", "m:f", constants=(("by", "all"),)),
            "`losses.terms.a.constants` are finite numbers: by is 'all'. What is none goes into `static`.",
        ),
        (
            lambda: config.Term("a", "m:f", constants=(("by", float("nan")),)),
            "`losses.terms.a.constants` are finite numbers: by is nan. What is none goes into `static`.",
        ),
        (
            lambda: config.Term("a", "m:f", static=(("by", 0.5),)),
            "`losses.terms.a.static` are whole numbers and texts: by is 0.5. Others go into `constants`.",
        ),
        (
            lambda: config.Term("a", "m:f", constants=(("by", 1.0),), static=(("by", 1),)),
            "`losses.terms.a` gives an argument twice. Give each once.",
        ),
        (
            lambda: config.Losses(terms=(config.Term("a", "m:f"), config.Term("a", "m:g"))),
            "`losses.terms` names a term twice. Give each its own name.",
        ),
        (
            lambda: config.Losses(schedules=(config.Schedule("centre", ((0.0, 1.0),)),)),
            "`losses.schedules` names centre: the terms are semantic, attraction, repulsion, regularization, center.",
        ),
        (
            lambda: config.Losses(schedules=(config.Schedule("center", ((0.0, 1.0),)),) * 2),
            "`losses.schedules` names a term twice. Give each one schedule.",
        ),
        *(
            (
                lambda points=points: config.Schedule("center", points),
                "`losses.schedules.center.points` are at ascending fractions of the run, in 0..1.",
            )
            for points in ((), ((0.5, 1.0), (0.5, 0.0)), ((0.5, 1.0), (0.2, 0.0)), ((0.0, 1.0), (100.0, 0.0)))
        ),
        (
            lambda: config.Schedule("center", ((0.0, -1.0),)),
            "`losses.schedules.center.points` must be at least 0 and finite: got -1.",
        ),
        (lambda: config.Train(gradients_every=-1), "`train.gradients_every` must be at least 0: got -1."),
        (lambda: config.Config(seed=-1), "`seed` must be in 0..4.29497e+09: got -1."),
        (
            lambda: config.Config(
                data=config.Data(crop=(1024, 1024)), superpixels=config.Superpixels(size=1), model=config.Model()
            ),
            "`data.crop` must be smaller, or `superpixels.size` larger: 1024 x 1024 elements overflow 32-bit sums.",
        ),
    ],
)
def test_values_are_checked(build, message):
    with pytest.raises(config.UserError) as error:
        build()
    assert str(error.value) == message


def listed(settings, prefix=""):
    """Dotted names of all settings that list their values."""
    for name, hint in get_type_hints(type(settings)).items():
        if dataclasses.is_dataclass(getattr(settings, name)):
            yield from listed(getattr(settings, name), f"{prefix}{name}.")
        elif get_origin(hint) is Literal:
            yield f"{prefix}{name}"


def replaced(settings, name, value):
    """With the setting of a dotted name replaced."""
    first, _, rest = name.partition(".")
    return dataclasses.replace(settings, **{first: replaced(getattr(settings, first), rest, value) if rest else value})


KINDS = {"segmentation": config.Config(), "classification": config.Classification()}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in listed(KINDS[kind])])
def test_a_value_that_is_not_listed_is_refused(kind, name):
    for value in ("misspelt", 4.0, None):
        with pytest.raises(config.UserError, match=rf"^`{name}` must be one of [^:]+: got {value!r}\.$"):
            replaced(KINDS[kind], name, value)


def test_a_misspelt_value_is_refused_however_it_is_given(tmp_path):
    term = 'Losses(terms=(Term("dice", "jaxseg.losses.semantic:dice", task="sematic"),))'
    cases = (("Losses(weighting='uncertain')", "weighting", "uncertain"), (term, r"terms\.dice\.task", "sematic"))
    for source, name, value in cases:
        message = rf"^`losses\.{name}` must be one of .*: got '{value}'\.$"
        (tmp_path / "own.py").write_text(f"from jaxseg.config import *\nconfig = Config(losses={source})\n")
        with pytest.raises(config.UserError, match=message):
            cli.read_config(tmp_path / "own.py")
    with pytest.raises(config.UserError, match=r"invalid choice 'uncertain' for argument '--losses\.weighting'"):
        cli.override(config.Config(), ["--losses.weighting", "uncertain"])
    for right, wrong in (('"uncertainty"', '"uncertain"'), ('"task": "none"', '"task": "non"')):
        with pytest.raises(config.UserError, match=r"is not a config of this version: `losses\..*` must be one of"):
            config.from_json(config.to_json(WITH_TERMS).replace(right, wrong))


def test_stored_config_of_another_version_is_refused():
    text = config.to_json(config.Config()).replace('"clip"', '"clap"')
    with pytest.raises(
        config.UserError, match=r"config.json is not a config of this version: unknown setting `optimizer.clap`"
    ):
        config.from_json(text)


def test_a_crop_that_is_accepted_fits_its_targets():
    """The limit stands in two files, of which one may not import the other; it lies between 812 and 813, squared."""
    from jaxseg import targets

    for side, accepted in ((800, True), (816, False)):
        build = {"data": config.Data(crop=(side, side)), "superpixels": config.Superpixels(size=1)}
        assert targets.fits((side, side)) == accepted
        if accepted:
            config.Config(**build)
        else:
            with pytest.raises(config.UserError, match="overflow 32-bit sums"):
                config.Config(**build)


def test_a_stored_config_that_lacks_a_setting_is_refused():
    """Defaults in place of lost settings would build another network without a word."""
    with pytest.raises(config.UserError, match=r"is not a config of this version: no setting `data`"):
        config.from_json('{"task": "segmentation"}')
    with pytest.raises(config.UserError, match=r"`task` must be segmentation or classification: got None"):
        config.from_json("{}")


def test_differences_and_what_they_mean():
    old = config.Config()
    new = dataclasses.replace(old, train=dataclasses.replace(old.train, batch=4, log_every=7))
    assert config.differences(old, new) == {"train.batch": (8, 4), "train.log_every": (20, 7)}
    assert config.changes_meaning("train.batch")
    assert config.changes_meaning("losses.alpha")
    assert not config.changes_meaning("train.log_every")
    assert not config.changes_meaning("data.root")
    assert not config.changes_meaning("grouping.center")


def test_overrides_are_typed():
    new = cli.override(config.Config(), ["--optimizer.learning-rate", "1e-2", "--data.augment.no-flip-horizontal"])
    assert new.optimizer.learning_rate == 0.01
    assert not new.data.augment.flip_horizontal
    assert cli.override(config.Config(), ["--model.size", "512", "1024"]).model.size == (512, 1024)


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (
            ["--optimizer.learning-rat", "1"],
            ["unknown setting --optimizer.learning-rat", "did you mean --optimizer.learning-rate"],
        ),
        (["--train.steps", "many"], ["bad setting:", "--train.steps", "many"]),
        (["--superpixels.size", "3"], ["bad setting:", "3"]),
        (["--optimizer.learning-rate", "-1"], ["`optimizer.learning_rate` must be positive: got -1."]),
        (["stray"], ["stray"]),
    ],
)
def test_bad_overrides_are_named(argv, parts):
    with pytest.raises(config.UserError) as error:
        cli.override(config.Config(), argv)
    assert all(part in str(error.value) for part in parts), str(error.value)
