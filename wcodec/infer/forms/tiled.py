"""Forms for devices with many small cores and local memory that they share: GPUs."""

from __future__ import annotations

import math
from collections.abc import Iterator

from wcodec.infer.forms.cuts import geometry_defines, sides_of, tile_size
from wcodec.infer.forms.launch import Form, Launch, Local, Target, epilogue_arguments, ints, layer_arguments
from wcodec.infer.graph import Convolution, Dense
from wcodec.infer.places import BLOCK, Task, blocks_of

_GROUP = 64
"""Work-items that share a tile, and places of the result that they compute."""


def tiled_forms(task: Task, op: Convolution, target: Target) -> Iterator[Form]:
    """Convolutions whose groups fill blocks of channels, from images in blocks."""
    n, channels = task.x.shape[:2]
    outputs = task.output.shape[1]
    group_blocks = blocks_of(outputs // op.groups)
    height, width, out_height, out_width = sides_of(task, op)
    rows = 1 if out_height == 1 else 4 if out_width > 8 else 8
    tile = math.prod(tile_size(op, rows, _GROUP // rows)) * BLOCK
    if (tile + _GROUP * BLOCK) * target.real_bytes > target.local:
        return
    sizes = (height, width, out_height, out_width, channels // op.groups, blocks_of(channels))
    shape = ints(*sizes, group_blocks, blocks_of(outputs), *op.pads[:2])
    places = -(-out_height // rows) * -(-out_width // (_GROUP // rows))
    for at_once in (2, 4, 1):
        if at_once > group_blocks:
            continue
        launch = Launch(
            *("conv_tiled.cl", "conv_tiled"),
            (*geometry_defines(op), f"ROWS={rows}", f"COLUMNS={_GROUP // rows}", f"AT_ONCE={at_once}"),
            (
                *(task.x, *layer_arguments(task, outputs, "rows"), task.output, shape),
                *(*epilogue_arguments(task, outputs), Local(tile), Local(_GROUP * BLOCK)),
            ),
            (places * _GROUP, op.groups * -(-group_blocks // at_once), n),
            (_GROUP, 1, 1),
        )
        yield Form(f"tiled {rows}x{_GROUP // rows}x{BLOCK * at_once}", (launch,))


def tiled_depthwise(task: Task, op: Convolution) -> Form:
    """One place of 16 channels a work-item."""
    n, channels, height, width = task.x.shape
    out_height, out_width = task.output.shape[2:]
    shape = ints(height, width, out_height, out_width, blocks_of(channels), *op.pads[:2])
    launch = Launch(
        *("depthwise_tiled.cl", "depthwise_tiled", geometry_defines(op)),
        (
            *(task.x, *layer_arguments(task, channels, "rows"), task.output, shape),
            *epilogue_arguments(task, channels),
        ),
        (out_height * out_width, blocks_of(channels), n),
    )
    return Form("depthwise", (launch,))


def tiled_dense(task: Task, op: Dense) -> Form:
    """A block of columns of one row for every 64 work-items."""
    depth, columns = task.x.shape[-1], task.output.shape[-1]
    rows = math.prod(task.x.shape[:-1])
    layer = layer_arguments(task, columns, "rows" if op.rows_first else "swapped")
    launch = Launch(
        *("dense_tiled.cl", "dense_tiled", ()),
        (
            *(task.x, *layer, task.output, ints(rows, columns, depth)),
            *(*epilogue_arguments(task, columns), Local(_GROUP // 4 * BLOCK)),
        ),
        (blocks_of(columns) * _GROUP, rows),
        (_GROUP, 1),
    )
    return Form("tiled", (launch,))
