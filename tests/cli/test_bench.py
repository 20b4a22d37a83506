"""`wcodec bench`: what it shows, without asking how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import wcodec
from tests.infer.test_profile import drawn, small_model
from tests.support.command import Run, refused, runner
from tests.support.infer import archive_of, graph_of, node, precisions
from tests.support.opencl import found_devices
from wcodec.errors import MissingDependencyError
from wcodec.opencl.device import Device


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `wcodec bench` in a folder with m.wcodec: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    Path("m.wcodec").write_bytes(archive_of(small_model(), tmp_path))

    call = runner(capsys, "bench")
    return lambda *arguments: call(*arguments, "--repeats", 2)


def written(model: bytes, path: str = "other.wcodec") -> str:
    Path(path).write_bytes(archive_of(model, Path.cwd()))
    return path


def name_of(device: Device) -> str:
    """Such as "opencl:1"."""
    [number] = (
        found.number
        for found in found_devices()[0]
        if (found.platform, found.name) == (device.device.platform.name.strip(), device.device.name.strip())
    )
    return f"opencl:{number}"


def done(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, err) == (0, "")
    return out


# Inference


def test_every_layer_in_order(run: Run, device: Device) -> None:
    lines = done(run("m.wcodec", "--infer", "--device", name_of(device))).splitlines()
    head, *rows, time, speed, memory = lines
    assert head.split() == ["layer", "operation", "form", "input", "output", "ms", "share", "GFLOP/s", "weights"]
    layers = [row.split("  ")[0] for row in rows]
    assert [name for name in layers if name in ("Conv of a", "MaxPool of c", "Gemm of y")] == [
        *("Conv of a", "MaxPool of c", "Gemm of y")
    ]
    assert "median of 2 runs" in time
    assert f"in {len(rows)} layers" in time
    assert device.device.name.strip() in speed
    assert memory.startswith("on the device: weights ")


def test_json_in_every_precision(run: Run, device: Device) -> None:
    for precision in precisions(device):
        options = ("--device", name_of(device), "--precision", precision, "--batch", 3, "--json")
        found = json.loads(done(run("m.wcodec", "--infer", *options)))
        assert found["device"] == device.device.name.strip()
        assert found["precision"] == precision
        assert found["inputs"] == [[3, 5, 10, 12]]
        assert found["operations"] == sum(layer["operations"] for layer in found["layers"])
        assert found["seconds"] == pytest.approx(found["kernel_seconds"] + found["overhead_seconds"])
        assert found["fraction_of_peak"] == pytest.approx(found["speed"] / found["peak"])
        assert found["weights_bytes"] > 0
        assert found["arena_bytes"] > 0
        keys = {"name", "kind", "form", "inputs", "output", "seconds", "operations", "speed", "weights"}
        assert all(layer.keys() == keys for layer in found["layers"])


def test_the_slowest_layers(run: Run, device: Device) -> None:
    options = ("--device", name_of(device), "--top", 2, "--json")
    slow, slower = json.loads(done(run("m.wcodec", "--infer", *options)))["layers"]
    assert slow["seconds"] >= slower["seconds"]


def test_a_trace(run: Run, device: Device) -> None:
    found = json.loads(done(run("m.wcodec", "--infer", "--device", name_of(device), "--trace", "t.json", "--json")))
    events = [event for event in json.loads(Path("t.json").read_text())["traceEvents"] if event["ph"] == "X"]
    # each of these layers is one kernel
    assert [event["name"] for event in events] == [layer["name"] for layer in found["layers"]]
    Path("a.wcodec").write_bytes(Path("m.wcodec").read_bytes())
    refused(run("a.wcodec", "--infer", "--trace", "a.wcodec"), 2, "a.wcodec")
    refused(run("m.wcodec", "--infer", "--device", name_of(device), "--trace", "no/t.json"), 1, "folder")


def test_images_of_any_size(run: Run, device: Device) -> None:
    nodes = [node("Conv", "x", "w", outputs=("a",)), node("GlobalAveragePool", "a")]
    model = written(graph_of(nodes, {"x": ["n", 3, "height", "width"]}, {"w": drawn(4, 3, 3, 3)}))
    at = ("--infer", "--device", name_of(device))
    found = json.loads(done(run(model, *at, "--size", "9x8", "--batch", 2, "--json")))
    assert found["inputs"] == [[2, 3, 9, 8]]
    refused(run(model, *at), 2, "the model takes x nx3xheightxwidth; say by --size HxW how large its images are")
    refused(run("m.wcodec", *at, "--size", "9x8"), 2, "--size does nothing: the model takes x batchx5x10x12")
    odd = written(graph_of([node("Relu", "x")], {"x": ["n", "length"]}))
    refused(run(odd, *at, "--size", "9"), 3, "x nxlength, which --size does not settle")


def test_a_model_with_its_own_batch(run: Run, device: Device) -> None:
    model, at = written(small_model(batch=2)), ("--infer", "--device", name_of(device))
    assert json.loads(done(run(model, *at, "--json")))["inputs"] == [[2, 5, 10, 12]]
    assert json.loads(done(run(model, *at, "--batch", 2, "--json")))["inputs"] == [[2, 5, 10, 12]]
    refused(run(model, *at, "--batch", 4), 2, "--batch 4: the model takes x 2x5x10x12; leave it out")


def test_what_cannot_be_run(run: Run, device: Device) -> None:
    wcodec.encode({"w": np.ones((4, 4), np.float32)}, "weights.wcodec")
    refused(run("weights.wcodec", "--infer", "--device", name_of(device)), 3, "graph")
    refused(run("m.wcodec", "--infer", "--device", "opencl:99"), 4, "opencl:99")
    refused(run("m.wcodec", "--infer", "--device", "cpu"), 2, "unknown device 'cpu'")
    refused(run("none.wcodec", "--infer"), 2, "none.wcodec: no such file")


# Decoding


def test_decoding_to_the_host_and_onto_a_device(run: Run, device: Device) -> None:
    found = json.loads(done(run("m.wcodec", "--device", name_of(device), "--json")))
    assert found["missing"] is None
    assert found["file_bytes"] == Path("m.wcodec").stat().st_size
    host, there = found["decoding"]
    assert (host["to"], there["to"]) == ("host", device.device.name.strip())
    weights = 24 * 5 * 3 * 3 + 7 * 24 * 5 * 6 + 7
    assert host["bytes"] == 4 * weights
    assert there["bytes"] >= 2 * weights
    for each in (host, there):
        assert each["weights_per_second"] == pytest.approx(weights / each["seconds"])
        assert each["bytes_per_second"] == pytest.approx(each["bytes"] / each["seconds"])


def test_decoding_as_a_table(run: Run, device: Device) -> None:
    head, host, there, total = done(run("m.wcodec", "--device", name_of(device))).splitlines()
    assert head.split() == ["decoded", "to", "seconds", "MB/s", "M", "weights/s"]
    assert host.startswith("host ")
    assert there.startswith(device.device.name.strip())
    assert total.endswith("median of 2 runs")


def test_decoding_without_a_device(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Device:
        raise MissingDependencyError(f"{name}: there is no OpenCL device")

    monkeypatch.setattr("wcodec.cli.bench._opened", absent)
    assert done(run("m.wcodec")).splitlines()[-1] == "no device: opencl: there is no OpenCL device"
    found = json.loads(done(run("m.wcodec", "--json")))
    assert found["missing"] == "opencl: there is no OpenCL device"
    assert [each["to"] for each in found["decoding"]] == ["host"]
    refused(run("m.wcodec", "--device", "opencl"), 4, "there is no OpenCL device")


def test_options_of_inference_need_infer(run: Run) -> None:
    for name, value in {"precision": "float", "batch": 1, "size": 8, "top": 3, "trace": "t.json"}.items():
        refused(run("m.wcodec", f"--{name}", value), 2, f"--{name} does nothing without --infer; leave it out")
    assert not Path("t.json").exists()
