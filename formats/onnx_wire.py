"""ONNX models at the level of protobuf's wire format, so that weights need not pass through memory.

A model is a message of fields, its graph a field, each initializer a field of the graph, and the initializer's bytes
a field of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from wcodec.errors import CorruptFileError
from wcodec.formats.cursor import Cursor
from wcodec.formats.source import FileSource
from wcodec.model import Array

if TYPE_CHECKING:
    import onnx

_GRAPH = 7
_INITIALIZER = 5
_RAW_DATA = 9

_VARINT, _DELIMITED = 0, 2
_FIXED = {1: 8, 5: 4}

_MAX_FIELDS = 1 << 20
"""More fields than any model has outside its nodes and weights."""


class Payload(NamedTuple):
    """Where the raw bytes of an initializer lie in a file."""

    offset: int
    length: int


class Weight(NamedTuple):
    """The raw bytes of an initializer, in blocks of dtype uint8 that are `length` bytes together."""

    length: int
    blocks: Iterable[Array]


def split(source: FileSource) -> tuple[bytes, list[Payload | None]]:
    """The model without its initializers' raw bytes, and for each initializer where these are, if it has any.

    Raises `CorruptFileError` where the fields do not nest.
    """
    splitter = _Splitter(source)
    return splitter.model(), splitter.payloads


class _Splitter:
    def __init__(self, source: FileSource) -> None:
        self.payloads: list[Payload | None] = []
        self._cursor = Cursor(source, 0, source.size, source.name)
        self._stop = source.size
        self._fields_left = _MAX_FIELDS

    def model(self) -> bytes:
        return bytes(self._copy(self._stop, {_GRAPH: self._graph}))

    def _graph(self, end: int) -> bytearray:
        return self._copy(end, {_INITIALIZER: self._initializer})

    def _initializer(self, end: int) -> bytearray:
        self.payloads.append(None)
        return self._copy(end, {_RAW_DATA: self._raw_data})

    def _raw_data(self, end: int) -> None:
        self.payloads[-1] = Payload(self._cursor.position, end - self._cursor.position)
        self._cursor.skip(end - self._cursor.position)

    def _copy(self, stop: int, inner: Mapping[int, Callable[[int], bytearray | None]]) -> bytearray:
        """The fields up to `stop`; those that `inner` has a function for are what it returns, or left out."""
        cursor = self._cursor
        copied = bytearray()
        while cursor.position < stop:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise CorruptFileError(cursor.where, f"is no ONNX model: it has more than {_MAX_FIELDS} fields")
            key = self._varint()
            number, kind = key >> 3, key & 7
            body: bytes | bytearray | None
            if kind == _DELIMITED:
                length = self._varint()
                if number == 0 or length > stop - cursor.position:
                    raise self._broken()
                body = inner[number](cursor.position + length) if number in inner else cursor.take(length)
                if body is not None:
                    copied += _encode(key) + _encode(len(body)) + body
            elif kind == _VARINT:
                copied += _encode(key) + _encode(self._varint())
            elif kind in _FIXED:
                copied += _encode(key) + cursor.take(_FIXED[kind])
            else:
                raise self._broken()
        if cursor.position != stop:
            raise self._broken()
        return copied

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._cursor.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise self._broken()

    def _broken(self) -> CorruptFileError:
        return CorruptFileError(self._cursor.where, f"is no ONNX model: broken at byte {self._cursor.position}")


def write(stream: BinaryIO, model: onnx.ModelProto, weights: Sequence[Weight | None]) -> None:
    """Write a model with `weights` as the raw bytes of its graph's initializers, in their order, where not None.

    The model is changed: it loses its graph.
    """
    graph = model.graph
    pieces: list[tuple[bytes, Weight | None]] = []
    for initializer, weight in zip(graph.initializer, weights, strict=True):
        body = initializer.SerializeToString(deterministic=True)
        if weight is not None:
            body += _encode(_RAW_DATA << 3 | _DELIMITED) + _encode(weight.length)
        length = len(body) + (weight.length if weight is not None else 0)
        pieces.append((_encode(_INITIALIZER << 3 | _DELIMITED) + _encode(length) + body, weight))
    graph.ClearField("initializer")
    rest = graph.SerializeToString(deterministic=True)
    model.ClearField("graph")
    length = len(rest) + sum(len(head) + (weight.length if weight is not None else 0) for head, weight in pieces)
    stream.write(model.SerializeToString(deterministic=True))
    stream.write(_encode(_GRAPH << 3 | _DELIMITED) + _encode(length) + rest)
    for head, weight in pieces:
        stream.write(head)
        if weight is not None:
            stream.writelines(block.data for block in weight.blocks)


def _encode(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
