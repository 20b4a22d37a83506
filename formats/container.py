"""Reader and writer of .wcodec files: bytes and index, without any knowledge of recipes. SPEC.md is normative."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import msgspec
import xxhash
import zstandard

from wcodec.errors import CorruptFileError, InputError, UnsupportedError, UsageError
from wcodec.formats.index import (
    MAX_GRAPH_PLAIN,
    MAX_GRAPH_RATIO,
    MAX_INDEX_PLAIN,
    MAX_INDEX_RATIO,
    NO_REPORT,
    RATIO_SLACK,
    Chunk,
    GraphEntry,
    Index,
    TensorEntry,
    check_index,
    check_tensor,
    decompress,
    digest,
    parse_index,
)
from wcodec.formats.layout import (
    ALIGNMENT,
    HEADER,
    TRAILER,
    aligned,
    check_header,
    pack_header,
    pack_trailer,
    parse_trailer,
)
from wcodec.formats.source import Bytes, ByteSource

TAIL_BYTES = 1 << 16
"""How much of the end of a file is read at once, in the hope that it holds the whole index."""

_ZSTD_LEVEL = 19
_GRAPH = "graph"
_BLOCK = 1 << 17
"""The largest block of a zstd frame."""


def chunk_place(name: str, number: int) -> str:
    """What messages call a chunk; `number` counts from 0."""
    return f"tensor {name!r}, chunk {number}"


def side_place(name: str) -> str:
    """What messages call a tensor's side information."""
    return f"tensor {name!r}, side information"


class ContainerWriter:
    """Writes one file in one pass, never seeking: `stream` may be a pipe. The same calls write the same bytes.

    For every tensor in turn: `add_side` if its recipe has side information, `add_chunk` for its rows in order,
    then `add_tensor`. `finish` comes last. What the format does not allow is refused with `UsageError`.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._recipes: dict[bytes, int] = {}
        self._tensors: list[TensorEntry] = []
        self._side: Chunk | None = None
        self._chunks: list[Chunk] = []
        self._graph: tuple[bytes, int] | None = None
        self._tensors_end = HEADER.size
        self.position = 0
        """How many bytes were written so far."""
        self._put(pack_header())

    def add_side(self, payload: Bytes) -> Chunk:
        """Write the side information of the next tensor, before its chunks."""
        if self._side is not None or self._chunks:
            raise UsageError("side information comes once, before the chunks of its tensor")
        self._side = self._put_chunk(payload, 0)
        return self._side

    def add_chunk(self, payload: Bytes, rows: int) -> Chunk:
        """Write the next `rows` rows of the next tensor."""
        self._chunks.append(self._put_chunk(payload, rows))
        return self._chunks[-1]

    def add_tensor(self, name: str, dtype: str, shape: tuple[int, ...], *, row_axes: int, recipe: object) -> None:
        """Name the tensor whose chunks were just written; `recipe` is what msgspec encodes as a JSON object."""
        number = self._recipes.setdefault(msgspec.json.encode(recipe), len(self._recipes))
        entry = TensorEntry(name, dtype, shape, row_axes, number, self._side, tuple(self._chunks))
        try:
            self._tensors_end = check_tensor(entry, len(self._recipes), self._tensors_end)
        except CorruptFileError as error:
            raise UsageError(f"cannot store tensor {name!r}: {error.problem}") from error
        self._tensors.append(entry)
        self._side, self._chunks = None, []

    def set_graph(self, graph: bytes) -> None:
        """Give the graph, which `finish` will write; at any time before."""
        self._graph = (_compress(graph, MAX_GRAPH_PLAIN, MAX_GRAPH_RATIO, "graph"), len(graph))

    def finish(
        self,
        *,
        metadata: Mapping[str, str] | None = None,
        ties: Mapping[str, str] | None = None,
        fidelity: Mapping[str, object] | None = None,
    ) -> Index:
        """Write graph, index and trailer, and return the index. The stream is left open."""
        if self._side is not None or self._chunks:
            raise UsageError("the last chunks belong to no tensor")
        if not all(isinstance(text, str) for item in (metadata or {}).items() for text in item):
            raise UsageError("metadata maps strings to strings; write numbers as text")
        pieces = [piece for entry in self._tensors for piece in (entry.side, *entry.chunks)]
        index = Index(
            tensors=tuple(self._tensors),
            digest=digest([piece.checksum for piece in pieces if piece is not None]),
            recipes=tuple(msgspec.Raw(recipe) for recipe in self._recipes),
            metadata=dict(metadata or {}),
            ties=tuple((ties or {}).items()),
            graph=self._put_graph(),
            fidelity=NO_REPORT if fidelity is None else msgspec.Raw(msgspec.json.encode(fidelity)),
        )
        try:
            check_index(index, self.position)
            plain = msgspec.json.encode(index)
        except CorruptFileError as error:
            raise UsageError(f"cannot store this model: {error.problem}") from error
        except UnicodeEncodeError as error:
            raise UsageError(f"cannot store this model: its metadata is not valid Unicode: {error}") from error
        stored = _compress(plain, MAX_INDEX_PLAIN, MAX_INDEX_RATIO, "index")
        offset = self.position
        checksum = xxhash.xxh3_64_intdigest(stored)
        try:
            parse_index(memoryview(stored), len(plain), checksum, offset)
        except CorruptFileError as error:
            raise UsageError(f"cannot store this model: {error.problem}") from error
        self._put(stored)
        self._put(pack_trailer(offset, len(stored), len(plain), checksum))
        return index

    def _put_graph(self) -> GraphEntry | None:
        if self._graph is None:
            return None
        stored, plain_length = self._graph
        entry = GraphEntry(self.position, len(stored), plain_length, xxhash.xxh3_64_hexdigest(stored))
        self._put(stored)
        return entry

    def _put_chunk(self, payload: Bytes, rows: int) -> Chunk:
        view = memoryview(payload)
        chunk = Chunk(self.position, view.nbytes, rows, xxhash.xxh3_64_hexdigest(view))
        self._put(view)
        return chunk

    def _put(self, data: Bytes) -> None:
        """Write `data` and zeros up to where the next part begins."""
        self._write(memoryview(data).cast("B"))
        self._write(memoryview(bytes(-self.position % ALIGNMENT)))

    def _write(self, rest: memoryview) -> None:
        self.position += len(rest)
        while len(rest):
            # a stream without a buffer may take less than it is given, and says how much
            rest = rest[self._stream.write(rest) :]


def _compress(plain: bytes, limit: int, ratio: int, what: str) -> bytes:
    """One zstd frame of `plain`, within what a reader accepts, or `UsageError`."""
    stored = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(plain)
    if len(plain) > RATIO_SLACK + ratio * len(stored):
        # With the smallest window zstd cannot save more than 255 bytes in 256, which a graph may.
        parameters = zstandard.ZstdCompressionParameters.from_level(_ZSTD_LEVEL, window_log=10)
        stored = zstandard.ZstdCompressor(compression_params=parameters).compress(plain)
    if len(plain) > RATIO_SLACK + ratio * len(stored):
        stored = _stored_frame(plain)
    if not 0 < len(plain) <= min(limit, RATIO_SLACK + ratio * len(stored)):
        raise UsageError(f"cannot store the {what}: {len(plain)} bytes are not what the format allows; store less")
    return stored


def _stored_frame(plain: bytes) -> bytes:
    """A zstd frame (RFC 8878) of blocks as they are: for what compresses by more than a reader believes."""
    single_segment_and_8_byte_size = 0b11100000
    frame = bytearray((zstandard.MAGIC_NUMBER).to_bytes(4, "little") + bytes([single_segment_and_8_byte_size]))
    frame += len(plain).to_bytes(8, "little")
    for start in range(0, len(plain), _BLOCK):
        block = plain[start : start + _BLOCK]
        is_last = start + _BLOCK >= len(plain)
        frame += (len(block) << 3 | is_last).to_bytes(3, "little") + block
    return bytes(frame)


class _Span(NamedTuple):
    """A payload as `verify` sees it."""

    where: str
    offset: int
    length: int
    checksum: str


class ContainerReader:
    """An open file: its index, which was checked as a whole, and its payloads, each checked when it is read.

    Takes over `source` and closes it. Errors begin with `label`, if there is one: what the file is called. Opening
    reads the end of the file and, unless the source is remote, the header. Raises `CorruptFileError` for damaged or
    hostile bytes and `UnsupportedError` for a newer version.
    """

    def __init__(self, source: ByteSource, label: str = "") -> None:
        self._source = source
        self._label = label
        try:
            with self._naming():
                if not source.remote or source.size < HEADER.size + TRAILER.size:
                    check_header(source.read(0, min(HEADER.size, source.size)))
                if source.size < HEADER.size + TRAILER.size:
                    raise CorruptFileError("trailer", f"the file is cut short at byte {source.size}; fetch it again")
                self.index = self._read_index()
        except BaseException:
            source.close()
            raise

    def place(self, where: str) -> str:
        """How messages name a part of this file."""
        return f"{self._label}: {where}" if self._label else where

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except CorruptFileError as error:
            if self._label in error.where:
                raise
            raise CorruptFileError(self.place(error.where), error.problem) from error
        except UnsupportedError as error:
            if self._label in str(error):
                raise
            raise UnsupportedError(self.place(str(error))) from error

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return self._source.size

    def payload(self, chunk: Chunk, where: str) -> memoryview:
        """A chunk's bytes, after their checksum was found right; `where` names it in the error if it is not."""
        with self._naming():
            return self._checked(_Span(where, chunk.offset, chunk.length, chunk.checksum))

    def release(self, chunk: Chunk) -> None:
        """Say that a chunk was used, so that the memory a mapping holds it in can be dropped."""
        self._source.release(chunk.offset, chunk.length)

    def graph(self) -> bytes | None:
        """The graph without compression, or None where the file has none."""
        entry = self.index.graph
        if entry is None:
            return None
        with self._naming():
            return decompress(self._checked(self._graph_span(entry)), entry.plain_length, _GRAPH)

    def verify(self, progress: Callable[[int], None] | None = None) -> list[CorruptFileError]:
        """Check every byte of the file and return all damage found, in file order.

        `progress` is called with numbers of bytes, as they are done; they add up to `size`.
        """
        problems: list[CorruptFileError] = []
        for done, found in self._examine():
            problems.extend(CorruptFileError(self.place(problem.where), problem.problem) for problem in found)
            if progress is not None:
                progress(done)
        return problems

    def close(self) -> None:
        """Let go of the source; payloads already read stay valid."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_index(self) -> Index:
        source = self._source
        start = max(0, source.size - TAIL_BYTES)
        tail = source.read(start, source.size - start)
        trailer = parse_trailer(tail[-TRAILER.size :], source.size)
        offset, length = trailer.index_offset, trailer.index_length
        if offset < HEADER.size or offset % ALIGNMENT or aligned(offset + length) + TRAILER.size != source.size:
            raise CorruptFileError("trailer", f"no index of {length} bytes fits at byte {offset}; fetch the file again")
        if offset < start:
            tail = memoryview(bytes(source.read(offset, start - offset)) + bytes(tail))
            start = offset
        data = tail[offset - start : offset - start + length]
        self._index_end = offset + length
        return parse_index(data, trailer.index_plain_length, trailer.index_checksum, offset)

    def _checked(self, span: _Span) -> memoryview:
        data = self._source.read(span.offset, span.length)
        if xxhash.xxh3_64_hexdigest(data) != span.checksum:
            raise _mismatch(span)
        return data

    def _spans(self) -> Iterator[_Span]:
        for entry in self.index.tensors:
            if entry.side is not None:
                yield _Span(side_place(entry.name), entry.side.offset, entry.side.length, entry.side.checksum)
            for number, chunk in enumerate(entry.chunks):
                yield _Span(chunk_place(entry.name, number), chunk.offset, chunk.length, chunk.checksum)
        if self.index.graph is not None:
            yield self._graph_span(self.index.graph)

    @staticmethod
    def _graph_span(entry: GraphEntry) -> _Span:
        return _Span(_GRAPH, entry.offset, entry.length, entry.checksum)

    def _examine(self) -> Iterator[tuple[int, list[CorruptFileError]]]:
        """Every part of the file in order: how many bytes it has, and what is wrong with them."""
        yield HEADER.size, self._examine_header()
        position = HEADER.size
        for span in self._spans():
            problems = self._examine_span(span)
            yield aligned(span.offset + span.length) - position, problems
            position = aligned(span.offset + span.length)
        problems = self._examine_padding("index", self._source.read(self._index_end, -self._index_end % ALIGNMENT))
        yield self.size - position, problems

    def _examine_header(self) -> list[CorruptFileError]:
        try:
            check_header(self._source.read(0, HEADER.size))
        except CorruptFileError as error:
            return [error]
        except InputError as error:
            return [CorruptFileError("header", str(error))]
        return []

    def _examine_span(self, span: _Span) -> list[CorruptFileError]:
        block = self._source.read(span.offset, aligned(span.offset + span.length) - span.offset)
        problems = self._examine_padding(span.where, block[span.length :])
        if xxhash.xxh3_64_hexdigest(block[: span.length]) != span.checksum:
            problems.insert(0, _mismatch(span))
        elif span.where == _GRAPH and self.index.graph is not None:
            try:
                decompress(block[: span.length], self.index.graph.plain_length, _GRAPH)
            except CorruptFileError as error:
                problems.insert(0, error)
        self._source.release(span.offset, span.length)
        return problems

    @staticmethod
    def _examine_padding(where: str, padding: memoryview) -> list[CorruptFileError]:
        if not any(padding):
            return []
        return [
            CorruptFileError(f"padding after {where}", "not zero; the contents are sound, but fetch the file again")
        ]


def _mismatch(span: _Span) -> CorruptFileError:
    stop = span.offset + span.length
    return CorruptFileError(
        span.where, f"checksum mismatch: bytes {span.offset} to {stop} of the file are damaged; fetch it again"
    )
