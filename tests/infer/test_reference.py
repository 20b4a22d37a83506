"""The reference executor, one operation after another, against ONNX Runtime and the onnx package."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import assume, given, settings
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

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
    Value,
)
from wcodec.infer.reference import Reference
from wcodec.model import Array

SIDES = st.integers(1, 9)


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def named(inputs: Sequence[Array | None]) -> dict[str, Array]:
    return {f"i{number}": given for number, given in enumerate(inputs) if given is not None}


def onnx_model(kind: str, inputs: Sequence[Array | None], attributes: Mapping[str, Any]) -> onnx.ModelProto:
    """A model of one node, whose inputs are i0, i1 and so on."""
    names = ["" if given is None else f"i{number}" for number, given in enumerate(inputs)]
    typed = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in named(inputs).items()
    ]
    result = helper.make_tensor_value_info("y", TensorProto.INT64 if kind == "ArgMax" else TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(kind, names, ["y"], **attributes)], "g", typed, [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def by_onnx(kind: str, *inputs: Array | None, plain: bool = False, **attributes: Any) -> Array:
    """What ONNX Runtime, or the onnx package's own evaluator, makes of an ONNX operator."""
    model = onnx_model(kind, inputs, attributes)
    if plain:
        [result] = ReferenceEvaluator(model).run(None, named(inputs))
        return np.asarray(result)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # or it would tell that onnx counts more windows than it does
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, named(inputs))[0])


def graph_of(op: Op, inputs: Sequence[Array | None], shape: tuple[int, ...], epilogue: tuple[Step, ...] = ()) -> Graph:
    """A graph of one node with an output y. Its inputs are i0, i1 and so on, or such are operands of its epilogue."""
    names = ["" if given is None else f"i{number}" for number, given in enumerate(inputs)]
    operands = {step.operand for step in epilogue} - {""}
    node = Node("the node", op, tuple(name for name in names if name not in operands), "y", epilogue)
    values = {name: Value(given.shape) for name, given in named(inputs).items()}
    return Graph(tuple(values), ("y",), (node,), {**values, "y": Value(shape)})


def by_us(op: Op, *inputs: Array | None, shape: tuple[int, ...], epilogue: tuple[Step, ...] = ()) -> Array:
    graph = graph_of(op, inputs, shape, epilogue)
    [result] = Reference(graph, {})(*named(inputs).values())
    assert result.dtype == (torch.int64 if isinstance(op, ArgMax) else torch.float32)
    return result.numpy()


def check(wanted: Array, op: Op, *inputs: Array | None, epilogue: tuple[Step, ...] = ()) -> None:
    found = by_us(op, *inputs, shape=wanted.shape, epilogue=epilogue)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


# Products


@st.composite
def windows(draw: Any) -> dict[str, tuple[int, ...]]:
    """Kernel, strides, dilations and pads: top, left, bottom, right."""
    limits = {"kernel": 4, "strides": 3, "dilations": 2}
    drawn = {name: tuple(draw(st.integers(1, limit)) for _ in range(2)) for name, limit in limits.items()}
    return {**drawn, "pads": tuple(draw(st.integers(0, 3)) for _ in range(4))}


def spans(how: Mapping[str, Any]) -> list[int]:
    return [dilation * (size - 1) + 1 for size, dilation in zip(how["kernel"], how["dilations"], strict=True)]


def onnx_windows(how: Mapping[str, Any]) -> dict[str, Any]:
    names = {"kernel": "kernel_shape", "strides": "strides", "dilations": "dilations", "pads": "pads"}
    return {theirs: how[ours] for ours, theirs in names.items()}


@given(windows(), SIDES, SIDES, st.sampled_from([(1, 2, 3), (2, 2, 1), (3, 1, 1), (2, 1, 2)]), st.booleans())
def test_convolution(how: Any, height: int, width: int, sizes: tuple[int, int, int], scaled: bool) -> None:
    groups, ins, outs = sizes
    top, left, bottom, right = how["pads"]
    assume(height + top + bottom >= spans(how)[0] and width + left + right >= spans(how)[1])
    x, weight = drawn(2, groups * ins, height, width), drawn(groups * outs, ins, *how["kernel"], seed=1)
    scale, bias = (drawn(groups * outs, seed=2), drawn(groups * outs, seed=3)) if scaled else (None, None)
    inputs = [x, weight] if scale is None or bias is None else [x, weight * scale.reshape(-1, 1, 1, 1), bias]
    wanted = by_onnx("Conv", *inputs, group=groups, **onnx_windows(how))
    check(wanted, Convolution(**how, groups=groups), x, weight, scale, bias)


@given(windows(), SIDES, SIDES, st.sampled_from([(1, 2, 3), (2, 2, 1), (3, 1, 1)]), st.booleans(), st.data())
def test_transposed_convolution(
    how: Any, height: int, width: int, sizes: tuple[int, int, int], scaled: bool, data: Any
) -> None:
    groups, ins, outs = sizes
    extra = [data.draw(st.integers(0, stride - 1)) for stride in how["strides"]]
    for axis, size in enumerate((height, width)):
        full = (size - 1) * how["strides"][axis] + spans(how)[axis]
        assume(full + extra[axis] - how["pads"][axis] - how["pads"][axis + 2] > 0)
    x, weight = drawn(2, groups * ins, height, width), drawn(groups * ins, outs, *how["kernel"], seed=1)
    scale, bias = (drawn(groups * outs, seed=2), drawn(groups * outs, seed=3)) if scaled else (None, None)
    inputs = [x, weight]
    if scale is not None and bias is not None:
        by_group = scale.reshape(groups, 1, outs, 1, 1).repeat(ins, 1).reshape(groups * ins, outs, 1, 1)
        inputs = [x, weight * by_group, bias]
    wanted = by_onnx("ConvTranspose", *inputs, group=groups, output_padding=extra, **onnx_windows(how))
    check(wanted, Convolution(**how, groups=groups, transposed=True), x, weight, scale, bias)


@pytest.mark.parametrize("rows_first", [True, False])
def test_dense(rows_first: bool) -> None:
    x, weight, scale, bias = drawn(4, 5), drawn(3, 5, seed=1), drawn(3, seed=2), drawn(3, seed=3)
    theirs = weight * scale[:, None]
    stored, theirs = (weight, theirs) if rows_first else (weight.T, theirs.T)
    wanted = by_onnx("Gemm", x, theirs, bias, transB=int(rows_first))
    check(wanted, Dense(rows_first), x, stored, scale, bias)
    check(by_onnx("Gemm", x, theirs, transB=int(rows_first)), Dense(rows_first), x, stored, scale)
    check(by_onnx("Gemm", x, stored, bias, transB=int(rows_first)), Dense(rows_first), x, stored, None, bias)
    many = drawn(2, 3, 4, 5)
    matrix = stored.T if rows_first else stored
    check(by_onnx("MatMul", many, np.ascontiguousarray(matrix)), Dense(rows_first), many, stored, None, None)


@pytest.mark.parametrize(("a", "b"), [*itertools.product([(2, 5), (3, 2, 5), (4, 1, 2, 5)], [(5, 3), (3, 5, 3)])])
@pytest.mark.parametrize("transposed", [*itertools.product([False, True], repeat=2)])
def test_matmul(a: tuple[int, ...], b: tuple[int, ...], transposed: tuple[bool, bool]) -> None:
    first, second = drawn(*a), drawn(*b, seed=1)
    wanted = by_onnx("MatMul", first, second) * np.float32(0.25)
    first, second = (
        np.swapaxes(array, -1, -2) if swap else array for array, swap in zip((first, second), transposed, strict=True)
    )
    check(wanted, MatMul(*transposed, scale=0.25), first, second)


# Windows and axes


@st.composite
def pools(draw: Any) -> tuple[dict[str, Any], Array]:
    """Windows with pads as ONNX Runtime takes them, narrower than the kernel, and an input at least as large."""
    how: dict[str, Any] = draw(windows())
    how["pads"] = tuple(min(pad, how["kernel"][axis % 2] - 1) for axis, pad in enumerate(how["pads"]))
    least = [max(1, spans(how)[axis] - how["pads"][axis] - how["pads"][axis + 2]) for axis in range(2)]
    return how, drawn(2, 2, *(draw(st.integers(size, size + 8)) for size in least)) - 3  # unlike padding


@given(pools(), st.booleans())
def test_max_pool(case: Any, ceil: bool) -> None:
    how, x = case
    wanted = by_onnx("MaxPool", x, ceil_mode=int(ceil), **onnx_windows(how))
    wanted[wanted == np.finfo(np.float32).min] = -np.inf  # of windows that hold nothing
    check(wanted, Pool("max", **how), x)


@given(pools(), st.booleans(), st.booleans())
def test_mean_pool(case: Any, ceil: bool, counts: bool) -> None:
    how, x = case
    wanted = by_onnx("AveragePool", x, ceil_mode=int(ceil), count_include_pad=int(counts), **onnx_windows(how))
    check(wanted, Pool("mean", **how, counts_padding=counts), x)


def test_mean_pool_of_nothing_is_zero() -> None:
    x = drawn(1, 1, 2, 2)
    found = by_us(Pool("mean", (2, 2), (1, 3), (1, 2), (0, 1, 0, 1)), x, shape=(1, 1, 1, 2))
    assert found[0, 0, 0, 0] == x[0, 0, :, 1].mean()
    assert found[0, 0, 0, 1] == 0


@pytest.mark.parametrize("kind", ["mean", "max", "sum"])
@pytest.mark.parametrize("axes", [(2, 3), (1,), (0, 3), (0, 1, 2, 3), ()])
def test_reduce(kind: Any, axes: tuple[int, ...]) -> None:
    x = drawn(2, 3, 4, 5)
    wanted = by_onnx(f"Reduce{kind.title()}", x, np.array(axes, np.int64), noop_with_empty_axes=1)
    check(wanted, Reduce(kind, axes), x)


@pytest.mark.parametrize("axis", [0, 1, 3, -1])
@pytest.mark.parametrize("log", [False, True])
def test_softmax(axis: int, log: bool) -> None:
    x = 50 * drawn(2, 3, 4, 5)
    check(by_onnx("LogSoftmax" if log else "Softmax", x, axis=axis), Softmax(axis, log), x)


@pytest.mark.parametrize("size", range(1, 8))
def test_local_norm(size: int) -> None:
    x = 3 * drawn(5, 5, 3, 4)  # the onnx package takes the batch size for the number of channels
    how: dict[str, Any] = {"size": size, "alpha": 0.3, "beta": 0.6, "bias": 1.5}
    for plain in [True] if size % 2 == 0 else [True, False]:  # ONNX Runtime knows odd sizes only
        check(by_onnx("LRN", x, plain=plain, **how), LocalNorm(**how), x)


@pytest.mark.parametrize("axis", [0, 1, 3])
@pytest.mark.parametrize("last", [False, True])
def test_argmax(axis: int, last: bool) -> None:
    x = drawn(4, 5, 6, 7).round()  # many are equal
    wanted = by_onnx("ArgMax", x, axis=axis, select_last_index=int(last))
    check(wanted, ArgMax(axis, last), x)


# Two values


@pytest.mark.parametrize("kind", ["add", "sub", "mul", "div", "max", "min", "pow"])
@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 3, 4)), ((2, 1, 4), (3, 1)), ((1,), (2, 3)), ((2, 3), ())])
def test_binary(kind: Any, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (drawn(*shape, seed=seed) for seed, shape in enumerate(shapes))
    if kind == "pow":
        a = abs(a)
    check(by_onnx(kind.title(), a, b), Binary(kind), a, b)


# Places


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(axis: int) -> None:
    shapes = [[2, 3, 4] for _ in range(3)]
    for number, shape in enumerate(shapes):
        shape[axis] = number + 1
    inputs = [drawn(*shape) for shape in shapes]
    check(by_onnx("Concat", *inputs, axis=axis), Concat(axis), *inputs)


@given(st.data())
def test_slice(data: Any) -> None:
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    bounds = []
    for size in shape:
        start, step = data.draw(st.integers(0, size - 1)), data.draw(st.sampled_from([-3, -2, -1, 1, 2, 3]))
        last = data.draw(st.integers(start, size - 1) if step > 0 else st.integers(0, start))
        stop = last + (1 if step > 0 else -1)
        bounds.append((start, stop if stop >= 0 else -size - 1, step))
    starts, stops, steps = zip(*bounds, strict=True)
    x = drawn(*shape)
    wanted = by_onnx("Slice", x, *map(np.array, (starts, stops, range(len(shape)), steps)))
    check(wanted, Slice(starts, steps), x)


@given(st.sampled_from(["constant", "edge", "reflect"]), st.data())
def test_pad(mode: Any, data: Any) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    limits = [size - 1 if mode == "reflect" else 4 for size in shape]
    before, after = ([data.draw(st.integers(0, limit)) for limit in limits] for _ in range(2))
    x = drawn(*shape)
    wanted = by_onnx("Pad", x, np.array([*before, *after]), np.array(-1.5, np.float32), mode=mode)
    check(wanted, Pad(tuple(before), mode, -1.5), x)


def test_pad_reflects_again_and_again() -> None:
    x = drawn(3, 1)
    check(np.pad(x, [(7, 9), (2, 1)], "reflect"), Pad((7, 2), "reflect"), x)


def test_shapes() -> None:
    x = drawn(2, 3, 4)
    check(by_onnx("Transpose", x, perm=[2, 0, 1]), Transpose((2, 0, 1)), x)
    check(by_onnx("Reshape", x, np.array([4, -1])), Reshape(), x)
    check(by_onnx("Reshape", x.transpose(2, 1, 0), np.array([3, 8])), Reshape(), x.transpose(2, 1, 0))
    check(by_onnx("Expand", x[:, :1], np.array([5, 2, 3, 4])), Expand(), x[:, :1])


NEAREST = {"prefer_floor": "round_prefer_floor", "prefer_ceil": "round_prefer_ceil", "floor": "floor", "ceil": "ceil"}
MODES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]


def sampling(mode: str, size: int, out: int, scale: Fraction) -> tuple[Fraction, Fraction]:
    """The scale and the offset of `Resize` along an axis for ONNX's way to transform coordinates."""
    half = 1 / scale / 2 - Fraction(1, 2)
    if mode == "asymmetric":
        return 1 / scale, Fraction(0)
    if mode == "align_corners":
        return (Fraction(size - 1, out - 1) if out > 1 else Fraction(0)), Fraction(0)
    if mode == "half_pixel_symmetric":
        return 1 / scale, half + Fraction(size, 2) * (1 - out / (size * scale))
    return (Fraction(0), Fraction(0)) if mode == "pytorch_half_pixel" and out == 1 else (1 / scale, half)


@given(st.sampled_from(MODES), st.data())
@settings(max_examples=200)
def test_resize(mode: str, data: Any) -> None:
    kind = data.draw(st.sampled_from(["nearest", "linear"]))
    rounding = data.draw(st.sampled_from(["floor", "ceil", "prefer_floor", "prefer_ceil"]))
    sizes = [data.draw(SIDES) for _ in range(2)]
    if data.draw(st.booleans()):
        outs = [data.draw(st.integers(1, 20)) for _ in range(2)]
        scales = [Fraction(out, size) for out, size in zip(outs, sizes, strict=True)]
        target = [None, np.array([2, 2, *outs])]
    else:
        scales = [Fraction(data.draw(st.sampled_from([0.25, 0.5, 0.625, 1.0, 1.5, 2.0, 2.75, 3.0]))) for _ in range(2)]
        outs = [int(size * scale) for size, scale in zip(sizes, scales, strict=True)]
        target = [np.array([1, 1, *scales], np.float32)]
        assume(all(outs))
    found = [sampling(mode, *axis) for axis in zip(sizes, outs, scales, strict=True)]
    if kind == "nearest" and mode != "align_corners":
        for size, out, ratio, (scale, offset) in zip(sizes, outs, scales, found, strict=True):
            # ONNX Runtime works in float32: where it has to round, what is a tie may go either way
            doubled = [2 * (at * scale + offset) for at in range(mode == "asymmetric", out)]
            exact = size * ratio == out or mode != "half_pixel_symmetric"
            exact &= float(np.float32(ratio)) == ratio
            assume(exact or all(abs(place - round(place)) > 1e-5 for place in doubled))
    x = drawn(2, 2, *sizes)
    how = {"mode": kind, "coordinate_transformation_mode": mode, "nearest_mode": NEAREST[rounding]}
    wanted = by_onnx("Resize", x, None, *target, **how)
    (vertical, top), (horizontal, left) = [map(float, axis) for axis in found]
    check(wanted, Resize(kind, (vertical, horizontal), (top, left), rounding), x)


def test_resize_finds_ties_in_spite_of_rounding() -> None:
    assert 49 * (1 / 49) < 1
    x = drawn(1, 1, 2, 2)
    found = by_us(Resize("nearest", (1 / 49, 1 / 49), (0, 0)), x, shape=(1, 1, 98, 98))
    assert np.array_equal(found, x.repeat(49, 2).repeat(49, 3))


# Epilogues

ENDS = np.array(-1, np.float32), np.array(2, np.float32)


def test_steps_without_operands() -> None:
    x = 3 * drawn(2, 3, 4, 5)

    def wants(wanted: Array, kind: StepKind, a: float = 0, b: float = 0) -> None:
        check(wanted, Map(), x, epilogue=(Step(kind, a, b),))

    wants(by_onnx("Relu", x), "relu")
    wants(by_onnx("Clip", x, *ENDS), "clip", -1, 2)
    wants(by_onnx("Clip", x, *ENDS[::-1]), "clip", 2, -1)
    wants(by_onnx("LeakyRelu", x, alpha=0.3), "leaky_relu", 0.3)
    wants(by_onnx("LeakyRelu", x, alpha=1.5), "leaky_relu", 1.5)
    wants(by_onnx("Sigmoid", x), "sigmoid")
    wants(x * by_onnx("Sigmoid", x), "silu")
    wants(by_onnx("HardSigmoid", x, alpha=0.2, beta=0.4), "hard_sigmoid", 0.2, 0.4)
    wants(by_onnx("HardSwish", x), "hard_swish")
    wants(by_onnx("Tanh", x), "tanh")
    wants(by_onnx("Exp", x), "exp")
    wants(by_onnx("Sqrt", x), "sqrt")
    wants(by_onnx("Neg", x), "neg")


@pytest.mark.parametrize(("shape", "slopes"), [((2, 3, 4, 5), 3), ((2, 3, 4, 5), 1), ((4, 3), 3), ((2, 3, 3), 3)])
def test_prelu(shape: tuple[int, ...], slopes: int) -> None:
    x, slope = drawn(*shape), drawn(slopes, seed=1)
    wanted = by_onnx("PRelu", x, slope.reshape(-1, *[1] * (len(shape) - 2)))
    check(wanted, Map(), x, slope, epilogue=(Step("prelu", operand="i1"),))


def test_steps_follow_one_another_after_scale_and_bias() -> None:
    shapes = [(2, 4), (3, 4), (3,), (3,), (2, 3)]
    x, weight, scale, bias, other = (drawn(*shape, seed=seed) for seed, shape in enumerate(shapes))
    middle = np.tanh(x @ weight.T * scale + bias)
    steps = (Step("tanh"), Step("add", operand="i4"), Step("relu"), Step("mul", operand="i4"), Step("neg"))
    check(-(np.maximum(middle + other, 0) * other), Dense(True), x, weight, scale, bias, other, epilogue=steps)
