"""Layers whose weights can take in what is done to their output, channel by channel, and what that is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wcodec.formats.onnx import is_standard
from wcodec.model import FLOATS, Array, Tensor
from wcodec.transforms.channels import Channels, rounded
from wcodec.transforms.graph import Rewriting, broken, flag, need_inputs, number_of

if TYPE_CHECKING:
    import onnx


_EPSILON = float(np.float32(1e-5))
"""What norms add to variances unless told otherwise; attributes are f32."""


@dataclass(frozen=True)
class Affine:
    """A factor and a summand for each channel, f64 of shape (channels,)."""

    factors: Array
    shifts: Array

    def then(self, other: Affine) -> Affine:
        with np.errstate(all="ignore"):
            return Affine(self.factors * other.factors, self.shifts * other.factors + other.shifts)


@dataclass(frozen=True)
class Layer:
    """A node that multiplies by a weight of its own.

    The output has `outputs` channels, on the axis of place `axis` from the end; `rank` is how many axes it has, None if
    that is not known. `bias` are the summands of its channels, f64, or None where it has none.
    """

    weight: Tensor
    channels: Channels
    outputs: int
    axis: int
    rank: int | None
    bias: Array | None = None

    @property
    def start(self) -> Affine:
        """What the layer does to its channels after multiplying."""
        return Affine(np.ones(self.outputs), np.zeros(self.outputs) if self.bias is None else self.bias)

    def can_hold(self, affine: Affine) -> bool:
        """Whether the layer's weight and bias can be such numbers in their dtype."""
        factors = rounded(affine.factors, "f64" if self.weight.dtype == "f64" else "f32")
        if not np.isfinite(factors).all() or not np.isfinite(rounded(affine.shifts, self.weight.dtype)).all():
            return False
        # the other dtypes reach so far that what is beyond in the weight is beyond in the layer's output too
        return self.weight.dtype != "f16" or self._peak * np.abs(affine.factors).max() <= np.finfo(np.float16).max

    @cached_property
    def _peak(self) -> float:
        """The largest magnitude in the weight."""
        return max(float(np.abs(block).max()) for block in self.weight.blocks())


def layer_of(rewriting: Rewriting, number: int) -> Layer | None:
    """The layer that a node is, or None where it is none, or its weight or bias cannot be changed.

    Raises `CorruptFileError` where weight, bias and attributes do not fit the operator.
    """
    node = rewriting.nodes[number]
    if node.op_type not in _LAYERS or not is_standard(node) or not node.output:
        return None
    need_inputs(node, 2)
    weight = rewriting.own_weight(node.input[1])
    if weight is None or not weight.size:
        return None
    return _LAYERS[node.op_type](rewriting, node, weight)


def _convolution(rewriting: Rewriting, node: onnx.NodeProto, weight: Tensor) -> Layer | None:
    rank, inner = len(weight.shape), math.prod(weight.shape[2:])
    if rank < 3:
        raise broken(node, f"has a weight of shape {weight.shape}")
    channels, outputs = Channels(weight.size // weight.shape[0], weight.shape[0], weight.size), weight.shape[0]
    if node.op_type == "ConvTranspose":
        groups = flag(node, "group", 1)
        if groups < 1 or weight.shape[0] % groups:
            raise broken(node, f"has a weight of shape {weight.shape} for {groups} groups")
        channels, outputs = Channels(inner, weight.shape[1], weight.size // groups), weight.shape[1] * groups
    layer = Layer(weight, channels, outputs, rank - 1, rank)
    if len(node.input) < 3 or not node.input[2]:
        return layer
    bias = rewriting.constant(node.input[2])
    if bias is None or bias.dtype != weight.dtype:
        return None
    if bias.shape != (outputs,):
        raise broken(node, f"has a bias of shape {bias.shape} for {outputs} channels")
    return replace(layer, bias=bias.array().astype(np.float64))


def _gemm(rewriting: Rewriting, node: onnx.NodeProto, weight: Tensor) -> Layer | None:
    if len(weight.shape) != 2:
        raise broken(node, f"has a weight of shape {weight.shape}")
    layer = _matrix(weight, columns=not flag(node, "transB", 0), rank=2)
    if len(node.input) < 3 or not node.input[2]:
        return layer
    bias = rewriting.constant(node.input[2])
    numbers = None if bias is None else _per_channel(bias, layer)
    return None if numbers is None else replace(layer, bias=numbers * number_of(node, "beta", 1.0))


def _matmul(rewriting: Rewriting, node: onnx.NodeProto, weight: Tensor) -> Layer | None:
    if len(weight.shape) != 2:
        return None  # of vectors there are no channels, of stacks as many as of matrices and more
    return _matrix(weight, columns=True, rank=rewriting.ranks.get(node.output[0]))


def _matrix(weight: Tensor, *, columns: bool, rank: int | None) -> Layer:
    """A layer whose weight is a matrix with output channels in its columns, or else its rows."""
    outputs = weight.shape[int(columns)]
    channels = Channels(1 if columns else weight.shape[1], outputs, weight.size)
    return Layer(weight, channels, outputs, 1, rank)


_LAYERS: dict[str, Callable[[Rewriting, onnx.NodeProto, Tensor], Layer | None]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def affine_of(rewriting: Rewriting, number: int, value: str, layer: Layer) -> Affine | None:
    """What a node does to `value`, a layer's output, if that is the same for a whole channel in every run.

    Raises `CorruptFileError` for a norm that is not of the layer's channels.
    """
    node = rewriting.nodes[number]
    if not is_standard(node) or not node.output:
        return None
    if node.op_type == "BatchNormalization":
        return _norm(rewriting, node, value, layer)
    if node.op_type in ("Add", "Sub", "Mul", "Div"):
        return _arithmetic(rewriting, node, value, layer)
    return None


def _norm(rewriting: Rewriting, node: onnx.NodeProto, value: str, layer: Layer) -> Affine | None:
    need_inputs(node, 5)
    trains = flag(node, "training_mode", 0) or any(node.output[1:])
    if trains or not flag(node, "spatial", 1) or layer.rank is None or layer.rank - layer.axis != 1:
        return None
    found = [rewriting.constant(name) for name in node.input[1:5]]
    parameters = [tensor for tensor in found if tensor is not None and tensor.dtype in FLOATS]
    if len(parameters) < 4 or node.input[0] != value:
        return None
    for tensor in parameters:
        if tensor.shape != (layer.outputs,):
            raise broken(node, f"has {tensor.name!r:.200} of shape {tensor.shape} for {layer.outputs} channels")
    gain, shift, mean, variance = (tensor.array().astype(np.float64) for tensor in parameters)
    with np.errstate(all="ignore"):
        factors = gain / np.sqrt(variance + number_of(node, "epsilon", _EPSILON))
        return Affine(factors, shift - mean * factors)


def _arithmetic(rewriting: Rewriting, node: onnx.NodeProto, value: str, layer: Layer) -> Affine | None:
    need_inputs(node, 2)
    first, second = node.input[:2]
    if first != value and node.op_type in ("Sub", "Div"):
        return None
    tensor = rewriting.constant(second if first == value else first)
    numbers = None if tensor is None else _per_channel(tensor, layer)
    if numbers is None:
        return None
    ones, zeros = np.ones(layer.outputs), np.zeros(layer.outputs)
    if node.op_type in ("Add", "Sub"):
        return Affine(ones, numbers if node.op_type == "Add" else -numbers)
    with np.errstate(all="ignore"):
        return Affine(numbers if node.op_type == "Mul" else 1 / numbers, zeros)


def _per_channel(tensor: Tensor, layer: Layer) -> Array | None:
    """The numbers of a constant that has one for each of a layer's channels, or one for all; f64."""
    if tensor.dtype != layer.weight.dtype or len(tensor.shape) > (1 if layer.rank is None else layer.rank):
        return None
    for place, length in enumerate(reversed(tensor.shape), 1):
        if length != 1 and (place != layer.axis or length != layer.outputs):
            return None
    return np.broadcast_to(tensor.array().astype(np.float64).reshape(-1), (layer.outputs,))
