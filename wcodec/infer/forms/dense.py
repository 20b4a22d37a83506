"""Products with matrices, constant and computed."""

from __future__ import annotations

import math

import numpy as np

from wcodec.errors import UnsupportedError
from wcodec.infer.forms.elements import broadcast_strides
from wcodec.infer.forms.launch import Form, Launch, Local, Target, epilogue_arguments, ints, layer_arguments
from wcodec.infer.forms.tiled import tiled_dense
from wcodec.infer.graph import Dense, MatMul
from wcodec.infer.places import BLOCK, Place, Task, blocks_of

_CHUNK = 1024
_AXES = 4


def dense_forms(task: Task, target: Target) -> list[Form]:
    """The ways to multiply by a constant matrix."""
    op = task.op
    assert isinstance(op, Dense)
    if not target.is_cpu:
        return [tiled_dense(task, op)]
    depth, columns = task.x.shape[-1], task.output.shape[-1]
    rows = math.prod(task.x.shape[:-1])
    layer = layer_arguments(task, columns, "rows" if op.rows_first else "swapped")
    together, unroll = (1, 8) if rows == 1 else (4, 4) if rows < 8 else (8, 2)
    launch = Launch(
        "dense.cl",
        "dense",
        (f"ROWS={together}", f"UNROLL={unroll}"),
        (
            *(task.x, *layer, task.output, ints(rows, columns, depth)),
            *(*epilogue_arguments(task, columns), Local(together * _CHUNK)),
        ),
        (blocks_of(columns), -(-rows // together)),
        (1, 1),
    )
    return [Form(f"dense {together}x{BLOCK}", (launch,))]


def matmul_forms(task: Task, target: Target) -> list[Form]:
    """The way to multiply two computed matrices."""
    op = task.op
    assert isinstance(op, MatMul)
    a, b = task.inputs
    assert isinstance(a, Place)
    assert isinstance(b, Place)
    rows, columns = task.output.shape[-2:]
    depth = a.shape[-2] if op.transpose_a else a.shape[-1]
    leading = task.output.shape[:-2]
    if len(leading) > _AXES:
        raise UnsupportedError(f"node {task.name!r}: multiplies matrices along more than {_AXES} axes")
    product = np.zeros(1, np.dtype([("sizes", "<i4", (7,)), ("scale", "<f4")]))[0]
    a_row, a_depth = (1, a.shape[-1]) if op.transpose_a else (a.shape[-1], 1)
    b_depth, b_column = (1, b.shape[-1]) if op.transpose_b else (b.shape[-1], 1)
    product["sizes"], product["scale"] = (rows, columns, depth, a_row, a_depth, b_depth, b_column), op.scale
    batches = [len(leading)]
    for numbers in (leading, _strides(a, leading), _strides(b, leading)):
        batches += [*numbers, *[0] * (_AXES - len(leading))]
    steps, operand, _ = epilogue_arguments(task, columns)
    launch = Launch(
        "matmul.cl",
        "matmul",
        (),
        (a, b, task.output, product, ints(*batches), steps, operand),
        (blocks_of(columns), rows, math.prod(leading)),
    )
    return [Form("matmul", (launch,))]


def _strides(place: Place, leading: tuple[int, ...]) -> list[int]:
    """How far apart matrices are along the leading axes of the result; 0 where one serves all."""
    size = math.prod(place.shape[-2:])
    return [size * stride for stride in broadcast_strides(place.shape[:-2], leading)]
