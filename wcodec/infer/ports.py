"""What a model takes and gives, and whether arrays are what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wcodec.errors import MismatchError, NonFiniteError
from wcodec.model import Array


@dataclass(frozen=True)
class Port:
    """An input or output: its name and shape, a name standing for a length that is free, such as the batch's."""

    name: str
    shape: tuple[int | str, ...]


def checked_inputs(ports: Sequence[Port], inputs: Sequence[object]) -> list[Array]:
    """A model's inputs as f32 in C order.

    Raises `MismatchError` for another number of them, other shapes and dtypes, and `NonFiniteError` for NaN and
    infinities, with their place.
    """
    if len(inputs) != len(ports):
        raise MismatchError(f"the model takes {len(ports)} input{'s' * (len(ports) != 1)}, not {len(inputs)}")
    arrays = [_checked(port, array) for port, array in zip(ports, inputs, strict=True)]
    _check_free_lengths(ports, arrays)
    return arrays


def _check_free_lengths(ports: Sequence[Port], arrays: Sequence[Array]) -> None:
    """`MismatchError` where inputs do not agree about a length of the same name."""
    first: dict[str, tuple[int, str]] = {}
    for port, array in zip(ports, arrays, strict=True):
        for want, have in zip(port.shape, array.shape, strict=True):
            if not isinstance(want, str) or want == "?":
                continue
            length, where = first.setdefault(want, (have, port.name))
            if length != have:
                raise MismatchError(f"input {port.name!r}: its {want} is {have}, and {length} in input {where!r}")


def _checked(port: Port, array: object) -> Array:
    """An input as f32 in C order."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        what = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise MismatchError(f"input {port.name!r} is an array of floats, not {what}")
    lengths = enumerate(zip(port.shape, array.shape, strict=False))
    if array.ndim != len(port.shape) or not all(_fits(*pair, is_batch=place == 0) for place, pair in lengths):
        wanted, given = ("x".join(map(str, shape)) or "a scalar" for shape in (port.shape, array.shape))
        raise MismatchError(f"input {port.name!r} is {wanted}, not {given}{_hint(port, array)}")
    with np.errstate(over="ignore"):
        made = np.asarray(array, np.float32, order="C")
    if not np.isfinite(made).all():
        place = np.unravel_index(int(np.argmin(np.isfinite(made))), made.shape)
        raise NonFiniteError(f"input {port.name!r}: {made[place]} at {tuple(map(int, place))}")
    return made


def _hint(port: Port, array: Array) -> str:
    if 0 in array.shape:
        return "; it holds no numbers"
    if array.ndim == len(port.shape) == 4 and array.shape[3] == port.shape[1]:
        return "; its channels come last: transpose it to (N, C, H, W)"
    if array.ndim == len(port.shape) - 1 and all(map(_fits, port.shape[1:], array.shape)):
        return "; the first axis is the batch's: give it as x[None]"
    return ""


def _fits(want: int | str, have: int, *, is_batch: bool = False) -> bool:
    return have > 0 and (isinstance(want, str) or want == have or (is_batch and have % want == 0))
