"""What folding does to tensors, to unusual graphs, to whole nets and to their quantization."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import wcodec
from tests.support.folding import Weights, changed, drawn, folded, kinds, norm, norm_node, read, same_outputs
from tests.support.infer import distance, graph_of, node, oracle
from tests.zoo import Net, digits
from wcodec.cli import main
from wcodec.model import DTYPES, Array, Model, Tensor
from wcodec.transforms import fold
from wcodec.transforms.channels import Channels, rounded

IMAGES = (2, 6, 9, 8)
CONV = node("Conv", "x", "conv.weight", outputs=("c",))
BN = norm_node("c", "y")
WEIGHTS = {"conv.weight": drawn(8, 6, 3, 3)} | norm(8)


def small(nodes: list[onnx.NodeProto] | None = None, **weights: Array) -> bytes:
    """A convolution and a norm, or other nodes, with some weights exchanged."""
    renamed = {name.replace("_", "."): array for name, array in weights.items()}
    return graph_of(nodes or [CONV, BN], {"x": IMAGES}, WEIGHTS | renamed)


# Tensors


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
def test_weights_are_computed_in_float64_and_rounded_once(tmp_path: Path, dtype: str) -> None:
    parameters = {name: array.astype(np.float64) for name, array in norm(8).items()}
    weight = drawn(8, 6, 3, 3).astype(np.float64).astype(DTYPES[dtype])
    model = graph_of([CONV, BN], {"x": IMAGES}, parameters | {"conv.weight": weight})
    with read(tmp_path / "m.onnx", model) as source:
        found = {tensor.name: tensor for tensor in fold(source).tensors}
        factors = parameters["bn.scale"] / np.sqrt(parameters["bn.variance"] + np.float64(np.float32(1e-5)))
        exact = weight.astype(np.float64) * factors.reshape(8, 1, 1, 1)
        shifts = parameters["bn.shift"] - parameters["bn.mean"] * factors
        assert found.keys() == {"conv.weight", "conv.bias"}
        assert {tensor.dtype for tensor in found.values()} == {dtype}
        assert np.array_equal(found["conv.weight"].array(), rounded(exact, dtype))
        assert np.array_equal(found["conv.bias"].array(), rounded(shifts, dtype))


@given(st.floats(width=64), st.sampled_from(["f16", "bf16", "f32"]))
def test_numbers_are_rounded_to_the_nearest(number: float, dtype: str) -> None:
    [found] = rounded(np.array([number]), dtype)
    assert math.isnan(found) == math.isnan(number)
    if not np.isfinite(found) or not math.isfinite(number):
        return
    bits = np.array([found]).view(f"i{found.itemsize}")
    for step in (-1, 1):
        beside = float((bits + step).view(found.dtype)[0])
        error, other = abs(float(found) - number), abs(beside - number)
        assert math.isnan(beside) or error < other or (error == other and bits[0] % 2 == 0) or found == beside


def test_bf16_is_not_rounded_by_way_of_f32() -> None:
    number = np.array([1 + 2.0**-8 + 2.0**-40])
    assert rounded(number, "bf16")[0] == 1 + 2.0**-7
    assert rounded(-number, "bf16")[0] == -1 - 2.0**-7
    assert number.astype(ml_dtypes.bfloat16)[0] == 1


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.data())
def test_every_range_has_the_factors_of_its_channels(
    run: int, count: int, inner: int, groups: int, data: st.DataObject
) -> None:
    # a transposed convolution's weight: inputs, channels of a group, places
    channels = Channels(run, count, inner * count * run)
    factors = np.arange(1.0, count * groups + 1)
    grouped = np.broadcast_to(factors.reshape(groups, 1, count, 1), (groups, inner, count, run)).reshape(-1)
    start = data.draw(st.integers(0, grouped.size))
    stop = data.draw(st.integers(start, grouped.size))
    assert np.array_equal(channels.spread(factors, start, stop), grouped[start:stop])


def test_weights_are_read_in_the_blocks_that_are_asked_for(tmp_path: Path) -> None:
    ranges: list[tuple[str, int, int]] = []

    def watched(tensor: Tensor) -> Tensor:
        def note(start: int, stop: int) -> Array:
            ranges.append((tensor.name, start, stop))
            return tensor.read(start, stop)

        return Tensor(tensor.name, tensor.dtype, tensor.shape, note, tensor.channel_axis, step=tensor.size // 5)

    model = graph_of([CONV, BN], {"x": (1, 300, 5, 5)}, {"conv.weight": drawn(301, 300, 3, 3)} | norm(301))
    with read(tmp_path / "m.onnx", model) as source:
        watching = Model([watched(tensor) for tensor in source.tensors], graph=source.graph)
        result = fold(watching)
        assert "conv.weight" not in {name for name, _, _ in ranges}
        [weight, bias] = result.tensors
        ranges.clear()
        blocks = list(weight.blocks())
        step = weight.size // 5
        assert [len(block) for block in blocks] == [step] * 5
        assert ranges == [("conv.weight", start, start + step) for start in range(0, weight.size, step)]
        assert np.array_equal(np.concatenate(blocks), weight.array().reshape(-1))
        assert np.array_equal(weight.read(12_345, 234_567), weight.array().reshape(-1)[12_345:234_567])
        assert bias.shape == (301,)


@pytest.mark.parametrize(("scale", "left"), [(2.0, ["Conv", "BatchNormalization"]), (1.5, ["Conv"])])
def test_norms_stay_where_f16_weights_would_become_infinite(tmp_path: Path, scale: float, left: list[str]) -> None:
    parameters = {
        "bn.scale": np.full(8, scale, np.float32),
        "bn.shift": np.zeros(8, np.float32),
        "bn.mean": np.zeros(8, np.float32),
        "bn.variance": np.ones(8, np.float32),
    }
    weight = np.full((8, 6, 3, 3), 40_000, np.float16)
    model = graph_of([CONV, BN], {"x": IMAGES}, parameters | {"conv.weight": weight})
    with read(tmp_path / "m.onnx", model) as source:
        result = fold(source)
    assert result.graph is not None
    assert kinds(onnx.ModelProto.FromString(result.graph)) == left


# Graphs


def test_folding_twice_changes_nothing_more(tmp_path: Path) -> None:
    with read(tmp_path / "m.onnx", small()) as source:
        once = fold(source)
        again = fold(once)
        assert again.graph == once.graph
        for a, b in zip(once.tensors, again.tensors, strict=True):
            assert np.array_equal(a.array(), b.array())


def test_a_model_without_a_graph_is_refused() -> None:
    with pytest.raises(wcodec.UsageError, match="folding needs a graph"):
        fold(Model.from_arrays({"w": drawn(3)}))


@pytest.mark.parametrize("what", ["old operators", "training information"])
def test_models_that_fold_does_not_understand_come_back(tmp_path: Path, what: str) -> None:
    def change(proto: onnx.ModelProto) -> None:
        if what == "old operators":
            proto.opset_import[0].version = 6
        else:
            proto.training_info.add()

    with read(tmp_path / "m.onnx", changed(small(), change)) as source:
        assert fold(source) is source


@pytest.mark.parametrize("ir_version", [3, 9])
def test_initializers_that_are_inputs(tmp_path: Path, ir_version: int) -> None:
    """Constants in old versions of ONNX; in newer ones, what a caller may exchange."""

    def change(proto: onnx.ModelProto) -> None:
        proto.ir_version, proto.opset_import[0].version = ir_version, 8
        for stub in proto.graph.initializer:
            proto.graph.input.append(helper.make_tensor_value_info(stub.name, stub.data_type, stub.dims))

    model = changed(small(), change)
    after = folded(model, tmp_path)
    inputs = [info.name for info in after.graph.input]
    if ir_version == 3:
        assert (kinds(after), inputs) == (["Conv"], ["x", "conv.weight", "conv.bias"])
        same_outputs(small(), after, drawn(*IMAGES, seed=5))
    else:
        assert after == onnx.ModelProto.FromString(model)


def branching(inner: str) -> bytes:
    """A convolution and a norm, and an If of which one branch reads an outer tensor and both have one called so."""
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    bodies = {}
    for branch, value in (("then_branch", inner), ("else_branch", "spare#2")):
        stub = numpy_helper.from_array(drawn(1, seed=len(branch)), "spare")
        total = helper.make_node("ReduceSum", [value], ["sum"], keepdims=0)
        adding = helper.make_node("Add", ["sum", "spare"], ["out"])
        bodies[branch] = helper.make_graph([total, adding], branch, [], [out], [stub])
    condition = numpy_helper.from_array(np.array(True), "condition")
    test = helper.make_node("If", ["condition"], ["z"], name="If", **bodies)
    model = graph_of([CONV, BN], {"x": IMAGES}, WEIGHTS | {"spare#2": drawn(2), "unused": drawn(3)})

    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node.append(test)
        proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
        proto.graph.initializer.append(condition)

    return changed(model, change)


@pytest.mark.parametrize("inner", ["conv.weight", "c", "y", "bn.scale"])
def test_what_subgraphs_read_stays(tmp_path: Path, inner: str) -> None:
    model = branching(inner)
    path = tmp_path / "m.onnx"
    with read(path, model) as source:
        result = fold(source)
        assert {"spare", "spare#3", "spare#2", "condition"} <= {tensor.name for tensor in result.tensors}
        assert "unused" not in {tensor.name for tensor in result.tensors}
        wcodec.write_model(result, path.with_name("folded.onnx"))
    after = onnx.load(path.with_name("folded.onnx"))
    assert kinds(after) == (["Conv", "If"] if inner in ("y", "bn.scale") else ["Conv", "BatchNormalization", "If"])
    same_outputs(model, after, drawn(*IMAGES, seed=5))


def test_tied_weights_stay(tmp_path: Path) -> None:
    with read(tmp_path / "m.onnx", small(copy=drawn(8, 6, 3, 3))) as source:
        kept = [tensor for tensor in source.tensors if tensor.name != "copy"]
        tied = Model(kept, ties={"copy": "conv.weight"}, graph=source.graph)
        result = fold(tied)
        assert result.ties == {"copy": "conv.weight"}
        assert [tensor.name for tensor in result.tensors] == [tensor.name for tensor in kept]


# Nets


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 3]), st.booleans(), st.integers(0, 2**32 - 1))
def test_any_convolution_and_norm(tmp_path: Path, inputs: int, channels: int, size: int, bias: bool, seed: int) -> None:
    draw = np.random.default_rng(seed)
    arrays: Weights = {
        "w": draw.standard_normal((channels, inputs, size, size)).astype(np.float32),
        **norm(channels, seed=seed),
        **({"b": draw.standard_normal(channels).astype(np.float32)} if bias else {}),
    }
    layer = node("Conv", "x", "w", *(["b"] if bias else []), outputs=("c",))
    epsilon = float(draw.choice([1e-5, 1e-3, 0.1]))
    model = graph_of([layer, norm_node("c", "y", epsilon=epsilon)], {"x": (1, inputs, 6, 5)}, arrays)
    after = folded(model, tmp_path)
    assert kinds(after) == ["Conv"]
    same_outputs(model, after, drawn(1, inputs, 6, 5, seed=seed))


def decoded(model: wcodec.Model, folder: Path, **policy: Any) -> onnx.ModelProto:
    """The model quantized to 8 bits, and back."""
    wcodec.encode(model, folder / "m.wcodec", wcodec.Policy(coder="raw", min_size=0, **policy))
    wcodec.decode(folder / "m.wcodec", folder / "decoded.onnx")
    return onnx.load(folder / "decoded.onnx")


@pytest.mark.parametrize(("per", "bound"), [("tensor", 0.25), ("channel", 1.05)])
def test_quantized_outputs_are_nearer_after_folding(tmp_path: Path, per: str, bound: float) -> None:
    """Of a net whose norms undo how far its weights' channels differ, as those of trained nets do.

    With one scale for a tensor, the error of its outputs is at most a quarter of what it is without folding. Scales
    of channels grow with the factors of norms, so there it stays the same but for rounding: it is at most 5 % more.
    """
    draw = np.random.default_rng(4)
    nodes, arrays, value = [], Weights(), "x"
    for number, (inputs, channels) in enumerate([(6, 32), (32, 32), (32, 8)]):
        spread = draw.lognormal(0, 1.5, (channels, 1, 1, 1))
        weight = spread * draw.standard_normal((channels, inputs, 3, 3)) / math.sqrt(9 * inputs)
        arrays[f"{number}.weight"] = weight.astype(np.float32)
        arrays |= norm(channels, f"bn{number}") | {f"bn{number}.variance": np.square(spread).reshape(-1).astype("f4")}
        arrays[f"bn{number}.scale"] = draw.lognormal(0, 0.2, channels).astype(np.float32)
        nodes.append(node("Conv", value, f"{number}.weight", outputs=(f"c{number}",), pads=[1, 1, 1, 1]))
        nodes.append(norm_node(f"c{number}", f"n{number}", f"bn{number}"))
        nodes.append(node("Relu", f"n{number}", outputs=(value := "y" if number == 2 else f"r{number}",)))
    model, images = graph_of(nodes, {"x": IMAGES}, arrays), drawn(*IMAGES, seed=5)
    [wanted] = oracle(model, images)
    with read(tmp_path / "m.onnx", model) as source:
        [plain] = oracle(decoded(source, tmp_path, per=per, keep=("bn*",)).SerializeToString(), images)
        [after] = oracle(decoded(fold(source), tmp_path, per=per, keep=("*.bias",)).SerializeToString(), images)
    assert 0 < distance(after, wanted) <= bound * distance(plain, wanted)


@pytest.fixture(scope="module")
def resnet(digit_nets: dict[str, Net], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ResNet18 trained on digits, as an ONNX file with its norms in it."""
    import torch

    path = tmp_path_factory.mktemp("resnet") / "resnet18.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is deprecated
        torch.onnx.export(
            digit_nets["resnet18"].module(),
            (torch.zeros(2, 1, 8, 8),),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}},
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            opset_version=17,
            dynamo=False,
        )
    return path


def test_a_resnet_loses_its_norms_and_nothing_else(resnet: Path, tmp_path: Path) -> None:
    model = resnet.read_bytes()
    before, after = onnx.load(resnet), folded(model, tmp_path)
    assert kinds(before).count("BatchNormalization") == kinds(before).count("Conv") == 20
    dropped = ("BatchNormalization", "Identity")
    assert kinds(after) == [kind for kind in kinds(before) if kind not in dropped]
    names = [stub.name for stub in after.graph.initializer]
    assert names.count("conv1.weight") == names.count("conv1.bias") == 1
    assert not [name for name in names if "bn" in name or "running" in name]
    same_outputs(model, after, digits()[1].images[:50].numpy())


def test_encode_folds_when_asked_to(
    resnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, arguments)])
        assert isinstance(exit_.value.code, int)
        return exit_.value.code

    assert run("encode", resnet, "plain.wcodec", "--lossless", "--coder", "raw") == 0
    assert run("encode", resnet, "folded.wcodec", "--lossless", "--coder", "raw", "--fold") == 0
    assert run("encode", resnet, "int8.wcodec", "--fold") == 0
    capsys.readouterr()
    for name, count, bound in (("plain", 20, 0), ("folded", 0, 1e-5), ("int8", 0, 0.05)):
        assert run("decode", f"{name}.wcodec", f"{name}.onnx") == 0
        decoded = onnx.load(f"{name}.onnx")
        onnx.checker.check_model(decoded, full_check=True)
        assert kinds(decoded).count("BatchNormalization") == count
        same_outputs(resnet.read_bytes(), decoded, digits()[1].images[:50].numpy(), bound=bound)
    np.savez("weights.npz", w=drawn(30, 40))
    capsys.readouterr()
    assert run("encode", "weights.npz", "w.wcodec", "--fold") == 2
    assert capsys.readouterr().err.startswith("error: folding needs a graph")
    assert not Path("w.wcodec").exists()
