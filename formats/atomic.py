"""Files that appear whole or not at all: written beside the target, synced, and renamed over it at the end."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

from wcodec.errors import OutputError, WcodecError

_BUFFER = 1 << 20

_ADVICE = {
    errno.ENOENT: "its folder does not exist; create it first",
    errno.ENOTDIR: "its folder is not a folder; choose another target",
    errno.EISDIR: "it is a directory; give the name of a file",
    errno.EACCES: "permission denied; choose a target you may write",
    errno.EPERM: "permission denied; choose a target you may write",
    errno.EROFS: "the file system is read-only; choose another target",
    errno.ENOSPC: "the disk is full; free some space and try again",
    errno.EDQUOT: "the disk quota is used up; free some space and try again",
    errno.EFBIG: "the file grew larger than is allowed here; choose another disk or raise the limit",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A stream whose bytes become the file at `path` when the block ends without an exception.

    Links are followed, and the new file has the permissions of the one it replaces, or those a plain `open`
    would give. If the block fails or is interrupted, no temporary file remains and the old file is untouched.
    Raises `OutputError` if the target cannot be written; an `OSError` of the block that names no other file
    counts as that.
    """
    with AtomicGroup(os.path.realpath(path) if os.path.islink(path) else path) as group:
        stream = group.create()
        yield stream
        group.place(stream, group.target_name)


@dataclass(eq=False)
class _Pending:
    """A temporary file on its way to `final`, which is None as long as no name was decided."""

    temporary: str
    stream: BinaryIO | None = None
    final: str | None = None
    mode: int | None = None


class AtomicGroup:
    """Several files of one folder that appear together when the `with` block ends without an exception.

    All are written to temporaries in the folder of `path` and renamed at the end, in the order they were placed,
    so that the one that refers to the others comes last. A temporary that was never placed is removed.
    Links are replaced, not followed. Errors are those of `atomic_file` and name `path`. Should a rename fail,
    the files before it are in place.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._pending: list[_Pending] = []
        self._placed: list[_Pending] = []
        with self._reporting():
            self._folder, self.target_name = os.path.split(os.path.abspath(self._path))
            if not os.path.basename(self._path):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._mode_of(self.target_name)

    def create(self) -> BinaryIO:
        """A new stream, as yet without a name."""
        pending = _Pending(os.path.join(self._folder, f".wcodec-{secrets.token_hex(8)}.tmp"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        with self._reporting():
            # Listed before it exists, so that an interrupt at any moment finds it.
            self._pending.append(pending)
            pending.stream = os.fdopen(os.open(pending.temporary, flags, 0o666), "wb", _BUFFER)
        return pending.stream

    def close(self, stream: BinaryIO) -> None:
        """Sync and close a stream that has all its bytes; without this the end of the block does it."""
        with self._reporting():
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()

    def place(self, stream: BinaryIO, name: str) -> None:
        """Decide that the file of `stream` will be called `name`, a plain file name in the folder."""
        pending = next(entry for entry in self._pending if entry.stream is stream)
        with self._reporting():
            pending.mode = self._mode_of(name)
        pending.final = os.path.join(self._folder, name)
        self._placed.append(pending)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._commit()
        finally:
            self._remove_temporaries()
        if isinstance(error, OSError) and not isinstance(error, WcodecError) and error.filename is None:
            raise self._output_error(error) from error

    def _commit(self) -> None:
        for pending in self._placed:
            if pending.stream is not None and not pending.stream.closed:
                self.close(pending.stream)
        with self._reporting():
            for pending in self._placed:
                if pending.mode is not None:
                    os.chmod(pending.temporary, pending.mode)
            for pending in self._placed:
                assert pending.final is not None
                os.replace(pending.temporary, pending.final)
        _sync_folder(self._folder)

    def _remove_temporaries(self) -> None:
        for pending in self._pending:
            if pending.stream is not None:
                with contextlib.suppress(OSError):
                    pending.stream.close()
            with contextlib.suppress(OSError):
                os.unlink(pending.temporary)

    def _mode_of(self, name: str) -> int | None:
        """The permissions of the file that `name` will replace, None if there is none; `OSError` if it must stay."""
        path = os.path.join(self._folder, name)
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if not os.access(path, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return stat.S_IMODE(mode)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise self._output_error(error) from error

    def _output_error(self, error: OSError | ValueError) -> OutputError:
        code = error.errno if isinstance(error, OSError) else None
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        advice = _ADVICE.get(code or 0, f"{reason}; choose another target")
        return OutputError(f"cannot write {self._path}: {advice}")


def _sync_folder(folder: str) -> None:
    """Make the renames durable, where the system can: they have happened, so nothing here is an error."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
