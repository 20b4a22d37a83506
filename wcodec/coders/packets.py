"""The payload of the video coders: a coded stream as its bare packets, without a media container."""

from __future__ import annotations

import struct
from typing import NamedTuple

from wcodec.errors import CorruptFileError

_U32 = struct.Struct("<I")

MAX_EXTRADATA = 1024
"""Bytes of parameter sets a stream may have; those of a real one take less than 100."""


class Stream(NamedTuple):
    """One packet a frame, in order, and before them the parameter sets where the codec keeps them apart."""

    extradata: bytes
    packets: list[bytes]


def pack(stream: Stream) -> bytes:
    """A stream's payload, all integers little-endian u32.

    Number of packets; length of the extradata; length of each packet; then extradata and packets themselves.
    """
    sizes = [len(stream.packets), len(stream.extradata), *map(len, stream.packets)]
    return b"".join([struct.pack(f"<{len(sizes)}I", *sizes), stream.extradata, *stream.packets])


def unpack(payload: bytes | memoryview, count: int, where: str) -> Stream:
    """The stream of `count` packets in a payload; `CorruptFileError` unless they are exactly what it holds."""
    view = memoryview(payload).cast("B")
    head = (2 + count) * _U32.size
    if len(view) < head:
        raise CorruptFileError(where, f"{len(view)} bytes are too few for {count} packets")
    packets, extradata, *lengths = struct.unpack_from(f"<{2 + count}I", view)
    if packets != count:
        raise CorruptFileError(where, f"{packets} packets where {count} were expected")
    if extradata > MAX_EXTRADATA:
        raise CorruptFileError(where, f"{extradata} bytes of extradata, of which {MAX_EXTRADATA} are allowed")
    if 0 in lengths or head + extradata + sum(lengths) != len(view):
        raise CorruptFileError(where, "the lengths of its packets are not those of the payload")
    place = head + extradata
    found = []
    for length in lengths:
        found.append(bytes(view[place : place + length]))
        place += length
    return Stream(bytes(view[head : head + extradata]), found)
