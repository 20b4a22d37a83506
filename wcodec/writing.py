"""Where an archive is written to: a file that appears when it is whole, a set of shards, or a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOBase
from pathlib import Path
from typing import BinaryIO

from wcodec.errors import OutputError, UsageError
from wcodec.formats.atomic import atomic_file
from wcodec.formats.container import ContainerWriter
from wcodec.formats.shards import SUFFIX, ShardedWriter, index_path, sharded_writer

Destination = str | os.PathLike[str] | BinaryIO
Writer = ContainerWriter | ShardedWriter


@contextmanager
def archive_writer(destination: Destination, shard_size: int | None = None) -> Iterator[Writer]:
    """A writer to a path, or to a binary stream that is only appended to, such as a pipe."""
    if isinstance(destination, str | os.PathLike):
        _check_suffix(destination)
        if shard_size is not None:
            with sharded_writer(destination, shard_size) as writer:
                yield writer
        else:
            with atomic_file(destination) as stream:
                yield ContainerWriter(stream)
        return
    if isinstance(destination, TextIOBase):
        raise UsageError("an archive is written to a binary stream, not one of text; open it with 'wb'")
    if shard_size is not None:
        raise UsageError("shards are several files, which a stream cannot hold; give a path")
    try:
        yield ContainerWriter(destination)
        destination.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to the stream: {error.strerror or error}") from error


def _check_suffix(path: str | os.PathLike[str]) -> None:
    if "://" in os.fspath(path):
        raise UsageError(f"{os.fspath(path)}: archives are written to local files; upload one after")
    if not os.fspath(path).endswith(SUFFIX):
        raise UsageError(f"{os.fspath(path)}: an archive's name ends in {SUFFIX}")


def check_different(source: object, target: object, shard_size: int | None = None) -> None:
    """`UsageError` where a file would be read and replaced at once."""
    if not (isinstance(source, str | os.PathLike) and isinstance(target, str | os.PathLike)):
        return
    written = target if shard_size is None else index_path(target)
    same = False
    with suppress(OSError, ValueError):
        same = Path(source).samefile(written)
    if same:
        raise UsageError(f"{os.fspath(written)}: source and target are the same file; give another target")
