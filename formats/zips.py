"""The members of zip files: found by the standard library, checked here, read at any offset or inflated."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wcodec.errors import CorruptFileError, UnsupportedError
from wcodec.formats.source import FileSource

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 1

_PIECE = 1 << 16
_STEEPEST = 1032
"""How many bytes one byte of deflate can stand for at most."""

_BOMB_RATIO = 100
_BOMB_FLOOR = 1 << 26


@dataclass(frozen=True)
class Member:
    """A member of a zip file; `stored` bytes at `offset` of the file hold its `size` bytes."""

    name: str
    where: str
    offset: int
    stored: int
    size: int
    crc: int
    deflated: bool


def members(source: FileSource) -> dict[str, Member]:
    """All members of a zip file by name, without folders.

    Raises `CorruptFileError` where members share a name or bytes, or would inflate to more than any model needs.
    """
    try:
        with zipfile.ZipFile(source.name) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            directory = archive.start_dir
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        OSError,
        EOFError,
        ValueError,
        OverflowError,
        struct.error,
    ) as error:
        raise CorruptFileError(source.name, f"is not a sound zip file: {error}") from error
    found: dict[str, Member] = {}
    free = 0
    for info in infos:
        member = _member(source, info)
        if info.header_offset < free or member.offset + member.stored > directory:
            raise CorruptFileError(member.where, "shares bytes with another part of the zip file")
        if member.name in found:
            raise CorruptFileError(member.where, "is in the zip file twice")
        free = member.offset + member.stored
        found[member.name] = member
    total = sum(member.size for member in found.values())
    if total > _BOMB_RATIO * source.size + _BOMB_FLOOR:
        raise CorruptFileError(source.name, f"would inflate from {source.size} to {total} bytes; refused as a zip bomb")
    return {name: member for name, member in found.items() if not name.endswith("/")}


def _member(source: FileSource, info: zipfile.ZipInfo) -> Member:
    where = f"{source.name}: member {info.filename!r:.200}"
    if info.flag_bits & _ENCRYPTED:
        raise UnsupportedError(f"{where} is encrypted; decrypt the file first")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsupportedError(f"{where} is compressed by method {info.compress_type}; use deflate or none")
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    signature, name, extra = _LOCAL_HEADER.unpack(source.read(info.header_offset, _LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise CorruptFileError(where, "has no header where the zip file's directory puts it")
    if info.file_size > info.compress_size * _STEEPEST if deflated else info.file_size != info.compress_size:
        raise CorruptFileError(where, f"claims {info.file_size} bytes, which its {info.compress_size} cannot hold")
    offset = info.header_offset + _LOCAL_HEADER.size + name + extra
    return Member(info.filename, where, offset, info.compress_size, info.file_size, info.CRC, deflated)


def read_start(source: FileSource, member: Member, count: int) -> bytes:
    """The first `count` bytes of a member, or all it has if they are fewer."""
    if not member.deflated:
        return bytes(source.read(member.offset, min(count, member.size)))
    start = bytearray()
    for piece in _inflate(source, member):
        start += piece
        if len(start) >= count:
            break
    return bytes(start[:count])


def read_whole(source: FileSource, member: Member) -> NDArray[np.uint8]:
    """All bytes of a member, whose checksum is verified."""
    if not member.deflated:
        whole = np.frombuffer(source.read(member.offset, member.size), np.uint8)
    else:
        whole = np.empty(member.size, np.uint8)
        position = 0
        for piece in _inflate(source, member):
            whole[position : position + len(piece)] = np.frombuffer(piece, np.uint8)
            position += len(piece)
        if position != member.size:
            raise CorruptFileError(member.where, f"inflates to {position} bytes instead of {member.size}")
    if zlib.crc32(whole.data) != member.crc:
        raise CorruptFileError(member.where, "does not match its checksum")
    return whole


def _inflate(source: FileSource, member: Member) -> Iterator[bytes]:
    """The bytes of a deflated member in pieces, never more than its claimed size."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    left = member.size
    for start in range(0, member.stored, _PIECE):
        data = bytes(source.read(member.offset + start, min(_PIECE, member.stored - start)))
        while data and not inflater.eof:
            try:
                # One byte beyond the claimed size may come out, and tells that the claim was a lie.
                piece = inflater.decompress(data, min(left + 1, _PIECE * 16))
            except zlib.error as error:
                raise CorruptFileError(member.where, f"cannot be inflated: {error}") from error
            left -= len(piece)
            if left < 0:
                raise CorruptFileError(member.where, f"inflates to more than the {member.size} bytes it claims")
            yield piece
            data = inflater.unconsumed_tail
