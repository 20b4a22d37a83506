"""What an archive holds, as plain data for people and programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wcodec.archive import Archive
from wcodec.archived import ArchivedTensor
from wcodec.errors import InputError


@dataclass(frozen=True)
class TensorReport:
    """One tensor. `stored_as` says its recipe in words, or why that cannot be read, and `recipe` is None then. `bpw` is
    bits per weight of its chunks and side information; 0 for an empty tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stored_as: str
    recipe: dict[str, Any] | None
    chunks: int
    bytes: int
    bpw: float


@dataclass(frozen=True)
class ArchiveReport:
    """A whole archive. `bpw` counts every byte of the file over every element; `ratio` is against the decoded size."""

    version: int
    elements: int
    decoded_bytes: int
    file_bytes: int
    bpw: float
    ratio: float
    graph: bool
    digests: list[str]
    metadata: dict[str, str]
    ties: dict[str, str]
    fidelity: dict[str, Any] | None
    tensors: list[TensorReport]


def describe(archive: Archive) -> ArchiveReport:
    """The report of an open archive; nothing is decoded."""
    tensors = archive.tensors()
    elements, decoded = sum(tensor.size for tensor in tensors), sum(tensor.nbytes for tensor in tensors)
    return ArchiveReport(
        version=archive.version,
        elements=elements,
        decoded_bytes=decoded,
        file_bytes=archive.file_bytes,
        bpw=8 * archive.file_bytes / max(1, elements),
        ratio=decoded / archive.file_bytes,
        graph=archive.has_graph,
        digests=archive.digests,
        metadata=archive.metadata,
        ties=archive.ties,
        fidelity=archive.fidelity,
        tensors=[
            TensorReport(
                tensor.name,
                tensor.dtype,
                tensor.shape,
                *_recipe(tensor),
                len(tensor.pieces),
                tensor.stored_bytes,
                8 * tensor.stored_bytes / max(1, tensor.size),
            )
            for tensor in tensors
        ],
    )


def _recipe(tensor: ArchivedTensor) -> tuple[str, dict[str, Any] | None]:
    try:
        return str(tensor.recipe), tensor.recipe.to_json()
    except InputError as error:
        return f"cannot be read: {error}", None
