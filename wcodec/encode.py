"""A whole model into an archive."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from wcodec.archive import Archive
from wcodec.choose import Symbols
from wcodec.coders.raw import Raw
from wcodec.engine import HOST, Engine, engine_for
from wcodec.errors import NonFiniteError, UsageError
from wcodec.fitting import fit_scales
from wcodec.formats import read_model
from wcodec.jobs import Job, run_jobs
from wcodec.model import Model, QuantizedTensor, Tensor
from wcodec.pipeline import TensorCodec, codec_of
from wcodec.policy import DEFAULT_POLICY, Policy
from wcodec.recipe import Recipe
from wcodec.scales import Keep
from wcodec.tensors import model_of
from wcodec.tiling import Flat, Rows
from wcodec.workers import ProgressCallback, Runner, Workers
from wcodec.writing import Destination, archive_writer, check_different


@dataclass(frozen=True)
class Ready:
    """A tensor that is quantized already, and what is to code it, as `Policy.coder` and `Policy.qp`."""

    quantized: QuantizedTensor
    coder: str = "auto"
    qp: int | None = None


def encode(
    source: str | os.PathLike[str] | Model | Mapping[str, Any],
    target: Destination,
    policy: Policy = DEFAULT_POLICY,
    *,
    ready: Mapping[str, Ready] | None = None,
    fidelity: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    shard_size: int | None = None,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Encode a model, the model file at a path, or a dict of arrays or torch tensors into the archive `target`.

    Memory: a few chunks a worker, whatever the model's size. The target appears when it is whole, and the same
    model and policy give the same bytes. With `shard_size`, in bytes, the archive is cut into files of about that
    size at tensor boundaries, beside a JSON index. `metadata` is added to the model's own.

    `ready` names tensors that are quantized already, in place of the policy's way, and `fidelity` is the report of what
    that does, as JSON, that is stored beside them.

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
        coders = {policy.coder, *(one.coder for one in (ready or {}).values())}
        engine = engine_for(sum(tensor.size for tensor in model.tensors)) if coders & {"auto", "rans"} else HOST
        jobs = [_job(tensor, policy, (ready or {}).get(tensor.name), engine) for tensor in model.tensors]
        run_jobs(jobs, pool, writer, progress)
        if model.graph is not None:
            writer.set_graph(model.graph)
        writer.finish(metadata={**model.metadata, **(metadata or {})}, ties=model.ties, fidelity=fidelity)


def _job(tensor: Tensor, policy: Policy, ready: Ready | None, engine: Engine) -> Job:
    if ready is not None:
        level = policy.level if ready.coder == policy.coder else None
        own = replace(policy, coder=ready.coder, qp=ready.qp, level=level, lossless=False)
        return Job(tensor.name, tensor.dtype, tensor.shape, own, lambda run: _settled(tensor, ready.quantized, engine))

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

    return Job(tensor.name, tensor.dtype, tensor.shape, policy, settle)


def _settled(tensor: Tensor, quantized: QuantizedTensor, engine: Engine) -> tuple[TensorCodec, Symbols]:
    if (quantized.symbols.shape, quantized.dtype) != (tensor.shape, tensor.dtype):
        raise UsageError(f"tensor {tensor.name!r} is of {tensor.dtype} {tensor.shape}, other than what was made ready")
    codec = codec_of(quantized, engine)
    symbols = quantized.symbols.reshape(codec.rows.count, *codec.rows.trail)
    return codec, lambda chunk: symbols[chunk[0] : chunk[1]]
