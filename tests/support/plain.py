"""Plain quantization: what a lossless coder must give back, computed without any archive."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from wcodec import Model, Policy, encode
from wcodec.archive import open_archive
from wcodec.model import Array, QuantizedTensor, Tensor
from wcodec.quantize import dequantize, quantize
from wcodec.scales import Keep, Uniform

VIDEO = ("ffv1", "h264", "hevc", "av1", "vp9")
CODERS = ("raw", "zstd", *VIDEO, "auto")


@dataclass(frozen=True)
class Plain:
    """Symmetric quantization of every f32 tensor of two or more axes, with a scale for every output channel.

    Output channels are axis 0, but `matrix_axis` in tensors of two axes. Smaller tensors than `min_size` are kept.
    """

    bits: int
    fit: Literal["max", "mse"] = "max"
    min_size: int = 1024
    matrix_axis: int = 0

    def quantized(self, arrays: Mapping[str, Array]) -> Iterator[QuantizedTensor]:
        """The tensors that are quantized, one at a time."""
        for name, array in arrays.items():
            if array.ndim > 1 and array.dtype == np.float32 and array.size >= self.min_size:
                axis = self.matrix_axis if array.ndim == 2 else 0
                block = tuple(int(place == axis) for place in range(array.ndim))
                yield quantize(Tensor.from_array(name, array), Uniform(self.bits, True, block, self.fit))

    def values(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """All tensors, the quantized ones as the numbers that their symbols stand for."""
        return {**arrays, **{tensor.name: dequantize(tensor) for tensor in self.quantized(arrays)}}


def encoded(source: Path | Model, policy: Policy) -> bytes:
    """The archive of a model, or of a model file."""
    stream = io.BytesIO()
    encode(source, stream, policy)
    return stream.getvalue()


def quantized_by(data: bytes) -> set[str]:
    """Ids of the coders that hold an archive's quantized tensors."""
    return {tensor.recipe.coder.id for tensor in open_archive(data).tensors() if tensor.recipe.quantizer != Keep()}


def tensors(arrays: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """A state dict that shares the arrays' memory."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
