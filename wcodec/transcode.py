"""An archive with the same symbols and scales, coded by another coder."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from wcodec.archive import Archive, open_archive
from wcodec.archived import ArchivedTensor
from wcodec.choose import Symbols
from wcodec.engine import HOST, Engine, engine_for
from wcodec.formats.source import Target
from wcodec.jobs import Job, run_jobs
from wcodec.pipeline import TensorCodec
from wcodec.policy import Policy
from wcodec.tiling import Rows
from wcodec.workers import ProgressCallback, Runner, Workers
from wcodec.writing import Destination, archive_writer, check_different


def transcode(
    source: Target | Archive,
    target: Destination,
    coder: str,
    *,
    level: int | None = None,
    shard_size: int | None = None,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Write the archive `target` with the tensors of `source` coded losslessly by `coder`, or by "auto" the smallest.

    Symbols and scales, and so the decoded numbers, stay bit for bit what they are, also where the source was coded
    with loss. A kept tensor that the coder cannot hold, such as floats by a video coder, gets the smallest byte coder.
    Raises as `encode` and `open_archive` do.
    """
    check_different(source, target, shard_size)
    policy = Policy(coder=coder, level=level)
    with ExitStack() as stack:
        archive = source if isinstance(source, Archive) else stack.enter_context(open_archive(source, workers=workers))
        pool = stack.enter_context(Workers(workers))
        writer = stack.enter_context(archive_writer(target, shard_size))
        engine = engine_for(sum(tensor.size for tensor in archive.tensors())) if coder in ("auto", "rans") else HOST
        run_jobs([_job(tensor, policy, engine) for tensor in archive.tensors()], pool, writer, progress)
        graph = archive.graph()
        if graph is not None:
            writer.set_graph(graph)
        writer.finish(metadata=archive.metadata, ties=archive.ties, fidelity=archive.fidelity)


def _job(tensor: ArchivedTensor, policy: Policy, engine: Engine) -> Job:
    def settle(run: Runner) -> tuple[TensorCodec, Symbols]:
        return _rechunked(tensor, engine), tensor.symbols

    return Job(tensor.name, tensor.dtype, tensor.shape, policy, settle)


def _rechunked(tensor: ArchivedTensor, engine: Engine) -> TensorCodec:
    """The tensor's codec with the rows a new archive has, which need not be those of the old one's writer."""
    codec, rows = tensor.codec, Rows.of(tensor.shape)
    return replace(codec, engine=engine, rows=rows, scales=codec.scales and replace(codec.scales, rows=rows))
