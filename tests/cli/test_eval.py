"""`wcodec eval`: a small classifier and its decoded copy, against ONNX Runtime and the definitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import wcodec
from tests.support.command import Run, refused, runner
from tests.support.infer import graph_of, node
from wcodec.evaluate import fidelity
from wcodec.infer.preprocess import Preprocessing, prepare, read_picture
from wcodec.model import Array
from wcodec.opencl.device import Device

HOW = Preprocessing(mean=(127.0,), scale=(1 / 64,), size=(12, 12), resize="stretch")
DESCRIBED = ("--mean", "127", "--scale", "1/64", "--size", "12", "--resize", "stretch", "--labels", "labels.txt")
CLASSES = 7


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command line in a folder with a model, its archive of 3 bits and pictures; exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((24, 3, 3, 3)) / 5,
        "v": rng.standard_normal((24, CLASSES)) / 2,
        "b": rng.standard_normal(CLASSES),
    }
    nodes = [
        node("Conv", "x", "w", outputs=["c"]),
        node("Relu", "c", outputs=["r"]),
        node("ReduceMean", "r", outputs=["m"], axes=[2, 3], keepdims=0),
        node("Gemm", "m", "v", "b"),
    ]
    model = graph_of(nodes, {"x": ["batch", 3, 12, 12]}, {name: w.astype(np.float32) for name, w in weights.items()})
    Path("model.onnx").write_bytes(model)
    Path("labels.txt").write_text("\n".join(f"kind {number}" for number in range(CLASSES)))
    for number in range(10):
        folder = Path("pictures") / f"kind_{number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20, 20, 3), np.uint8) // (1 + number % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")

    call = runner(capsys)
    code, _, err = call("encode", "model.onnx", "model.wcodec", "--bits", 3, "--min-size", 16, *DESCRIBED)
    assert code == 0, err
    call("decode", "model.wcodec", "decoded.onnx")
    return call


def files() -> list[Path]:
    return sorted(Path("pictures").rglob("*.png"))


def outputs(model: str) -> Array:
    array = np.concatenate([prepare(read_picture(file), HOW)[0] for file in files()])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"x": array})[0]
    return found


def evaluated(run: Run, *options: object) -> dict[str, Any]:
    code, out, err = run(
        *("eval", "model.wcodec", "--reference", "model.onnx", "--images", "pictures", "--json", *options)
    )
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_what_is_told_is_what_onnx_runtime_gives(run: Run, runtime: str) -> None:
    check(evaluated(run, "--runtime", runtime, "--truth", "folders"))


def test_devices_tell_the_same(run: Run, device: Device, request: pytest.FixtureRequest) -> None:
    number = request.node.callspec.params["device"]
    check(evaluated(run, "--device", f"opencl:{number}", "--truth", "folders"))


def check(found: dict[str, Any]) -> None:
    before, after = outputs("model.onnx"), outputs("decoded.onnx")
    wanted = fidelity(before, after)
    truth = [int(file.parent.name[-1]) for file in files()]
    told = found["fidelity"]
    assert told["inputs"] == 10
    assert told["kl"] == pytest.approx(wanted.kl, rel=1e-2)
    assert told["snr_db"] == pytest.approx(wanted.snr_db, abs=0.05)
    assert (told["top1"], told["top5"]) == (wanted.top1, wanted.top5)
    assert told["accuracy"] == np.mean(after.argmax(1) == truth)
    assert told["original_accuracy"] == np.mean(before.argmax(1) == truth)
    assert found["skipped"] == {}
    assert found["layers"] is None


def test_layers_are_told_of_by_name(run: Run) -> None:
    layers = {layer["name"]: layer["snr_db"] for layer in evaluated(run, "--layers", "--runtime", "torch")["layers"]}
    assert layers.keys() == {"Conv of c", "Gemm of y"}
    before, after = outputs("model.onnx"), outputs("decoded.onnx")
    assert layers["Gemm of y"] == pytest.approx(fidelity(before, after).snr_db, abs=0.05)


def test_words_for_people(run: Run) -> None:
    Path("pictures/broken.png").write_bytes(b"no picture")
    code, out, err = run(
        *("eval", "model.wcodec", "--reference", "model.onnx", "--images", "pictures", "--runtime", "torch")
    )
    assert code == 0
    assert err == "left out: pictures/broken.png: not a picture that can be read; give a JPEG or PNG file\n"
    first, second = out.splitlines()
    assert first.startswith("10 inputs: outputs at ")
    assert "KL divergence 0." in first
    assert second.startswith("the same first class on ")


def test_a_model_is_no_distance_from_itself(run: Run) -> None:
    array = np.random.default_rng(1).standard_normal((5, 3, 12, 12)).astype(np.float32)
    np.save("x.npy", array)
    Path("truth.txt").write_text("0\n1\n2\n3\nkind 4\n")
    code, out, _ = run(
        *("eval", "model.wcodec", "--reference", "decoded.onnx", "--images", "x.npy", "--runtime", "torch"),
        *("--truth", "truth.txt", "--json"),
    )
    assert code == 0
    found = json.loads(out)["fidelity"]
    assert (found["kl"], found["top1"], found["snr_db"]) == (0, 1, "inf")
    assert found["accuracy"] == found["original_accuracy"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--images", "empty"], 2, "there are no pictures"),
        (["--images", "bad.png"], 1, "there are no outputs to compare"),
        (["--images", "x.npy", "--mean", "1"], 2, "--mean does nothing without a picture"),
        (["--images", "x.npy"], 1, "input 'x' is batchx3x12x12, not 8x3x9x9"),
        (["--images", "pictures", "--truth", "truth.csv"], 1, "'bird' is no label of the model"),
        (["--images", "pictures", "--truth", "part.csv"], 1, "nothing tells its class"),
        (["--images", "pictures", "--truth", "nowhere.csv"], 2, "nowhere.csv"),
        (["--images", "pictures", "--reference", "other.onnx"], 1, "the two models do not take the same inputs"),
        (["--images", "pictures", "--reference", "labels.txt"], 2, "no known model file"),
        (["--images", "pictures", "--runtime", "opencl", "--device", "opencl:99"], 4, "opencl:99"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(run: Run, arguments: list[str], code: int, message: str) -> None:
    Path("empty").mkdir()
    Path("bad.png").write_bytes(b"no picture")
    np.save("x.npy", np.zeros((2, 3, 9, 9), np.float32))
    Path("truth.csv").write_text("0.png,bird\n")
    Path("part.csv").write_text("0.png,kind 0\n")
    other = graph_of([node("Relu", "x")], {"x": ["batch", 3, 9, 9]}, {"w": np.zeros((1, 1), np.float32)})
    Path("other.onnx").write_bytes(other)
    reference = [] if "--reference" in arguments else ["--reference", "model.onnx"]
    refused(run("eval", "model.wcodec", "--runtime", "torch", *reference, *arguments), code, message)


def test_the_original_may_be_an_archive(run: Run) -> None:
    wcodec.encode("model.onnx", "lossless.wcodec", wcodec.Policy(lossless=True))
    by_archive, by_file = (
        json.loads(
            run(
                *("eval", "model.wcodec", "--reference", reference, "--images", "pictures", "--runtime", "torch"),
                "--json",
            )[1]
        )
        for reference in ("lossless.wcodec", "model.onnx")
    )
    assert by_archive == by_file
