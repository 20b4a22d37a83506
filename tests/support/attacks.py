"""What tables of attacks are made of: changes of JSON objects, and a bound on what refusing them may take."""

from __future__ import annotations

import gc
import signal
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Json = dict[str, Any]


@contextmanager
def bounded(megabytes: float = 4) -> Iterator[None]:
    """Fails when the block takes a second of processor time, or more memory than that at any moment."""

    def too_long(*_: object) -> None:
        raise AssertionError("took more than a second of processor time")

    gc.collect()
    before = signal.signal(signal.SIGPROF, too_long)
    tracemalloc.start()
    signal.setitimer(signal.ITIMER_PROF, 1)
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        tracemalloc.stop()
        signal.signal(signal.SIGPROF, before)
    assert peak < megabytes * 2**20


def put(*path: Any) -> Callable[[Json], None]:
    """Sets the element of the index at path[:-1] to path[-1]."""

    def change(index: Json) -> None:
        place: Any = index
        for step in path[:-2]:
            place = place[step]
        place[path[-2]] = path[-1]

    return change


def extend(*path: Any) -> Callable[[Json], None]:
    """Appends path[-1] to the array of the index at path[:-1]."""

    def change(index: Json) -> None:
        place: Any = index
        for step in path[:-1]:
            place = place[step]
        place.append(path[-1])

    return change


def deep(opening: bytes, closing: bytes, levels: int = 20_000) -> bytes:
    return opening * levels + closing * levels


def is_presentable(error: Exception) -> bool:
    """Whether an error's message is one line that does a terminal no harm, whatever the file held."""
    return len(str(error)) < 500 and not any(unicodedata.category(character) == "Cc" for character in str(error))
