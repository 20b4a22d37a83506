"""The index of a .wcodec file: its records, and the rules that hold between them.

Reading trusts nothing: `parse_index` refuses every index that breaks a rule of SPEC.md, and the writer applies
the same rules to what it is asked to write.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

import msgspec
import xxhash
import zstandard

from wcodec.errors import CorruptFileError
from wcodec.formats.layout import HEADER, aligned
from wcodec.model import DTYPES

MAX_INDEX_PLAIN = 1 << 26
MAX_INDEX_RATIO = 16
MAX_INDEX_OBJECTS = 1 << 18
MAX_GRAPH_PLAIN = 1 << 31
MAX_GRAPH_RATIO = 1024
RATIO_SLACK = 1 << 18
MAX_NAME_BYTES = 4096
MAX_DIMENSIONS = 32
MAX_TENSOR_ELEMENTS = 1 << 48
MAX_CHUNK_ELEMENTS = 1 << 24
MAX_CHUNK_BYTES = 1 << 29
MAX_INTEGER = (1 << 62) - 1

Natural = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]

NO_REPORT = msgspec.Raw()
"""The fidelity report of a file that has none."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class Chunk(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    """A payload: where its bytes are, how many rows of the tensor it holds, and its XXH3-64 in hexadecimal.

    Side information is a chunk of 0 rows.
    """

    offset: Natural
    length: Natural
    rows: Natural
    checksum: str


class TensorEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A tensor, seen as prod(shape[:row_axes]) rows of prod(shape[row_axes:]) elements, in chunks of whole rows."""

    name: str
    dtype: str
    shape: tuple[Natural, ...]
    row_axes: Natural
    recipe: Natural
    side: Chunk | None
    chunks: tuple[Chunk, ...]


class GraphEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Where the zstd-compressed graph is, how long it is without compression, and the stored bytes' XXH3-64."""

    offset: Natural
    length: Natural
    plain_length: Natural
    checksum: str


class Index(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Everything a file says about itself. `recipes` and `fidelity` are JSON objects, left to others to read.

    `ties` are pairs (name, name of the tensor whose values it shares). `digest` is the XXH3-128 of all chunk
    checksums in file order. `fidelity` is `NO_REPORT` where the file has none.
    """

    tensors: tuple[TensorEntry, ...]
    digest: str
    recipes: tuple[msgspec.Raw, ...] = ()
    metadata: dict[str, str] = {}
    ties: tuple[tuple[str, str], ...] = ()
    graph: GraphEntry | None = None
    fidelity: msgspec.Raw = NO_REPORT


def parse_index(data: memoryview, plain_length: int, checksum: int, end: int) -> Index:
    """The index, from the bytes stored at byte `end` of the file; `CorruptFileError` if it breaks a rule."""
    if checksum != xxhash.xxh3_64_intdigest(data):
        raise CorruptFileError("index", "checksum mismatch: its bytes are damaged; fetch the file again")
    if not 0 < plain_length <= min(MAX_INDEX_PLAIN, RATIO_SLACK + MAX_INDEX_RATIO * len(data)):
        raise _broken(f"{plain_length} bytes out of {len(data)} are more than the format allows")
    plain = decompress(data, plain_length, "index")
    if plain.count(b"{") > MAX_INDEX_OBJECTS:
        raise _broken(f"more than {MAX_INDEX_OBJECTS} opening braces")
    try:
        index = msgspec.json.decode(plain, type=Index)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(presentable(error)) from error
    check_index(index, end)
    return index


def parse_object(data: msgspec.Raw, where: str) -> dict[str, Any]:
    """A recipe or the fidelity report of an index as Python objects; `CorruptFileError` at `where` if it is none.

    Opening a file finds where these objects begin and end, and leaves what is in them to this.
    """
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFileError(where, presentable(error)) from error


def decompress(data: memoryview, plain_length: int, where: str) -> bytes:
    """The contents of exactly one zstd frame that declares `plain_length` bytes; nothing larger is ever allocated."""
    try:
        if zstandard.frame_content_size(data) != plain_length:
            raise CorruptFileError(where, f"the compressed bytes do not hold the {plain_length} bytes declared")
        plain = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptFileError(where, f"cannot be decompressed: {error}") from error
    if len(plain) != plain_length:
        raise CorruptFileError(where, f"the compressed bytes do not hold the {plain_length} bytes declared")
    return plain


def check_index(index: Index, end: int) -> None:
    """Hold an index that begins at byte `end` of its file against every rule between its fields."""
    if any(bytes(recipe)[:1] != b"{" for recipe in index.recipes):
        raise _broken("a recipe is not a JSON object")
    if bytes(index.fidelity)[:1] not in (b"{", b""):
        raise _broken("the fidelity report is not a JSON object")
    position = HEADER.size
    recipes = len(index.recipes)
    checksums: list[str] = []
    for entry in index.tensors:
        position = check_tensor(entry, recipes, position)
        if entry.side is not None:
            checksums.append(entry.side.checksum)
        checksums.extend([chunk.checksum for chunk in entry.chunks])
    if digest(checksums) != index.digest:
        raise _broken("the digest is not that of the chunks' checksums")
    if index.graph is not None:
        position = check_graph(index.graph, position)
    if position != end:
        raise _broken(f"the payloads end at byte {position}, but the index begins at byte {end}")
    _check_names(index)


def check_tensor(entry: TensorEntry, recipes: int, position: int) -> int:
    """Check a tensor whose payloads begin at byte `position`, and return where the next payload begins.

    `recipes` is how many recipes there are to refer to.
    """
    rows, row_size = _rows_of(entry)
    if entry.recipe >= recipes:
        raise _wrong(entry, f"recipe {entry.recipe} is not in the table of {recipes}")
    if entry.side is not None:
        if entry.side.rows or not entry.chunks:
            raise _wrong(entry, "side information must have no rows of its own, and chunks to serve")
        position = _check_payload(entry.side, position, entry.name)
    covered = 0
    for chunk in entry.chunks:
        if not 1 <= chunk.rows * row_size <= MAX_CHUNK_ELEMENTS:
            raise _wrong(
                entry, f"a chunk of {chunk.rows * row_size} elements, where 1 to {MAX_CHUNK_ELEMENTS} are allowed"
            )
        covered += chunk.rows
        position = _check_payload(chunk, position, entry.name)
    if covered != (rows if row_size else 0):
        raise _wrong(entry, f"the chunks hold {covered} of {rows} rows")
    return position


def _rows_of(entry: TensorEntry) -> tuple[int, int]:
    """The number of rows and elements in a row, after the name, dtype and shape they rest on were found right."""
    check_name(entry.name)
    if entry.dtype not in DTYPES:
        raise _wrong(entry, f"unknown dtype {entry.dtype[:40]!r}")
    shape, axes = entry.shape, entry.row_axes
    if len(shape) > MAX_DIMENSIONS:
        raise _wrong(entry, f"{len(shape)} dimensions are more than {MAX_DIMENSIONS}")
    if axes > len(shape) or (axes == 0) != (not shape):
        raise _wrong(entry, f"{axes} row axes do not fit {len(shape)} dimensions")
    rows, row_size = math.prod(shape[:axes]), math.prod(shape[axes:])
    # Zero-element shapes are capped by their other sides, so that no reader's shape arithmetic can overflow.
    if (rows * row_size or math.prod([side or 1 for side in shape])) > MAX_TENSOR_ELEMENTS:
        raise _wrong(entry, f"more than {MAX_TENSOR_ELEMENTS} elements")
    return rows, row_size


def check_graph(entry: GraphEntry, position: int) -> int:
    """Check the graph's place, which must be byte `position`, and its sizes; returns where the index begins."""
    if not 0 < entry.plain_length <= min(MAX_GRAPH_PLAIN, RATIO_SLACK + MAX_GRAPH_RATIO * entry.length):
        raise _broken(f"a graph of {entry.plain_length} bytes out of {entry.length} is more than the format allows")
    _joined([entry.checksum])
    if entry.offset != position or entry.length == 0:
        raise _broken(f"the graph is at byte {entry.offset}, where byte {position} was to follow")
    return aligned(position + entry.length)


def check_name(name: str) -> None:
    """Refuse a tensor name that is empty, too long or holds control characters. Names like paths are allowed."""
    if name.isascii() and name.isprintable() and 1 <= len(name) <= MAX_NAME_BYTES:
        return
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise _broken(f"the tensor name {name!r} is not valid Unicode") from error
    if not 1 <= length <= MAX_NAME_BYTES:
        raise _broken(f"a tensor's name has {length} bytes, where 1 to {MAX_NAME_BYTES} are allowed")
    if _CONTROL.search(name):
        raise _broken(f"the tensor name {name!r} holds control characters")


def presentable(error: Exception) -> str:
    """The message of an error about hostile text, which it may quote, on one short line."""
    return _CONTROL.sub("?", str(error))[:200]


def digest(checksums: list[str]) -> str:
    """XXH3-128, in hexadecimal, of checksums one after the other, 8 bytes each."""
    return xxhash.xxh3_128_hexdigest(_joined(checksums))


def _joined(checksums: list[str]) -> bytes:
    """The bytes of checksums, each of which must be 16 lower-case hexadecimal digits."""
    text = "".join(checksums)
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if data.hex() != text or any(len(checksum) != 16 for checksum in checksums):
        raise _broken("a checksum is not 16 lower-case hexadecimal digits")
    return data


def _check_payload(chunk: Chunk, position: int, name: str) -> int:
    if chunk.offset != position:
        raise CorruptFileError(
            f"index, tensor {name!r}", f"a chunk at byte {chunk.offset}, where byte {position} was to follow"
        )
    if not 1 <= chunk.length <= MAX_CHUNK_BYTES:
        raise CorruptFileError(
            f"index, tensor {name!r}", f"a chunk of {chunk.length} bytes, where 1 to {MAX_CHUNK_BYTES} are allowed"
        )
    return aligned(position + chunk.length)


def _check_names(index: Index) -> None:
    targets = {entry.name for entry in index.tensors}
    names = targets.union(name for name, _ in index.ties)
    if len(names) != len(index.tensors) + len(index.ties):
        raise _broken("two tensors have the same name")
    for name, target in index.ties:
        check_name(name)
        if target not in targets:
            raise _broken(f"{name!r} is tied to {target[:80]!r}, which is not a tensor of the file")


def _wrong(entry: TensorEntry, problem: str) -> CorruptFileError:
    return CorruptFileError(f"index, tensor {entry.name!r}", problem)


def _broken(problem: str) -> CorruptFileError:
    return CorruptFileError("index", problem)
