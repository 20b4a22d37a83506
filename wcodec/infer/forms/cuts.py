"""How convolutions are cut into pieces, one for each work-item or group of them."""

from __future__ import annotations

from wcodec.infer.forms.launch import Target
from wcodec.infer.graph import Convolution
from wcodec.infer.places import BLOCK, Task

_STRIPS = ((14, 1), (13, 1), (12, 1), (10, 1), (8, 2), (7, 2), (4, 4), (2, 6), (1, 8))
"""Places of the result by blocks of channels whose sums fill the registers of a CPU with 32 vectors of 16."""

_NARROW_STRIPS = ((6, 1), (5, 1), (4, 1), (2, 2), (1, 4))
"""The same, of a CPU whose vectors are half as wide."""

CACHED = 384 << 10
"""Bytes of a tile up to which it stays in a core's cache beside weights."""

LEAST_SHARE = 8
"""Work-items for each core, so that all are busy until the end."""


def geometry_defines(op: Convolution) -> tuple[str, ...]:
    """A kernel's sides, strides and dilations as definitions."""
    return (
        *(f"KERNEL_{axis}={n}" for axis, n in zip("HW", op.kernel, strict=True)),
        *(f"STRIDE_{axis}={n}" for axis, n in zip("HW", op.strides, strict=True)),
        *(f"DILATION_{axis}={n}" for axis, n in zip("HW", op.dilations, strict=True)),
    )


def is_alone(op: Convolution) -> bool:
    """Whether a place of the result needs nothing but the same place of the input."""
    return (op.kernel, op.strides, op.pads) == ((1, 1), (1, 1), (0, 0, 0, 0))


def sides_of(task: Task, op: Convolution) -> tuple[int, int, int, int]:
    """Heights and widths of the input and the result. Where places need nothing of each other, an image is one row."""
    height, width, out_height, out_width = *task.x.shape[2:], *task.output.shape[2:]
    return (1, height * width, 1, height * width) if is_alone(op) else (height, width, out_height, out_width)


def strips_of(width: int, blocks: int, target: Target) -> list[tuple[int, int]]:
    """Places by blocks of channels to keep in registers, that first which wastes least of a row and of the blocks."""
    strips = _STRIPS if target.vector >= BLOCK else _NARROW_STRIPS

    def cost(strip: tuple[int, int]) -> float:
        columns, at_once = strip
        waste = (-(-width // columns) * columns / width) * (-(-blocks // at_once) * at_once / blocks)
        return waste / min(1.0, 0.7 + 0.025 * columns * at_once)

    return sorted(strips, key=cost)


def tile_size(op: Convolution, rows: int, columns: int) -> tuple[int, int]:
    """Places of the input, down and across, that so many of the result need."""
    down, across = (
        (places - 1) * stride + (kernel - 1) * dilation + 1
        for places, stride, kernel, dilation in zip((rows, columns), op.strides, op.kernel, op.dilations, strict=True)
    )
    return down, across


def share_of(blocks: int, at_once: int, pieces: int, target: Target) -> int:
    """Blocks of output channels of a work-item, some `at_once`: fewer than all where `pieces` leave cores idle."""
    wanted = -(-LEAST_SHARE * target.units // pieces)
    shares = max(1, min(wanted, blocks // at_once))
    return -(-blocks // shares // at_once) * at_once


def depthwise_columns(width: int) -> int:
    """Places of a row whose sums a depthwise kernel keeps in registers."""
    return next(size for size in (7, 8, 4, 2, 1) if size <= width)
