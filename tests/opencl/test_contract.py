"""Every OpenCL device against the contract that `wcodec.testing` holds."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.support.opencl import as_gpu, found_devices
from wcodec.opencl import filler
from wcodec.opencl.accelerate import Accelerator
from wcodec.opencl.device import Device
from wcodec.opencl.tensors import make_factors
from wcodec.testing import check_device


@pytest.mark.skipif("CI" not in os.environ, reason="only where tests run for others a device must be there")
def test_ci_has_a_device() -> None:
    devices, reason = found_devices()
    assert any(device.works for device in devices), reason


def test_devices_keep_the_contract(device: Device) -> None:
    check_device(device)


def test_a_device_keeps_the_contract_as_if_its_memory_was_another(device: Device) -> None:
    check_device(as_gpu(device))


def test_the_contract_finds_numbers_that_are_wrong(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scales taken for zero points."""
    monkeypatch.setattr(filler, "make_factors", lambda *given, **how: replace(make_factors(*given, **how), zeros_at=0))
    with pytest.raises(AssertionError, match="differs"):
        check_device(device)


def test_the_contract_finds_bytes_that_are_wrong(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "_encode", lambda self, coder, frames: coder.encode(frames) + b"\0")
    with pytest.raises(AssertionError, match="the device's bytes are not the host's"):
        check_device(device)


def test_the_contract_finds_that_a_device_does_not_work(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """All would be right by NumPy."""
    monkeypatch.setattr(Accelerator, "usable", False)
    monkeypatch.setattr("wcodec.testing._POLICIES", ())
    with pytest.raises(AssertionError, match="the device failed"):
        check_device(device)
