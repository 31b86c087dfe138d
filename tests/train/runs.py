"""train.py in a process of its own, on a small config; what tests do to it, and what they look at afterwards."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from jaxseg.apps import model

ROOT = Path(__file__).parents[2]
STEPS = 60
CONFIG = """
from jaxseg.config import *

config = Config(
    name="tiny",
    data=Data(builder={builder!r}, root={root!r}, classes=("disc", "square"), crop=(32, 64), cache={cache!r},
              shapes=Shapes(size=(32, 64), train=10, val=3)),
    model=Model(encoder={encoder!r}, encoder_stride=8, decoder_width=0.25, embedding=4),
    targets=TargetSettings(max_instances=12),
    grouping=Grouping(slots=12, center=0.05),
    optimizer=Optimizer(name={optimizer!r}, learning_rate={rate}, average=0.9),
    train=Train(steps={steps}, batch=4, log_every=10, save_every=5, picture_every=0),
)
"""


def write(folder, optimizer="adamw", rate=1e-2, steps=STEPS, encoder="tests.tiny_encoder:TinyEncoder", root=""):
    """A config file in a folder."""
    file = folder / "tiny.py"
    builder = "folder" if root else "shapes"
    cache = str(folder / "cache")
    file.write_text(
        CONFIG.format(
            cache=cache, optimizer=optimizer, rate=rate, steps=steps, encoder=encoder, builder=builder, root=str(root)
        )
    )
    return file


class Training:
    """train.py, or another program that trains, in a process of its own; what it says is in a file."""

    def __init__(self, file, workdir, *argv, program=("train.py",), **environment):
        self.said = file.with_name(f"{time.monotonic_ns()}.txt")
        command = [sys.executable, *program, "--config", str(file), "--workdir", str(workdir), *map(str, argv)]
        with self.said.open("w") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stderr=output)

    def until(self, condition, seconds=120):
        """Waits for something to be true while the program runs; whether it came true."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.002)
        return False

    def trains(self):
        return self.until(lambda: "from step" in self.said.read_text())

    def signal(self, number):
        self.process.send_signal(number)
        return self

    def end(self, seconds=120):
        """Waits for the end; status and what was said."""
        return self.process.wait(seconds), self.said.read_text()


def saved(workdir):
    """Steps of its checkpoints, and 0."""
    return [0, *sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())]


def state(workdir):
    settings = model.read_config(workdir)
    return model.restored(model.module(settings), settings, workdir)


def assert_same(one, other):
    """Every bit of parameters, statistics, their averages, the optimizer's state and the step."""
    ours, theirs = (jax.tree_util.tree_leaves_with_path(tree) for tree in (one, other))
    assert len(ours) > 50
    for (path, a), (_, b) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def assert_stopped(status, said, *words):
    """Status 2; the last line says what to do, and there is no traceback."""
    assert status == 2, said
    assert "Traceback" not in said, said
    for word in words:
        assert word in said.splitlines()[-1], said
