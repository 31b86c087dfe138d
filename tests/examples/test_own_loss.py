"""The example of a loss term of one's own trains; log, report and gradients know it by its name."""

from pathlib import Path

import pytest

from jaxseg import cli
from jaxseg.apps import model
from jaxseg.train import gradients
from tests.apps.events import scalars

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_loss.py"
SMALL = """--data.shapes.size 32 64 --data.crop 32 64 --data.shapes.train 8 --data.shapes.val 2 --train.picture-every 0
--model.encoder tests.tiny_encoder:TinyEncoder --model.encoder-stride 8 --model.encoder-width 1 --model.encoder-blocks
--model.decoder-width 0.25 --model.embedding 4 --targets.max-instances 12 --grouping.slots 12 --train.batch 4
--train.steps 4 --train.log-every 1 --train.gradients-every 2"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The work directory of a few steps on small scenes."""
    folder = tmp_path_factory.mktemp("own_loss")
    argv = ["--config", str(EXAMPLE), "--workdir", str(folder / "run"), "--data.cache", str(folder / "cache")]
    cli.train([*argv, *SMALL.split()])
    return folder / "run"


def test_it_is_logged_by_its_name_with_its_weight(run):
    """The weight rises from 0 over the first fifth of the run."""
    logged = scalars(run / "tensorboard")
    assert [0 < value < 1 for _, value in logged["train/foreground"]] == [True] * 4
    weights = [value for _, value in logged["train/weight/foreground"]]
    assert weights == pytest.approx([0, 0.5, 0.5, 0.5])


def test_its_gradient_is_in_the_semantic_head_alone(run):
    rows = gradients.read(run)
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        touched = {part for part, norm in row["norms"]["foreground"].items() if norm > 0}
        assert touched == {"encoder", "semantic"}


def test_the_run_keeps_its_source_and_the_report_names_it(run):
    assert model.read_config(run).losses.terms[0].function.endswith("examples/own_loss.py:foreground")
    assert (run / "terms" / "foreground.py").read_bytes() == EXAMPLE.read_bytes()
    cli.evaluate(["--workdir", str(run)])
    page = (run / "val" / "report.html").read_text()
    for text in ("<td>foreground</td>", "own_loss.py:foreground", "0 at 0%, 1 at 20%", "smooth 1.0", "step 4"):
        assert text in page


def test_the_documentation_shows_what_the_example_holds():
    source = EXAMPLE.read_text()
    function = source[source.index("def foreground") : source.index("config = ")].strip()
    assert function in (ROOT / "docs" / "loss-terms.md").read_text()
