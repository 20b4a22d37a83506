"""A small model with every awkward kind of tensor, and what it must come back as."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from wcodec.model import DTYPES, Array, Model, dtype_name


def awkward_arrays() -> dict[str, Array]:
    """Weights to quantize, floats and integers to keep, odd ranks and sizes; the same every time."""
    rng = np.random.default_rng(3)
    return {
        "conv.weight": (rng.laplace(size=(24, 7, 3, 3)) * rng.lognormal(size=(24, 1, 1, 1))).astype(np.float32),
        "conv.bias": rng.standard_normal(24).astype(np.float32),
        "fc.weight": rng.standard_normal((33, 65)).astype(np.float16),
        "bf16.weight": rng.standard_normal((40, 40)).astype(ml_dtypes.bfloat16),
        "f64.weight": rng.standard_normal((40, 40)),
        "f8": rng.standard_normal((9, 5)).astype(ml_dtypes.float8_e4m3fn),
        "int8.weight": rng.integers(-128, 128, (70, 70), np.int8),
        "uint8": rng.integers(0, 256, (13,), np.uint8),
        "int4": rng.integers(-8, 8, (6, 7)).astype(ml_dtypes.int4),
        "int64": np.array([[-(2**63), 2**63 - 1]]),
        "mask": rng.integers(0, 2, (3, 5)).astype(bool),
        "complex": (rng.standard_normal(4) + 1j).astype(np.complex64),
        "scalar": np.array(2.5, np.float32),
        "count": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "empty rows": np.zeros((3, 0), np.int8),
        "zeros": np.zeros((64, 32), np.float32),
        "huge row": rng.standard_normal((1, 1_100_000)).astype(np.float32),
    }


def awkward_model(**more: Array) -> Model:
    return Model.from_arrays({**awkward_arrays(), **more}, metadata={"made by": "a test", "ключ": "värde"})


def same_bits(a: Array, b: Array) -> bool:
    """Equal in dtype, shape and every bit."""
    a, b = (np.ascontiguousarray(x, DTYPES[dtype_name(x.dtype)]) for x in (a, b))
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.name in ("int4", "uint4"):
        return bool((a.astype(np.int16) == b.astype(np.int16)).all())
    return a.tobytes() == b.tobytes()
