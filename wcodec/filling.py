"""What filling tensors from an archive has in common, whatever memory they are in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from wcodec.archived import ArchivedTensor, Piece
from wcodec.errors import MismatchError
from wcodec.model import DTYPES
from wcodec.workers import Progress, ProgressCallback


def shared(wanted: Iterable[ArchivedTensor], make: Callable[[ArchivedTensor], Any]) -> dict[str, Any]:
    """What `make` makes of every tensor, by name; the same for names that are tied."""
    made: dict[str, Any] = {}
    held: dict[str, Any] = {}
    for tensor in wanted:
        if tensor.entry.name not in made:
            made[tensor.entry.name] = make(tensor)
        held[tensor.name] = made[tensor.entry.name]
    return held


def check_all(wanted: Iterable[ArchivedTensor], check: Callable[[ArchivedTensor], object]) -> None:
    """`MismatchError` with all that `check` raises, before anything is filled."""
    problems = []
    for tensor in wanted:
        try:
            check(tensor)
        except MismatchError as error:
            problems.append(str(error))
    if problems:
        raise MismatchError(summary(problems))


def summary(problems: list[str]) -> str:
    """The first problems, and how many more there are."""
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


class Counter:
    """Tells a callback how far the decoding of some tensors is, a chunk at a time."""

    def __init__(self, tensors: Iterable[ArchivedTensor], progress: ProgressCallback | None) -> None:
        self._total, self._done, self._progress = sum(tensor.nbytes for tensor in tensors), 0, progress

    def __call__(self, tensor: ArchivedTensor, piece: Piece) -> None:
        self._done += piece.chunk.rows * tensor.rows.size * DTYPES[tensor.dtype].itemsize
        if self._progress is not None:
            self._progress(Progress(tensor.name, self._done, self._total))
