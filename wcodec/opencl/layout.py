"""Where the numbers of a tensor lie in a device's buffer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wcodec.errors import UsageError
from wcodec.model import Array

KERNEL_FIELDS = np.dtype([("fields", "<u4", (7,))])
"""The struct `Layout` of kernels/store.cl."""


@dataclass(frozen=True)
class PackedLayout:
    """Blocks of `rows` output channels by `columns` input channels, rows innermost, as convolutions load them.

    A tensor of shape (R, C, *K) is stored as an array of shape (R / rows, C / columns, K..., columns, rows), both
    quotients rounded up, what fills the last blocks being zero. A tensor of one axis has one column; K may be empty.
    Where `swapped`, the first two axes change places before: output channels are then the tensor's second axis.
    """

    rows: int = 16
    columns: int = 1
    swapped: bool = False

    def __post_init__(self) -> None:
        sides: tuple[object, ...] = (self.rows, self.columns)
        if not all(isinstance(side, int) and side > 0 for side in sides):
            raise UsageError(f"blocks of {self.rows!r} x {self.columns!r}: sides are integers from 1")

    def packed_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the stored array."""
        rows, columns, *kernel = (*shape, 1, 1)[: max(2, len(shape))]
        if self.swapped:
            rows, columns = columns, rows
        return -(-rows // self.rows), -(-columns // self.columns), *kernel, self.columns, self.rows

    def kernel_argument(self, shape: tuple[int, ...]) -> np.void:
        """Blocks and strides as kernels take them."""
        _, column_blocks, *kernel, _, _ = self.packed_shape(shape)
        block = self.rows * self.columns
        outer_column = block * math.prod(kernel)
        row = (self.rows, column_blocks * outer_column, 1)
        column = (self.columns, outer_column, self.rows)
        first, second = (column, row) if self.swapped else (row, column)
        fields = (first[0], second[0], *first[1:], *second[1:], block)
        argument: np.void = np.array([(fields,)], KERNEL_FIELDS)[0]
        return argument

    def pack(self, array: Array) -> Array:
        """An array in its own shape as it is stored: the reference that kernels are held to."""
        shape = self.packed_shape(array.shape)
        out = np.zeros(shape, array.dtype)
        full = array.reshape(*array.shape, *(1,) * (2 - array.ndim))
        if self.swapped:
            full = full.swapaxes(0, 1)
        padded = np.zeros((shape[0] * self.rows, shape[1] * self.columns, *full.shape[2:]), array.dtype)
        padded[: full.shape[0], : full.shape[1]] = full
        blocks = padded.reshape(shape[0], self.rows, shape[1], self.columns, *full.shape[2:])
        out[...] = np.moveaxis(blocks, (1, 3), (-1, -2))
        return out

    def unpack(self, stored: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `pack`."""
        packed = self.packed_shape(shape)
        rows, columns, *kernel = (*shape, 1, 1)[: max(2, len(shape))]
        blocks = np.moveaxis(stored.reshape(packed), (-1, -2), (1, 3))
        whole = blocks.reshape(packed[0] * self.rows, packed[1] * self.columns, *kernel)
        if self.swapped:
            whole = whole.swapaxes(0, 1)
        return np.ascontiguousarray(whole[:rows, :columns]).reshape(shape)
