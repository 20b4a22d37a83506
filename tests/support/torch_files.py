"""Files that torch saves, what torch finds in them, and such files put together by hand."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support.model_files import SHAPES, Contents, values
from wcodec.model import DTYPES, Array

DTYPES_OF_TORCH = {
    "bool": torch.bool,
    "u8": torch.uint8,
    "i8": torch.int8,
    "u16": torch.uint16,
    "i16": torch.int16,
    "u32": torch.uint32,
    "i32": torch.int32,
    "u64": torch.uint64,
    "i64": torch.int64,
    "f8_e4m3fn": torch.float8_e4m3fn,
    "f8_e4m3fnuz": torch.float8_e4m3fnuz,
    "f8_e5m2": torch.float8_e5m2,
    "f8_e5m2fnuz": torch.float8_e5m2fnuz,
    "f8_e8m0fnu": torch.float8_e8m0fnu,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "c64": torch.complex64,
    "c128": torch.complex128,
}
NAMES = {dtype: name for name, dtype in DTYPES_OF_TORCH.items()}


def tensor_of(array: Array) -> torch.Tensor:
    ours = next(key for key, dtype in DTYPES.items() if dtype == array.dtype)
    flat = torch.tensor(np.frombuffer(array.tobytes(), np.uint8)).view(DTYPES_OF_TORCH[ours])
    return flat.reshape(array.shape)


def every_tensor() -> dict[str, torch.Tensor]:
    return {f"{dtype}/{shape}": tensor_of(values(dtype, shape)) for dtype in DTYPES_OF_TORCH for shape in SHAPES}


def torch_contents(state: dict[str, torch.Tensor]) -> Contents:
    """What torch says its tensors hold."""
    return {
        name: (
            NAMES[tensor.dtype],
            tuple(tensor.shape),
            torch.empty(tensor.shape, dtype=tensor.dtype)
            .copy_(tensor.detach())
            .reshape(-1)
            .view(torch.uint8)
            .numpy()
            .tobytes(),
        )
        for name, tensor in state.items()
    }


def saved(path: Path, value: Any, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


# Pickles by hand: each piece is instructions that leave one value on the stack.


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def storage(key: str = "0", count: int = 4, kind: str = "FloatStorage") -> bytes:
    return tuple_of(text("storage"), name("torch", kind), text(key), text("cpu"), number(count)) + b"Q"


REBUILD = name("torch._utils", "_rebuild_tensor_v2")
ORDERED_DICT = name("collections", "OrderedDict")


def tensor(offset: int = 0, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,), **of: Any) -> bytes:
    sizes = [tuple_of(*map(number, numbers)) for numbers in (shape, strides)]
    return call(REBUILD, storage(**of), number(offset), *sizes, b"\x89", call(ORDERED_DICT))


def dict_of(**items: bytes) -> bytes:
    return b"}" + b"".join(text(key) + value + b"s" for key, value in items.items())


def zip_file(path: Path, pickled: bytes, *more: tuple[str, bytes], storage: int = 16, **options: Any) -> Path:
    """A file of torch.save's zip format around a pickle, with one storage of zeros and more members."""
    pickle_member = ("data.pkl", b"\x80\x02" + pickled + b".")
    members = [pickle_member, ("version", b"3"), ("data/0", bytes(storage)), *more]
    with zipfile.ZipFile(path, "w", **options) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of members with the same name
        for member, data in members:
            archive.writestr(f"archive/{member}", data)
    return path


ONE_KEY = ["0"]
ZEROS = struct.pack("<q", 4) + bytes(16)


def old_file(
    path: Path,
    pickled: bytes,
    keys: object = ONE_KEY,
    data: bytes = ZEROS,
    mark: int = 0x1950A86A20F9469CFC6C,
    **machine: Any,
) -> Path:
    """The same in the format before."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}} | machine
    before, after = pickle.dumps(mark, 2) + pickle.dumps(1001, 2) + pickle.dumps(system, 2), pickle.dumps(keys, 2)
    path.write_bytes(before + b"\x80\x02" + pickled.replace(b"tQ", b"NtQ") + b"." + after + data)
    return path
