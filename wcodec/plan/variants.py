"""Variants of pictures: many inputs made of few, so that what is learnt of those holds for others too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from wcodec.model import Array

if TYPE_CHECKING:
    from PIL.Image import Image

_SMALLEST = 0.25
"""Of the shorter side that a variant is cut from at least."""

_SKEW = 4 / 3
"""How much wider or higher than a square a cut may be."""


def cropped(picture: Image, rng: np.random.Generator, size: tuple[int, int], *, smallest: float = 0.5) -> Image:
    """A random part of a picture, from `smallest` to all of its shorter side, brought to a size of (height, width)."""
    side = rng.uniform(smallest, 1) * min(picture.size)
    return _cut(picture, rng, size, side, side)


def varied(picture: Image, other: Image | None, rng: np.random.Generator, size: tuple[int, int]) -> Image:
    """A variant of a picture in RGB, of a size of (height, width): cut, turned, recoloured, blurred, noisy.

    `other` is another variant of this size, which is mixed with it or pasted into it now and then.
    """
    skew = np.sqrt(_SKEW) ** rng.uniform(-1, 1)
    side = rng.uniform(_SMALLEST, 1) * min(picture.size) / max(skew, 1 / skew)
    out = _turned(_cut(picture, rng, size, side * skew, side / skew), rng)
    pixels = np.asarray(out, np.float32)
    for share, change in _CHANGES:
        if rng.random() < share:
            pixels = change(pixels, rng)
    if other is not None:
        pixels = _with_other(pixels, np.asarray(other, np.float32), rng)
    return _picture(pixels)


def _cut(picture: Image, rng: np.random.Generator, size: tuple[int, int], width: float, height: float) -> Image:
    from PIL import Image

    left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    box = (left, top, left + width, top + height)
    return picture.resize(size[::-1], Image.Resampling.BICUBIC, box=box)


def _turned(picture: Image, rng: np.random.Generator) -> Image:
    from PIL import Image, ImageFilter

    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.15:
        picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if rng.random() < 0.3:
        middle = tuple(int(value) for value in np.asarray(picture).mean((0, 1)))
        picture = picture.rotate(rng.uniform(-30, 30), Image.Resampling.BILINEAR, fillcolor=middle)
    if rng.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2)))
    return picture


def _relit(pixels: Array, rng: np.random.Generator) -> Array:
    """Other brightness, contrast and saturation."""
    grey = pixels.mean(2, keepdims=True)
    pixels = grey + (pixels - grey) * rng.uniform(0.2, 1.8)
    middle = pixels.mean()
    return np.asarray(middle + (pixels - middle) * rng.uniform(0.4, 1.6) + rng.uniform(-50, 50))


def _recoloured(pixels: Array, rng: np.random.Generator) -> Array:
    """Channels in another order, each brighter or darker."""
    return np.asarray(pixels[..., rng.permutation(3)] * rng.uniform(0.7, 1.3, 3))


def _inverted(pixels: Array, rng: np.random.Generator) -> Array:
    return 255 - pixels


def _noisy(pixels: Array, rng: np.random.Generator) -> Array:
    return np.asarray(pixels + rng.normal(0, rng.uniform(2, 20), pixels.shape))


_CHANGES: tuple[tuple[float, Callable[[Array, np.random.Generator], Array]], ...] = (
    (0.7, _relit),
    (0.3, _recoloured),
    (0.1, _inverted),
    (0.25, _noisy),
)
"""How often pixels (height, width, 3) in 0 to 255 are changed, and how."""


def _with_other(pixels: Array, other: Array, rng: np.random.Generator) -> Array:
    chance = rng.random()
    if chance < 0.15:
        share = rng.uniform(0.2, 0.5)
        return np.asarray(pixels * (1 - share) + other * share)
    if chance < 0.35:
        height, width = pixels.shape[:2]
        tall, wide = (rng.integers(side // 4, max(side // 4 + 1, side * 3 // 4)) for side in (height, width))
        top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
        pixels = pixels.copy()
        pixels[top : top + tall, left : left + wide] = other[top : top + tall, left : left + wide]
    return pixels


def _picture(pixels: Array) -> Image:
    from PIL import Image

    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def synthetic(rng: np.random.Generator, size: tuple[int, int]) -> Image:
    """A picture with the statistics of natural ones and nothing in it, of a size of (height, width).

    Coloured noise whose power falls with the square of frequency, behind flat, partly shaded discs and boxes of all
    sizes that hide each other: dead leaves (Lee, Mumford and Huang 2001).
    """
    height, width = size
    pixels = _clouds(rng, height, width)
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    for _ in range(int(rng.integers(4, 60))):
        # areas fall as 1 / r ** 3, between a fiftieth and half of the picture
        radius = min(height, width) * 0.5 / np.sqrt(rng.uniform(1, 600))
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        round_one = rng.random() < 0.6
        inside = (
            (down - y) ** 2 + (across - x) ** 2 < radius**2
            if round_one
            else (abs(down - y) < radius * rng.uniform(0.3, 1)) & (abs(across - x) < radius)
        )
        colour = rng.uniform(0, 255) + rng.normal(0, 30, 3)
        shade = 1 + rng.uniform(-0.4, 0.4) * (down - y) / radius
        pixels[inside] = (colour * shade[..., None] + rng.uniform(0, 0.5) * (pixels - 127))[inside]
    return _picture(pixels)


def _clouds(rng: np.random.Generator, height: int, width: int) -> Array:
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    falling = 1 / np.maximum(frequency, 1 / max(height, width)) ** rng.uniform(0.8, 1.3)
    mixed = np.linalg.cholesky(np.full((3, 3), 0.8) + 0.2 * np.eye(3))  # colours of nature are mostly grey
    planes = [np.fft.irfft2(np.fft.rfft2(rng.normal(size=size)) * falling, size) for size in [(height, width)] * 3]
    stacked = np.stack([plane / plane.std() for plane in planes], -1) @ mixed.T
    return np.asarray(127 + rng.normal(0, 30) + rng.uniform(25, 70) * stacked)
