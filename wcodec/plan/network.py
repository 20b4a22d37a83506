"""A model as torch runs it, with weights that can be exchanged for decoded ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wcodec.archive import Archive
from wcodec.errors import UnsupportedError
from wcodec.infer.evaluation import batch_of, padded
from wcodec.infer.graph import Graph, Stored
from wcodec.infer.lowering.source import OnnxSource
from wcodec.infer.lowering.walk import lower
from wcodec.infer.reference import Reference
from wcodec.model import Array
from wcodec.plan.matrix import Matrix, matrices

if TYPE_CHECKING:
    from torch import Tensor


class Network:
    """The model of an archive that holds it bit for bit, for inputs of one shape.

    `batch` is how many inputs the model takes at least. Raises `UnsupportedError` for a model that cannot be run or
    takes several inputs, `MismatchError` for a shape it does not take, `MissingDependencyError` without torch.
    """

    def __init__(self, archive: Archive, shape: tuple[int, ...]) -> None:
        self._source = OnnxSource(archive)
        if len(self._source.inputs) != 1:
            raise UnsupportedError(
                f"the model takes {len(self._source.inputs)} inputs; those of one can be planned for"
            )
        (declared,) = self._source.inputs.values()
        first = declared[0] if declared else 1
        self.batch = first if isinstance(first, int) else 1
        self.together = batch_of(declared)
        self._shape = shape
        self._lowered: dict[int, tuple[Graph, dict[str, Tensor]]] = {}
        graph, _ = self._constants(self.batch)
        self.matrices: dict[str, Matrix] = matrices(graph)
        """How tensors of the archive are matrices that inputs are multiplied with, by name."""
        self.products = _products(graph, self.matrices) // self.batch
        """Multiplications with weights that one input takes, about."""

    def weight(self, tensor: str) -> Array:
        """A tensor as the model has it, f32."""
        return self._source.read(tensor)

    def run(self, array: Array, weights: Mapping[str, Array] | None = None) -> list[Array]:
        """All outputs for inputs of any number, with other weights in the place of the tensors named."""
        import torch

        found: list[list[Array]] = []
        with torch.no_grad():
            executor = self.executor(self.together, weights)
            for start in range(0, len(array), self.together):
                part = array[start : start + self.together]
                outputs = executor(torch.from_numpy(padded(part, self.together)))
                found.append([output.numpy()[: len(part)] for output in outputs])
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def executor(self, batch: int, weights: Mapping[str, Array | Tensor] | None = None) -> Reference:
        """The graph for a batch, with other weights in the place of the tensors named."""
        graph, constants = self._constants(batch)
        chosen = weights or {}
        stored = {name: constant.tensor for name, constant in graph.constants.items() if isinstance(constant, Stored)}
        changed = {name: chosen[tensor] for name, tensor in stored.items() if tensor in chosen}
        return Reference(graph, {**constants, **changed})

    def _constants(self, batch: int) -> tuple[Graph, dict[str, Tensor]]:
        import torch

        if batch not in self._lowered:
            name = next(iter(self._source.inputs))
            graph = lower(self._source, {name: (batch, *self._shape)})
            numbers = {name: self._source.numbers(constant) for name, constant in graph.constants.items()}
            tensors = {name: torch.from_numpy(np.array(array, order="C")) for name, array in numbers.items()}
            self._lowered[batch] = graph, tensors
        return self._lowered[batch]


def _products(graph: Graph, chosen: Mapping[str, Matrix]) -> int:
    stored = {name: constant.tensor for name, constant in graph.constants.items() if isinstance(constant, Stored)}
    factors = ((node, chosen.get(stored.get(name, ""))) for node in graph.nodes for name in node.inputs)
    return sum(math.prod(graph.shape(node.output)) * matrix.columns for node, matrix in factors if matrix)
