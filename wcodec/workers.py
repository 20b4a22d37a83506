"""Threads over chunks: the coders and NumPy's loops release the GIL."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from wcodec.errors import UsageError

T = TypeVar("T")
U = TypeVar("U")

Runner = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""How work over chunks is run: `map`, or an executor's `map`."""


class Progress(NamedTuple):
    """How far a long operation is: `done` of `total` bytes of tensors, now at the tensor called `name`."""

    name: str
    done: int
    total: int


ProgressCallback = Callable[[Progress], None]


def worker_count(workers: int | None) -> int:
    """How many threads `workers` asks for; None means one for every processor this process may use."""
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers < 1:
        raise UsageError(f"{workers} workers: at least one is needed")
    return workers


class Workers(ThreadPoolExecutor):
    """`count` threads; work not begun when an exception ends the `with` block is dropped."""

    def __init__(self, workers: int | None) -> None:
        self.count = worker_count(workers)
        super().__init__(self.count, thread_name_prefix="wcodec")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(cancel_futures=True)


def ordered(pool: Workers, work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`map` over a pool, in order, with only a few results waiting: the memory of some items, not of all."""
    waiting: deque[Future[U]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > 2 * pool.count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
