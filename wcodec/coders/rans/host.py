"""Lanes of one chunk coded and decoded in step with each other by NumPy: the reference that devices are held to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wcodec.coders.rans.lanes import Lanes
from wcodec.coders.rans.model import Model, Predictor
from wcodec.coders.rans.tables import PRECISION
from wcodec.coders.rans.words import Decoder, Encoder, Slots, Streams
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
    cells = which + model.entries(residuals)
    escaped = (counts.take(cells) == 0) | (cells - which == model.escape)
    cells[escaped] = which[escaped] + model.escape
    # the slots of a table lie together, ordered by symbol, so that the frequencies before it say where one's begin
    firsts = np.cumsum(counts, dtype=np.int64) - counts
    return counts.take(cells).reshape(-1), firsts.take(cells).reshape(-1), escaped.reshape(-1)


def decode_lanes(model: Model, streams: Streams, lanes: Lanes, out: NDArray[Any]) -> None:
    """Fill `out`, a chunk of shape (rows, row size); `CorruptFileError` naming the first lane that is damaged."""
    # a forged chunk may predict without bound; its first height out of range is found afterwards
    with np.errstate(over="ignore", invalid="ignore"):
        levels, bits, broken = _decode(model, streams, lanes, out.shape)
    values = (levels << model.low) + model.origin
    if bits is not None:
        values += bits
    ends = np.iinfo(out.dtype)
    wrong = (levels < 0) | (levels > 255) | (values < ends.min) | (values > ends.max)
    if wrong.any():
        broken = np.append(broken, np.searchsorted(lanes.starts, int(np.argmax(wrong)), "right") - 1)
    if len(broken):
        raise CorruptFileError("rans payload", f"lane {broken.min()} does not decode to symbols of its tensor")
    out[...] = values


def _decode(
    model: Model, streams: Streams, lanes: Lanes, shape: tuple[int, ...]
) -> tuple[NDArray[np.int32], NDArray[np.int64] | None, NDArray[np.int64]]:
    """Levels and low bits of a chunk of this shape, and the numbers of lanes that did not end as they must."""
    period, predicts = len(model.position), model.coefficients is not None
    slots = Slots(model.tables())
    classes = np.broadcast_to(model.scale_class(), (shape[0], shape[1] // period, period)).astype(np.uint8)
    base = lanes.columns(classes.reshape(-1)).astype(np.int64)
    base *= model.phases
    base += 0 if predicts else model.phases // 2
    base <<= PRECISION
    center = np.broadcast_to(model.center.astype(np.int32) - np.int32(model.raised), shape[0])
    heights = np.empty(base.shape, np.float32)
    bits = np.empty(base.shape, np.int64) if model.low else None
    decoder = Decoder(streams, lanes.order)
    for places, count in lanes.runs():
        decoder.use(count)
        escape, escaped = np.full(count, model.escape), np.empty(count, np.bool_)
        predict, height = Predictor(model, count) if predicts else None, np.empty(count, np.int64)
        for place in places:
            table = base[place, :count]
            if predict is None:
                height = symbol = decoder.pop(slots, table)
            else:
                whole = predict(heights[place - place % period : place, :count], table)
                symbol = decoder.pop(slots, table)
                np.add(symbol, whole, height)
            heights[place, :count] = height
            if np.count_nonzero(np.equal(symbol, escape, escaped)):
                rows = (lanes.starts[lanes.order[:count]] + place) // shape[1]
                raw = decoder.pop_bits(escaped, 8) - center[rows]
                np.copyto(heights[place, :count], raw, where=escaped, casting="unsafe")
            if bits is not None:
                bits[place, :count] = decoder.pop_bits(np.ones(count, np.bool_), model.low)
    levels = lanes.flat(heights).reshape(shape).astype(np.int32) + center[:, None]
    return levels, None if bits is None else lanes.flat(bits).reshape(shape), lanes.order[decoder.unfinished()]
