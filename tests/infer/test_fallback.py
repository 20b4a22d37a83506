"""What runs elsewhere when no device runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import wcodec
from tests.support.infer import archive_of, distance, graph_of, node, oracle
from wcodec import MismatchError, UnsupportedError
from wcodec.cli import main
from wcodec.infer.fallback import Fallback

SHAPE = (2, 5, 6, 6)


def model(*more: str) -> bytes:
    """A convolution, and operators behind it one after the other."""
    weights = {"w": np.random.default_rng(8).standard_normal((7, 5, 3, 3)).astype(np.float32)}
    names = ["c", *(f"v{n}" for n in range(1, len(more))), "y"] if more else ["y"]
    nodes = [node("Conv", "x", "w", outputs=[names[0]])]
    nodes += [node(kind, names[n], outputs=[names[n + 1]]) for n, kind in enumerate(more)]
    return graph_of(nodes, {"x": ["batch", *SHAPE[1:]]}, weights)


@pytest.mark.parametrize("elsewhere", ["torch", "onnxruntime"])
def test_the_same_numbers_come_from_elsewhere(tmp_path, elsewhere) -> None:
    x = np.random.default_rng(9).standard_normal(SHAPE).astype(np.float32)
    graph = model("Relu")
    with wcodec.open(archive_of(graph, tmp_path)) as archive:
        fallback = Fallback(archive, elsewhere)
        assert [(port.name, port.shape) for port in fallback.inputs] == [("x", ("batch", *SHAPE[1:]))]
        found = fallback(x)
        assert isinstance(found, np.ndarray)
        assert distance(found, oracle(graph, x)[0]) < 1e-5
        with pytest.raises(MismatchError, match="input 'x' is batchx5x6x6, not 5x6x6"):
            fallback(x[0])


def test_onnxruntime_runs_what_devices_do_not(tmp_path) -> None:
    x = np.random.default_rng(9).standard_normal(SHAPE).astype(np.float32)
    graph = model("Sinh", "Relu")
    with wcodec.open(archive_of(graph, tmp_path)) as archive:
        with pytest.raises(UnsupportedError, match="operator Sinh of node 'Sinh of v1'"):
            Fallback(archive, "torch")(x)
        found = Fallback(archive, "onnxruntime")(x)
        assert isinstance(found, np.ndarray)
        assert distance(found, oracle(graph, x)[0]) < 1e-5


def test_torch_runs_signals(tmp_path) -> None:
    """Convolutions along one axis, which the lowered graph has as images of one row."""
    rng = np.random.default_rng(9)
    x = rng.standard_normal((2, 5, 20)).astype(np.float32)
    graph = graph_of([node("Conv", "x", "w", pads=[1, 1])], {"x": x.shape}, {"w": rng.random((7, 5, 3), np.float32)})
    with wcodec.open(archive_of(graph, tmp_path)) as archive:
        found = Fallback(archive, "torch")(x)
    assert isinstance(found, np.ndarray)
    assert distance(found, oracle(graph, x)[0]) < 1e-5


@pytest.mark.parametrize("where", ["opencl", "opencl:99"])
def test_the_command_line_falls_back(tmp_path, monkeypatch, capsys, where) -> None:
    """Whether the model is what does not do, or the device."""
    monkeypatch.chdir(tmp_path)
    graph = model("Sinh" if where == "opencl" else "Relu")
    Path("m.wcodec").write_bytes(archive_of(graph, tmp_path))
    x = np.random.default_rng(9).standard_normal(SHAPE).astype(np.float32)
    np.save("x.npy", x)
    with pytest.raises(SystemExit) as exit_:
        main(["run", "m.wcodec", "x.npy", "--device", where])
    assert exit_.value.code in (3, 4)
    assert "error: " in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        main(["run", "m.wcodec", "x.npy", "--device", where, "--fallback", "onnxruntime", "--json"])
    out, err = capsys.readouterr()
    assert exit_.value.code == 0
    assert err.count("\n") == 1
    assert err.endswith("; running on onnxruntime instead\n")
    [output] = json.loads(out)[0]["outputs"]
    assert output["mean"] == pytest.approx(float(oracle(graph, x)[0].mean()), rel=1e-4)


def test_torch_is_not_asked_for_what_it_lacks(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.wcodec").write_bytes(archive_of(model("Sinh"), tmp_path))
    np.save("x.npy", np.zeros(SHAPE, np.float32))
    with pytest.raises(SystemExit) as exit_:
        main(["run", "m.wcodec", "x.npy", "--fallback", "torch"])
    assert exit_.value.code == 3
    [line] = capsys.readouterr().err.splitlines()
    assert "operator Sinh of node" in line
    assert line.endswith("torch does not run it either, --fallback onnxruntime may")
