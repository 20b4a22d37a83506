"""What a kernel is started with, before there is any memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wcodec.infer.graph import Step, StepKind
from wcodec.infer.places import Place, Task

Precision = Literal["storage", "half", "float"]

Packing = Literal["rows", "swapped", "winograd", "scale", "bias", "slopes"]


@dataclass(frozen=True)
class Weight:
    """A constant as kernels want it.

    rows, swapped: packed in blocks of 16 of its first, or its second axis, as the precision stores numbers. winograd:
    `matrix`, whose packing is rows, as kernels/winograd.cl transforms it for results of `length` places a side. scale,
    bias, slopes: `length` numbers, f32, filled up to whole blocks; where the constant is "", ones or zeros. A scale
    takes in what the layer's own weight, `matrix`, is short of.
    """

    constant: str
    packing: Packing
    length: int = 0
    matrix: Weight | None = None


@dataclass(frozen=True)
class Local:
    """Local memory for so many numbers that are computed with."""

    numbers: int


Argument = Place | Weight | Local | np.generic | None


@dataclass(frozen=True)
class Launch:
    """One kernel over `size` work-items, in groups of `group`, or as the driver likes.

    `source` is a file in wcodec/opencl/kernels. `task` says how numbers are stored and computed with, where that is not
    the task whose form this is of.
    """

    source: str
    kernel: str
    defines: tuple[str, ...]
    arguments: tuple[Argument, ...]
    size: tuple[int, ...]
    group: tuple[int, ...] | None = None
    task: Task | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The files of its program, in order."""
        return ("infer.cl", *_NEEDED.get(self.source, ()), self.source)


_NEEDED = {"conv.cl": ("direct.cl",), "conv_depthwise.cl": ("direct.cl",)}
"""What kernels' files follow, besides the first."""


@dataclass(frozen=True)
class Form:
    """A way to compute a task: launches one after the other, and memory that only they need."""

    name: str
    launches: tuple[Launch, ...]
    scratch: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Target:
    """What of a device and of the engine's settings forms depend on. `local` is in bytes.

    `keeps_more` says that weights may take more memory where that saves time.
    """

    is_cpu: bool
    units: int
    local: int
    vector: int
    native_half: bool
    keeps_more: bool
    precision: Precision

    @property
    def real_bytes(self) -> int:
        """Bytes of a number that is computed with."""
        return 2 if self.precision == "half" else 4


def ints(*values: int) -> np.void:
    """A struct of ints."""
    return np.array([(values,)], np.dtype([("fields", "<i4", (len(values),))]))[0]  # type: ignore[no-any-return]


_KINDS: tuple[StepKind, ...] = (
    *("relu", "clip", "leaky_relu", "prelu", "hard_sigmoid", "hard_swish", "neg", "add", "mul"),
    *("sigmoid", "silu", "tanh", "exp", "sqrt"),
)
"""By their numbers in kernels/infer.cl."""

SMOOTH = frozenset(_KINDS[9:])
"""Those that programs have only where they are needed, since building them takes long."""

_STEPS = 4

_EPILOGUE = np.dtype(
    [
        *((bound, "<f4") for bound in ("low", "high", "last_low", "last_high")),
        *(("adds", "<i4"), ("count", "<i4")),
        *(("kind", "<i4", (_STEPS,)), ("a", "<f4", (_STEPS,)), ("b", "<f4", (_STEPS,))),
    ]
)


def epilogue_of(steps: tuple[Step, ...]) -> np.void:
    """The struct `Epilogue` of kernels/infer.cl."""
    made = np.zeros(1, _EPILOGUE)[0]
    made["low"], made["high"], steps = _taken_bounds(steps)
    made["adds"] = bool(steps) and steps[0].kind == "add"
    if made["adds"]:
        made["last_low"], made["last_high"], steps = _taken_bounds(steps[1:])
    made["count"] = len(steps)
    for n, step in enumerate(steps):
        made["kind"][n], made["a"][n], made["b"][n] = _KINDS.index(step.kind), step.a, step.b
    return made  # type: ignore[no-any-return]


def _taken_bounds(steps: tuple[Step, ...]) -> tuple[float, float, tuple[Step, ...]]:
    """The bounds that the first step sets, and the other steps."""
    if not steps or steps[0].kind not in ("relu", "clip"):
        return -np.inf, np.inf, steps
    return (0.0, np.inf, steps[1:]) if steps[0].kind == "relu" else (steps[0].a, steps[0].b, steps[1:])


def epilogue_arguments(task: Task, channels: int) -> tuple[Argument, ...]:
    """What kernels take to finish a result: the steps, the operand and the slopes."""
    slopes = Weight(task.slopes, "slopes", channels) if task.slopes else None
    return epilogue_of(task.epilogue), task.operand, slopes


def layer_arguments(task: Task, channels: int, packing: Packing, groups: int = 1) -> tuple[Argument, ...]:
    """The weight, the scale and the bias of a layer; `groups` of a swapped weight that is in groups."""
    _, weight, scale, bias = task.inputs
    assert isinstance(weight, str)
    assert isinstance(scale, str)
    assert isinstance(bias, str)
    matrix = Weight(weight, packing, groups if groups > 1 else 0)
    return matrix, Weight(scale, "scale", channels, matrix), Weight(bias, "bias", channels)
