"""The two fixed records of a .wcodec file: the header at its start and the trailer at its end."""

from __future__ import annotations

import struct
from typing import NamedTuple

import xxhash

from wcodec.errors import CorruptFileError, UnsupportedError

VERSION = 1
FLAGS = 0
ALIGNMENT = 64
MAGIC = b"\x89WCDC\r\n\x1a"
END_MAGIC = b"\x1a\n\rCDCW\x89"

_CHECKSUM = struct.Struct("<Q")
_MISTREATED = (b"\x89WCDC\n\x1a", b"\x89WCDC\r\r\n\x1a", b"\tWCDC\r\n", b"\xc2\x89WCDC", b"\xef\xbf\xbdWCDC", b"?WCDC")
"""How the magic looks after line ends were translated, the high bit was lost, or the file was taken for text."""


class Header(NamedTuple):
    """The first 64 bytes. The checksum is XXH3-64 of the bytes before it."""

    magic: bytes
    version: int
    flags: int
    reserved: bytes
    checksum: int


class Trailer(NamedTuple):
    """The last 64 bytes: enough to find and check the index. The checksum is XXH3-64 of the bytes before it."""

    index_offset: int
    index_length: int
    index_plain_length: int
    index_checksum: int
    file_length: int
    version: int
    flags: int
    reserved: bytes
    checksum: int
    magic: bytes


HEADER = struct.Struct("<8sHH44sQ")
TRAILER = struct.Struct("<QQQQQHH4sQ8s")


def aligned(offset: int) -> int:
    """The first offset from `offset` on at which a payload may start."""
    return (offset + ALIGNMENT - 1) & -ALIGNMENT


def pack_header() -> bytes:
    """The header of every version 1 file."""
    record = struct.pack("<8sHH44x", MAGIC, VERSION, FLAGS)
    return record + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(record))


def pack_trailer(offset: int, length: int, plain_length: int, checksum: int) -> bytes:
    """The trailer that follows the padded index described by the arguments."""
    end = aligned(offset + length) + TRAILER.size
    record = struct.pack("<QQQQQHH4x", offset, length, plain_length, checksum, end, VERSION, FLAGS)
    return record + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(record)) + END_MAGIC


def check_header(data: memoryview) -> None:
    """Refuse anything but a header this version can read; `data` holds the first bytes of the file, up to 64."""
    start = bytes(data[: len(MAGIC)])
    if start != MAGIC:
        if any(bytes(data[:16]).startswith(seen) for seen in _MISTREATED):
            raise CorruptFileError("header", "damaged by a transfer in text mode; fetch the file again as binary")
        if not MAGIC.startswith(start):
            raise CorruptFileError("header", "not a .wcodec file: the first bytes are others; check the path")
    if len(data) < HEADER.size:
        raise CorruptFileError("header", f"the file is cut short at byte {len(data)}; fetch it again")
    header = Header(*HEADER.unpack(data))
    if header.checksum != xxhash.xxh3_64_intdigest(data[: HEADER.size - _CHECKSUM.size]):
        raise CorruptFileError("header", "checksum mismatch: these 64 bytes are damaged; fetch the file again")
    _check_version(header.version, header.flags)
    if any(header.reserved):
        raise CorruptFileError("header", "reserved bytes are not zero; fetch the file again")


def parse_trailer(data: memoryview, file_length: int) -> Trailer:
    """The trailer, sound and of a version this reader knows; `data` holds the last 64 bytes of the file."""
    trailer = Trailer(*TRAILER.unpack(data))
    if trailer.magic != END_MAGIC:
        raise CorruptFileError("trailer", "no end mark: the file is cut short or not a .wcodec file; fetch it again")
    if trailer.checksum != xxhash.xxh3_64_intdigest(data[: TRAILER.size - len(END_MAGIC) - _CHECKSUM.size]):
        raise CorruptFileError("trailer", "checksum mismatch: the last 64 bytes are damaged; fetch the file again")
    _check_version(trailer.version, trailer.flags)
    if any(trailer.reserved):
        raise CorruptFileError("trailer", "reserved bytes are not zero; fetch the file again")
    if trailer.file_length != file_length:
        raise CorruptFileError(
            "trailer", f"the file has {file_length} bytes instead of {trailer.file_length}; fetch it again"
        )
    return trailer


def _check_version(version: int, flags: int) -> None:
    if version != VERSION:
        raise UnsupportedError(
            f"the file is of .wcodec version {version}, this reader knows version {VERSION}; upgrade wcodec"
        )
    if flags != FLAGS:
        raise UnsupportedError(f"the file uses features (flags {flags:#06x}) unknown to this reader; upgrade wcodec")
