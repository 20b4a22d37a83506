"""What differs between two models: tensor by tensor, whatever files they are in."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wcodec.archive import Archive, open_archive
from wcodec.formats import read_model
from wcodec.model import Array, Model, Tensor
from wcodec.workers import Progress, ProgressCallback

Source = str | os.PathLike[str] | Archive | Model


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
        model = source
    elif isinstance(source, Archive):
        model = source.model()
    elif is_archive(source):
        model = stack.enter_context(open_archive(source, workers=workers)).model()
    else:
        model = stack.enter_context(read_model(source))
    tensors = {tensor.name: tensor for tensor in model.tensors}
    return tensors | {name: tensors[target] for name, target in model.ties.items()}


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a path or URL is to be opened as an archive, by its name."""
    return os.fspath(path).partition("?")[0].endswith((".wcodec", ".wcodec.index.json"))


def _compare(name: str, a: Tensor, b: Tensor) -> Difference:
    if a.shape != b.shape:
        return Difference(name, "shape")
    step, same, signal, noise, largest = max(1, a.step or b.step or 1 << 22), True, 0.0, 0.0, 0.0
    for start in range(0, a.size, step):
        left, right = (tensor.read(start, min(start + step, a.size)) for tensor in (a, b))
        if a.dtype == b.dtype and np.array_equal(left.view(np.uint8), right.view(np.uint8)):
            signal += _power(left)
            continue
        same = False
        error = left.astype(np.complex128) - right.astype(np.complex128)
        error[np.isnan(left.astype(np.complex128)) & np.isnan(right.astype(np.complex128))] = 0
        signal, noise = signal + _power(left), noise + _power(error)
        largest = max(largest, float(np.abs(error).max()))
    if same and a.dtype == b.dtype:
        return Difference(name, "same")
    ratio = math.inf if noise == 0 else -math.inf if signal == 0 else 10 * math.log10(signal / noise)
    return Difference(name, "values" if a.dtype == b.dtype else "dtype", largest, ratio)


def _power(values: Array) -> float:
    return float(np.sum(np.square(np.abs(values.astype(np.complex128)))))
