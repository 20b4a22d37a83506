"""Inputs to learn from and to be measured on, in halves that have no picture in common."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import xxhash

from wcodec.errors import InputError, NonFiniteError, UsageError
from wcodec.infer.inputs import Inputs
from wcodec.infer.preprocess import MAX_SIDE, Layout, Order, Preprocessing, prepare
from wcodec.model import Array
from wcodec.plan.variants import cropped, synthetic, varied

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDS = 2
"""Parts of the inputs; what is learnt of all but one is measured on that one."""

FEWEST = 4
"""Inputs without which nothing is learnt."""

_MOST = 448
"""Inputs that are looked at, of more spread evenly."""

_MEMORY = 1 << 28
"""Bytes of inputs that are kept to be measured on."""

_SEED = 20210607

_SMALLEST = 8
"""Of the sides of what is taken for a picture, in pixels."""

_ORDERS: Mapping[int, Order] = {1: "GRAY", 3: "RGB"}
"""By how many channels there are."""


@dataclass(frozen=True)
class Subject:
    """One input, f32 of shape (1, ...), and where it is one the picture behind it, which `how` brings to its size."""

    array: Array
    picture: Image | None = None
    how: Preprocessing | None = None

    def varied(self, other: Image | None, rng: np.random.Generator) -> tuple[Array, Image]:
        """A variant, which `other` may be mixed into, as an input and as a picture."""
        picture, how = self._pictured()
        made = varied(picture, other, rng, how.size)
        return prepare(made, how)[0], made

    def cropped(self, rng: np.random.Generator) -> Array:
        """A part of the picture."""
        picture, how = self._pictured()
        return prepare(cropped(picture, rng, how.size), how)[0]

    def _pictured(self) -> tuple[Image, Preprocessing]:
        assert self.picture is not None
        assert self.how is not None
        return self.picture, self.how


class Samples:
    """Inputs of one shape and any number of variants of them; the same source gives the same ones.

    `count` is how many there are, `key` what no other source has in common with them. `skipped` names files that
    cannot be read, and why.
    """

    def __init__(self, count: int, read: Callable[[int], Subject], key: str, skipped: dict[str, str]) -> None:
        self.count, self.key, self.skipped = count, key, skipped
        self._read = read
        self.shape: tuple[int, ...] = read(0).array.shape[1:]

    @classmethod
    def of(cls, inputs: Inputs) -> Samples:
        """The pictures or arrays of a source, each read once to see that it can be.

        Raises `UsageError` for fewer than `FEWEST` that can, `NonFiniteError` for arrays that are not of numbers.
        """
        names = inputs.names
        digest, good = xxhash.xxh3_128(repr(inputs.how).encode()), list[int]()
        skipped: dict[str, str] = {}
        for place in range(0, len(names), math.ceil(len(names) / _MOST)):
            try:
                found = inputs.read(place)
            except InputError as error:
                skipped[names[place]] = str(error)
                continue
            if isinstance(found, np.ndarray) and not np.isfinite(found).all():
                raise NonFiniteError(f"input {names[place]} to calibrate with holds NaN or infinities")
            good.append(place)
            digest.update(np.ascontiguousarray(found).tobytes())
        if len(good) < FEWEST:
            why = f"; {len(skipped)} cannot be read, such as {next(iter(skipped.values()))}" if skipped else ""
            raise UsageError(f"{len(good)} inputs to calibrate with are too few, give {FEWEST} or more{why}")

        def read(number: int) -> Subject:
            found = inputs.read(good[number])
            if isinstance(found, np.ndarray):
                return _as_subject(found)
            assert inputs.how is not None
            return Subject(prepare(found, inputs.how)[0], found, _stretched(inputs.how))

        return cls(len(good), read, digest.hexdigest(), skipped)

    @classmethod
    def synthetic(cls, shape: tuple[int, ...], how: Preprocessing | None) -> Samples:
        """Inputs of this shape made of nothing: pictures like natural ones, or noise where they are no pictures."""
        taken = how or _like_pictures(shape, -2.0, 2.0)

        def read(number: int) -> Subject:
            rng = np.random.default_rng([_SEED, number])
            if taken is None:
                return Subject(rng.normal(size=(1, *shape)).astype(np.float32))
            picture = synthetic(rng, taken.size)
            return Subject(prepare(picture, _stretched(taken))[0], picture, _stretched(taken))

        return cls(_MOST // 4, read, f"synthetic {shape} {taken}", {})

    def training(self, count: int) -> Iterator[tuple[int, Array]]:
        """About so many variants of all inputs, each with the number of its half."""
        pools: list[deque[Image]] = [deque(maxlen=8) for _ in range(FOLDS)]
        for number in range(self.count):
            subject, pool = self._read(number), pools[number % FOLDS]
            yield number % FOLDS, subject.array
            for variant in range(1, math.ceil(count / self.count) if subject.picture else 1):
                rng = np.random.default_rng([_SEED, number, variant])
                other = pool[int(rng.integers(len(pool)))] if pool else None
                array, picture = subject.varied(other, rng)
                pool.append(picture)
                yield number % FOLDS, array

    def measuring(self, count: int) -> list[Array]:
        """About so many inputs, those of each half together: as the model takes them, and parts of pictures."""
        count = max(FEWEST, min(count, _MEMORY // (4 * math.prod(self.shape))))
        return [self._of_half(range(fold, self.count, FOLDS), math.ceil(count / FOLDS)) for fold in range(FOLDS)]

    def _of_half(self, numbers: Sequence[int], count: int) -> Array:
        found: list[Array] = []
        some = [numbers[place * len(numbers) // count] for place in range(count)] if len(numbers) > count else numbers
        for number in some:
            subject = self._read(number)
            found.append(subject.array)
            seeds = ([_SEED, number, variant, 1] for variant in range(1, math.ceil(count / len(some))))
            found += (subject.cropped(np.random.default_rng(seed)) for seed in seeds if subject.picture)
        return np.concatenate(found)


def _as_subject(array: Array) -> Subject:
    """An input, and a picture of 8 bits of it where it has the shape of one."""
    how = _like_pictures(array.shape[1:], float(array.min()), float(array.max()))
    if how is None:
        return Subject(array)
    from PIL import Image

    planes = array[0] if how.layout == "NHWC" else array[0].transpose(1, 2, 0)
    pixels = np.rint(planes / np.float32(how.scale[0]) + np.float32(how.mean[0])).clip(0, 255).astype(np.uint8)
    return Subject(array, Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()), how)


def _like_pictures(shape: tuple[int, ...], low: float, high: float) -> Preprocessing | None:
    """How pictures become inputs of this shape with numbers from `low` to `high`; None where it is not theirs."""
    if len(shape) != 3 or high <= low or abs(low) > 1e3 * (high - low):
        return None
    layout: Layout = "NHWC" if shape[2] in _ORDERS else "NCHW"
    channels, size = (shape[2], shape[:2]) if layout == "NHWC" else (shape[0], shape[1:])
    if channels not in _ORDERS or not all(_SMALLEST <= side <= MAX_SIDE for side in size):
        return None
    scale = (high - low) / 255
    return Preprocessing(
        mean=(-low / scale,),
        scale=(scale,),
        size=(size[0], size[1]),
        resize="stretch",
        layout=layout,
        order=_ORDERS[channels],
    )


def _stretched(how: Preprocessing) -> Preprocessing:
    """For pictures that are of the input's size already."""
    return msgspec.structs.replace(how, resize="stretch")
