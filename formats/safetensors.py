"""Files in the safetensors format: a JSON header of names, dtypes, shapes and offsets, then the bytes."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np

from wcodec.errors import CorruptFileError, UnsupportedError, UsageError
from wcodec.formats.atomic import atomic_file
from wcodec.formats.claims import count_elements, place
from wcodec.formats.source import FileSource
from wcodec.model import DTYPES, Array, Model, Tensor

DTYPE_NAMES: Mapping[str, str] = {
    "BOOL": "bool",
    "U8": "u8",
    "I8": "i8",
    "U16": "u16",
    "I16": "i16",
    "U32": "u32",
    "I32": "i32",
    "U64": "u64",
    "I64": "i64",
    "F8_E4M3": "f8_e4m3fn",
    "F8_E4M3FNUZ": "f8_e4m3fnuz",
    "F8_E5M2": "f8_e5m2",
    "F8_E5M2FNUZ": "f8_e5m2fnuz",
    "F8_E8M0": "f8_e8m0fnu",
    "F16": "f16",
    "BF16": "bf16",
    "F32": "f32",
    "F64": "f64",
    "C64": "c64",
}
"""The format's dtype names and wcodec's."""

_FORMAT_NAMES = {ours: theirs for theirs, ours in DTYPE_NAMES.items()}
_SUB_BYTE = frozenset({"F4", "F6_E2M3", "F6_E3M2"})

HEADER_LIMIT = 100_000_000
"""The longest header that is read or written, in bytes; the reference reader has the same limit."""

_QUOTES_LIMIT = 1 << 21
"""Quotation marks in a header: ten a tensor, which leaves room for more tensors than any model has."""

_ALIGNMENT = 8
_METADATA = "__metadata__"
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?', re.DOTALL)

_Size = Annotated[int, msgspec.Meta(ge=0)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[_Size]
    data_offsets: tuple[_Size, _Size]


def read(path: str | os.PathLike[str]) -> Model:
    """The model in a safetensors file, its tensors in the order of their bytes, read when asked for.

    Raises `CorruptFileError` unless header and bytes agree exactly, without holes or overlaps, and
    `UnsupportedError` for a dtype narrower than a byte.
    """
    with contextlib.ExitStack() as stack:
        source = FileSource(path)
        stack.callback(source.close)
        header = _read_header(source)
        entries, metadata = _parse_header(f"{source.name}: header", header)
        tensors = _tensors(source, 8 + len(header), entries)
        stack.pop_all()
    return Model(tensors, metadata=metadata, close=source.close)


def _read_header(source: FileSource) -> bytes:
    where = f"{source.name}: header"
    length = int.from_bytes(source.read(0, 8), "little")
    if length > HEADER_LIMIT:
        raise CorruptFileError(where, f"claims {length} bytes, more than the {HEADER_LIMIT} that are allowed")
    header = bytes(source.read(8, length))
    if not header.startswith(b"{"):
        raise CorruptFileError(where, "does not begin with '{'; this is not a safetensors file")
    if header.count(b'"') > _QUOTES_LIMIT:
        raise CorruptFileError(where, "names more tensors than any model has")
    return header


def _parse_header(where: str, header: bytes) -> tuple[dict[str, _Entry], dict[str, str]]:
    """Names with what the header says of them, in its order, and the string map."""
    try:
        parts = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        raw_metadata = parts.pop(_METADATA, None)
        metadata = {} if raw_metadata is None else msgspec.json.decode(raw_metadata, type=dict[str, str])
        decoder = msgspec.json.Decoder(_Entry)
        entries = {name: decoder.decode(part) for name, part in parts.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFileError(where, f"cannot be understood: {error}") from error
    # The decoder keeps the last of repeated keys, so a repetition shows in the number of strings before a colon.
    keys = sum(match[1] is not None for match in _STRING.finditer(header))
    expected = len(entries) * (1 + len(_Entry.__struct_fields__)) + len(metadata) + (raw_metadata is not None)
    if keys != expected:
        raise CorruptFileError(where, "has the same key twice")
    return entries, metadata


def _tensors(source: FileSource, start: int, entries: Mapping[str, _Entry]) -> list[Tensor]:
    """Tensors of the entries, checked to cover the file from byte `start` to its end exactly."""
    tensors = []
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        where = place(source.name, name)
        dtype = _dtype(where, entry.dtype)
        begin, end = entry.data_offsets
        if begin != position:
            raise CorruptFileError(where, f"begins at byte {begin} of the data, but byte {position} is next")
        if end - begin != count_elements(where, entry.shape) * DTYPES[dtype].itemsize:
            raise CorruptFileError(where, f"has {end - begin} bytes, which is not what its dtype and shape need")
        tensors.append(_tensor(source, name, dtype, tuple(entry.shape), start + begin))
        position = end
    if start + position != source.size:
        raise CorruptFileError(source.name, f"has {source.size} bytes, but its header tells of {start + position}")
    return tensors


def _dtype(where: str, name: str) -> str:
    if name in _SUB_BYTE:
        raise UnsupportedError(f"{where}: dtype {name} is narrower than a byte; widen it to F8_E4M3 or U8 first")
    if name not in DTYPE_NAMES:
        raise UnsupportedError(f"{where}: unknown dtype {name!r:.100}; a newer wcodec may know it")
    return DTYPE_NAMES[name]


def _tensor(source: FileSource, name: str, dtype: str, shape: tuple[int, ...], offset: int) -> Tensor:
    numpy_dtype = DTYPES[dtype]

    def read_elements(start: int, stop: int) -> Array:
        data = source.read(offset + start * numpy_dtype.itemsize, (stop - start) * numpy_dtype.itemsize)
        return np.frombuffer(data, numpy_dtype)

    return Tensor(name, dtype, shape, read_elements)


def write(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model as a safetensors file; tied names each get their bytes in full.

    Raises `UsageError` for a dtype the format has no name for and for a name it reserves, and
    `OutputError` if the file cannot be written.
    """
    tensors = _in_order(model)
    header = _make_header(tensors, model.metadata)
    with atomic_file(path) as stream:
        stream.write(len(header).to_bytes(8, "little"))
        stream.write(header)
        for _, tensor in tensors:
            for block in tensor.blocks():
                stream.write(block.view(np.uint8).data)


def _in_order(model: Model) -> list[tuple[str, Tensor]]:
    """Names and tensors as they will lie in the file: as in the model, but the widest first if alignment asks it."""
    tensors = list(model.by_name().items())
    position = 0
    for _, tensor in tensors:
        if position % tensor.numpy_dtype.itemsize:
            return sorted(tensors, key=lambda item: -item[1].numpy_dtype.itemsize)
        position += tensor.nbytes
    return tensors


def _make_header(tensors: list[tuple[str, Tensor]], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {_METADATA: metadata} if metadata else {}
    position = 0
    for name, tensor in tensors:
        if name == _METADATA:
            raise UsageError(f"tensor {name!r}: safetensors reserves this name; rename the tensor")
        if tensor.dtype not in _FORMAT_NAMES:
            raise UsageError(f"tensor {name!r}: safetensors has no dtype for {tensor.dtype}; convert it first")
        end = position + tensor.nbytes
        dtype = _FORMAT_NAMES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [position, end]}
        position = end
    try:
        encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"a name or the metadata is no valid Unicode text: {error}; rename the tensor") from error
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    if len(encoded) > HEADER_LIMIT:
        raise UsageError(f"the header would take {len(encoded)} bytes, but safetensors allows {HEADER_LIMIT}")
    return encoded
