"""An opened .wcodec file: its tensors by name, and whether it is sound."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

from wcodec.archived import ArchivedTensor
from wcodec.engine import Engine, engine_for
from wcodec.errors import InputError, UsageError
from wcodec.formats.container import ContainerReader
from wcodec.formats.index import TensorEntry, parse_object
from wcodec.formats.layout import VERSION
from wcodec.formats.shards import INDEX_SUFFIX, ShardedReader, index_path
from wcodec.formats.source import Target, open_source
from wcodec.model import Array, Model
from wcodec.recipe import Recipe
from wcodec.workers import Workers, worker_count

_ONLY = ""
"""Stands for the name of the file where an archive is only one."""


class Archive(Mapping[str, Array]):
    """A mapping of names to NumPy arrays, each decoded when it is asked for; `tensor(name)` decodes rows only.

    Tied names are names like any other. Opened by `open_archive`; use it as a context manager, or call `close`.
    """

    def __init__(self, reader: ContainerReader | ShardedReader, workers: int | None = None) -> None:
        self.workers = worker_count(workers)
        """How many threads decode."""
        self._reader = reader
        self._lock = threading.Lock()
        self._pool: Workers | None = None
        self._closed = False
        self._tables: dict[str, dict[str, TensorEntry]] = {}
        self._recipes: dict[tuple[str, int], Recipe] = {}
        if isinstance(reader, ShardedReader):
            self._file_of = dict(reader.index.weight_map)
        else:
            self._file_of = {entry.name: _ONLY for entry in reader.index.tensors}
        self.ties: dict[str, str] = dict(reader.index.ties)
        """Names that share the values of another tensor, which is named."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<Archive of {len(self)} tensors in {self.file_bytes:,} bytes>"

    def __len__(self) -> int:
        return len(self._file_of) + len(self.ties)

    def __iter__(self) -> Iterator[str]:
        yield from self._file_of
        yield from self.ties

    def __contains__(self, name: object) -> bool:
        return name in self._file_of or name in self.ties

    def __getitem__(self, name: str) -> Array:
        """The decoded tensor; `KeyError` for a name that is not in the archive."""
        return self.tensor(name).array()

    def tensor(self, name: str) -> ArchivedTensor:
        """A tensor not yet decoded; `KeyError` for a name that is not in the archive."""
        stored_name = self.ties.get(name, name)
        file = self._file_of[stored_name]
        if file not in self._tables:
            self._tables[file] = {entry.name: entry for entry in self._container(file).index.tensors}
        entry = self._tables[file][stored_name]
        recipe = partial(self._recipe, file, entry.recipe)
        return ArchivedTensor(name, entry, self._container(file), recipe, self._engine, self.run)

    def tensors(self) -> list[ArchivedTensor]:
        """Every tensor, in order, tied ones once."""
        return [self.tensor(name) for name in self._file_of]

    def stored_names(self) -> list[str]:
        """The names of all tensors but tied ones, in order."""
        return list(self._file_of)

    @property
    def version(self) -> int:
        """Version of the format the archive is written in."""
        return VERSION

    @property
    def has_graph(self) -> bool:
        """Whether the archive holds the model's graph, and so can be decoded to ONNX."""
        return self._last().index.graph is not None

    @property
    def file_bytes(self) -> int:
        """Length of the file, or of all shards together."""
        return self._reader.size

    @property
    def digests(self) -> list[str]:
        """The digest of the file, or of every shard: XXH3-128 over the checksums of its chunks, in hexadecimal."""
        if isinstance(self._reader, ShardedReader):
            return [shard.digest for shard in self._reader.index.shards]
        return [self._reader.index.digest]

    @property
    def metadata(self) -> dict[str, str]:
        """The source's own string map, with what was added when it was encoded."""
        return self._last().index.metadata

    @property
    def fidelity(self) -> dict[str, Any] | None:
        """The report of how far the decoded model is from its original, if one was made when it was encoded."""
        stored = self._last().index.fidelity
        return parse_object(stored, "fidelity report") if stored else None

    def graph(self) -> bytes | None:
        """The ONNX graph without weights, or None."""
        return self._last().graph()

    def model(self, *, with_graph: bool = True) -> Model:
        """The archive as a model, decoded while it is being written; the archive must stay open."""
        tensors = [tensor.as_tensor() for tensor in self.tensors()]
        graph = self.graph() if with_graph else None
        return Model(tensors, ties=self.ties, graph=graph, metadata=self.metadata)

    def check_bytes(self, progress: Callable[[int], None]) -> list[InputError]:
        """All damage that checksums and padding show, in file order; `progress` is told of bytes done."""
        return [*self._reader.verify(progress)]

    def run(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """`map` over the archive's own threads, which start when there is more than one item."""
        items = list(items)
        with self._lock:
            if self._closed:
                raise UsageError("the archive is closed; open it again")
            if len(items) < 2 or self.workers == 1:
                return map(work, items)
            if self._pool is None:
                self._pool = Workers(self.workers)
            results = self._pool.map(work, items)
        return _unless_closed(results)

    def close(self) -> None:
        """Let go of the files and threads. Arrays already decoded stay valid."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _container(self, file: str) -> ContainerReader:
        return self._reader.container(file) if isinstance(self._reader, ShardedReader) else self._reader

    def _last(self) -> ContainerReader:
        """The file that speaks for the whole model."""
        return self._container(self._reader.index.shards[-1].file if isinstance(self._reader, ShardedReader) else _ONLY)

    def _engine(self) -> Engine:
        return engine_for(sum(tensor.size for tensor in self.tensors()))

    def _recipe(self, file: str, number: int) -> Recipe:
        if (file, number) not in self._recipes:
            container = self._container(file)
            where = container.place(f"index, recipe {number}")
            stored = parse_object(container.index.recipes[number], where)
            self._recipes[file, number] = Recipe.from_json(stored, where)
        return self._recipes[file, number]


def _unless_closed(results: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from results
    except CancelledError as error:
        raise UsageError("the archive was closed while it was read; open it again") from error


def open_archive(target: Target, *, workers: int | None = None) -> Archive:
    """Open an archive from a path, a URL, bytes or a seekable binary file, without decoding anything.

    The path may be that of a sharded archive's `.wcodec.index.json`. `workers` is how many threads decode, None
    meaning one a core. Raises `UsageError` where there is no such file, `CorruptFileError` where it is not a sound
    archive, `UnsupportedError` for one of a newer version.
    """
    worker_count(workers)
    if not isinstance(target, str | os.PathLike):
        return Archive(ContainerReader(open_source(target)), workers)
    path = os.fspath(target)
    if path.partition("?")[0].endswith(INDEX_SUFFIX):
        return Archive(ShardedReader(path), workers)
    # not Path.exists, which raises for a name that no file can have
    if not os.path.exists(path) and os.path.exists(index_path(path)):  # noqa: PTH110
        raise UsageError(f"{path}: is in shards; open {index_path(path)}")
    source = open_source(path)
    return Archive(ContainerReader(source, source.name), workers)


@contextmanager
def opened(source: Target | Archive, workers: int | None) -> Iterator[Archive]:
    """The archive itself, which has its own workers, or one opened for the block; `UsageError` for both at once."""
    if not isinstance(source, Archive):
        with open_archive(source, workers=workers) as archive:
            yield archive
    elif workers is not None:
        raise UsageError("an open archive has workers already; name them when it is opened")
    else:
        yield source
