"""Convolutions 3x3 by way of Winograd's minimal filtering."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from wcodec.infer.forms.cuts import CACHED, share_of
from wcodec.infer.forms.launch import Form, Launch, Local, Target, Weight, epilogue_arguments, ints, layer_arguments
from wcodec.infer.graph import Convolution
from wcodec.infer.places import BLOCK, Place, Task, blocks_of

_OUT = (4, 2)
"""Places of the result, down and across, that are made from one tile of the input, which is two places larger."""

_TILES = ((8, 2), (7, 2), (4, 4))
"""Tiles by blocks of output channels whose sums fill the registers of a CPU with 32 vectors of 16."""

_FEW = 4
"""Tiles that are only taken together where more do not fit."""

_LEAST_CHANNELS = 32
"""Channels of input and output below which transforming tiles takes longer than it saves."""

_KEPT = 1 << 20
"""Numbers of transformed weights up to which they are kept: of small layers, transforming them takes a good part."""


def transformed_bytes(weight: Weight, shape: tuple[int, ...]) -> int:
    """What a transformed weight of a convolution takes, of which this is the shape, (outputs, channels, 3, 3)."""
    return 4 * _numbers(weight.length, *shape[:2])


def _numbers(out: int, outputs: int, channels: int) -> int:
    return (out + 2) ** 2 * blocks_of(outputs) * BLOCK * channels


def winograd_forms(task: Task, op: Convolution, target: Target) -> Iterator[Form]:
    """The ways there are: none but for 3x3 kernels of stride 1, computed with floats, on a CPU."""
    channels, outputs = task.x.shape[1], task.output.shape[1]
    if (op.kernel, op.strides, op.dilations, op.groups) != ((3, 3), (1, 1), (1, 1), 1) or op.transposed:
        return
    if min(channels, outputs) < _LEAST_CHANNELS or target.precision == "half" or target.vector < BLOCK:
        return
    least = math.inf
    for out in _OUT:
        # small tiles are for results that waste much of large ones, and where those of many channels fit no cache
        products = (out + 2) ** 2 * math.prod(_tiles(task, out))
        forms = [*_forms(task, op, target, out)] if products < least else []
        least = products if forms else least
        yield from forms


def _tiles(task: Task, out: int) -> tuple[int, int]:
    """How many tiles there are, down and across."""
    height, width = task.output.shape[2:]
    return -(-height // out), -(-width // out)


def _forms(task: Task, op: Convolution, target: Target, out: int) -> Iterator[Form]:
    n, channels, height, width = task.x.shape
    outputs, out_height, out_width = task.output.shape[1:]
    down, across = _tiles(task, out)
    tiles, places = down * across, (out + 2) ** 2
    blocks, in_blocks = blocks_of(outputs), blocks_of(channels)
    numbers = _numbers(out, outputs, channels)
    matrix, scale, bias = layer_arguments(task, outputs, "rows")
    assert isinstance(matrix, Weight)
    kept = Weight(matrix.constant, "winograd", out, matrix) if target.keeps_more and numbers <= _KEPT else None
    scratch = Place(f"transformed:{task.output.memory}", (numbers,), "f32")
    transformed = kept or scratch
    for together, at_once in _cuts(places * in_blocks * BLOCK, places * BLOCK, tiles, target):
        tile, products = places * in_blocks * BLOCK * together, places * BLOCK * together * at_once
        strips = -(-tiles // together)
        share = share_of(blocks, at_once, strips * n, target)
        top, left, _, _ = op.pads
        sizes = (height, width, out_height, out_width, channels, in_blocks, blocks, top, left, across, tiles, share)
        defines = (f"OUT={out}", f"TILES={together}", f"AT_ONCE={at_once}")
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
            f"winograd {out}x{out} {together}x{BLOCK * at_once}",
            (launch,) if kept else (transform, launch),
            () if kept else (scratch,),
        )


def _cuts(tile: int, products: int, tiles: int, target: Target) -> list[tuple[int, int]]:
    """The ways to fill registers that local memory and caches allow, of numbers of a tile, and of its sums."""
    fitting = [
        (together, at_once)
        for together, at_once in _TILES
        if together <= tiles
        and 4 * tile * together <= CACHED
        and 4 * (tile * together + products * together * at_once + 4 * BLOCK) <= target.local
    ]
    return [cut for cut in fitting if cut[0] > _FEW] or fitting
