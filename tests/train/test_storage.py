"""Folders and prefixes of an object store; no store is at hand here, so what is written goes to a folder."""

import struct
import sys
from pathlib import Path

import pytest
from etils import epath

from jaxseg import config
from jaxseg.train import storage


def test_a_path_is_a_folder():
    assert storage.folder("runs/a") == Path("runs/a")
    assert not storage.remote(storage.folder("runs/a"))
    assert storage.absolute(Path("runs/a")) == Path("runs/a").absolute()


def test_stores_that_cannot_be_used_are_refused(monkeypatch):
    with pytest.raises(config.UserError, match=r"s3://bucket/a is in no store .* gs://BUCKET"):
        storage.folder("s3://bucket/a")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(config.UserError, match=r"gs://bucket/a needs gcsfs, .* pip install gcsfs"):
        storage.folder("gs://bucket/a")


def test_a_path_in_a_store_stays_what_it_is():
    path = epath.Path("gs://bucket/run")
    assert storage.remote(path)
    assert str(storage.absolute(path) / "checkpoints") == "gs://bucket/run/checkpoints"


def test_event_files_are_whole_after_every_flush(tmp_path):
    file = storage.EventFiles().open(str(tmp_path / "events"))
    for n in range(3):
        file.write(struct.pack("I", n))
        file.flush()
        assert (tmp_path / "events").read_bytes() == struct.pack(f"{n + 1}I", *range(n + 1))
    file.write(b"last")
    file.close()
    assert (tmp_path / "events").read_bytes().endswith(b"last")
