"""`wcodec encode` for a fidelity, a size or by a plan, on a small classifier and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wcodec
from tests.support.command import Run, refused, runner
from tests.support.infer import graph_of, node
from wcodec.model import Array
from wcodec.plan import calibration
from wcodec.plan.sensitivity import Gradients, Moments

DESCRIBED = ("--mean", "127", "--scale", "1/64", "--size", "16", "--resize", "stretch", "--min-size", "16")
LEARNING = ("--calibrate", "pictures", *DESCRIBED)
CLASSES = 7


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command line in a folder with a model and pictures, and a cache of its own; exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WCODEC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(calibration, "_MOST", 64)
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((48, 3, 3, 3)) / 5,
        "d": rng.standard_normal((48, 1, 3, 3)) / 2,
        "v": rng.standard_normal((48, CLASSES)) / 2,
        "b": rng.standard_normal(CLASSES),
    }
    nodes = [
        node("Conv", "x", "w", outputs=["c"]),
        node("Relu", "c", outputs=["r"]),
        node("Conv", "r", "d", outputs=["e"], group=48),
        node("Relu", "e", outputs=["s"]),
        node("ReduceMean", "s", outputs=["m"], axes=[2, 3], keepdims=0),
        node("Gemm", "m", "v", "b"),
    ]
    floats = {name: w.astype(np.float32) for name, w in weights.items()}
    Path("model.onnx").write_bytes(graph_of(nodes, {"x": ["batch", 3, 16, 16]}, floats))
    image = graph_of(nodes[:2], {"x": ["batch", 3, 16, 16]}, {"w": floats["w"]}, outputs=["r"])
    Path("image.onnx").write_bytes(image)
    np.savez("weights.npz", w=floats["w"])
    Path("pictures").mkdir()
    for number in range(12):
        pixels = rng.integers(0, 256, (24, 24, 3)) // (1 + number % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(Path("pictures") / f"{number}.png")
    return runner(capsys)


def test_a_fidelity_is_kept_and_told(run: Run) -> None:
    code, out, err = run("encode", "model.onnx", "a.wcodec", "--fidelity", 0.02, *LEARNING)
    assert code == 0, err
    assert "KL divergence 0.0200 nats, the same first class on" in out
    with wcodec.open("a.wcodec") as archive:
        report = archive.fidelity
        assert {str(archive.tensor(name).recipe).split(",")[0].split()[0] for name in "wdv"} != {"as"}
    assert report is not None
    assert (report["kl"], report["held_out"], report["data_free"]) == (0.02, True, False)
    assert "KL divergence 0.0200 nats" in run("info", "a.wcodec")[1]
    assert json.loads(run("info", "a.wcodec", "--json")[1])["fidelity"]["kl"] == 0.02
    # what it is on the pictures themselves, which half of what was measured was not learnt from either
    code, out, err = run("eval", "a.wcodec", "--reference", "model.onnx", "--images", "pictures", "--json")
    assert code == 0, err
    assert json.loads(out)["fidelity"]["kl"] < 0.04


def test_a_nearer_one_takes_more(run: Run) -> None:
    for name, fidelity in (("near", 0.001), ("far", 0.1)):
        code, _, err = run("encode", "model.onnx", f"{name}.wcodec", "--fidelity", fidelity, *LEARNING)
        assert code == 0, err
    assert Path("near.wcodec").stat().st_size > 1.1 * Path("far.wcodec").stat().st_size


def test_decibels_are_kept_where_there_are_no_classes(run: Run) -> None:
    code, out, err = run("encode", "image.onnx", "a.wcodec", "--fidelity", 25, *LEARNING)
    assert code == 0, err
    assert "outputs at 25." in out
    code, out, err = run("eval", "a.wcodec", "--reference", "image.onnx", "--images", "pictures", "--json")
    assert json.loads(out)["fidelity"]["snr_db"] > 24.5


def test_a_plan_makes_the_same_bytes_again_and_may_be_changed(run: Run) -> None:
    code, _, err = run("encode", "model.onnx", "a.wcodec", "--fidelity", 0.02, "--plan-out", "plan.json", *LEARNING)
    assert code == 0, err
    plan = json.loads(Path("plan.json").read_text())
    assert [*plan["tensors"]] == ["w", "d", "v"]
    assert run("encode", "model.onnx", "b.wcodec", "--plan", "plan.json", *LEARNING)[0] == 0
    assert decoded("a.wcodec").keys() == decoded("b.wcodec").keys()
    assert all(np.array_equal(array, decoded("b.wcodec")[name]) for name, array in decoded("a.wcodec").items())
    plan["tensors"]["w"] |= {"step": plan["tensors"]["w"]["step"] / 16, "coder": "zstd"}
    del plan["tensors"]["d"]
    Path("plan.json").write_text(json.dumps(plan))
    assert run("encode", "model.onnx", "c.wcodec", "--plan", "plan.json", *LEARNING)[0] == 0
    with wcodec.open("c.wcodec") as archive:
        assert "zstd" in str(archive.tensor("w").recipe)
        assert "int8" in str(archive.tensor("d").recipe)
    original, near, far = decoded("model.onnx"), decoded("c.wcodec"), decoded("a.wcodec")
    assert np.square(near["w"] - original["w"]).sum() < np.square(far["w"] - original["w"]).sum() / 50


@pytest.mark.parametrize("goal", [("--target-size", 2500), ("--target-bpw", 14.0)])
def test_a_size_is_met_within_a_twentieth(run: Run, goal: tuple[str, float]) -> None:
    code, _, err = run("encode", "model.onnx", "a.wcodec", *goal, *LEARNING)
    assert code == 0, err
    elements = sum(array.size for array in decoded("model.onnx").values())
    asked = goal[1] if goal[0] == "--target-size" else goal[1] * elements / 8
    # 64 bytes are what the end of so small a file moves by, with the length of the index
    assert 0.95 * asked <= Path("a.wcodec").stat().st_size <= asked + 64


@pytest.mark.parametrize("coder", ["raw", "zstd", "rans", "h264", "hevc", "av1", "vp9", "ffv1"])
def test_every_coder_alone_keeps_a_fidelity(run: Run, coder: str) -> None:
    code, out, err = run("encode", "model.onnx", "a.wcodec", "--fidelity", 0.02, "--coder", coder, *LEARNING)
    assert code == 0, err
    assert "KL divergence 0.0200" in out
    with wcodec.open("a.wcodec") as archive:
        assert all(coder in str(archive.tensor(name).recipe) for name in "wdv")
    code, out, err = run("eval", "a.wcodec", "--reference", "model.onnx", "--images", "pictures", "--json")
    assert json.loads(out)["fidelity"]["kl"] < 0.05


def test_all_sizes_are_drawn_and_told(run: Run) -> None:
    code, out, err = run("encode", "model.onnx", "curve.png", "--sweep", "--coder", "zstd", *LEARNING)
    assert code == 0, err
    with Image.open("curve.png") as picture:
        assert picture.width > 500
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][0] == "method"
    assert [line[0] for line in lines[1:]] == ["planned,"] * 7 + ["per"] * 5
    code, out, err = run("encode", "model.onnx", "curve.png", "--sweep", "--json", *LEARNING)
    points = json.loads(out)
    assert {point["method"] for point in points} == {
        *(f"planned, {coder}" for coder in ("rans", "zstd", "hevc")),
        "per channel, rans",
    }
    planned = sorted((point["bpw"], point["fidelity"]["kl"]) for point in points if point["method"] == "planned, rans")
    assert planned[0][1] > planned[-1][1]


def test_without_pictures_it_says_so(run: Run) -> None:
    code, out, err = run("encode", "model.onnx", "a.wcodec", "--fidelity", 0.02, "--data-free", *DESCRIBED)
    assert code == 0, err
    assert "made-up inputs, which real ones may differ from" in out


def test_arrays_calibrate_too(run: Run) -> None:
    np.save("inputs.npy", np.random.default_rng(1).standard_normal((20, 3, 16, 16)).astype(np.float32))
    code, out, err = run(
        *("encode", "model.onnx", "a.wcodec", "--fidelity", 0.02, "--calibrate", "inputs.npy", "--min-size", 16)
    )
    assert code == 0, err
    assert "KL divergence 0.0200" in out


def test_pictures_that_cannot_be_read_are_named(run: Run) -> None:
    Path("pictures/broken.png").write_bytes(b"broken")
    code, _, err = run("encode", "model.onnx", "a.wcodec", "--fidelity", 0.02, *LEARNING)
    assert code == 0
    assert "left out 1 file" in err
    assert "broken.png" in err


def test_what_was_learnt_before_an_interruption_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    add = Gradients.add

    def interrupted(self: Gradients, array: Array, moments: Mapping[str, Moments], seed: int) -> None:
        if len(calls) == 20:
            calls.append(seed)
            raise KeyboardInterrupt
        calls.append(seed)
        add(self, array, moments, seed)

    monkeypatch.setattr(Gradients, "add", interrupted)
    command = ("encode", "model.onnx", "a.wcodec", "--fidelity", 0.02, *LEARNING)
    assert run(*command)[0] != 0
    assert not [*Path().glob("*.wcodec*")]
    assert run(*command)[0] == 0
    assert calls[:20] == [*range(20)]
    assert calls[20:22] == [20, 20]  # goes on where it was
    whole = Path("a.wcodec").read_bytes()
    count = len(calls)
    assert run(*command)[0] == 0
    assert len(calls) == count  # nothing is learnt twice
    assert Path("a.wcodec").read_bytes() == whole
    monkeypatch.setenv("WCODEC_CACHE_DIR", str(Path("other").absolute()))
    assert run(*command)[0] == 0
    assert Path("a.wcodec").read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--fidelity", 0.01, *DESCRIBED), 2, "give pictures with --calibrate FOLDER, or --data-free"),
        (("--fidelity", 0.01, "--data-free", *LEARNING), 2, "give pictures with --calibrate FOLDER, or --data-free"),
        (("--fidelity", 0.01, "--target-size", "1MB", *LEARNING), 2, "ask for different things"),
        (LEARNING, 2, "--calibrate does nothing without --fidelity"),
        (("--sweep", *LEARNING), 2, "--sweep draws a picture; give a name that ends in .png"),
        (("--sweep", "--fidelity", 0.01, *LEARNING), 2, "ask for different things"),
        (("--fidelity", 0.01, "--bits", 4, *LEARNING), 2, "--bits is what a fidelity or a size decides about"),
        (("--fidelity", 0.01, "--lossless", *LEARNING), 2, "--lossless"),
        (("--fidelity", 50, *LEARNING), 2, "the divergence in nats, such as 0.01"),
        (("--fidelity", 0.01, "--calibrate", "empty", *DESCRIBED), 2, "there are no pictures"),
        (("--fidelity", 0.01, "--calibrate", "pictures/0.png", *DESCRIBED), 2, "too few"),
        (("--fidelity", 0.01, "--calibrate", "pictures", "--min-size", 16), 2, "how pictures become inputs"),
        (("--fidelity", 0.01, "--order", "GRAY", *LEARNING), 2, "the model takes 3x16x16"),
        (("--target-size", "100B", *LEARNING), 2, "the closest is"),
        (("--target-size", "1MB", *LEARNING), 2, "the closest is"),
        (("--plan", "nothing.json", *LEARNING), 2, "nothing.json: no such file"),
        (("--plan", "model.onnx", *LEARNING), 3, "no plan"),
        (("--plan", "foreign.json", *LEARNING), 2, "a tensor 'z', which the model has not"),
        (("--plan", "newer.json", *LEARNING), 3, "a plan of version 2"),
        (("--plan", "odd.json", *LEARNING), 2, "unknown coder 'mpeg'"),
    ],
)
def test_what_cannot_be_is_refused(run: Run, arguments: tuple[object, ...], code: int, message: str) -> None:
    Path("empty").mkdir()
    Path("foreign.json").write_text('{"wcodec_plan": 1, "tensors": {"z": {"step": 0.1}}}')
    Path("newer.json").write_text('{"wcodec_plan": 2, "tensors": {}}')
    Path("odd.json").write_text('{"wcodec_plan": 1, "tensors": {"w": {"step": 0.1, "coder": "mpeg"}}}')
    refused(run("encode", "model.onnx", "a.wcodec", *arguments), code, message)
    assert not [*Path().glob("*.wcodec*")]


def test_models_that_cannot_be_planned_for_are_refused(run: Run) -> None:
    refused(run("encode", "weights.npz", "a.wcodec", "--fidelity", 0.01, *LEARNING), 3, "no graph to run")
    refused(run("encode", "image.onnx", "a.wcodec", "--fidelity", 0.01, *LEARNING), 2, "decibels, such as 20")


def decoded(path: str) -> dict[str, Array]:
    if path.endswith(".onnx"):
        with wcodec.read_model(path) as model:
            return {tensor.name: tensor.array() for tensor in model.tensors}
    with wcodec.open(path) as archive:
        return {name: archive[name] for name in archive}
