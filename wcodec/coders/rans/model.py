"""What is known of a chunk's symbols before they are decoded: their predicted value and the scale of what is left.

Symbols become levels of 8 bits (less an origin, less their lowest bits where they are wider), levels become residuals:

    height    = level - center(row)
    predicted = sum over lags 1 to min(position, 8) of coefficient(position, lag) * height(lag symbols before) / 64
    residual  = height - predicted, rounded; what rounding left out picks one of `phases` tables
    class     = row scale + column scale + position scale, in quarters of an octave, between 0 and `classes` - 1

A kernel is `period` symbols that follow each other, such as the 3 x 3 weights between one input and one output channel;
`position` is a symbol's place in its kernel and `column` the kernel's place in its row. Neighbours in a kernel are
alike (in VGG16's last blocks their correlation is 0.7 to 0.9), so that what a lane has decoded of the kernel says more
about the next symbol than any magnitude does. All is integers: encoder and decoders agree on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wcodec.coders.rans.tables import STORED, Table, alias_table, table

LAGS = 8
"""How many symbols back a prediction reaches; 5 x 5 kernels have their upper neighbours within it."""

FRACTION = 6
"""Bits after the point of coefficients and predicted heights."""

MOST_CLASSES = 48

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Model:
    """The side information of a chunk of `rows` rows of `columns` kernels of `period` symbols."""

    size: int
    """Entries of a table: a power of two from 8 to 256."""
    phases: int
    """1, 2, 4 or 8."""
    origin: int
    low: int
    """symbol = origin + (level * 2^low) + `low` bits that are stored as they are."""
    center: NDArray[np.uint8]
    """The middle level: one of all rows, or one a row."""
    row: NDArray[np.int8]
    column: NDArray[np.int8]
    """One a kernel of a row, or a single 0 for all."""
    position: NDArray[np.int8]
    """Scales in quarters of an octave; one a row, column and place in a kernel."""
    coefficients: NDArray[np.int8] | None
    """Shape (period, LAGS): 64ths, lag 1 first; None where nothing is predicted."""
    classes: NDArray[np.uint8]
    """Shape (classes, 2): the scale and the shape, numbers of the family's, of each class's tables."""
    stored: NDArray[np.uint16]
    """Frequencies of the classes whose shape is `STORED`, in order: shape (such classes, phases, size)."""

    @property
    def half(self) -> int:
        """The largest residual a table holds."""
        return self.size // 2 - 1

    @property
    def escape(self) -> int:
        """The table entry after which the level follows in 8 bits."""
        return self.size - 1

    def scale_class(self) -> NDArray[np.int32]:
        """The class of every symbol, shape (rows, columns, period) or what broadcasts to it."""
        scales = self.row[:, None, None].astype(np.int32) + self.column[:, None] + self.position
        return np.clip(scales, 0, len(self.classes) - 1, out=scales)

    def tables(self) -> list[Table]:
        """The tables: those of a class's phases one after the other, then those of the next class."""
        stored, tables = iter(self.stored), list[Table]()
        for scale, shape in self.classes.tolist():
            if shape == STORED:
                tables += [alias_table(counts.astype(np.uint32)) for counts in next(stored)]
            else:
                tables += [table(shape, scale, phase, self.phases, self.size) for phase in range(self.phases)]
        return tables

    def lag_matrix(self) -> Floats | None:
        """Shape (period, period): entry (p, q) is what the height at q weighs in the prediction at p, in phases."""
        if self.coefficients is None:
            return None
        period = len(self.position)
        matrix = np.zeros((period, period), np.float32)
        for position in range(period):
            reach = min(position, LAGS)
            matrix[position, position - reach : position] = self.coefficients[position, :reach][::-1]
        return matrix * np.float32(self.phases / (1 << FRACTION))

    def residuals(self, heights: Floats) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Residuals and phases of heights of shape (rows, columns, period)."""
        matrix = self.lag_matrix()
        if matrix is None:
            return heights.astype(np.int32), np.full(heights.shape, self.phases // 2, np.int32)
        whole, phase = self.round_prediction(heights @ matrix.T)
        phases = np.zeros(heights.shape, np.int32) if phase is None else phase.astype(np.int32)
        return (heights - whole).astype(np.int32), phases

    def round_prediction(self, predicted: Floats) -> tuple[Floats, Floats | None]:
        """Predicted heights, as `lag_matrix` makes them, to whole heights and phases, None if all are 0."""
        steps = predicted
        steps += np.float32(0.5 + self.phases // 2)
        np.floor(steps, out=steps)
        if self.phases == 1:
            return steps, None
        whole = steps * np.float32(1 / self.phases)
        np.floor(whole, out=whole)
        steps -= whole * np.float32(self.phases)
        return whole, steps


class Predictor:
    """Predicts one height of many kernels at a time: the rows of `near` are positions, its columns kernels.

    Calling it with a position gives what `Model.round_prediction` does for it; valid until the next call.
    """

    def __init__(self, model: Model, near: Floats) -> None:
        self._near, self._matrix = near, model.lag_matrix()
        count = near.shape[1]
        self._steps, self._whole, self._phase = np.empty((3, count), np.float32)
        constants = np.array([0.5 + model.phases // 2, 1 / model.phases, model.phases], np.float32)
        self._middle, self._share, self._phases = np.repeat(constants, count).reshape(3, count)
        self._one_phase = model.phases == 1

    def __call__(self, position: int) -> tuple[Floats | None, Floats | None]:
        if self._matrix is None:
            return None, None
        steps, whole, phase = self._steps, self._whole, self._phase
        np.dot(self._matrix[position, :position], self._near[:position], steps)
        np.add(steps, self._middle, steps)
        np.floor(steps, steps)
        if self._one_phase:
            return steps, None
        np.multiply(steps, self._share, whole)
        np.floor(whole, whole)
        np.multiply(whole, self._phases, phase)
        return whole, np.subtract(steps, phase, phase)
