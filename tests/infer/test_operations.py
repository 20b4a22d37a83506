"""Every operation on every device and in every precision, against ONNX Runtime."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.support.infer import check_alike, graph_of, node
from tests.support.opencl import as_gpu
from wcodec.model import Array
from wcodec.opencl.device import Device

Shape = tuple[int, ...]


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def weight(*shape: int) -> Array:
    """Weights that keep the size of what goes through them."""
    return (drawn(*shape, seed=1) / math.sqrt(math.prod(shape[1:]))).astype(np.float32)


CONVOLUTIONS: dict[str, tuple[Shape, Shape, dict[str, Any]]] = {
    "3x3": ((1, 16, 14, 14), (32, 16, 3, 3), {"pads": [1, 1, 1, 1]}),
    "3x3, odd channels": ((2, 5, 9, 11), (7, 5, 3, 3), {"pads": [1, 1, 1, 1]}),
    "3x3, many places": ((1, 20, 30, 29), (40, 20, 3, 3), {"pads": [1, 1, 1, 1]}),
    "3x3, small images": ((2, 33, 2, 3), (50, 33, 3, 3), {"pads": [1, 1, 1, 1]}),
    "images and stride": ((1, 3, 31, 30), (24, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "7x7": ((1, 3, 33, 28), (16, 3, 7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    "11x11": ((1, 3, 47, 47), (16, 3, 11, 11), {"strides": [4, 4]}),
    "1x1": ((1, 40, 7, 7), (24, 40, 1, 1), {}),
    "1x1, batch": ((3, 16, 13, 5), (64, 16, 1, 1), {}),
    "1x1, stride": ((1, 32, 9, 9), (16, 32, 1, 1), {"strides": [2, 2]}),
    "1x1, one place": ((2, 48, 1, 1), (20, 48, 1, 1), {}),
    "asymmetric padding": ((1, 8, 10, 9), (16, 8, 3, 3), {"strides": [2, 2], "pads": [0, 1, 1, 2]}),
    "same upper": ((1, 8, 10, 9), (16, 8, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "same lower": ((1, 8, 10, 9), (16, 8, 4, 4), {"auto_pad": "SAME_LOWER"}),
    "dilation": ((1, 16, 20, 17), (16, 16, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "uneven kernel": ((1, 16, 12, 12), (16, 16, 1, 5), {"pads": [0, 2, 0, 2]}),
    "groups of blocks": ((1, 64, 9, 9), (32, 32, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "groups of a few": ((2, 24, 7, 8), (36, 4, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "depthwise": ((1, 32, 15, 14), (32, 1, 3, 3), {"group": 32, "pads": [1, 1, 1, 1]}),
    "depthwise, odd": ((2, 21, 9, 5), (21, 1, 5, 5), {"group": 21, "strides": [2, 2], "pads": [2, 2, 2, 2]}),
    "depthwise, dilation": ((1, 16, 13, 13), (16, 1, 3, 3), {"group": 16, "dilations": [2, 2]}),
    "depthwise, doubled": ((1, 10, 8, 8), (20, 1, 3, 3), {"group": 10, "pads": [1, 1, 1, 1]}),
    "one channel": ((2, 1, 9, 8), (1, 1, 3, 3), {"pads": [1, 1, 1, 1]}),
    "one channel, 1x1": ((1, 1, 9, 8), (1, 1, 1, 1), {}),
    "signals": ((2, 12, 30), (20, 12, 5), {"strides": [2], "pads": [2, 2]}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(device: Device, tmp_path, case) -> None:
    shape, kernel, attributes = CONVOLUTIONS[case]
    model = graph_of(
        [node("Conv", "x", "w", "b", **attributes)],
        {"x": ["batch", *shape[1:]]},
        {"w": weight(*kernel), "b": drawn(kernel[0])},
    )
    check_alike(device, model, tmp_path, drawn(*shape))
    check_alike(as_gpu(device), model, tmp_path, drawn(*shape))


TRANSPOSED: dict[str, tuple[Shape, Shape, dict[str, Any]]] = {
    "2x2, stride 2": ((1, 32, 8, 8), (32, 16, 2, 2), {"strides": [2, 2]}),
    "3x3, padding": ((2, 5, 7, 6), (5, 9, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    "4x4": ((1, 8, 5, 5), (8, 3, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "dilation": ((1, 8, 5, 5), (8, 3, 3, 3), {"dilations": [2, 2]}),
    "groups": ((1, 12, 5, 5), (12, 2, 3, 3), {"group": 3, "strides": [2, 2]}),
    "output shape": ((1, 4, 5, 5), (4, 4, 3, 3), {"strides": [2, 2], "output_shape": [10, 10]}),
    "signals": ((1, 6, 9), (6, 4, 4), {"strides": [2], "pads": [1, 1]}),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolution(device: Device, tmp_path, case) -> None:
    shape, kernel, attributes = TRANSPOSED[case]
    weights = {"w": weight(*kernel), "b": drawn(kernel[1] * attributes.get("group", 1))}
    model = graph_of([node("ConvTranspose", "x", "w", "b", **attributes)], {"x": shape}, weights)
    check_alike(device, model, tmp_path, drawn(*shape))


PRODUCTS: dict[str, tuple[str, Shape, Shape, dict[str, Any]]] = {
    "gemm": ("Gemm", (1, 40), (40, 33), {}),
    "gemm, rows first": ("Gemm", (3, 1100), (50, 1100), {"transB": 1}),
    "gemm, batch": ("Gemm", (17, 64), (32, 64), {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    "gemm, flipped": ("Gemm", (40, 6), (40, 33), {"transA": 1}),
    "matmul": ("MatMul", (4, 30), (30, 10), {}),
    "matmul, three axes": ("MatMul", (2, 5, 30), (30, 17), {}),
    "matmul, stacked": ("MatMul", (2, 5, 30), (2, 30, 17), {}),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_product_with_a_constant(device: Device, tmp_path, case) -> None:
    kind, shape, matrix, attributes = PRODUCTS[case]
    weights = {"w": weight(*matrix)}
    columns = matrix[0] if attributes.get("transB") else matrix[-1]
    inputs = ["x", "w"]
    if kind == "Gemm":
        weights["b"] = drawn(columns)
        inputs.append("b")
    model = graph_of([node(kind, *inputs, **attributes)], {"x": shape}, weights)
    check_alike(device, model, tmp_path, drawn(*shape))


@pytest.mark.parametrize(
    ("kind", "a", "b", "attributes"),
    [
        ("MatMul", (3, 5, 20), (3, 20, 18), {}),
        ("MatMul", (2, 1, 5, 20), (3, 20, 7), {}),
        ("Gemm", (20, 5), (7, 20), {"transA": 1, "transB": 1}),
    ],
)
def test_product_of_two_values(device: Device, tmp_path, kind, a, b, attributes) -> None:
    model = graph_of([node(kind, "a", "b", **attributes)], {"a": a, "b": b})
    check_alike(device, model, tmp_path, drawn(*a), drawn(*b), bound=3)


POOLS: dict[str, tuple[str, Shape, dict[str, Any]]] = {
    "max": ("MaxPool", (1, 20, 8, 9), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "max, overlapping": ("MaxPool", (2, 16, 9, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "max, up": ("MaxPool", (1, 16, 8, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "max, dilation": ("MaxPool", (1, 16, 11, 11), {"kernel_shape": [3, 3], "dilations": [2, 2]}),
    "max, uneven": ("MaxPool", (1, 16, 13, 13), {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [0, 0, 1, 1]}),
    "max, signals": ("MaxPool", (1, 16, 13), {"kernel_shape": [2], "strides": [2]}),
    "mean": ("AveragePool", (1, 20, 8, 9), {"kernel_shape": [2, 3], "strides": [2, 2]}),
    "mean, padding": ("AveragePool", (1, 8, 7, 7), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "mean, counted padding": (
        "AveragePool",
        (1, 8, 7, 7),
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    "max, up, padding": (
        "MaxPool",
        (1, 4, 11, 11),
        {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1] * 4, "ceil_mode": 1},
    ),
    "max, up, uneven": (
        "MaxPool",
        (1, 4, 10, 11),
        {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 0, 1], "ceil_mode": 1},
    ),
    "max, up, signals": ("MaxPool", (1, 4, 11), {"kernel_shape": [2], "strides": [3], "pads": [1, 1], "ceil_mode": 1}),
    "mean, up, padding": (
        "AveragePool",
        (1, 4, 11, 11),
        {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1] * 4, "ceil_mode": 1, "count_include_pad": 1},
    ),
    "mean, up": ("AveragePool", (1, 8, 8, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "global mean": ("GlobalAveragePool", (2, 40, 7, 5), {}),
    "global max": ("GlobalMaxPool", (2, 40, 7, 5), {}),
    "mean of axes": ("ReduceMean", (2, 40, 7, 5), {"axes": [2, 3], "keepdims": 0}),
    "mean of channels": ("ReduceMean", (2, 40, 7, 5), {"axes": [1]}),
    "mean of all": ("ReduceMean", (2, 10, 3), {}),
    "max of an axis": ("ReduceMax", (2, 10, 33), {"axes": [-2], "keepdims": 0}),
}


@pytest.mark.parametrize("case", POOLS)
def test_pool(device: Device, tmp_path, case) -> None:
    kind, shape, attributes = POOLS[case]
    check_alike(device, graph_of([node(kind, "x", **attributes)], {"x": shape}), tmp_path, drawn(*shape) + 1)


STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "leaky": ("LeakyRelu", {"alpha": 0.2}),
    "sigmoid": ("Sigmoid", {}),
    "hard sigmoid": ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    "hard swish": ("HardSwish", {}),
    "tanh": ("Tanh", {}),
    "exp": ("Exp", {}),
    "neg": ("Neg", {}),
    "softmax": ("Softmax", {"axis": 1}),
    "softmax, last": ("Softmax", {}),
    "log softmax": ("LogSoftmax", {"axis": -1}),
    "local norm": ("LRN", {"size": 5, "alpha": 0.3, "beta": 0.6, "bias": 1.5}),
}


@pytest.mark.parametrize("case", STEPS)
@pytest.mark.parametrize("shape", [(2, 20, 5, 7), (1, 16, 4, 4)], ids=str)
def test_function_of_images(device: Device, tmp_path, case, shape) -> None:
    kind, attributes = STEPS[case]
    nodes = [node("MaxPool", "x", outputs=["p"], kernel_shape=[1, 1]), node(kind, "p", **attributes)]
    check_alike(device, graph_of(nodes, {"x": shape}), tmp_path, drawn(*shape))


@pytest.mark.parametrize("case", [case for case in STEPS if "norm" not in case])
def test_function_of_arrays(device: Device, tmp_path, case) -> None:
    kind, attributes = STEPS[case]
    check_alike(device, graph_of([node(kind, "x", **attributes)], {"x": (3, 37)}), tmp_path, drawn(3, 37))


@pytest.mark.parametrize("shape", [(2, 20, 5, 7), (3, 37)], ids=str)
@pytest.mark.parametrize("low", [True, False])
def test_clip(device: Device, tmp_path, shape, low) -> None:
    bounds = {"low": np.array(-0.25, np.float32), "high": np.array(0.5, np.float32)}
    model = graph_of([node("Clip", "x", "low" if low else "", "high")], {"x": shape}, bounds)
    check_alike(device, model, tmp_path, drawn(*shape))


@pytest.mark.parametrize(("shape", "slopes"), [((2, 20, 5, 7), (20, 1, 1)), ((2, 20, 5, 7), (1,)), ((3, 37), (37,))])
def test_prelu(device: Device, tmp_path, shape, slopes) -> None:
    model = graph_of([node("PRelu", "x", "s")], {"x": shape}, {"s": drawn(*slopes)})
    check_alike(device, model, tmp_path, drawn(*shape))


PAIRS: list[tuple[Shape, Shape]] = [
    ((2, 20, 5, 7), (2, 20, 5, 7)),
    ((2, 20, 5, 7), (20, 1, 1)),
    ((2, 20, 5, 7), (2, 20, 1, 1)),
    ((2, 20, 5, 7), (1,)),
    ((2, 20, 5, 7), (5, 7)),
    ((2, 1, 5, 7), (1, 20, 1, 7)),
    ((4, 48), (48,)),
    ((4, 37), (37,)),
    ((3, 4, 5), (4, 1)),
    ((3, 1, 5), (1, 4, 1)),
]


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize(("a", "b"), PAIRS, ids=str)
def test_two_values(device: Device, tmp_path, kind, a, b) -> None:
    one, two = drawn(*a), drawn(*b, seed=2)
    two = np.sign(two) * (abs(two) + 0.5)
    check_alike(device, graph_of([node(kind, "a", "b")], {"a": a, "b": b}), tmp_path, one, two.astype(np.float32))
    model = graph_of([node(kind, "b", "a")], {"a": a}, {"b": two.astype(np.float32)})
    check_alike(device, model, tmp_path, one + 3)


@pytest.mark.parametrize("exponent", [2.0, 0.5, 3.0])
def test_power(device: Device, tmp_path, exponent) -> None:
    model = graph_of([node("Pow", "x", "e")], {"x": (3, 20)}, {"e": np.array(exponent, np.float32)})
    check_alike(device, model, tmp_path, abs(drawn(3, 20)) + 0.1)


MOVES: dict[str, tuple[str, Shape, dict[str, Any], dict[str, Array]]] = {
    "transpose": ("Transpose", (2, 20, 5, 7), {"perm": [0, 2, 3, 1]}, {}),
    "transpose to images": ("Transpose", (2, 5, 7, 20), {"perm": [0, 3, 1, 2]}, {}),
    "transpose, three": ("Transpose", (4, 17, 33), {"perm": [1, 2, 0]}, {}),
    "reshape": ("Reshape", (2, 20, 5, 7), {}, {"shape": np.array([2, -1, 10])}),
    "flatten": ("Flatten", (2, 20, 5, 7), {}, {}),
    "flatten, one place": ("Flatten", (2, 20, 1, 1), {}, {}),
    "squeeze": ("Squeeze", (2, 20, 1, 1), {}, {"axes": np.array([2, 3])}),
    "unsqueeze": ("Unsqueeze", (2, 20), {}, {"axes": np.array([0, 3])}),
    "slice": (
        "Slice",
        (2, 20, 9, 9),
        {},
        {
            "starts": np.array([3, -1, 8]),
            "ends": np.array([19, 99, -99]),
            "axes": np.array([1, 2, 3]),
            "steps": np.array([1, 1, -2]),
        },
    ),
    "slice of blocks": (
        "Slice",
        (1, 64, 5, 5),
        {},
        {"starts": np.array([16]), "ends": np.array([48]), "axes": np.array([1])},
    ),
    "gather one": ("Gather", (2, 20, 5), {"axis": 1}, {"index": np.array(-3)}),
    "gather some": ("Gather", (2, 20, 5), {"axis": 1}, {"index": np.array([1, 4, 7])}),
    "pad": ("Pad", (2, 20, 5, 7), {}, {"pads": np.array([0, 1, 2, 3, 0, 0, 1, 2]), "v": np.array(1.5, np.float32)}),
    "pad by the edge": ("Pad", (1, 16, 5, 7), {"mode": "edge"}, {"pads": np.array([0, 0, 2, 3, 0, 0, 1, 2])}),
    "pad by reflection": ("Pad", (1, 16, 5, 7), {"mode": "reflect"}, {"pads": np.array([0, 0, 2, 3, 0, 0, 1, 2])}),
    "expand": ("Expand", (2, 1, 5, 1), {}, {"shape": np.array([3, 2, 20, 5, 7])}),
    "space to depth": ("SpaceToDepth", (1, 3, 8, 8), {"blocksize": 2}, {}),
    "depth to space": ("DepthToSpace", (1, 48, 4, 4), {"blocksize": 2}, {}),
    "depth to space, columns": ("DepthToSpace", (1, 48, 4, 4), {"blocksize": 2, "mode": "CRD"}, {}),
}


@pytest.mark.parametrize("case", MOVES)
@pytest.mark.parametrize("in_blocks", [False, True])
def test_move(device: Device, tmp_path, case, in_blocks) -> None:
    kind, shape, attributes, constants = MOVES[case]
    nodes = [node(kind, "p" if in_blocks else "x", *constants, **attributes)]
    if in_blocks:
        if len(shape) != 4:
            pytest.skip("only images lie in blocks")
        nodes.insert(0, node("MaxPool", "x", outputs=["p"], kernel_shape=[1, 1]))
    check_alike(device, graph_of(nodes, {"x": shape}, constants), tmp_path, drawn(*shape))


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("channels", [(16, 32), (5, 9, 20)], ids=str)
def test_concat_and_split(device: Device, tmp_path, axis, channels) -> None:
    shapes = {f"x{n}": tuple(size if a == axis % 4 else 3 for a in range(4)) for n, size in enumerate(channels)}
    pooled = [node("MaxPool", name, outputs=[f"p{name}"], kernel_shape=[1, 1]) for name in list(shapes)[1:]]
    names = [name if n == 0 else f"p{name}" for n, name in enumerate(shapes)]
    nodes = [*pooled, node("Concat", *names, outputs=["c"], axis=axis)]
    nodes.append(node("Split", "c", "sizes", outputs=["a", "b"], axis=axis))
    total = sum(channels)
    model = graph_of(nodes, shapes, {"sizes": np.array([total - 3, 3])}, outputs=("a", "b", "c"))
    check_alike(device, model, tmp_path, *(drawn(*shape, seed=n) for n, shape in enumerate(shapes.values())))


RESIZES: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "nearest, half pixel": {"mode": "nearest"},
    "nearest, ceil": {"mode": "nearest", "nearest_mode": "ceil", "coordinate_transformation_mode": "asymmetric"},
    "linear": {"mode": "linear"},
    "linear, corners": {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    "linear, as torch": {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    "linear, asymmetric": {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
}


@pytest.mark.parametrize("case", RESIZES)
@pytest.mark.parametrize("scales", [(2, 2), (1.5, 3), (0.5, 0.6)], ids=str)
def test_resize(device: Device, tmp_path, case, scales) -> None:
    constants = {"scales": np.array([1, 1, *scales], np.float32)}
    model = graph_of([node("Resize", "x", "", "scales", **RESIZES[case])], {"x": (2, 20, 6, 10)}, constants)
    check_alike(device, model, tmp_path, drawn(2, 20, 6, 10))


def test_resize_to_sizes(device: Device, tmp_path) -> None:
    constants = {"sizes": np.array([1, 16, 9, 20])}
    model = graph_of([node("Resize", "x", "", "", "sizes", mode="linear")], {"x": (1, 16, 7, 10)}, constants)
    check_alike(device, model, tmp_path, drawn(1, 16, 7, 10))


@pytest.mark.parametrize("attributes", [{"axis": 1, "keepdims": 0}, {"axis": -1}, {"axis": 1, "select_last_index": 1}])
def test_arg_max(device: Device, tmp_path, attributes) -> None:
    x = np.round(drawn(3, 40, 5) * 2) / 2
    check_alike(device, graph_of([node("ArgMax", "x", **attributes)], {"x": x.shape}), tmp_path, x.astype(np.float32))
