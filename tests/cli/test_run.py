"""`wcodec run`, with an engine that gives what a test wants, and what `encode` stores for it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

import numpy as np
import pytest
from PIL import Image

import wcodec
from tests.support.command import Run, refused, runner
from wcodec.infer.detect import DETECTION_KEY, Detector
from wcodec.infer.preprocess import LABELS_KEY, PREPROCESSING_KEY, Preprocessing
from wcodec.model import Array

HOW = Preprocessing(mean=(0,), scale=(1,), size=(32, 64), resize="letterbox").to_json()
CLASSIFIER = {PREPROCESSING_KEY: HOW, LABELS_KEY: "cat\ndog\nEgyptian cat"}
DETECTOR = {
    PREPROCESSING_KEY: HOW,
    LABELS_KEY: "person\nbicycle",
    DETECTION_KEY: Detector(kind="yolov8", score=0.5).to_json(),
}


class Port(NamedTuple):
    name: str
    shape: tuple[int | str, ...]


class FakeEngine:
    """Stands for `wcodec.infer.engine.Engine`: `forward` is the model, `seen` what went in."""

    def __init__(self) -> None:
        self.inputs: tuple[Port, ...] = (Port("images", ("batch", 3, 32, 64)),)
        self.outputs: tuple[Port, ...] = (Port("scores", ("batch", 3)),)
        self.forward: Callable[[Array], Any] = lambda x: np.tile(np.log([[1.0, 2.0, 7.0]]), (len(x), 1))
        self.seen: list[Array] = []
        self.opened: list[dict[str, str]] = []
        self.closed = 0

    def open(self, source: object, **options: str) -> Self:
        assert isinstance(source, wcodec.Archive)
        self.opened.append(options)
        return self

    def __call__(self, x: Array) -> Any:
        assert x.dtype == np.float32
        self.seen.append(x)
        return self.forward(x)

    def check(self, x: Array) -> tuple[str, ...]:
        self.seen.append(x)
        return ("conv\x1b[2J",)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake, module = FakeEngine(), ModuleType("wcodec.infer.engine")
    module.Engine = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wcodec.infer.engine", module)
    return fake


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: FakeEngine) -> Run:
    """Run a command line in a folder with a picture: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (128, 64), (10, 20, 30)).save("photo.png")

    return runner(capsys)


def archive(metadata: Mapping[str, str], path: str = "m.wcodec") -> str:
    """One whose graph nobody reads."""
    model = wcodec.Model([wcodec.Tensor.from_array("w", np.ones((4, 4), np.float32))], graph=b"graph")
    wcodec.encode(model, path, metadata=metadata)
    return path


def lines(result: tuple[int, str, str]) -> list[list[str]]:
    """The words of every line of a command that did well."""
    code, out, err = result
    assert (code, err) == (0, "")
    return [line.split() for line in out.splitlines()]


def finds(*boxes: tuple[float, ...]) -> Callable[[Array], Array]:
    """A YOLOv8 model that finds boxes of (cx, cy, w, h, scores...)."""
    return lambda x: np.tile(np.array(boxes, np.float32).T[None], (len(x), 1, 1))


# Classifiers


def test_the_likeliest_classes(run: Run, engine: FakeEngine) -> None:
    assert lines(run("run", archive(CLASSIFIER), "photo.png")) == [
        ["photo.png"],
        ["Egyptian", "cat", "70.0", "%"],
        ["dog", "20.0", "%"],
        ["cat", "10.0", "%"],
    ]
    assert engine.opened == [{"device": "opencl", "precision": "storage", "resident": "packed"}]
    assert engine.closed == 1
    [array] = engine.seen
    assert array.shape == (1, 3, 32, 64)
    assert array[0, :, 5, 5].tolist() == [10, 20, 30]


def test_several_pictures_and_fewer_classes(run: Run, engine: FakeEngine) -> None:
    Image.new("L", (10, 10)).save("b.jpg")
    shown = lines(run("run", archive(CLASSIFIER), "photo.png", "b.jpg", "--top", "1", "--device", "opencl:1"))
    assert shown == [["photo.png"], ["Egyptian", "cat", "70.0", "%"], [], ["b.jpg"], ["Egyptian", "cat", "70.0", "%"]]
    assert engine.opened == [{"device": "opencl:1", "precision": "storage", "resident": "packed"}]


def test_json_is_one_document(run: Run) -> None:
    code, out, _ = run("run", archive(CLASSIFIER), "photo.png", "photo.png", "--json", "--precision", "half")
    assert code == 0
    reports = json.loads(out)
    assert [report["input"] for report in reports] == ["photo.png", "photo.png"]
    assert [c["label"] for c in reports[0]["classes"]] == ["Egyptian cat", "dog", "cat"]
    assert [c["index"] for c in reports[0]["classes"]] == [2, 1, 0]
    assert [c["probability"] for c in reports[0]["classes"]] == pytest.approx([0.7, 0.2, 0.1])


def test_probabilities_are_taken_as_they_are(run: Run, engine: FakeEngine) -> None:
    engine.forward = lambda x: np.array([[0.5, 0.3, 0.2001]])
    assert ["cat", "50.0", "%"] in lines(run("run", archive(CLASSIFIER), "photo.png"))
    engine.forward = lambda x: np.array([[0.5, 0.3, 0.3]])
    assert ["cat", "37.9", "%"] in lines(run("run", archive(CLASSIFIER), "photo.png"))


def test_outputs_with_axes_of_one_are_classes_where_there_are_labels(run: Run, engine: FakeEngine) -> None:
    engine.forward = lambda x: np.log(np.array([1.0, 2, 7])).reshape(1, 3, 1, 1)
    assert ["dog", "20.0", "%"] in lines(run("run", archive(CLASSIFIER), "photo.png"))
    shown = lines(run("run", archive({PREPROCESSING_KEY: HOW}), "photo.png"))
    assert shown[1][:2] == ["scores", "1x3x1x1"]


def test_classes_without_labels_have_numbers(run: Run) -> None:
    source = archive({PREPROCESSING_KEY: HOW})
    assert ["class", "1", "20.0", "%"] in lines(run("run", source, "photo.png"))
    [report] = json.loads(run("run", source, "photo.png", "--json")[1])
    assert [c["label"] for c in report["classes"]] == [None, None, None]
    Path("names.txt").write_text("\ufeffone\r\nzwölf\r\nthree\r\n", encoding="utf-8")
    assert ["zwölf", "20.0", "%"] in lines(run("run", source, "photo.png", "--labels", "names.txt"))


def test_numbers_that_are_none_are_no_answer(run: Run, engine: FakeEngine) -> None:
    engine.forward = lambda x: np.array([[np.nan, np.inf, 1.0]])
    message = "photo.png: 2 of 3 numbers of output 'scores' are NaN or infinite; --check finds the layer"
    refused(run("run", archive(CLASSIFIER), "photo.png"), 1, message)


def test_layers_are_checked_where_asked_for(run: Run, engine: FakeEngine) -> None:
    code, out, err = run("run", archive(CLASSIFIER), "photo.png", "--check")
    assert code == 0
    assert "Egyptian cat" in out
    assert err == "layer conv\\x1b[2J: too large for halves, kept as floats\n"
    assert len(engine.seen) == 2


def test_one_bad_input_does_not_keep_others_from_theirs(run: Run, engine: FakeEngine) -> None:
    Path("text.png").write_text("no picture")
    Path("again.png").write_bytes(Path("photo.png").read_bytes())
    code, out, err = run("run", archive(CLASSIFIER), "photo.png", "text.png", "again.png", "--top", "1")
    assert code == 3
    assert [line.split()[0] for line in out.splitlines() if line] == [
        "photo.png",
        "Egyptian",
        "again.png",
        "Egyptian",
    ]
    assert err.startswith("error: text.png: not a picture")
    assert err.count("\n") == 1
    code, out, _ = run("run", "m.wcodec", "photo.png", "text.png", "--json")
    assert code == 3
    good, bad = json.loads(out)
    assert good["classes"][0]["label"] == "Egyptian cat"
    assert bad["input"] == "text.png"
    assert "not a picture" in bad["error"]


def test_arrays_go_in_as_they_are(run: Run, engine: FakeEngine) -> None:
    array = np.random.default_rng(0).normal(size=(2, 3, 32, 64))
    np.save("x.npy", array)
    shown = lines(run("run", archive({LABELS_KEY: "cat\ndog\nEgyptian cat"}), "x.npy", "--top", "1"))
    assert [line[0] for line in shown if line] == ["x.npy[0]", "Egyptian", "x.npy[1]", "Egyptian"]
    assert np.array_equal(engine.seen[0], array.astype(np.float32))


def test_the_command_line_goes_before_the_archive(run: Run, engine: FakeEngine) -> None:
    source = archive(CLASSIFIER)
    options = ["--mean", "10,20,29", "--scale", "1/2", "--size", "8x16", "--layout", "NHWC", "--order", "BGR"]
    assert run("run", source, "photo.png", *options, "--resize", "crop:0.5")[0] == 0
    assert engine.seen[0].shape == (1, 8, 16, 3)
    assert engine.seen[0][0, 0, 0].tolist() == [10, 0, -9.5]
    assert run("run", archive({}), "photo.png", "--mean", "0", "--scale", "1/10", "--size", "8")[0] == 0
    assert engine.seen[1].shape == (1, 3, 8, 8)
    assert engine.seen[1][0, :, 0, 0].tolist() == [1, 2, 3]


def test_outputs_are_saved_where_wanted(run: Run, engine: FakeEngine) -> None:
    source = archive(CLASSIFIER)
    assert ["photo.png", "->", "o.npy"] in lines(run("run", source, "photo.png", "--out", "o.npy"))
    assert np.allclose(np.exp(np.load("o.npy")), [[1, 2, 7]])
    Path("folder").mkdir()
    Image.new("RGB", (9, 9)).save("b.png")
    [first, _] = json.loads(run("run", source, "photo.png", "b.png", "--out", "folder", "--json")[1])
    assert first["saved"] == ["folder/photo.npy"]
    assert sorted(path.name for path in Path("folder").iterdir()) == ["b.npy", "photo.npy"]


# Models that are neither


def test_other_outputs_are_described(run: Run, engine: FakeEngine) -> None:
    engine.outputs = (Port("mask", (1, 2, 2)), Port("none\x1b[2J", (0,)))
    engine.forward = lambda x: (np.array([[[1.0, 2], [3, 6]]], np.float32), np.zeros(0))
    shown = lines(run("run", archive({PREPROCESSING_KEY: HOW}), "photo.png", "--out", "x.npy"))
    assert shown[1:3] == [["mask", "1x2x2", "1", "3", "6"], ["none\\x1b[2J", "0"]]
    assert shown[3:] == [["photo.png", "->", "x.0.npy"], ["photo.png", "->", "x.1.npy"]]
    assert np.load("x.0.npy").tolist() == [[[1, 2], [3, 6]]]
    [report] = json.loads(run("run", "m.wcodec", "photo.png", "--json")[1])
    assert report["outputs"][0] == {"name": "mask", "shape": [1, 2, 2], "min": 1, "mean": 3, "max": 6}
    assert report["outputs"][1]["mean"] is None


# Detectors


def test_boxes_are_told_and_drawn(run: Run, engine: FakeEngine) -> None:
    # the picture of 128x64 fills the input of 64x32
    engine.forward = finds((20, 10, 20, 10, 0.0, 0.875), (20, 10, 20, 10, 0.0, 0.75), (40, 20, 8, 8, 0.625, 0.0))
    source = archive(DETECTOR)
    assert lines(run("run", source, "photo.png")) == [
        ["photo.png", "left", "top", "right", "bottom"],
        ["bicycle", "87.5", "%", "20", "10", "60", "30"],
        ["person", "62.5", "%", "72", "32", "88", "48"],
        ["photo.png", "->", "photo.detected.png"],
    ]
    with Image.open("photo.detected.png") as drawn:
        assert (drawn.format, drawn.size) == ("PNG", (128, 64))
        assert drawn.getpixel((20, 29)) != (10, 20, 30)
        assert drawn.getpixel((120, 5)) == (10, 20, 30)
    [report] = json.loads(run("run", source, "photo.png", "--json", "--iou", "1", "--score", "0.7")[1])
    assert [d["score"] for d in report["detections"]] == [0.875, 0.75]
    assert report["detections"][0]["box"] == [20, 10, 60, 30]
    assert report["detections"][0]["label"] == "bicycle"
    assert report["saved"] == ["photo.detected.png"]


def test_where_boxes_are_drawn(run: Run, engine: FakeEngine) -> None:
    engine.forward = finds((20, 10, 20, 10, 0.9, 0.0))
    source = archive(DETECTOR)
    Path("in").mkdir()
    Path("out").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (20, 20)).save(f"in/{name}.png")
    assert run("run", source, "in/a.png", "in/b.png", "--out", "out")[0] == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.detected.png", "b.detected.png"]
    assert run("run", source, "in/a.png", "--out", "here.png")[0] == 0
    assert Path("here.png").exists()
    assert run("run", source, "in/a.png", "--out", "raw.npy")[0] == 0
    assert np.load("raw.npy").shape == (1, 6, 1)
    assert not Path("a.detected.png").exists()


def test_nothing_found(run: Run, engine: FakeEngine) -> None:
    engine.forward = finds((20, 10, 20, 10, 0.1, 0.0))
    shown = lines(run("run", archive(DETECTOR), "photo.png"))
    assert shown[0] == ["photo.png:", "nothing", "found"]
    assert json.loads(run("run", "m.wcodec", "photo.png", "--json")[1])[0]["detections"] == []


def test_boxes_in_arrays_are_in_pixels_of_the_input(run: Run, engine: FakeEngine) -> None:
    engine.forward = finds((20, 10, 20, 10, 0.9, 0.0))
    np.save("x.npy", np.zeros((2, 3, 32, 64), np.float32))
    reports = json.loads(run("run", archive(DETECTOR), "x.npy", "--json")[1])
    assert [report["input"] for report in reports] == ["x.npy[0]", "x.npy[1]"]
    assert reports[1]["detections"][0]["box"] == [10, 5, 30, 15]
    assert reports[1]["saved"] == []
    np.save("y.npy", np.zeros((1, 12, 15, 3), np.float32))
    [report] = json.loads(run("run", "m.wcodec", "y.npy", "--layout", "NHWC", "--json")[1])
    assert report["detections"][0]["box"] == [10, 5, 15, 12]


# What is refused


@pytest.mark.parametrize(
    ("metadata", "arguments", "code", "message"),
    [
        (CLASSIFIER, [], 2, "INPUT"),
        (CLASSIFIER, ["missing.png"], 2, "missing.png"),
        (CLASSIFIER, ["."], 2, "directory"),
        (CLASSIFIER, ["text.png"], 3, "text.png: not a picture"),
        (CLASSIFIER, ["text.npy"], 3, "text.npy: not an .npy array"),
        ({}, ["photo.png"], 2, "--mean --scale --size"),
        ({}, ["photo.png", "--size", "8", "--mean", "0"], 2, "give --scale"),
        (CLASSIFIER, ["photo.png", "--mean", "1,2"], 2, "2 numbers for mean"),
        (CLASSIFIER, ["photo.png", "--mean", "1/0"], 2, "--mean"),
        (CLASSIFIER, ["photo.png", "--scale", "x"], 2, "--scale"),
        (CLASSIFIER, ["photo.png", "--size", "9x9x9"], 2, "--size"),
        (CLASSIFIER, ["photo.png", "--size", "99999"], 2, "4096"),
        (CLASSIFIER, ["photo.png", "--resize", "stretch:0.5"], 2, "--resize"),
        (CLASSIFIER, ["photo.png", "--resize", "crop:"], 2, "--resize"),
        (CLASSIFIER, ["photo.png", "--resize", "crop:7"], 2, "crop ratio"),
        (CLASSIFIER, ["photo.png", "--precision", "double"], 2, "--precision"),
        (CLASSIFIER, ["photo.png", "--score", "0.5"], 2, "--score does nothing"),
        (CLASSIFIER, ["x.npy", "--mean", "1"], 2, "--mean does nothing"),
        (DETECTOR, ["photo.png", "--top", "3"], 2, "--top does nothing"),
        (DETECTOR, ["x.npy", "--out", "a.png"], 2, "--out does nothing"),
        (DETECTOR, ["photo.png", "--iou", "2"], 2, "--iou"),
        (CLASSIFIER, ["photo.png", "--labels", "two.txt"], 1, "3 classes, but 2 labels"),
        (CLASSIFIER, ["photo.png", "--labels", "photo.png"], 3, "photo.png: not a text file"),
        (CLASSIFIER, ["photo.png", "--labels", "empty.txt"], 3, "empty.txt: holds no labels"),
        (CLASSIFIER, ["photo.png", "--out", "a.png"], 2, ".npy"),
        (CLASSIFIER, ["x.npy", "--out", "x.npy"], 2, "same file"),
        (CLASSIFIER, ["x.npy", "--out", "."], 2, "same file"),
        (CLASSIFIER, ["photo.png", "x.npy", "--out", "a.npy"], 2, "give a folder"),
        (CLASSIFIER, ["photo.png", "--out", "nowhere/a.npy"], 1, "nowhere"),
        (DETECTOR, ["photo.png", "--out", "photo.png"], 2, "same file"),
        (DETECTOR, ["photo.png", "--out", "link.png"], 2, "same file"),
        (DETECTOR, ["photo.png", "--out", "a.jpg"], 2, ".png"),
        (DETECTOR, ["photo.png", "sub/photo.png"], 2, "would both be written to"),
        (DETECTOR, ["photo.png"], 3, "a yolov8 detector's outputs"),
        (DETECTOR, ["flat.npy"], 1, "four axes"),
        ({PREPROCESSING_KEY: "{}"}, ["photo.png"], 3, "wcodec.preprocessing"),
        ({PREPROCESSING_KEY: HOW.replace("letterbox", "zoom")}, ["photo.png"], 3, "newer wcodec"),
        ({PREPROCESSING_KEY: HOW, LABELS_KEY: ""}, ["photo.png"], 3, "wcodec.labels"),
        ({PREPROCESSING_KEY: HOW, DETECTION_KEY: '{"kind":"\x1b[2J"}'}, ["photo.png"], 3, "wcodec.detection"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value if isinstance(value, str) else "",
)
def test_errors_are_one_line_with_their_exit_code(
    run: Run, metadata: Mapping[str, str], arguments: list[str], code: int, message: str
) -> None:
    for name in ("text.png", "text.npy"):
        Path(name).write_text("hello")
    Path("two.txt").write_text("cat\ndog\n")
    Path("empty.txt").write_text("")
    Path("sub").mkdir()
    Image.new("RGB", (9, 9)).save("sub/photo.png")
    os.link("photo.png", "link.png")
    np.save("x.npy", np.zeros((1, 3, 32, 64), np.float32))
    np.save("flat.npy", np.zeros((1, 3), np.float32))
    source = archive(metadata)
    before = {path.name: path.stat().st_mtime_ns for path in Path().iterdir()}
    refused(run("run", source, *arguments), code, message)
    assert {path.name: path.stat().st_mtime_ns for path in Path().iterdir()} == before


def test_what_was_asked_wrongly_starts_no_device(run: Run, engine: FakeEngine) -> None:
    refused(run("run", archive({}), "photo.png"), 2, "--size")
    refused(run("run", archive(DETECTOR), "photo.png", "--out", "photo.png"), 2, "same file")
    assert engine.opened == []


def test_errors_of_the_engine_are_shown(run: Run, engine: FakeEngine) -> None:
    def fail(x: Array) -> Array:
        raise wcodec.MismatchError(f"images: {x.shape} is not (batch, 3, 32, 64)")

    engine.forward = fail
    np.save("x.npy", np.zeros((5, 5), np.float32))
    refused(run("run", archive(CLASSIFIER), "x.npy"), 1, "(5, 5) is not (batch, 3, 32, 64)")
    assert engine.closed == 1
    engine.inputs *= 2
    refused(run("run", "m.wcodec", "x.npy"), 3, "takes 2 inputs")


def test_help(run: Run) -> None:
    code, out, _ = run("run", "--help")
    assert code == 0
    assert "Usage: wcodec run" in out
    assert "run a model on pictures" in run("--help")[1]


# What encode stores


def encoded(run: Run, *options: object) -> dict[str, str]:
    np.savez("m.npz", w=np.ones((40, 40), np.float32))
    code, _, err = run("encode", "m.npz", "e.wcodec", *options)
    assert code == 0, err
    with wcodec.open("e.wcodec") as opened:
        return opened.metadata


def test_encode_stores_what_run_reads(run: Run, engine: FakeEngine) -> None:
    Path("names.txt").write_text("cat\ndog\nEgyptian cat\n")
    found = encoded(run, "--mean", "1,2,3", "--scale", "1/2", "--size", "32x64", "--labels", "names.txt")
    assert found == {
        PREPROCESSING_KEY: Preprocessing(mean=(1.0, 2.0, 3.0), scale=(0.5,), size=(32, 64)).to_json(),
        LABELS_KEY: "cat\ndog\nEgyptian cat",
    }
    assert ["Egyptian", "cat", "70.0", "%"] in lines(run("run", archive(found), "photo.png"))
    assert encoded(run) == {}
    found = encoded(run, "--mean", "0", "--scale", "1", "--size", "9", "--resize", "crop:0.5", "--order", "GRAY")
    assert Preprocessing.from_json(found[PREPROCESSING_KEY]).crop_ratio == 0.5


def test_encode_stores_detectors(run: Run) -> None:
    assert encoded(run, "--detector", "yolov8") == {DETECTION_KEY: Detector(kind="yolov8").to_json()}
    detector = Detector(kind="yolov3", anchors=(((1.0, 2.0), (3.0, 4.0)),), iou=0.6)
    Path("d.json").write_text(detector.to_json())
    assert encoded(run, "--detector", "d.json") == {DETECTION_KEY: detector.to_json()}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--size", "224"], 2, "--mean --scale"),
        (["--order", "RGB"], 2, "--size"),
        (["--labels", "missing.txt"], 2, "missing.txt"),
        (["--detector", "yolov99"], 2, "no kind of detector"),
        (["--detector", "yolov3"], 2, "anchors"),
        (["--detector", "missing.json"], 2, "missing.json"),
        (["--detector", "bad.json"], 3, "bad.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_encode_refuses_what_run_could_not_use(run: Run, options: list[str], code: int, message: str) -> None:
    np.savez("m.npz", w=np.ones((40, 40), np.float32))
    Path("bad.json").write_text('{"kind": "yolov8", "score": 7}')
    refused(run("encode", "m.npz", "e.wcodec", *options), code, message)
    assert not Path("e.wcodec").exists()


def test_info_shortens_labels(run: Run) -> None:
    source = archive({**CLASSIFIER, LABELS_KEY: "\n".join(f"label {number}" for number in range(1000))})
    code, out, _ = run("info", source)
    assert code == 0
    assert len(out) < 2000
    assert "wcodec.labels: label 0\\nlabel 1\\n" in out
    assert "9,889 characters; --json" in out
    assert HOW in out
    assert len(json.loads(run("info", source, "--json")[1])["metadata"][LABELS_KEY]) == 9889
