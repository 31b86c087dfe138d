"""Which devices share a batch, and which batches they cannot share."""

import re
from types import SimpleNamespace

import pytest

from jaxseg.config import UserError
from jaxseg.train import parallel


def _devices(monkeypatch, platform: str, here: int, everywhere: int) -> list[SimpleNamespace]:
    """As many processes as the devices of one go into all of them."""
    devices = [SimpleNamespace(platform=platform, process_index=i // here) for i in range(everywhere)]
    monkeypatch.setattr(parallel.jax, "local_devices", lambda: devices[:here])
    monkeypatch.setattr(parallel.jax, "devices", lambda: devices)
    monkeypatch.setattr(parallel.jax, "process_count", lambda: everywhere // here)
    return devices


@pytest.mark.parametrize(
    ("batch", "everywhere", "nearest"), [(7, 2, "6 or 8"), (3, 8, "8"), (17, 16, "16 or 32"), (9, 4, "8 or 12")]
)
def test_a_batch_that_accelerators_do_not_divide_is_refused_with_the_nearest_that_they_do(
    monkeypatch, batch, everywhere, nearest
):
    _devices(monkeypatch, "gpu", min(everywhere, 4), everywhere)
    message = f"`train.batch` {batch} is not divided by {everywhere} devices. Choose {nearest}."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        parallel.devices_for(batch)


def test_all_devices_of_all_processes_share_a_batch_that_they_divide(monkeypatch):
    devices = _devices(monkeypatch, "gpu", 4, 8)
    assert parallel.devices_for(16) == devices


def test_parts_of_a_batch_are_shared_too(monkeypatch):
    _devices(monkeypatch, "gpu", 4, 8)
    with pytest.raises(UserError, match=r"24 is not divided by 8 devices times 2 parts\. Choose 16 or 32\."):
        parallel.devices_for(24, 2)


@pytest.mark.parametrize(("batch", "used"), [(8, 4), (6, 3), (7, 1), (2, 2)])
def test_as_many_cores_are_used_as_divide_the_batch(monkeypatch, batch, used):
    devices = _devices(monkeypatch, "cpu", 4, 4)
    assert parallel.devices_for(batch) == devices[:used]


@pytest.mark.parametrize(("batch", "used"), [(8, 2), (6, 3), (10, 1)])
def test_every_process_uses_as_many_cores(monkeypatch, batch, used):
    devices = _devices(monkeypatch, "cpu", 3, 6)
    assert parallel.devices_for(batch) == [*devices[:used], *devices[3 : 3 + used]]
