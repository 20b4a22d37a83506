"""The rule of what is quantized and how, and which coder is asked for."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from typing import Literal, get_args

from wcodec.coders import CODERS, Coder
from wcodec.coders.video import QuantizedVideo
from wcodec.errors import UsageError
from wcodec.model import FLOATS, Tensor
from wcodec.scales import Fit, Keep, Quantizer, Uniform

Granularity = Literal["tensor", "channel", "group"]

_LEAST_IN_CHANNEL = 8
"""Elements below which a scale of their own costs more than it saves."""


@dataclass(frozen=True)
class Policy:
    """How a model is to be encoded.

    A tensor is quantized if it is of f16, bf16, f32 or f64, has two or more axes and at least `min_size` elements, and
    is multiplied with, as far as the source tells; biases, norms and other small tensors stay as they are, and so do
    constants that are only added and every integer tensor. A name that matches a
    pattern of `keep` always stays as it is; one that matches a pattern of `quantize` is quantized if it is of
    floats (shell patterns, case counts). `lossless` keeps everything.

    `per` says what a scale serves: the tensor, one index of `axis` (None: the axis of output channels), or `group_size`
    consecutive indices of `axis` (None: the axis of inputs, after or before that of output channels), for every index
    of the axes before it and of the output channels, and over all of the axes after it. A tensor without axes to
    choose from, or with fewer than 8 elements a scale, has one.

    `coder` is "auto" or a coder's id; `qp` makes a video coder lossy, for quantized tensors only. `level` is that of
    the coders `zstd` and `floats`.
    """

    bits: int = 8
    symmetric: bool = True
    per: Granularity = "channel"
    axis: int | None = None
    group_size: int = 32
    fit: Fit = "max"
    min_size: int = 1024
    keep: tuple[str, ...] = ()
    quantize: tuple[str, ...] = ()
    lossless: bool = False
    lossless_nonfinite: bool = False
    coder: str = "auto"
    qp: int | None = None
    level: int | None = None

    def __post_init__(self) -> None:
        # one after the other: ranges have no meaning for what is of another type
        for problem in chain(self._mistyped(), self._out_of_range()):
            raise UsageError(problem)

    def _mistyped(self) -> Iterator[str]:
        if self.per not in get_args(Granularity) or self.fit not in get_args(Fit):
            yield f"per={self.per!r}, fit={self.fit!r}: known are {get_args(Granularity)} and {get_args(Fit)}"
        if any(isinstance(patterns, str) for patterns in (self.keep, self.quantize)):
            yield "keep and quantize are sequences of patterns; put a single one into a tuple"
        numbers = (self.bits, self.group_size, self.min_size, self.axis, self.qp, self.level)
        if any(type(number) not in (int, type(None)) for number in numbers):
            yield f"bits, group_size, min_size, axis, qp and level are whole numbers, not {numbers}"
        if self.coder != "auto" and self.coder not in CODERS:
            yield f"unknown coder {self.coder!r}; there are auto, {', '.join(sorted(CODERS))}"

    def _out_of_range(self) -> Iterator[str]:
        if not 2 <= self.bits <= 16:
            yield f"{self.bits} bits: a symbol has 2 to 16"
        if self.min_size < 0 or self.group_size < 2:
            yield f"min_size {self.min_size}, group_size {self.group_size}: they are at least 0 and 2"
        if self.qp is not None and not issubclass(CODERS.get(self.coder, Coder), QuantizedVideo):
            yield f"qp is for lossy video coders, and {self.coder} is not one; name one of h264, hevc, av1, vp9"
        if self.qp is not None and self.lossless:
            yield "qp makes a coder lossy, so it contradicts lossless; leave one out"
        if self.level is not None and not (1 <= self.level <= 22 and self.coder in ("zstd", "floats")):
            yield f"level {self.level}: the coders zstd and floats take levels of 1 to 22, others none"

    def quantizer(self, tensor: Tensor) -> Quantizer:
        """What happens to a tensor before it is coded. `UsageError` if `axis` is not one of the tensor's."""
        if self.lossless or tensor.dtype not in FLOATS or _matches_any(tensor.name, self.keep):
            return Keep()
        is_weight = len(tensor.shape) >= 2 and tensor.size >= self.min_size and tensor.is_factor
        if not is_weight and not _matches_any(tensor.name, self.quantize):
            return Keep()
        return Uniform(self.bits, self.symmetric, self._block(tensor), self.fit)

    def check_patterns(self, tensors: Collection[Tensor]) -> None:
        """`UsageError` for a pattern that no name matches, or that asks to quantize what is not of floats."""
        names = [tensor.name for tensor in tensors]
        for pattern in (*self.keep, *self.quantize):
            if not any(matches(name, pattern) for name in names):
                raise UsageError(f"no tensor is called {pattern!r}; there are {len(names)}, such as {names[:1]}")
        floats = [tensor.name for tensor in tensors if tensor.dtype in FLOATS]
        for pattern in self.quantize:
            if not any(matches(name, pattern) for name in floats):
                raise UsageError(
                    f"no tensor called {pattern!r} is of f16, bf16, f32 or f64, and only those are quantized"
                )

    def _block(self, tensor: Tensor) -> tuple[int, ...]:
        rank, channel = len(tensor.shape), tensor.channel_axis
        if self.axis is not None and not -rank <= self.axis < rank:
            raise UsageError(f"tensor {tensor.name!r} has {rank} axes, so none is number {self.axis}")
        if self.per == "tensor" or rank == 0 or (rank == 1 and self.per == "channel"):
            return (0,) * rank
        if self.per == "channel":
            axis = channel if self.axis is None else self.axis % rank
            if tensor.size < _LEAST_IN_CHANNEL * tensor.shape[axis]:
                return (0,) * rank
            return tuple(int(place == axis) for place in range(rank))
        axis = min(channel + 1 if channel == 0 else channel - 1, rank - 1) if self.axis is None else self.axis % rank
        block = [int(place < axis or place == channel) for place in range(rank)]
        block[axis] = self.group_size
        in_group = math.prod(min(b or n, n) for b, n in zip(block, tensor.shape, strict=True))
        return (0,) * rank if rank > 1 and in_group < _LEAST_IN_CHANNEL else tuple(block)


DEFAULT_POLICY = Policy()


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern is a tensor's name or, read as a shell pattern, fits it."""
    return name == pattern or fnmatchcase(name, pattern)


def _matches_any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(matches(name, pattern) for pattern in patterns)
