"""An ONNX graph being rewritten: who reads what, what is constant, and the model that comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from wcodec.errors import CorruptFileError
from wcodec.formats.claims import place
from wcodec.formats.onnx import is_standard, opset_of, parse, require_onnx, subgraphs
from wcodec.formats.onnx_tensors import STRING, dtype_of, held_tensor, is_external, text
from wcodec.model import FLOATS, Model, Tensor
from wcodec.transforms.ranks import known_ranks

if TYPE_CHECKING:
    import onnx

_FLOAT, _INT = 1, 2
"""Values of AttributeProto.AttributeType."""

_CONSTANTS_ONLY = 4
"""The version of ONNX from which initializers need not be inputs, and those that are may be given by the caller."""


class Rewriting:
    """The parsed graph of a model and the tensors of its weights.

    Nodes are known by their numbers, in the graph's order; nodes are changed where they are, never added or moved.
    Raises `CorruptFileError` for a graph that reads what nothing before has computed, or computes something twice.
    """

    def __init__(self, model: Model) -> None:
        require_onnx()
        assert model.graph is not None
        self._model = model
        self._proto = parse("graph", model.graph)
        self.graph = self._proto.graph
        self.opset = opset_of(self._proto)
        self.nodes = list(self.graph.node)
        self._dropped: set[int] = set()
        self._stubs = {stub.name: stub for stub in self.graph.initializer}
        self._inputs = {info.name for info in self.graph.input}
        self._settable = self._inputs if self._proto.ir_version >= _CONSTANTS_ONLY else set()
        self._tensors = model.by_name()
        self._tied = {*model.ties, *model.ties.values()}
        self._added: dict[str, list[Tensor]] = {}
        self._inner = list(subgraphs(self.nodes))
        self.outputs = {info.name for info in self.graph.output}
        self.held = self.outputs | set(_seen_within(self._inner))
        """Names of values that are not to go: outputs of the graph, and what subgraphs and annotations refer to."""
        self.held.update(name for note in self.graph.quantization_annotation for name in _annotated(note))
        self._check()
        self.index()

    @property
    def trains(self) -> bool:
        """Whether the model holds what it takes to go on training it."""
        return len(self._proto.training_info) > 0

    def index(self) -> None:
        """Find who reads and computes what, after names have changed."""
        self._readers: dict[str, list[int]] = {}
        self._makers: dict[str, int] = {}
        for number in self.numbers():
            for name in filter(None, self.nodes[number].input):
                self._readers.setdefault(name, []).append(number)
            self._makers.update(dict.fromkeys(filter(None, self.nodes[number].output), number))
        self.ranks = known_ranks(self.graph, [self.nodes[number] for number in self.numbers()])
        """How many axes values have, where that is known."""

    def numbers(self) -> list[int]:
        """Numbers of the nodes that are still there."""
        return [number for number in range(len(self.nodes)) if number not in self._dropped]

    def rename(self, names: Mapping[str, str]) -> None:
        """Call values by other names wherever nodes read or compute them; new names may have new names again."""

        def final(name: str) -> str:
            while name in names:
                name = names[name]
            return name

        for number in self.numbers():
            node = self.nodes[number]
            node.input[:] = map(final, node.input)
            node.output[:] = map(final, node.output)
        self.index()

    def drop(self, number: int) -> None:
        self._dropped.add(number)

    def is_read(self, name: str) -> bool:
        return name in self._readers or name in self.held

    def maker(self, name: str) -> int | None:
        """The node that computes a value."""
        return self._makers.get(name)

    def only_reader(self, name: str) -> int | None:
        """The node that reads a value, once, if nothing else does."""
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.held else None

    def constant(self, name: str) -> Tensor | None:
        """The tensor behind a name that has the same values in every run: of an initializer or a Constant node."""
        if name in self._stubs:
            return None if name in self._settable or self._stubs[name].data_type == STRING else self._weight(name)
        maker = self.maker(name)
        if maker is None or self.nodes[maker].op_type != "Constant" or not is_standard(self.nodes[maker]):
            return None
        for given in self.nodes[maker].attribute:
            if (
                given.name == "value"
                and given.HasField("t")
                and given.t.data_type != STRING
                and not is_external(given.t)
            ):
                return held_tensor(name, place("graph", name), given.t)
        return None

    def own_weight(self, name: str) -> Tensor | None:
        """The tensor of an initializer of floats that one node reads, once, and nothing else uses."""
        if name not in self._stubs or name in self._tied or self.only_reader(name) is None:
            return None
        tensor = self.constant(name)
        return tensor if tensor is not None and tensor.dtype in FLOATS else None

    def put(self, tensor: Tensor) -> None:
        """Have a tensor take the place of the one of its name, dtype and shape."""
        self._tensors[tensor.name] = tensor

    def add(self, tensor: Tensor, beside: str) -> str:
        """Add an initializer behind another, of the same dtype; its name, which gets a number if it is taken."""
        name, number = tensor.name, 1
        while name in self._names:
            number += 1
            name = f"{tensor.name}#{number}"
        self._names.add(name)
        stub = type(self._stubs[beside])(name=name, data_type=self._stubs[beside].data_type, dims=tensor.shape)
        self._stubs[name], self._tensors[name] = stub, replace(tensor, name=name)
        self._added.setdefault(beside, []).append(self._tensors[name])
        return name

    def finish(self) -> Model:
        """The model of what is left: without constants that nothing reads, and with what was added."""
        self._drop_unused()
        gone = self._unused_initializers()
        self._replace_initializers(gone)
        if self._proto.ir_version < _CONSTANTS_ONLY:
            self._list_initializers(gone)
        for number in sorted(self._dropped, reverse=True):
            del self.graph.node[number]
        self._drop_declarations()
        tensors: list[Tensor] = []
        for tensor in self._model.tensors:
            tensors += [] if tensor.name in gone else [self._tensors[tensor.name]]
            tensors += self._added.get(tensor.name, [])
        return Model(
            tensors,
            ties=self._model.ties,
            graph=self._proto.SerializeToString(deterministic=True),
            metadata=self._model.metadata,
            close=self._model.close,
        )

    def _check(self) -> None:
        stubs = [stub for graph in (self.graph, *self._inner) for stub in graph.initializer]
        for named in (*stubs, *self.graph.input, *self.graph.output):
            text("graph", named.name)
        if len(self._stubs) < len(self.graph.initializer):
            raise CorruptFileError("graph", "has two initializers of one name")
        known = {"", *self._inputs, *self._stubs, *(sparse.values.name for sparse in self.graph.sparse_initializer)}
        for node in self.nodes:
            for name in node.input:
                if text("graph", name) not in known:
                    raise broken(node, f"reads {name!r:.200}, which nothing before it computes")
            for name in filter(None, node.output):
                if text("graph", name) in known:
                    raise broken(node, f"computes {name!r:.200}, which there is already")
                known.add(name)
        for info in self.graph.output:
            if info.name not in known:
                raise CorruptFileError("graph", f"its output {info.name!r:.200} is computed by no node")

    def _weight(self, name: str) -> Tensor:
        """The tensor of an initializer, of which the graph must say the same."""
        where, stub, tensor = place("graph", name), self._stubs[name], self._tensors.get(name)
        if tensor is None:
            raise CorruptFileError(where, "is not among the model's tensors")
        if (dtype_of(where, stub), tuple(stub.dims)) != (tensor.dtype, tensor.shape):
            raise CorruptFileError(where, f"is not of the tensor's dtype {tensor.dtype} and shape {tensor.shape}")
        return tensor

    @cached_property
    def _names(self) -> set[str]:
        """All names of values and tensors, in subgraphs too."""
        names = {*self._inputs, *self._stubs, *self._tensors, *self.held}
        for nodes in (self.nodes, *(graph.node for graph in self._inner)):
            names.update(name for node in nodes for name in (*node.input, *node.output))
        names.update(stub.name for graph in self._inner for stub in graph.initializer)
        return names

    def _drop_unused(self) -> None:
        """Drop Constant nodes that nothing reads any more."""
        self.index()
        for number in self.numbers():
            node = self.nodes[number]
            if node.op_type == "Constant" and is_standard(node) and not any(map(self.is_read, node.output)):
                self.drop(number)

    def _unused_initializers(self) -> set[str]:
        """Names of initializers that nothing reads.

        Kept are inputs that a caller may give, tied tensors, and names that those of tensors of subgraphs are told
        apart from by numbers: without the one, the other would change.
        """
        inner = {stub.name.split("#")[0] for graph in self._inner for stub in graph.initializer}
        free = self._stubs.keys() - self._settable - self._tied
        return {name for name in free if not self.is_read(name) and name.split("#")[0] not in inner}

    def _replace_initializers(self, gone: set[str]) -> None:
        kept: list[onnx.TensorProto] = []
        for stub in self.graph.initializer:
            kept += [] if stub.name in gone else [stub]
            kept += [self._stubs[tensor.name] for tensor in self._added.get(stub.name, [])]
        _replace(self.graph.initializer, kept)

    def _list_initializers(self, gone: set[str]) -> None:
        """Have every initializer be an input too, as old versions of ONNX want."""
        from onnx import helper

        kept = [info for info in self.graph.input if info.name not in gone]
        kept += [
            helper.make_tensor_value_info(stub.name, stub.data_type, stub.dims)
            for stub in self.graph.initializer
            if stub.name not in self._inputs
        ]
        _replace(self.graph.input, kept)

    def _drop_declarations(self) -> None:
        """Drop the types of values that are there no more."""
        values = {info.name for info in self.graph.input} | {stub.name for stub in self.graph.initializer}
        values.update(name for node in self.graph.node for name in node.output)
        _replace(self.graph.value_info, [info for info in self.graph.value_info if info.name in values])


def broken(node: onnx.NodeProto, problem: str) -> CorruptFileError:
    """The error of a node that cannot be what its operator needs."""
    name = node.name or next(iter(node.output), "")
    return CorruptFileError("graph", f"{node.op_type!s:.100} node {name!r:.200} {problem}")


def need_inputs(node: onnx.NodeProto, count: int) -> None:
    """`CorruptFileError` unless a node has its first so many inputs."""
    if len(node.input) < count or not all(node.input[:count]):
        raise broken(node, f"lacks one of the {count} inputs that it needs")


def unset(node: onnx.NodeProto, name: str) -> None:
    """Leave an attribute to its default."""
    _replace(node.attribute, [attribute for attribute in node.attribute if attribute.name != name])


def flag(node: onnx.NodeProto, name: str, default: int) -> int:
    """An attribute that is a whole number."""
    return next((int(attribute.i) for attribute in _attributes(node, name, _INT)), default)


def number_of(node: onnx.NodeProto, name: str, default: float) -> float:
    """An attribute that is a number."""
    return next((float(attribute.f) for attribute in _attributes(node, name, _FLOAT)), default)


def _attributes(node: onnx.NodeProto, name: str, kind: int) -> Iterator[onnx.AttributeProto]:
    """The attribute of a name, if there is one; `CorruptFileError` if it is of another type."""
    for attribute in node.attribute:
        if attribute.name == name:
            if attribute.type not in (0, kind):
                raise broken(node, f"has an attribute {name} that is no number of its type")
            yield attribute


def _seen_within(graphs: Iterable[onnx.GraphProto]) -> Iterator[str]:
    """The names that subgraphs read, their own and those from around them."""
    for graph in graphs:
        yield from (name for node in graph.node for name in node.input)
        yield from (info.name for info in graph.output)


def _annotated(note: onnx.TensorAnnotation) -> Iterator[str]:
    yield note.tensor_name
    yield from (entry.value for entry in note.quant_parameter_tensor_names)


def _replace(field: Any, messages: Sequence[Any]) -> None:
    """Fill a repeated field with messages, which may be its own."""
    copies = [type(message).FromString(message.SerializeToString()) for message in messages]
    del field[:]
    field.extend(copies)
