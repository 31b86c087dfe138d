import json

import numpy as np
import pytest

from jaxseg import cli, config
from jaxseg.apps.superpixels import undersegmentation


def naive(superpixel, segment):
    """The definition, pair by pair."""
    total = 0
    for g in set(segment[segment >= 0].tolist()):
        for s in set(superpixel[segment == g].tolist()):
            inside = ((superpixel == s) & (segment == g)).sum()
            outside = ((superpixel == s) & (segment >= 0) & (segment != g)).sum()
            total += min(inside, outside)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_undersegmentation_is_the_sum_over_pairs(seed):
    rng = np.random.default_rng(seed)
    superpixel, segment = rng.integers(0, 6, (12, 9)), rng.integers(-1, 4, (12, 9))
    assert undersegmentation(superpixel, segment) == (naive(superpixel, segment), int((segment >= 0).sum()))


def test_undersegmentation_limits():
    # Two superpixels, split by a border that they do not follow: 1 of 4 pixels leaks on either side of it.
    superpixel = np.array([[0, 0, 0, 0], [1, 1, 1, 1]])
    segment = np.array([[5, 5, 5, 7], [7, 7, 7, 7]])
    assert undersegmentation(superpixel, segment) == (2, 8)
    assert undersegmentation(segment, segment) == (0, 8)
    assert undersegmentation(superpixel, np.full((2, 4), -1)) == (0, 0)


def test_the_study_prefers_small_superpixels_that_follow_colors(tmp_path, capsys):
    shapes = ["--data.shapes.size", "64", "128", "--data.shapes.train", "4", "--data.shapes.val", "1"]
    argv = ["--config", "configs/shapes.py", "--data.cache", str(tmp_path), *shapes, "--json", str(tmp_path / "s.json")]
    cli.superpixels([*argv, "--sizes", "4", "8", "--compactness", "3"])
    small, large = json.loads((tmp_path / "s.json").read_text())
    assert small["error"] < large["error"]
    assert small["error"] < small["square_cells"]
    assert "under-segmentation" in capsys.readouterr().out


def test_bad_numbers_are_refused():
    with pytest.raises(config.UserError, match="--compactness above 0"):
        cli.superpixels(["--config", "configs/shapes.py", "--compactness", "0"])
