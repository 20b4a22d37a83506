"""Arrays that can only be had whole, kept for the reads that follow."""

from __future__ import annotations

import threading
from collections.abc import Callable

from wcodec.model import Array


class LastArray:
    """The array made last. There is one at a time, so that memory is bounded by the largest tensor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: str | None = None
        self._array: Array | None = None

    def get(self, key: str, make: Callable[[], Array]) -> Array:
        """The array of `key`, by calling `make` unless it is the one made last."""
        with self._lock:
            if self._array is None or self._key != key:
                self._array = None
                self._array = make()
                self._key = key
            return self._array
