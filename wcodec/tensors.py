"""torch tensors and NumPy arrays over the same memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wcodec.archived import ArchivedTensor
from wcodec.errors import AllocationError, MismatchError, UsageError
from wcodec.formats.torch import import_torch, torch_dtype
from wcodec.formats.torch_state import TORCH_NAMES
from wcodec.model import DTYPES, Array, Model

_NAMES = {f"torch.{theirs}": ours for ours, theirs in TORCH_NAMES.items()}


def empty_tensor(like: ArchivedTensor) -> Any:
    """A torch tensor on the CPU for an archive's, its values not set; `AllocationError` where memory is short."""
    try:
        return import_torch().empty(like.shape, dtype=torch_dtype(like.name, like.dtype))
    except RuntimeError as error:
        raise AllocationError(f"tensor {like.name!r}: {like.nbytes} bytes are not to be had: {error}") from error


def array_of(name: str, given: Any) -> Array:
    """An array over the memory of a NumPy array or a torch tensor; `MismatchError` if there is no such view."""
    if isinstance(given, np.ndarray):
        return given
    if not _is_tensor(given):
        raise MismatchError(f"tensor {name!r}: a {type(given).__name__} is neither a NumPy array nor a torch tensor")
    if given.device.type != "cpu" or not _is_plain(given) or not given.is_contiguous():
        raise MismatchError(f"tensor {name!r}: the torch tensor must be dense, contiguous and on the CPU")
    return _view(name, given)


def model_of(tensors: Mapping[str, Any]) -> Model:
    """A model of NumPy arrays or torch tensors, such as a state dict; the same tensor under two names is tied.

    `UsageError` for what is neither, or is no dense tensor with values.
    """
    arrays: dict[Any, Array] = {}
    named: dict[str, Array] = {}
    held: list[Any] = []
    for name, given in tensors.items():
        if not isinstance(name, str):
            raise UsageError(f"{name!r} is not a name; a state dict has strings for keys")
        if isinstance(given, np.ndarray | np.generic):
            named[name] = np.asarray(given)
            continue
        if not _is_tensor(given) or not _is_plain(given) or given.device.type == "meta":
            raise UsageError(f"tensor {name!r}: is neither a NumPy array nor a dense torch tensor with values")
        memory = (given.device, given.data_ptr(), given.dtype, given.shape, given.stride()) if given.numel() else name
        if memory not in arrays:
            held.append(given)  # or its memory could become another tensor's
            arrays[memory] = _view(name, given.detach().cpu().resolve_conj().resolve_neg().contiguous())
        named[name] = arrays[memory]
    return Model.from_arrays(named)


def _is_tensor(given: object) -> bool:
    return type(given).__module__.partition(".")[0] == "torch" and isinstance(given, import_torch().Tensor)


def _is_plain(tensor: Any) -> bool:
    return bool(tensor.layout == import_torch().strided and not tensor.is_quantized)


def _view(name: str, tensor: Any) -> Array:
    kind = _NAMES.get(str(tensor.dtype))
    if kind is None:
        raise UsageError(f"tensor {name!r}: an archive holds no tensor of {tensor.dtype}; convert it first")
    data: Array = tensor.detach().reshape(-1).view(import_torch().uint8).numpy()
    return data.view(DTYPES[kind]).reshape(tuple(tensor.shape))
