"""The writer and the reader of .wcodec files, against an independent reading of SPEC.md and the golden file."""

from __future__ import annotations

import io
import json
import os
import threading
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import make_container as golden
from tests.support.containers import assemble, digest, dissect, header
from wcodec.errors import CorruptFileError, UnsupportedError, UsageError
from wcodec.formats.container import ContainerReader, ContainerWriter, chunk_place
from wcodec.formats.index import (
    MAX_CHUNK_ELEMENTS,
    MAX_GRAPH_RATIO,
    MAX_INDEX_OBJECTS,
    MAX_INDEX_PLAIN,
    MAX_NAME_BYTES,
    NO_REPORT,
    RATIO_SLACK,
    parse_object,
)
from wcodec.formats.source import BytesSource
from wcodec.model import DTYPES

RECIPE = {"coder": {"id": "raw"}}


def read(data: bytes) -> ContainerReader:
    return ContainerReader(BytesSource(data))


def written(*tensors: tuple[str, list[bytes]], **finish: Any) -> bytes:
    """A file of u8 vectors, each given as its name and its chunks of one row a byte."""
    stream = io.BytesIO()
    writer = ContainerWriter(stream)
    for name, chunks in tensors:
        for chunk in chunks:
            writer.add_chunk(chunk, len(chunk))
        writer.add_tensor(name, "u8", (sum(map(len, chunks)),), row_axes=1, recipe=RECIPE)
    writer.finish(**finish)
    return stream.getvalue()


def test_the_golden_file_is_what_the_writer_writes() -> None:
    data, built = golden.PATH.read_bytes(), golden.build()
    old, new = dissect(data), dissect(built)
    start = next(part.start for part in old.parts if part.what == "graph")
    assert built[:start] == data[:start]
    # Graph and index are compressed, and zstd may find shorter forms: what they hold must be the same.
    del old.index["graph"], new.index["graph"]
    assert json.dumps(new.index) == json.dumps(old.index)


def test_the_golden_file_is_read() -> None:
    data = golden.PATH.read_bytes()
    with read(data) as reader:
        index = reader.index
        assert [(entry.name, entry.dtype, entry.shape, entry.row_axes) for entry in index.tensors] == [
            ("embedding.weight", "f32", (5, 7), 1),
            ("scalar", "i64", (), 0),
            ("nothing", "bool", (3, 0), 1),
            ("../naïve/名", "bf16", (2, 3, 11), 2),
        ]
        assert [entry.recipe for entry in index.tensors] == [0, 1, 1, 0]
        assert [parse_object(recipe, "") for recipe in index.recipes] == golden.RECIPES[::-1]
        payloads = [reader.payload(chunk, "here") for entry in index.tensors for chunk in entry.chunks]
        assert payloads == [golden.payload(seed, size) for seed, size in ((2, 64), (3, 100), (4, 1), (5, 129))]
        side = index.tensors[0].side
        assert side is not None
        assert reader.payload(side, "here") == golden.payload(1, 40)
        assert reader.graph() == golden.GRAPH
        assert index.metadata == golden.METADATA
        assert index.ties == tuple(golden.TIES.items())
        assert parse_object(index.fidelity, "") == golden.FIDELITY
        assert reader.size == len(data)
        assert reader.verify() == []


def test_a_file_of_nothing() -> None:
    data = written()
    index = dissect(data).index
    assert index == {"tensors": [], "digest": digest([])}
    with read(data) as reader:
        assert reader.index.fidelity == NO_REPORT
        assert reader.graph() is None
        assert reader.verify() == []


names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
payloads = st.lists(st.binary(min_size=1, max_size=200), max_size=4)


@given(
    tensors=st.dictionaries(names, st.tuples(st.none() | st.binary(min_size=1, max_size=99), payloads), max_size=5),
    metadata=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
    graph=st.none() | st.binary(min_size=1, max_size=300),
)
def test_what_is_written_is_read(
    tensors: dict[str, tuple[bytes | None, list[bytes]]], metadata: dict[str, str], graph: bytes | None
) -> None:
    stream = io.BytesIO()
    writer = ContainerWriter(stream)
    if graph is not None:
        writer.set_graph(graph)
    for name, (side, chunks) in tensors.items():
        if side is not None and chunks:
            writer.add_side(side)
        for chunk in chunks:
            writer.add_chunk(chunk, len(chunk))
        writer.add_tensor(name, "u8", (sum(map(len, chunks)), 3), row_axes=1, recipe=RECIPE)
    index = writer.finish(metadata=metadata)
    data = stream.getvalue()
    assert writer.position == len(data)
    dissect(data)
    with read(data) as reader:
        assert msgspec.json.encode(reader.index) == msgspec.json.encode(index)
        assert reader.index.metadata == metadata
        assert reader.graph() == graph
        assert [entry.name for entry in reader.index.tensors] == list(tensors)
        for entry, (side, chunks) in zip(reader.index.tensors, tensors.values(), strict=True):
            assert [reader.payload(chunk, "") for chunk in entry.chunks] == chunks
            expected = side if chunks else None
            assert (None if entry.side is None else bytes(reader.payload(entry.side, ""))) == expected
        assert reader.verify() == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_a_place(dtype: str) -> None:
    stream = io.BytesIO()
    writer = ContainerWriter(stream)
    writer.add_chunk(b"x", 1)
    writer.add_tensor("x", dtype, (), row_axes=0, recipe=RECIPE)
    writer.finish()
    assert read(stream.getvalue()).index.tensors[0].dtype == dtype


def test_the_writer_needs_no_seeking() -> None:
    """A pipe receives the same bytes as a file."""
    parts: list[bytes] = []
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb") as stream:
        thread = threading.Thread(target=lambda: parts.append(pipe.read()))
        thread.start()
        writer = ContainerWriter(stream)
        for size in (1, 64, 1 << 18):
            writer.add_chunk(bytes(size), size)
            writer.add_tensor(f"of {size}", "u8", (size,), row_axes=1, recipe=RECIPE)
        writer.finish()
        stream.close()
        thread.join()
    assert parts == [written(*((f"of {size}", [bytes(size)]) for size in (1, 64, 1 << 18)))]


def test_equal_recipes_are_stored_once() -> None:
    data = written(("a", [b"1"]), ("b", [b"2"]), ("c", []))
    assert dissect(data).index["recipes"] == [RECIPE]


def test_overhead() -> None:
    """At most 0.1 % of a file of 10 MB, and 200 bytes a tensor, with names and recipes such as models have."""
    coders = ("zstd", "raw", "hevc", "floats")
    stream = io.BytesIO()
    writer = ContainerWriter(stream)
    payload = os.urandom(33_333)
    for number in range(300):
        writer.add_chunk(payload, 512)
        recipe = {
            "quantizer": {"id": "uniform", "bits": 8, "block": [1, 0], "symmetric": True},
            "tiling": {"id": "rows", "width": 512},
            "coder": {"id": coders[number % 4], "level": 12},
        }
        name = f"model.layers.{number // 8}.self_attn.projection{number % 8}.weight"
        writer.add_tensor(name, "f32", (512, 512), row_axes=1, recipe=recipe)
    writer.finish(metadata={"format": "pt"})
    size = len(stream.getvalue())
    assert size - 300 * len(payload) <= size / 1000 + 300 * 200


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "row_axes", "rows", "problem"),
    [
        ("", "u8", (1,), 1, 1, "0 bytes"),
        ("n" * (MAX_NAME_BYTES + 1), "u8", (1,), 1, 1, "4097 bytes"),
        ("a\0b", "u8", (1,), 1, 1, "control"),
        ("a\ud800b", "u8", (1,), 1, 1, "Unicode"),
        ("x", "u9", (1,), 1, 1, "dtype"),
        ("x", "u8", (1,) * 33, 1, 1, "dimensions"),
        ("x", "u8", (1 << 48, 2), 1, 1, "elements"),
        ("x", "u8", (1, MAX_CHUNK_ELEMENTS + 1), 1, 1, "elements"),
        ("x", "u8", (2,), 1, 1, "1 of 2 rows"),
        ("x", "u8", (1,), 1, 2, "2 of 1 rows"),
        ("x", "u8", (1,), 0, 1, "row axes"),
        ("x", "u8", (), 1, 1, "row axes"),
        ("x", "u8", (1,), 1, 0, "elements"),
    ],
)
def test_the_writer_refuses_what_readers_would(
    name: str, dtype: str, shape: tuple[int, ...], row_axes: int, rows: int, problem: str
) -> None:
    writer = ContainerWriter(io.BytesIO())
    writer.add_chunk(b"payload", rows)
    with pytest.raises(UsageError, match=problem):
        writer.add_tensor(name, dtype, shape, row_axes=row_axes, recipe=RECIPE)


def test_the_writer_refuses_empty_payloads() -> None:
    writer = ContainerWriter(io.BytesIO())
    writer.add_chunk(b"", 1)
    with pytest.raises(UsageError, match="0 bytes"):
        writer.add_tensor("x", "u8", (1,), row_axes=1, recipe=RECIPE)


def test_the_writer_refuses_chunks_without_a_tensor() -> None:
    writer = ContainerWriter(io.BytesIO())
    writer.add_chunk(b"1", 1)
    with pytest.raises(UsageError, match="before the chunks"):
        writer.add_side(b"1")
    with pytest.raises(UsageError, match="no tensor"):
        writer.finish()


@pytest.mark.parametrize(
    "finish",
    [
        {"ties": {"b": "nowhere"}},
        {"ties": {"a": "a"}},
        {"ties": {"": "a"}},
        {"ties": {"\ud800": "a"}},
        {"metadata": {"a": "\ud800"}},
        {"metadata": {"a": "x" * MAX_INDEX_PLAIN}},
        {"metadata": {"a": "{" * (MAX_INDEX_OBJECTS + 1)}},
    ],
    ids=lambda finish: str(finish)[:60],
)
def test_the_writer_refuses_to_finish(finish: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot store"):
        written(("a", [b"1"]), **finish)


def test_an_index_that_compresses_too_well_is_stored_as_it_is() -> None:
    metadata = {"a": "x" * (1 << 21)}
    data = written(("a", [b"1"]), metadata=metadata)
    assert len(data) > 1 << 21
    assert dissect(data).index["metadata"] == metadata
    with ContainerReader(BytesSource(data)) as reader:
        assert reader.index.metadata == metadata


def test_the_writer_refuses_a_name_twice() -> None:
    with pytest.raises(UsageError, match="same name"):
        written(("a", [b"1"]), ("a", [b"1"]))


def test_a_graph_of_zeros_is_stored_within_the_limits() -> None:
    """What zstd would shrink beyond what readers allow is stored less small."""
    graph = bytes(10 << 20)
    stream = io.BytesIO()
    writer = ContainerWriter(stream)
    writer.set_graph(graph)
    writer.finish()
    assert len(zstandard.compress(graph, 19)) * MAX_GRAPH_RATIO + RATIO_SLACK < len(graph)
    assert read(stream.getvalue()).graph() == graph
    with pytest.raises(UsageError, match="graph"):
        ContainerWriter(io.BytesIO()).set_graph(b"")


def test_verify_reports_progress_up_to_the_size() -> None:
    done: list[int] = []
    with read(golden.PATH.read_bytes()) as reader:
        reader.verify(done.append)
        assert sum(done) == reader.size
        assert len(done) == 8


def test_all_damage_is_listed_in_order() -> None:
    data = bytearray(golden.PATH.read_bytes())
    parts = dissect(bytes(data)).parts
    whats = [part.what for part in parts if part.what not in ("header", "index", "trailer")]
    for part in parts:
        if part.what in whats:
            data[part.start] ^= 1
    with read(bytes(data)) as reader:
        damaged = [error.where for error in reader.verify()]
    previous = ""
    for number, what in enumerate(whats):
        whats[number] = f"padding after {previous}" if what == "padding" else what
        previous = what if what != "padding" else "index"
    assert damaged == whats


def test_a_damaged_payload_is_named() -> None:
    data = bytearray(written(("weights", [b"first", b"second"])))
    data[data.index(b"second")] ^= 1
    with read(bytes(data)) as reader:
        first, second = reader.index.tensors[0].chunks
        assert bytes(reader.payload(first, chunk_place("weights", 0))) == b"first"
        with pytest.raises(CorruptFileError, match=r"^tensor 'weights', chunk 1: checksum mismatch: bytes 128 to 134"):
            reader.payload(second, chunk_place("weights", 1))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b"\r\n", b"\n"),
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.decode("latin-1").encode(),
        lambda data: data.decode(errors="replace").encode(),
        lambda data: bytes(byte & 127 for byte in data),
    ],
    ids=["crlf to lf", "lf to crlf", "latin-1 to utf-8", "undecodable replaced", "high bit lost"],
)
def test_text_mode_damage_is_recognised(damage: Any) -> None:
    with pytest.raises(CorruptFileError, match=r"^header: damaged by a transfer in text mode"):
        read(damage(golden.PATH.read_bytes()))


@pytest.mark.parametrize("data", [b"", b"\x89WCD", header()[:63], header(), header() + bytes(63)], ids=len)
def test_a_beginning_alone_is_cut_short(data: bytes) -> None:
    with pytest.raises(CorruptFileError, match="cut short"):
        read(data)


@pytest.mark.parametrize("data", [b"PK\x03\x04", b"\x89PNG\r\n\x1a\n" + bytes(200), b"{}" * 999, bytes(999)], ids=len)
def test_other_files_are_told_apart(data: bytes) -> None:
    with pytest.raises(CorruptFileError, match=r"^header: not a \.wcodec file"):
        read(data)


def test_a_newer_version_is_named() -> None:
    sound: dict[str, Any] = {"tensors": [], "digest": digest([])}
    with pytest.raises(UnsupportedError, match=r"version 2, this reader knows version 1"):
        read(assemble([], sound, head=header(version=2), version=2))
    with pytest.raises(UnsupportedError, match=r"version 2, this reader knows version 1"):
        read(assemble([], sound, version=2))
    with pytest.raises(UnsupportedError, match=r"flags 0x0004"):
        read(assemble([], sound, head=header(flags=4)))
    with pytest.raises(UnsupportedError, match=r"flags 0x0100"):
        read(assemble([], sound, flags=256))
    assert read(assemble([], sound)).verify() == []
