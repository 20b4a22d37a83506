"""Through an ONNX graph node by node: shapes inferred, what is constant evaluated, the rest translated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wcodec.errors import CorruptFileError, MismatchError, UnsupportedError
from wcodec.infer.graph import Graph, Stored, Value
from wcodec.infer.lowering.arithmetic import ARITHMETIC
from wcodec.infer.lowering.fuse import fused
from wcodec.infer.lowering.layers import LAYERS
from wcodec.infer.lowering.shapes import SHAPES
from wcodec.infer.lowering.site import Draft, Site
from wcodec.infer.lowering.source import OnnxSource, float_types, is_unsteady
from wcodec.model import FLOATS, Array

if TYPE_CHECKING:
    import onnx

_TRANSLATORS = {**LAYERS, **ARITHMETIC, **SHAPES}

_PASSED_ON = ("Identity", "Dropout", "Cast")
"""Operators whose output is their input, where there is nothing to train."""

OPERATORS = frozenset({*_TRANSLATORS, *_PASSED_ON, "Shape", "Constant"})
"""The ONNX operators that are understood, whatever their inputs; where all of those are constant, any is."""

_MOST = 2**31 - 1
"""Numbers that a value may have, which kernels count."""

_GROWN = 1 << 24
"""Numbers up to which constants are computed that are larger than what they are computed from."""

_EVALUATED = {"DequantizeLinear": 19, "QuantizeLinear": 19}
"""Operator sets from which on constants are evaluated, where older ones say the same."""

_SHOWN = 4096
"""Elements up to which a constant is shown to shape inference, which wants shapes, axes and sizes."""


def lower(source: OnnxSource, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """The lowered graph for inputs of these shapes, by name.

    Raises `UnsupportedError` for what the engine does not do, `MismatchError` for shapes that the model does not
    take, `CorruptFileError` for a graph that makes no sense.
    """
    source.check_operators(OPERATORS)
    walk = _Walk(source)
    return _told_apart(fused(walk.through(shapes), walk.read), source)


def _told_apart(graph: Graph, source: OnnxSource) -> Graph:
    """The graph with another name for each constant that is not what it was where the source was lowered before."""
    names = {
        name: own
        for name, constant in graph.constants.items()
        if not isinstance(constant, Stored) and (own := source.own_name(name, constant)) != name
    }
    if not names:
        return graph

    def renamed(name: str) -> str:
        return names.get(name, name)

    nodes = [
        replace(
            node,
            inputs=tuple(map(renamed, node.inputs)),
            epilogue=tuple(replace(step, operand=renamed(step.operand)) for step in node.epilogue),
        )
        for node in graph.nodes
    ]
    constants = {renamed(name): constant for name, constant in graph.constants.items()}
    return replace(graph, nodes=tuple(nodes), constants=constants)


class _Walk:
    """One way through a graph."""

    def __init__(self, source: OnnxSource) -> None:
        self._source = source
        self._draft = Draft(reserved=source.names)
        self._types: dict[str, onnx.TypeProto] = {}

    def through(self, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
        """The graph with nothing fused."""
        for name, shape in self._source.inputs.items():
            self._start(name, shape, shapes)
        for stub in self._source.proto.graph.initializer:
            self._declare(stub)
        for number, node in enumerate(self._source.proto.graph.node):
            self._translate(node, node.name or f"{node.op_type}_{number}")
        outputs = tuple(self._draft.resolve(name) for name in self._source.outputs)
        for own, name in zip(self._source.outputs, outputs, strict=True):
            if name not in self._draft.values:
                raise UnsupportedError(f"output {own!r}: is constant, or computed by no node")
        draft = self._draft
        return Graph(tuple(self._source.inputs), outputs, tuple(draft.nodes), draft.values, draft.constants)

    def read(self, name: str) -> Array:
        """The numbers of a constant, floats as f32."""
        return self._source.numbers(self._draft.constants[name])

    def _start(self, name: str, declared: tuple[int | str, ...], given: Mapping[str, tuple[int, ...]]) -> None:
        from onnx import TensorProto, helper

        shape = given.get(name)
        if shape is None:
            raise MismatchError(f"nothing was given for input {name!r} of shape {_shown(declared)}")
        fits = len(shape) == len(declared) and all(
            isinstance(want, str) or want == have for want, have in zip(declared, shape, strict=False)
        )
        if not fits or 0 in shape:
            raise MismatchError(f"input {name!r} is {_shown(declared)}, not {_shown(shape)}")
        self._types[name] = helper.make_tensor_type_proto(TensorProto.FLOAT, shape)
        self._draft.values[name] = Value(shape)

    def _declare(self, stub: onnx.TensorProto) -> None:
        from onnx import helper

        tensor = self._source.archive.tensor(stub.name)
        kind = float_types()[0] if tensor.dtype in FLOATS else stub.data_type
        self._types[stub.name] = helper.make_tensor_type_proto(kind, tensor.shape)
        self._draft.constants[stub.name] = Stored(stub.name, tensor.shape)

    def _translate(self, node: onnx.NodeProto, name: str) -> None:
        from onnx.helper import get_attribute_value

        draft = self._draft
        for output in filter(None, node.output):
            known = output in draft.values or output in draft.constants or output in draft.same
            if known or [*node.output].count(output) > 1:
                raise CorruptFileError("graph", f"node {name!r} computes {output!r}, which is there already")
        inputs = tuple(draft.resolve(given) for given in node.input)
        for given in filter(None, inputs):
            if given not in draft.values and given not in draft.constants:
                raise CorruptFileError("graph", f"node {name!r} reads {given!r}, which nothing before it computes")
        if draft.constants.keys() >= set(filter(None, inputs)) and not is_unsteady(node):
            self._evaluate(node, name, inputs)
            return
        attributes = {a.name: get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Shape":
            shape = draft.shape(inputs[0])
            bounds = slice(attributes.get("start", 0), attributes.get("end"))
            self._know(node.output[0], np.array(shape[bounds], np.int64))
            return
        shapes = self._infer(node, name, inputs)
        outputs = tuple(node.output)
        site = Site(draft, node.op_type, name, inputs, outputs, attributes, shapes, self.read)
        if node.op_type in _PASSED_ON:
            _pass_on(site)
        else:
            _TRANSLATORS[node.op_type](site)

    def _infer(self, node: onnx.NodeProto, name: str, inputs: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """The shapes of a node's outputs."""
        from onnx import checker, defs, shape_inference

        try:
            found = self._inferred(node, inputs)
        except (
            *(checker.ValidationError, defs.SchemaError, shape_inference.InferenceError, RuntimeError, ValueError),
        ) as error:
            problem = f"{node.op_type} node {name!r}: {_one_line(error)}"
            if self._source.has_free_sizes:
                given = (f"{name!r} of {_shown(self._draft.shape(name))}" for name in self._source.inputs)
                raise MismatchError(f"for input {', '.join(given)}: {problem}") from error
            raise CorruptFileError("graph", problem) from error
        self._types.update(found)
        return tuple(_fixed_shape(found.get(output), node, name) if output else () for output in node.output)

    def _inferred(self, node: onnx.NodeProto, inputs: tuple[str, ...]) -> dict[str, onnx.TypeProto]:
        """What shape inference finds; raises what it does."""
        import onnx
        from onnx import defs, shape_inference

        pairs = [(own, to) for own, to in zip(node.input, inputs, strict=True) if own]
        given = {own: self._type(to) for own, to in pairs}
        data = {own: onnx.numpy_helper.from_array(self.read(to)) for own, to in pairs if self._is_shown(to)}
        opsets = [onnx.helper.make_opsetid("", self._source.opset)]
        schema = defs.get_schema(node.op_type, self._source.opset, node.domain)
        return shape_inference.infer_node_outputs(schema, node, given, data, opset_imports=opsets)

    def _is_shown(self, name: str) -> bool:
        """Whether shape inference may want to know a constant: an integer one, or few floats, such as scales."""
        constant = self._draft.constants.get(name)
        if constant is None or math.prod(constant.shape) > _SHOWN:
            return False
        if isinstance(constant, Stored):
            tensor = self._source.archive.tensor(constant.tensor)
            return tensor.dtype not in FLOATS or len(tensor.shape) < 2
        return True

    def _type(self, name: str) -> onnx.TypeProto:
        """What shape inference knows a value as; floats are f32 here."""
        from onnx import TensorProto, helper

        if name not in self._types or (name in self._draft.values and self._draft.values[name].dtype == "f32"):
            return helper.make_tensor_type_proto(TensorProto.FLOAT, self._draft.shape(name))
        return self._types[name]

    def _evaluate(self, node: onnx.NodeProto, name: str, inputs: tuple[str, ...]) -> None:
        """Compute a node of constants."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        arrays = {own: self.read(to) for own, to in zip(node.input, inputs, strict=True) if own}
        self._check_growth(node, name, inputs, max([_GROWN, *(array.size for array in arrays.values())]))
        infos = [onnx.helper.make_empty_tensor_value_info(own) for own in arrays]
        results = [onnx.helper.make_empty_tensor_value_info(own) for own in node.output if own]
        graph = onnx.helper.make_graph([node], "constant", infos, results)
        opset = max(self._source.opset, _EVALUATED.get(node.op_type, 0))
        opsets = [onnx.helper.make_opsetid(node.domain, opset)]
        try:
            evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets))
            found = evaluator.run(None, arrays)
        except Exception as error:  # the evaluator raises whatever NumPy does
            raise UnsupportedError(f"{node.op_type} node {name!r}: its constants: {_one_line(error)}") from error
        for own, array in zip((own for own in node.output if own), found, strict=True):
            self._know(own, np.asarray(array))

    def _check_growth(self, node: onnx.NodeProto, name: str, inputs: tuple[str, ...], most: int) -> None:
        """Refuse what would make a huge constant of a few numbers."""
        found: dict[str, onnx.TypeProto] = {}
        with suppress(Exception):  # of which the evaluator has more to say
            found = self._inferred(node, inputs)
        for kind in found.values():
            size = math.prod(dim.dim_value for dim in kind.tensor_type.shape.dim)
            if size > most:
                raise UnsupportedError(f"{node.op_type} node {name!r}: its constants make {size:,} numbers")

    def _know(self, name: str, array: Array) -> None:
        from onnx import helper

        if array.dtype in (np.float64, np.float16):
            array = array.astype(np.float32)
        self._draft.constants[name] = array
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self._types[name] = helper.make_tensor_type_proto(kind, array.shape)


def _pass_on(site: Site) -> None:
    if site.kind == "Dropout" and site.has(2) and site.array(2).any():
        site.refuse("is in training mode")
    if site.kind == "Cast" and site.attributes["to"] not in float_types():
        site.refuse("casts to integers; devices compute with floats")
    if site.kind == "Cast" and site.draft.values[site.inputs[0]].dtype != "f32":
        site.refuse("casts the integers of an ArgMax")
    site.stand_for(site.inputs[0])


def _fixed_shape(kind: Any, node: onnx.NodeProto, name: str) -> tuple[int, ...]:
    dims = kind.tensor_type.shape.dim if kind is not None and kind.tensor_type.HasField("shape") else None
    if dims is None or not all(dim.HasField("dim_value") for dim in dims):
        raise UnsupportedError(f"{node.op_type} node {name!r}: its result's shape depends on what is computed")
    shape = tuple(dim.dim_value for dim in dims)
    if not all(length > 0 for length in shape) or math.prod(shape) > _MOST:
        raise UnsupportedError(
            f"{node.op_type} node {name!r}: its result is {_shown(shape)}, not of 1 to {_MOST:,} numbers"
        )
    return shape


def _shown(shape: tuple[int | str, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
