"""Quantization against the arithmetic written out plainly, and its defined answers at the edges."""

import math

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wcodec.errors import NonFiniteError
from wcodec.model import DTYPES, Tensor
from wcodec.quantize import dequantize, quantize
from wcodec.scales import Uniform

RNG = np.random.default_rng(7)


def plain(x: np.ndarray, quantizer: Uniform) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and values, block by block, in float64 loops: slow and obvious."""
    symbols, values = np.zeros(x.shape, np.int64), np.zeros(x.shape, np.float64)
    sides = [length or size for length, size in zip(quantizer.block, x.shape, strict=True)]
    for corner in np.ndindex(*[math.ceil(n / b) for n, b in zip(x.shape, sides, strict=True)]):
        place = tuple(slice(c * b, (c + 1) * b) for c, b in zip(corner, sides, strict=True))
        block = x[place].astype(np.float64)
        low, high = min(block.min(), 0), max(block.max(), 0)
        if quantizer.symmetric:
            scale, zero = np.float32(np.float32(max(-low, high)) / np.float32(quantizer.highest)), 0
        else:
            scale = np.float32((high - low) / quantizer.highest)
            zero = round(float(-low / scale)) if scale else 0
        scale = scale or np.float32(1)
        symbols[place] = np.clip(np.rint(np.float32(block) / scale) + zero, quantizer.lowest, quantizer.highest)
        values[place] = (symbols[place] - zero) * float(scale)
    return symbols, values


BLOCKS = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 4, 1), (1, 1, 3), (2, 0, 2)]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8, 9, 12, 16])
def test_every_granularity_and_width_against_plain_loops(block, symmetric, bits):
    x = RNG.standard_normal((6, 10, 7)).astype(np.float32)
    quantizer = Uniform(bits, symmetric, block, "max")
    quantized = quantize(Tensor.from_array("x", x), quantizer)
    symbols, values = plain(x, quantizer)
    # the scales of asymmetric blocks may differ in the last bit, which moves a tie now and then
    assert np.mean(quantized.symbols != symbols) <= (0 if symmetric else 0.01)
    np.testing.assert_allclose(
        dequantize(quantized), values, atol=1.01 * quantized.scale.max() * (not symmetric) + 1e-6
    )
    assert quantized.symbols.dtype == quantizer.symbol_dtype


def test_per_row_int8_is_the_published_formula():
    w = RNG.laplace(size=(64, 3, 3, 3)).astype(np.float32)
    flat = w.reshape(64, -1)
    scale = np.abs(flat).max(1, keepdims=True) / np.float32(127)
    quantized = quantize(Tensor.from_array("w", w), Uniform(8, True, (1, 0, 0, 0), "max"))
    assert np.array_equal(quantized.symbols.reshape(64, -1), np.rint(flat / scale))
    assert np.array_equal(quantized.scale.reshape(-1, 1), scale)


@pytest.mark.parametrize("symmetric", [True, False])
def test_onnx_runtime_dequantizes_to_the_same_numbers(symmetric):
    x = RNG.standard_normal((16, 24)).astype(np.float32)
    quantized = quantize(Tensor.from_array("x", x), Uniform(8, symmetric, (1, 0), "max"))
    zero = np.zeros(16, np.int8) if quantized.zero_point is None else quantized.zero_point.reshape(-1)
    arrays = {"symbols": quantized.symbols, "scale": quantized.scale.reshape(-1), "zero": zero}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("DequantizeLinear", ["symbols", "scale", "zero"], ["y"], axis=0)],
        "dequantize",
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, x.shape)],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert np.array_equal(session.run(None, {})[0], dequantize(quantized))


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 8, 16])
def test_the_error_is_at_most_half_a_step(dtype, symmetric, bits):
    x = RNG.standard_normal((20, 30)).astype(DTYPES[dtype])
    quantized = quantize(Tensor.from_array("x", x), Uniform(bits, symmetric, (1, 0), "max"))
    error = np.abs(dequantize(quantized).astype(np.float64) - x.astype(np.float64))
    resolution = np.abs(x.astype(np.float64)) * float(ml_dtypes.finfo(DTYPES[dtype]).eps)
    # an asymmetric zero point is rounded too, which can cost the ends of the range another half step
    assert (error <= (0.5 if symmetric else 1.0) * quantized.scale * (1 + 1e-5) + 2 * resolution).all()
    assert dequantize(quantized).dtype == x.dtype


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("low", [0.0, -0.01, -0.4, -1.0])
@pytest.mark.parametrize("bits", [2, 5, 8, 16])
def test_the_largest_numbers_stay_finite(dtype, low, bits):
    largest = ml_dtypes.finfo(DTYPES[dtype]).max
    x = np.array([largest, DTYPES[dtype].type(low) * largest, 0.0], DTYPES[dtype])
    for symmetric in (True, False):
        back = dequantize(quantize(Tensor.from_array("x", x), Uniform(bits, symmetric, (0,), "max")))
        assert np.isfinite(back).all()
        assert float(back[0]) > 0.49 * float(largest)  # two bits about zero reach half of it


ARRAYS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(ARRAYS, st.booleans(), st.integers(2, 16), st.sampled_from(["max", "mse"]))
def test_any_finite_array_comes_back_finite_and_in_range(x, symmetric, bits, fit):
    quantizer = Uniform(bits, symmetric, (0,) * x.ndim, fit)
    quantized = quantize(Tensor.from_array("x", x), quantizer)
    back = dequantize(quantized)
    assert back.shape == x.shape
    assert back.dtype == x.dtype
    assert np.isfinite(quantized.scale).all()
    assert (quantized.scale > 0).all()
    if x.size:
        assert quantizer.lowest <= quantized.symbols.min()
        assert quantized.symbols.max() <= quantizer.highest
        assert (back[x == 0] == 0).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_least_squared_error_beats_the_maximum(bits):
    x = RNG.laplace(size=(32, 200)).astype(np.float32)
    errors = {}
    for fit in ("max", "mse"):
        back = dequantize(quantize(Tensor.from_array("x", x), Uniform(bits, True, (1, 0), fit)))
        errors[fit] = np.square(back - x).sum(1)
    assert (errors["mse"] <= errors["max"] * (1 + 1e-6)).all()
    assert errors["mse"].sum() < 0.9 * errors["max"].sum()


def test_rounding_is_half_to_even():
    x = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 127.0]], np.float32)
    assert quantize(Tensor.from_array("x", x), Uniform(8, True, (1, 0), "max")).symbols.tolist() == [
        [0, 2, 2, 0, -2, 127]
    ]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [0.0, 5.0, -3.25, 1e-44, 3e38])
def test_constant_tensors(value, symmetric):
    x = np.full((4, 5), value, np.float32)
    quantized = quantize(Tensor.from_array("x", x), Uniform(8, symmetric, (0, 0), "max"))
    np.testing.assert_allclose(dequantize(quantized), x, rtol=1e-6, atol=1e-45)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,)])
def test_scalars_and_empty_tensors(shape):
    x = np.full(shape, -2.0, np.float32)
    back = dequantize(quantize(Tensor.from_array("x", x), Uniform(8, True, (0,) * len(shape), "max")))
    assert back.shape == shape
    assert (back == x).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
def test_a_value_that_is_no_number_is_named_with_its_place(bad, dtype):
    x = np.zeros((4, 3, 5), DTYPES[dtype])
    x[2, 1, 3] = bad
    with pytest.raises(NonFiniteError, match=rf"tensor 'conv\.weight' holds {bad} at \(2, 1, 3\)"):
        quantize(Tensor.from_array("conv.weight", x), Uniform(8, True, (1, 0, 0), "max"))


def test_a_tensor_of_many_chunks_is_quantized_as_one():
    x = RNG.standard_normal((3, 1 << 20)).astype(np.float32)
    for block in ((0, 0), (0, 1), (1, 64)):
        quantized = quantize(Tensor.from_array("x", x), Uniform(6, True, block, "max"))
        symbols, _ = plain(x[:, :256], Uniform(6, True, block, "max")) if block[1] else (None, None)
        if symbols is not None:
            assert np.array_equal(quantized.symbols[:, :256], symbols)
        else:
            assert quantized.scale.item() == np.float32(np.abs(x).max()) / np.float32(31)
