"""Archives into arrays and tensors, new ones and the caller's own."""

import io
from typing import Any

import numpy as np
import pytest
import torch

import wcodec
from tests.support.models import awkward_model, same_bits
from wcodec import Policy


@pytest.fixture(scope="module")
def data() -> bytes:
    stream = io.BytesIO()
    wcodec.encode(wcodec.Model.from_arrays(awkward_arrays_for_torch()), stream, Policy(coder="zstd"))
    return stream.getvalue()


def awkward_arrays_for_torch() -> dict[str, np.ndarray]:
    """torch has no 4-bit dtype."""
    return {tensor.name: tensor.array() for tensor in awkward_model().tensors if tensor.dtype != "i4"}


def test_numpy_arrays_are_those_of_the_archive(data):
    archive, loaded = wcodec.open(data), wcodec.load(data)
    assert list(loaded) == list(archive)
    assert all(same_bits(loaded[name], archive[name]) for name in archive)


def test_torch_tensors_hold_the_same_values(data):
    arrays, tensors = wcodec.load(data), wcodec.load(data, "torch")
    for name, array in arrays.items():
        assert tuple(tensors[name].shape) == array.shape
        if array.size:
            raw = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            assert raw == array.tobytes(), name


def test_a_module_is_filled_in_place(tmp_path):
    torch.manual_seed(0)
    source, target = (torch.nn.Sequential(torch.nn.Conv2d(3, 40, 3), torch.nn.BatchNorm2d(40)) for _ in range(2))
    torch.save(source.state_dict(), tmp_path / "m.pt")
    wcodec.encode(tmp_path / "m.pt", tmp_path / "m.wcodec", Policy(lossless=True))
    places = {name: value.data_ptr() for name, value in target.state_dict().items()}
    wcodec.load(tmp_path / "m.wcodec", "torch", out=target.state_dict())
    assert {name: value.data_ptr() for name, value in target.state_dict().items()} == places
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )
    target.load_state_dict(wcodec.load(tmp_path / "m.wcodec", "torch"), strict=True)


def test_given_arrays_are_filled_and_returned(data):
    expected = wcodec.load(data)
    out = {name: np.full_like(array, 1) for name, array in expected.items()}
    loaded = wcodec.load(data, out=out)
    assert all(loaded[name] is out[name] for name in out)
    assert all(same_bits(out[name], expected[name]) for name in out)


def test_tied_names_are_one_tensor_or_copies_in_arrays_of_their_own():
    shared = np.arange(6, dtype=np.float32)
    stream = io.BytesIO()
    wcodec.encode(wcodec.Model.from_arrays({"a": shared, "b": shared}), stream)
    tensors = wcodec.load(stream.getvalue(), "torch")
    assert tensors["a"].data_ptr() == tensors["b"].data_ptr()
    out = {"a": np.zeros(6, np.float32), "b": np.zeros(6, np.float32)}
    wcodec.load(stream.getvalue(), out=out)
    assert same_bits(out["a"], shared)
    assert same_bits(out["b"], shared)
    assert same_bits(wcodec.load(stream.getvalue(), names=["b"])["b"], shared)


def test_names_pick_tensors(data):
    assert list(wcodec.load(data, names=["conv.*", "scalar"])) == ["conv.weight", "conv.bias", "scalar"]
    assert list(wcodec.load(data, names=["conv.bias", "nothing*"], strict=False)) == ["conv.bias"]
    with pytest.raises(wcodec.MismatchError, match="nothing is called 'nothing\\*'"):
        wcodec.load(data, names=["conv.bias", "nothing*"])


def test_names_with_brackets_are_names_before_they_are_patterns():
    arrays = {"a[0]": np.zeros(2), "a0": np.ones(2), "b": np.ones(3)}
    stream = io.BytesIO()
    wcodec.encode(arrays, stream, Policy(keep=("a[0]",)))
    assert list(wcodec.load(stream.getvalue(), names=["a[0]"])) == ["a[0]", "a0"]
    with pytest.raises(wcodec.MismatchError, match="'b' is given, but not named"):
        wcodec.load(stream.getvalue(), names=["a0"], out={"a0": np.zeros(2), "b": np.zeros(3)})


def test_a_state_dict_is_encoded_as_it_is_with_its_ties():
    shared = torch.arange(12.0).reshape(3, 4)
    state = {
        "a": shared,
        "b": shared,
        "t": shared.T,
        "t2": shared.T,
        "conj": torch.ones(2, dtype=torch.complex64).conj(),
    }
    stream = io.BytesIO()
    wcodec.encode(state, stream, Policy(lossless=True))
    archive = wcodec.open(stream.getvalue())
    assert archive.ties == {"b": "a", "t2": "t"}
    assert np.array_equal(archive["t"], shared.T.numpy())
    wrongs: list[Any] = [{"x": [1.0]}, {1: shared}, {"m": torch.zeros(2, device="meta")}, {"s": shared.to_sparse()}]
    for wrong in wrongs:
        with pytest.raises(wcodec.UsageError):
            wcodec.encode(wrong, io.BytesIO())
    with pytest.raises(wcodec.UsageError, match="transcode"):
        wcodec.encode(archive, io.BytesIO())


def test_an_archive_has_its_own_workers_and_an_end(data):
    archive = wcodec.open(data)
    assert archive == archive
    assert archive != wcodec.open(data)
    with pytest.raises(wcodec.UsageError, match="workers"):
        wcodec.load(archive, workers=2)
    archive.close()
    with pytest.raises(wcodec.UsageError, match="closed"):
        archive["conv.weight"]
    with pytest.raises(wcodec.UsageError):
        wcodec.open(data, workers=0)


def test_strict_names_every_difference_before_filling(data):
    out = {name: np.zeros_like(array) for name, array in wcodec.load(data).items()}
    del out["scalar"]
    out["stranger"] = np.zeros(1)
    with pytest.raises(wcodec.MismatchError, match=r"'stranger' is not in the archive; nothing was given for 'scalar'"):
        wcodec.load(data, out=out)
    assert not out["conv.bias"].any()
    wcodec.load(data, out=out, strict=False)
    assert out["conv.bias"].any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros(25, np.float32), "shape"),
        (np.zeros(24, np.float64), "float64"),
        (np.zeros(48, np.float32)[::2], "C-contiguous"),
        (torch.zeros(24, dtype=torch.float16), "float16"),
        (torch.zeros(48)[::2], "contiguous"),
        (torch.zeros(24, device="meta"), "in some memory"),
        ([0.0] * 24, "neither"),
    ],
    ids=["shape", "dtype", "strides", "torch dtype", "torch strides", "device", "list"],
)
def test_what_cannot_be_filled_is_refused(data, wrong, message):
    with pytest.raises(wcodec.MismatchError, match=message):
        wcodec.load(data, out={"conv.bias": wrong}, names=["conv.bias"])


def test_a_read_only_array_is_refused(data):
    array = np.zeros(24, np.float32)
    array.flags.writeable = False
    with pytest.raises(wcodec.MismatchError, match="writable"):
        wcodec.load(data, out={"conv.bias": array}, names=["conv.bias"])


def test_an_unknown_device(data):
    with pytest.raises(wcodec.UsageError, match="abacus"):
        wcodec.load(data, "abacus")


@pytest.mark.parametrize("name", ["torch:cpu", "torch"])
def test_torch_devices_by_name(data, name):
    loaded = wcodec.load(data, name)
    assert all(tensor.device.type == "cpu" for tensor in loaded.values())
    assert all(torch.equal(loaded[key], tensor) for key, tensor in wcodec.load(data, "torch").items())


def test_tensors_of_another_device_are_filled_through_the_host(data, monkeypatch):
    """What a GPU's tensors go through, seen on the CPU's."""
    expected = wcodec.load(data, "torch")
    monkeypatch.setattr("wcodec.tensors.HostMemory", lambda array: pytest.fail("not the host's memory"))
    monkeypatch.setattr("wcodec.tensors._on_host", lambda tensor: False)
    out = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    loaded = wcodec.load(data, "torch", out=out)
    assert all(loaded[name] is out[name] for name in expected)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    wrong = {**out, "conv.bias": torch.zeros(23)}
    with pytest.raises(wcodec.MismatchError, match=r"conv.bias.*\(23,\)"):
        wcodec.load(data, "torch", out=wrong)


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("torch:abacus", wcodec.UsageError, "abacus"),
        ("torch:meta", wcodec.UsageError, "meta"),
        ("torch:cuda:99", wcodec.MissingDependencyError, "cuda:99"),
    ],
)
def test_torch_devices_that_are_not_there(data, where, error, message):
    with pytest.raises(error, match=message):
        wcodec.load(data, where)


@pytest.mark.parametrize("where", [None, 0, torch.device("cpu"), ["opencl"]], ids=repr)
def test_devices_are_names_or_opened(data, where):
    with pytest.raises(wcodec.UsageError, match="a device is a name"):
        wcodec.load(data, where)


@pytest.mark.parametrize("layout", ["nchw", (16, 1), 16])
def test_layouts_are_layouts(data, layout):
    with pytest.raises(wcodec.UsageError, match="a layout is a PackedLayout"):
        wcodec.load(data, "opencl", layout=layout)


@pytest.mark.parametrize("where", ["cpu", "torch"])
def test_options_of_opencl_are_for_opencl(data, where):
    with pytest.raises(wcodec.UsageError, match="OpenCL"):
        wcodec.load(data, where, dtype="f16")
    with pytest.raises(wcodec.UsageError, match="OpenCL"):
        wcodec.load(data, where, layout=wcodec.PackedLayout())
