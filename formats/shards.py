"""Models in several .wcodec files with a JSON index that tells which tensor is in which. SPEC.md is normative."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self
from urllib.parse import quote

import msgspec

from wcodec.errors import CorruptFileError, InputError, UnsupportedError, UsageError
from wcodec.formats.atomic import AtomicGroup
from wcodec.formats.container import ContainerReader, ContainerWriter
from wcodec.formats.index import Chunk, Natural, check_name, presentable
from wcodec.formats.source import Bytes, open_source

SUFFIX = ".wcodec"
INDEX_SUFFIX = ".wcodec.index.json"
VERSION = 1
MAX_SHARD_INDEX_BYTES = 1 << 26
MAX_FILE_NAME_BYTES = 255

_FILE_NAME = re.compile(r"[^./\\:\x00-\x1f\x7f-\x9f][^/\\:\x00-\x1f\x7f-\x9f]*\.wcodec")


class ShardFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One .wcodec file of the set: its plain file name, its length in bytes and the digest in its index."""

    file: str
    length: Natural
    digest: str


class ShardIndex(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The JSON file of a set. `weight_map` gives every tensor's file; `ties` are as in a file's own index."""

    format: Literal["wcodec"]
    version: Natural
    shards: tuple[ShardFile, ...]
    weight_map: dict[str, str]
    ties: tuple[tuple[str, str], ...] = ()


class _Claim(msgspec.Struct):
    """What every version of the JSON file says about itself."""

    format: Literal["wcodec"]
    version: Natural


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a path or URL names an archive, or the JSON index of a set."""
    return os.fspath(path).partition("?")[0].endswith((SUFFIX, INDEX_SUFFIX))


def index_path(path: str | os.PathLike[str]) -> str:
    """The path of the JSON index of the set called `path`, "name.wcodec"."""
    return os.fspath(path).removesuffix(SUFFIX) + INDEX_SUFFIX


@contextlib.contextmanager
def sharded_writer(path: str | os.PathLike[str], limit: int) -> Iterator[ShardedWriter]:
    """A writer of the set called `path`, "name.wcodec": name-00001-of-000NN.wcodec and name.wcodec.index.json.

    All files appear together when the block ends without an exception, the JSON index last. A file is closed
    after the tensor with which it reaches `limit` bytes. Raises `UsageError` and `OutputError`.
    """
    with AtomicGroup(index_path(path)) as group:
        yield ShardedWriter(group, group.target_name.removesuffix(INDEX_SUFFIX), limit)


class ShardedWriter:
    """Has the methods of `ContainerWriter`, and begins a new file when the limit is reached. No tensor is split.

    The last file holds the graph, metadata and fidelity report; ties stand in the JSON index.
    """

    def __init__(self, group: AtomicGroup, stem: str, limit: int) -> None:
        if limit < 1:
            raise UsageError(f"a shard size of {limit} bytes is none; give a positive one")
        if not _is_file_name(_shard_name(stem, 0, 1)):
            raise UsageError(f"{stem!r} cannot name shards; choose a short name without ':', '\\' or a leading dot")
        self._group = group
        self._stem = stem
        self._limit = limit
        self._done: list[tuple[BinaryIO, int, str]] = []
        self._shard_of: dict[str, int] = {}
        self._graph: bytes | None = None
        self._tensor_ended = False
        self._begin()

    def add_side(self, payload: Bytes) -> Chunk:
        """Write the side information of the next tensor, before its chunks."""
        return self._writer_of_tensor().add_side(payload)

    def add_chunk(self, payload: Bytes, rows: int) -> Chunk:
        """Write the next `rows` rows of the next tensor."""
        return self._writer_of_tensor().add_chunk(payload, rows)

    def add_tensor(self, name: str, dtype: str, shape: tuple[int, ...], *, row_axes: int, recipe: object) -> None:
        """Name the tensor whose chunks were just written."""
        writer = self._writer_of_tensor()
        if name in self._shard_of:
            raise UsageError(f"cannot store tensor {name!r}: two tensors have the same name")
        writer.add_tensor(name, dtype, shape, row_axes=row_axes, recipe=recipe)
        self._shard_of[name] = len(self._done)
        self._tensor_ended = True

    def set_graph(self, graph: bytes) -> None:
        """Give the graph, which `finish` will write; at any time before."""
        self._graph = graph

    def finish(
        self,
        *,
        metadata: Mapping[str, str] | None = None,
        ties: Mapping[str, str] | None = None,
        fidelity: Mapping[str, object] | None = None,
    ) -> ShardIndex:
        """Write what comes last, decide the files' names, and return the JSON index."""
        if self._graph is not None:
            self._writer.set_graph(self._graph)
        self._end(metadata, fidelity)
        names = [_shard_name(self._stem, number, len(self._done)) for number in range(len(self._done))]
        index = ShardIndex(
            format="wcodec",
            version=VERSION,
            shards=tuple(
                ShardFile(name, length, digest) for name, (_, length, digest) in zip(names, self._done, strict=True)
            ),
            weight_map={name: names[shard] for name, shard in self._shard_of.items()},
            ties=tuple((ties or {}).items()),
        )
        try:
            text = msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n"
            parse_shard_index(text)
        except (CorruptFileError, UnicodeEncodeError) as error:
            raise UsageError(f"cannot store this model: {error}; change its names") from error
        for name, (stream, _, _) in zip(names, self._done, strict=True):
            self._group.place(stream, name)
        stream = self._group.create()
        stream.write(text)
        self._group.place(stream, self._stem + INDEX_SUFFIX)
        return index

    def _writer_of_tensor(self) -> ContainerWriter:
        if self._tensor_ended and self._writer.position >= self._limit:
            self._end(None, None)
            self._begin()
        self._tensor_ended = False
        return self._writer

    def _begin(self) -> None:
        self._stream = self._group.create()
        self._writer = ContainerWriter(self._stream)

    def _end(self, metadata: Mapping[str, str] | None, fidelity: Mapping[str, object] | None) -> None:
        index = self._writer.finish(metadata=metadata, fidelity=fidelity)
        self._group.close(self._stream)
        self._done.append((self._stream, self._writer.position, index.digest))


class ShardedReader:
    """An open set: its JSON index, and its files, each opened when first asked for and held against the index.

    Safe to use from several threads. Errors are those of `ContainerReader` and name the file.
    """

    def __init__(self, target: str | os.PathLike[str]) -> None:
        self._target = os.fspath(target)
        source = open_source(target)
        try:
            self.index = parse_shard_index(source.read(0, min(source.size, MAX_SHARD_INDEX_BYTES + 1)))
        finally:
            source.close()
        self._shards = {shard.file: shard for shard in self.index.shards}
        self._names: dict[str, set[str]] = {file: set() for file in self._shards}
        for name, file in self.index.weight_map.items():
            self._names[file].add(name)
        self._readers: dict[str, ContainerReader] = {}
        self._lock = threading.Lock()
        self._failures: dict[str, InputError] = {}
        self._closed = False

    @property
    def size(self) -> int:
        """Length in bytes of all .wcodec files."""
        return sum(shard.length for shard in self.index.shards)

    def container(self, file: str) -> ContainerReader:
        """The open file called `file`, one of the index's shards."""
        with self._lock:
            if self._closed:
                raise UsageError("the set is closed; open it again")
            if file in self._failures:
                raise self._failures[file]
            if file not in self._readers:
                try:
                    self._readers[file] = self._open(self._shards[file])
                except UsageError as error:
                    problem = f"a file of the set cannot be opened ({error}); fetch it"
                    self._failures[file] = CorruptFileError(file, problem)
                    raise self._failures[file] from error
            return self._readers[file]

    def verify(self, progress: Callable[[int], None] | None = None) -> list[InputError]:
        """Check every byte of every file and return all damage found; `progress` as in `ContainerReader.verify`."""
        problems: list[InputError] = []
        for shard in self.index.shards:
            try:
                reader = self.container(shard.file)
            except InputError as error:
                problems.append(error)
                if progress is not None:
                    progress(shard.length)
                continue
            problems.extend(reader.verify(progress))
        return problems

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            self._closed = True
            for reader in self._readers.values():
                reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, shard: ShardFile) -> ContainerReader:
        reader = ContainerReader(open_source(_beside(self._target, shard.file)), shard.file)
        if reader.size != shard.length or reader.index.digest != shard.digest:
            problem = "is not the file that the JSON index describes; fetch the set again"
        elif {entry.name for entry in reader.index.tensors} != self._names[shard.file] or reader.index.ties:
            problem = "its tensors are not those the JSON index gives; fetch the set again"
        else:
            return reader
        reader.close()
        raise CorruptFileError(f"{shard.file}: index", problem)


def parse_shard_index(data: Bytes) -> ShardIndex:
    """The JSON index of a set, every rule of SPEC.md checked; `CorruptFileError` or `UnsupportedError` if broken."""
    if len(data) > MAX_SHARD_INDEX_BYTES:
        raise _broken(f"more than {MAX_SHARD_INDEX_BYTES} bytes")
    try:
        claim = msgspec.json.decode(data, type=_Claim)
        if claim.version != VERSION:
            raise UnsupportedError(
                f"the shards' index is of version {claim.version}, this reader knows version {VERSION}; upgrade wcodec"
            )
        index = msgspec.json.decode(data, type=ShardIndex)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(presentable(error)) from error
    check_shard_index(index)
    return index


def check_shard_index(index: ShardIndex) -> None:
    """Hold a JSON index against every rule between its fields."""
    files = {shard.file for shard in index.shards}
    if not files or len(files) != len(index.shards):
        raise _broken("no shards, or a shard twice")
    for file in files:
        if not _is_file_name(file):
            raise _broken(f"{file[:80]!r} is not the plain name of a {SUFFIX} file")
    if not files.issuperset(index.weight_map.values()):
        raise _broken("a tensor is in a file that is not among the shards")
    tied = {name for name, _ in index.ties}
    if len(tied) != len(index.ties) or tied & index.weight_map.keys():
        raise _broken("two tensors have the same name")
    for name in (*index.weight_map, *tied):
        check_name(name)
    for name, target in index.ties:
        if target not in index.weight_map:
            raise _broken(f"{name!r} is tied to {target[:80]!r}, which is not a tensor of the set")


def _shard_name(stem: str, number: int, count: int) -> str:
    return f"{stem}-{number + 1:05d}-of-{count:05d}{SUFFIX}"


def _is_file_name(file: str) -> bool:
    """Whether `file` names a file in the index's own folder, on every system."""
    return _FILE_NAME.fullmatch(file) is not None and len(file.encode()) <= MAX_FILE_NAME_BYTES


def _beside(target: str, file: str) -> str:
    """The path or URL of `file` in the folder of `target`."""
    if "://" not in target:
        return str(Path(target).parent / file)
    if not target.startswith(("http://", "https://")):
        return target.rpartition("/")[0] + "/" + file
    address, mark, query = target.partition("?")
    return address.rpartition("/")[0] + "/" + quote(file) + mark + query


def _broken(problem: str) -> CorruptFileError:
    return CorruptFileError("shard index", problem)
