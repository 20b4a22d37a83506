"""Tensors through lossy video codecs, where those take less for the damage that a plan allows.

A codec spreads about the same noise over a whole frame. So rows are brought to steps in proportion to what errors of
theirs may be, and the quantizer that is found for a tensor does no more damage than rounding would have done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from wcodec.choose import named_coder
from wcodec.coders.video import VIDEO_CODERS, QuantizedVideo
from wcodec.errors import CoderError
from wcodec.model import QuantizedTensor
from wcodec.pipeline import codec_of
from wcodec.plan.known import Known, dequantized
from wcodec.plan.layer import coarse, damage
from wcodec.plan.sensitivity import Moments

DEPTH = 8
"""Bits of a symbol that is to be coded with loss."""

_HIGHEST = (1 << (DEPTH - 1)) - 1

QUANTIZERS = {
    name: kind.quantizers[DEPTH] + 1 for name, kind in VIDEO_CODERS.items() if issubclass(kind, QuantizedVideo)
}
"""One more than the largest quantizer of each codec that can lose."""

_RICH = 2.5
"""Bits for a weight from which on video codecs never take less."""

_SMALLEST = 1 << 14
"""Weights from which on a stream's headers are little."""

_SAMPLE = 1 << 19
"""Weights that a codec is tried on."""


@dataclass(frozen=True)
class Rival:
    """A codec's quantizer, the mean step of what it is given, and the bits that it then takes for each weight."""

    coder: str
    qp: int
    step: float
    bits: float


def takes_loss(coder: str) -> bool:
    """Whether a coder is a video codec that can lose."""
    return coder in QUANTIZERS


def symbols_for(known: Known, step: float) -> QuantizedTensor:
    """What a lossy codec is given of a tensor: its weights in steps of this mean, rounded one by one."""
    steps = coarse(known.whole.units * step)
    symbols = np.clip(np.rint(known.whole.weights / steps[..., None]), -_HIGHEST, _HIGHEST)
    return known.quantized(symbols, steps, DEPTH)


def through(quantized: QuantizedTensor, coder: str, qp: int | None) -> tuple[QuantizedTensor, int]:
    """What is decoded of a tensor's symbols, and the bytes they take."""
    settled = codec_of(quantized)
    rows = settled.rows
    named = named_coder(coder, rows, settled.symbol_dtype, quantized.bits, qp, None)
    if named is None:
        raise CoderError(f"{coder} has no form for symbols of {quantized.bits} bits")
    codec, symbols, size = settled.with_coder(named), quantized.symbols.reshape(rows.count, *rows.trail), 0
    decoded = np.empty_like(symbols)
    for start, stop in rows.chunks():
        payload = codec.encode(symbols[start:stop])
        codec.decode_symbols(payload, stop - start, decoded[start:stop])
        size += len(payload)
    return replace(quantized, symbols=decoded.reshape(quantized.symbols.shape)), size


def rival(known: Known, moments: Moments, coder: str, bits: float, allowed: float) -> Rival | None:
    """A lossy codec that takes fewer bits for each weight than `bits`, and does no more damage than `allowed`.

    Both for the whole tensor; large ones are tried on some of their rows. None where there is no such quantizer.
    """
    if bits > _RICH or known.whole.weights.size < _SMALLEST:
        return None
    some, rows = known.sample(_SAMPLE)
    most = np.abs(some.whole.weights).max(2)
    step = float((most / some.whole.units).max()) / _HIGHEST
    if not step > 0:
        return None
    given = symbols_for(some, step)
    low, high, found = 0, QUANTIZERS[coder], None
    share = some.whole.weights.size / known.whole.weights.size
    while high - low > 1:
        qp = (low + high) // 2
        decoded, size = through(given, coder, qp)
        errors = some.whole.weights - some.matrix.of(dequantized(decoded))
        if damage(errors, moments, rows) <= allowed * share:
            low, found = qp, Rival(coder, qp, step, 8 * size / some.whole.weights.size)
        else:
            high = qp
    return found if found is not None and found.bits < bits else None
