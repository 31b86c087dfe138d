"""Weight files that nobody vouches for: what is damaged is refused in one line, and nothing in them is run."""

import dataclasses
import os
import struct
import sys

import numpy as np
import pytest

from jaxseg.config import UserError
from jaxseg.nn import darknet53
from jaxseg.weights import darknet, files, imported, stored
from tests.weights import golden

MUTATIONS = int(os.environ.get("JAXSEG_TEST_MUTATIONS", "30"))
"""Of each format; 1000 take ten minutes."""


@pytest.mark.parametrize("name", ["malicious.pth", "malicious_legacy.pth"])
def test_a_file_that_carries_code_does_not_run_it(name, tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    monkeypatch.setenv("JAXSEG_TEST_CANARY", str(canary))
    path = tmp_path / name
    path.write_bytes(golden.content(name))
    with pytest.raises(UserError, match=r"holds (posix|os)\.system, not tensors alone, and nothing in it is run"):
        files.read(path)
    assert not canary.exists()


def _mutated(rng: np.random.Generator, content: bytes) -> bytes:
    """Bytes changed, most often near an end, where formats keep their structure; or cut, or doubled."""
    kind = rng.integers(6)
    if kind == 0:
        return content[: rng.integers(len(content))]
    changed = bytearray(content)
    if kind == 1:
        at = int(rng.integers(len(content)))
        return bytes(changed[:at] + changed[at : at + 64] + changed[at:])
    near = {2: 4096, 3: 65536}.get(int(kind), len(content))
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(min(near, len(content))))
        changed[-1 - at if kind == 4 and at < 65536 else at] = int(rng.integers(256))
    return bytes(changed)


def _all_are_refused_or_read(path, read, number):
    """Whatever is changed: a file is read, or refused by a `UserError`; nothing else happens."""
    rng = np.random.default_rng(0)
    content, refused = path.read_bytes(), []
    for _ in range(number):
        path.write_bytes(_mutated(rng, content))
        try:
            read(path)
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > number / 20
    assert not any("\n" in line for line in refused)


@pytest.mark.parametrize("name", [*golden.FILES, "folded.npz", "own.safetensors"])
def test_mutations_are_refused_in_one_line_or_read(name, tmp_path):
    if name == "own.safetensors":
        weights, _ = imported.read(golden.unpack("mobilenet_v2_timm.safetensors", tmp_path))
        path, read = tmp_path / name, stored.load
        path.write_bytes(stored.to_bytes(weights))
    elif name == "folded.npz":
        (path, _), read = golden.folded(tmp_path), imported.read
    else:
        path, read = golden.unpack(name, tmp_path), imported.read
    _all_are_refused_or_read(path, read, MUTATIONS)


def test_a_checkpoint_cannot_name_code_to_import(tmp_path):
    """An import path would be code that the file chooses."""
    weights, _ = imported.read(golden.unpack("mobilenet_v2_timm.safetensors", tmp_path))
    settings = dataclasses.replace(weights.settings, encoder="antigravity:Encoder")
    path = tmp_path / "own.safetensors"
    path.write_bytes(stored.to_bytes(dataclasses.replace(weights, settings=settings)))
    with pytest.raises(UserError, match="it names the encoder 'antigravity:Encoder', and only darknet53, mobilenet_v2"):
        stored.load(path)
    assert "antigravity" not in sys.modules


@pytest.fixture(scope="module")
def conv74():
    """darknet53.conv.74 as documented: a header, and for each convolution beta, gamma, mean, variance, kernel."""
    rng = np.random.default_rng(0)
    parts = []
    for size, inputs, outputs in darknet.layers():
        parts.append([rng.random(outputs, np.float32) for _ in range(4)])
        parts[-1].append(rng.standard_normal((outputs, inputs, size, size), np.float32))
    header = struct.pack("<3iQ", 0, 2, 0, 1234)
    return parts, header + b"".join(np.concatenate([p.ravel() for p in part]).tobytes() for part in parts)


def test_darknets_file_reads_back_exactly(conv74, tmp_path):
    parts, content = conv74
    assert len(content) == 162_482_580
    path = tmp_path / "darknet53.conv.74"
    path.write_bytes(content)
    weights, folded = imported.read(path)
    assert not folded
    assert weights.settings.encoder == "darknet53"
    assert weights.settings.conventions.slope == 0.1
    for place, (beta, gamma, mean, var, kernel) in zip(darknet53.convolutions(), parts, strict=True):
        params, stats = weights.variables["params"]["encoder"], weights.variables["batch_stats"]["encoder"]
        for key in place:
            params, stats = params[key], stats[key]
        np.testing.assert_array_equal(params["kernel"], kernel.transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(params["norm"]["bias"], beta)
        np.testing.assert_array_equal(params["norm"]["scale"], gamma)
        np.testing.assert_array_equal(stats["norm"]["mean"], mean)
        np.testing.assert_array_equal(stats["norm"]["var"], var)


@pytest.mark.parametrize("change", [-4, 4, 4100])
def test_darknets_file_of_another_length_is_refused(conv74, change):
    _, content = conv74
    content = content[:change] if change < 0 else content + bytes(change)
    with pytest.raises(UserError, match=r"has 162,4\d\d,\d{3} bytes; darknet53.conv.74 has 162,482,580"):
        darknet.read(content, "darknet53.conv.74")


def test_mutations_of_darknets_file_are_refused_in_one_line_or_read(conv74, tmp_path):
    """A third of the others' number by default: a file has 162 MB."""
    path = tmp_path / "darknet53.conv.74"
    path.write_bytes(conv74[1])
    _all_are_refused_or_read(path, imported.read, MUTATIONS if MUTATIONS >= 1000 else MUTATIONS // 3)
