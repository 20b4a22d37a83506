"""A whole model into an archive."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from wcodec.archive import Archive
from wcodec.choose import Symbols
from wcodec.coders.raw import Raw
from wcodec.engine import HOST, Engine, engine_for
from wcodec.errors import NonFiniteError, UsageError
from wcodec.fitting import fit_scales
from wcodec.formats import read_model
from wcodec.jobs import Job, run_jobs
from wcodec.model import Model, Tensor
from wcodec.pipeline import TensorCodec
from wcodec.policy import DEFAULT_POLICY, Policy
from wcodec.recipe import Recipe
from wcodec.scales import Keep
from wcodec.tensors import model_of
from wcodec.tiling import Flat, Rows
from wcodec.workers import ProgressCallback, Runner, Workers
from wcodec.writing import Destination, archive_writer, check_different


def encode(
    source: str | os.PathLike[str] | Model | Mapping[str, Any],
    target: Destination,
    policy: Policy = DEFAULT_POLICY,
    *,
    metadata: Mapping[str, str] | None = None,
    shard_size: int | None = None,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Encode a model, the model file at a path, or a dict of arrays or torch tensors into the archive `target`.

    Memory: a few chunks a worker, whatever the model's size. The target appears when it is whole, and the same
    model and policy give the same bytes. With `shard_size`, in bytes, the archive is cut into files of about that
    size at tensor boundaries, beside a JSON index. `metadata` is added to the model's own.

    Raises `InputError` for a source that is not what it claims to be, `NonFiniteError` for a NaN or an infinity in
    a tensor to be quantized, `UsageError` for a policy that does not fit, `OutputError` where writing fails.
    """
    check_different(source, target, shard_size)
    with ExitStack() as stack:
        if isinstance(source, Archive):
            raise UsageError("an archive is encoded already; transcode or decode it")
        if isinstance(source, Mapping):
            source = model_of(source)
        model = source if isinstance(source, Model) else stack.enter_context(read_model(source))
        policy.check_patterns(model.tensors)
        pool = stack.enter_context(Workers(workers))
        writer = stack.enter_context(archive_writer(target, shard_size))
        engine = engine_for(sum(tensor.size for tensor in model.tensors)) if policy.coder in ("auto", "rans") else HOST
        run_jobs([_job(tensor, policy, engine) for tensor in model.tensors], policy, pool, writer, progress)
        if model.graph is not None:
            writer.set_graph(model.graph)
        writer.finish(metadata={**model.metadata, **(metadata or {})}, ties=model.ties)


def _job(tensor: Tensor, policy: Policy, engine: Engine) -> Job:
    def settle(run: Runner) -> tuple[TensorCodec, Symbols]:
        quantizer, scales = policy.quantizer(tensor), None
        if not isinstance(quantizer, Keep):
            try:
                scales = fit_scales(tensor, quantizer, run)
            except NonFiniteError:
                if not policy.lossless_nonfinite:
                    raise
                quantizer = Keep()
        codec = TensorCodec(tensor.dtype, Rows.of(tensor.shape), Recipe(quantizer, Flat(), Raw()), scales, engine)
        return codec, lambda chunk: codec.read_symbols(tensor, *chunk)

    return Job(tensor.name, tensor.dtype, tensor.shape, settle)
