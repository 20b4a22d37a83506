"""NumPy's `.npz` files: a zip file with an `.npy` file for every array."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import struct
import zipfile

import numpy as np
from numpy.lib import format as npy

from wcodec.errors import CorruptFileError, UnsupportedError, UsageError
from wcodec.formats.atomic import atomic_file
from wcodec.formats.cache import LastArray
from wcodec.formats.claims import count_elements, place
from wcodec.formats.source import FileSource
from wcodec.formats.zips import Member, members, read_start, read_whole
from wcodec.model import DTYPES, Array, Model, Tensor, dtype_name

_MAGIC = b"\x93NUMPY"
_LENGTHS = {1: struct.Struct("<H"), 2: struct.Struct("<I"), 3: struct.Struct("<I")}
_HEADER_LIMIT = 10_000

_WRITABLE = frozenset(name for name, dtype in DTYPES.items() if dtype.isbuiltin == 1)
"""The dtypes of NumPy's own; it writes those of ml_dtypes as mere bytes."""

_KINDS = frozenset(DTYPES[name].str[1:] for name in _WRITABLE)
"""Their descriptions in a file, but for the byte order, which comes first."""

_DRIVE = re.compile(r"[A-Za-z]:/")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def read(path: str | os.PathLike[str]) -> Model:
    """The arrays of an .npz file as a model, read when asked for; compressed ones are inflated whole.

    Raises `UnsupportedError` for arrays of objects and of other dtypes wcodec lacks, without unpickling anything,
    and `CorruptFileError` for a file that is damaged, lies about its sizes, or would inflate beyond reason.
    """
    with contextlib.ExitStack() as stack:
        source = FileSource(path)
        stack.callback(source.close)
        cache = LastArray()
        tensors = [_tensor(source, member, cache) for member in members(source).values()]
        stack.pop_all()
    return Model(tensors, close=source.close)


def _tensor(source: FileSource, member: Member, cache: LastArray) -> Tensor:
    if not member.name.endswith(".npy"):
        raise UnsupportedError(f"{member.where} is no .npy array; leave only arrays in the file")
    name = member.name.removesuffix(".npy")
    where = place(source.name, name)
    start, shape, fortran, stored = _read_header(where, source, member)
    dtype = dtype_name(stored)
    count = count_elements(where, shape)
    if member.size != start + count * stored.itemsize:
        raise CorruptFileError(where, f"has {member.size} bytes, which is not what its dtype and shape need")
    itemsize = stored.itemsize

    def stretch(first: int, last: int) -> Array:
        data = source.read(member.offset + start + first * itemsize, (last - first) * itemsize)
        return np.frombuffer(data, stored).astype(DTYPES[dtype], copy=False)

    def whole() -> Array:
        flat = read_whole(source, member)[start:].view(stored).astype(DTYPES[dtype], copy=False)
        return flat.reshape(shape, order="F").reshape(-1) if fortran else flat

    def part_of_whole(first: int, last: int) -> Array:
        return cache.get(name, whole)[first:last]

    return Tensor(name, dtype, shape, part_of_whole if member.deflated or fortran else stretch)


def _read_header(
    where: str, source: FileSource, member: Member
) -> tuple[int, tuple[int, ...], bool, np.dtype[np.generic]]:
    """Where the values begin in the member, their shape, whether the first axis runs fastest, and their dtype."""
    start = read_start(source, member, 12)
    if start[:6] != _MAGIC or len(start) < 12:
        raise CorruptFileError(where, "is no .npy array")
    if start[6] not in _LENGTHS:
        raise UnsupportedError(f"{where}: is of version {start[6]} of .npy; save it with another NumPy")
    layout = _LENGTHS[start[6]]
    (length,) = layout.unpack_from(start, 8)
    total = 8 + layout.size + length
    if length > _HEADER_LIMIT or total > member.size:
        raise CorruptFileError(where, f"claims a header of {length} bytes")
    descr, fortran, shape = _parse_header(where, read_start(source, member, total)[8 + layout.size :])
    if not isinstance(descr, str) or descr[1:] not in _KINDS or descr[0] not in "<>|=":
        holds = "pickled objects" if descr == "|O" else f"values of dtype {descr!r:.100}"
        raise UnsupportedError(f"{where}: holds {holds}; only plain numbers are read")
    return total, shape, fortran and len(shape) > 1, np.dtype(descr)


def _parse_header(where: str, header: bytes) -> tuple[object, bool, tuple[int, ...]]:
    """The dtype's description, the order and the shape in a header, which is a literal of Python's."""
    try:
        fields = ast.literal_eval(header.decode("latin-1").strip())
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    except (ValueError, TypeError, LookupError, SyntaxError, RecursionError, MemoryError) as error:
        raise CorruptFileError(where, f"has a broken header: {type(error).__name__}") from error
    plain = type(fortran) is bool and type(shape) is tuple and all(type(extent) is int for extent in shape)
    if len(fields) != 3 or not plain:
        raise CorruptFileError(where, "has a broken header")
    return descr, fortran, shape


def write(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model as an uncompressed .npz file; the same model gives the same bytes.

    Raises `UsageError` for a dtype that NumPy has no name for, and for a name that would leave the
    folder a zip file is unpacked in, and `OutputError` if the file cannot be written.
    """
    tensors = model.by_name()
    for name, tensor in tensors.items():
        _check_name(name)
        if tensor.dtype not in _WRITABLE:
            raise UsageError(f"tensor {name!r}: NumPy has no dtype for {tensor.dtype}; use .safetensors instead")
    with atomic_file(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, tensor in tensors.items():
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as member:
                header = {
                    "descr": npy.dtype_to_descr(tensor.numpy_dtype),
                    "fortran_order": False,
                    "shape": tensor.shape,
                }
                npy.write_array_header_1_0(member, header)
                for block in tensor.blocks():
                    member.write(block.view(np.uint8).data)


def _check_name(name: str) -> None:
    """Raise `UsageError` for a name that a zip file cannot hold safely."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"tensor {name!r:.200}: the name is no valid Unicode text; rename the tensor") from error
    escapes = name.startswith("/") or ".." in name.split("/") or _DRIVE.match(name)
    if escapes or "\\" in name or "\0" in name:
        raise UsageError(f"tensor {name!r:.200}: the name is a path out of the .npz file; use .safetensors instead")
    if length > 60_000:
        raise UsageError(f"tensor {name!r:.200}: the name is too long for a .npz file; use .safetensors instead")
