"""torch tensors and NumPy arrays over the same memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wcodec.errors import MismatchError, MissingDependencyError, UnsupportedError
from wcodec.formats.torch_state import TORCH_NAMES
from wcodec.model import DTYPES, Array, Model


def empty_tensor(name: str, dtype: str, shape: tuple[int, ...]) -> Any:
    """A torch tensor of a wcodec dtype on the CPU, its values not set; `name` is for messages."""
    torch = _torch()
    kind = getattr(torch, TORCH_NAMES.get(dtype, ""), None)
    if kind is None:
        raise UnsupportedError(f"tensor {name!r}: torch has no dtype for {dtype}; load it as NumPy array instead")
    return torch.empty(shape, dtype=kind)


def array_of(name: str, given: Any) -> Array:
    """An array over the memory of a NumPy array or a torch tensor; `MismatchError` if there is no such view."""
    if isinstance(given, np.ndarray):
        return given
    torch = _torch()
    if not isinstance(given, torch.Tensor):
        raise MismatchError(f"tensor {name!r}: a {type(given).__name__} is neither a NumPy array nor a torch tensor")
    if given.device.type != "cpu" or given.layout != torch.strided or not given.is_contiguous():
        raise MismatchError(f"tensor {name!r}: the torch tensor to fill must be dense, contiguous and on the CPU")
    kind = {name: dtype for dtype, name in TORCH_NAMES.items()}.get(str(given.dtype).removeprefix("torch."))
    if kind is None:
        raise MismatchError(f"tensor {name!r}: an archive holds no tensor of {given.dtype}")
    data: Array = given.detach().reshape(-1).view(torch.uint8).numpy()
    return data.view(DTYPES[kind]).reshape(tuple(given.shape))


def model_of(tensors: Mapping[str, Any]) -> Model:
    """A model of NumPy arrays or torch tensors, such as a state dict; names of the same memory become ties."""
    arrays: dict[tuple[Any, ...], Array] = {}
    named: dict[str, Array] = {}
    for name, given in tensors.items():
        array = array_of(name, given.detach().cpu().contiguous() if hasattr(given, "detach") else given)
        memory = (array.__array_interface__["data"][0], array.dtype, array.shape, array.strides)
        named[name] = arrays.setdefault(memory, array)
    return Model.from_arrays(named)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("torch is needed for device 'torch'; run: pip install torch") from error
    return torch
