"""Values in a device's memory: how each lies there, and the tasks that compute them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wcodec.infer.graph import Op, Step
from wcodec.model import DTYPES
from wcodec.opencl.layout import PackedLayout

BLOCK = 16
"""Channels that lie together where images are in blocks."""

IN_BLOCKS = PackedLayout(1, BLOCK)
"""How images lie in blocks: (N, C, H, W) as (N, C / 16, H, W, 16)."""

Storage = Literal["f16", "f32", "i32"]
"""What numbers are stored as, by wcodec's names of dtypes."""


@dataclass(frozen=True)
class Place:
    """A value's numbers in memory. `memory` names what they lie in: two places of one memory are one value's.

    In blocks, an image of shape (N, C, H, W) lies as (N, C / 16, H, W, 16); otherwise in C order.
    """

    memory: str
    shape: tuple[int, ...]
    storage: Storage
    blocks: bool = False

    @property
    def elements(self) -> int:
        """Numbers in memory, those that fill up blocks included."""
        return math.prod(IN_BLOCKS.packed_shape(self.shape) if self.blocks else self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return DTYPES[self.storage]

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize


Beyond = Literal["nothing", "constant", "edge", "reflect"]


@dataclass(frozen=True)
class Move:
    """Part of a source to part of a destination, by axes.

    Along its axis a, the source is sampled at starts[a] + steps[a] * i, with i the place along the axis along[a] of
    the moved part, or 0 where that is -1. The part has the lengths `extent` and begins in the destination at `to`.
    What is sampled beyond the source's ends is `value`, its edge or its reflection.
    """

    along: tuple[int, ...]
    starts: tuple[int, ...]
    steps: tuple[int, ...]
    to: tuple[int, ...]
    extent: tuple[int, ...]
    beyond: Beyond = "nothing"
    value: float = 0.0


@dataclass(frozen=True)
class Pair:
    """Two tasks done as one: what the first makes, only the second reads, and need not be stored."""

    first: Task
    second: Task

    @property
    def between(self) -> Place:
        return self.first.output


@dataclass(frozen=True)
class Task:
    """One operation on values in memory. An input is a place, or the name of a constant, "" where left out.

    `operand` is the value that the epilogue adds or multiplies by, where it does; `slopes` the constant of a prelu.
    """

    name: str
    op: Op | Move | Pair
    inputs: tuple[Place | str, ...]
    output: Place
    epilogue: tuple[Step, ...] = ()
    operand: Place | None = None
    slopes: str = ""

    @property
    def x(self) -> Place:
        """The first input."""
        first = self.inputs[0]
        assert isinstance(first, Place)
        return first

    def reads(self) -> tuple[Place, ...]:
        """The places that must hold what they should before this runs."""
        places = [given for given in self.inputs if isinstance(given, Place)]
        return (*places, self.operand) if self.operand is not None else (*places,)


def blocks_of(channels: int) -> int:
    return -(-channels // BLOCK)
