"""How much a model's outputs mind errors of its weights, learnt by going backwards through it for many inputs.

Errors dW of a weight change the outputs' divergence, or their squared error, by the mean over inputs of <dW, G> ** 2,
with G the gradient of the outputs weighed by a random vector whose covariance is what the measure makes of outputs:
diag(p) - p p^T for classes, which gives the Fisher information exactly, without drawing labels, and 1 for others. Over
the whole weight of a layer that is far too much to know. What is kept are two factors of it, as in K-FAC and Shampoo
(arXiv 1503.05671, 1802.09568): moments of columns, the mean of G^T G, and the mean squares of rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from wcodec.errors import UnsupportedError
from wcodec.evaluate import are_probabilities, is_classifier, log_probabilities
from wcodec.model import Array
from wcodec.plan.matrix import Matrix
from wcodec.plan.network import Network

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WIDEST = 4608
"""Columns that are told apart from each other: those of wider matrices fall into blocks of no more."""

_SKETCHED = 64
"""Rows from which on moments of columns are taken from so many random sums of rows, whose mean they are."""


@dataclass
class Moments:
    """Sums over `count` inputs, f32, of what a tensor's gradients tell of errors in its matrices.

    `columns` holds moments of shape (groups, columns, columns) for every block of columns, `rows` squares of shape
    (groups, rows).
    """

    columns: list[Array]
    rows: Array
    count: int = 0

    @classmethod
    def empty(cls, matrix: Matrix) -> Moments:
        sizes = [stop - start for start, stop in column_blocks(matrix.columns)]
        columns = [np.zeros((matrix.groups, size, size), np.float32) for size in sizes]
        return cls(columns, np.zeros((matrix.groups, matrix.rows), np.float32))

    def __add__(self, other: Moments) -> Moments:
        columns = [mine + theirs for mine, theirs in zip(self.columns, other.columns, strict=True)]
        return Moments(columns, self.rows + other.rows, self.count + other.count)

    def mixed(self, other: Moments, weight: float) -> Moments:
        """With those of other inputs added, which count `weight` times as much together as these."""
        share = np.float32(weight * self.count / max(1, other.count))
        if not share:
            return self
        columns = [mine + share * theirs for mine, theirs in zip(self.columns, other.columns, strict=True)]
        return Moments(columns, self.rows + share * other.rows, self.count)


def column_blocks(columns: int) -> list[tuple[int, int]]:
    """Ranges of columns, equally long, of no more than `WIDEST`."""
    count = math.ceil(columns / WIDEST)
    bounds = [columns * number // count for number in range(count + 1)]
    return list(pairwise(bounds))


class Gradients:
    """The gradients of a network's weights, one input at a time, or as few as it takes.

    `tensors` are those whose gradients are taken; each is one of the network's matrices.
    """

    def __init__(self, network: Network, tensors: Collection[str]) -> None:
        import torch

        self._matrices = {name: network.matrices[name] for name in tensors}
        self._leaves = {name: torch.tensor(network.weight(name), requires_grad=True) for name in tensors}
        self._executor = network.executor(network.batch, self._leaves)

    def add(self, array: Array, moments: Mapping[str, Moments], seed: int) -> None:
        """Add what inputs of shape (batch, ...) tell to the moments of every tensor.

        Directions of different inputs are drawn apart, so that the gradients of several can be taken together.
        Raises `UnsupportedError` where outputs do not change smoothly with weights.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        outputs = self._executor(torch.from_numpy(array))
        if not all(output.requires_grad for output in outputs):
            raise UnsupportedError("the model's outputs do not change smoothly with its weights; give a size or --bits")
        found = torch.autograd.grad(
            outputs, [*self._leaves.values()], _directions(outputs, generator), allow_unused=True
        )
        for name, gradient in zip(self._leaves, found, strict=True):
            if gradient is not None:
                _accumulate(moments[name], self._matrices[name], gradient, generator)
            moments[name].count += len(array)


def _directions(outputs: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Random vectors that outputs' gradients are weighed by, of the covariance that their measure gives them."""
    import torch

    signs = [torch.randint(0, 2, output.shape, generator=generator).to(output.dtype) * 2 - 1 for output in outputs]
    arrays = [output.detach() for output in outputs]
    if not is_classifier([array.numpy() for array in arrays]):
        # so that of several outputs each counts by its own size
        return [sign / array.square().mean().sqrt().clamp(min=1e-12) for sign, array in zip(signs, arrays, strict=True)]
    scores, sign = arrays[0].reshape(arrays[0].shape[:2]), signs[0].reshape(arrays[0].shape[:2])
    logarithms = torch.from_numpy(log_probabilities(scores.numpy()))
    share = logarithms.exp().to(scores.dtype)
    if are_probabilities(scores.numpy()):
        return [(sign / share.clamp(min=1e-30).sqrt()).reshape(outputs[0].shape)]
    weighed = share.sqrt() * sign
    return [(weighed - share * weighed.sum(1, keepdim=True)).reshape(outputs[0].shape)]


def _accumulate(moments: Moments, matrix: Matrix, gradient: Tensor, generator: torch.Generator) -> None:
    import torch

    turned = gradient.reshape(matrix.split).permute(matrix.order)
    rows = turned.reshape(matrix.groups, matrix.rows, matrix.columns)
    moments.rows += rows.square().sum(2).numpy()
    if matrix.rows > _SKETCHED:
        shape = (matrix.groups, _SKETCHED, matrix.rows)
        signs = torch.randint(0, 2, shape, generator=generator).to(rows.dtype) * 2 - 1
        rows = torch.bmm(signs, rows) / math.sqrt(_SKETCHED)
    for sums, (start, stop) in zip(moments.columns, column_blocks(matrix.columns), strict=True):
        block = rows[:, :, start:stop]
        torch.from_numpy(sums).baddbmm_(block.mT, block)
