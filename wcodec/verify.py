"""Is an archive whole: every byte of it, and every tensor it claims to hold."""

from __future__ import annotations

from wcodec.archive import Archive, opened
from wcodec.archived import ArchivedTensor, Piece
from wcodec.errors import CorruptFileError, InputError
from wcodec.formats.source import Target
from wcodec.workers import Progress, ProgressCallback


def verify(
    source: Target | Archive, *, workers: int | None = None, progress: ProgressCallback | None = None
) -> list[InputError]:
    """Check every byte against its checksum, every padding byte, every recipe, and that every chunk decodes.

    Returns all that is wrong, in file order, nothing for a whole archive. Raises what `open_archive` raises where
    header, trailer or index are such that the archive cannot be opened at all.
    """
    with opened(source, workers) as archive:
        return _problems(archive, progress)


def _problems(archive: Archive, progress: ProgressCallback | None) -> list[InputError]:
    names = archive.stored_names()
    total, done = archive.file_bytes + len(names), 0

    def count(name: str, size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(Progress(name, done, total))

    problems = archive.check_bytes(lambda size: count("checksums", size))
    damaged = {problem.where for problem in problems if isinstance(problem, CorruptFileError)}
    told = {str(problem) for problem in problems}
    for name in names:
        for problem in _undecodable(archive, name):
            known = isinstance(problem, CorruptFileError) and problem.where in damaged
            if not known and str(problem) not in told:
                told.add(str(problem))
                problems.append(problem)
        count(name, 1)
    return problems


def _undecodable(archive: Archive, name: str) -> list[InputError]:
    try:
        tensor = archive.tensor(name)
        tensor.codec  # noqa: B018, read once, before the threads all want it
    except InputError as error:
        return [error]
    return [problem for problem in archive.run(lambda piece: _attempt(tensor, piece), tensor.pieces) if problem]


def _attempt(tensor: ArchivedTensor, piece: Piece) -> InputError | None:
    try:
        tensor.decode_piece(piece, tensor.empty((piece.chunk.rows, *tensor.rows.trail)))
    except InputError as error:
        return error
    return None
