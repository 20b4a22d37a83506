"""What the names in a state dict's pickle mean: storages, dtypes and the functions that make tensors of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wcodec.formats.claims import MAX_RANK
from wcodec.formats.cursor import Cursor
from wcodec.formats.torch_pickle import MAX_STEPS, load, set_item

TORCH_NAMES: Mapping[str, str] = {
    "bool": "bool",
    "u8": "uint8",
    "i8": "int8",
    "u16": "uint16",
    "i16": "int16",
    "u32": "uint32",
    "i32": "int32",
    "u64": "uint64",
    "i64": "int64",
    "f8_e4m3fn": "float8_e4m3fn",
    "f8_e4m3fnuz": "float8_e4m3fnuz",
    "f8_e5m2": "float8_e5m2",
    "f8_e5m2fnuz": "float8_e5m2fnuz",
    "f8_e8m0fnu": "float8_e8m0fnu",
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "c64": "complex64",
    "c128": "complex128",
}
"""wcodec's dtype names and torch's."""

_FOREIGN_CALLS = {
    "torch._utils._rebuild_qtensor": "a quantized tensor of torch's own kind",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values, on the device 'meta'",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a class of its own",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor kept by another device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor kept by another device",
    "torch.serialization._get_layout": "a layout",
    "torch.device": "a device",
    "collections.Counter": "a counter",
    "_codecs.encode": "bytes",
    "builtins.bytearray": "bytes",
    "builtins.set": "a set",
    "builtins.complex": "a complex number",
}
_FOREIGN_VALUES = (
    "torch.per_tensor_affine",
    "torch.per_tensor_symmetric",
    "torch.per_channel_affine",
    "torch.per_channel_symmetric",
    "torch.per_channel_affine_float_qparams",
)


@dataclass(frozen=True, eq=False)
class StorageKind:
    """A class of storages: the dtype of its elements, None if wcodec has none, and their size in bytes."""

    dtype: str | None
    itemsize: int


@dataclass(frozen=True, eq=False)
class Storage:
    """Bytes of the file that tensors are views of; `count` is in elements of its kind."""

    kind: StorageKind
    key: str
    count: int


@dataclass(frozen=True, eq=False)
class View:
    """A tensor as the pickle describes it; offset and strides in elements. Nothing is checked but the types."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Foreign:
    """A value that is no plain tensor; `what` says it in words."""

    what: str


_STORAGES: Mapping[str, StorageKind] = {
    "torch.BoolStorage": StorageKind("bool", 1),
    "torch.ByteStorage": StorageKind("u8", 1),
    "torch.CharStorage": StorageKind("i8", 1),
    "torch.ShortStorage": StorageKind("i16", 2),
    "torch.IntStorage": StorageKind("i32", 4),
    "torch.LongStorage": StorageKind("i64", 8),
    "torch.HalfStorage": StorageKind("f16", 2),
    "torch.BFloat16Storage": StorageKind("bf16", 2),
    "torch.FloatStorage": StorageKind("f32", 4),
    "torch.DoubleStorage": StorageKind("f64", 8),
    "torch.ComplexFloatStorage": StorageKind("c64", 8),
    "torch.ComplexDoubleStorage": StorageKind("c128", 16),
    "torch.storage.UntypedStorage": StorageKind(None, 1),
    "torch.QInt8Storage": StorageKind(None, 1),
    "torch.QUInt8Storage": StorageKind(None, 1),
    "torch.QInt32Storage": StorageKind(None, 4),
    "torch.QUInt4x2Storage": StorageKind(None, 1),
    "torch.QUInt2x4Storage": StorageKind(None, 1),
}


def load_state(cursor: Cursor) -> tuple[Any, dict[str, Storage]]:
    """The value of the pickle at the cursor, whose tensors are `View`s or `Foreign`s, and its storages by key."""
    storages: dict[str, Storage] = {}

    def persistent(identity: Any) -> Storage:
        storage = _storage(identity)
        first = storages.setdefault(storage.key, storage)
        if (first.kind, first.count) != (storage.kind, storage.count):
            raise ValueError("one storage of two kinds or sizes")
        return first

    return load(cursor, _names(), persistent), storages


def _names() -> dict[str, Any]:
    names: dict[str, Any] = {
        "collections.OrderedDict": _OrderedDicts(),
        "torch.Size": _size,
        "torch.Tensor": Foreign("a class"),
        "torch.nn.parameter.Parameter": Foreign("a class"),
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor_v2,
        "torch._utils._rebuild_tensor_v3": _tensor_v3,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
        "torch._tensor._rebuild_from_type_v2": _with_attributes,
    }
    names |= _STORAGES
    names |= {f"torch.{name}": dtype for dtype, name in TORCH_NAMES.items()}
    names |= {name: _foreign(what) for name, what in _FOREIGN_CALLS.items()}
    names |= {name: Foreign("a setting of torch's") for name in _FOREIGN_VALUES}
    return names


class _OrderedDicts:
    """Makes dicts of lists of pairs; all together they may have no more pairs than a pickle has instructions."""

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def __call__(self, pairs: Any = ()) -> dict[Any, Any]:
        self._left -= len(pairs)
        if self._left < 0:
            raise ValueError("dicts made of the same items over and over")
        made: dict[Any, Any] = {}
        for key, value in pairs:
            set_item(made, key, value)
        return made


def _storage(identity: Any) -> Storage:
    """The storage of a persistent id: ("storage", kind, key, device, count), in old files with a sixth value, None."""
    if type(identity) is not tuple or len(identity) not in (5, 6):
        raise TypeError("a persistent id that is not a storage's")
    tag, kind, key, _, count = identity[:5]
    if tag != "storage" or not isinstance(kind, StorageKind) or not isinstance(key, str):
        raise TypeError("a persistent id that is not a storage's")
    if len(identity) == 6 and identity[5] is not None:
        raise ValueError("a storage that is a view of another")
    return Storage(kind, key, _whole(count))


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("something else where a whole number is due")
    return value


def _size(values: Any = ()) -> tuple[int, ...]:
    if type(values) is not tuple or len(values) > MAX_RANK:
        raise TypeError("a shape that is not a short tuple")
    return tuple(_whole(value) for value in values)


def _view(storage: Any, dtype: str | None, offset: Any, shape: Any, strides: Any, metadata: Any) -> View | Foreign:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    if dtype is None:
        return Foreign("a tensor of a dtype that wcodec does not know")
    if metadata:
        return Foreign("a view that conjugates or negates")
    return View(storage, dtype, _whole(offset), _size(shape), _size(strides))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> View | Foreign:
    return _view(storage, storage.kind.dtype, offset, shape, strides, None)


def _tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, metadata: Any = None
) -> View | Foreign:
    return _view(storage, storage.kind.dtype, offset, shape, strides, metadata)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> View | Foreign:
    if not isinstance(dtype, str) or dtype not in TORCH_NAMES:
        raise TypeError("a tensor without a dtype")
    return _view(storage, dtype, offset, shape, strides, metadata)


def _parameter(data: Any, _grad: Any, _hooks: Any, _state: Any = None) -> Any:
    return data


def _with_attributes(function: Any, _kind: Any, arguments: Any, _state: Any) -> View | Foreign:
    if type(arguments) is not tuple:
        raise TypeError("a tensor without arguments")
    if function is not _tensor_v2 and function is not _tensor_v3:
        return Foreign("a tensor of a class of its own")
    made: View | Foreign = function(*arguments)
    return made


def _foreign(what: str) -> Callable[..., Foreign]:
    return lambda *_: Foreign(what)
