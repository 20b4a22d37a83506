"""Files made to harm: each must be refused for the right reason, fast, and without taking memory.

Every attack is a sound file with one thing changed; checksums and lengths that cover it are made right again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.support.attacks import Json, bounded, deep, extend, is_presentable, put
from tests.support.containers import assemble, checksum, digest, header, padded
from wcodec.errors import CorruptFileError, InputError, UnsupportedError
from wcodec.formats.container import ContainerReader
from wcodec.formats.index import RATIO_SLACK, parse_object
from wcodec.formats.source import BytesSource

PAYLOADS = [b"side", b"a" * 100, b"b" * 64, b"c"]
GRAPH = zstandard.compress(b"graph" * 50)


def sound_index() -> Json:
    sums = [checksum(payload) for payload in PAYLOADS]
    return {
        "tensors": [
            ["first", "f32", [5, 7], 1, 0, [64, 4, 0, sums[0]], [[128, 100, 3, sums[1]], [256, 64, 2, sums[2]]]],
            ["second", "i8", [], 0, 1, None, [[320, 1, 1, sums[3]]]],
        ],
        "digest": digest(sums),
        "recipes": [{"id": "a"}, {"id": "b"}],
        "metadata": {"key": "value"},
        "ties": [["tied", "first"]],
        "graph": [384, len(GRAPH), 250, checksum(GRAPH)],
        "fidelity": {"kl": 0.5},
    }


def sound_file(**changes: Any) -> bytes:
    return assemble([*PAYLOADS, GRAPH], sound_index(), **changes)


def refuse(data: bytes, problem: str, kind: type[InputError] = CorruptFileError) -> None:
    with bounded(), pytest.raises(kind, match=problem) as caught:
        ContainerReader(BytesSource(data))
    assert caught.type is kind
    assert is_presentable(caught.value)


def test_what_the_attacks_begin_with_is_sound() -> None:
    with ContainerReader(BytesSource(sound_file())) as reader:
        assert reader.verify() == []
        assert reader.graph() == b"graph" * 50


def row_of_bytes(length: int) -> list[Any]:
    return ["third", "u8", [length], 1, 0, None, []]


FIRST = ("tensors", 0)
SECOND = ("tensors", 1)
CHUNK = (*FIRST, 6, 0)

INDEX_ATTACKS: dict[str, tuple[Callable[[Json], None], str]] = {
    "huge offset": (put(*CHUNK, 0, 1 << 60), "where byte 128 was to follow"),
    "huge length": (put(*CHUNK, 1, 1 << 60), "chunk of 1152921504606846976 bytes"),
    "length beyond the index": (put(*SECOND, 6, 0, 1, 1 << 20), "payloads end at byte|where byte"),
    "largest length": (put(*CHUNK, 1, 1 << 29), "where byte"),
    "integer beyond 62 bits": (put(*CHUNK, 1, 1 << 62), "Expected `int`"),
    "integer beyond 64 bits": (put(*CHUNK, 0, 1 << 64), "Expected `int`|out of range"),
    "integer of a thousand digits": (put(*CHUNK, 0, 10**1000), "Expected `int`|out of range"),
    "negative offset": (put(*CHUNK, 0, -64), "Expected `int` >= 0"),
    "negative length": (put(*CHUNK, 1, -1), "Expected `int` >= 0"),
    "negative rows": (put(*CHUNK, 2, -3), "Expected `int` >= 0"),
    "empty payload": (put(*CHUNK, 1, 0), "chunk of 0 bytes"),
    "overlapping chunks": (put(*FIRST, 6, 1, 0, 192), "byte 192, where byte 256"),
    "the same chunk twice": (put(*FIRST, 6, 1, 0, 128), "byte 128, where byte 256"),
    "a chunk inside the header": (put(*FIRST, 5, 0, 0), "byte 0, where byte 64"),
    "a hole": (put(*FIRST, 6, 1, 0, 320), "byte 320, where byte 256"),
    "an unaligned chunk": (put(*FIRST, 6, 1, 0, 228), "byte 228, where byte 256"),
    "a hole before the index": (lambda index: index.pop("graph"), "payloads end at byte 384, but"),
    "graph over a chunk": (put("graph", 0, 320), "graph is at byte 320"),
    "graph over the index": (put("graph", 0, 448), "graph is at byte 448"),
    "graph of no bytes": (put("graph", 1, 0), "graph is at byte 384|graph of 250"),
    "graph of huge length": (put("graph", 1, 1 << 60), "payloads end at byte"),
    "graph that is a bomb": (put("graph", 2, 1 << 31), "graph of 2147483648 bytes"),
    "graph beyond the cap": (put("graph", slice(1, 3), [1 << 40, (1 << 31) + 1]), "graph of 2147483649 bytes"),
    "graph without a checksum": (put("graph", 3, "x"), "checksum is not 16"),
    "rows that do not add up": (put(*CHUNK, 2, 2), "hold 4 of 5 rows"),
    "rows beyond the tensor": (put(*CHUNK, 2, 4), "hold 6 of 5 rows"),
    "a chunk of no rows": (put(*CHUNK, 2, 0), "chunk of 0 elements"),
    "a chunk of too many elements": (put(*CHUNK, 2, 1 << 22), "chunk of 29360128 elements"),
    "rows that overflow 64 bits": (put(*CHUNK, 2, (1 << 62) - 1), "elements, where 1 to"),
    "no chunks for elements": (put(*SECOND, 6, []), "hold 0 of 1 rows"),
    "chunks for no elements": (put(*FIRST, 2, [5, 0]), "chunk of 0 elements"),
    "side information of nothing": (
        put(*FIRST, slice(2, None), [[0, 7], 1, 0, [64, 4, 0, checksum(b"side")], []]),
        "side information",
    ),
    "side information with rows": (put(*FIRST, 5, 2, 1), "side information"),
    "negative side": (put(*FIRST, 2, [-5, 7]), "Expected `int` >= 0"),
    "two negative sides": (put(*FIRST, 2, [-5, -7]), "Expected `int` >= 0"),
    "huge side": (put(*FIRST, 2, [1 << 49, 1]), "more than 281474976710656 elements"),
    "product that wraps to the truth": (put(*FIRST, 2, [5, 7, 1 << 32, 1 << 32]), "more than"),
    "product that wraps to zero": (put(*FIRST, 2, [1 << 32, 1 << 32]), "more than"),
    "huge sides beside a zero": (put(*FIRST, 2, [0, 1 << 40, 1 << 40]), "more than"),
    "thousands of dimensions": (put(*FIRST, 2, [1] * 9999), "9999 dimensions"),
    "dimensions of huge sides": (put(*FIRST, 2, [(1 << 62) - 1] * 32), "more than"),
    "row axes beyond the shape": (put(*FIRST, 3, 3), "3 row axes"),
    "no row axes": (put(*FIRST, 3, 0), "0 row axes"),
    "row axes of a scalar": (put(*SECOND, 3, 1), "1 row axes"),
    "unknown dtype": (put(*FIRST, 1, "f31"), "unknown dtype"),
    "dtype of a Python type": (put(*FIRST, 1, "O"), "unknown dtype"),
    "dtype of great length": (put(*FIRST, 1, "f" * 100_000), "unknown dtype"),
    "unknown recipe": (put(*FIRST, 4, 2), "recipe 2 is not in the table of 2"),
    "negative recipe": (put(*FIRST, 4, -1), "Expected `int` >= 0"),
    "no recipes": (put("recipes", []), "recipe 0 is not in the table of 0"),
    "a recipe that is a string": (put("recipes", 0, "x"), "recipe is not a JSON object"),
    "a recipe that is an array": (put("recipes", 0, [{}]), "recipe is not a JSON object"),
    "a recipe that is null": (put("recipes", 0, None), "recipe is not a JSON object"),
    "fidelity that is an array": (put("fidelity", [1]), "fidelity report is not a JSON object"),
    "fidelity that is null": (put("fidelity", None), "fidelity report is not a JSON object"),
    "a name twice": (put(*SECOND, 0, "first"), "same name"),
    "a tie called like a tensor": (put("ties", 0, 0, "second"), "same name"),
    "a tie twice": (extend("ties", ["tied", "second"]), "same name"),
    "a tie to nothing": (put("ties", 0, 1, "nothing"), "tied to 'nothing'"),
    "a tie to a tie": (extend("ties", ["more", "tied"]), "tied to 'tied'"),
    "a tie to itself": (extend("ties", ["more", "more"]), "tied to 'more'"),
    "a tie of three": (put("ties", 0, ["a", "b", "c"]), "Expected `array` of length 2"),
    "a tie without a name": (put("ties", 0, 0, ""), "name has 0 bytes"),
    "no name": (put(*FIRST, 0, ""), "name has 0 bytes"),
    "NUL in a name": (put(*FIRST, 0, "a\0b"), "control characters"),
    "escape sequence in a name": (put(*FIRST, 0, "\x1b[2J"), "control characters"),
    "line end in a name": (put(*FIRST, 0, "a\nerror: b"), "control characters"),
    "C1 control in a name": (put(*FIRST, 0, "\x9b2J"), "control characters"),
    "NUL in a tie": (put("ties", 0, 0, "\0"), "control characters"),
    "surrogate in a name": (put(*FIRST, 0, "\udc00"), "surrogate"),
    "name of 4097 bytes": (put(*FIRST, 0, "n" * 4097), "name has 4097 bytes"),
    "name of 4098 bytes in 2049 characters": (put(*FIRST, 0, "ü" * 2049), "name has 4098 bytes"),
    "checksum of 15 digits": (put(*CHUNK, 3, "0" * 15), "checksum is not 16"),
    "checksum of 17 digits": (put(*CHUNK, 3, "0" * 17), "checksum is not 16"),
    "checksum in capitals": (put(*CHUNK, 3, "ABCDEF0123456789"), "checksum is not 16"),
    "checksum of spaces": (put(*CHUNK, 3, " " * 16), "checksum is not 16"),
    "checksum of other digits": (put(*CHUNK, 3, "٣" * 16), "checksum is not 16"),
    "checksum that is a number": (put(*CHUNK, 3, 5), "Expected `str`"),
    "another checksum": (put(*CHUNK, 3, "0" * 16), "digest is not that"),
    "another digest": (put("digest", "0" * 32), "digest is not that"),
    "no digest": (lambda index: index.pop("digest"), "missing required field `digest`"),
    "no tensors": (lambda index: index.pop("tensors"), "missing required field `tensors`"),
    "an unknown member": (put("comment", "hello"), "unknown field `comment`"),
    "escape sequences in a member": (put("\x1b[2J\n" * 999, 1), r"unknown field `\?\[2J\?\?\[2J"),
    "a tensor of too many elements": (extend(*FIRST, None), "array` of at most length 7"),
    "a tensor of too few elements": (put("tensors", 0, ["first"]), "array` of at least length 7"),
    "a chunk of too many fields": (extend(*CHUNK, None), "array` of at most length 4"),
    "a tensor that is an object": (put("tensors", 0, {"name": "first"}), "Expected `array`, got `object`"),
    "tensors as an object": (put("tensors", {}), "Expected `array`, got `object`"),
    "a shape that is a number": (put(*FIRST, 2, 35), "Expected `array`, got `int`"),
    "a float for an offset": (put(*CHUNK, 0, 128.0), "Expected `int`, got `float`"),
    "a float for a side": (put(*FIRST, 2, [5.0, 7]), "Expected `int`, got `float`"),
    "NaN for a length": (put(*CHUNK, 1, float("nan")), "malformed"),
    "infinity for a length": (put(*CHUNK, 1, float("inf")), "malformed"),
    "true for rows": (put(*CHUNK, 2, True), "Expected `int`, got `bool`"),
    "a string for rows": (put(*CHUNK, 2, "3"), "Expected `int`, got `str`"),
    "null for rows": (put(*CHUNK, 2, None), "Expected `int`, got `null`"),
    "metadata that is not text": (put("metadata", {"key": 1}), "Expected `str`, got `int`"),
    "a tensor more": (extend("tensors", row_of_bytes(1)), "hold 0 of 1 rows"),
    "thirty thousand tensors": (
        lambda index: index["tensors"].extend(["n", "u8", [0], 1, 0, None, []] for _ in range(30_000)),
        "more than the format allows",
    ),
}


@pytest.mark.parametrize("attack", INDEX_ATTACKS)
def test_index(attack: str) -> None:
    change, problem = INDEX_ATTACKS[attack]
    index = sound_index()
    change(index)
    refuse(assemble([*PAYLOADS, GRAPH], index), problem)


SOUND_JSON = json.dumps(sound_index()).encode()

JSON_ATTACKS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"\0\1\2", "malformed"),
    "an array": (b"[]", "Expected `object`, got `array`"),
    "half of it": (SOUND_JSON[:100], "truncated"),
    "something after it": (SOUND_JSON + b"{}", "trailing characters"),
    "a byte order mark": (b"\xef\xbb\xbf" + SOUND_JSON, "malformed"),
    "UTF-16": (SOUND_JSON.decode().encode("utf-16-le"), "malformed"),
    "bytes that are no UTF-8": (SOUND_JSON.replace(b"first", b"f\xffrst"), "utf-8|UTF-8"),
    "deep arrays": (deep(b"[", b"]"), "Expected `object`"),
    "deep arrays in a recipe": (SOUND_JSON.replace(b'{"id": "a"}', deep(b"[", b"]")), "recursion"),
    "deep objects in a recipe": (SOUND_JSON.replace(b'{"id": "a"}', deep(b'{"a":', b"}")), "recursion|malformed"),
    "deep arrays for a fidelity": (SOUND_JSON.replace(b'{"kl": 0.5}', deep(b"[", b"]")), "recursion"),
    "deep arrays for a shape": (SOUND_JSON.replace(b"[5, 7]", deep(b"[", b"]")), "Expected `int`, got `array`"),
    "a number of a hundred thousand digits": (
        SOUND_JSON.replace(b"[5, 7]", b"[" + b"9" * 99_999 + b"]"),
        "out of range",
    ),
    "an exponent": (SOUND_JSON.replace(b"[5, 7]", b"[5e0, 7]"), "Expected `int`, got `float`"),
    "a huge exponent": (SOUND_JSON.replace(b"[5, 7]", b"[1e999999999, 7]"), "out of range|got `float`"),
}


@pytest.mark.parametrize("attack", JSON_ATTACKS)
def test_json(attack: str) -> None:
    plain, problem = JSON_ATTACKS[attack]
    refuse(assemble([*PAYLOADS, GRAPH], plain), problem)


OBJECT_ATTACKS: dict[str, bytes] = {
    "bytes that are no UTF-8": b'{"id":"\xff"}',
    "a number beyond floats": b'{"id":1e999}',
}


@pytest.mark.parametrize("attack", OBJECT_ATTACKS)
def test_objects_that_opening_leaves_alone(attack: str) -> None:
    """What stands inside recipes and reports is only looked at, and refused, when somebody asks for it."""
    plain = SOUND_JSON.replace(b'{"id": "a"}', OBJECT_ATTACKS[attack])
    with bounded(), ContainerReader(BytesSource(assemble([*PAYLOADS, GRAPH], plain))) as reader:
        assert reader.verify() == []
        assert parse_object(reader.index.recipes[1], "recipe 1") == {"id": "b"}
        with pytest.raises(CorruptFileError, match=r"^recipe 0: ") as caught:
            parse_object(reader.index.recipes[0], "recipe 0")
    assert is_presentable(caught.value)


fragments = st.sampled_from([*b'[]{}",:-.0123456789aeflnrstu\\', 0x00, 0x80, 0xFF]).map(lambda byte: bytes([byte]))


@given(st.lists(st.tuples(st.integers(0, len(SOUND_JSON)), st.integers(0, 9), fragments), min_size=1, max_size=3))
def test_any_other_index(edits: list[tuple[int, int, bytes]]) -> None:
    """Whatever the JSON has become, it is refused, or an index whose payloads can be verified: nothing else happens."""
    plain = SOUND_JSON
    for start, length, new in edits:
        plain = plain[:start] + new + plain[start + length :]
    data = assemble([*PAYLOADS, GRAPH], plain)
    try:
        problems = ContainerReader(BytesSource(data)).verify()
    except CorruptFileError as error:
        problems = [error]
    assert all(map(is_presentable, problems))


def frame(content_size: int, blocks: bytes) -> bytes:
    """A zstd frame that declares any content size, in one segment."""
    return b"\x28\xb5\x2f\xfd\xe0" + content_size.to_bytes(8, "little") + blocks


def repeated(byte: bytes, size: int, last: bool) -> bytes:
    """A block of zstd that stands for `size` times the same byte."""
    return (size << 3 | 1 << 1 | last).to_bytes(3, "little") + byte


SOUND_STORED = zstandard.compress(SOUND_JSON)
ENDLESS = repeated(b"a", 1 << 17, last=False) * 8191 + repeated(b"a", 1 << 17, last=True)

STORED_ATTACKS: dict[str, tuple[bytes, int, str]] = {
    "a bomb of 1 GiB": (frame(1 << 30, ENDLESS), 1 << 30, "more than the format allows"),
    "a bomb that says less": (frame(1 << 10, ENDLESS), 1 << 10, "cannot be decompressed"),
    "a bomb that the trailer hides": (frame(1 << 30, ENDLESS), 1 << 10, "do not hold the 1024 bytes"),
    "a bomb that says nothing": (
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 25)),
        1 << 10,
        "do not hold|content size",
    ),
    "the longest length": (SOUND_STORED, (1 << 64) - 1, "more than the format allows"),
    "no length": (SOUND_STORED, 0, "more than the format allows"),
    "a length too long": (SOUND_STORED, len(SOUND_JSON) + 1, "do not hold"),
    "a length too short": (SOUND_STORED, len(SOUND_JSON) - 1, "do not hold"),
    "a frame that declares more than it holds": (frame(1 << 17, repeated(b"a", 9, last=True)), 1 << 17, "decompress"),
    "a second frame": (SOUND_STORED * 2, len(SOUND_JSON), "unused data|cannot be decompressed"),
    "bytes after the frame": (SOUND_STORED + b"x", len(SOUND_JSON), "unused data|cannot be decompressed"),
    "half a frame": (SOUND_STORED[:-9], len(SOUND_JSON), "cannot be decompressed"),
    "a skippable frame": (b"\x50\x2a\x4d\x18\4\0\0\0abcd", 4, "decompress|do not hold"),
    "no frame": (b"x" * 99, 99, "cannot be decompressed|do not hold"),
    "plain JSON": (SOUND_JSON, len(SOUND_JSON), "cannot be decompressed|do not hold"),
}


@pytest.mark.parametrize("attack", STORED_ATTACKS)
def test_stored_index(attack: str) -> None:
    stored, plain_length, problem = STORED_ATTACKS[attack]
    refuse(sound_file(stored_index=stored, plain_length=plain_length), problem)


def test_the_most_objects_a_small_index_can_hold() -> None:
    tensors = b",".join(b'["a","u8",[0],1,0,null,[]]' for _ in range(9_600))
    plain = b'{"digest":"","tensors":[' + tensors + b"]}"
    assert 0 < RATIO_SLACK - len(plain) < 4096
    refuse(assemble([], plain), "recipe 0 is not in the table of 0")


TRAILER_ATTACKS: dict[str, tuple[dict[str, Any], str]] = {
    "index in the header": ({"offset": 0}, "no index of"),
    "index at the end": ({"offset": 1 << 63}, "no index of"),
    "index before its place": ({"offset": 384}, "no index of"),
    "index at an odd place": ({"offset": 449}, "no index of"),
    "huge index": ({"length": (1 << 64) - 1}, "no index of"),
    "no index": ({"length": 0}, "no index of"),
    "index shorter by a block": ({"length": 1}, "no index of"),
    "wrong index checksum": ({"index_checksum": 5}, "index: checksum mismatch"),
    "longer file": ({"file_length": 1 << 40}, "instead of 1099511627776"),
    "shorter file": ({"file_length": 64}, "instead of 64"),
    "version 0": ({"version": 0}, "version 0"),
    "reserved bytes": ({"reserved": b"abcd"}, "reserved bytes"),
    "reserved bytes of the header": ({"head": header(reserved=b"x" * 44)}, "header: reserved bytes"),
    "version 0 in the header": ({"head": header(version=0)}, "version 0"),
    "a header with a wrong checksum": ({"head": header()[:-1] + b"x"}, "header: checksum"),
}


@pytest.mark.parametrize("attack", TRAILER_ATTACKS)
def test_records(attack: str) -> None:
    fields, problem = TRAILER_ATTACKS[attack]
    refuse(sound_file(**fields), problem, UnsupportedError if "version" in attack else CorruptFileError)


OTHER_ATTACKS: dict[str, tuple[bytes, str]] = {
    "two files in one": (sound_file() * 2, "instead of"),
    "a file behind a header": (header() + sound_file(), "instead of"),
    "something appended": (sound_file() + b"\n", "no end mark"),
    "zeros appended": (sound_file() + bytes(64), "no end mark"),
    "something in front": (b"#!/bin/sh\n" + sound_file(), "not a .wcodec file"),
    "a payload more than the index knows": (
        assemble([*PAYLOADS, GRAPH, b"secret"], sound_index()),
        "payloads end at byte 448, but the index begins at byte 512",
    ),
    "a payload less": (assemble([*PAYLOADS], sound_index()), "payloads end at byte 448, but"),
}


@pytest.mark.parametrize("attack", OTHER_ATTACKS)
def test_whole_files(attack: str) -> None:
    refuse(*OTHER_ATTACKS[attack])


@pytest.mark.parametrize("part", ["header", "payloads", "graph", "index", "padding", "trailer"])
def test_cut_at_boundaries(part: str) -> None:
    data = sound_file()
    index = len(data) - 64 - len(padded(SOUND_STORED))
    cuts = {"header": 64, "payloads": 384, "graph": 448, "index": index + len(SOUND_STORED), "padding": len(data) - 64}
    refuse(data[: cuts.get(part, len(data) - 1)], "no end mark|cut short")


GRAPH_ATTACKS: dict[str, tuple[bytes, int]] = {
    "a bomb of 2 GiB": (frame(1 << 31, ENDLESS), 1 << 20),
    "a bomb that says less": (frame(1 << 10, ENDLESS), 1 << 10),
    "declares more": (frame(1 << 17, repeated(b"a", 9, last=True)), 1 << 17),
    "no frame": (b"x" * 99, 99),
    "two frames": (GRAPH * 2, 250),
}


@pytest.mark.parametrize("attack", GRAPH_ATTACKS)
def test_graph(attack: str) -> None:
    stored, plain_length = GRAPH_ATTACKS[attack]
    index = {"tensors": [], "digest": digest([]), "graph": [64, len(stored), plain_length, checksum(stored)]}
    with ContainerReader(BytesSource(assemble([stored], index))) as reader:
        with bounded(), pytest.raises(CorruptFileError, match=r"^graph: "):
            reader.graph()
        with bounded():
            assert [problem.where for problem in reader.verify()] == ["graph"]
