"""Memory of NumPy arrays and torch tensors, for loading into and encoding from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from wcodec.archived import ArchivedTensor, Piece
from wcodec.errors import AllocationError, MismatchError, MissingDependencyError, UsageError
from wcodec.formats.torch import import_torch, torch_dtype
from wcodec.formats.torch_state import TORCH_NAMES
from wcodec.model import DTYPES, Array, Model

_NAMES = {f"torch.{theirs}": ours for ours, theirs in TORCH_NAMES.items()}


class Memory(Protocol):
    """Memory that a tensor of an archive is decoded into."""

    def check(self, tensor: ArchivedTensor) -> None:
        """`MismatchError` unless the tensor can be decoded here."""

    def fill(self, tensor: ArchivedTensor, piece: Piece) -> None:
        """Decode one chunk to where it belongs; several threads may, each another chunk."""

    def copy(self, other: Any) -> None:
        """Take the values of another memory of the same kind, unless it is the same one."""


class HostMemory(Memory):
    """A NumPy array, or a torch tensor on the CPU."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def check(self, tensor: ArchivedTensor) -> None:
        tensor.check_fits(self._array)

    def fill(self, tensor: ArchivedTensor, piece: Piece) -> None:
        rows = self._array.reshape(tensor.rows.count, *tensor.rows.trail)
        tensor.decode_piece(piece, rows[piece.start : piece.stop])

    def copy(self, other: HostMemory) -> None:
        if not np.may_share_memory(self._array, other._array):
            self._array[...] = other._array


class RemoteMemory(Memory):
    """A torch tensor on another device, filled through pinned memory of one chunk a thread."""

    def __init__(self, name: str, tensor: Any) -> None:
        self._name, self._tensor = name, tensor

    def check(self, tensor: ArchivedTensor) -> None:
        mine = self._tensor
        if tuple(mine.shape) != tensor.shape or mine.dtype != torch_dtype(tensor.name, tensor.dtype):
            raise MismatchError(
                f"tensor {self._name!r} is {tensor.dtype} of shape {tensor.shape}, not {mine.dtype} of shape "
                f"{tuple(mine.shape)}"
            )

    def fill(self, tensor: ArchivedTensor, piece: Piece) -> None:
        torch, mine = import_torch(), self._tensor.detach()
        size = tensor.rows.size
        staged = torch.empty(piece.chunk.rows * size, dtype=mine.dtype, pin_memory=mine.device.type == "cuda")
        tensor.decode_piece(piece, _view(self._name, staged).reshape(piece.chunk.rows, *tensor.rows.trail))
        # returns when the copy is done, so that the memory can be another chunk's; other threads decode meanwhile
        mine.view(-1)[piece.start * size : piece.stop * size].copy_(staged)

    def copy(self, other: RemoteMemory) -> None:
        if self._tensor.data_ptr() != other._tensor.data_ptr():
            self._tensor.detach().copy_(other._tensor)


def memory_of(name: str, given: Any) -> Memory:
    """The memory of a NumPy array or a torch tensor; `MismatchError` if it is of neither, or not one whole."""
    if isinstance(given, np.ndarray):
        return HostMemory(given)
    if not _is_tensor(given):
        raise MismatchError(f"tensor {name!r}: a {type(given).__name__} is neither a NumPy array nor a torch tensor")
    if given.device.type == "meta" or not _is_plain(given) or not given.is_contiguous():
        raise MismatchError(f"tensor {name!r}: the torch tensor must be dense, contiguous and in some memory")
    return HostMemory(_view(name, given)) if _on_host(given) else RemoteMemory(name, given)


def check_torch_device(place: str) -> None:
    """`UsageError` for what is not torch's name of a device, `MissingDependencyError` for one that does not work."""
    torch = import_torch()
    try:
        device = torch.device(place)
    except RuntimeError as error:
        raise UsageError(
            f"torch knows no device {place!r}; there are 'cpu', 'cuda', 'cuda:1', 'mps' and so on"
        ) from error
    if device.type == "meta":
        raise UsageError("torch's device 'meta' has no memory to load into")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise MissingDependencyError(f"torch cannot use {place!r}: {reason}; install a torch built for it") from error


def empty_tensor(like: ArchivedTensor, device: str) -> Any:
    """A torch tensor on a device for an archive's, its values not set; `AllocationError` where memory is short."""
    try:
        return import_torch().empty(like.shape, dtype=torch_dtype(like.name, like.dtype), device=device)
    except RuntimeError as error:
        raise AllocationError(f"tensor {like.name!r}: {like.nbytes} bytes are not to be had: {error}") from error


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


def _on_host(tensor: Any) -> bool:
    return bool(tensor.device.type == "cpu")


def _is_plain(tensor: Any) -> bool:
    return bool(tensor.layout == import_torch().strided and not tensor.is_quantized)


def _view(name: str, tensor: Any) -> Array:
    kind = _NAMES.get(str(tensor.dtype))
    if kind is None:
        raise UsageError(f"tensor {name!r}: an archive holds no tensor of {tensor.dtype}; convert it first")
    data: Array = tensor.detach().reshape(-1).view(import_torch().uint8).numpy()
    return data.view(DTYPES[kind]).reshape(tuple(tensor.shape))
