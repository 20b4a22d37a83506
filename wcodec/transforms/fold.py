"""Norms taken into the weights before them, so that what is quantized are the weights that are really used."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from wcodec.errors import UsageError
from wcodec.formats.onnx import is_standard
from wcodec.model import Array, Model, Tensor
from wcodec.transforms.channels import rounded, scaled
from wcodec.transforms.graph import Rewriting, need_inputs, unset
from wcodec.transforms.layers import Affine, Layer, affine_of, layer_of

if TYPE_CHECKING:
    import onnx

_OLDEST_OPSET = 7
"""The operator set from which norms and Dropout do not train unless asked to, and operands are broadcast as today."""

_SUMS = frozenset({"Add", "Sub"})
_PRODUCTS = frozenset({"Mul", "Div"})


def fold(model: Model) -> Model:
    """The same function in fewer nodes: factors and summands of output channels become part of the layer's weights.

    Layers are `Conv`, `ConvTranspose`, `Gemm` and `MatMul` whose weight (the second input) is an initializer. They take
    in every `BatchNormalization` behind them, and every `Add`, `Sub`, `Mul` and `Div` with a constant that has one
    number a channel or one for all, where nothing else reads what is between. `Identity` and `Dropout` go, and so do
    constants that nothing reads. Other nodes, graph outputs and their names stay, and norms that cannot be folded:
    behind a weight that several nodes share, while training, or where numbers would not be finite.

    Folded weights are computed in float64, rounded once to their dtype, and read in blocks like those of the source,
    which the new model goes on reading: closing either closes both. The graph itself is the only one looked at, not its
    subgraphs. Models with an operator set before 7, or with training information, come back as they are.

    Raises `UsageError` for a model without a graph, `CorruptFileError` for one whose graph makes no sense, and
    `MissingDependencyError` without the onnx package.
    """
    if model.graph is None:
        raise UsageError("folding needs a graph, and the model has none; give it as .onnx")
    rewriting = Rewriting(model)
    if rewriting.opset < _OLDEST_OPSET or rewriting.trains:
        return model
    _pass_on(rewriting)
    for number in rewriting.numbers():
        layer = layer_of(rewriting, number)
        if layer is not None:
            _fold_into(rewriting, number, layer)
    return rewriting.finish()


def _pass_on(rewriting: Rewriting) -> None:
    """Drop nodes whose output is their input, and have what reads the one read the other.

    An output of the graph keeps its name: what computes the input then computes it under that name.
    """
    names: dict[str, str] = {}
    for number in rewriting.numbers():
        node = rewriting.nodes[number]
        if not _changes_nothing(rewriting, node):
            continue
        given, output = node.input[0], node.output[0]
        while given in names:
            given = names[given]
        if output not in rewriting.held:
            names[output] = given
        elif output in rewriting.outputs and given not in rewriting.held and rewriting.maker(given) is not None:
            names[given] = output
        else:
            continue
        rewriting.drop(number)
    rewriting.rename(names)


def _changes_nothing(rewriting: Rewriting, node: onnx.NodeProto) -> bool:
    """Whether a node's first output is its first input, and there is no other that anything reads."""
    if node.op_type not in ("Identity", "Dropout") or not is_standard(node):
        return False
    need_inputs(node, 1)
    if not node.output or not node.output[0] or any(map(rewriting.is_read, node.output[1:])):
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    trains = rewriting.constant(node.input[2])
    return trains is not None and trains.dtype == "bool" and trains.size == 1 and not trains.array().any()


def _fold_into(rewriting: Rewriting, number: int, layer: Layer) -> None:
    """Take into a layer what can be of the nodes behind it."""
    affine, followers = _behind(rewriting, number, layer)
    kinds = {rewriting.nodes[follower].op_type for follower in followers}
    holder = _bias_holder(rewriting, number, followers)
    if not followers or (followers == [holder] and kinds <= _SUMS):
        return
    if (affine.factors != 1).any():
        rewriting.put(scaled(layer.weight, layer.channels, affine.factors))
    if layer.bias is not None or not kinds <= _PRODUCTS:
        _set_bias(rewriting, number, holder, layer, rounded(affine.shifts, layer.weight.dtype))
    rewriting.nodes[holder].output[0] = rewriting.nodes[followers[-1]].output[0]
    for follower in followers:
        if follower != holder:
            rewriting.drop(follower)


def _behind(rewriting: Rewriting, number: int, layer: Layer) -> tuple[Affine, list[int]]:
    """What the nodes behind a layer do to its channels, together with its own bias, and which nodes these are."""
    affine, followers, value = layer.start, [], rewriting.nodes[number].output[0]
    while (follower := rewriting.only_reader(value)) is not None:
        step = affine_of(rewriting, follower, value, layer)
        if step is None or not layer.can_hold(affine.then(step)):
            break
        affine, value = affine.then(step), rewriting.nodes[follower].output[0]
        followers.append(follower)
    return affine, followers


def _bias_holder(rewriting: Rewriting, number: int, followers: list[int]) -> int:
    """The node that is to add a layer's bias: the layer, or, behind a MatMul, a sum or what is to become one."""
    if rewriting.nodes[number].op_type != "MatMul":
        return number
    sums = [follower for follower in followers if rewriting.nodes[follower].op_type in _SUMS]
    norms = [follower for follower in followers if rewriting.nodes[follower].op_type == "BatchNormalization"]
    return next(iter((*sums, *norms)), number)


def _set_bias(rewriting: Rewriting, number: int, holder: int, layer: Layer, numbers: Array) -> None:
    """Have a node add a bias to a layer's output: in the tensor that it has for it, or else in a new one."""
    maker, node = rewriting.nodes[number], rewriting.nodes[holder]
    if holder == number:
        old = node.input[2] if len(node.input) > 2 else ""
    else:
        constants = (name for name in node.input if rewriting.constant(name) is not None)
        old = next(constants, "") if node.op_type in _SUMS else ""
    bias = Tensor.from_array(_bias_name(layer.weight.name), numbers)
    kept = rewriting.own_weight(old)
    if kept is not None and kept.size == bias.size:
        rewriting.put(replace(kept, read=bias.read))
        name = old
    else:
        name = rewriting.add(bias, beside=layer.weight.name)
    if holder == number:
        node.input[:] = [*node.input[:2], name]
        unset(node, "beta")
    else:
        node.op_type = "Add"
        node.input[:] = [maker.output[0], name]
        del node.attribute[:]


def _bias_name(weight: str) -> str:
    return f"{weight.removesuffix('weight')}bias" if weight.endswith("weight") else f"{weight}.bias"
