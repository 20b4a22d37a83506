"""Convolutions 3x3 by way of Winograd's minimal filtering."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from wcodec.infer.forms.cuts import CACHED, share_of
from wcodec.infer.forms.launch import Form, Launch, Local, Target, Weight, epilogue_arguments, ints, layer_arguments
from wcodec.infer.graph import Convolution
from wcodec.infer.places import BLOCK, Place, Task, blocks_of

WINOGRAD_PLACES = 36
"""Numbers of a tile of the input, from which one of 4x4 of the result is made."""

_TILES = ((8, 2), (7, 2), (4, 4))
"""Tiles by blocks of output channels whose sums fill the registers of a CPU with 32 vectors of 16."""

_LEAST_CHANNELS = 32
"""Channels of input and output below which transforming tiles takes longer than it saves."""

_KEPT = 1 << 20
"""Numbers of transformed weights up to which they are kept: of small layers, transforming them takes a good part."""


def transformed_bytes(shape: tuple[int, ...]) -> int:
    """What the transformed weight of a convolution of this shape, (outputs, channels, 3, 3), takes."""
    return 4 * _numbers(*shape[:2])


def _numbers(outputs: int, channels: int) -> int:
    return WINOGRAD_PLACES * blocks_of(outputs) * BLOCK * channels


def winograd_forms(task: Task, op: Convolution, target: Target) -> Iterator[Form]:
    """The ways there are: none but for 3x3 kernels of stride 1, computed with floats, on a CPU."""
    n, channels, height, width = task.x.shape
    outputs, out_height, out_width = task.output.shape[1:]
    if (op.kernel, op.strides, op.dilations, op.groups) != ((3, 3), (1, 1), (1, 1), 1) or op.transposed:
        return
    if min(channels, outputs) < _LEAST_CHANNELS or target.precision == "half" or target.vector < BLOCK:
        return
    across = -(-out_width // 4)
    tiles = across * -(-out_height // 4)
    blocks, in_blocks = blocks_of(outputs), blocks_of(channels)
    numbers = _numbers(outputs, channels)
    matrix, scale, bias = layer_arguments(task, outputs, "rows")
    assert isinstance(matrix, Weight)
    kept = Weight(matrix.constant, "winograd", matrix=matrix) if target.keeps_more and numbers <= _KEPT else None
    scratch = Place(f"transformed:{task.output.memory}", (numbers,), "f32")
    transformed = kept or scratch
    found = False
    for together, at_once in _TILES:
        tile = WINOGRAD_PLACES * in_blocks * BLOCK * together
        products = WINOGRAD_PLACES * BLOCK * together * at_once
        if 4 * tile > CACHED or 4 * (tile + products + 4 * BLOCK) > target.local or together > tiles:
            continue
        if together == 4 and found:
            break
        found = True
        strips = -(-tiles // together)
        share = share_of(blocks, at_once, strips * n, target)
        top, left, _, _ = op.pads
        sizes = (height, width, out_height, out_width, channels, in_blocks, blocks, top, left, across, tiles, share)
        defines = (f"TILES={together}", f"AT_ONCE={at_once}")
        transform = Launch(
            *("winograd.cl", "transform_weights", defines),
            (matrix, transformed, np.int32(channels)),
            (channels, blocks),
        )
        launch = Launch(
            *("winograd.cl", "winograd", defines),
            (
                *(task.x, transformed, scale, bias, task.output, ints(*sizes), *epilogue_arguments(task, outputs)),
                *(Local(tile), Local(products), Local(4 * BLOCK)),
            ),
            (strips, math.ceil(blocks / share), n),
            (1, 1, 1),
        )
        yield Form(
            f"winograd {together}x{BLOCK * at_once}",
            (launch,) if kept else (transform, launch),
            () if kept else (scratch,),
        )
