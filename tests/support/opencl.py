"""The OpenCL devices of this machine, and archives to load onto them."""

from __future__ import annotations

import io
from functools import cache
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zstandard

import wcodec
from wcodec import Policy
from wcodec.errors import MissingDependencyError
from wcodec.model import DTYPES, Array
from wcodec.opencl.device import Device
from wcodec.opencl.platforms import INSTALL, OpenCLDevice, list_devices


@cache
def found_devices() -> tuple[tuple[OpenCLDevice, ...], str]:
    """Every device, and if there is none, why."""
    try:
        return list_devices(), f"no OpenCL device; {INSTALL}"
    except MissingDependencyError as error:
        return (), str(error)


@cache
def opened(number: int) -> Device:
    return Device.open(f"opencl:{number}")


@cache
def as_gpu(device: Device) -> Device:
    """A device that is driven as one whose memory is not the host's, and whose work-items have one lane each."""
    made = Device(device.device)
    made.__dict__["is_cpu"] = False
    return made


def encoded(arrays: dict[str, Array], *, lane: int = 300, **policy: Any) -> bytes:
    """An archive whose lanes are short: NumPy takes as long as the longest."""
    stream = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wcodec.coders.rans.coder.LANE", 2 * lane)
        wcodec.encode(wcodec.Model.from_arrays(arrays), stream, Policy(**policy))
    return stream.getvalue()


def smooth(rng: np.random.Generator, *shape: int) -> Array:
    """Kernels whose weights are alike, so that they are predicted from each other."""
    return (rng.laplace(size=(*shape[:2], *(1,) * len(shape[2:]))) + 0.1 * rng.laplace(size=shape)).astype(np.float32)


def weights() -> dict[str, Array]:
    """Kernels of all kinds, rows longer than a lane, sides that fill no block, other dtypes and ranks, and none."""
    rng = np.random.default_rng(11)
    arrays: dict[str, Array] = {
        "dense": rng.laplace(size=(65, 130)) * rng.lognormal(size=(65, 1)),
        "1x1": rng.laplace(size=(33, 18, 1, 1)),
        "3x3": smooth(rng, 18, 14, 3, 3),
        "depthwise": smooth(rng, 170, 1, 3, 3),
        "long row": rng.laplace(size=(3, 1001)),
        "long row of kernels": smooth(rng, 5, 71, 3, 3),
        "vector": rng.laplace(size=50),
        "one": np.array([[-1.5]]),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 4)),
        "empty rows": np.zeros((3, 0)),
        "empty kernels": np.zeros((2, 0, 3, 3)),
        "constant": np.full((40, 30), 0.25),
        "bias": rng.laplace(size=40),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    for name in ("f16", "bf16", "f64"):
        arrays[name] = rng.laplace(size=(20, 24)).astype(DTYPES[name])
    return arrays


def large_kernels() -> dict[str, Array]:
    """Devices have kernels of their own for each size."""
    rng = np.random.default_rng(13)
    return {
        "5x5": smooth(rng, 12, 9, 5, 5),
        "7x7": smooth(rng, 18, 6, 7, 7),
        "three axes": rng.laplace(size=(7, 19, 5)).astype(np.float32),
    }


QUANTIZED = ("vector", "scalar")
"""Names of `weights` that are quantized only if a policy says so."""


def kept() -> dict[str, Array]:
    """A tensor of every dtype, and floats that halves hold as infinite, subnormal or no number."""
    rng = np.random.default_rng(12)
    odd = np.array([[0.0, -0.0, 1e-7, 65504, 65519.9, 65520, 1e30], [np.inf, -np.inf, np.nan, 1 / 3, -1e-5, 6e-8, 1]])
    arrays: dict[str, Array] = {"odd": odd.astype(np.float32), "odd f64": np.where(odd == 1e30, 1e300, odd)}
    arrays["odd bf16"] = odd.astype(ml_dtypes.bfloat16)
    arrays["integer"] = np.array(-(2**63))
    for name, dtype in DTYPES.items():
        integers = rng.integers(-8, 8, (19, 7))
        arrays[f"as {name}"] = (integers & 1 if name == "bool" else abs(integers) if "u" in name else integers).astype(
            dtype
        )
    for bits in (8, 16, 32, 64):
        arrays[f"whole u{bits}"] = rng.integers(0, 2**bits, (5, 41), np.dtype(f"u{bits // 8}"))
        arrays[f"whole i{bits}"] = arrays[f"whole u{bits}"].view(f"i{bits // 8}")
    return arrays


def laid_open(payload: bytes) -> bytes:
    """A payload of `rans` whose side information is stored as it is, so that any of its bytes can be changed."""
    stored = int.from_bytes(payload[12:16], "little")
    length = stored & 0x7FFFFFFF
    side = payload[16 : 16 + length]
    if length == stored:
        side = zstandard.ZstdDecompressor().decompress(side)
    return payload[:12] + (len(side) | 1 << 31).to_bytes(4, "little") + side + payload[16 + length :]


def parts_of(payload: bytes, lanes: int) -> dict[str, range]:
    """Where the parts of what `laid_open` gives lie."""
    words = 16 + (int.from_bytes(payload[12:16], "little") & 0x7FFFFFFF)
    ends = [0, 16, words - 6 * lanes, words - 4 * lanes, words, len(payload)]
    names = ("head", "model", "counts", "states", "words")
    return {name: range(*pair) for name, pair in zip(names, pairwise(ends), strict=True)}


def fresh(device: Device) -> Device:
    """The same device, which has built nothing yet."""
    return Device(device.device)
