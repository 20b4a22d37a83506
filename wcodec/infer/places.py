"""Values in a device's memory: how each lies there, and the tasks that compute them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from wcodec.infer.graph import Op, Step

BLOCK = 16
"""Channels that lie together where images are in blocks."""

Storage = Literal["f16", "f32", "i32"]
"""What numbers are stored as."""

BYTES: dict[Storage, int] = {"f16": 2, "f32": 4, "i32": 4}


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
        if not self.blocks:
            return math.prod(self.shape)
        n, channels, *size = self.shape
        return n * blocks_of(channels) * BLOCK * math.prod(size)

    @property
    def nbytes(self) -> int:
        return self.elements * BYTES[self.storage]


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
class Task:
    """One operation on values in memory. An input is a place, or the name of a constant, "" where left out.

    `operand` is the value that the epilogue adds or multiplies by, where it does; `slopes` the constant of a prelu.
    """

    name: str
    op: Op | Move
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
