"""Tensors of every dtype, and what a model holds as plain bytes, for the tests of model files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wcodec.model import DTYPES, Array, Model

Contents = dict[str, tuple[str, tuple[int, ...], bytes]]

SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (7,), (0,), (3, 0, 2), (3, 5), (2, 3, 1, 5))
"""0-d, empty and odd."""


def values(dtype: str, shape: Sequence[int], seed: int = 0) -> Array:
    """An array of any bits, or of any values where not all bits are values."""
    draw = np.random.default_rng(seed)
    count = math.prod(shape)
    if dtype in ("bool", "u4", "i4"):
        low, high = {"bool": (0, 2), "u4": (0, 16), "i4": (-8, 8)}[dtype]
        return draw.integers(low, high, count).astype(DTYPES[dtype]).reshape(shape)
    data = draw.integers(0, 256, count * DTYPES[dtype].itemsize, np.uint8)
    return data.view(DTYPES[dtype]).reshape(shape)


def contents(model: Model) -> Contents:
    """Dtype, shape and bytes of every name, ties included, in the model's order."""
    found = {
        tensor.name: (tensor.dtype, tensor.shape, b"".join(block.tobytes() for block in tensor.blocks()))
        for tensor in model.tensors
    }
    return found | {name: found[target] for name, target in model.ties.items()}


def contents_of(arrays: dict[str, Array]) -> Contents:
    """The same of arrays."""
    return contents(Model.from_arrays(arrays))


def read_contents(read: Callable[..., Model], path: object) -> Contents:
    """What the file at a path holds, by one of the readers; each tensor is read in pieces too, and they must agree."""
    with read(path) as model:
        for tensor in model.tensors:
            cut = tensor.size // 3
            pieces = [tensor.read(0, cut), tensor.read(cut, tensor.size)]
            assert np.concatenate(pieces).tobytes() == tensor.array().tobytes()
            assert {piece.dtype for piece in pieces} == {tensor.numpy_dtype}
            assert [piece.shape for piece in pieces] == [(cut,), (tensor.size - cut,)]
        return contents(model)


def overwrite(path: Path, data: bytes | bytearray) -> None:
    """Make a new file of these bytes. To cut and refill the old one has some file systems wait for the disk."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
