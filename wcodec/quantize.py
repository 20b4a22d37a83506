"""Whole tensors in memory: float tensor <-> QuantizedTensor."""

from __future__ import annotations

import numpy as np

from wcodec.fitting import fit_scales
from wcodec.model import DTYPES, Array, QuantizedTensor, Tensor
from wcodec.scales import Scales, Uniform, dequantize_rows, quantize_rows, read_rows
from wcodec.tiling import Rows


def quantize(tensor: Tensor, quantizer: Uniform) -> QuantizedTensor:
    """A whole float tensor in memory to symbols and scales; `NonFiniteError` on a NaN or an infinity."""
    rows = Rows.of(tensor.shape)
    scales = fit_scales(tensor, quantizer)
    symbols = np.empty((rows.count, *rows.trail), quantizer.symbol_dtype)
    for start, stop in rows.chunks():
        symbols[start:stop] = quantize_rows(read_rows(tensor, rows, start, stop), quantizer, scales, start)
    return QuantizedTensor(
        tensor.name,
        tensor.dtype,
        quantizer.bits,
        symbols.reshape(tensor.shape),
        scales.scale,
        scales.zero_point,
        quantizer.block,
    )


def dequantize(quantized: QuantizedTensor) -> Array:
    """The numbers a quantized tensor stands for, in its shape and dtype."""
    rows = Rows.of(quantized.symbols.shape)
    scales = Scales(rows, quantized.block, quantized.scale, quantized.zero_point)
    out = np.empty((rows.count, *rows.trail), DTYPES[quantized.dtype])
    symbols = quantized.symbols.reshape(out.shape)
    for start, stop in rows.chunks():
        dequantize_rows(symbols[start:stop], scales, start, out[start:stop])
    return out.reshape(quantized.symbols.shape)
