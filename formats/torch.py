"""PyTorch's `.pt` and `.pth` files: plain state dicts, in the zip format and in the one before it.

They are read without torch: its own reader takes a file's word for how much to allocate, and reads the weights of
old files at once. They are written by torch.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import OrderedDict
from typing import Any

import numpy as np

from wcodec.errors import CorruptFileError, MissingDependencyError, OutputError, UnsupportedError, UsageError
from wcodec.formats.atomic import atomic_file
from wcodec.formats.cache import LastArray
from wcodec.formats.claims import count_elements, place
from wcodec.formats.source import FileSource
from wcodec.formats.torch_container import Places, open_old, open_zip
from wcodec.formats.torch_state import TORCH_NAMES, Foreign, View
from wcodec.model import DTYPES, Array, Model, Tensor

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "params_ema", "params")
"""Keys under which training programs keep the state dict beside other things, the preferred first."""

_REUSE = 4
_REUSE_FLOOR = 1 << 24
"""Views may add up to `_REUSE` times the bytes they are views of, or to `_REUSE_FLOOR` bytes more."""


def read(path: str | os.PathLike[str]) -> Model:
    """The model in a state dict saved by torch.save, read when asked for; tensors that are one become ties.

    Raises `UnsupportedError` for anything but a dict of tensors, alone or under one of `WRAPPERS`, without
    running code from the file, and `CorruptFileError` for a file that is damaged or lies about its size.
    """
    with contextlib.ExitStack() as stack:
        source = FileSource(path)
        stack.callback(source.close)
        if bytes(source.read(0, min(2, source.size))) == b"PK":
            value, places = open_zip(source)
        else:
            value, places = open_old(source)
        tensors, ties = _tensors(source, _views(source.name, value), places)
        stack.pop_all()
    return Model(tensors, ties=ties, close=source.close)


def _views(file: str, value: Any) -> dict[str, View]:
    """The views of the state dict in what the file holds, by name."""
    state = _state_dict(file, value)
    views: dict[str, View] = {}
    for name, entry in state.items():
        if isinstance(entry, Foreign):
            raise UnsupportedError(f"{place(file, str(name))} is {entry.what}; convert it to a plain tensor first")
        if not isinstance(name, str) or not isinstance(entry, View):
            kind = type(entry).__name__
            raise UnsupportedError(f"{file}: entry {name!r:.200} is no tensor but {kind}; save a dict of tensors only")
        views[name] = entry
    return views


def _state_dict(file: str, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise UnsupportedError(f"{file}: holds no dict of tensors; save model.state_dict()")
    for key in WRAPPERS:
        if _has_tensor(value.get(key)):
            return dict(value[key])
    if not _has_tensor(value):
        keys = ", ".join(f"{key!r:.40}" for key in list(value)[:8]) or "none"
        raise UnsupportedError(f"{file}: holds no dict of tensors, alone or under {WRAPPERS}; its keys: {keys}")
    return value


def _has_tensor(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(entry, View | Foreign) for entry in value.values())


def _tensors(source: FileSource, views: dict[str, View], places: Places) -> tuple[list[Tensor], dict[str, str]]:
    """A tensor for every different view, and a tie for every repeated one."""
    cache = LastArray()
    tensors: list[Tensor] = []
    ties: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, view in views.items():
        identity = (view.storage.key, view.dtype, view.offset, view.shape, view.strides)
        if identity in first:
            ties[name] = first[identity]
            continue
        first[identity] = name
        offset = _check_view(place(source.name, name), view, places)
        tensors.append(_tensor(source, name, view, offset, cache))
    stored = sum(length for _, length in places.values())
    if sum(tensor.nbytes for tensor in tensors) > _REUSE * stored + _REUSE_FLOOR:
        raise CorruptFileError(source.name, f"makes far more tensors of its {stored} bytes of values than a model does")
    return tensors, ties


def _check_view(where: str, view: View, places: Places) -> int:
    """The byte of the file that the view's offset counts from, if it lies in its storage."""
    itemsize = DTYPES[view.dtype].itemsize
    storage = view.storage
    if storage.key not in places:
        raise CorruptFileError(where, f"is a view of storage {storage.key!r:.100}, which the file does not have")
    offset, length = places[storage.key]
    if length != storage.count * storage.kind.itemsize:
        raise CorruptFileError(where, f"is a view of {storage.count} elements, but the file has {length} bytes of them")
    if len(view.shape) != len(view.strides):
        raise CorruptFileError(where, f"has {len(view.shape)} axes, but {len(view.strides)} strides")
    if count_elements(where, view.shape) and (view.offset + _span(view)) * itemsize > length:
        raise CorruptFileError(where, "reaches beyond its storage")
    return offset + view.offset * itemsize


def _span(view: View) -> int:
    """Elements from the first to the last of a view that is not empty."""
    return 1 + sum((extent - 1) * stride for extent, stride in zip(view.shape, view.strides, strict=True))


def _tensor(source: FileSource, name: str, view: View, offset: int, cache: LastArray) -> Tensor:
    dtype = DTYPES[view.dtype]
    size = math.prod(view.shape)

    def elements(start: int, stop: int) -> Array:
        if start == stop:  # an empty view may lie beyond the end of the file
            return np.empty(0, dtype)
        return np.frombuffer(source.read(offset + start * dtype.itemsize, (stop - start) * dtype.itemsize), dtype)

    def gather() -> Array:
        strides = [stride * dtype.itemsize for stride in view.strides]
        stored = elements(0, _span(view))
        return np.lib.stride_tricks.as_strided(stored, view.shape, strides, writeable=False).reshape(-1)

    def gathered(start: int, stop: int) -> Array:
        return cache.get(name, gather)[start:stop]

    return Tensor(name, view.dtype, view.shape, elements if _is_contiguous(view) or not size else gathered)


def _is_contiguous(view: View) -> bool:
    step = 1
    for extent, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if extent != 1 and stride != step:
            return False
        step *= extent
    return True


def write(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model as a state dict in torch.save's zip format; tied names share one storage, as they did.

    Raises `MissingDependencyError` without torch, `UsageError` for a dtype torch lacks, and `OutputError` if
    the file cannot be written. The model must fit in memory.
    """
    torch = import_torch()
    tensors = {tensor.name: _to_torch(tensor) for tensor in model.tensors}
    state = OrderedDict(tensors) | {name: tensors[target] for name, target in model.ties.items()}
    with atomic_file(path) as stream:
        try:
            torch.save(state, stream)
        except RuntimeError as error:
            raise OutputError(f"cannot write {os.fspath(path)}: torch gave up; check the space on its disk") from error


def _to_torch(tensor: Tensor) -> Any:
    flat = import_torch().empty(tensor.size, dtype=torch_dtype(tensor.name, tensor.dtype))
    target = flat.view(import_torch().uint8).numpy()
    position = 0
    for block in tensor.blocks():
        target[position : position + block.nbytes] = block.view(np.uint8)
        position += block.nbytes
    return flat.reshape(tensor.shape)


def torch_dtype(name: str, dtype: str) -> Any:
    """torch's dtype for wcodec's; `UsageError` naming the tensor if there is none."""
    found = getattr(import_torch(), TORCH_NAMES.get(dtype, ""), None)
    if found is None:
        raise UsageError(f"tensor {name!r}: torch has no dtype for {dtype}; use NumPy arrays, .safetensors or .onnx")
    return found


def import_torch() -> Any:
    """The torch package; `MissingDependencyError` where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("torch is needed for its tensors and files; run: pip install torch") from error
    return torch
