import json

import numpy as np
import pytest

from jaxseg import cli, config
from jaxseg.apps.superpixels import boundary_recall, undersegmentation


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
    argv += ["--output", str(tmp_path / "s.html")]
    cli.superpixels([*argv, "--sizes", "4", "8", "--compactness", "3"])
    rows = {(row["size"], row["upsampling"]): row for row in json.loads((tmp_path / "s.json").read_text())}
    assert len(rows) == 6
    small, large = rows[4, "superpixels"], rows[8, "superpixels"]
    assert small["error"] < large["error"]
    assert 1 >= small["boundary_recall"] >= large["boundary_recall"] > 0.8
    assert 0 <= small["fragments"] <= large["fragments"]
    for column in ("iou", "ap", "ap50"):
        assert large[column] <= small[column] <= 1
        for other in ("bilinear", "nearest"):
            assert small[column] >= rows[4, other][column]
    assert large["ap"] < small["ap"]
    assert small["iou"] > rows[4, "bilinear"]["iou"] > rows[4, "nearest"]["iou"]
    assert small["error"] < rows[4, "nearest"]["error"]
    assert rows[4, "bilinear"]["error"] is None
    assert "under-segmentation" in capsys.readouterr().out
    page = (tmp_path / "s.html").read_text()
    assert page.count("<svg") == 6
    assert "http" not in page


def test_boundary_recall_counts_true_borders_near_ours():
    """A true border between columns 3 and 4; superpixels with one between 1 and 2, two pixels away."""
    segment, superpixel = np.tile(np.arange(10) > 3, (4, 1)).astype(int), np.tile(np.arange(10) > 1, (4, 1)).astype(int)
    assert boundary_recall(superpixel, segment, 2) == (4, 4)
    assert boundary_recall(superpixel, segment, 1) == (0, 4)
    assert boundary_recall(segment, segment, 0) == (4, 4)
    unknown = np.where(segment == 0, -1, segment)
    assert boundary_recall(superpixel, unknown, 2) == (0, 0)


def test_bad_numbers_are_refused():
    with pytest.raises(config.UserError, match="--compactness above 0"):
        cli.superpixels(["--config", "configs/shapes.py", "--compactness", "0"])
