"""The rule of what is quantized and how, and which coder is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from wcodec.coders import CODERS
from wcodec.errors import UsageError
from wcodec.model import FLOATS, Tensor
from wcodec.scales import Keep, Quantizer, Uniform


@dataclass(frozen=True)
class Policy:
    """How a model is to be encoded.

    A tensor is quantized if it is of f16, bf16, f32 or f64, has two or more axes and at least `min_size` elements;
    biases, norms and other small tensors stay as they are, and so does every integer tensor. A name that matches a
    pattern of `keep` always stays as it is; one that matches a pattern of `quantize` is quantized if it is of
    floats (shell patterns, case counts). `lossless` keeps everything.

    A scale serves the whole tensor, one index of `axis`, or a group of `group_size` along it, by `per`. `axis` None
    is the axis of output channels, and for groups the one after it. `coder` is "auto" or a coder's id; `qp` makes a
    video coder lossy, for quantized tensors only. `level` is that of `zstd` and `floats`.
    """

    bits: int = 8
    symmetric: bool = True
    per: Literal["tensor", "channel", "group"] = "channel"
    axis: int | None = None
    group_size: int = 32
    fit: Literal["max", "mse"] = "max"
    min_size: int = 1024
    keep: tuple[str, ...] = ()
    quantize: tuple[str, ...] = ()
    lossless: bool = False
    lossless_nonfinite: bool = False
    coder: str = "auto"
    qp: int | None = None
    level: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise UsageError(f"{self.bits} bits: a symbol has 2 to 16")
        if self.coder != "auto" and self.coder not in CODERS:
            raise UsageError(f"unknown coder {self.coder!r}; there are auto, {', '.join(sorted(CODERS))}")
        if self.qp is not None and "qp" not in getattr(CODERS.get(self.coder), "__struct_fields__", ()):
            raise UsageError(
                f"qp is for lossy video coders, and {self.coder} is not one; name one of h264, hevc, av1, vp9"
            )
        if self.group_size < 2:
            raise UsageError(f"a group of {self.group_size}: a group has 2 or more elements")
        if self.level is not None and not 1 <= self.level <= 22:
            raise UsageError(f"level {self.level}: Zstandard's levels are 1 to 22")

    def quantizer(self, tensor: Tensor) -> Quantizer:
        """What happens to a tensor before it is coded. `UsageError` if `axis` is not one of the tensor's."""
        if self.lossless or tensor.dtype not in FLOATS or _matches(tensor.name, self.keep):
            return Keep()
        if not _matches(tensor.name, self.quantize) and (len(tensor.shape) < 2 or tensor.size < self.min_size):
            return Keep()
        return Uniform(self.bits, self.symmetric, self._block(tensor), self.fit)

    def _block(self, tensor: Tensor) -> tuple[int, ...]:
        rank = len(tensor.shape)
        if self.per == "tensor" or rank == 0:
            return (0,) * rank
        axis = self.axis
        if axis is None:
            axis = tensor.channel_axis if self.per == "channel" else (tensor.channel_axis + 1) % min(rank, 2)
        if not -rank <= axis < rank:
            raise UsageError(f"tensor {tensor.name!r} has {rank} axes, so none is number {axis}")
        inside, outside = (1, 0) if self.per == "channel" else (self.group_size, 1)
        return tuple(inside if place == axis % rank else outside for place in range(rank))


DEFAULT_POLICY = Policy()


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
