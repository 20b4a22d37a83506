"""What every importer produces and every exporter consumes: tensors by name, lazily read, and maybe a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wcodec.errors import UnsupportedError, UsageError

Array = NDArray[Any]

DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "bool": np.dtype(np.bool_),
        "u4": np.dtype(ml_dtypes.uint4),
        "i4": np.dtype(ml_dtypes.int4),
        "u8": np.dtype(np.uint8),
        "i8": np.dtype(np.int8),
        "u16": np.dtype("<u2"),
        "i16": np.dtype("<i2"),
        "u32": np.dtype("<u4"),
        "i32": np.dtype("<i4"),
        "u64": np.dtype("<u8"),
        "i64": np.dtype("<i8"),
        "f8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
        "f8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
        "f8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
        "f8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
        "f8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
        "bf16": np.dtype(ml_dtypes.bfloat16),
        "f16": np.dtype("<f2"),
        "f32": np.dtype("<f4"),
        "f64": np.dtype("<f8"),
        "c64": np.dtype("<c8"),
        "c128": np.dtype("<c16"),
    }
)
"""wcodec's dtype names and the little-endian NumPy dtypes that hold them; i4 and u4 take one byte an element."""

FLOATS = frozenset({"f16", "bf16", "f32", "f64"})
"""The dtypes that quantization takes; narrower floats are already quantized and stay as they are."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}

BLOCK_BYTES = 32 << 20
"""How much of a tensor `Tensor.blocks` reads at a time: enough for every core, little beside a model."""


def dtype_name(dtype: np.dtype[Any]) -> str:
    """wcodec's name of a NumPy (or ml_dtypes) dtype of any byte order; `UnsupportedError` if it has none."""
    try:
        return _NAMES[dtype.newbyteorder("<")]
    except KeyError:
        raise UnsupportedError(f"dtype {dtype} has no place in wcodec; convert the tensor first") from None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array, read on demand.

    `read(start, stop)` returns elements [start, stop) of the tensor in C order as a 1-D array of `numpy_dtype`.
    It may be called from several threads at once. `channel_axis` is the axis whose indices are output channels,
    as far as the source tells. `step` is how many elements `blocks` reads at a time, 0 for `BLOCK_BYTES`. `is_factor`
    says whether sums of products are made with it, or rows taken from it as from a table; true where nothing tells.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[int, int], Array] = field(repr=False)
    channel_axis: int = 0
    step: int = 0
    is_factor: bool = True

    @classmethod
    def from_array(cls, name: str, array: Array) -> Tensor:
        """A tensor that is already in memory; the array is kept as it is, not copied, if it is contiguous."""
        name_of_dtype = dtype_name(array.dtype)
        flat = np.ascontiguousarray(array, dtype=DTYPES[name_of_dtype]).reshape(-1)
        return cls(name, name_of_dtype, array.shape, lambda start, stop: flat[start:stop])

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return DTYPES[self.dtype]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.numpy_dtype.itemsize

    def array(self) -> Array:
        """The whole tensor, in its shape."""
        return self.read(0, self.size).reshape(self.shape)

    def blocks(self) -> Iterator[Array]:
        """The whole tensor in order, as 1-D pieces of `step` elements."""
        step = self.step or BLOCK_BYTES // self.numpy_dtype.itemsize
        for start in range(0, self.size, step):
            yield self.read(start, min(start + step, self.size))


@dataclass(frozen=True)
class QuantizedTensor:
    """Symbols and the factors that turn them back into numbers: value = (symbol - zero_point) * scale.

    `symbols` has the tensor's shape and an 8- or 16-bit integer dtype. `scale` (f32, or f64 for f64 tensors) and
    `zero_point` (the symbols' dtype; None when symmetric) have one entry per block: their shape is
    ceil(shape / block) along every axis. `dtype` names what the values are turned back into.
    """

    name: str
    dtype: str
    bits: int
    symbols: Array
    scale: Array
    zero_point: Array | None
    block: tuple[int, ...]


class Model:
    """Tensors in the source's order, and what else the source held.

    `ties` maps a name to the name of the tensor in `tensors` whose values it shares. `graph` is an ONNX model
    with its weights taken out, or None. `metadata` is the source's own string map. A model read from a file
    keeps it open: use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        tensors: list[Tensor],
        *,
        ties: Mapping[str, str] | None = None,
        graph: bytes | None = None,
        metadata: Mapping[str, str] | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        self.tensors = tensors
        self.ties = dict(ties or {})
        self.graph = graph
        self.metadata = dict(metadata or {})
        self._close = close
        names = {tensor.name for tensor in tensors}
        if len(names) != len(tensors) or names & self.ties.keys():
            raise UsageError("a model's tensors must have different names")
        if not names.issuperset(self.ties.values()):
            raise UsageError("a tied name must name a tensor of the model")

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, metadata: Mapping[str, str] | None = None) -> Model:
        """A model of arrays in memory; the same array object under two names becomes one tensor and a tie."""
        tensors: list[Tensor] = []
        ties: dict[str, str] = {}
        held = dict(arrays)
        first: dict[int, str] = {}
        for name, array in held.items():
            if id(array) in first:
                ties[name] = first[id(array)]
            else:
                first[id(array)] = name
                tensors.append(Tensor.from_array(name, array))
        return cls(tensors, ties=ties, metadata=metadata)

    def by_name(self) -> dict[str, Tensor]:
        """Every name's tensor, tied names last."""
        tensors = {tensor.name: tensor for tensor in self.tensors}
        return tensors | {name: tensors[target] for name, target in self.ties.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, tied ones once."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def close(self) -> None:
        """Let go of the file the tensors are read from; they cannot be read after."""
        if self._close is not None:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
