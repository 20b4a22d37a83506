"""Weights times a factor for each output channel, computed while they are read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from wcodec.model import DTYPES, Array, Tensor

_PIECE = 1 << 16
"""Elements that are computed at a time: few enough to stay in a core's cache as float64."""


@dataclass(frozen=True)
class Channels:
    """Which output channel each element of a weight belongs to, counted in C order.

    `run` consecutive elements are of one channel, and `count` such runs, of one channel each, follow one another until
    they begin again. Every `group` elements, a multiple of this, other `count` channels are meant.
    """

    run: int
    count: int
    group: int

    def spread(self, factors: Array, start: int, stop: int) -> Array:
        """The factors, of shape (channels,), of elements [start, stop)."""
        runs = np.arange(start // self.run, -(-stop // self.run))
        values: Array = factors[runs // (self.group // self.run) * self.count + runs % self.count]
        if self.run == 1:
            return values
        lengths = np.full(len(runs), self.run)
        lengths[:1] -= start % self.run
        lengths[-1:] -= -stop % self.run
        return np.repeat(values, lengths)


def scaled(tensor: Tensor, channels: Channels, factors: Array) -> Tensor:
    """The tensor with every element times its channel's factor, f64 of shape (channels,), read as it was."""

    def read(start: int, stop: int) -> Array:
        values = tensor.read(start, stop)
        result = np.empty(len(values), tensor.numpy_dtype)
        for place in range(0, len(values), _PIECE):
            piece = values[place : place + _PIECE].astype(np.float64)
            piece *= channels.spread(factors, start + place, start + place + len(piece))
            result[place : place + _PIECE] = rounded(piece, tensor.dtype)
        return result

    return replace(tensor, read=read)


def rounded(values: Array, dtype: str) -> Array:
    """Numbers of float64 in another dtype of floats, each the nearest."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # ml_dtypes goes by way of f32, and would round twice
        return (_to_odd(values) if dtype == "bf16" else values).astype(DTYPES[dtype])


def _to_odd(values: Array) -> Array:
    """Numbers in f32, with the last bit set wherever there was more: this loses nothing that rounding on may need."""
    near = values.astype(np.float32)
    bits = near.view(np.uint32)
    bits -= np.abs(near) > np.abs(values)
    bits |= near != values
    return near
