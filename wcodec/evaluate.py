"""How far a decoded model's outputs are from the original's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wcodec.errors import MismatchError
from wcodec.model import Array

_TOP = 5


@dataclass(frozen=True)
class Fidelity:
    """What two models' outputs for the same `inputs` have in common.

    `snr_db` is 10 log10 of the outputs' mean square over that of their difference; of several outputs, of the one where
    it is least. Of classifiers, `kl` is the mean Kullback-Leibler divergence of the decoded model's classes from the
    original's, in nats, `top1` the fraction of inputs that both give the same first class, `top5` that of inputs whose
    first class by the original is among the first five by the decoded. `accuracy` and `original_accuracy` are the
    fractions whose first class is the true one, where that is known. None stands for what there is not.
    """

    inputs: int
    snr_db: float
    kl: float | None = None
    top1: float | None = None
    top5: float | None = None
    accuracy: float | None = None
    original_accuracy: float | None = None


class Comparison:
    """Two models' outputs, added batch by batch."""

    def __init__(self) -> None:
        self._inputs = 0
        self._signal: list[float] = []
        self._noise: list[float] = []
        self._sums = np.zeros(5)
        self._classes, self._known = True, 0

    def add(self, original: Sequence[Array], decoded: Sequence[Array], truth: Sequence[int] | None = None) -> None:
        """Outputs for the same batch, whose length is their first axis; `truth` holds the true class of each input.

        `MismatchError` for outputs of other numbers and shapes.
        """
        shapes, others = ([array.shape for array in outputs] for outputs in (original, decoded))
        if shapes != others or not shapes or not all(shape and shape[0] == shapes[0][0] > 0 for shape in shapes):
            raise MismatchError(f"outputs of shapes {shapes} and {others} cannot be compared")
        self._inputs += shapes[0][0]
        self._signal, self._noise = self._signal or [0.0] * len(shapes), self._noise or [0.0] * len(shapes)
        for place, (before, after) in enumerate(zip(original, decoded, strict=True)):
            wide = before.astype(np.float64)
            self._signal[place] += float(np.square(wide).sum())
            self._noise[place] += float(np.square(wide - after).sum())
        self._classes = self._classes and is_classifier(original)
        if self._classes:
            self._add_classes(original[0].reshape(shapes[0][:2]), decoded[0].reshape(shapes[0][:2]), truth)
        elif truth is not None:
            raise MismatchError(f"outputs of shapes {shapes} are not of classes, of which inputs could have a true one")

    def result(self) -> Fidelity:
        """Of all that was added; `MismatchError` where that is nothing."""
        if not self._inputs:
            raise MismatchError("there are no outputs to compare")
        snr = min(map(decibels, self._signal, self._noise))
        if not self._classes:
            return Fidelity(self._inputs, snr)
        kl, top1, top5, right, right_before = (float(value) for value in self._sums / self._inputs)
        known = (right, right_before) if self._known == self._inputs else (None, None)
        return Fidelity(self._inputs, snr, kl, top1, top5, *known)

    def _add_classes(self, original: Array, decoded: Array, truth: Sequence[int] | None) -> None:
        p, q = (log_probabilities(scores) for scores in (original, decoded))
        first, other = p.argmax(1), q.argmax(1)
        ahead = (q > np.take_along_axis(q, first[:, None], 1)).sum(1)
        self._sums[0] += float((np.exp(p) * (p - q)).sum())
        self._sums[1] += int((first == other).sum())
        self._sums[2] += int((ahead < _TOP).sum())
        if truth is not None:
            self._sums[3] += int((other == np.asarray(truth)).sum())
            self._sums[4] += int((first == np.asarray(truth)).sum())
            self._known += len(original)


def fidelity(original: Array, decoded: Array) -> Fidelity:
    """Compare the outputs, such as logits of shape (inputs, classes), that a model and its decoded copy give."""
    comparison = Comparison()
    comparison.add([original], [decoded])
    return comparison.result()


def is_classifier(outputs: Sequence[Array]) -> bool:
    """Whether there is one output, of two or more numbers for each input, which axes of length 1 may follow."""
    shape = outputs[0].shape
    return len(outputs) == 1 and len(shape) >= 2 and shape[1] > 1 and all(length == 1 for length in shape[2:])


def log_probabilities(scores: Array) -> Array:
    """Logarithms of the probabilities of classes (n, classes), f64: by softmax, unless scores are probabilities."""
    wide = np.asarray(scores, np.float64)
    if are_probabilities(wide):
        return np.log(np.maximum(wide, np.finfo(np.float32).tiny))
    shifted = wide - wide.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def are_probabilities(scores: Array) -> bool:
    """Whether all scores of classes (n, classes) are none below 0 and add up to 1."""
    return bool((scores >= 0).all() and (np.abs(scores.sum(1) - 1) <= 1e-3).all())


def decibels(signal: float, noise: float) -> float:
    """10 log10 of a ratio of powers: infinite where there is no noise, minus infinite where there is nothing else."""
    if noise == 0:
        return math.inf
    ratio = signal / noise
    return 10 * math.log10(ratio) if ratio > 0 else -math.inf
