"""Makes v1/archives/*.wcodec, which pin every quantizer, tiling and coder as whole files.

Golden files are only ever added: those that exist are left as they are. The values are made by integer arithmetic and
quantize without error, so that what a file decodes to is known without the library.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

import wcodec
from wcodec import Policy
from wcodec.model import Array

FOLDER = Path(__file__).parent / "v1" / "archives"

POLICIES = {
    "raw": Policy(coder="raw", min_size=1),
    "zstd": Policy(coder="zstd", min_size=1),
    "zstd-nibbles": Policy(coder="zstd", bits=4, min_size=1),
    "zstd-crumbs": Policy(coder="zstd", bits=2, per="group", group_size=8, min_size=1),
    "zstd-asymmetric-12": Policy(coder="zstd", bits=12, symmetric=False, min_size=1),
    "zstd-lossless": Policy(coder="zstd", lossless=True),
    "floats": Policy(coder="floats", lossless=True),
    "rans": Policy(coder="rans", min_size=1),
    "rans-4": Policy(coder="rans", bits=4, min_size=1),
    "rans-asymmetric-12": Policy(coder="rans", bits=12, symmetric=False, min_size=1),
    "rans-2": Policy(coder="rans", bits=2, min_size=1),
    "rans-12": Policy(coder="rans", bits=12, min_size=1),
    "h264": Policy(coder="h264", min_size=1),
    "hevc-10": Policy(coder="hevc", bits=10, min_size=1),
    "av1": Policy(coder="av1", min_size=1),
    "vp9": Policy(coder="vp9", min_size=1),
    "ffv1": Policy(coder="ffv1", min_size=1),
    "ffv1-16": Policy(coder="ffv1", bits=16, min_size=1),
}


def numbers(bits: int, rows: int, columns: int, symmetric: bool = True) -> Array:
    """Integers of `bits` bits, every 8 columns of which reach both ends: int64 of shape (rows, columns).

    Symmetric about 0, or as many as there are symbols, from -100 up.
    """
    low, high = (1 - (1 << (bits - 1)), (1 << (bits - 1)) - 1) if symmetric else (-100, (1 << bits) - 101)
    state, found = bits, []
    for place in range(rows * columns):
        state = (state * 1103515245 + 12345) % 2**31
        found.append((high, low)[place % 8] if place % 8 < 2 else (state >> 16) % (high - low + 1) + low)
    return np.array(found).reshape(rows, columns)


def tensors(policy: Policy) -> dict[str, Array]:
    """Matrices that the policy's quantizer takes without error, and one tensor of every kind that is kept."""
    steps = 2.0 ** -(np.arange(24)[:, None] % 5)
    weights = numbers(policy.bits, 24, 40, policy.symmetric) * steps
    bits = min(policy.bits, 8)
    more = {}
    if policy.coder == "rans":
        more["conv"] = smooth_kernels(policy.bits, policy.symmetric)
        # long rows, each with a middle of its own
        more["u8"] = (numbers(6, 3, 9000) + np.array([[40], [120], [200]])).astype(np.uint8)
    return {
        **more,
        "f32": weights.astype(np.float32),
        "f64": weights.astype(np.float64),
        "bf16": (numbers(bits, 24, 40) * steps).astype(ml_dtypes.bfloat16) if policy.bits <= 8 else weights[0],
        "kept": numbers(12, 1, 40)[0].astype(np.float16),
        "i8": numbers(8, 24, 40).astype(np.int8),
        "i4": numbers(4, 3, 5).astype(ml_dtypes.int4),
        "i64": numbers(16, 1, 3)[0].astype(np.int64),
        "scalar": np.array(-2.5),
        "empty": np.zeros((0, 3), np.float32),
    }


def smooth_kernels(bits: int, symmetric: bool) -> Array:
    """Kernels whose weights are like their neighbours: f32 of shape (40, 30, 3, 3), every row reaching both ends."""
    rough = numbers(bits, 40 * 30, 16, symmetric).reshape(-1, 4, 4)
    low, high = rough.min(), rough.max()
    sums = rough[:, :3, :3] + rough[:, 1:, :3] + rough[:, :3, 1:] + rough[:, 1:, 1:]
    smooth = np.clip(sums // 3, low, high).reshape(40, -1)
    smooth[:, 0], smooth[:, 1] = low, high
    return (smooth * 2.0 ** -(np.arange(40)[:, None] % 3)).reshape(40, 30, 3, 3).astype(np.float32)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, policy in POLICIES.items():
        if (FOLDER / f"{name}.wcodec").exists():
            continue
        with (FOLDER / f"{name}.wcodec").open("xb") as file:
            wcodec.encode(wcodec.Model.from_arrays(tensors(policy)), file, policy)


if __name__ == "__main__":
    main()
