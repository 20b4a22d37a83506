"""What differs between two models: tensor by tensor, whatever files they are in."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from wcodec.archive import Archive, open_archive
from wcodec.errors import CorruptFileError
from wcodec.formats import read_model
from wcodec.formats.shards import INDEX_SUFFIX, SUFFIX
from wcodec.model import Array, Model, Tensor
from wcodec.workers import Progress, ProgressCallback

Source = str | os.PathLike[str] | Archive | Model

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
        return _by_name(source)
    if isinstance(source, Archive):
        return _by_name(source.model())
    path = os.fspath(source)
    with _naming(path):
        if path.partition("?")[0].endswith((SUFFIX, INDEX_SUFFIX)):
            model = stack.enter_context(open_archive(path, workers=workers)).model()
        else:
            model = stack.enter_context(read_model(path))
    return {name: _named(path, tensor) for name, tensor in _by_name(model).items()}


def _by_name(model: Model) -> dict[str, Tensor]:
    tensors = {tensor.name: tensor for tensor in model.tensors}
    return tensors | {name: tensors[target] for name, target in model.ties.items()}


def _named(path: str, tensor: Tensor) -> Tensor:
    """The tensor, with errors that say which of two files they are about."""

    def read(start: int, stop: int) -> Array:
        with _naming(path):
            return tensor.read(start, stop)

    return replace(tensor, read=read)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except CorruptFileError as error:
        where = error.where if path in error.where else f"{path}: {error.where}"
        raise CorruptFileError(where, error.problem) from error


def _compare(name: str, a: Tensor, b: Tensor) -> Difference:
    if a.shape != b.shape:
        return Difference(name, "shape")
    same, signal, noise, largest = a.dtype == b.dtype, 0.0, 0.0, 0.0
    for start in range(0, a.size, _STEP):
        left, right = (tensor.read(start, min(start + _STEP, a.size)) for tensor in (a, b))
        signal += _power(_wide(left))
        if a.dtype == b.dtype and np.array_equal(left.view(np.uint8), right.view(np.uint8)):
            continue
        same = False
        error = _wide(left) - _wide(right)
        error[np.isnan(_wide(left)) & np.isnan(_wide(right))] = 0
        noise += _power(error)
        largest = max(largest, float(np.abs(error).max()))
    if same:
        return Difference(name, "same")
    ratio = math.inf if noise == 0 else -math.inf if signal == 0 else 10 * math.log10(signal / noise)
    return Difference(name, "values" if a.dtype == b.dtype else "dtype", largest, ratio)


def _wide(values: Array) -> Array:
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)


def _power(values: Array) -> float:
    return float(np.nansum(np.square(np.abs(values))))
