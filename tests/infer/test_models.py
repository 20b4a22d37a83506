"""Whole nets from archives of int8 weights, against ONNX Runtime on the same weights."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

import wcodec
from tests.support.graphs import check_order
from tests.support.infer import distance, outputs_of, precisions
from wcodec.infer import choice
from wcodec.infer.engine import Engine
from wcodec.infer.forms.launch import Form, Precision
from wcodec.infer.graph import Graph, Stored
from wcodec.infer.lowering.source import OnnxSource
from wcodec.infer.lowering.walk import lower
from wcodec.infer.reference import Reference
from wcodec.infer.schedule import scheduled
from wcodec.infer.weights import Resident
from wcodec.model import Array
from wcodec.opencl.device import Device
from wcodec.opencl.platforms import pick_device

BOUNDS: Mapping[Precision, float] = {"storage": 2e-3, "half": 2e-2, "float": 2e-4}
"""Relative L2 error of an output."""

REAL = "vgg16 with a small head"
"""The net of `vgg16_onnx`, which takes channels last."""

NETS = {
    "efficientnet_lite0": 224,
    "mobilenet_v2": 224,
    "squeezenet": 227,
    "alexnet": 227,
    "resnet18": 224,
    "resnet50": 224,
    REAL: 240,
    "unet": 128,
    "yolov3_tiny": 416,
    "yolov8n": 640,
}
"""The sides of the pictures that each takes."""


@dataclass(frozen=True)
class Case:
    """A net's archive, a photo as it takes it, and what ONNX Runtime makes of that."""

    archive: Path
    photo: Array
    wanted: list[Array]


@pytest.fixture(scope="session")
def cases(
    exports: Callable[..., Path],
    vgg16_onnx: Path,
    photos: NDArray[np.uint8],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Case]:
    """The case of a net, made once for all processes of a session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "models"
    folder.mkdir(exist_ok=True)

    def case(net: str) -> Case:
        archive, results = folder / f"{net}.wcodec", folder / f"{net}.npz"
        photo = prepared(photos[8], NETS.get(net, 224), channels_last=net == REAL)
        with FileLock(folder / f"{net}.lock"):
            if not results.exists():
                wcodec.encode(vgg16_onnx if net == REAL else exports(net), archive, wcodec.Policy(coder="rans"))
                decoded = folder / f"{net}.onnx"
                wcodec.decode(archive, decoded)
                np.savez(results, *by_onnx_runtime(decoded, photo))
                decoded.unlink()
        with np.load(results) as stored:
            return Case(archive, photo, list(stored.values()))

    return case


def prepared(photo: NDArray[np.uint8], side: int, *, channels_last: bool) -> Array:
    """A photo as a batch of one, its numbers with mean 0 and variance 1."""
    resized = Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized, np.float32)[None]
    pixels = (pixels - pixels.mean()) / pixels.std()
    return pixels if channels_last else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def by_onnx_runtime(model: Path, photo: Array) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # or it takes the padding of a maximum for zeros, in yolov3_tiny
    session = onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=["Pad_Fusion"]
    )
    found: list[Array] = session.run(None, {session.get_inputs()[0].name: photo})
    return found


@pytest.fixture(autouse=True)
def _no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first form of every layer is taken: trying all of them takes long, and is for other tests."""
    monkeypatch.setattr(choice, "_WORTH_TRYING", 1 << 62)


def parts(net: str, outputs: list[Array]) -> Iterator[Array]:
    """Outputs, and the probabilities of yolov8n by themselves: boxes, in pixels, outweigh them."""
    yield from outputs
    if net == "yolov8n":
        yield outputs[0][:, 4:]


@pytest.mark.parametrize("net", NETS)
def test_every_net_gives_what_onnx_runtime_does(device: Device, cases: Callable[[str], Case], net: str) -> None:
    case = cases(net)
    missed = []
    for precision in precisions(device):
        with Engine.open(case.archive, device, precision=precision) as engine:
            found = outputs_of(engine, case.photo)
        for part, wanted in zip(parts(net, found), parts(net, case.wanted), strict=True):
            assert part.dtype == wanted.dtype
            error = distance(part, wanted)
            if not error <= BOUNDS[precision]:
                missed.append(f"{precision}: {error:.1e}")
    assert not missed


def test_the_largest_net_on_one_device(device: Device, cases: Callable[[str], Case]) -> None:
    if device.device != pick_device("opencl"):
        pytest.skip("138 million weights go to the first device only")
    case = cases("vgg16")
    with Engine.open(case.archive, device) as engine:
        [found] = outputs_of(engine, case.photo)
    assert distance(found, case.wanted[0]) <= BOUNDS["storage"]


@pytest.mark.parametrize("net", ["squeezenet", "resnet18", "yolov8n"])
def test_nets_by_winograd(device: Device, cases: Callable[[str], Case], monkeypatch, net: str) -> None:
    """Wherever there is such a form, as trials may find it to be fastest."""
    taken: set[str] = set()

    def pick(_: str, forms: list[Form]) -> Form:
        form = next((form for form in forms if form.name.startswith("winograd")), forms[0])
        taken.add(form.name.split()[0])
        return form

    monkeypatch.setattr(choice, "remembered_form", pick)
    monkeypatch.setattr(choice, "_WORTH_TRYING", 0)
    case = cases(net)
    precisions: tuple[Precision, ...] = ("storage", "float")
    for precision in precisions:
        with Engine.open(case.archive, device, precision=precision) as engine:
            found, memory = outputs_of(engine, case.photo), engine.memory
        for part, wanted in zip(parts(net, found), parts(net, case.wanted), strict=True):
            assert distance(part, wanted) <= BOUNDS[precision]
        with wcodec.open(case.archive) as archive:
            plain = sum(math.prod(archive.tensor(name).shape) for name in archive) * (4 if precision == "float" else 2)
        assert memory.weights <= plain + (16 << 20)
    assert "winograd" in taken


@pytest.mark.parametrize("resident", ["int8", "coded"])
def test_nets_whose_weights_stay_small(device: Device, cases: Callable[[str], Case], resident: Resident) -> None:
    case = cases("mobilenet_v2")
    with Engine.open(case.archive, device, resident=resident) as engine:
        [found] = outputs_of(engine, case.photo)
    assert distance(found, case.wanted[0]) <= BOUNDS["storage"]


@pytest.mark.parametrize("net", ["mobilenet_v2", "squeezenet"])
def test_a_batch_gives_what_single_images_do(
    device: Device, cases: Callable[[str], Case], photos: NDArray[np.uint8], net: str
) -> None:
    images = [prepared(photos[number], NETS[net], channels_last=False) for number in (0, 8, 16)]
    with Engine.open(cases(net).archive, device) as engine:
        single = [outputs_of(engine, image)[0] for image in images]
        [together] = outputs_of(engine, np.concatenate(images))
    assert distance(single[0], single[1]) > 0.1
    assert distance(together, np.concatenate(single)) <= 1e-5


# Without a device


def lowered(source: OnnxSource, shape: tuple[int, ...]) -> Graph:
    return lower(source, dict.fromkeys(source.inputs, shape))


@pytest.mark.parametrize("net", [*NETS, "vgg16"])
def test_the_lowered_graph_gives_what_onnx_runtime_does(cases: Callable[[str], Case], net: str) -> None:
    case = cases(net)
    with wcodec.open(case.archive) as archive:
        source = OnnxSource(archive)
        graph = lowered(source, case.photo.shape)
        constants = {
            name: source.read(constant.tensor) if isinstance(constant, Stored) else constant
            for name, constant in graph.constants.items()
        }
    found = [output.numpy() for output in Reference(graph, constants)(case.photo)]
    for part, wanted in zip(parts(net, found), parts(net, case.wanted), strict=True):
        assert distance(part, wanted) <= 1e-4


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_task_reads_what_was_written_before(cases: Callable[[str], Case], net: str, batch: int) -> None:
    case = cases(net)
    with wcodec.open(case.archive) as archive:
        graph = lowered(OnnxSource(archive), (batch, *case.photo.shape[1:]))
    check_order(scheduled(graph, "f16"))
    check_order(scheduled(graph, "f16", set(graph.values)))
    check_order(scheduled(graph, "f32"))
