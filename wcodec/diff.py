"""What differs between two models: tensor by tensor, whatever files they are in."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wcodec.archive import Archive, opened
from wcodec.evaluate import decibels
from wcodec.formats import read_model
from wcodec.formats.shards import is_archive
from wcodec.formats.source import Target
from wcodec.model import Array, Model, Tensor
from wcodec.workers import Progress, ProgressCallback

Source = Target | Archive | Model

_STEP = 1 << 20
"""Elements compared at a time."""


@dataclass(frozen=True)
class Difference:
    """One name in two models. `snr_db` and `max_error` are of values that differ: 10 log10 of the mean square of A's
    over that of A - B, and the largest |A - B|; None where the tensors cannot be subtracted.
    """

    name: str
    kind: Literal["same", "values", "dtype", "shape", "only in A", "only in B"]
    max_error: float | None = None
    snr_db: float | None = None


def diff(
    a: Source, b: Source, *, workers: int | None = None, progress: ProgressCallback | None = None
) -> list[Difference]:
    """Compare two models, archives or model files, in A's order and then what only B has.

    Tensors are the same when dtype, shape and every bit are. Values of float tensors are compared in float64, and
    NaNs at the same place are equal.
    """
    with ExitStack() as stack:
        left, right = (_tensors(source, stack, workers) for source in (a, b))
        total, done = sum(tensor.nbytes for tensor in left.values()), 0
        found = []
        for name, tensor in left.items():
            found.append(_compare(name, tensor, right[name]) if name in right else Difference(name, "only in A"))
            done += tensor.nbytes
            if progress is not None:
                progress(Progress(name, done, total))
        return found + [Difference(name, "only in B") for name in right if name not in left]


def _tensors(source: Source, stack: ExitStack, workers: int | None) -> dict[str, Tensor]:
    if isinstance(source, Model):
        return source.by_name()
    if isinstance(source, str | os.PathLike) and not is_archive(source):
        return stack.enter_context(read_model(source)).by_name()
    return stack.enter_context(opened(source, workers)).model(with_graph=False).by_name()


def _compare(name: str, a: Tensor, b: Tensor) -> Difference:
    if a.shape != b.shape:
        return Difference(name, "shape")
    same, signal, noise, largest = a.dtype == b.dtype, 0.0, 0.0, 0.0
    step = a.step or b.step or _STEP
    for start in range(0, a.size, step):
        left, right = (tensor.read(start, min(start + step, a.size)) for tensor in (a, b))
        alike = a.dtype == b.dtype and np.array_equal(left.view(np.uint8), right.view(np.uint8))
        same = same and alike
        for place in range(0, len(left), _STEP):
            wide, other = (_wide(values[place : place + _STEP]) for values in (left, right))
            signal += _power(wide[np.isfinite(wide)])
            if not alike:
                with np.errstate(invalid="ignore", over="ignore"):
                    error = np.where((wide == other) | (np.isnan(wide) & np.isnan(other)), 0, wide - other)
                # an infinity or a NaN against a number is as far off as can be
                error[~np.isfinite(error)] = np.inf
                noise, largest = noise + _power(error), max(largest, float(np.abs(error).max()))
    if same:
        return Difference(name, "same")
    ratio = decibels(signal, noise)
    return Difference(name, "values" if a.dtype == b.dtype else "dtype", largest, ratio)


def _wide(values: Array) -> Array:
    """Values as floats that hold every difference: longdouble for 64-bit integers, which doubles do not hold."""
    if values.dtype.kind == "c":
        return values.astype(np.complex128)
    return values.astype(np.longdouble if values.dtype.kind in "iu" and values.itemsize == 8 else np.float64)


def _power(values: Array) -> float:
    """The sum of squares."""
    with np.errstate(over="ignore"):
        return float(np.square(np.abs(values)).sum())
