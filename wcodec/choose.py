"""Which coder a tensor gets: the one asked for, or the smallest by trial."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from wcodec.coders import CODERS, Coder
from wcodec.coders.floats import Floats
from wcodec.coders.rans import Rans
from wcodec.coders.raw import Raw
from wcodec.coders.video import VIDEO_CODERS, VideoCoder
from wcodec.coders.zstd import Zstd
from wcodec.errors import CoderError, MissingDependencyError, UsageError
from wcodec.model import Array
from wcodec.pipeline import TensorCodec
from wcodec.policy import Policy
from wcodec.tiling import Rows
from wcodec.workers import Runner

Symbols = Callable[[tuple[int, int]], Array]
"""Reads the symbols of rows [start, stop), shape (stop - start, *row)."""

DEFAULT_LEVEL = 3

_TRIAL_LEVELS = (1, DEFAULT_LEVEL, 19)
"""Of Zstandard for `auto`: packed 4-bit symbols are often smaller at 1 than at 3, and 19 searches longest."""

_SMALLEST_VIDEO = 4096
"""Symbols below which a video stream's headers cost more than it can save."""

_SAMPLES = 8
"""Chunks of a tensor that `auto` codes with every coder still in question; all, in tensors of up to 8 M elements."""

_HOPELESS = {0: 1.05, 2: 1.02}
"""A coder is tried no further when after so many more chunks than one its size is that much above the smallest."""


@dataclass
class Choice:
    """The codec chosen, and the payloads of chunks that its trial has already coded, by their first row."""

    codec: TensorCodec
    payloads: dict[int, bytes] = field(default_factory=dict)


def choose(codec: TensorCodec, symbols: Symbols, policy: Policy, run: Runner = map) -> Choice:
    """The codec of a tensor whose quantizer and scales are settled; `codec`'s own coder does not matter.

    `symbols` gives a chunk's symbols. The trial of "auto" runs through `run`, `map` or an executor's.
    """
    if not codec.rows.chunks():
        return Choice(codec.with_coder(Raw()))
    candidates = _candidates(codec, policy)
    if len(candidates) == 1:
        return Choice(codec.with_coder(candidates[0]))
    return _smallest([codec.with_coder(coder) for coder in candidates], symbols, run)


def _smallest(codecs: list[TensorCodec], symbols: Symbols, run: Runner) -> Choice:
    chunks = codecs[0].rows.chunks()
    spread = chunks[:: math.ceil(len(chunks) / _SAMPLES)]
    middle = len(spread) // 2
    # the ends of a tensor, such as unused rows, are the least like the rest
    sample = [*spread[middle:], *spread[:middle]]
    choices = [Choice(codec) for codec in codecs]
    for place, chunk in enumerate(sample):
        attempts = run(partial(_attempt, symbols(chunk)), choices)
        for choice, payload in zip(choices, attempts, strict=True):
            if payload is not None:
                choice.payloads[chunk[0]] = payload
        choices = [choice for choice in choices if len(choice.payloads) == place + 1]
        sizes = [sum(map(len, choice.payloads.values())) for choice in choices]
        if place in _HOPELESS:
            choices = [c for c, size in zip(choices, sizes, strict=True) if size <= _HOPELESS[place] * min(sizes)]
        if len(choices) == 1:
            return choices[0]
    return min(choices, key=lambda choice: sum(map(len, choice.payloads.values())))


def _attempt(symbols: Array, choice: Choice) -> bytes | None:
    """The chunk's payload, or None where the coder cannot: `auto` has others."""
    try:
        return choice.codec.encode(symbols)
    except (CoderError, MissingDependencyError):
        return None


def _candidates(codec: TensorCodec, policy: Policy) -> list[Coder]:
    """The coders to try. A named coder that cannot hold a kept tensor leaves it to the lossless byte coders."""
    dtype, bits, quantized = codec.symbol_dtype, codec.bits, codec.scales is not None
    if policy.coder != "auto":
        coder = named_coder(policy.coder, codec.rows, dtype, bits, policy.qp if quantized else None, policy.level)
        if coder is not None:
            return [coder]
        if quantized:
            hint = "keep the tensors (lossless)" if policy.coder == "floats" else "take another coder, or fewer bits"
            raise UsageError(f"{policy.coder} has no form for integer symbols of {bits} bits; {hint}")
    coders: list[Coder] = [
        Raw(),
        *(Zstd.suited(level, dtype, bits) for level in _TRIAL_LEVELS),
        *map(Floats, _TRIAL_LEVELS),
    ]
    if policy.coder == "auto":
        coders.append(_rans_for(codec.rows))
    if policy.coder == "auto" and math.prod(codec.rows.shape) >= _SMALLEST_VIDEO:
        coders += [coder for name in VIDEO_CODERS if (coder := named_coder(name, codec.rows, dtype, bits, None, None))]
    return [coder for coder in coders if coder.takes(dtype, bits)]


def named_coder(
    name: str, rows: Rows, dtype: np.dtype[Any], bits: int, qp: int | None, level: int | None
) -> Coder | None:
    """The coder of this id, in the form for such rows of such symbols; None where it has none."""
    kind = CODERS[name]
    if issubclass(kind, VideoCoder):
        return kind.suited(dtype, bits, qp)
    coder: Coder
    if kind is Zstd:
        coder = Zstd.suited(level or DEFAULT_LEVEL, dtype, bits)
    elif kind is Rans:
        coder = _rans_for(rows)
    else:
        coder = Floats(level or DEFAULT_LEVEL) if kind is Floats else Raw()
    return coder if coder.takes(dtype, bits) else None


def _rans_for(rows: Rows) -> Rans:
    return Rans.suited(math.prod(rows.shape), rows.trail_from(2))
