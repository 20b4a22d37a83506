"""Reading a part of a source from front to back in small steps."""

from __future__ import annotations

from wcodec.errors import CorruptFileError
from wcodec.formats.source import ByteSource

_WINDOW = 1 << 16


class Cursor:
    """A position that moves from `start` to `stop` in a source.

    A window is read ahead, so that many small steps cost few reads. Steps beyond `stop` raise `CorruptFileError`,
    with `where` naming the part of the file, before anything is read or allocated.
    """

    def __init__(self, source: ByteSource, start: int, stop: int, where: str) -> None:
        self.position = start
        self.where = where
        self._source = source
        self._stop = stop
        self._window = b""
        self._base = start

    @property
    def remaining(self) -> int:
        return self._stop - self.position

    def skip(self, count: int) -> None:
        """Move on by `count` bytes without reading them."""
        if not 0 <= count <= self.remaining:
            raise CorruptFileError(
                self.where, f"{count} bytes are needed from byte {self.position} on, but it ends at byte {self._stop}"
            )
        self.position += count

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        start = self.position
        self.skip(count)
        if count > _WINDOW:
            return bytes(self._source.read(start, count))
        if not (self._base <= start and self.position <= self._base + len(self._window)):
            self._base = start
            self._window = bytes(self._source.read(start, min(_WINDOW, self._stop - start)))
        return self._window[start - self._base : self.position - self._base]

    def line(self) -> bytes:
        """The bytes up to the next line feed, which is passed but not returned."""
        found = bytearray()
        while (byte := self.take(1)) != b"\n":
            found += byte
        return bytes(found)
