"""Which checkpoints are kept, and what is made of damaged ones; small states of no network."""

import numpy as np
import pytest

from jaxseg import config
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.state import TrainState


def state(step: int) -> TrainState:
    params = {"layer": {"kernel": np.arange(60_000, dtype=np.float32) * step, "bias": np.ones((), np.float32)}}
    return TrainState(np.array(step), params, {}, {"count": np.array(3)}, {}, np.array(0), np.array(0))


def save(workdir, measured, keep=2):
    """Saves states of some steps; each with its measure, None for none."""
    with Checkpoints(workdir, keep) as checkpoints:
        for step, value in measured.items():
            checkpoints.save(state(step), value)


def kept(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def restored(workdir, **how):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore(state(0), **how)


def test_the_latest_and_the_best_are_kept_over_resumes(tmp_path):
    save(tmp_path, {1: None, 2: 0.5, 3: None, 4: 0.9, 5: None, 6: 0.7, 7: None, 8: None})
    assert kept(tmp_path) == [4, 7, 8]
    save(tmp_path, {9: None, 10: 0.3, 11: None, 12: None})
    assert kept(tmp_path) == [4, 11, 12]
    assert restored(tmp_path, best=True).step == 4
    assert restored(tmp_path).step == 12
    save(tmp_path, {13: 0.95, 14: None, 15: None})
    assert kept(tmp_path) == [13, 14, 15]


def test_the_best_of_states_that_were_not_measured_is_refused(tmp_path):
    save(tmp_path, {1: None})
    with pytest.raises(config.UserError, match=r"was measured\. Leave out --best, or train with --train"):
        restored(tmp_path, best=True)


def _files(workdir, step):
    folder = workdir / "checkpoints" / str(step)
    return [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]


# Orbax leaves the other reads alone when one fails; their callbacks may find its event loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_no_damage_gives_another_state(tmp_path, how):
    """Every file of the newest checkpoint in turn: what is read is what was written, or the one before."""
    save(tmp_path, {1: None, 2: None})
    expected, seen = {s: state(s) for s in (1, 2)}, set()
    for file in _files(tmp_path, 2):
        path = tmp_path / "checkpoints" / "2" / file
        content = path.read_bytes()
        middle = len(content) // 2
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes(
                content[:middle] + (b"" if how == "cut" else b"@#!") + content[middle + 3 :] * (how != "cut")
            )
        found = restored(tmp_path, mend=True)
        seen.add(int(found.step))
        np.testing.assert_array_equal(
            found.params["layer"]["kernel"], expected[int(found.step)].params["layer"]["kernel"]
        )
        aside = tmp_path / "damaged"
        for folder in aside.iterdir() if aside.exists() else ():
            folder.rename(tmp_path / "checkpoints" / "2")
        path.write_bytes(content)
    assert seen == {1, 2}
    assert restored(tmp_path).step == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damage_is_told_and_put_aside(tmp_path, capsys):
    save(tmp_path, {1: None, 2: None})
    (tmp_path / "checkpoints" / "2" / "default" / "manifest.ocdbt").write_bytes(b"?")
    with pytest.raises(config.UserError, match=r"checkpoints/2 cannot be read: .* Remove that folder"):
        restored(tmp_path)
    assert restored(tmp_path, mend=True).step == 1
    assert "It is in" in capsys.readouterr().err
    assert kept(tmp_path) == [1]
    (tmp_path / "checkpoints" / "1" / "default" / "manifest.ocdbt").write_bytes(b"?")
    with pytest.raises(config.UserError, match="No other one is whole"):
        restored(tmp_path, mend=True)
