"""Tensors into a writer: small ones several at once, large ones a chunk at a time, all written in order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from wcodec.choose import Choice, Symbols, choose
from wcodec.errors import CoderError, CorruptFileError
from wcodec.model import DTYPES
from wcodec.pipeline import TensorCodec
from wcodec.policy import Policy
from wcodec.scales import Uniform
from wcodec.side import pack_scales
from wcodec.tiling import Rows
from wcodec.workers import Progress, ProgressCallback, Runner, Workers, ordered
from wcodec.writing import Writer


@dataclass(frozen=True)
class Job:
    """A tensor to be coded as its policy says. `settle` finds its quantization, and gives what reads its symbols."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    policy: Policy
    settle: Callable[[Runner], tuple[TensorCodec, Symbols]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class _Coded:
    """A tensor ready to be written: its codec, and its payloads in order with the rows each holds."""

    job: Job
    codec: TensorCodec
    payloads: Iterable[tuple[int, bytes]]


def run_jobs(jobs: list[Job], pool: Workers, writer: Writer, progress: ProgressCallback | None) -> None:
    """Code every job's tensor and write it. Holds a few chunks a worker, never a model."""
    total, done = sum(job.nbytes for job in jobs), 0
    for coded in _coded(jobs, pool):
        job, rows = coded.job, coded.codec.rows
        _check_readable(job.name, coded.codec)
        quantizer = coded.codec.recipe.quantizer
        if isinstance(quantizer, Uniform) and coded.codec.scales is not None and rows.chunks():
            writer.add_side(pack_scales(coded.codec.scales, quantizer, job.dtype))
        for count, payload in coded.payloads:
            writer.add_chunk(payload, count)
            done += count * rows.size * DTYPES[job.dtype].itemsize
            if progress is not None:
                progress(Progress(job.name, done, total))
        writer.add_tensor(job.name, job.dtype, job.shape, row_axes=rows.axes, recipe=coded.codec.recipe.to_json())


def _check_readable(name: str, codec: TensorCodec) -> None:
    """Hold a codec to what a reader demands, before anything is written by it."""
    try:
        codec.check({stop - start for start, stop in codec.rows.chunks()})
    except CorruptFileError as error:
        raise CoderError(f"tensor {name!r}: {error.problem}; use another coder") from error


def _coded(jobs: list[Job], pool: Workers) -> Iterator[_Coded]:
    waiting: deque[Future[_Coded]] = deque()
    for job in jobs:
        if len(Rows.of(job.shape).chunks()) <= 1:
            waiting.append(pool.submit(_code_small, job))
            if len(waiting) > 2 * pool.count:
                yield waiting.popleft().result()
        else:
            choice, symbols = _choose(job, pool.map)
            while waiting:
                yield waiting.popleft().result()
            yield _Coded(job, choice.codec, _code_chunks(choice, symbols, pool))
    while waiting:
        yield waiting.popleft().result()


def _choose(job: Job, run: Runner) -> tuple[Choice, Symbols]:
    codec, symbols = job.settle(run)
    return choose(codec, symbols, job.policy, run), symbols


def _code_small(job: Job) -> _Coded:
    choice, symbols = _choose(job, map)
    return _Coded(job, choice.codec, [_code_chunk(choice, symbols, chunk) for chunk in choice.codec.rows.chunks()])


def _code_chunks(choice: Choice, symbols: Symbols, pool: Workers) -> Iterator[tuple[int, bytes]]:
    return ordered(pool, lambda chunk: _code_chunk(choice, symbols, chunk), choice.codec.rows.chunks())


def _code_chunk(choice: Choice, symbols: Symbols, chunk: tuple[int, int]) -> tuple[int, bytes]:
    start, stop = chunk
    return stop - start, choice.payloads.get(start) or choice.codec.encode(symbols(chunk))
