"""What `wcodec devices` finds out about video, on any machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wcodec.coders import probe
from wcodec.coders.probe import probe_video
from wcodec.coders.video import VIDEO_CODERS


def test_what_our_coders_use_is_found_and_works() -> None:
    found = probe_video()
    assert {device.codec for device in found} == VIDEO_CODERS.keys()
    assert len({(device.name, device.kind) for device in found}) == len(found)
    for device in found:
        assert device.works == (device.reason == ""), device
        assert "\n" not in device.reason
    for kind in VIDEO_CODERS.values():
        for name, role in ((kind.encoder, "encoder"), (kind.decoder, "decoder")):
            (device,) = [device for device in found if (device.name, device.kind) == (name, role)]
            assert device.works
            assert not device.hardware
    # FFmpeg's own AV1 decoder only drives hardware.
    assert not any(
        device.works for device in found if (device.name, device.kind, device.hardware) == ("av1", "decoder", False)
    )


def _driver(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Children run this shell script in place of Python."""
    driver = folder / "driver"
    driver.write_text(f"#!/bin/sh\n{script}\n")
    driver.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(driver))


TRIALS: list[tuple[probe.Kind, str]] = [("encoder", "first"), ("decoder", "second"), ("decoder", "third")]


def test_a_driver_that_dies_costs_only_its_own_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The child answers its first trial after some noise, and dies in its second.
    _driver(monkeypatch, tmp_path, 'printf "noise\\n\\nwcodec: \\n"; [ "$6" ] || [ "$5" ] || exit 0; kill -ABRT $$')
    reasons = probe._try_all(TRIALS, 10)
    assert reasons == ["", "its driver ended the process (exit code -6)", ""]


def test_a_driver_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _driver(monkeypatch, tmp_path, 'printf "\\nwcodec: no device\\n"; exec sleep 20')
    assert probe._try_all(TRIALS[:2], 1.5) == ["no device", "no answer within 1.5 s"]


def test_nothing_is_not_a_decoder() -> None:
    (reason,) = probe._try_all([("decoder", "libx264")], 20)
    assert reason != ""
