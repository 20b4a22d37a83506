"""Archives into memory: a dict of NumPy arrays, a torch state dict, or arrays and tensors the caller has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np

from wcodec.archive import Archive, open_archive
from wcodec.archived import ArchivedTensor, Piece
from wcodec.errors import MismatchError, UsageError
from wcodec.formats.source import Target
from wcodec.model import DTYPES, Array
from wcodec.tensors import array_of, empty_tensor
from wcodec.workers import Progress, ProgressCallback


def load(
    source: Target | Archive,
    device: Literal["cpu", "torch"] = "cpu",
    *,
    out: Mapping[str, Any] | None = None,
    names: Iterable[str] | None = None,
    strict: bool = True,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Decode an archive, chunks in parallel: name to array, in the archive's order.

    `device` "cpu" gives NumPy arrays, "torch" CPU tensors that `module.load_state_dict` takes; tied names share one
    array. `out` maps names to arrays, or CPU tensors, of the same dtype and shape, which are filled in place and
    returned, as in `out=module.state_dict()`. `names` restricts what is decoded, by name or shell pattern.

    With `strict`, `out` must name exactly the archive's tensors (those picked by `names`), and every one of `names`
    must match; without, what is missing on either side is passed over. `MismatchError` tells every difference in
    names, dtypes and shapes before anything is filled; `CorruptFileError` a damaged place.
    """
    if device not in ("cpu", "torch"):
        raise UsageError(f"unknown device {device!r}; there are 'cpu' and 'torch'")
    if not isinstance(source, Archive):
        with open_archive(source, workers=workers) as archive:
            return load(archive, device, out=out, names=names, strict=strict, progress=progress)
    wanted = [source.tensor(name) for name in _wanted(source, names, out, strict)]
    result = _allocate(wanted, device) if out is None else {tensor.name: out[tensor.name] for tensor in wanted}
    arrays = {name: array_of(name, given) for name, given in result.items()}
    _check_fit(wanted, arrays)
    _fill(source, wanted, arrays, progress)
    return result


def _wanted(archive: Archive, names: Iterable[str] | None, out: Mapping[str, Any] | None, strict: bool) -> list[str]:
    """The names to decode, in the archive's order; `MismatchError` where `strict` does not allow a difference."""
    wanted = list(archive)
    problems: list[str] = []
    if names is not None:
        patterns = [names] if isinstance(names, str) else list(names)
        problems += [f"nothing is called {p!r}" for p in patterns if not any(fnmatchcase(n, p) for n in archive)]
        wanted = [name for name in archive if any(name == p or fnmatchcase(name, p) for p in patterns)]
    if out is not None:
        problems += [f"{name!r} is not in the archive" for name in out if name not in archive]
        problems += [f"nothing was given for {name!r}" for name in wanted if name not in out]
        wanted = [name for name in wanted if name in out]
    if strict and problems:
        raise MismatchError(_summary(problems))
    return wanted


def _allocate(wanted: list[ArchivedTensor], device: str) -> dict[str, Any]:
    """An array or a tensor for every name, the same one for names that are tied."""
    made: dict[str, Any] = {}
    for tensor in wanted:
        if tensor.entry.name not in made:
            try:
                if device == "torch":
                    made[tensor.entry.name] = empty_tensor(tensor.name, tensor.dtype, tensor.shape)
                else:
                    made[tensor.entry.name] = np.empty(tensor.shape, DTYPES[tensor.dtype])
            except (MemoryError, RuntimeError) as error:
                raise MismatchError(f"tensor {tensor.name!r} needs {tensor.nbytes} bytes of memory: {error}") from error
    return {tensor.name: made[tensor.entry.name] for tensor in wanted}


def _check_fit(wanted: list[ArchivedTensor], arrays: Mapping[str, Array]) -> None:
    problems = []
    for tensor in wanted:
        try:
            tensor.check_fits(arrays[tensor.name])
        except MismatchError as error:
            problems.append(str(error))
    if problems:
        raise MismatchError(_summary(problems))


def _fill(
    archive: Archive, wanted: list[ArchivedTensor], arrays: Mapping[str, Array], progress: ProgressCallback | None
) -> None:
    """Decode every tensor once; names tied to it get a copy where they have an array of their own."""
    first = {tensor.entry.name: tensor for tensor in reversed(wanted)}
    work = [(tensor, piece) for tensor in first.values() for piece in tensor.pieces]
    total, done = sum(tensor.nbytes for tensor in first.values()), 0

    def decode(item: tuple[ArchivedTensor, Piece]) -> None:
        tensor, piece = item
        rows = arrays[tensor.name].reshape(tensor.rows.count, *tensor.rows.trail)
        tensor.decode_piece(piece, rows[piece.start : piece.stop])

    for (tensor, piece), _ in zip(work, archive.run(decode, work), strict=True):
        done += piece.chunk.rows * tensor.rows.size * DTYPES[tensor.dtype].itemsize
        if progress is not None:
            progress(Progress(tensor.name, done, total))
    for tensor in wanted:
        target, source = arrays[tensor.name], arrays[first[tensor.entry.name].name]
        if not np.may_share_memory(target, source):
            target[...] = source


def _summary(problems: list[str]) -> str:
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more
