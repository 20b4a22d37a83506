"""The container of SPEC.md once more, plain and with other means, to hold the package's own against.

`assemble` writes any file, sound or not; `dissect` reads a sound one and asserts what the specification says of it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import xxhash
import zstandard

MAGIC = bytes.fromhex("89 57 43 44 43 0d 0a 1a")
END_MAGIC = bytes.fromhex("1a 0a 0d 43 44 43 57 89")


def checksum(data: bytes) -> str:
    return f"{xxhash.xxh3_64_intdigest(data):016x}"


def digest(checksums: Sequence[str]) -> str:
    data = b"".join(int(text, 16).to_bytes(8, "big") for text in checksums)
    return f"{xxhash.xxh3_128_intdigest(data):032x}"


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 64)


def header(version: int = 1, flags: int = 0, reserved: bytes = bytes(44)) -> bytes:
    start = MAGIC + struct.pack("<HH", version, flags) + reserved
    return start + struct.pack("<Q", xxhash.xxh3_64_intdigest(start))


def trailer(
    offset: int,
    length: int,
    plain_length: int,
    index_checksum: int,
    file_length: int,
    version: int = 1,
    flags: int = 0,
    reserved: bytes = bytes(4),
) -> bytes:
    numbers = (offset, length, plain_length, index_checksum, file_length, version, flags)
    start = struct.pack("<QQQQQHH", *numbers) + reserved
    return start + struct.pack("<Q", xxhash.xxh3_64_intdigest(start)) + END_MAGIC


def assemble(payloads: Sequence[bytes], index: dict[str, Any] | bytes, **trailer_fields: Any) -> bytes:
    """A file of these payloads and this index (an object, or the bytes before compression).

    `stored_index` replaces the compressed index, `head` the header; other keywords replace fields of the trailer.
    """
    plain = index if isinstance(index, bytes) else json.dumps(index).encode()
    stored: bytes = trailer_fields.pop("stored_index", None) or zstandard.ZstdCompressor().compress(plain)
    body: bytes = trailer_fields.pop("head", header()) + b"".join(map(padded, payloads))
    fields = {
        "offset": len(body),
        "length": len(stored),
        "plain_length": len(plain),
        "index_checksum": xxhash.xxh3_64_intdigest(stored),
        "file_length": len(body) + len(padded(stored)) + 64,
    }
    return body + padded(stored) + trailer(**(fields | trailer_fields))


@dataclass
class Part:
    """A range of bytes of a file and what it is: "tensor 'x', chunk 0", "graph", "padding", "index", ..."""

    what: str
    start: int
    stop: int


@dataclass
class Dissected:
    """A file's index, as JSON gives it, and all its parts in order."""

    index: dict[str, Any]
    parts: list[Part]

    def part_at(self, position: int) -> Part:
        return next(part for part in self.parts if part.start <= position < part.stop)


def dissect(data: bytes) -> Dissected:
    assert data[:64] == header()
    offset, length, plain_length, index_checksum, file_length = struct.unpack("<QQQQQ", data[-64:-24])
    assert data[-64:] == trailer(offset, length, plain_length, index_checksum, len(data))
    assert file_length == len(data) == offset + len(padded(data[offset : offset + length])) + 64
    stored = data[offset : offset + length]
    assert xxhash.xxh3_64_intdigest(stored) == index_checksum
    plain = zstandard.ZstdDecompressor().decompress(stored, max_output_size=plain_length)
    assert len(plain) == plain_length
    index = json.loads(plain)
    parts = [Part("header", 0, 64)]
    checksums = []

    def add(what: str, start: int, size: int, expected: str | None) -> None:
        stop = start + size
        assert start == parts[-1].stop
        assert expected is None or checksum(data[start:stop]) == expected
        parts.append(Part(what, start, stop))
        if stop % 64:
            parts.append(Part("padding", stop, stop + -stop % 64))
            assert not any(data[stop : parts[-1].stop])

    for name, _, _, _, _, side, chunks in index["tensors"]:
        if side:
            add(f"tensor '{name}', side information", side[0], side[1], side[3])
            checksums.append(side[3])
        for number, chunk in enumerate(chunks):
            add(f"tensor '{name}', chunk {number}", chunk[0], chunk[1], chunk[3])
            checksums.append(chunk[3])
    if "graph" in index:
        start, size, _, expected = index["graph"]
        add("graph", start, size, expected)
    add("index", offset, length, None)
    parts.append(Part("trailer", parts[-1].stop, len(data)))
    assert parts[-1].stop - parts[-1].start == 64
    assert index["digest"] == digest(checksums)
    return Dissected(index, parts)
