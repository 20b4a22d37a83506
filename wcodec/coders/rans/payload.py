"""The payload of `rans`: a fixed part, side information, and the words of all lanes.

    offset  type    field
    0       u8      log2 of the entries of a table: 3 to 8
    1       u8      log2 of the phases: 0 to 3
    2       u8      flags: 1 predicted, 2 scales by column, 4 centers by row
    3       u8      low bits: 0 to 8
    4       i32     origin
    8       u8      classes: 1 to 48
    9       u8      how many of them have stored tables
    10      u8 x 2  zero
    12      u32     length of the side information as stored; its highest bit says that it is stored as it is, otherwise
                    it is one Zstandard frame
    16              the side information, then all words as little-endian u16

The side information is, in this order: row scales (i8 a row), centers (u8, one or one a row), column scales (i8 a
column, if there are any), position scales (i8 a place), coefficients (i8, 8 a place, if predicted), classes (scale and
shape, u8 each), the stored tables (u16 an entry), then the lanes' numbers of words (u16) and first states (u32), these
three as byte planes, lowest bytes first.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wcodec.coders.rans.model import LAGS, MOST_CLASSES, Model
from wcodec.coders.rans.tables import SCALES, STORED, TOTAL
from wcodec.coders.rans.words import LOWEST, Streams
from wcodec.coders.zstd import compress, decompress
from wcodec.errors import CorruptFileError

_FIXED = struct.Struct("<BBBBiBB2xI")
_STORED = 1 << 31
_PREDICTED, _BY_COLUMN, _BY_ROW = 1, 2, 4
_WHERE = "rans payload"


def pack(model: Model, streams: Streams) -> bytes:
    """The payload of a chunk."""
    flags = (
        _PREDICTED * (model.coefficients is not None)
        + _BY_COLUMN * (len(model.column) > 1)
        + _BY_ROW * (len(model.center) > 1)
    )
    parts: list[NDArray[Any]] = [model.row, model.center]
    parts += [model.column] if flags & _BY_COLUMN else []
    parts += [model.position]
    parts += [model.coefficients] if model.coefficients is not None else []
    parts += [
        model.classes,
        _planes(model.stored.astype("<u2").reshape(-1)),
        _planes(streams.counts.astype("<u2")),
        _planes(streams.states.astype("<u4")),
    ]
    side = b"".join(part.tobytes() for part in parts)
    coded, mark = compress(side, 19), 0
    if len(coded) >= len(side):
        coded, mark = side, _STORED
    fixed = _FIXED.pack(
        model.log_size,
        model.log_phases,
        flags,
        model.low,
        model.origin,
        len(model.classes),
        len(model.stored),
        len(coded) | mark,
    )
    return b"".join([fixed, coded, streams.words.astype("<u2", copy=False).tobytes()])


def unpack(payload: bytes | memoryview, rows: int, columns: int, period: int, lanes: int) -> tuple[Model, Streams]:
    """Model and streams of a chunk of this geometry; `CorruptFileError` for what cannot be one's."""
    view = memoryview(payload).cast("B")
    if len(view) < _FIXED.size:
        raise CorruptFileError(_WHERE, "ends before its side information")
    log_size, log_phases, flags, low, origin, classes, kept, length = _FIXED.unpack_from(view)
    if not 3 <= log_size <= 8 or log_phases > 3 or flags > 7 or low > 8 or kept > classes or any(view[10:12]):
        raise CorruptFileError(_WHERE, "has parameters that no table has")
    if not 1 <= classes <= MOST_CLASSES:
        raise CorruptFileError(_WHERE, f"has {classes} classes of scales, of which there are 1 to {MOST_CLASSES}")
    sizes = [
        rows,
        rows if flags & _BY_ROW else 1,
        columns if flags & _BY_COLUMN else 0,
        period,
        period * LAGS if flags & _PREDICTED else 0,
        2 * classes,
        2 * kept << (log_size + log_phases),
        2 * lanes,
        4 * lanes,
    ]
    side, words = _side(view[_FIXED.size :], length, sum(sizes))
    parts = np.split(side, np.cumsum(sizes)[:-1])
    row, center, column, position, coefficients, parameters, tables, counts, states = parts
    model = Model(
        size=1 << log_size,
        phases=1 << log_phases,
        origin=origin,
        low=low,
        center=center,
        row=row.view(np.int8),
        column=column.view(np.int8) if len(column) else np.zeros(1, np.int8),
        position=position.view(np.int8),
        coefficients=coefficients.view(np.int8).reshape(period, LAGS) if len(coefficients) else None,
        classes=parameters.reshape(-1, 2),
        stored=_unplaned(tables, np.dtype("<u2")).reshape(kept, 1 << log_phases, 1 << log_size),
    )
    _check_tables(model)
    return model, _streams(counts, states, words)


def _side(rest: memoryview, stored: int, size: int) -> tuple[NDArray[np.uint8], memoryview]:
    """Side information of `size` bytes, and what is after it."""
    length = stored & ~_STORED
    if length > len(rest):
        raise CorruptFileError(_WHERE, "ends within its side information")
    if not stored & _STORED:
        return np.frombuffer(decompress(rest[:length], size), np.uint8), rest[length:]
    if length != size:
        raise CorruptFileError(_WHERE, f"has {length} bytes of side information where {size} were expected")
    return np.frombuffer(rest[:length], np.uint8), rest[length:]


def _check_tables(model: Model) -> None:
    scales, shapes = model.classes.T
    if (scales >= SCALES).any() or (shapes > STORED).any() or np.count_nonzero(shapes == STORED) != len(model.stored):
        raise CorruptFileError(_WHERE, "names a table that does not exist")
    if model.stored.size:
        totals, highest = model.stored.sum(axis=2), model.stored.max(axis=2)
        if (totals != TOTAL).any():
            wrong = int(totals[totals != TOTAL][0])
            raise CorruptFileError(_WHERE, f"has a table whose frequencies add up to {wrong}, not {TOTAL}")
        if (highest == TOTAL).any() or (model.stored[:, :, -1] == 0).any():
            raise CorruptFileError(_WHERE, "has a table without an escape")


def _streams(counts: NDArray[np.uint8], states: NDArray[np.uint8], words: memoryview) -> Streams:
    lengths = _unplaned(counts, np.dtype("<u2")).astype(np.int64)
    if 2 * int(lengths.sum()) != len(words):
        raise CorruptFileError(_WHERE, f"has {len(words)} bytes of words where lanes have {lengths.sum()} words")
    first = _unplaned(states, np.dtype("<u4"))
    if (first < LOWEST).any():
        raise CorruptFileError(_WHERE, f"lane {int(np.argmax(first < LOWEST))}: begins with a state below 2^16")
    return Streams(first, lengths, np.frombuffer(words, "<u2"))


def _planes(numbers: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(numbers.view(np.uint8).reshape(-1, numbers.itemsize).T)


def _unplaned(planes: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(planes.reshape(dtype.itemsize, -1).T).view(dtype).reshape(-1)
