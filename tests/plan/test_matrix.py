"""Weights as matrices, against what layers do with them in torch."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from wcodec.infer.graph import Convolution, Dense, Graph, MatMul, Node, Op, Stored, Value
from wcodec.infer.reference import Reference
from wcodec.plan.matrix import Matrix, columns_first, matrices, rows_first
from wcodec.scales import block_grid

SHAPES = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)


@given(SHAPES, st.integers(1, 3), st.booleans())
@settings(max_examples=60)
def test_the_tensor_comes_back_from_its_matrices(shape: tuple[int, ...], groups: int, inputs_first: bool) -> None:
    shape = (shape[0] * groups, *shape[1:])
    matrix = (columns_first if inputs_first else rows_first)(shape, groups)
    tensor = np.arange(np.prod(shape)).reshape(shape)
    turned = matrix.of(tensor)
    assert turned.shape == (groups, matrix.rows, matrix.columns)
    assert np.array_equal(matrix.back(turned), tensor)
    # a step a row, brought into the quantizer's grid, meets the numbers of that row
    steps = 1.0 + np.arange(groups * matrix.rows).reshape(groups, matrix.rows)
    grid = matrix.grid(steps)
    assert grid.shape == block_grid(shape, matrix.block)
    spread = grid
    for axis, (length, block) in enumerate(zip(shape, matrix.block, strict=True)):
        spread = np.repeat(spread, block or length, axis=axis).take(range(length), axis=axis)
    assert np.array_equal(matrix.of(spread), np.broadcast_to(steps[..., None], turned.shape))


LAYERS: dict[str, tuple[Op, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "convolution": (Convolution((3, 3), pads=(1, 1, 1, 1)), (1, 4, 5, 5), (6, 4, 3, 3), (1, 6, 5, 5)),
    "grouped": (Convolution((1, 1), groups=2), (1, 4, 5, 5), (6, 2, 1, 1), (1, 6, 5, 5)),
    "depthwise": (Convolution((3, 3), groups=4), (1, 4, 5, 5), (4, 1, 3, 3), (1, 4, 3, 3)),
    "transposed": (Convolution((2, 2), strides=(2, 2), transposed=True), (1, 4, 3, 3), (4, 5, 2, 2), (1, 5, 6, 6)),
    "transposed, grouped": (Convolution((2, 2), groups=2, transposed=True), (1, 4, 3, 3), (4, 3, 2, 2), (1, 6, 4, 4)),
    "along one axis": (Convolution((1, 3)), (1, 4, 1, 7), (6, 4, 3), (1, 6, 1, 5)),
    "dense": (Dense(rows_first=True), (1, 4), (6, 4), (1, 6)),
    "dense, inputs first": (Dense(rows_first=False), (1, 4), (4, 6), (1, 6)),
    "product": (MatMul(), (1, 2, 3, 4), (2, 4, 6), (1, 2, 3, 6)),
    "product, turned": (MatMul(transpose_b=True), (1, 2, 3, 4), (2, 6, 4), (1, 2, 3, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_row_is_what_makes_one_output(name: str) -> None:
    op, x, weight, out = LAYERS[name]
    graph, matrix = _graph(op, x, weight, out)
    rng = np.random.default_rng(0)
    inputs, before = torch.from_numpy(rng.standard_normal(x).astype(np.float32)), rng.standard_normal(weight)
    outputs = Reference(graph, {"w": before})(inputs)[0]
    changed: list[set[int]] = []
    for group in range(matrix.groups):
        for row in range(matrix.rows):
            after = matrix.of(before).copy()
            after[group, row] += 1
            off = Reference(graph, {"w": matrix.back(after)})(inputs)[0] - outputs
            channels = off if isinstance(op, Convolution) else off.movedim(-1, 1)
            if isinstance(op, MatMul):  # every matrix of a stack makes outputs of its own
                channels = off.permute(0, 1, 3, 2).reshape(1, -1, 3)
            rest = channels.reshape(channels.shape[1], -1) if isinstance(op, Convolution) else channels[0]
            changed.append({int(place) for place in np.flatnonzero(rest.reshape(len(rest), -1).abs().sum(1) > 1e-6)})
    assert [len(places) for places in changed] == [1] * len(changed)
    assert len(set.union(*changed)) == len(changed)


def test_a_tensor_that_layers_take_differently_is_left_alone() -> None:
    nodes = (
        Node("one", Dense(rows_first=True), ("x", "w", "", ""), "y"),
        Node("two", Dense(rows_first=False), ("y", "w", "", ""), "z"),
    )
    values = {name: Value((1, 4)) for name in "xyz"}
    assert matrices(Graph(("x",), ("z",), nodes, values, {"w": Stored("w", (4, 4))})) == {}


def _graph(op: Op, x: tuple[int, ...], weight: tuple[int, ...], out: tuple[int, ...]) -> tuple[Graph, Matrix]:
    inputs = ("x", "w") if isinstance(op, MatMul) else ("x", "w", "", "")
    values = {"x": Value(x), "y": Value(out)}
    graph = Graph(("x",), ("y",), (Node("layer", op, inputs, "y"),), values, {"w": Stored("w", weight)})
    return graph, matrices(graph)["w"]
