"""Nets for the tests, in plain torch: full-sized ones with random weights, small ones trained on digits.

The full-sized nets have the shapes and state-dict names of torchvision's. The digit nets keep the block structure,
with few channels, for 8x8 images of one channel. `zoo_nets` has more nets, and their random weights made to run.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

Array = NDArray[Any]


@dataclass(frozen=True)
class Net:
    """A net whose weights lie on disk as `torch.save` wrote them."""

    path: Path
    build: Callable[[], nn.Module]

    def weights(self) -> dict[str, torch.Tensor]:
        """The state dict on disk."""
        weights: dict[str, torch.Tensor] = torch.load(self.path, weights_only=True)
        return weights

    def module(self, weights: Mapping[str, torch.Tensor] | None = None) -> nn.Module:
        """A new module in evaluation mode, with the weights on disk or with others."""
        module = self.build()
        module.load_state_dict(self.weights() if weights is None else weights)
        return module.eval()


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the image's size at stride 1."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each ended by a 2x2 maximum, then three dense layers."""

    def __init__(
        self, stages: list[list[int]], *, inputs: int, size: int, hidden: int, classes: int, norm: bool, dropout: float
    ) -> None:
        """`stages` are output channels per convolution; `size` is the side of the last stage's output."""
        super().__init__()
        layers: list[nn.Module] = []
        for stage in stages:
            for outputs in stage:
                layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
                if norm:
                    layers.append(nn.BatchNorm2d(outputs))
                layers.append(nn.ReLU())
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(inputs * size * size, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (images, classes) for images of shape (images, channels, height, width)."""
        logits: torch.Tensor = self.classifier(self.features(images).flatten(1))
        return logits


class Block(nn.Module):
    """A residual block: the subclass's `body` beside a shortcut, which is a 1x1 convolution where shapes differ."""

    expansion: int
    downsample: nn.Sequential | None

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()

    def body(self, images: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm that ends `body`."""
        return [layer for layer in self.children() if isinstance(layer, nn.BatchNorm2d)][-1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shortcut = images if self.downsample is None else self.downsample(images)
        return functional.relu(self.body(images) + shortcut)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The shortcut of a block, None where the block's input can be added to its output as it is."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(Block):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.conv1 = conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def body(self, images: torch.Tensor) -> torch.Tensor:
        images = functional.relu(self.bn1(self.conv1(images)))
        result: torch.Tensor = self.bn2(self.conv2(images))
        return result


class Bottleneck(Block):
    """A 1x1 convolution that narrows, a 3x3, and a 1x1 that widens."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = shortcut(inputs, width * self.expansion, stride)

    def body(self, images: torch.Tensor) -> torch.Tensor:
        images = functional.relu(self.bn1(self.conv1(images)))
        images = functional.relu(self.bn2(self.conv2(images)))
        result: torch.Tensor = self.bn3(self.conv3(images))
        return result


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, the first block of each but the first at stride 2, and a dense layer."""

    def __init__(
        self, block: type[Block], depths: list[int], *, inputs: int, width: int, classes: int, stem: int
    ) -> None:
        """`stem` is the first convolution's size; 7 comes with stride 2 and a 3x3 maximum, 3 with neither."""
        super().__init__()
        self.conv1 = conv(inputs, width, stem, 1 if stem == 3 else 2)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity() if stem == 3 else nn.MaxPool2d(3, 2, padding=1)
        channels = width
        for stage, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            for index in range(depth):
                blocks.append(block(channels, width << stage, 2 if stage and not index else 1))
                channels = (width << stage) * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (images, classes) for images of shape (images, channels, height, width)."""
        images = self.maxpool(functional.relu(self.bn1(self.conv1(images))))
        for stage in range(1, 5):
            images = self.get_submodule(f"layer{stage}")(images)
        logits: torch.Tensor = self.fc(images.mean((2, 3)))
        return logits


IMAGENET: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "vgg16": lambda: VGG(
            [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3],
            inputs=3,
            size=7,
            hidden=4096,
            classes=1000,
            norm=False,
            dropout=0.5,
        ),
        "resnet18": lambda: ResNet(BasicBlock, [2, 2, 2, 2], inputs=3, width=64, classes=1000, stem=7),
        "resnet50": lambda: ResNet(Bottleneck, [3, 4, 6, 3], inputs=3, width=64, classes=1000, stem=7),
    }
)
"""The nets at their full sizes, for images of 3x224x224, by name."""

DIGITS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "vgg16": lambda: VGG(
            [[16] * 2, [32] * 2, [64] * 9], inputs=1, size=1, hidden=128, classes=10, norm=True, dropout=0.1
        ),
        "resnet18": lambda: ResNet(BasicBlock, [2, 2, 2, 2], inputs=1, width=8, classes=10, stem=3),
        "resnet50": lambda: ResNet(Bottleneck, [3, 4, 6, 3], inputs=1, width=8, classes=10, stem=3),
    }
)
"""Their small likenesses for images of 1x8x8, by the same names."""


def imagenet_module(net: str, weights: Mapping[str, Array]) -> nn.Module:
    """A full-sized net in evaluation mode, its parameters sharing the arrays' memory."""
    return filled(IMAGENET[net], weights)


def filled(build: Callable[[], nn.Module], weights: Mapping[str, Array]) -> nn.Module:
    """A net in evaluation mode, its parameters sharing the arrays' memory."""
    with torch.device("meta"):
        module = build()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, assign=True)
    return module.eval()


def imagenet_weights(net: str, seed: int = 0) -> dict[str, Array]:
    """State dict of a full-sized net, drawn at random with the spread of trained weights."""
    return random_weights(IMAGENET[net], seed)


def random_weights(build: Callable[[], nn.Module], seed: int = 0) -> dict[str, Array]:
    """State dict of a net, drawn at random with the spread of trained weights; what the net itself fixes stays so.

    Rows, input channels and kernel positions differ in scale, tails are heavier than a Gaussian's, and one row in
    fifty is nearly dead. Per-row integers of these weights have about the entropy that those of trained nets have.
    A tensor depends on the seed, its name and its shape only.
    """
    with torch.device("meta"):
        state = build().state_dict()  # what a net fixes, it puts on the CPU
    return {
        name: _drawn(name, tuple(value.shape), np.random.default_rng([seed, zlib.crc32(name.encode())]))
        if value.is_meta
        else value.numpy()
        for name, value in state.items()
    }


def _drawn(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if name.endswith("num_batches_tracked"):
        return np.array(450_360, dtype=np.int64)
    if len(shape) > 1:
        return _drawn_matrix(shape, rng)
    if name.endswith("running_var"):
        return rng.lognormal(0, 0.5, shape).astype(np.float32)
    if name.endswith("weight"):
        return rng.lognormal(-1, 0.5, shape).astype(np.float32)
    return rng.normal(0, 0.1, shape).astype(np.float32)


def _drawn_matrix(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    rows, row_size = shape[0], math.prod(shape[1:])
    columns = np.exp(rng.normal(0, 0.2, (shape[1], 1)) + rng.normal(0, 0.15, math.prod(shape[2:]))).reshape(-1)
    columns *= math.sqrt(1.3 / row_size)
    heights = np.exp(rng.normal(0, 0.2, (rows, 1)))
    heights[rng.random(rows) < 0.02] *= 1e-4
    weights = np.empty((rows, row_size), dtype=np.float32)
    # Blocks that fit the processor's cache: a dense layer of VGG16 has 100 million weights.
    step = max(1, (1 << 17) // row_size)
    for start in range(0, rows, step):
        block = weights[start : start + step]
        rng.standard_normal(out=block, dtype=np.float32)
        block *= 1 + 0.035 * block * block
        block *= heights[start : start + step].astype(np.float32)
        block *= columns.astype(np.float32)
    return weights.reshape(shape)


class Digits(NamedTuple):
    """Images of handwritten digits, f32 of shape (n, 1, 8, 8) in 0 to 1, and their labels, i64 of shape (n,)."""

    images: torch.Tensor
    labels: torch.Tensor


def digits() -> tuple[Digits, Digits]:
    """1297 digits for training and 500 for testing, the same every time."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.from_numpy(data.images[order, None].astype(np.float32) / 16)
    labels = torch.from_numpy(data.target[order].astype(np.int64))
    return Digits(images[:-500], labels[:-500]), Digits(images[-500:], labels[-500:])


def accuracy(module: nn.Module, data: Digits) -> float:
    """The share of images whose largest logit is that of their label."""
    with torch.inference_mode():
        return (module(data.images).argmax(1) == data.labels).double().mean().item()


def train_digits(net: str) -> nn.Module:
    """A digit net trained on one core, in evaluation mode; on one machine it is the same every time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return _trained(DIGITS[net](), digits()[0])
    finally:
        torch.set_num_threads(threads)


def _trained(module: nn.Module, data: Digits, *, epochs: int = 8, batch: int = 32) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, Block):
            nn.init.zeros_(layer.last_norm.weight)  # blocks start as the identity: deep nets then train in few steps
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.2
    steps = len(data.labels) // batch
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * steps)
    for _ in range(epochs):
        order = torch.randperm(len(data.labels))[: steps * batch]
        for chosen in order.split(batch):
            logits = module(data.images[chosen])
            loss = functional.cross_entropy(logits, data.labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return module.eval()
