"""Graphs run by the reference executor: gradients, what is kept for how long, and what is refused."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any, get_args

import ml_dtypes
import numpy as np
import pytest
import torch

from wcodec.errors import MismatchError, MissingDependencyError
from wcodec.infer.graph import (
    Binary,
    Convolution,
    Dense,
    Graph,
    LocalNorm,
    Map,
    Node,
    Op,
    Pad,
    Pool,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Step,
    StepKind,
    Transpose,
    Value,
)
from wcodec.infer.reference import OPERATIONS, STEPS, Reference
from wcodec.model import Array


def drawn(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def test_every_operation_and_step_is_there() -> None:
    assert set(OPERATIONS) == set(get_args(Op))
    assert set(STEPS) == set(get_args(StepKind))


# Gradients


def small_graph() -> tuple[Graph, dict[str, torch.Tensor], torch.Tensor]:
    """A graph of many operations, its constants, and an input, all in double and with gradients."""
    shapes = {
        "x": (2, 4, 5, 6),
        "convolved": (2, 6, 5, 4),
        "pooled": (2, 6, 3, 2),
        "resized": (2, 6, 5, 4),
        "mean": (2, 6, 2, 2),
        "grown": (2, 2, 4, 4),
        "padded": (2, 2, 6, 7),
        "part": (2, 2, 3, 6),
        "normal": (2, 2, 3, 6),
        "flat": (2, 36),
        "dense": (2, 3),
        "y": (2, 3),
    }
    constants = {"w": (6, 2, 3, 3), "s": (6,), "b": (6,), "slopes": (6,), "t": (6, 1, 2, 2), "d": (36, 3), "c": (3,)}
    prelu, join = Step("prelu", operand="slopes"), Step("add", operand="convolved")
    smooth = (Step("silu"), Step("mul", operand="convolved"), Step("tanh"))
    grow = Convolution((2, 2), (2, 2), (1, 1), (0, 0, 0, 0), 2, transposed=True)
    nodes: list[tuple[str, Op, str, tuple[Step, ...]]] = [
        ("x w s b", Convolution((3, 3), (1, 1), (1, 2), (1, 2, 1, 0), groups=2), "convolved", (prelu,)),
        ("convolved", Pool("max", (2, 2), (2, 2), (1, 1), (0, 0, 0, 0)), "pooled", (Step("hard_swish"),)),
        ("pooled", Resize("linear", (0.6, 0.5), (-0.2, -0.25)), "resized", (join, *smooth)),
        ("resized", Pool("mean", (3, 3), (2, 2), (1, 1), (1, 0, 0, 1)), "mean", (Step("leaky_relu", 0.2),)),
        ("mean t", grow, "grown", (Step("clip", -0.9, 0.9),)),
        ("grown", Pad((0, 0, 1, 2), "reflect"), "padded", ()),
        ("padded", Slice((0, 1, 5, 0), (1, -1, -2, 1)), "part", ()),
        ("part", LocalNorm(3, 0.5, 0.75, 1), "normal", (Step("hard_sigmoid", 0.3, 0.5),)),
        ("normal", Reshape(), "flat", ()),
        ("flat d  c", Dense(False), "dense", (Step("sigmoid"),)),
        ("dense", Softmax(1, log=True), "y", (Step("neg"),)),
    ]
    draws = torch.Generator().manual_seed(5)
    numbers = {
        name: torch.randn(shape, generator=draws, dtype=torch.float64, requires_grad=True)
        for name, shape in (constants | {"x": shapes["x"]}).items()
    }
    graph = Graph(
        ("x",),
        ("y", "grown"),
        tuple(Node(out, op, tuple(names.split(" ")), out, steps) for names, op, out, steps in nodes),
        {name: Value(shape) for name, shape in shapes.items()},
        {name: np.empty(shape) for name, shape in constants.items()},
    )
    return graph, numbers, numbers.pop("x")


def test_gradients_flow_to_inputs_and_constants() -> None:
    graph, constants, x = small_graph()

    def run(x: torch.Tensor, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return Reference(graph, dict(zip(constants, given, strict=True)), dtype=torch.float64)(x)

    assert torch.autograd.gradcheck(run, (x, *constants.values()), fast_mode=True)


def test_gradients_flow_to_values_between() -> None:
    graph, constants, x = small_graph()
    seen: dict[str, torch.Tensor] = {}

    def watch(node: Node, result: torch.Tensor) -> None:
        seen[node.name] = result
        result.retain_grad()

    outputs = Reference(graph, constants, dtype=torch.float64).run({"x": x}, watch)
    assert list(outputs) == ["y", "grown"]
    (outputs["y"].sum() + outputs["grown"].sum()).backward()
    assert list(seen) == [node.name for node in graph.nodes]
    for value in seen.values():
        assert value.grad is not None
        assert value.grad.abs().sum() > 0


# Running


def chain(*outputs: str) -> Graph:
    """x, then a = x + c, unread = -x, b = -a, d = a * b, e = -d."""
    neg = (Step("neg"),)
    nodes = (
        Node("sum", Binary("add"), ("x", "c"), "a"),
        Node("in vain", Map(), ("x",), "unread", neg),
        Node("negative", Map(), ("a",), "b", neg),
        Node("product", Binary("mul"), ("a", "b"), "d"),
        Node("last", Map(), ("d",), "e", neg),
    )
    values = {name: Value((2, 3)) for name in ["x", *(node.output for node in nodes)]}
    return Graph(("x",), outputs, nodes, values, {"c": drawn(2, 3)})


def test_watch_may_replace_results() -> None:
    graph, x = chain("d", "a"), torch.ones(2, 3)
    runner = Reference(graph, {"c": np.ones((2, 3))})
    outputs = runner.run({"x": x}, lambda node, result: result + 1 if node.name == "sum" else None)
    assert torch.equal(outputs["a"], 3 * x)
    assert torch.equal(outputs["d"], -9 * x)


def test_values_go_when_nothing_needs_them() -> None:
    alive: list[set[str]] = []
    seen: dict[str, weakref.ref[torch.Tensor]] = {}

    def watch(node: Node, result: torch.Tensor) -> None:
        alive.append({name for name, value in seen.items() if value() is not None})
        seen[node.output] = weakref.ref(result)

    gc.disable()
    try:
        outputs = Reference(chain("b"), {"c": drawn(2, 3)}).run({"x": torch.ones(2, 3)}, watch)
        left = {name for name, value in seen.items() if value() is not None}
    finally:
        gc.enable()
    assert alive == [set(), {"a"}, {"a"}, {"a", "b"}, {"b", "d"}]
    assert left == set(outputs) == {"b"}


def test_outputs_may_be_inputs_and_constants() -> None:
    x = torch.ones(2, 3)
    c = torch.full((2, 3), 2.0)
    found = Reference(chain("x", "c", "b"), {"c": c})(x)
    assert found[0] is x
    assert found[1] is c
    assert torch.equal(found[2], -3 * x)


@pytest.mark.parametrize("kind", [np.float16, np.float64, ">f4", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_arrays_of_any_dtype_are_taken(kind: Any) -> None:
    numbers = np.arange(6).astype(kind).reshape(3, 2).T[:, ::-1]
    numbers.flags.writeable = False
    for dtype in [torch.float32, torch.float64]:
        [c] = Reference(chain("c"), {"c": numbers}, dtype=dtype)(torch.ones(2, 3))
        assert c.dtype == dtype
        assert c.tolist() == [[4, 2, 0], [5, 3, 1]]


def test_whole_numbers_stay_whole_and_are_divided_as_in_onnx() -> None:
    whole, divisors = Value((4,), "i64"), np.array([2, 2, -2, -2])
    graph = Graph(
        ("a",),
        ("y",),
        (Node("quotient", Binary("div"), ("a", "b"), "y"),),
        {"a": whole, "y": whole},
        {"b": divisors},
    )
    [found] = Reference(graph, {"b": divisors})(np.array([7, -7, 7, -7]))
    assert found.dtype == torch.int64
    assert found.tolist() == [3, -3, -3, 3]


def test_what_does_not_fit_the_graph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = chain("d"), torch.ones(2, 3)
    with pytest.raises(MismatchError, match=r"constants \['c'\]"):
        Reference(graph, {})
    with pytest.raises(MismatchError, match=r"constant 'c' is of shape \(3, 2\)"):
        Reference(graph, {"c": drawn(3, 2)})
    runner = Reference(graph, {"c": drawn(2, 3)})
    with pytest.raises(MismatchError, match="1 inputs, not 2"):
        runner(x, x)
    with pytest.raises(MismatchError, match=r"inputs \['x'\]"):
        runner.run({})
    with pytest.raises(MismatchError, match="input 'x' is of shape"):
        runner(x.T)
    node = Node("the node", Transpose((1, 0)), ("x",), "y")
    wrong = Graph(("x",), ("y",), (node,), {name: Value((2, 3)) for name in "xy"})
    with pytest.raises(MismatchError, match=r"the result of 'the node' is of shape \(3, 2\)"):
        Reference(wrong, {})(x)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'wcodec\[torch\]'"):
        Reference(graph, {"c": drawn(2, 3)})
