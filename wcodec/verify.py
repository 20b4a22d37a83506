"""Is an archive whole: every byte of it, and every tensor it claims to hold."""

from __future__ import annotations

import numpy as np

from wcodec.archive import Archive, open_archive
from wcodec.archived import ArchivedTensor, Piece
from wcodec.errors import CorruptFileError, InputError
from wcodec.formats.source import Target
from wcodec.model import DTYPES
from wcodec.workers import Progress, ProgressCallback


def verify(
    source: Target | Archive, *, workers: int | None = None, progress: ProgressCallback | None = None
) -> list[InputError]:
    """Check every byte against its checksum, every padding byte, every recipe, and that every chunk decodes.

    Returns all that is wrong, in file order, nothing for a whole archive. Raises what `open_archive` raises where
    header, trailer or index are such that the archive cannot be opened at all.
    """
    if not isinstance(source, Archive):
        with open_archive(source, workers=workers) as archive:
            return verify(archive, progress=progress)
    problems: list[InputError] = []
    names = source.stored_names()
    total, done = source.file_bytes * 2, 0

    def count(name: str, size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(Progress(name, done, total))

    problems += source.check_bytes(lambda size: count("checksums", size))
    damaged = {problem.where for problem in problems if isinstance(problem, CorruptFileError)}
    for name in names:
        found = {str(problem): problem for problem in _undecodable(source, name)}
        problems += [p for p in found.values() if not isinstance(p, CorruptFileError) or p.where not in damaged]
        count(name, (total // 2) // len(names))
    return problems


def _undecodable(archive: Archive, name: str) -> list[InputError]:
    try:
        tensor = archive.tensor(name)
    except InputError as error:
        return [error]
    return [problem for problem in archive.run(lambda piece: _attempt(tensor, piece), tensor.pieces) if problem]


def _attempt(tensor: ArchivedTensor, piece: Piece) -> InputError | None:
    try:
        tensor.decode_piece(piece, np.empty((piece.chunk.rows, *tensor.rows.trail), DTYPES[tensor.dtype]))
    except InputError as error:
        return error
    return None
