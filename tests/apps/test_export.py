"""One file for programs that know JAX alone: equal results, versions, and files that are damaged or mean ill."""

import contextlib
import gzip
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from packaging.version import Version

import jaxseg
from jaxseg import config
from jaxseg.apps import export, exported
from jaxseg.types import Segmentation, Thresholds
from tests.apps.exports import FRAME, GOLDEN, SETTINGS, tiny

ROOT = Path(__file__).parents[2]
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def network():
    return tiny()


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "tiny.jaxseg"
    export.export(network, path, FRAME)
    return path


def arrays_of(file):
    with np.load(file) as archive:
        return dict(archive)


def write(path, arrays, save=np.savez, **about):
    """An archive of these arrays, with other values in what it says of itself."""
    said = json.loads(arrays["about"].tobytes()) | about
    with path.open("wb") as stream:
        save(stream, **(arrays | {"about": np.frombuffer(json.dumps(said).encode(), np.uint8)}))
    return path


def assert_equal(ours, theirs):
    """Integers exactly, floats within 1e-5."""
    found = 0
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(a, b)
            found += int(np.asarray(a).any())
    assert found > 3, "results without objects would say nothing"


def assert_refused(path, *words):
    with pytest.raises(config.UserError) as refused:
        exported.load(path)
    for word in words:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value).strip()


def test_results_are_those_of_the_network(network, file):
    loaded = jaxseg.load(file)
    assert loaded.classes == network.classes
    assert loaded.frame == FRAME
    assert loaded.about["step"] == 7
    assert_equal(network(FRAMES[0]), loaded(FRAMES[0]))
    assert_equal(network(FRAMES), loaded(jnp.asarray(FRAMES)))
    other = Thresholds(center=0.06, assignment=1e3, duplicate=0.0, compactness=1.0)
    assert (network(FRAMES, other).instance != network(FRAMES).instance).any()
    assert_equal(network(FRAMES, other), loaded(FRAMES, other))
    inside = jax.jit(lambda frames: loaded(frames))(FRAMES[0])
    assert isinstance(inside, Segmentation)
    assert_equal(network(FRAMES[0]), inside)


def test_the_batch_is_free_and_each_size_compiles_once(file):
    loaded = exported.load(file)
    for batch in (1, 2, 3, 2, 1):
        assert loaded(FRAMES[:batch]).semantic.shape == (batch, *FRAME)
    assert loaded._compiled._cache_size() == 3
    assert loaded.warmup(batch=3) < 5
    assert loaded._compiled._cache_size() == 3


@pytest.mark.parametrize("frames", [FRAMES[0, :16], FRAMES[0].astype(np.float32), FRAMES[..., :1], FRAMES[None]])
def test_other_frames_are_refused(file, frames):
    with pytest.raises(ValueError, match=r"`frames` must be (32 x 64|uint8)"):
        exported.load(file)(frames)


def test_the_same_network_gives_the_same_bytes_and_names_no_file_of_this_machine(network, file, tmp_path):
    export.export(network, tmp_path / "again", FRAME)
    assert (tmp_path / "again").read_bytes() == file.read_bytes()
    program = arrays_of(file)["program"].tobytes()
    assert b".py" not in program
    assert str(ROOT).encode() not in program


def test_platforms(network, tmp_path):
    about = export.export(network, tmp_path / "both", FRAME, ["cpu", "tpu"])
    assert about["platforms"] == ["cpu", "tpu"]
    export.export(network, tmp_path / "tpu", FRAME, ["tpu"])
    assert_refused(tmp_path / "tpu", "was exported for tpu, and JAX runs on cpu here", "--platforms cpu")
    with pytest.raises(config.UserError, match=r"unknown platform 'gpu'\. Choose of cpu, cuda, rocm, tpu"):
        export.export(network, tmp_path / "gpu", FRAME, ["gpu"])


def test_the_command_says_what_it_wrote(network, tmp_path, capsys, monkeypatch):
    export.command(network, tmp_path / "net", FRAME, [])
    said = capsys.readouterr().out
    assert f"{tmp_path / 'net'}: " in said
    assert "tiny at step 7, for batches of 32 x 64; cpu, cuda, tpu, jax " in said
    with pytest.raises(config.UserError, match="--platforms is not for ONNX"):
        export.command(network, tmp_path / "net.onnx", FRAME, ["cpu"])
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(config.UserError, match="needs the package jax2onnx"):
        export.command(network, tmp_path / "net.onnx", FRAME, [])
    assert not (tmp_path / "net.onnx").exists()


def test_a_frame_size_is_needed_unless_the_network_has_one(network, tmp_path):
    with pytest.raises(config.UserError, match="--frame H W"):
        export.export(network, tmp_path / "x")
    with pytest.raises(config.UserError, match="--frame must be at least 1 1: got 0 5"):
        export.export(network, tmp_path / "x", (0, 5))
    with pytest.raises(ValueError, match="`size` must be given"):
        network.warmup()
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_leaves_what_is_there(network, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(config.UserError, match="cannot be written"):
        export.export(network, tmp_path / "file" / "x", FRAME)
    with pytest.raises(config.UserError, match=r"is a folder\. Name a file in it"):
        export.export(network, tmp_path, FRAME)
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_the_example_runs_without_this_package(network, file, tmp_path):
    """In a process in which importing jaxseg or flax fails."""
    np.save(tmp_path / "frame.npy", FRAMES[0])
    lines = (ROOT / "examples" / "run_exported.py").read_text()
    assert len(lines.splitlines()) <= 24
    (tmp_path / "run.py").write_text("import sys\nsys.modules['jaxseg'] = sys.modules['flax'] = None\n" + lines)
    command = [sys.executable, "run.py", str(file), "frame.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = jax.device_get(network(FRAMES[0]))
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_array_equal(found["semantic"], wanted.semantic)
        np.testing.assert_array_equal(found["instance"], wanted.instance)
    assert len(done.stdout.splitlines()) == wanted.instances.valid.sum() > 0
    assert any(f" {name} " in done.stdout for name in ("disc", "square"))


def golden(version, folder):
    path = folder / "golden"
    path.write_bytes(gzip.decompress((GOLDEN / f"exported_by_jax_{version}.npz.gz").read_bytes()))
    return path


def assert_alike(network, loaded):
    """Nearly all pixels: the golden files' weights are those of another version and machine, up to rounding."""
    ours, theirs = network(FRAMES), loaded(FRAMES)
    assert (ours.semantic == theirs.semantic).mean() > 0.98
    assert (ours.instance == theirs.instance).mean() > 0.95
    assert theirs.instances.valid.any()


def test_a_file_of_an_older_jax_is_read(network, tmp_path):
    assert_alike(network, exported.load(golden("0.10.2", tmp_path)))


def test_a_file_of_a_newer_jax_is_read_or_says_what_to_install(network, tmp_path, capfd):
    path = golden("0.11.2", tmp_path)
    if Version(jax.__version__) >= Version("0.11.2"):
        assert_alike(network, exported.load(path))
    else:
        words = f"was exported by jax 0.11.2, and this jax {jax.__version__} cannot read it"
        assert_refused(path, words, "Install jax 0.11.2 or newer, or export it again")
    assert capfd.readouterr().err == ""


def test_another_layout_is_of_another_version(file, tmp_path):
    path = write(tmp_path / "x", arrays_of(file), format="jaxseg exported network 2")
    assert_refused(path, "is a 'jaxseg exported network 2', of another version of jaxseg. Export it again.")


DAMAGED = "is no file of jaxseg export, or a damaged one"


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04" + 40 * b"\0"])
def test_something_else_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert_refused(tmp_path / "x", DAMAGED)


def test_a_cut_or_changed_file_is_refused(file, tmp_path):
    whole, path = file.read_bytes(), tmp_path / "x"
    for cut in (100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert_refused(path, DAMAGED)
    rng, kept, noticed = np.random.default_rng(0), exported.load(file), 0
    for at in rng.integers(0, len(whole), 40):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        loaded = None
        with contextlib.suppress(config.UserError):
            loaded = exported.load(path)
        noticed += loaded is None
        if loaded is not None:  # A bit of a date, say, changes nothing.
            assert loaded.about == kept.about
            jax.tree.map(np.testing.assert_array_equal, loaded.weights, kept.weights)
    assert noticed > 20


def test_every_missing_part_is_noticed(file, tmp_path):
    arrays = arrays_of(file)
    weight = json.loads(arrays["about"].tobytes())["weights"][3]
    for name in ("about", "program", weight):
        content = io.BytesIO()
        np.savez(content, **{k: v for k, v in arrays.items() if k != name})
        (tmp_path / "x").write_bytes(content.getvalue())
        assert_refused(tmp_path / "x", DAMAGED)
    write(tmp_path / "x", arrays | {weight: arrays[weight][..., :1]})
    assert_refused(tmp_path / "x", DAMAGED, "its program takes other arrays than it holds")


@pytest.mark.parametrize(
    "about",
    [
        {"frame": [64, 32]},
        {"frame": [64]},
        {"frame": ["32", "64"]},
        {"frame": [10**9, 10**9]},
        {"classes": ["background", "disc"]},
        {"classes": 7},
        {"colors": [[1, 2]]},
        {"colors": [[1, 2, 300]]},
        {"thresholds": {"center": 0.5}},
        {"thresholds": {"center": "0", "assignment": 0.1, "duplicate": 0.1, "compactness": 1.0}},
        {"weights": ["about"]},
        {"weights": [["about"]]},
        {"format": None},
        {"format": "jaxseg exported network "},
        {"jax": 3},
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused(file, tmp_path, about):
    with pytest.raises(config.UserError):
        exported.load(write(tmp_path / "x", arrays_of(file), **about))


class Malice:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_not_read(file, tmp_path):
    harm = np.empty(1, object)
    harm[0] = Malice(tmp_path / "harm")
    arrays = arrays_of(file)
    for name in ("about", "program", "other"):
        content = io.BytesIO()
        np.savez(content, **(arrays | {name: harm}))
        (tmp_path / "x").write_bytes(content.getvalue())
        assert_refused(tmp_path / "x", DAMAGED)
    assert not (tmp_path / "harm").exists()


def test_bombs_are_not_unpacked(file, tmp_path):
    arrays = arrays_of(file)
    assert_refused(write(tmp_path / "x", arrays, np.savez_compressed), DAMAGED, "compressed")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "y", "w") as archive:
        archive.writestr("about.npy", header.getvalue() + b"1234")
    assert_refused(tmp_path / "y", DAMAGED, "not what its header says")


def test_a_program_that_calls_other_code_is_refused(file, tmp_path):
    """It would run whatever is registered under a name: a callback of Python among it, by its address."""
    arrays, target = arrays_of(file), "xla_ffi_python_cpu_callback"

    def spying(weights, frames, thresholds):
        return jax.ffi.ffi_call(target, jax.ShapeDtypeStruct((), jnp.float32))(frames)

    program = jax_export.deserialize(bytearray(arrays["program"].tobytes()))
    inputs, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    checks = [jax_export.DisabledSafetyCheck.custom_call(target)]
    made = jax_export.export(jax.jit(spying), platforms=["cpu"], disabled_checks=checks)(*inputs)
    path = write(tmp_path / "x", arrays | {"program": np.frombuffer(made.serialize(), np.uint8)})
    assert_refused(path, f"is refused: its program calls {target}")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('%1 = stablehlo.custom_call @Evil(%0) {backend_config = ""}', "Evil"),
        ('%1 = stablehlo.custom_call @"Evil.2"(%0)', "Evil.2"),
        ('%1 = "stablehlo.custom_call"(%0) {call_target_name = "shape_assertion"}', "something"),
        ('%1 = "stablehlo.infeed"(%0)', "infeed"),
        ("stablehlo.custom_call @shape_assertion(%4, %5)", ""),
        ("%1 = stablehlo.add %0, %0", ""),
    ],
)
def test_operations_that_reach_out(line, name):
    assert exported._reaching_out(line) == name


def test_settings_have_what_the_tests_need():
    assert SETTINGS.data.stuff
    assert SETTINGS.data.colors
