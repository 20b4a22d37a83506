"""Learning what errors of a model's weights do, from inputs and from made-up ones, and remembering it.

What was learnt is kept in the user's cache under a hash of the model's and the inputs' content, and so is what an
interruption leaves: the same calibration goes on where it was.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from wcodec.model import Array
from wcodec.opencl.cache import cache_root, key_of, remember, remembered
from wcodec.plan.matrix import Matrix
from wcodec.plan.network import Network
from wcodec.plan.samples import FOLDS, Samples
from wcodec.plan.sensitivity import Gradients, Moments
from wcodec.workers import Progress, ProgressCallback

_VERSION = b"calibration 1"

_KEPT = 4
"""Calibrations that stay in the cache."""

_FOLDER = "calibration"

_WORK = 1_500_000_000_000
"""Multiplications, forwards, that all passes together take."""

_FEWEST, _MOST = 64, 448
"""Passes, whatever one takes."""


@dataclass
class Calibration:
    """For each tensor the moments of both halves of the inputs, and those of inputs made of nothing if there are."""

    halves: list[dict[str, Moments]]
    prior: dict[str, Moments] | None

    def all_of(self, tensor: str) -> Moments:
        """Of all inputs."""
        first, *others = (half[tensor] for half in self.halves)
        return sum(others, first)


def passes_for(network: Network) -> int:
    """How many times one goes through a network and back."""
    return int(np.clip(_WORK // max(1, network.products), _FEWEST, _MOST))


def calibrated(
    network: Network,
    tensors: Collection[str],
    samples: Samples,
    prior: Samples | None,
    digest: str,
    progress: ProgressCallback | None,
) -> Calibration:
    """Learn from variants of all samples and, about half as many, of `prior`. `digest` tells the model from others."""
    count = passes_for(network)
    total = count + (count // 2 if prior is not None else 0)
    learnt = _Learnt(network, tensors, digest, total, progress)
    halves = learnt.from_samples(samples, count)
    if prior is None:
        return Calibration(halves, None)
    made = learnt.from_samples(prior, count // 2)
    return Calibration(halves, {name: Calibration(made, None).all_of(name) for name in tensors})


class _Learnt:
    """Passes over one network, of which results are remembered."""

    def __init__(
        self,
        network: Network,
        tensors: Collection[str],
        digest: str,
        total: int,
        progress: ProgressCallback | None,
    ) -> None:
        self._network, self._tensors, self._digest = network, sorted(tensors), digest
        self._total, self._progress = total, progress
        self._done = 0
        self._gradients: Gradients | None = None

    def from_samples(self, samples: Samples, count: int) -> list[dict[str, Moments]]:
        """The moments of both halves."""
        names = [name.encode() for name in self._tensors]
        key = key_of(_VERSION, self._digest.encode(), samples.key.encode(), str(count).encode(), *names)
        store = _Store(key, {name: self._network.matrices[name] for name in self._tensors})
        before, halves = store.load()
        done, number = before, 0
        try:
            for number, (half, array) in enumerate(self._batches(samples, count)):
                if number >= done:
                    self._add(half, array, halves, number)
                    done = number + 1
                self._tell(number)
        except KeyboardInterrupt:
            store.save(done, halves)
            raise
        if done > before:
            store.save(done, halves)
        self._done += number + 1
        return halves

    def _batches(self, samples: Samples, count: int) -> Iterator[tuple[int, Array]]:
        """Inputs of a half, as many at once as the network takes at least."""
        batch = self._network.batch
        waiting: list[list[Array]] = [[] for _ in range(FOLDS)]
        for half, array in samples.training(count):
            waiting[half].append(array)
            if len(waiting[half]) == batch:
                yield half, np.concatenate(waiting[half])
                waiting[half] = []

    def _add(self, half: int, array: Array, halves: Sequence[dict[str, Moments]], seed: int) -> None:
        if self._gradients is None:
            self._gradients = Gradients(self._network, self._tensors)
        self._gradients.add(array, halves[half], seed)

    def _tell(self, number: int) -> None:
        if self._progress is not None:
            self._progress(Progress("learning", min(self._done + number + 1, self._total), self._total))


class _Store:
    """Moments in the cache, a file for every tensor, each with the number of passes that all of them have."""

    _HEAD = struct.Struct("<QQQ")

    def __init__(self, key: str, matrices: dict[str, Matrix]) -> None:
        self._kind, self._matrices = f"{_FOLDER}/{key}", matrices

    def load(self) -> tuple[int, list[dict[str, Moments]]]:
        """How many passes were done, and their moments: none and empty ones unless all are there."""
        halves, done = self._empty(), set[int]()
        for name in self._matrices:
            stored = remembered(self._kind, key_of(name.encode()))
            both = [half[name] for half in halves]
            if stored is None or len(stored) != self._HEAD.size + sum(self._bytes(moments) for moments in both):
                return 0, self._empty()
            count, *counts = self._HEAD.unpack_from(stored)
            done.add(count)
            place = self._HEAD.size
            for moments, taken in zip(both, counts, strict=True):
                moments.count = taken
                for array in (*moments.columns, moments.rows):
                    array.reshape(-1)[:] = np.frombuffer(stored, "<f4", array.size, place)
                    place += array.nbytes
        return (done.pop(), halves) if len(done) == 1 else (0, self._empty())

    def save(self, done: int, halves: Sequence[dict[str, Moments]]) -> None:
        """Remember them, and forget the oldest of others."""
        root = cache_root()
        if root is not None:
            with suppress(OSError):
                others = sorted((root / _FOLDER).iterdir(), key=lambda folder: folder.stat().st_mtime)
                for folder in others[: -(_KEPT - 1)]:
                    shutil.rmtree(folder)
        for name in self._matrices:
            both = [half[name] for half in halves]
            arrays = [array for moments in both for array in (*moments.columns, moments.rows)]
            head = self._HEAD.pack(done, *(moments.count for moments in both))
            remember(self._kind, key_of(name.encode()), b"".join([head, *(array.tobytes() for array in arrays)]))

    def _empty(self) -> list[dict[str, Moments]]:
        return [{name: Moments.empty(matrix) for name, matrix in self._matrices.items()} for _ in range(FOLDS)]

    @staticmethod
    def _bytes(moments: Moments) -> int:
        return moments.rows.nbytes + sum(block.nbytes for block in moments.columns)
