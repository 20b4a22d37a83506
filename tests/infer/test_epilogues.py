"""What nodes do to their results before these are stored: every order of steps, by every kernel that takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.support.graphs import Sketch, run_on
from tests.support.infer import distance, precisions
from tests.support.opencl import as_gpu
from wcodec.infer import choice
from wcodec.infer.forms.launch import Precision
from wcodec.infer.graph import Binary, Convolution, Dense, Graph, Map, MatMul, Op, Pool, Step
from wcodec.infer.reference import Reference
from wcodec.opencl.device import Device

ADD, MUL, PRELU = Step("add", operand="other"), Step("mul", operand="other"), Step("prelu", operand="slopes")
RELU, CLIP, LEAKY = Step("relu"), Step("clip", -0.4, 0.9), Step("leaky_relu", 0.2)
SILU, SIGMOID, TANH, EXP, SWISH = Step("silu"), Step("sigmoid"), Step("tanh"), Step("exp"), Step("hard_swish")

EPILOGUES: tuple[tuple[Step, ...], ...] = (
    *((), (RELU,), (CLIP,), (LEAKY,), (PRELU,), (SILU,), (ADD,), (MUL,), (Step("neg"),)),
    *((RELU, ADD), (ADD, RELU), (CLIP, ADD, RELU), (ADD, CLIP, LEAKY), (LEAKY, ADD)),
    *((SILU, ADD), (ADD, SILU), (SILU, MUL), (MUL, SIGMOID), (RELU, MUL), (SWISH, ADD, RELU)),
    *((PRELU, ADD), (ADD, PRELU), (MUL, PRELU), (RELU, ADD, RELU, SIGMOID), (SIGMOID, ADD, TANH, CLIP)),
    *((EXP, Step("sqrt"), ADD, Step("hard_sigmoid", 0.3, 0.4)),),
)

Shape = tuple[int, ...]


def convolution(side: int, groups: int = 1, **more: Any) -> Convolution:
    return Convolution((side, side), pads=(side // 2,) * 4, groups=groups, **more)


MAKERS: dict[str, tuple[Op, Shape, tuple[Shape, ...], Shape]] = {
    "convolution": (convolution(3), (2, 40, 6, 14), ((40, 40, 3, 3),), (2, 40, 6, 14)),
    "convolution with a rest": (convolution(3), (1, 20, 5, 19), ((36, 20, 3, 3),), (1, 36, 5, 19)),
    "places": (convolution(1), (2, 32, 4, 7), ((20, 32, 1, 1),), (2, 20, 4, 7)),
    "depthwise": (convolution(3, 20), (2, 20, 5, 9), ((20, 1, 3, 3),), (2, 20, 5, 9)),
    "any convolution": (
        Convolution((2, 2), (2, 2), transposed=True),
        *((1, 20, 3, 4), ((20, 20, 2, 2),), (1, 20, 6, 8)),
    ),
    "dense": (Dense(rows_first=True), (3, 50), ((37, 50),), (3, 37)),
    "matmul": (MatMul(), (2, 5, 20), ((2, 20, 19),), (2, 5, 19)),
    "pool": (Pool("max", (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), (2, 20, 5, 6), (), (2, 20, 5, 6)),
    "images": (Map(), (2, 20, 5, 6), (), (2, 20, 5, 6)),
    "rows": (Map(), (3, 37), (), (3, 37)),
    "two values": (Binary("sub"), (3, 37), ((3, 37),), (3, 37)),
    "two values, broadcast": (Binary("sub"), (3, 7, 5), ((7, 1),), (3, 7, 5)),
}

BOUNDS: Mapping[Precision, float] = {"storage": 3e-3, "half": 2e-2, "float": 2e-5}


def graph_of(maker: str) -> Graph:
    """A node of one operation for each epilogue that it may have, all of the same input."""
    op, shape, constants, result = MAKERS[maker]
    sketch = Sketch(3)
    sketch.shapes["x"] = shape
    names = tuple(sketch.constant(*size, size=float(np.prod(size[1:])) ** -0.5) for size in constants)
    names += ("", "") if isinstance(op, Convolution | Dense) else ()
    sketch.constants["slopes"] = np.linspace(-1, 1, result[1], dtype=np.float32)
    other = sketch.add(Map(), ("y",), result)
    sketch.shapes["y"] = result
    with_slopes = isinstance(op, Convolution | Pool) or maker == "images"
    outputs = [
        sketch.add(
            op, ("x", *names), result, *(Step(s.kind, s.a, s.b, s.operand.replace("other", other)) for s in steps)
        )
        for steps in EPILOGUES
        if with_slopes or PRELU not in steps
    ]
    return sketch.graph(tuple(outputs), inputs=("x", "y"))


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("as_cpu", [True, False])
def test_every_kernel_does_every_epilogue(device: Device, monkeypatch, maker: str, as_cpu: bool) -> None:
    graph = graph_of(maker)
    rng = np.random.default_rng(2)
    inputs = [rng.standard_normal(graph.shape(name)).astype(np.float32) for name in graph.inputs]
    wanted = Reference(graph, dict(graph.constants))(*inputs)  # type: ignore[arg-type]
    own = device if as_cpu else as_gpu(device)
    for precision in precisions(own):
        counts = {1}
        number = 0
        while number < max(counts):

            def pick(key: str, forms: list[Any], number: int = number, counts: set[int] = counts) -> Any:
                counts.add(len(forms))
                return forms[min(number, len(forms) - 1)]

            monkeypatch.setattr(choice, "remembered_form", pick)
            monkeypatch.setattr(choice, "_WORTH_TRYING", 0)
            found = run_on(own, graph, precision, inputs)
            for node, array, want in zip(graph.nodes[1:], found, wanted, strict=True):
                kinds = [step.kind for step in node.epilogue]
                assert distance(array, want.numpy()) <= BOUNDS[precision], (precision, number, kinds)
            number += 1
            if precision != "float":
                break
