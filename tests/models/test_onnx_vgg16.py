"""An ONNX VGG16 with its trained weights: what ONNX Runtime makes of it before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import wcodec
from tests.support.models import same_bits
from tests.support.plain import VIDEO, Plain, encoded, quantized_by
from wcodec import Policy
from wcodec.evaluate import fidelity
from wcodec.model import Array, QuantizedTensor
from wcodec.scales import Keep

PART = ("*block1_conv*", "*block3_conv2*", "*dense_1_2/*", "*dense_2*")
"""Weights enough for the coders that take long: of four convolutions and two dense layers, 660,000."""

INT8, INT4 = (Plain(bits, matrix_axis=1) for bits in (8, 4))
"""The net's matrices stand on the right of a MatMul, whose columns are output channels."""


class Expected(NamedTuple):
    """The net quantized without an archive: its initializers, and its output for the first image."""

    values: dict[str, Array]
    output: Array


@pytest.fixture(scope="module")
def proto(vgg16_onnx: Path) -> onnx.ModelProto:
    return onnx.load(vgg16_onnx)


@pytest.fixture(scope="module")
def weights(proto: onnx.ModelProto) -> dict[str, Array]:
    return initializers(proto)


@pytest.fixture(scope="module")
def images(photos: NDArray[np.uint8]) -> Array:
    """Crops of photos as the net takes them: f32 of shape (4, 240, 240, 3), values in 0 to 1."""
    return np.pad(photos[1::8], ((0, 0), (8, 8), (8, 8), (0, 0)), mode="edge").astype(np.float32) / 255


@pytest.fixture(scope="module")
def plain(proto: onnx.ModelProto, weights: dict[str, Array], images: Array) -> dict[int, Expected]:
    """The plainly quantized net, by bits."""
    values = {quantizer.bits: quantizer.values(weights) for quantizer in (INT8, INT4)}
    return {bits: Expected(arrays, run(with_weights(proto, arrays), images[:1])) for bits, arrays in values.items()}


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def with_weights(model: onnx.ModelProto, arrays: Mapping[str, Array]) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        tensor.raw_data = arrays[tensor.name].tobytes()
    return changed


def run(model: onnx.ModelProto, images: Array) -> Array:
    """The output of ONNX Runtime on one thread: probabilities of shape (images, 4) for the VGG16.

    Left to itself, it would round the inputs of a product with int8 weights to integers too.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output: Array = session.run(None, {session.get_inputs()[0].name: images})[0]
    return output


def decoded(data: bytes, folder: Path) -> onnx.ModelProto:
    """The ONNX model that an archive is decoded to, which must be a valid one."""
    path = folder / "decoded.onnx"
    wcodec.decode(data, path)
    model = onnx.load(path)
    path.unlink()
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize(("coder", "bits"), [("raw", 8), ("raw", 4), ("zstd", 8), ("zstd", 4), ("ffv1", 8)])
def test_lossless_coders_give_the_outputs_of_plain_quantization(
    vgg16_onnx: Path,
    proto: onnx.ModelProto,
    plain: dict[int, Expected],
    images: Array,
    tmp_path: Path,
    coder: str,
    bits: int,
) -> None:
    data = encoded(vgg16_onnx, Policy(bits=bits, coder=coder))
    assert quantized_by(data) == {coder}
    model = decoded(data, tmp_path)
    found, expected = initializers(model), plain[bits].values
    assert list(found) == list(expected)
    assert all(same_bits(found[name], array) for name, array in expected.items())
    assert model == with_weights(proto, expected)
    assert np.array_equal(run(model, images[:1]), plain[bits].output)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("coder", [*VIDEO, "auto"])
def test_slow_coders_give_what_plain_quantization_gives(
    vgg16_onnx: Path, plain: dict[int, Expected], coder: str, bits: int
) -> None:
    with wcodec.read_model(vgg16_onnx) as model:
        part = [tensor for tensor in model.tensors if any(fnmatch(tensor.name, pattern) for pattern in PART)]
        assert len(part) == 10
        data = encoded(wcodec.Model(part), Policy(bits=bits, coder=coder))
    assert coder == "auto" or quantized_by(data) == {coder}
    loaded = wcodec.load(data)
    assert list(loaded) == [tensor.name for tensor in part]
    assert all(same_bits(array, plain[bits].values[name]) for name, array in loaded.items())


def test_a_lossless_archive_gives_the_original_file(
    vgg16_onnx: Path, proto: onnx.ModelProto, images: Array, tmp_path: Path
) -> None:
    model = decoded(encoded(vgg16_onnx, Policy(lossless=True, coder="floats")), tmp_path)
    assert model == proto
    assert np.array_equal(run(model, images[:1]), run(proto, images[:1]))


def test_int8_stays_near_the_original(vgg16_onnx: Path, proto: onnx.ModelProto, images: Array, tmp_path: Path) -> None:
    model = decoded(encoded(vgg16_onnx, Policy(coder="zstd")), tmp_path)
    original, found = (np.log(np.maximum(run(each, images), 1e-30)) for each in (proto, model))
    assert len(set(original.argmax(1))) > 1
    # Measured: 0.0021 nats, all 4 photos, 33.5 dB. With 7 bits: 0.0096 nats, 28.5 dB.
    measured = fidelity(original, found)
    assert measured.kl is not None
    assert measured.top1 is not None
    assert 0 < measured.kl < 0.005
    assert measured.top1 >= 3 / 4
    assert measured.snr_db > 31


def in_integers(model: onnx.ModelProto, quantized: Iterable[QuantizedTensor]) -> onnx.ModelProto:
    """The model with these initializers as int8, each turned back into floats by a DequantizeLinear node."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for tensor in quantized:
        scale = tensor.scale.reshape(-1)
        del stored[tensor.name]
        parts = {"symbols": tensor.symbols, "scale": scale, "zero": np.zeros(scale.size, np.int8)}
        parts = {f"{tensor.name}/{part}": array for part, array in parts.items()}
        stored |= {name: numpy_helper.from_array(array, name) for name, array in parts.items()}
        axis = tensor.block.index(1)
        nodes.append(helper.make_node("DequantizeLinear", list(parts), [tensor.name], axis=axis))
    changed.graph.ClearField("initializer")
    changed.graph.ClearField("node")
    changed.graph.initializer.extend(stored.values())
    changed.graph.node.extend([*nodes, *model.graph.node])
    onnx.checker.check_model(changed, full_check=True)
    return changed


def test_a_net_of_int8_initializers_passes_through(
    proto: onnx.ModelProto,
    weights: dict[str, Array],
    plain: dict[int, Expected],
    images: Array,
    tmp_path: Path,
) -> None:
    source = in_integers(proto, INT8.quantized(weights))
    path = tmp_path / "integers.onnx"
    path.write_bytes(source.SerializeToString())
    model = decoded(encoded(path, Policy(coder="zstd", bits=4)), tmp_path)
    path.unlink()
    assert model == source
    output = run(model, images[:1])
    assert np.array_equal(output, run(source, images[:1]))
    np.testing.assert_allclose(output, plain[8].output, atol=1e-5)


def two_convolutions(weights: dict[str, Array]) -> onnx.ModelProto:
    """Two of the net's convolutions, one after the other, the second in int8."""
    names = [next(n for n in weights if "block3_conv1" in n), next(n for n in weights if "block3_conv2" in n)]
    nodes = [
        helper.make_node("Conv", ["x", names[0]], ["between"]),
        helper.make_node("Conv", ["between", names[1]], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 128, 9, 9])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 256, 5, 5])
    stored = [numpy_helper.from_array(weights[name], name) for name in names]
    graph = helper.make_graph(nodes, "two convolutions", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return in_integers(model, INT8.quantized({names[1]: weights[names[1]]}))


@pytest.mark.parametrize(("coder", "qp"), [("auto", None), ("ffv1", None), ("h264", 30), ("hevc", 30), ("av1", 30)])
def test_int8_beside_floats_passes_through(
    weights: dict[str, Array], tmp_path: Path, coder: str, qp: int | None
) -> None:
    source = two_convolutions(weights)
    path = tmp_path / "source.onnx"
    path.write_bytes(source.SerializeToString())
    data = encoded(path, Policy(coder=coder, qp=qp))
    original, found = initializers(source), initializers(model := decoded(data, tmp_path))
    (floats,) = INT8.quantized(original)
    with wcodec.open(data) as archive:
        kept = {tensor.name for tensor in archive.tensors() if tensor.recipe.quantizer == Keep()}
    assert kept == original.keys() - {floats.name}
    assert all(same_bits(found[name], original[name]) for name in kept)
    assert same_bits(found[floats.name], wcodec.dequantize(floats)) == (qp is None)
    draw = np.random.default_rng(0).standard_normal((1, 128, 9, 9), np.float32)
    assert np.array_equal(run(model, draw), run(with_weights(source, found), draw))
