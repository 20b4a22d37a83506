"""What model files claim about their tensors, checked before anything is computed or allocated from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wcodec.errors import CorruptFileError

MAX_RANK = 64
"""How many axes a NumPy array can have."""

_MAX_BYTES = 2**63 - 1
_WIDEST = 16
"""Bytes of the widest dtype, complex128."""


def place(file: str, tensor: str) -> str:
    """How messages name a tensor of a file; a name of hostile length is cut."""
    return f"{file}: tensor {tensor!r:.200}"


def count_elements(where: str, shape: Sequence[int]) -> int:
    """Number of elements of a shape that an array can have; `CorruptFileError` for any other shape."""
    if len(shape) > MAX_RANK:
        raise CorruptFileError(where, f"claims {len(shape)} axes; at most {MAX_RANK} are possible")
    if any(extent < 0 for extent in shape):
        raise CorruptFileError(where, "claims a negative extent")
    # Even an empty array must have strides that fit.
    if math.prod(extent for extent in shape if extent) * _WIDEST > _MAX_BYTES:
        raise CorruptFileError(where, "claims more elements than any memory can hold")
    return math.prod(shape)
