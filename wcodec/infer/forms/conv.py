"""Convolutions: which kernels, and cut into what pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator

from wcodec.infer.forms.cuts import (
    CACHED,
    depthwise_columns,
    geometry_defines,
    is_alone,
    share_of,
    sides_of,
    strips_of,
    tile_size,
)
from wcodec.infer.forms.launch import Form, Launch, Local, Target, epilogue_arguments, ints, layer_arguments
from wcodec.infer.forms.tiled import tiled_depthwise, tiled_forms
from wcodec.infer.forms.winograd import winograd_forms
from wcodec.infer.graph import Convolution
from wcodec.infer.places import BLOCK, Task, blocks_of


def conv_forms(task: Task, target: Target) -> list[Form]:
    """The ways to compute a convolution, the likeliest to be fastest first."""
    op = task.op
    assert isinstance(op, Convolution)
    channels, outputs = task.x.shape[1], task.output.shape[1]
    if not op.transposed and 1 < op.groups == channels == outputs:
        if not target.is_cpu:
            return [tiled_depthwise(task, op)]
        return [_depthwise(task, op, target, rows) for rows in (1, 2, 4) if rows <= task.output.shape[2]]
    whole = op.groups == 1 or (channels // op.groups % BLOCK == 0 and outputs // op.groups % BLOCK == 0)
    if not op.transposed and whole:
        if not target.is_cpu and task.x.blocks:
            tiled = [*tiled_forms(task, op, target)]
            if tiled:
                return tiled
        winograd = [*winograd_forms(task, op, target)] if task.x.blocks else []
        # which is mostly faster: building a second way to compute directly would take longer than it saves
        direct = [*_direct_forms(task, op, target, most=1 if winograd else 2)]
        if direct:
            return [*direct, *winograd]
    return [_any(task, op)]


def _direct_forms(task: Task, op: Convolution, target: Target, *, most: int) -> Iterator[Form]:
    height, width, out_height, out_width = sides_of(task, op)
    best = strips_of(out_width, blocks_of(task.output.shape[1] // op.groups), target)
    for columns, at_once in best[:most]:
        sizes = height, width, out_height, out_width
        if is_alone(op) and width % columns == 0:
            # many short rows, of which a work-item may have several, and weights stay in its cache
            sizes = width // columns, columns, width // columns, columns
        for rows in (1, 2, 4):
            if rows > 1 and (sizes[2] < 2 * rows or (columns, at_once) != best[0]):
                break
            numbers = blocks_of(task.x.shape[1] // op.groups) * BLOCK * math.prod(tile_size(op, rows, columns))
            if numbers * target.real_bytes <= min(target.local, CACHED):
                yield _direct(task, op, target, sizes, (rows, columns, at_once), numbers)


def _direct(
    task: Task,
    op: Convolution,
    target: Target,
    sizes: tuple[int, int, int, int],
    cut: tuple[int, int, int],
    tile: int,
) -> Form:
    (rows, columns, at_once), (_, _, out_height, out_width) = cut, sizes
    n, channels, outputs = *task.x.shape[:2], task.output.shape[1]
    group_blocks = blocks_of(outputs // op.groups)
    places = -(-out_height // rows) * -(-out_width // columns)
    share = share_of(group_blocks, at_once, places * n * op.groups, target)
    top, left, _, _ = op.pads
    blocks = (blocks_of(channels), group_blocks, blocks_of(outputs))
    tile_h, _ = tile_size(op, rows, columns)
    shape = ints(*sizes, channels // op.groups, *blocks, top, left, share, rows, tile_h)
    launch = Launch(
        "conv.cl",
        "conv",
        (*geometry_defines(op), f"COLUMNS={columns}", f"AT_ONCE={at_once}", *("PLANES",) * (not task.x.blocks)),
        (
            *(task.x, *layer_arguments(task, outputs, "rows"), task.output, shape),
            *(*epilogue_arguments(task, outputs), Local(tile), Local(columns * BLOCK)),
        ),
        (places, op.groups * -(-group_blocks // share), n),
        (1, 1, 1),
    )
    return Form(f"direct {rows}x{columns}x{BLOCK * at_once}", (launch,))


def _depthwise(task: Task, op: Convolution, target: Target, rows: int) -> Form:
    n, channels, height, width = task.x.shape
    out_height, out_width = task.output.shape[2:]
    columns = depthwise_columns(out_width)
    strips = -(-out_width // columns)
    tile_h, tile_w = tile_size(op, rows, strips * columns)
    blocks = blocks_of(channels)
    shape = ints(height, width, out_height, out_width, blocks, *op.pads[:2], rows, tile_h)
    launch = Launch(
        "depthwise.cl",
        "depthwise",
        (*geometry_defines(op), f"COLUMNS={columns}"),
        (
            *(task.x, *layer_arguments(task, channels, "rows"), task.output, shape),
            *(*epilogue_arguments(task, channels), Local(tile_h * tile_w * BLOCK), Local(columns * BLOCK)),
        ),
        (-(-out_height // rows), blocks, n),
        (1, 1, 1),
    )
    return Form(f"depthwise {rows}x{columns}", (launch,))


def _any(task: Task, op: Convolution) -> Form:
    n, channels, height, width = task.x.shape
    outputs, out_height, out_width = task.output.shape[1:]
    layer = layer_arguments(task, outputs, *(("swapped", op.groups) if op.transposed else ("rows",)))
    sizes = (height, width, out_height, out_width, channels, channels // op.groups, outputs // op.groups)
    around = (*op.kernel, *op.strides, *op.dilations, *op.pads[:2])
    shape = ints(*sizes, blocks_of(channels), blocks_of(outputs), *around)
    launch = Launch(
        "conv_any.cl",
        "conv_any",
        ("TRANSPOSED",) if op.transposed else (),
        (
            *(task.x, *layer, task.output, shape),
            *epilogue_arguments(task, outputs),
        ),
        (out_height * out_width, blocks_of(outputs), n),
    )
    return Form("transposed" if op.transposed else "by channel", (launch,))
