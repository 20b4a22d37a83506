"""Lanes of one chunk coded and decoded in step with each other by NumPy: the reference that devices are held to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wcodec.coders.rans.lanes import Lanes
from wcodec.coders.rans.model import Model, Predictor
from wcodec.coders.rans.tables import PRECISION, TOTAL
from wcodec.coders.rans.words import Decoder, Encoder, Streams
from wcodec.errors import CorruptFileError


def encode_lanes(model: Model, symbols: NDArray[Any], lanes: Lanes) -> Streams:
    """The lanes of a chunk of shape (rows, row size) under a model, in order."""
    values = symbols.astype(np.int32)
    values -= model.origin
    levels = values >> model.low
    bits = lanes.columns((values & ((1 << model.low) - 1)).reshape(-1)) if model.low else None
    frequency, base, escaped = _frequencies(model, levels)
    frequency, base = lanes.columns(frequency), lanes.columns(base)
    escaped, raw = lanes.columns(escaped), lanes.columns(levels.reshape(-1).astype(np.uint8))
    escapes = np.any(escaped, axis=1)
    slots = np.concatenate([table.slots for table in model.tables()])
    encoder = Encoder(len(lanes), len(escapes) * (2 if model.low else 1) + int(escapes.sum()))
    for places, count in reversed([*lanes.runs()]):
        encoder.use(count)
        for place in reversed(places):
            if bits is not None:
                encoder.push_bits(np.ones(count, np.bool_), bits[place, :count], model.low)
            if escapes[place]:
                encoder.push_bits(escaped[place, :count], raw[place, :count], 8)
            encoder.push(frequency[place, :count], slots, base[place, :count])
    return encoder.finish(np.argsort(lanes.order))


def _frequencies(
    model: Model, levels: NDArray[np.int32]
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.bool_]]:
    """For every symbol in C order: its frequency, where its slots begin among all, and whether it is escaped."""
    heights = (levels - model.center[:, None]).astype(np.float32).reshape(len(levels), -1, len(model.position))
    residuals, phases = model.residuals(heights)
    which = (model.scale_class() * model.phases + phases) * model.size
    counts = np.concatenate([table.frequencies for table in model.tables()])
    cells = which + np.where(np.abs(residuals) > model.half, model.escape, residuals + model.half)
    escaped = (counts.take(cells) == 0) | (cells - which == model.escape)
    cells[escaped] = which[escaped] + model.escape
    # the slots of a table lie together, ordered by symbol, so that the frequencies before it say where one's begin
    firsts = np.cumsum(counts, dtype=np.int64) - counts
    return counts.take(cells).reshape(-1), firsts.take(cells).reshape(-1), escaped.reshape(-1)


def decode_lanes(model: Model, streams: Streams, lanes: Lanes, out: NDArray[Any]) -> None:
    """Fill `out`, a chunk of shape (rows, row size); `CorruptFileError` naming the first lane that is damaged."""
    # a forged chunk may predict without bound; its first height out of range is found afterwards
    with np.errstate(over="ignore", invalid="ignore"):
        heights, bits, broken = _decode(model, streams, lanes, out.shape)
    center = model.center.astype(np.int32)[:, None]
    with np.errstate(invalid="ignore"):
        levels = lanes.flat(heights).reshape(out.shape).astype(np.int32) + center
    values = (levels << model.low) + model.origin
    if bits is not None:
        values += lanes.flat(bits).reshape(out.shape)
    ends = np.iinfo(out.dtype)
    wrong = (levels < 0) | (levels > 255) | (values < ends.min) | (values > ends.max)
    if wrong.any():
        broken = np.append(broken, np.searchsorted(lanes.starts, int(np.argmax(wrong)), "right") - 1)
    if len(broken):
        raise CorruptFileError("rans payload", f"lane {broken.min()} does not decode to symbols of its tensor")
    out[...] = values


def _decode(
    model: Model, streams: Streams, lanes: Lanes, shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None, NDArray[np.int64]]:
    """Heights and low bits as columns, and the numbers of lanes that did not end as they must."""
    period, phases = len(model.position), model.phases
    entries = np.concatenate([table.entries_by_slot for table in model.tables()]).astype(np.int64)
    which = np.broadcast_to(model.scale_class(), (shape[0], shape[1] // period, period)) * np.int64(phases)
    if model.coefficients is None:
        which += phases // 2
    which <<= PRECISION
    base = lanes.columns(which.reshape(-1))
    center = lanes.columns(np.broadcast_to(model.center[:, None], shape).reshape(-1)).astype(np.int64)
    # each height as it is decoded, and those of the kernel that it is in
    heights = np.empty(base.shape, np.float32)
    kernel = np.empty((period, len(lanes)), np.float32)
    bits = np.empty(base.shape, np.int64) if model.low else None
    decoder = Decoder(streams, lanes.order)
    for places, count in lanes.runs():
        decoder.use(count)
        near, escaped = kernel[:, :count], np.empty(count, np.bool_)
        half, escape = np.full(count, model.half, np.float32), np.full(count, model.escape)
        predict, offset = Predictor(model, near), np.empty(count, np.int64)
        total = np.full(count, TOTAL, np.float32)
        for place in places:
            table, height = base[place, :count], near[place % period]
            whole, phase = predict(place % period)
            if phase is not None:
                np.multiply(phase, total, phase)
                offset[...] = phase
                np.add(table, offset, table)
            symbol = decoder.pop(entries, table)
            height[...] = symbol
            np.subtract(height, half, height)
            if whole is not None:
                np.add(height, whole, height)
            np.equal(symbol, escape, escaped)
            if np.count_nonzero(escaped):
                raw = decoder.pop_bits(escaped, 8) - center[place, :count]
                np.copyto(height, raw, where=escaped, casting="unsafe")
            heights[place, :count] = height
            if bits is not None:
                bits[place, :count] = decoder.pop_bits(np.ones(count, np.bool_), model.low)
    return heights, bits, lanes.order[decoder.unfinished()]
