"""A convolution and one of each channel behind it in one kernel, for CPUs."""

from __future__ import annotations

import math
from dataclasses import replace

from wcodec.infer.forms.cuts import LEAST_SHARE, depthwise_columns, geometry_defines, strips_of, tile_size
from wcodec.infer.forms.launch import (
    Form,
    Launch,
    Local,
    Target,
    epilogue_arguments,
    epilogue_of,
    ints,
    layer_arguments,
)
from wcodec.infer.graph import Convolution
from wcodec.infer.places import BLOCK, Pair, Task, blocks_of

_RING = 32 << 10
"""Bytes of rows of what is between, of a second block of channels and more, up to which they stay in a near cache."""

_SHARES = (1, 2, 4)
"""Times the blocks of channels whose sums fill the registers."""


def pair_forms(task: Task, target: Target) -> list[Form]:
    """The ways to compute both at once; none where a row does not fit local memory."""
    assert isinstance(task.op, Pair)
    first, between = task.op.first.op, task.op.between
    assert isinstance(first, Convolution)
    blocks = blocks_of(between.shape[1])
    [columns, at_once], *_ = strips_of(between.shape[3], blocks, target)
    shares = [times * at_once for times in _SHARES if times == 1 or times * at_once <= blocks]
    forms = [_form(task, task.op, target, columns, at_once, share) for share in shares]
    return [form for form in forms if form is not None]


def _form(task: Task, pair: Pair, target: Target, columns: int, at_once: int, share: int) -> Form | None:
    first, second = pair.first.op, pair.second.op
    assert isinstance(first, Convolution)
    assert isinstance(second, Convolution)
    n, channels, height, width = task.x.shape
    mid, out = pair.between.shape, task.output.shape
    blocks = blocks_of(mid[1])
    next_columns = depthwise_columns(out[3])
    tile_h, tile_w = tile_size(first, 1, -(-mid[3] // columns) * columns)
    _, reach = tile_size(second, 1, -(-out[3] // next_columns) * next_columns)
    ring_w = max(second.pads[1] + mid[3], reach)
    tile = tile_h * tile_w * (blocks_of(channels) * BLOCK if task.x.blocks else channels)
    ring = share * second.kernel[0] * ring_w * BLOCK
    if 4 * ring > _RING and share > at_once:
        return None
    if 4 * (tile + ring + next_columns * BLOCK) > target.local:
        return None
    groups = -(-blocks // share)
    rows = math.ceil(out[2] / max(1, round(LEAST_SHARE * target.units / (groups * n))))
    around = (*first.pads[:2], *second.pads[:2], rows, share, tile_h, tile_w, ring_w)
    shape = ints(height, width, *mid[2:], *out[2:], channels, blocks_of(channels), blocks, *around)
    defines = (
        *(*geometry_defines(first), f"COLUMNS={columns}", f"AT_ONCE={at_once}", *("PLANES",) * (not task.x.blocks)),
        *(f"NEXT_{axis}={size}" for axis, size in zip("HW", second.kernel, strict=True)),
        *(f"NEXT_STRIDE_{axis}={size}" for axis, size in zip("HW", second.strides, strict=True)),
        f"NEXT_COLUMNS={next_columns}",
    )
    launch = Launch(
        *("conv_depthwise.cl", "conv_depthwise", defines),
        (
            *(task.x, *layer_arguments(pair.first, mid[1], "rows"), *layer_arguments(pair.second, mid[1], "rows")),
            *(task.output, shape, epilogue_of(pair.first.epilogue), *epilogue_arguments(task, mid[1])),
            *(Local(tile), Local(ring), Local(next_columns * BLOCK)),
        ),
        (-(-out[2] // rows), groups, n),
        (1, 1, 1),
    )
    return Form(f"joined {rows}x{columns}x{BLOCK * at_once} of {share}", (launch,))


def apart(pair: Pair, first: Form, second: Form) -> Form:
    """One after the other, with memory for what is between."""
    launches = [replace(launch, task=pair.first) for launch in first.launches]
    launches += [replace(launch, task=pair.second) for launch in second.launches]
    return Form(f"{first.name}, {second.name}", tuple(launches), (pair.between, *first.scratch, *second.scratch))
