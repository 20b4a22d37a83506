"""The contracts of coders and of devices, as suites: run them over your own with `check_coder` and `check_device`."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wcodec.archive import open_archive
from wcodec.archived import ArchivedTensor
from wcodec.coders.base import Coder, Frames
from wcodec.coders.rans import Rans
from wcodec.encode import encode
from wcodec.errors import CorruptFileError
from wcodec.loader import load
from wcodec.model import DTYPES, FLOATS, Array
from wcodec.opencl.accelerate import Accelerator
from wcodec.opencl.layout import PackedLayout
from wcodec.opencl.tensors import DeviceTensor
from wcodec.policy import Policy

if TYPE_CHECKING:
    from wcodec.opencl.device import Device


def symbols_for(dtype: np.dtype[Any], bits: int, shape: tuple[int, ...]) -> Frames:
    """Symbols that use the whole range of `bits`, the same on every machine: a linear congruential sequence.

    Half of the integers are small, as trained weights are, and the extremes are among them; floats are any bits.
    """
    size = math.prod(shape)
    state = (np.arange(1, size + 1, dtype=np.uint64) * np.uint64(6364136223846793005)) ^ np.uint64(0x9E3779B97F4A7C15)
    state ^= state >> np.uint64(29)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    if dtype.kind not in "iu" or bits > 32:
        return (state >> np.uint64(64 - 8 * dtype.itemsize)).astype(f"<u{dtype.itemsize}").view(dtype).reshape(shape)
    noise = (state >> np.uint64(64 - bits)).astype(np.int64)
    middle = 1 << (bits - 1)
    noise = np.where(state & np.uint64(1) == 1, noise, middle + (noise - middle) // max(1, middle // 8))
    noise[0], noise[-1] = 0, (1 << bits) - 1
    if dtype.kind == "i":
        noise -= middle
    return noise.astype(dtype).reshape(shape)


def frame_shapes(coder: Coder) -> Iterator[tuple[int, int, int]]:
    """Least, odd, flat, tall and several frames, within the coder's limits."""
    if coder.limits is None:
        yield from ((1, 1, 1), (1, 1, 37), (1, 53, 1), (1, 7, 129), (3, 5, 11))
        return
    low = coder.limits.low
    yield from ((1, low, low), (1, low + 1, low), (1, low, low + 3), (3, low + 1, low + 2))


def check_coder(coder: Coder, dtype: np.dtype[Any], bits: int) -> None:
    """Assert the contract of `Coder` for symbols of one kind, over every shape of `frame_shapes`."""
    assert coder.takes(dtype, bits)
    for shape in frame_shapes(coder):
        frames = symbols_for(dtype, bits, shape)
        given = frames.copy()
        payload = coder.encode(frames)
        assert np.array_equal(_bits(frames), _bits(given)), "encode changed its input"
        assert payload == coder.encode(frames), "the same frames gave other bytes"
        for view in (payload, memoryview(payload)):
            out = np.full_like(_bits(frames), 0xA5).view(dtype).reshape(shape)
            coder.decode(view, out)
            if coder.lossless:
                assert np.array_equal(_bits(out), _bits(frames)), "decode is not the inverse of encode"
        for damaged in (b"", payload[:-1], payload[: len(payload) // 2], payload + b"\0"):
            _refused(coder, damaged, frames)
        larger = np.empty((shape[0] + 8, *shape[1:]), dtype)
        _refused(coder, payload, larger)


def _refused(coder: Coder, payload: bytes, like: Frames) -> None:
    try:
        coder.decode(payload, np.empty_like(like))
    except CorruptFileError:
        return
    raise AssertionError(f"{len(payload)} bytes that are not such frames were taken for {like.shape}")


def _bits(frames: Frames) -> Frames:
    return frames.reshape(-1).view(np.uint8)


SYMBOL_KINDS: tuple[tuple[np.dtype[Any], int], ...] = (
    *((np.dtype(np.int8), bits) for bits in (2, 3, 4, 7, 8)),
    *((np.dtype(np.uint8), bits) for bits in (2, 4, 8)),
    *((np.dtype(np.int16), bits) for bits in (10, 12, 16)),
    *((np.dtype(np.uint16), bits) for bits in (10, 12, 16)),
    *(
        (dtype, 8 * dtype.itemsize)
        for dtype in DTYPES.values()
        if 2 < dtype.itemsize < 16 or dtype.name.startswith(("float", "bfloat"))
    ),
)
"""Dtypes and bits of symbols that coders meet."""


def check_device(device: Device) -> None:
    """Assert that an OpenCL device codes `rans` as the host does, and decodes archives to what the host makes of them.

    Takes some seconds when the device has to build its kernels, which it does once.
    """
    accelerator = Accelerator(device)
    for dtype, bits in ((np.int8, 8), (np.uint8, 4), (np.int16, 12), (np.uint16, 16)):
        for period, shape in ((1, (1, 37, 129)), (9, (1, 20, 27)), (9, (1, 3, 306))):
            _check_accelerator(accelerator, Rans(128, period), symbols_for(np.dtype(dtype), bits, shape))
    for policy in _POLICIES:
        with open_archive(_archive_of(policy)) as archive:
            for kind, layout in _LOADS:
                numbers = {name: numbers_of(archive.tensor(name), kind) for name in archive}
                found = load(archive, device, dtype=kind, layout=layout)
                for again in (found, load(archive, device, out=found)):
                    for name, tensor in again.items():
                        check_on_device(tensor, numbers[name], layout)
    assert accelerator.usable, "the device failed"


_LOADS: tuple[tuple[Literal["f16", "f32"], PackedLayout | None], ...] = (("f16", None), ("f32", PackedLayout(4, 3)))

_POLICIES = (
    Policy(coder="raw", per="tensor", bits=12, min_size=1),
    Policy(coder="zstd", per="group", group_size=3, bits=4, symmetric=False, min_size=1),
    Policy(coder="rans", min_size=1),
    Policy(coder="rans", per="group", group_size=3, bits=12, symmetric=False, min_size=1),
    Policy(coder="ffv1", min_size=1),
    Policy(coder="floats", lossless=True),
)


@cache
def _archive_of(policy: Policy) -> bytes:
    shapes = {"dense": (33, 70), "1x1": (18, 7, 1, 1), "3x3": (18, 7, 3, 3), "bias": (18,), "empty": (0, 4)}
    kind, stream = np.dtype(np.int16), io.BytesIO()
    arrays: dict[str, Array] = {
        name: symbols_for(kind, 12, shape).astype(np.float32) / 1000 if math.prod(shape) else np.zeros(shape)
        for name, shape in shapes.items()
    }
    arrays["3x3"] = arrays["3x3"] / 8 + arrays["1x1"]  # predicted from each other
    arrays["half"] = arrays["dense"].astype(np.float16)
    arrays["integers"] = symbols_for(kind, 16, (40, 11))
    encode(arrays, stream, policy)
    return stream.getvalue()


def _check_accelerator(accelerator: Accelerator, coder: Rans, frames: Frames) -> None:
    payload = accelerator.encode(coder, frames)
    assert payload == coder.encode(frames), "the device's bytes are not the host's"
    out = np.full_like(frames, 99)
    accelerator.decode(coder, payload, out)
    assert np.array_equal(out, frames), "the device's symbols are not the host's"
    for damaged in (payload[:-2], payload[:-1] + bytes([payload[-1] ^ 1]), payload + b"\0\0"):
        host = outcome(coder.decode, damaged, frames)
        other = outcome(partial(accelerator.decode, coder), damaged, frames)
        assert np.array_equal(host, other), "the device does not find the damage that the host finds"


def outcome(decode: Callable[[bytes, Frames], None], payload: bytes, like: Frames) -> Frames | str:
    """What a payload decodes to, or why it is refused."""
    out = np.empty_like(like)
    try:
        decode(payload, out)
    except CorruptFileError as error:
        return str(error)
    return out


def check_on_device(found: DeviceTensor, numbers: Array, layout: PackedLayout | None) -> None:
    """Assert that a device holds what `numbers_of` gives: floats in `layout` if they have two or more axes."""
    assert found.shape == numbers.shape
    assert DTYPES[found.dtype] == numbers.dtype
    assert found.layout == (layout if found.dtype in ("f16", "f32") and numbers.ndim > 1 else None)
    expected = numbers if found.layout is None else found.layout.pack(numbers)
    # the buffer as it is, what fills up the last blocks included
    stored = replace(found, shape=found.stored_shape, layout=None).array()
    assert _same_numbers(stored, expected), f"tensor {found.name!r} differs"


def numbers_of(tensor: ArchivedTensor, dtype: str) -> Array:
    """What devices must make of a tensor: its symbols times its scales in f32, rounded once; integers as they are."""
    if tensor.dtype not in FLOATS:
        return tensor.array()
    scales, count = tensor.codec.scales, tensor.rows.count
    with np.errstate(over="ignore"):
        if scales is None or not tensor.size:
            return tensor.array().astype(np.float32).astype(DTYPES[dtype])
        factor, zero = scales.of_rows(0, count)
        numbers = tensor.symbols((0, count)).astype(np.float32)
        numbers = (numbers if zero is None else numbers - zero.astype(np.float32)) * factor.astype(np.float32)
        return numbers.astype(DTYPES[dtype]).reshape(tensor.shape)


def _same_numbers(a: Array, b: Array) -> bool:
    """Equal bits, or both no number."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.name in ("float16", "float32"):
        a, b = (np.where(np.isnan(part), part.dtype.type(np.nan), part) for part in (a, b))
    if a.dtype.name in ("int4", "uint4"):
        a, b = a.astype(np.int8), b.astype(np.int8)
    return a.tobytes() == b.tobytes()
