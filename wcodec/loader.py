"""Archives into memory: a dict of NumPy arrays, a torch state dict, or arrays and tensors the caller has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from wcodec.archive import Archive, opened
from wcodec.archived import ArchivedTensor, Piece
from wcodec.errors import MismatchError, UsageError
from wcodec.formats.source import Target
from wcodec.model import DTYPES, Array
from wcodec.policy import matches
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
    with opened(source, workers) as archive:
        wanted = [archive.tensor(name) for name in _wanted(archive, names, out, strict)]
        result = _allocate(wanted, device) if out is None else {tensor.name: out[tensor.name] for tensor in wanted}
        arrays = {name: array_of(name, given) for name, given in result.items()}
        _check_fit(wanted, arrays)
        _fill(archive, wanted, arrays, progress)
    return result


def _wanted(archive: Archive, names: Iterable[str] | None, out: Mapping[str, Any] | None, strict: bool) -> list[str]:
    """The names to decode, in the archive's order; `MismatchError` where `strict` does not allow a difference."""
    patterns = {"*"} if names is None else {names} if isinstance(names, str) else set(names)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError("names are strings")
    exact = {pattern for pattern in patterns if pattern in archive}
    globs = [pattern for pattern in patterns if set(pattern) & set("*?[")]
    wanted = [name for name in archive if name in exact or any(matches(name, glob) for glob in globs)]
    idle = [p for p in sorted(patterns - exact) if p not in globs or not any(matches(name, p) for name in wanted)]
    problems = [f"nothing is called {pattern!r}" for pattern in idle if names is not None]
    picked = set(wanted)
    if out is not None:
        problems += [f"{name!r} is not in the archive" for name in out if name not in archive]
        problems += [f"{name!r} is given, but not named" for name in out if name in archive and name not in picked]
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
            made[tensor.entry.name] = empty_tensor(tensor) if device == "torch" else tensor.empty(tensor.shape)
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
    for _ in archive.run(lambda tensor: tensor.codec, first.values()):
        pass
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
