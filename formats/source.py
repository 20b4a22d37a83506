"""Where bytes are read from: a mapped file, a file object, memory or a URL, all behind one small face."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import re
import stat
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, BinaryIO, Protocol

from wcodec.errors import CorruptFileError, InputError, MissingDependencyError, UnsupportedError, UsageError

Bytes = bytes | bytearray | memoryview
Target = str | os.PathLike[str] | Bytes | BinaryIO


class ByteSource(Protocol):
    """A fixed number of bytes, readable anywhere, from several threads at once."""

    size: int
    remote: bool
    """Whether a read costs a round trip, so that few large reads beat many small ones."""
    name: str
    """What messages call the source."""

    def read(self, offset: int, length: int) -> memoryview:
        """Exactly `length` bytes; `CorruptFileError` if the source ends before, `InputError` if it fails."""
        ...

    def release(self, offset: int, length: int) -> None:
        """Say that these bytes are not needed again soon, so that the memory behind them may be dropped."""
        ...

    def close(self) -> None:
        """Let go of the source; reading after is a `UsageError`. Bytes already read stay valid."""
        ...


def open_source(target: Target) -> ByteSource:
    """The source fit for a URL (a string with "://"), a path, bytes in memory, or a seekable binary file object."""
    if isinstance(target, str) and "://" in target:
        return UrlSource(target)
    if isinstance(target, str | os.PathLike):
        return MmapSource(target)
    if isinstance(target, Bytes):
        return BytesSource(target)
    return FileSource(target)


class _InMemory:
    """Reading from one buffer: what `BytesSource` and `MmapSource` share."""

    remote = False

    def __init__(self, view: memoryview, name: str) -> None:
        self._view = view
        self.size = view.nbytes
        self.name = name

    def read(self, offset: int, length: int) -> memoryview:
        _check_range(self, offset, length)
        try:
            return self._view[offset : offset + length]
        except ValueError:
            raise _closed(self) from None

    def release(self, offset: int, length: int) -> None:
        pass

    def close(self) -> None:
        self._view.release()


class BytesSource(_InMemory):
    """Bytes in memory; reads are views of them."""

    def __init__(self, data: Bytes) -> None:
        view = memoryview(data)
        super().__init__(view.cast("B").toreadonly() if view.nbytes else memoryview(b""), "the given bytes")


class MmapSource(_InMemory):
    """A file mapped read-only; reads are views of the mapping and copy nothing.

    The file must not be cut short while it is mapped: the system ends a process that reads beyond its end.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        descriptor = _open_regular(path)
        try:
            empty = os.fstat(descriptor).st_size == 0
            self._map = None if empty else mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise InputError(f"{os.fspath(path)}: cannot be mapped: {error}; copy it to a local disk") from error
        finally:
            os.close(descriptor)
        super().__init__(memoryview(b"") if self._map is None else memoryview(self._map), os.fspath(path))

    def release(self, offset: int, length: int) -> None:
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = (offset + length) // mmap.PAGESIZE * mmap.PAGESIZE
        if self._map is not None and hasattr(self._map, "madvise") and start < stop:
            self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def close(self) -> None:
        super().close()
        if self._map is not None:
            # Views still in use keep the mapping alive; it goes with the last of them.
            with contextlib.suppress(BufferError):
                self._map.close()
            self._map = None


class FileSource:
    """A file read piece by piece into fresh memory, given by path or as a seekable binary file object.

    Unlike a mapping it never counts as resident memory. A file object stays the caller's: `close` leaves it open.
    """

    remote = False

    def __init__(self, file: str | os.PathLike[str] | BinaryIO) -> None:
        self._lock = threading.Lock()
        self._file: BinaryIO | None
        if isinstance(file, str | os.PathLike):
            self._owned = True
            self._file = os.fdopen(_open_regular(file), "rb", 0)
            self.name = os.fspath(file)
        else:
            self._owned = False
            self._file = file
            self.name = str(getattr(file, "name", "the given file object"))
        try:
            self._descriptor = _plain_descriptor(self._file)
            self.size = self._file.seek(0, io.SEEK_END)
            if not isinstance(self._file.read(0), bytes):
                raise ValueError("it is opened as text")
        except (AttributeError, OSError, ValueError) as error:
            raise UsageError(f"{self.name}: not a seekable binary file ({error}); open a regular one") from error

    def read(self, offset: int, length: int) -> memoryview:
        _check_range(self, offset, length)
        if self._file is None or self._file.closed:
            raise _closed(self)
        try:
            data = self._read_once(offset, length)
            while len(data) < length:
                more = self._read_once(offset + len(data), length - len(data))
                if not more:
                    raise CorruptFileError(self.name, f"ends at byte {offset + len(data)} of {self.size}")
                data += more
        except (OSError, ValueError) as error:
            raise InputError(f"{self.name}: cannot be read: {error}; check the disk it is on") from error
        return memoryview(data)

    def _read_once(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes: the system reads at most 2 GiB at a time."""
        if self._descriptor is not None:
            return os.pread(self._descriptor, length, offset)
        assert self._file is not None
        with self._lock:
            self._file.seek(offset)
            return self._file.read(length)

    def release(self, offset: int, length: int) -> None:
        pass

    def close(self) -> None:
        if self._file is not None and self._owned:
            self._file.close()
        self._file = None


class UrlSource:
    """Anything fsspec has a file system for; every read is one request for exactly its bytes."""

    remote = True

    def __init__(self, url: str) -> None:
        self.name = _without_secrets(url)
        self._closed = False
        with self._reporting():
            try:
                import fsspec.core

                self._fs, self._path = fsspec.core.url_to_fs(url)
            except ImportError as error:
                package = _extra_of(url)
                raise MissingDependencyError(f'{self.name}: {error}; run: pip install "{package}"') from error
            except ValueError as error:
                raise UsageError(
                    f"{self.name}: {_without_secrets(str(error))}; give a URL that fsspec knows"
                ) from error
            info: dict[str, Any] = self._fs.info(self._path)
        size = info.get("size")
        if info.get("type") == "directory":
            raise UsageError(f"{self.name}: is a directory; give the address of a file")
        if not isinstance(size, int) or size < 0:
            raise UnsupportedError(f"{self.name}: the server does not tell the size; download the file first")
        if not info.get("partial", True):
            raise UnsupportedError(f"{self.name}: the server refuses range requests; download the file first")
        self.size = size

    def read(self, offset: int, length: int) -> memoryview:
        _check_range(self, offset, length)
        if self._closed:
            raise _closed(self)
        if length == 0:
            return memoryview(b"")
        with self._reporting():
            data: bytes = self._fs.cat_file(self._path, start=offset, end=offset + length)
        if len(data) > length:
            raise UnsupportedError(f"{self.name}: the server ignores range requests; download the file first")
        if len(data) < length:
            raise CorruptFileError(self.name, f"ends at byte {offset + len(data)} of {self.size}")
        return memoryview(data)

    def release(self, offset: int, length: int) -> None:
        pass

    def close(self) -> None:
        self._closed = True

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except (InputError, UsageError, MissingDependencyError):
            raise
        except Exception as error:  # every backend of fsspec has exceptions of its own
            # The HTTP backend says "not found" whatever happened, and keeps what did as the cause.
            cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
            if cause is None or getattr(cause, "status", None) == HTTPStatus.NOT_FOUND:
                raise UsageError(f"{self.name}: no such file; check the address") from error
            reason = _without_secrets(" ".join(str(cause).split())) or type(cause).__name__
            raise InputError(f"{self.name}: cannot be read: {reason}; check the address and the network") from error


def _check_range(source: ByteSource, offset: int, length: int) -> None:
    if offset < 0 or length < 0 or offset + length > source.size:
        raise CorruptFileError(
            source.name, f"ends at byte {source.size}, but {length} bytes are needed from byte {offset} on"
        )


def _closed(source: ByteSource) -> UsageError:
    return UsageError(f"{source.name}: already closed; open it again")


def _open_regular(path: str | os.PathLike[str]) -> int:
    """A descriptor of a regular file, or a `UsageError` that says what stands in the way."""
    shown = os.fspath(path)
    try:
        # A pipe without a writer would otherwise be waited for.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{shown}: no such file; check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{shown}: cannot be opened: {reason}; check the path and its permissions") from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise UsageError(f"{shown}: is a directory; give a file")
    raise UsageError(f"{shown}: is not a regular file and cannot be read out of order; save it to a file first")


def _plain_descriptor(file: BinaryIO) -> int | None:
    """The descriptor whose bytes are the file object's own, if there is one and the system can read at an offset.

    Wrappers are left alone: the descriptor of a GzipFile, for one, is that of the compressed file.
    """
    raw = file.raw if isinstance(file, io.BufferedReader) else file
    return raw.fileno() if type(raw) is io.FileIO and hasattr(os, "pread") else None


def _without_secrets(text: str) -> str:
    """A text without the users, passwords and queries of the URLs in it, where keys and signatures stand."""
    return re.sub(r"(?<=://)[^/@\s]*@|\?[^\s'\",)]*", "", text)


def _extra_of(url: str) -> str:
    """What pip installs for the URL's protocol: an extra of fsspec's."""
    protocol = url.partition("://")[0].rpartition("::")[2]
    return f"fsspec[{ {'https': 'http', 's3a': 's3', 'gcs': 'gs', 'az': 'abfs'}.get(protocol, protocol) }]"
