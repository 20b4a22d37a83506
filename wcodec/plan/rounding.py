"""Rounding whose errors cancel: what rounding a column does to a layer's outputs, the columns after it make up for."""

from __future__ import annotations

import numpy as np

from wcodec.errors import UsageError
from wcodec.model import Array

_TOGETHER = 128
"""Columns between which errors are passed on one by one; later columns get those of all of them at once."""


def factor_of(moments: Array, *, shrinkage: float, damping: float) -> Array:
    """The upper triangular U, f64, of second moments H = U U^T that were made sound, f64 of shape (columns, columns).

    Moments of few inputs say more about those than about others: `shrinkage`, from 0 to 1, is how much of what is off
    the diagonal is not believed, and `damping` times the mean of the diagonal is added to it. So are columns that no
    input reached. `UsageError` for moments that are no square matrix of finite numbers, or shares that are none.
    """
    if moments.ndim != 2 or moments.shape[0] != moments.shape[1] or not np.isfinite(moments).all():
        raise UsageError(f"second moments of shape {moments.shape} are no square matrix of finite numbers")
    if not (0 <= shrinkage <= 1 and damping >= 0):
        raise UsageError(f"shrinkage {shrinkage} lies between 0 and 1, damping {damping} is 0 or more")
    sound = np.array(moments, np.float64) * (1 - shrinkage)
    diagonal = np.diagonal(moments).astype(np.float64)
    # of moments that are all zero, every column counts as much as the others
    mean = float(diagonal.mean()) or 1.0
    np.fill_diagonal(sound, diagonal + max(damping, np.finfo(np.float64).eps * len(sound)) * mean)
    # Cholesky's factor is lower triangular: of the matrix read from its other end, it is the upper one
    try:
        return np.ascontiguousarray(np.linalg.cholesky(sound[::-1, ::-1])[::-1, ::-1])
    except np.linalg.LinAlgError as error:
        raise UsageError("the matrix holds no second moments of anything: it is not positive definite") from error


def rounded_columns(weights: Array, factor: Array, steps: Array, highest: int) -> Array:
    """Symbols, int32 of shape (..., rows, columns), from -highest to highest, times the steps (..., rows) near weights.

    The error of the outputs is (weights - symbols * steps) U, with `factor` U as `factor_of` gives it. Columns are
    rounded in order, each after what the ones before have done to its place in that product was taken from it, so that
    no place is further off than half a step times U's diagonal, but for symbols at the ends. This is Babai's nearest
    plane, and successive cancellation in GPTQ (arXiv 2210.17323) and WaterSIC (arXiv 2603.04956).
    Arithmetic is done in the factor's dtype.
    """
    columns = weights.shape[-1]
    if factor.shape[-2:] != (columns, columns) or steps.shape != weights.shape[:-1] or not (steps > 0).all():
        raise UsageError(f"weights {weights.shape} do not go with a factor {factor.shape} and steps {steps.shape}")
    # columns are gone through one by one, so they come first
    exact = np.ascontiguousarray(np.moveaxis(weights, -1, 0), factor.dtype)
    wanted, steps = exact.copy(), steps.astype(factor.dtype)
    scaled = factor / np.diagonal(factor, axis1=-2, axis2=-1)[..., None, :]
    symbols = np.empty(weights.shape, np.int32)
    errors = np.empty((*weights.shape[:-1], min(columns, _TOGETHER)), factor.dtype)
    for start in range(0, columns, _TOGETHER):
        stop = min(columns, start + _TOGETHER)
        for column in range(start, stop):
            done = column - start
            passed_on = errors[..., :done] @ scaled[..., start:column, column, None]
            target = (wanted[column] + passed_on[..., 0]) / steps
            nearest = np.clip(np.rint(target), -highest, highest)
            symbols[..., column] = nearest
            errors[..., done] = exact[column] - nearest * steps
        later = errors[..., : stop - start] @ scaled[..., start:stop, stop:]
        wanted[stop:] += np.moveaxis(later, -1, 0)
    return symbols
