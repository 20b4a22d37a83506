"""Threads over chunks: the coders, zlib-like work and NumPy's loops release the GIL."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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


@contextmanager
def worker_pool(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """An executor of `workers` threads, None meaning one a core; work not begun is dropped on an exception."""
    pool = ThreadPoolExecutor(worker_count(workers), thread_name_prefix="wcodec")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def ordered(pool: ThreadPoolExecutor, work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`map` over a pool, in order, with only a few results waiting: the memory of some items, not of all."""
    waiting: deque[Future[U]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > 2 * pool._max_workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
