"""`rans` on OpenCL devices for the host: NumPy's bytes, symbols and errors."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.opencl import as_gpu, laid_open, parts_of
from wcodec import AllocationError, CoderError, CorruptFileError, DeviceError
from wcodec.coders.base import Frames
from wcodec.coders.rans import Rans
from wcodec.engine import HOST, engine_for
from wcodec.opencl import accelerate
from wcodec.opencl.accelerate import Accelerator
from wcodec.opencl.device import Device
from wcodec.testing import outcome

KINDS = [
    *((1, dtype) for dtype in ("i1", "u1", "i2", "u2")),
    *((9, dtype) for dtype in ("i1", "u2")),
    (25, "i2"),
    (49, "u1"),
]
"""Each has kernels of its own, which take a while to build."""


@cache
def accelerator(device: Device) -> Accelerator:
    return Accelerator(device)


def frames_of(dtype: str, period: int, rows: int, columns: int, spread: float, alike: bool, seed: int) -> Frames:
    """Symbols around a middle, in the whole range of the dtype or a part of it, those of kernels alike or not."""
    rng, ends = np.random.default_rng(seed), np.iinfo(np.dtype(dtype))
    scale = spread * (int(ends.max) - int(ends.min)) / 2
    kernels = rng.laplace(size=(rows, columns, 1)) * alike + rng.laplace(size=(rows, columns, period)) * (
        1 - 0.9 * alike
    )
    middle = (int(ends.max) + int(ends.min)) / 2
    kernels = kernels * scale * rng.lognormal(size=(rows, 1, 1)) + middle + scale * rng.normal()
    return np.clip(np.rint(kernels), ends.min, ends.max).astype(dtype).reshape(1, rows, -1)


@pytest.mark.parametrize(("period", "dtype"), KINDS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    lane=st.sampled_from([128, 200, 700]),
    spread=st.sampled_from([0.0, 0.001, 0.02, 0.2, 3.0]),
    alike=st.booleans(),
    seed=st.integers(0, 99),
)
def test_bytes_and_symbols_are_those_of_the_host(device, period, dtype, rows, columns, lane, spread, alike, seed):
    if (period, dtype) == (9, "u2"):
        alike = True
    if period > 9:
        # predicted, all of them
        rows, columns, spread, alike = 20 + rows, 8 + columns, 0.2, True
    coder, frames = Rans(lane, period), frames_of(dtype, period, rows, columns, spread, alike, seed)
    payload = accelerator(device).encode(coder, frames)
    assert payload == coder.encode(frames)
    out = np.full_like(frames, 77)
    accelerator(device).decode(coder, memoryview(payload), out)
    assert np.array_equal(out, frames)
    assert accelerator(device).usable


@pytest.mark.parametrize(("period", "dtype"), [(1, "i1"), (9, "u2")])
def test_bytes_and_symbols_are_the_same_as_if_memory_was_another(device: Device, period: int, dtype: str) -> None:
    frames, coder = frames_of(dtype, period, 45, 33, 0.1, True, 3), Rans(128, period)
    payload = accelerator(as_gpu(device)).encode(coder, frames)
    assert payload == coder.encode(frames)
    out = np.empty_like(frames)
    accelerator(as_gpu(device)).decode(coder, payload, out)
    assert np.array_equal(out, frames)
    assert accelerator(as_gpu(device)).usable


def test_lines_that_are_no_whole_kernels_are_refused(device: Device) -> None:
    frames = np.zeros((1, 3, 10), np.int8)
    with pytest.raises(CoderError, match="not whole kernels of 9"):
        accelerator(device).encode(Rans(128, 9), frames)
    with pytest.raises(CorruptFileError, match="not whole kernels of 9"):
        accelerator(device).decode(Rans(128, 9), b"", frames)


# Damage

HOSTILE = {
    "i1": (Rans(128, 9), frames_of("i1", 9, 60, 4, 0.1, True, 1)),
    "u2": (Rans(128, 9), frames_of("u2", 9, 60, 4, 0.05, True, 2)),
    "pieces": (Rans(128, 9), frames_of("i1", 9, 5, 40, 0.1, True, 3)),
}


@pytest.mark.parametrize("part", ["head", "model", "counts", "states", "words"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_host_and_device_agree_on_damage(device: Device, kind: str, part: str) -> None:
    """The same error, its words and its lane included, or the same symbols; of a row's pieces any may be named."""
    coder, frames = HOSTILE[kind]
    payload = laid_open(coder.encode(frames))
    places = parts_of(payload, len(coder.lanes(frames.reshape(-1, frames.shape[2]))))[part]
    rng = np.random.default_rng([len(kind), len(part)])
    refused = 0
    for _ in range(60):
        damaged = bytearray(payload)
        for place in rng.choice(places, rng.integers(1, 3)):
            damaged[place] = rng.integers(256) if rng.integers(2) else damaged[place] ^ 1 << rng.integers(8)
        host = outcome(coder.decode, bytes(damaged), frames)
        found = outcome(partial(accelerator(device).decode, coder), bytes(damaged), frames)
        assert type(found) is type(host), (host, found)
        if isinstance(host, str) and kind == "pieces" and "does not decode" in host:
            assert isinstance(found, str)
            assert "does not decode" in found
        else:
            assert np.array_equal(found, host)
        refused += isinstance(host, str)
    assert refused > 20
    assert accelerator(device).usable


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_device_names_the_lane_that_is_damaged(device: Device, kind: str) -> None:
    coder, frames = HOSTILE[kind]
    payload = laid_open(coder.encode(frames))
    lanes = len(coder.lanes(frames.reshape(-1, frames.shape[2])))
    states = parts_of(payload, lanes)["states"]
    for lane in range(lanes):
        damaged = bytearray(payload)
        damaged[states[3 * lanes + lane]] ^= 64  # of the last plane, which holds the highest byte of every lane
        found = outcome(partial(accelerator(device).decode, coder), bytes(damaged), frames)
        assert isinstance(found, str)
        assert found == f"rans payload: lane {lane} does not decode to symbols of its tensor"


@pytest.mark.parametrize("center", [0, 255])
def test_levels_beyond_8_bits_are_damage_though_symbols_could_be_such(device: Device, center: int) -> None:
    """All lanes end as they must: only where their levels lie is wrong."""
    rng = np.random.default_rng(0)
    frames, coder = rng.integers(-300, 300, (1, 20, 30)).astype(np.int16), Rans(128, 1)
    payload = bytearray(laid_open(coder.encode(frames)))
    assert not payload[2], "one center for all rows"
    payload[16 + frames.shape[1]] = center
    host = outcome(coder.decode, bytes(payload), frames)
    assert host == "rans payload: lane 0 does not decode to symbols of its tensor"
    for driven in (device, as_gpu(device)):
        assert outcome(partial(accelerator(driven).decode, coder), bytes(payload), frames) == host


# Devices that fail


@pytest.mark.parametrize("error", [DeviceError, AllocationError])
def test_numpy_goes_on_where_a_device_fails(
    device: Device, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    coder, frames = HOSTILE["i1"]
    payload = coder.encode(frames)
    for name in ("encode", "decode"):
        made = Accelerator(device)
        calls: list[str] = []

        def fail(*_: object, calls: list[str] = calls) -> None:
            calls.append("failed")
            raise error("the device is gone")

        monkeypatch.setattr(made._launcher, name, fail)
        for _ in range(2):
            out = np.empty_like(frames)
            if name == "encode":
                assert made.encode(coder, frames) == payload
            else:
                made.decode(coder, payload, out)
                assert np.array_equal(out, frames)
            assert not made.usable
        assert calls == ["failed"]


def test_damage_is_no_failure_of_the_device(device: Device) -> None:
    made, (coder, frames) = Accelerator(device), HOSTILE["i1"]
    with pytest.raises(CorruptFileError):
        made.decode(coder, coder.encode(frames)[:-2], np.empty_like(frames))
    assert made.usable


def test_the_engine_is_a_device_for_large_models_only(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_for(1000) is HOST
    found = engine_for(1 << 24)
    assert isinstance(found, Accelerator)
    assert engine_for(1 << 24) is found
    monkeypatch.setattr(accelerate, "accelerator", lambda: None)
    assert engine_for(1 << 24) is HOST


CHILD = """
import io, os, sys
import numpy as np
import wcodec
from wcodec import engine
from wcodec.opencl import accelerate

coder = wcodec.coders.rans.Rans(128, 1)
frames = np.arange(3000).astype(np.int8).reshape(1, 30, 100)
sound = coder.encode(frames)
data = io.BytesIO()
wcodec.encode({"w": np.ones((40, 40), np.float32)}, data)
if sys.argv[1] == "device":
    # of the caller's choice: wcodec was not asked which there are
    from wcodec.opencl.device import Device
    from wcodec.opencl.platforms import import_pyopencl
    weight = wcodec.load(data.getvalue(), Device(import_pyopencl().get_platforms()[0].get_devices()[0]))["w"]
elif sys.argv[1] == "accelerator":
    assert accelerate.accelerator().encode(coder, frames) == sound
else:
    weight = wcodec.load(data.getvalue(), "opencl")["w"]
    weight.array()
child = os.fork()
if not child:
    try:
        if sys.argv[1] == "load":
            loads = wcodec.load
            for use in (
                lambda: loads(data.getvalue(), "opencl"),
                lambda: loads(data.getvalue(), weight.device),
                lambda: loads(data.getvalue(), weight.device, out={"w": weight}),
                weight.array,
            ):
                try:
                    use()
                    raise AssertionError("OpenCL works where it cannot")
                except wcodec.DeviceError as error:
                    assert "forked" in str(error)
        found = engine.engine_for(1 << 24)
        assert found.encode(coder, frames) == sound
        out = np.empty_like(frames)
        found.decode(coder, sound, out)
        assert np.array_equal(out, frames)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert engine.engine_for(1 << 24).encode(coder, frames) == sound, "afterwards"
print("both are done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
@pytest.mark.parametrize("before", ["accelerator", "load", "device"])
def test_a_forked_child_does_without_the_device(device: Device, before: str) -> None:
    """The child has the runtime's memory, but not its threads: what waits for one waits for ever."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, before],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "both are done\n", done.stdout + done.stderr
    assert done.returncode == 0
