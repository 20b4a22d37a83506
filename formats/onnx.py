"""ONNX models: the weights as tensors, the rest as a graph that the weights can be put back into.

Weights are the initializers of the graph and of its subgraphs. Strings, sparse initializers and the tensors of
Constant nodes stay in the graph.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from wcodec.errors import CorruptFileError, MissingDependencyError, UnsupportedError, UsageError
from wcodec.formats import onnx_wire
from wcodec.formats.atomic import AtomicGroup
from wcodec.formats.claims import place
from wcodec.formats.onnx_channels import channel_axes, factors
from wcodec.formats.onnx_tensors import (
    STRING,
    ExternalFiles,
    clear_data,
    dtype_of,
    held_tensor,
    is_external,
    stored_tensor,
    text,
    weight_of,
)
from wcodec.formats.source import FileSource
from wcodec.model import Model, Tensor

if TYPE_CHECKING:
    import onnx

INLINE_LIMIT = 1_800_000_000
"""Bytes of weights up to which they are written into the model's own file; protobuf allows no file above 2 GiB."""

_SMALL = 1024
"""Tensors below this many bytes are never put in the external file: shape inference wants them at hand."""

_ALIGNMENT = 4096


class _Slot(NamedTuple):
    """The place of a weight: its name in the model, its message, and its position among the graph's initializers.

    The position is None in a subgraph, whose initializers are part of the message of a node.
    """

    name: str
    stub: onnx.TensorProto
    position: int | None


def read(path: str | os.PathLike[str]) -> Model:
    """The model in an ONNX file and the files beside it that it points to, its weights read when asked for.

    Raises `CorruptFileError` for a file that is damaged or points out of its folder, `UnsupportedError` for dtypes
    wcodec lacks, and `MissingDependencyError` without the onnx package.
    """
    require_onnx()
    with contextlib.ExitStack() as stack:
        source = FileSource(path)
        stack.callback(source.close)
        message, payloads = onnx_wire.split(source)
        proto = parse(source.name, message)
        files = ExternalFiles(Path(path).parent, stack)
        axes, multiplied = channel_axes(proto.graph), factors(proto.graph, subgraphs(proto.graph.node))
        tensors: list[Tensor] = []
        for name, stub, position in _slots(source.name, proto):
            where = place(source.name, name)
            payload = None if position is None else payloads[position]
            if stub.HasField("segment"):
                raise UnsupportedError(f"{where}: is stored in segments; load and save the model with onnx")
            if is_external(stub):
                tensors.append(files.tensor(name, where, stub))
            elif payload is not None:
                tensors.append(stored_tensor(name, where, stub, source, payload))
            else:
                tensors.append(held_tensor(name, where, stub))
            clear_data(stub)
            if position is not None and axes.get(name, 0) < len(stub.dims):
                tensors[-1] = replace(tensors[-1], channel_axis=axes.get(name, 0), is_factor=stub.name in multiplied)
        _refuse_external(source.name, proto)
        graph = proto.SerializeToString(deterministic=True)
        close = stack.pop_all().close
    return Model(tensors, graph=graph, close=close)


def write(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model's graph with its weights in it, or beside it in `<name>.data` if they are too large.

    Raises `UsageError` for a model without a graph, `CorruptFileError` where graph and tensors do not belong
    together, `MissingDependencyError` without the onnx package, and `OutputError` if a file cannot be written.
    """
    if model.graph is None:
        raise UsageError("the model has no graph; decode to .safetensors instead")
    require_onnx()
    proto = parse("graph", model.graph)
    _refuse_external("graph", proto)
    tensors = _match(_slots("graph", proto), model)
    with AtomicGroup(path) as group:
        data_name = f"{group.target_name}.data"
        if proto.ByteSize() + sum(weight_of(tensor).length for _, tensor in tensors) > INLINE_LIMIT:
            data = group.create()
            _write_external(data, data_name, tensors)
            group.close(data)
            group.place(data, data_name)
        weights: list[onnx_wire.Weight | None] = [None] * len(proto.graph.initializer)
        for slot, tensor in tensors:
            if slot.position is None:
                slot.stub.raw_data = b"".join(block.tobytes() for block in weight_of(tensor).blocks)
            elif not is_external(slot.stub):
                weights[slot.position] = weight_of(tensor)
        stream = group.create()
        onnx_wire.write(stream, proto, weights)
        group.place(stream, group.target_name)


def require_onnx() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("onnx is needed for .onnx files; run: pip install onnx") from error


def parse(where: str, message: bytes) -> onnx.ModelProto:
    """An ONNX model from its bytes; `CorruptFileError` naming `where` if they are none."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import ModelProto

    try:
        proto: onnx.ModelProto = ModelProto.FromString(message)
    except DecodeError as error:
        raise CorruptFileError(where, f"is no ONNX model: {error}") from error
    if not proto.HasField("graph"):
        raise CorruptFileError(where, "is no ONNX model: it has no graph")
    return proto


def opset_of(proto: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model is written in, 0 if it says none."""
    return max((opset.version for opset in proto.opset_import if opset.domain in ("", "ai.onnx")), default=0)


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether a node's operator is one of ONNX's own."""
    return node.domain in ("", "ai.onnx")


def _slots(where: str, proto: onnx.ModelProto) -> list[_Slot]:
    """The places of all weights: the graph's initializers, then those of its subgraphs.

    A name that a subgraph uses again gets a number, so that names are different and the same whenever this runs.
    """
    slots: list[_Slot] = []
    uses: dict[str, int] = {}
    for position, stub in enumerate(proto.graph.initializer):
        name = text(where, stub.name)
        if name in uses:
            raise CorruptFileError(place(where, name), "is there twice")
        uses[name] = 1
        slots.append(_Slot(name, stub, position))
    for graph in subgraphs(proto.graph.node):
        for stub in graph.initializer:
            name = base = text(where, stub.name)
            while name in uses:
                uses[base] += 1
                name = f"{base}#{uses[base]}"
            uses[name] = 1
            slots.append(_Slot(name, stub, None))
    return [slot for slot in slots if slot.stub.data_type != STRING]


def subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of nodes, and those in their nodes."""
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield graph
                yield from subgraphs(graph.node)


def _refuse_external(where: str, proto: onnx.ModelProto) -> None:
    """Raise `UnsupportedError` if a tensor that stays in the graph is in a file, which the graph will leave behind."""
    for tensor in _held_tensors(proto):
        if is_external(tensor):
            raise UnsupportedError(
                f"{place(where, tensor.name)}: is in an external file, but is no initializer; "
                "save the model with all tensors in one file"
            )


def _held_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a model in any place."""
    graphs = [proto.graph]
    for training in proto.training_info:
        graphs += (training.initialization, training.algorithm)
    bodies = [graph.node for graph in graphs] + [function.node for function in proto.functions]
    inner = [graph for nodes in bodies for graph in subgraphs(nodes)]
    for graph in (*graphs, *inner):
        yield from graph.initializer
        yield from _parts(graph.sparse_initializer)
    for nodes in (*bodies, *(graph.node for graph in inner)):
        for node in nodes:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                yield from _parts((attribute.sparse_tensor, *attribute.sparse_tensors))


def _parts(sparse_tensors: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for sparse in sparse_tensors:
        yield from (sparse.values, sparse.indices)


def _match(slots: list[_Slot], model: Model) -> list[tuple[_Slot, Tensor]]:
    """The tensor of every place, whose stub is emptied; `CorruptFileError` unless they fit one another exactly."""
    tensors = model.by_name()
    matched = []
    for slot in slots:
        where = place("graph", slot.name)
        tensor = tensors.pop(slot.name, None)
        if tensor is None:
            raise CorruptFileError(where, "is not among the model's tensors")
        if (dtype_of(where, slot.stub), tuple(slot.stub.dims)) != (tensor.dtype, tensor.shape):
            raise CorruptFileError(where, f"is not of the tensor's dtype {tensor.dtype} and shape {tensor.shape}")
        clear_data(slot.stub)
        matched.append((slot, tensor))
    for name in tensors:
        raise CorruptFileError(place("model", name), "has no place in the model's graph")
    return matched


def _write_external(stream: BinaryIO, name: str, tensors: list[tuple[_Slot, Tensor]]) -> None:
    """Write the large tensors of the graph itself one behind the other, and point their stubs there."""
    for slot, tensor in tensors:
        weight = weight_of(tensor)
        if slot.position is None or weight.length < _SMALL:
            continue
        stream.write(bytes(-stream.tell() % _ALIGNMENT))
        slot.stub.data_location = slot.stub.EXTERNAL
        for key, value in {"location": name, "offset": stream.tell(), "length": weight.length}.items():
            slot.stub.external_data.add(key=key, value=str(value))
        stream.writelines(block.data for block in weight.blocks)
