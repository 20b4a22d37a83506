"""Weights as matrices: which tensors of a graph inputs are multiplied with, and which of their numbers make a row."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wcodec.infer.graph import Convolution, Dense, Graph, MatMul, Node, Stored
from wcodec.model import Array
from wcodec.scales import block_grid


@dataclass(frozen=True)
class Matrix:
    """A tensor of `shape` as `groups` matrices of `rows` outputs by `columns` inputs: split, then transposed.

    `block` is that of a `Uniform` quantizer with one step a row.
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    groups: int
    rows: int
    columns: int
    block: tuple[int, ...]

    def of(self, tensor: Array) -> Array:
        """Shape (groups, rows, columns)."""
        return tensor.reshape(self.split).transpose(self.order).reshape(self.groups, self.rows, self.columns)

    def back(self, matrices: Array) -> Array:
        """The tensor again, in its shape and C order."""
        turned = matrices.reshape([self.split[axis] for axis in self.order]).transpose(np.argsort(self.order))
        return np.ascontiguousarray(turned.reshape(self.shape))

    def grid(self, steps: Array) -> Array:
        """Steps of shape (groups, rows) as the quantizer's scales, one a block."""
        return steps.reshape(block_grid(self.shape, self.block))


def rows_first(shape: tuple[int, ...], groups: int = 1) -> Matrix:
    """Axis 0 makes rows, equally many in each group, and all others columns."""
    rows, columns = shape[0] // groups, math.prod(shape[1:])
    block = (1, *[0] * (len(shape) - 1))
    return Matrix(shape, (groups, rows, columns), (0, 1, 2), groups, rows, columns, block)


def columns_first(shape: tuple[int, ...], groups: int = 1) -> Matrix:
    """Axis 0 holds the groups and in each its inputs, axis 1 a group's rows, and further axes inputs again."""
    rows, inner = shape[1], math.prod(shape[2:])
    split = (groups, shape[0] // groups, rows, inner)
    block = (0 if groups == 1 else split[1], 1, *[0] * (len(shape) - 2))
    return Matrix(shape, split, (0, 2, 1, 3), groups, rows, split[1] * inner, block)


def _stacked(shape: tuple[int, ...], *, rows_last: bool) -> Matrix:
    """Matrices along leading axes, a group each, with their rows on the last axis or the one before it."""
    groups, (high, wide) = math.prod(shape[:-2]), shape[-2:]
    lead = (1,) * (len(shape) - 2)
    if rows_last:
        return Matrix(shape, (groups, high, wide), (0, 2, 1), groups, wide, high, (*lead, 0, 1))
    return Matrix(shape, (groups, high, wide), (0, 1, 2), groups, high, wide, (*lead, 1, 0))


def matrices(graph: Graph) -> dict[str, Matrix]:
    """How every stored tensor is a matrix that a layer of the graph multiplies its inputs with, by name of the tensor.

    A tensor that layers take for different matrices is not among them.
    """
    found: dict[str, Matrix] = {}
    refused: set[str] = set()
    for node in graph.nodes:
        for place, name in enumerate(node.inputs):
            constant = graph.constants.get(name)
            if not isinstance(constant, Stored):
                continue
            matrix = _matrix_of(node, place, constant.shape)
            if matrix is None or not math.prod(constant.shape):
                continue
            if found.setdefault(constant.tensor, matrix) != matrix:
                refused.add(constant.tensor)
    return {tensor: matrix for tensor, matrix in found.items() if tensor not in refused}


def _matrix_of(node: Node, place: int, shape: tuple[int, ...]) -> Matrix | None:
    op = node.op
    if isinstance(op, Convolution) and place == 1:
        return columns_first(shape, op.groups) if op.transposed else rows_first(shape, op.groups)
    if isinstance(op, Dense) and place == 1:
        return rows_first(shape) if op.rows_first else columns_first(shape)
    if isinstance(op, MatMul) and len(shape) >= 2:
        # the product's other factor is what changes: its columns meet the second's rows
        return _stacked(shape, rows_last=not op.transpose_b if place == 1 else op.transpose_a)
    return None
