"""Detectors for the tests, in plain torch, with the shapes and state-dict names of ultralytics's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

STRIDES = (8, 16, 32)
"""Pixels between the cells of YOLOv8's three grids."""

DISTANCES = 16
"""The distances of a cell to a box's side that YOLOv8 weighs, in cells."""


class Wired(nn.Module):
    """Layers in a row, each of which takes the outputs of the layers at some indices; -1 is the one before."""

    def __init__(self, layers: Sequence[tuple[nn.Module, tuple[int, ...]]], results: Sequence[int]) -> None:
        """`results` are the indices of the layers whose outputs the net gives."""
        super().__init__()
        self.model = nn.ModuleList(layer for layer, _ in layers)
        self.sources = [sources for _, sources in layers]
        self.results = tuple(results)

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """One output, or a tuple of several."""
        outputs: list[torch.Tensor] = []
        for layer, sources in zip(self.model, self.sources, strict=True):
            outputs.append(layer(*(outputs[source] for source in sources)) if outputs else layer(images))
        results = tuple(outputs[index] for index in self.results)
        return results if len(results) > 1 else results[0]


class Convolution(nn.Module):
    """A convolution without bias, a norm and an activation."""

    def __init__(
        self, inputs: int, outputs: int, size: int = 1, stride: int = 1, act: type[nn.Module] = nn.SiLU
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = nn.LeakyReLU(0.1) if act is nn.LeakyReLU else act()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.act(self.bn(self.conv(images)))
        return result


class Concat(nn.Module):
    """The channels of all inputs."""

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        return torch.cat(images, 1)


class Residual(nn.Module):
    """Two 3x3 convolutions, with or without a shortcut."""

    def __init__(self, width: int, *, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Convolution(width, width, 3)
        self.cv2 = Convolution(width, width, 3)
        self.shortcut = shortcut

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.cv2(self.cv1(images))
        return images + result if self.shortcut else result


class C2f(nn.Module):
    """Blocks in a row on half of the channels, and a 1x1 convolution of what each of them gives."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, shortcut: bool) -> None:
        super().__init__()
        width = outputs // 2
        self.cv1 = Convolution(inputs, 2 * width)
        self.cv2 = Convolution((2 + depth) * width, outputs)
        self.m = nn.ModuleList(Residual(width, shortcut=shortcut) for _ in range(depth))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        parts = list(self.cv1(images).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        result: torch.Tensor = self.cv2(torch.cat(parts, 1))
        return result


class SPPF(nn.Module):
    """Three 5x5 maxima in a row, and a 1x1 convolution of what each of them gives."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = Convolution(channels, channels // 2)
        self.cv2 = Convolution(channels * 2, channels)
        self.m = nn.MaxPool2d(5, 1, padding=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        parts = [self.cv1(images)]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        result: torch.Tensor = self.cv2(torch.cat(parts, 1))
        return result


class Expectation(nn.Module):
    """The mean distance to each side of a box, from logits of the distances."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(DISTANCES, 1, 1, bias=False)
        distances = torch.arange(DISTANCES, dtype=torch.float32, device="cpu").view(1, -1, 1, 1)
        self.conv.weight = nn.Parameter(distances, requires_grad=False)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Of shape (images, 4, cells) for logits of shape (images, 4 * DISTANCES, cells)."""
        images, _, cells = logits.shape
        shares = logits.view(images, 4, DISTANCES, cells).transpose(2, 1).softmax(1)
        result: torch.Tensor = self.conv(shares).view(images, 4, cells)
        return result


class Detect(nn.Module):
    """YOLOv8's head: boxes and the probabilities of classes, from features on three grids."""

    anchors: torch.Tensor
    strides: torch.Tensor

    def __init__(self, inputs: Sequence[int], *, classes: int, side: int) -> None:
        """`inputs` are channels per grid; `side` is that of the images."""
        super().__init__()
        width, class_width = max(16, inputs[0] // 4, 4 * DISTANCES), max(inputs[0], min(classes, 100))
        self.outputs = (4 * DISTANCES, classes)
        self.cv2 = nn.ModuleList(self._branch(channels, width, 4 * DISTANCES) for channels in inputs)
        self.cv3 = nn.ModuleList(self._branch(channels, class_width, classes) for channels in inputs)
        self.dfl = Expectation()
        grids = [torch.arange(side // stride, device="cpu") + 0.5 for stride in STRIDES]
        anchors = [torch.stack(torch.meshgrid(grid, grid, indexing="xy")).flatten(1) for grid in grids]
        strides = [
            torch.full((1, grid.numel() ** 2), float(stride), device="cpu")
            for stride, grid in zip(STRIDES, grids, strict=True)
        ]
        self.register_buffer("anchors", torch.cat(anchors, 1), persistent=False)
        self.register_buffer("strides", torch.cat(strides, 1), persistent=False)

    @staticmethod
    def _branch(inputs: int, width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(Convolution(inputs, width, 3), Convolution(width, width, 3), nn.Conv2d(width, outputs, 1))

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """Of shape (images, 4 + classes, cells): centre, width and height in pixels, then probabilities."""
        grids = [
            torch.cat((box(grid), name(grid)), 1).view(grid.shape[0], sum(self.outputs), -1)
            for grid, box, name in zip(features, self.cv2, self.cv3, strict=True)
        ]
        logits, names = torch.cat(grids, 2).split(self.outputs, 1)
        before, after = self.dfl(logits).chunk(2, 1)
        start, stop = self.anchors - before, self.anchors + after
        boxes = torch.cat(((start + stop) / 2, stop - start), 1)
        return torch.cat((boxes * self.strides, names.sigmoid()), 1)


def yolov3_tiny(classes: int = 80) -> Wired:
    """YOLOv3-tiny, which gives its two heads as they are: each cell's 3 boxes of 5 + `classes` numbers."""

    def convolution(inputs: int, outputs: int, size: int = 3) -> Convolution:
        return Convolution(inputs, outputs, size, act=nn.LeakyReLU)

    layers: list[tuple[nn.Module, tuple[int, ...]]] = [(convolution(3, 16), (-1,))]
    for width in (16, 32, 64, 128, 256):
        layers += [(nn.MaxPool2d(2), (-1,)), (convolution(width, 2 * width), (-1,))]
    head = 3 * (5 + classes)
    layers += [
        (nn.ZeroPad2d((0, 1, 0, 1)), (-1,)),
        (nn.MaxPool2d(2, 1), (-1,)),
        (convolution(512, 1024), (-1,)),
        (convolution(1024, 256, 1), (-1,)),
        (convolution(256, 512), (-1,)),
        (convolution(256, 128, 1), (14,)),
        (nn.Upsample(scale_factor=2), (-1,)),
        (Concat(), (-1, 8)),
        (convolution(384, 256), (-1,)),
        (nn.Conv2d(512, head, 1), (15,)),
        (nn.Conv2d(256, head, 1), (19,)),
    ]
    return Wired(layers, results=(20, 21))


def yolov8n(classes: int = 80, side: int = 640) -> Wired:
    """The smallest YOLOv8, with its head's boxes in pixels."""
    up = nn.Upsample(scale_factor=2)
    layers: list[tuple[nn.Module, tuple[int, ...]]] = [
        (Convolution(3, 16, 3, 2), (-1,)),
        (Convolution(16, 32, 3, 2), (-1,)),
        (C2f(32, 32, 1, shortcut=True), (-1,)),
        (Convolution(32, 64, 3, 2), (-1,)),
        (C2f(64, 64, 2, shortcut=True), (-1,)),
        (Convolution(64, 128, 3, 2), (-1,)),
        (C2f(128, 128, 2, shortcut=True), (-1,)),
        (Convolution(128, 256, 3, 2), (-1,)),
        (C2f(256, 256, 1, shortcut=True), (-1,)),
        (SPPF(256), (-1,)),
        (up, (-1,)),
        (Concat(), (-1, 6)),
        (C2f(384, 128, 1, shortcut=False), (-1,)),
        (up, (-1,)),
        (Concat(), (-1, 4)),
        (C2f(192, 64, 1, shortcut=False), (-1,)),
        (Convolution(64, 64, 3, 2), (-1,)),
        (Concat(), (-1, 12)),
        (C2f(192, 128, 1, shortcut=False), (-1,)),
        (Convolution(128, 128, 3, 2), (-1,)),
        (Concat(), (-1, 9)),
        (C2f(384, 256, 1, shortcut=False), (-1,)),
        (Detect((64, 128, 256), classes=classes, side=side), (15, 18, 21)),
    ]
    return Wired(layers, results=(22,))
