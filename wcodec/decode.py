"""A whole archive back into a model file."""

from __future__ import annotations

import os
from dataclasses import replace

from wcodec.archive import Archive, opened
from wcodec.formats import format_of, write_model
from wcodec.formats.source import Target
from wcodec.model import Array, Model, Tensor
from wcodec.workers import Progress, ProgressCallback
from wcodec.writing import check_different


def decode(
    source: Target | Archive,
    target: str | os.PathLike[str],
    *,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Decode an archive into a model file of the format that the target's suffix names.

    Memory: a block of 32 MiB and a few chunks a worker, for formats that can be written piece by piece. Raises
    `UsageError` for a suffix no exporter has, or for a format that needs what the archive lacks, such as ONNX without
    a graph; `CorruptFileError` for a damaged archive; `OutputError` where writing fails, the old target left intact.
    """
    check_different(source, target)
    file_format = format_of(target)
    with opened(source, workers) as archive:
        model = archive.model(with_graph=file_format.has_graph)
        write_model(model if progress is None else _watched(model, progress), target)


def _watched(model: Model, progress: ProgressCallback) -> Model:
    """The model, telling `progress` what was read of it."""
    total, done = model.nbytes, 0

    def watch(tensor: Tensor) -> Tensor:
        def read(start: int, stop: int) -> Array:
            nonlocal done
            block = tensor.read(start, stop)
            done = min(total, done + block.nbytes)
            progress(Progress(tensor.name, done, total))
            return block

        return replace(tensor, read=read)

    return Model([watch(t) for t in model.tensors], ties=model.ties, graph=model.graph, metadata=model.metadata)
