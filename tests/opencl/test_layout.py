"""The layouts of tensors on devices, element by element."""

from __future__ import annotations

import numpy as np
import pytest

from wcodec import UsageError
from wcodec.opencl.layout import PackedLayout


@pytest.mark.parametrize("shape", [(5, 7, 3, 3), (16, 4), (1, 1), (4, 9, 2), (0, 3), (3, 0, 2)], ids=str)
@pytest.mark.parametrize(
    "layout", [PackedLayout(), PackedLayout(4, 4), PackedLayout(1, 3), PackedLayout(4, 2, swapped=True)], ids=str
)
def test_every_element_has_its_place(layout, shape):
    array = np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape)
    packed = layout.pack(array)
    assert packed.shape == layout.packed_shape(shape)
    for place in np.ndindex(shape):
        row, column, *kernel = place
        if layout.swapped:
            row, column = column, row
        there = row // layout.rows, column // layout.columns, *kernel, column % layout.columns, row % layout.rows
        assert packed[there] == array[place]
    assert np.count_nonzero(packed) == array.size
    assert np.array_equal(layout.unpack(packed, shape), array)


def test_one_axis_is_one_column():
    array = np.arange(1, 6)
    packed = PackedLayout(4, 2).pack(array)
    assert packed.tolist() == [[[[1, 2, 3, 4], [0, 0, 0, 0]]], [[[5, 0, 0, 0], [0, 0, 0, 0]]]]
    assert np.array_equal(PackedLayout(4, 2).unpack(packed, (5,)), array)


@pytest.mark.parametrize("sides", [(0, 1), (1, 0), (-1, 4), (1.5, 1), ("a", 1), (1, None)])
def test_sides_of_blocks_are_positive_integers(sides):
    with pytest.raises(UsageError, match="integers from 1"):
        PackedLayout(*sides)
