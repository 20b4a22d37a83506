"""Fewer nodes that compute the same: what follows a node in the same place is done before its result is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from wcodec.infer.graph import Binary, Convolution, Dense, Graph, Map, MatMul, Node, Pad, Pool, Reshape, Step
from wcodec.infer.lowering.site import Draft
from wcodec.model import Array

_WITH_EPILOGUE = (Convolution, Dense, MatMul, Binary, Map, Pool)
"""Nodes that can do more to their result."""

_LONGEST = 4
"""Steps of an epilogue."""


def fused(graph: Graph, read: Callable[[str], Array]) -> Graph:
    """The same function in fewer nodes; `read` gives the numbers of constants."""
    work = _Work(graph, read)
    for rewrite in (_swish, _absorbed_padding, _absorbed_affine, _residual, _step, _reshaped):
        work.sweep(rewrite)
    return work.finish()


class _Work:
    """A graph being rewritten: which node makes a value, and how often it is read."""

    def __init__(self, graph: Graph, read: Callable[[str], Array]) -> None:
        self.graph, self._read = graph, read
        self._draft = Draft(list(graph.nodes), dict(graph.values), dict(graph.constants))
        self.nodes, self.constants = self._draft.nodes, self._draft.constants
        self._count()

    def _count(self) -> None:
        self.makers = {node.output: node for node in self.nodes}
        self.uses = replace(self.graph, nodes=tuple(self.nodes)).uses()

    def read(self, name: str) -> Array:
        """The numbers of a constant."""
        constant = self.constants[name]
        return constant if isinstance(constant, np.ndarray) else self._read(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._draft.shape(name)

    def sweep(self, rewrite: Callable[[_Work, Node], Node | None]) -> None:
        """Go through the nodes in order, putting what a rewriting makes of one in its place.

        A rewriting takes in what comes before a node, so that its inputs are made by then. What was taken in is read
        by nothing any more, and left out.
        """
        for place, node in enumerate(self.nodes):
            changed = rewrite(self, node)
            while changed is not None:
                self.nodes[place] = changed
                self._count()
                changed = rewrite(self, changed)
        used = set(self.graph.outputs)
        for node in reversed(self.nodes):
            if node.output in used:
                used.update(node.reads())
        self.nodes[:] = [node for node in self.nodes if node.output in used]
        self._count()

    def before(self, name: str) -> Node | None:
        """The node that makes a value for one reader only."""
        return self.makers.get(name) if self.uses.get(name) == 1 else None

    def constant(self, base: str, array: Array) -> str:
        name = self._draft.unused_name(base)
        self.constants[name] = np.ascontiguousarray(array, np.float32)
        return name

    def finish(self) -> Graph:
        read = {name for node in self.nodes for name in node.reads()}
        values = {node.output for node in self.nodes} | set(self.graph.inputs)
        return replace(
            self.graph,
            nodes=tuple(self.nodes),
            values={name: value for name, value in self.graph.values.items() if name in values},
            constants={name: constant for name, constant in self.constants.items() if name in read},
        )


def _swish(work: _Work, node: Node) -> Node | None:
    """x times a sigmoid of x."""
    if node.op != Binary("mul") or node.epilogue:
        return None
    for x, gate in (node.inputs, node.inputs[::-1]):
        maker = work.before(gate)
        if maker is None or not isinstance(maker.op, Map) or maker.inputs != (x,) or len(maker.epilogue) != 1:
            continue
        step = maker.epilogue[0]
        if step.kind == "sigmoid":
            return replace(node, op=Map(), inputs=(x,), epilogue=(Step("silu"),))
        if step.kind == "hard_sigmoid" and abs(step.a - 1 / 6) < 1e-6 and step.b == 0.5:
            return replace(node, op=Map(), inputs=(x,), epilogue=(Step("hard_swish"),))
    return None


def _absorbed_padding(work: _Work, node: Node) -> Node | None:
    """Zeros around images as the convolution's own padding."""
    if not isinstance(node.op, Convolution) or node.op.transposed:
        return None
    maker = work.before(node.inputs[0])
    if maker is None or not isinstance(maker.op, Pad) or (maker.op.mode, maker.op.value) != ("constant", 0.0):
        return None
    before = maker.op.before
    inner, outer = work.shape(maker.inputs[0]), work.shape(maker.output)
    after = [o - i - b for i, o, b in zip(inner, outer, before, strict=True)]
    if any(before[:2]) or any(after[:2]):
        return None
    top, left, bottom, right = node.op.pads
    pads = (top + before[2], left + before[3], bottom + after[2], right + after[3])
    return replace(node, op=replace(node.op, pads=pads), inputs=(maker.inputs[0], *node.inputs[1:]))


def _absorbed_affine(work: _Work, node: Node) -> Node | None:
    """A factor or a summand for each channel as the layer's own scale and bias."""
    if not isinstance(node.op, Binary) or node.epilogue or node.op.kind not in ("add", "sub", "mul", "div"):
        return None
    for x, other in (node.inputs, node.inputs[::-1]):
        maker = work.before(x)
        if maker is None or not isinstance(maker.op, Convolution | Dense) or maker.epilogue:
            continue
        swapped = x is not node.inputs[0]
        if work.shape(x) != work.shape(node.output) or (swapped and node.op.kind in ("sub", "div")):
            continue
        vector = _channels(work, other, x, maker)
        if vector is not None:
            return _with_affine(work, maker, node, vector)
    return None


def _channels(work: _Work, constant: str, value: str, maker: Node) -> Array | None:
    """The numbers of a constant that has one for each of a layer's outputs, or one for all."""
    shape = work.constants[constant].shape if constant in work.constants else None
    if shape is None:
        return None
    rank = len(work.shape(value))
    channels = work.shape(value)[axis := 1 if isinstance(maker.op, Convolution) else rank - 1]
    aligned = (1,) * (rank - len(shape)) + shape
    if any(length != 1 for place, length in enumerate(aligned) if place != axis):
        return None
    return np.broadcast_to(work.read(constant).reshape(-1), (channels,)).astype(np.float32)


def _with_affine(work: _Work, maker: Node, node: Node, vector: Array) -> Node:
    assert isinstance(node.op, Binary)
    x, weight, scale, bias = maker.inputs
    kind, name = node.op.kind, node.output
    if kind in ("add", "sub"):
        offset = vector if kind == "add" else -vector
        bias = work.constant(f"{name}/bias", offset + work.read(bias) if bias else offset)
    else:
        factor = vector if kind == "mul" else 1 / vector
        scale = work.constant(f"{name}/scale", factor * work.read(scale) if scale else factor)
        if bias:
            bias = work.constant(f"{name}/bias", factor * work.read(bias))
    return replace(maker, inputs=(x, weight, scale, bias), output=name)


def _residual(work: _Work, node: Node) -> Node | None:
    """A sum or product of two values of one shape, done by the node that makes the later of the two."""
    if not isinstance(node.op, Binary) or node.op.kind not in ("add", "mul") or node.inputs[0] == node.inputs[1]:
        return None
    order = {made.output: place for place, made in enumerate(work.nodes)}
    for x, other in sorted((node.inputs, node.inputs[::-1]), key=lambda pair: -order.get(pair[0], -1)):
        maker = _taker(work, x)
        if maker is None or other in work.constants:
            continue
        # at the edges of the graph there are only floats, so values of one shape are of one kind
        if work.shape(x) == work.shape(other) == work.shape(node.output) and not _has_operand(maker):
            return _extended(maker, node, Step(node.op.kind, operand=other))
    return None


def _step(work: _Work, node: Node) -> Node | None:
    """An activation, done by the node before it."""
    if not isinstance(node.op, Map):
        return None
    maker = _taker(work, node.inputs[0])
    return None if maker is None else _extended(maker, node)


def _taker(work: _Work, name: str) -> Node | None:
    maker = work.before(name)
    return maker if maker is not None and isinstance(maker.op, _WITH_EPILOGUE) else None


def _has_operand(node: Node) -> bool:
    return any(step.kind in ("add", "mul") for step in node.epilogue)


def _extended(maker: Node, node: Node, *steps: Step) -> Node | None:
    """A node that does another's steps too, if they are not too many; kernels take one operand and one prelu."""
    epilogue = (*maker.epilogue, *steps, *node.epilogue)
    operands = [step.kind for step in epilogue if step.operand]
    if "prelu" in operands and not isinstance(maker.op, Convolution | Pool):
        return None
    if len(epilogue) > _LONGEST or operands.count("prelu") > 1 or len(operands) - operands.count("prelu") > 1:
        return None
    return replace(maker, output=node.output, epilogue=epilogue)


def _reshaped(work: _Work, node: Node) -> Node | None:
    """One reshaping after another."""
    maker = work.makers.get(node.inputs[0]) if isinstance(node.op, Reshape) else None
    if maker is None or not isinstance(maker.op, Reshape):
        return None
    return replace(node, inputs=maker.inputs)
