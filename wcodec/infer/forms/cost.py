"""How much arithmetic a task is."""

from __future__ import annotations

import math

from wcodec.infer.graph import Convolution, Dense, LocalNorm, MatMul, Pool
from wcodec.infer.places import Move, Pair, Task


def operations(task: Task) -> int:
    """Floating-point operations that a task's result takes computed directly, a multiplication and an addition two."""
    op, size = task.op, math.prod(task.output.shape)
    if isinstance(op, Pair):
        return operations(op.first) + operations(op.second)
    if isinstance(op, Convolution):
        places = math.prod(task.x.shape) if op.transposed else size
        other = task.output.shape[1] if op.transposed else task.x.shape[1]
        return 2 * places * (other // op.groups) * math.prod(op.kernel)
    if isinstance(op, Dense):
        return 2 * size * task.x.shape[-1]
    if isinstance(op, MatMul):
        return 2 * size * task.x.shape[-2 if op.transpose_a else -1]
    if isinstance(op, Pool):
        return size * math.prod(op.kernel)
    if isinstance(op, LocalNorm):
        return 2 * size * op.size
    return 0 if isinstance(op, Move) else size
