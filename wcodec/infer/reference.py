"""The lowered graph in torch: what every device's results are held against, and what calibration differentiates.

Each operation is as close to its definition as torch allows. Nothing works in place, so that gradients flow from the
outputs to inputs, constants and every value between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from wcodec.errors import MismatchError, MissingDependencyError
from wcodec.infer.graph import (
    ArgMax,
    Binary,
    Concat,
    Convolution,
    Dense,
    Expand,
    Graph,
    LocalNorm,
    Map,
    MatMul,
    Node,
    Op,
    Pad,
    Pool,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Step,
    StepKind,
    Transpose,
)
from wcodec.model import Array

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Shape = tuple[int, ...]

_TIE = 1e-6
"""Places this close to where "nearest" changes its mind are there: a scale such as 1 / 49 is rounded itself."""


class Reference:
    """Runs a graph, with the batch size it was lowered for.

    On CUDA torch may convolve float32 as TF32: set `torch.backends.cudnn.allow_tf32` to False for all the digits.
    """

    def __init__(
        self,
        graph: Graph,
        constants: Mapping[str, Array | Tensor],
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Take the numbers of every name in `graph.constants`, in the graph's shapes.

        Arrays of floats are copied to the device as `dtype`, float32 by default, and those of integers as they are;
        tensors are used, not copied, and may require gradients. `MismatchError` for a name that is missing or another
        shape, `MissingDependencyError` where torch is not installed.
        """
        try:
            import torch
        except ImportError as error:
            raise MissingDependencyError(
                "torch is needed to run a graph by reference; run: pip install 'wcodec[torch]'"
            ) from error
        self.graph = graph
        self._device, self._dtype = torch.device(device), dtype or torch.float32
        missing = graph.constants.keys() - constants.keys()
        if missing:
            raise MismatchError(f"constants {sorted(missing)} of the graph are not given")
        self._constants = {name: self._tensor(constants[name]) for name in graph.constants}
        for name, tensor in self._constants.items():
            _check_shape(f"constant {name!r}", tensor, graph.shape(name))

    def __call__(self, *inputs: Tensor | Array) -> tuple[Tensor, ...]:
        """The outputs for inputs, both in the graph's order; arrays are converted as constants are.

        `MismatchError` where they are not as many as the graph's inputs, or of other shapes.
        """
        if len(inputs) != len(self.graph.inputs):
            raise MismatchError(f"the graph has {len(self.graph.inputs)} inputs, not {len(inputs)}")
        outputs = self.run({name: self._tensor(given) for name, given in zip(self.graph.inputs, inputs, strict=True)})
        return tuple(outputs[name] for name in self.graph.outputs)

    def run(
        self, inputs: Mapping[str, Tensor], watch: Callable[[Node, Tensor], Tensor | None] | None = None
    ) -> dict[str, Tensor]:
        """The outputs for inputs, both by name. Other values are let go once nothing needs them any more.

        `watch` is called with each node and its result, after the epilogue, and may return another result in its
        place. `MismatchError` where inputs are missing, or where a shape is not the graph's.
        """
        graph, left = self.graph, self.graph.uses()
        missing = set(graph.inputs) - inputs.keys()
        if missing:
            raise MismatchError(f"inputs {sorted(missing)} of the graph are not given")
        values = {name: inputs[name] for name in graph.inputs}
        for name, tensor in values.items():
            _check_shape(f"input {name!r}", tensor, graph.shape(name))
        for node in graph.nodes:
            values[node.output] = self._run_node(node, values, watch)
            for name in node.reads():
                left[name] -= 1
                if not left[name]:
                    values.pop(name, None)
            if not left.get(node.output):
                del values[node.output]
        return {name: self._find(name, values) for name in graph.outputs}

    def _run_node(
        self,
        node: Node,
        values: Mapping[str, Tensor],
        watch: Callable[[Node, Tensor], Tensor | None] | None,
    ) -> Tensor:
        shape = self.graph.shape(node.output)
        inputs = [self._find(name, values) if name else None for name in node.inputs]
        result = OPERATIONS[type(node.op)](node.op, shape, *inputs)
        for step in node.epilogue:
            operands = [self._find(step.operand, values)] if step.operand else []
            result = STEPS[step.kind](step, result, *operands)
        _check_shape(f"the result of {node.name!r}", result, shape)
        replaced = watch(node, result) if watch else None
        return result if replaced is None else replaced

    def _find(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        return values[name] if name in values else self._constants[name]

    def _tensor(self, given: Array | Tensor) -> Tensor:
        import torch

        if isinstance(given, torch.Tensor):
            return given
        if given.dtype.kind in "biu":
            return torch.from_numpy(np.array(given, given.dtype.newbyteorder("="), order="C")).to(self._device)
        kind = np.float64 if given.dtype.itemsize > 4 else np.float32  # which torch knows, unlike some of ml_dtypes
        return torch.from_numpy(np.array(given, kind, order="C")).to(self._device, self._dtype)


def _check_shape(what: str, tensor: Tensor, shape: Shape) -> None:
    if tuple(tensor.shape) != shape:
        raise MismatchError(f"{what} is of shape {tuple(tensor.shape)}; in the graph it is {shape}")


# Products


def _convolution(
    op: Convolution, shape: Shape, x: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    from torch.nn import functional

    top, left, bottom, right = op.pads
    weight = weight.reshape(*weight.shape[:2], *op.kernel)  # along one axis it has three
    if op.transposed:
        full = functional.conv_transpose2d(x, weight, stride=op.strides, groups=op.groups, dilation=op.dilations)
        kept = full[:, :, top : top + shape[2], left : left + shape[3]]
        result = functional.pad(kept, (0, shape[3] - kept.shape[3], 0, shape[2] - kept.shape[2]))
    else:
        padded = functional.pad(x, (left, right, top, bottom))
        result = functional.conv2d(padded, weight, stride=op.strides, dilation=op.dilations, groups=op.groups)
    return _scaled(result, scale, bias, (1, -1, 1, 1))


def _dense(
    op: Dense, shape: Shape, x: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    return _scaled(x @ (weight.T if op.rows_first else weight), scale, bias, (-1,))


def _scaled(result: Tensor, scale: Tensor | None, bias: Tensor | None, shape: Shape) -> Tensor:
    """A result times scale plus bias, each brought into the given shape."""
    if scale is not None:
        result = result * scale.reshape(shape)
    return result if bias is None else result + bias.reshape(shape)


def _matmul(op: MatMul, shape: Shape, a: Tensor, b: Tensor) -> Tensor:
    return (a.mT if op.transpose_a else a) @ (b.mT if op.transpose_b else b) * op.scale


# Windows and axes


def _pool(op: Pool, shape: Shape, x: Tensor) -> Tensor:
    from torch.nn import functional

    top, left, bottom, right = op.pads
    around = (left, right, top, bottom)
    if op.kind == "max":
        padded = functional.pad(x, around, value=-math.inf)
        return functional.max_pool2d(
            _covered(op, shape, padded, -math.inf), op.kernel, op.strides, dilation=op.dilations
        )
    places = functional.pad(x.new_ones(1, 1, *x.shape[2:]), around, value=float(op.counts_padding))
    # a window that holds no place at all has the mean 0, as in torch
    return _window_sums(op, shape, functional.pad(x, around)) / _window_sums(op, shape, places).clamp(min=1)


def _covered(op: Pool, shape: Shape, padded: Tensor, fill: float) -> Tensor:
    """The rows and columns of a padded input that windows cover, and more where they reach beyond it."""
    from torch.nn import functional

    tall, wide = (
        (count - 1) * stride + dilation * (size - 1) + 1
        for count, stride, dilation, size in zip(shape[2:], op.strides, op.dilations, op.kernel, strict=True)
    )
    return functional.pad(padded, (0, wide - padded.shape[3], 0, tall - padded.shape[2]), value=fill)


def _window_sums(op: Pool, shape: Shape, padded: Tensor) -> Tensor:
    windows = _covered(op, shape, padded, 0)
    for axis, size, stride, dilation in zip((2, 3), op.kernel, op.strides, op.dilations, strict=True):
        windows = windows.unfold(axis, dilation * (size - 1) + 1, stride)
    return windows[..., :: op.dilations[0], :: op.dilations[1]].sum((-2, -1))


def _reduce(op: Reduce, shape: Shape, x: Tensor) -> Tensor:
    if not op.axes:  # which would be all of them to torch
        return x
    if op.kind == "max":
        return x.amax(op.axes, keepdim=True)
    return x.mean(op.axes, keepdim=True) if op.kind == "mean" else x.sum(op.axes, keepdim=True)


def _softmax(op: Softmax, shape: Shape, x: Tensor) -> Tensor:
    return x.log_softmax(op.axis) if op.log else x.softmax(op.axis)


def _local_norm(op: LocalNorm, shape: Shape, x: Tensor) -> Tensor:
    from torch.nn import functional

    before = (op.size - 1) // 2
    squares = functional.pad(x * x, (*[0, 0] * (x.ndim - 2), before, op.size - 1 - before))
    sums = squares.unfold(1, op.size, 1).sum(-1)
    return x / (op.bias + op.alpha / op.size * sums).pow(op.beta)


def _argmax(op: ArgMax, shape: Shape, x: Tensor) -> Tensor:
    if not op.last:
        return x.argmax(op.axis, keepdim=True)
    return x.shape[op.axis] - 1 - x.flip(op.axis).argmax(op.axis, keepdim=True)


# Two values, broadcast


def _binary(op: Binary, shape: Shape, a: Tensor, b: Tensor) -> Tensor:
    import torch

    if op.kind == "div":
        whole = not (a.is_floating_point() or b.is_floating_point())
        return torch.div(a, b, rounding_mode="trunc" if whole else None)
    functions: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
        "add": torch.add,
        "sub": torch.sub,
        "mul": torch.mul,
        "max": torch.maximum,
        "min": torch.minimum,
        "pow": torch.pow,
    }
    return functions[op.kind](a, b)


# Places


def _concat(op: Concat, shape: Shape, *inputs: Tensor) -> Tensor:
    import torch

    return torch.cat(inputs, op.axis)


def _slice(op: Slice, shape: Shape, x: Tensor) -> Tensor:
    for axis, (start, step, count) in enumerate(zip(op.starts, op.steps, shape, strict=True)):
        x = _taken(x, axis, start + step * np.arange(count))
    return x


def _pad(op: Pad, shape: Shape, x: Tensor) -> Tensor:
    from torch.nn import functional

    if op.mode == "constant":
        around = [(before, shape[axis] - before - x.shape[axis]) for axis, before in enumerate(op.before)]
        return functional.pad(x, [size for pair in reversed(around) for size in pair], value=op.value)
    for axis, before in enumerate(op.before):
        last = x.shape[axis] - 1
        places = np.arange(shape[axis]) - before
        if op.mode == "reflect":
            places = last - abs(last - places % max(2 * last, 1))
        x = _taken(x, axis, places.clip(0, last))
    return x


def _resize(op: Resize, shape: Shape, x: Tensor) -> Tensor:
    for axis, scale, offset in zip((2, 3), op.scales, op.offsets, strict=True):
        places, last = np.arange(shape[axis]) * scale + offset, x.shape[axis] - 1
        if op.kind == "nearest":
            rounded = {
                "floor": np.floor(places + _TIE),
                "ceil": np.ceil(places - _TIE),
                "prefer_floor": np.ceil(places - 0.5 - _TIE),
                "prefer_ceil": np.floor(places + 0.5 + _TIE),
            }
            x = _taken(x, axis, rounded[op.rounding].clip(0, last))
            continue
        places = places.clip(0, last)
        first = np.floor(places)
        share = x.new_tensor(places - first).reshape(-1, *[1] * (3 - axis))
        x = _taken(x, axis, first) * (1 - share) + _taken(x, axis, (first + 1).clip(0, last)) * share
    return x


def _taken(x: Tensor, axis: int, places: Array) -> Tensor:
    """What stands at places along an axis."""
    import torch

    return x.index_select(axis, torch.from_numpy(places.astype(np.int64)).to(x.device))


# Epilogues


def _prelu(step: Step, x: Tensor, slopes: Tensor) -> Tensor:
    return x.where(x >= 0, x * slopes.reshape(-1, *[1] * (x.ndim - 2)))


OPERATIONS: Mapping[type[Op], Callable[..., Tensor]] = {
    Convolution: _convolution,
    Dense: _dense,
    MatMul: _matmul,
    Pool: _pool,
    Reduce: _reduce,
    Binary: _binary,
    Map: lambda op, shape, x: x,
    Concat: _concat,
    Slice: _slice,
    Pad: _pad,
    Transpose: lambda op, shape, x: x.permute(op.order),
    Reshape: lambda op, shape, x: x.reshape(shape),
    Expand: lambda op, shape, x: x.expand(shape),
    Resize: _resize,
    Softmax: _softmax,
    LocalNorm: _local_norm,
    ArgMax: _argmax,
}
"""For each class of operations a function of one, the shape of its result, and its inputs."""

STEPS: Mapping[StepKind, Callable[..., Tensor]] = {
    "relu": lambda step, x: x.relu(),
    "clip": lambda step, x: x.clamp(step.a, step.b),
    "leaky_relu": lambda step, x: x.where(x >= 0, x * step.a),
    "prelu": _prelu,
    "sigmoid": lambda step, x: x.sigmoid(),
    "silu": lambda step, x: x * x.sigmoid(),
    "hard_sigmoid": lambda step, x: (step.a * x + step.b).clamp(0, 1),
    "hard_swish": lambda step, x: x * (x / 6 + 0.5).clamp(0, 1),
    "tanh": lambda step, x: x.tanh(),
    "exp": lambda step, x: x.exp(),
    "sqrt": lambda step, x: x.sqrt(),
    "neg": lambda step, x: x.neg(),
    "add": lambda step, x, operand: x + operand,
    "mul": lambda step, x, operand: x * operand,
}
"""For each kind of step a function of one, the result so far, and the operand where it has one."""
