"""Pools, resizing, and normalization across channels: images in blocks, one kernel each."""

from __future__ import annotations

import math

import numpy as np

from wcodec.infer.forms.launch import Form, Launch, Target, epilogue_arguments, ints
from wcodec.infer.graph import LocalNorm, Pool, Reduce, Resize
from wcodec.infer.places import BLOCK, Task, blocks_of

_ROUNDINGS = ("floor", "ceil", "prefer_floor", "prefer_ceil")


def pool_forms(task: Task, target: Target) -> list[Form]:
    op = task.op
    assert isinstance(op, Pool)
    n, channels, height, width = task.x.shape
    out_height, out_width = task.output.shape[2:]
    blocks = blocks_of(channels)
    around = (*op.kernel, *op.strides, *op.dilations, *op.pads)
    shape = ints(height, width, out_height, out_width, blocks, *around)
    defines = ("MEAN",) * (op.kind == "mean") + ("COUNT_PADDING",) * op.counts_padding
    launch = Launch(
        *("pool.cl", "pool", defines),
        (task.x, task.output, shape, *epilogue_arguments(task, channels)),
        (out_height, blocks, n),
    )
    return [Form("pool", (launch,))]


def reduce_forms(task: Task, target: Target) -> list[Form]:
    """Over whole images where they lie in blocks, otherwise over one axis."""
    op = task.op
    assert isinstance(op, Reduce)
    if not task.x.blocks:
        [axis] = op.axes
        length, inner = task.x.shape[axis], math.prod(task.x.shape[axis + 1 :])
        factor = np.float32(1 / length if op.kind == "mean" else 1)
        launch = Launch(
            *("reduce.cl", "reduce", ()),
            (task.x, task.output, ints(length, inner), np.int32(op.kind == "max"), factor),
            (math.prod(task.x.shape[:axis]) * blocks_of(inner),),
        )
        return [Form("reduce", (launch,))]
    n, channels, height, width = task.x.shape
    places = height * width
    factor = np.float32(1 / places if op.kind == "mean" else 1)
    launch = Launch(
        *("pool.cl", "pool_all", () if op.kind == "max" else ("MEAN",)),
        (task.x, task.output, np.int32(places), factor, *epilogue_arguments(task, channels)),
        (n * blocks_of(channels),),
    )
    return [Form("pool", (launch,))]


def resize_forms(task: Task, target: Target) -> list[Form]:
    op = task.op
    assert isinstance(op, Resize)
    n, channels, height, width = task.x.shape
    out_height, out_width = task.output.shape[2:]
    sampling = np.zeros(1, np.dtype([("sizes", "<i4", (6,)), ("places", "<f4", (4,))]))[0]
    rounding = _ROUNDINGS.index(op.rounding)
    sampling["sizes"] = (height, width, out_height, out_width, op.kind == "linear", rounding)
    sampling["places"] = (*op.scales, *op.offsets)
    launch = Launch(
        *("resize.cl", "resize", (), (task.x, task.output, sampling)),
        (out_width, out_height, n * blocks_of(channels)),
    )
    return [Form(op.kind, (launch,))]


def local_norm_forms(task: Task, target: Target) -> list[Form]:
    op = task.op
    assert isinstance(op, LocalNorm)
    n, channels, height, width = task.x.shape
    window = np.zeros(1, np.dtype([("sizes", "<i4", (5,)), ("numbers", "<f4", (3,))]))[0]
    before, after = (op.size - 1) // 2, op.size // 2
    window["sizes"] = (channels, blocks_of(channels), height * width, before, after)
    window["numbers"] = (op.alpha / op.size, op.beta, op.bias)
    launch = Launch(
        *("local_norm.cl", "local_norm", (), (task.x, task.output, window)),
        (height * width, blocks_of(channels), n),
    )
    return [Form(f"over {op.size} of {BLOCK}", (launch,))]
