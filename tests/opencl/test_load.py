"""Archives onto OpenCL devices: the same numbers as NumPy's, wherever they lie."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wcodec
from tests.support.opencl import QUANTIZED, as_gpu, encoded, kept, large_kernels, smooth, weights
from wcodec import CorruptFileError, MismatchError, MissingDependencyError, UsageError
from wcodec.model import DTYPES, FLOATS, Array, dtype_name
from wcodec.opencl import loading
from wcodec.opencl.device import Device
from wcodec.opencl.layout import PackedLayout
from wcodec.opencl.tensors import DeviceTensor
from wcodec.testing import check_on_device, numbers_of

BLOCKS = PackedLayout(4, 4)
LOADS: list[tuple[Any, PackedLayout | None]] = [
    ("f16", None),
    ("f32", None),
    ("f16", PackedLayout()),
    ("f16", PackedLayout(swapped=True)),
    ("f32", BLOCKS),
]

CASES: dict[str, dict[str, Any]] = {
    "raw": {},
    "raw, 12 bits, asymmetric, one scale": {"bits": 12, "symmetric": False, "per": "tensor"},
    "zstd, 4 bits, asymmetric": {"bits": 4, "symmetric": False},
    "zstd, 2 bits, one scale": {"bits": 2, "per": "tensor"},
    "zstd, 12 bits, by 5": {"bits": 12, "per": "group", "group_size": 5},
    "zstd, asymmetric, last axis": {"symmetric": False, "axis": -1},
    "rans": {},
    "rans, asymmetric, one scale": {"symmetric": False, "per": "tensor"},
    "rans, 4 bits, asymmetric, by 5": {"bits": 4, "symmetric": False, "per": "group", "group_size": 5},
    "rans, 2 bits": {"bits": 2},
    "rans, 12 bits, asymmetric": {"bits": 12, "symmetric": False},
    "rans, large kernels": {},
    "hevc": {},
    "hevc, 12 bits, asymmetric, by 5": {"bits": 12, "symmetric": False, "per": "group", "group_size": 5},
    "hevc, lossy": {"qp": 30, "bits": 4},
    "ffv1, 12 bits": {"bits": 12},
    "ffv1, asymmetric": {"symmetric": False},
    "auto": {},
    "floats": {"lossless": True},
}


ONCE = (
    "raw, 12 bits, asymmetric, one scale",
    "rans, 4 bits, asymmetric, by 5",
    "rans, 12 bits, asymmetric",
    "rans, large kernels",
    "hevc, 12 bits, asymmetric, by 5",
    "ffv1, asymmetric",
)
RUNS = [
    (case, load)
    for number, case in enumerate(CASES)
    for load in (LOADS[1:3] if number % 2 else LOADS[::3])[case in ONCE :]
]
"""Not everything with everything: a kernel takes up to two seconds to build, and these cases have many of their own."""


@cache
def archive_of(case: str) -> bytes:
    policy = CASES[case]
    if case == "rans, large kernels":
        return encoded(large_kernels(), coder="rans", min_size=1)
    if "lossless" not in policy:
        policy = {"min_size": 1, "quantize": QUANTIZED[: 1 + ("axis" not in policy)]} | policy
    return encoded(weights(), coder=case.partition(",")[0], **policy)


@cache
def in_f32(data: bytes) -> dict[str, Array]:
    with wcodec.open(data) as archive:
        numbers = {name: numbers_of(archive.tensor(name), "f32") for name in archive}
        for name, array in archive.items():
            # what is f32 in the archive is computed in f32 on the host, too
            assert array.dtype != np.float32 or np.array_equal(numbers[name], array, equal_nan=True)
        return numbers


def expected(data: bytes, dtype: str) -> dict[str, Array]:
    numbers = in_f32(data)
    if dtype == "f32":
        return numbers
    with np.errstate(over="ignore"):
        return {
            name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in numbers.items()
        }


def check(data: bytes, device: Device, dtype: Any, layout: PackedLayout | None, workers: int | None = None) -> None:
    loaded = wcodec.load(data, device, dtype=dtype, layout=layout, workers=workers)
    assert list(loaded) == list(expected(data, dtype))
    for name, tensor in loaded.items():
        check_on_device(tensor, expected(data, dtype)[name], layout)


@pytest.mark.parametrize(("case", "load"), RUNS, ids=str)
def test_numbers_are_those_of_the_host(device: Device, case: str, load: tuple[Any, PackedLayout | None]) -> None:
    check(archive_of(case), device, *load)


@pytest.mark.parametrize("load", LOADS[::3], ids=str)
@pytest.mark.parametrize("case", ["rans", "zstd, 12 bits, by 5", "hevc, lossy"])
def test_numbers_are_the_same_as_if_memory_was_another(
    device: Device, case: str, load: tuple[Any, PackedLayout | None]
) -> None:
    check(archive_of(case), as_gpu(device), *load)


@pytest.mark.parametrize("load", LOADS, ids=str)
@pytest.mark.parametrize("coder", ["auto", "rans", "floats"])
def test_what_is_kept_is_kept(device: Device, coder: str, load: tuple[Any, PackedLayout | None]) -> None:
    check(archive_of_kept(coder), device, *load)


@cache
def archive_of_kept(coder: str) -> bytes:
    """Of the dtypes that the coder takes."""
    takes = {"auto": DTYPES, "rans": ("u4", "i4", "u8", "i8", "u16", "i16"), "floats": FLOATS}[coder]
    arrays = {name: array for name, array in kept().items() if dtype_name(array.dtype) in takes}
    return encoded(arrays, coder=coder, lossless=True)


def test_doubles_are_near_what_the_host_makes_of_them(device: Device) -> None:
    for case in ("rans", "zstd, asymmetric, last axis", "floats"):
        expected = wcodec.load(archive_of(case))["f64"]
        found = wcodec.load(archive_of(case), device, dtype="f32")["f64"].array()
        assert expected.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-6)


# Chunks


@cache
def archive_in_chunks(coder: str) -> bytes:
    """Rows of one axis and of two, of kernels and not, in chunks of about 3000 elements."""
    rng = np.random.default_rng(0)
    shapes = {"dense": (130, 70), "planes": (2, 4, 40, 25), "kernels": (3, 400, 3, 3), "few kernels": (50, 20, 3, 3)}
    arrays = {name: smooth(rng, *shape) for name, shape in shapes.items()}
    arrays["kernels"] += 3 * rng.laplace(size=(3, 400, 1, 1)).astype(np.float32)
    arrays["integers"] = rng.integers(-9, 9, (90, 110), np.int8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wcodec.tiling.CHUNK_ELEMENTS", 3000)
        data = encoded(arrays, coder=coder)
    axes = {"dense": 1, "planes": 2, "kernels": 2, "few kernels": 1, "integers": 1}
    with wcodec.open(data) as archive:
        assert {name: archive.tensor(name).rows.axes for name in axes} == axes
        assert all(len(archive.tensor(name).pieces) > 2 for name in axes)
    return data


@pytest.mark.parametrize("layout", [None, BLOCKS], ids=str)
@pytest.mark.parametrize("coder", ["rans", "zstd", "hevc"])
def test_many_chunks_share_little_memory(
    device: Device, coder: str, layout: PackedLayout | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of some chunks, and slots that grow and come back."""
    data = archive_in_chunks(coder)
    monkeypatch.setattr(loading, "_BATCH", 6000)
    monkeypatch.setattr(loading, "_LEAST_SLOT", 64)
    monkeypatch.setattr(loading, "WORKING_SET", 64)
    for opened in (device, as_gpu(device)):
        for workers in (1, 3):
            check(data, opened, "f16", layout, workers=workers)


def test_chunks_of_their_true_size(device: Device) -> None:
    data, array = large()
    for layout in (None, PackedLayout(16, 1)):
        found = wcodec.load(data, device, layout=layout)["w"]
        assert np.array_equal(found.array(), array)


@cache
def large() -> tuple[bytes, Array]:
    data = encoded({"w": smooth(np.random.default_rng(0), 600, 200, 3, 3)}, lane=2304, coder="rans")
    with wcodec.open(data) as archive:
        assert len(archive.tensor("w").pieces) == 2
        return data, archive["w"].astype(np.float16)


# Tensors of the caller's


def test_tensors_are_filled_again_where_they_are(device: Device) -> None:
    first = encoded({"w": np.ones((40, 30), np.float32), "n": np.arange(7)}, coder="zstd")
    second = encoded({"w": np.full((40, 30), 2, np.float32), "n": np.arange(1, 8)}, coder="rans")
    for dtype, layout in LOADS:
        out = wcodec.load(first, device, dtype=dtype, layout=layout)
        buffers = {name: tensor.buffer for name, tensor in out.items()}
        again = wcodec.load(second, device, out=out)
        assert {name: tensor.buffer for name, tensor in again.items()} == buffers
        assert all(again[name] is out[name] for name in out)
        for name, tensor in again.items():
            check_on_device(tensor, expected(second, dtype)[name], layout)


MISFITS: dict[str, dict[str, Any]] = {
    "another shape": {"w": {"shape": (30, 40)}},
    "another dtype of integers": {"n": {"dtype": "i32"}},
    "floats for integers": {"n": {"dtype": "f32"}},
    "integers for floats": {"w": {"dtype": "i16"}},
    "a dtype of floats that devices do not make": {"w": {"dtype": "bf16"}},
    "no buffer": {"w": {"buffer": None}},
    "a larger dtype than its buffer is for": {"w": {"dtype": "f32"}},
    "a layout that takes more than its buffer": {"w": {"layout": wcodec.PackedLayout(16, 16)}},
    "integers in a layout": {"n": {"layout": wcodec.PackedLayout(1, 1)}},
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_refused_before_anything_is_filled(device: Device, misfit: str) -> None:
    arrays = {"first": np.zeros((40, 30), np.float32), "w": np.zeros((40, 30), DTYPES["bf16"]), "n": np.zeros(7, int)}
    out = wcodec.load(encoded(arrays, coder="raw", lossless=True), device)
    wrong: dict[str, Any] = {name: replace(out[name], **fields) for name, fields in MISFITS[misfit].items()}
    others = encoded({name: array + 1 for name, array in arrays.items()}, coder="raw", lossless=True)
    for name in wrong:
        with pytest.raises(MismatchError, match=f"tensor '{name}'"):
            wcodec.load(others, device, out=out | wrong)
    assert not any(tensor.array().any() for tensor in out.values())


@pytest.mark.parametrize("what", ["an array", "a tensor of another device", "None"])
def test_only_tensors_of_the_device_are_filled(device: Device, what: str) -> None:
    data = encoded({"a": np.ones(7, np.float32), "b": np.ones(7, np.float32)})
    out: dict[str, Any] = wcodec.load(encoded({"a": np.zeros(7, np.float32), "b": np.zeros(7, np.float32)}), device)
    wrong = {
        "an array": np.zeros(7, np.float16),
        "a tensor of another device": wcodec.load(data, as_gpu(device))["b"],
        "None": None,
    }[what]
    with pytest.raises(MismatchError, match="tensor 'b'"):
        wcodec.load(data, device, out=out | {"b": wrong})
    assert not out["a"].array().any()
    with pytest.raises(MismatchError, match=r"tensor 'a'.*DeviceTensor is neither"):
        wcodec.load(data, "cpu", out={"a": out["a"], "b": np.zeros(7, np.float32)})


def test_tensors_of_the_callers_have_their_own_dtype_and_layout(device: Device) -> None:
    data = encoded({"a": np.ones((7, 3), np.float32)})
    out = wcodec.load(data, device)
    for options in ({"dtype": "f16"}, {"layout": wcodec.PackedLayout()}):
        with pytest.raises(UsageError, match="those of out have their own"):
            wcodec.load(data, device, out=out, **options)


def test_scales_beyond_the_range_of_f32_leave_zeros_zero(device: Device) -> None:
    weights = np.array([[0, 0, 1e42, -1e42]] * 4)
    data = encoded({"w": weights}, coder="rans", bits=8)
    found = wcodec.load(data, device)["w"].array()
    assert np.array_equal(found, np.array([[0, 0, np.inf, -np.inf]] * 4, np.float16))


def test_out_names_the_tensors_of_the_archive(device: Device) -> None:
    data = encoded({"a": np.ones(7, np.float32), "b": np.ones(7, np.float32)})
    out = wcodec.load(data, device)
    with pytest.raises(MismatchError, match="nothing was given for 'b'"):
        wcodec.load(data, device, out={"a": out["a"]})
    with pytest.raises(MismatchError, match="'c' is not in the archive"):
        wcodec.load(data, device, out=out | {"c": out["a"]})
    assert list(wcodec.load(data, device, out={"b": out["b"]}, strict=False)) == ["b"]


def test_tied_names_share_a_buffer_or_have_one_each(device: Device) -> None:
    shared, other = np.arange(1200, dtype=np.float32).reshape(30, 40), np.ones(3, np.float32)
    data = encoded({"a": shared, "b": shared, "c": other}, coder="rans")
    loaded = wcodec.load(data, device)
    assert loaded["a"].buffer is loaded["b"].buffer
    assert loaded["c"].buffer is not loaded["a"].buffer
    expected = wcodec.load(data)["b"].astype(np.float16)
    assert np.array_equal(loaded["b"].array(), expected)
    assert np.array_equal(wcodec.load(data, device, names=["b"])["b"].array(), expected)
    each = {"a": empty_like(loaded["a"], device), "b": empty_like(loaded["b"], device), "c": loaded["c"]}
    wcodec.load(data, device, out=each)
    assert np.array_equal(each["a"].array(), expected)
    assert np.array_equal(each["b"].array(), expected)


def empty_like(tensor: DeviceTensor, device: Device) -> DeviceTensor:
    buffer = device.buffer(tensor.nbytes, "a test's tensor")
    return DeviceTensor(tensor.name, tensor.dtype, tensor.shape, tensor.layout, buffer, device)


def test_names_pick_tensors_and_progress_counts_them(device: Device) -> None:
    loaded = wcodec.load(archive_of("rans"), device, names=["dense", "?x?", "empty"])
    assert list(loaded) == ["dense", "1x1", "3x3", "empty"]
    steps: list[wcodec.Progress] = []
    wcodec.load(archive_of("zstd, asymmetric, last axis"), device, progress=steps.append)
    total = sum(array.nbytes for array in weights().values())
    assert [step.done for step in steps] == sorted({step.done for step in steps})
    assert {step.total for step in steps} == {total}
    assert steps[-1].done == total
    assert {step.name for step in steps} == {name for name, array in weights().items() if array.size}


def test_files_are_read_where_they_are(device: Device, tmp_path: Path) -> None:
    (tmp_path / "w.wcodec").write_bytes(archive_of("rans"))
    found = wcodec.load(tmp_path / "w.wcodec", device)["dense"].array()
    assert np.array_equal(found, wcodec.load(archive_of("rans"))["dense"].astype(np.float16))


# What is asked for wrongly


@pytest.mark.parametrize("name", ["opencl:", "opencl:x", "opencl:-1", "opencl:0:1", "openclx", "OpenCL"])
def test_unknown_names_of_devices(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        wcodec.load(archive_of("raw"), name)


def test_unknown_dtypes(device: Device) -> None:
    for dtype in ("f64", "bf16", "i8", "float16"):
        with pytest.raises(UsageError, match="f16 or f32"):
            wcodec.load(archive_of("raw"), device, dtype=dtype)  # type: ignore[arg-type]


def test_dtype_and_layout_are_for_devices() -> None:
    for options in ({"dtype": "f16"}, {"layout": BLOCKS}):
        for name in ("cpu", "torch"):
            with pytest.raises(UsageError, match="for OpenCL devices"):
                wcodec.load(archive_of("raw"), name, **options)


def test_a_device_that_there_is_not(device: Device) -> None:
    with pytest.raises(MissingDependencyError, match=r"opencl:99: there are \d+ OpenCL devices, .*lists them"):
        wcodec.load(archive_of("raw"), "opencl:99")


def test_a_device_by_its_number(device: Device, request: pytest.FixtureRequest) -> None:
    number = request.node.callspec.params["device"]
    loaded = wcodec.load(archive_of("raw"), f"opencl:{number}")
    assert loaded["dense"].device.device == device.device
    assert np.array_equal(loaded["dense"].array(), wcodec.load(archive_of("raw"))["dense"].astype(np.float16))


def test_damage_is_found_before_it_is_loaded(device: Device) -> None:
    data = bytearray(archive_of("rans"))
    with wcodec.open(bytes(data)) as archive:
        chunk = archive.tensor("dense").pieces[0].chunk
    data[chunk.offset + chunk.length // 2] ^= 1
    with pytest.raises(CorruptFileError) as caught:
        wcodec.load(io.BytesIO(data), device)
    assert caught.value.where == "tensor 'dense', chunk 0"
