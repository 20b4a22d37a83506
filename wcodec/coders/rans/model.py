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

from wcodec.coders.rans.tables import PRECISION, STORED, Table, alias_table, table

LAGS = 8
"""How many symbols back a prediction reaches; 5 x 5 kernels have their upper neighbours within it."""

FRACTION = 6
"""Bits after the point of coefficients and predicted heights."""

MOST_CLASSES = 48

LIFT = 1 << 12
"""More than any prediction is below 0: 8 coefficients below 2, of heights below 256."""

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

    @property
    def log_size(self) -> int:
        return self.size.bit_length() - 1

    @property
    def log_phases(self) -> int:
        return self.phases.bit_length() - 1

    def scale_class(self) -> NDArray[np.int32]:
        """The class of every symbol, shape (rows, columns, period) or what broadcasts to it."""
        scales = self.row[:, None, None].astype(np.int32) + self.column[:, None] + self.position
        return np.clip(scales, 0, len(self.classes) - 1, out=scales)

    def entries(self, residuals: NDArray[np.int32]) -> NDArray[np.uint32]:
        """The table entries of residuals: those that a table does not hold are escaped."""
        # what is below the least becomes a large number
        shifted = (residuals + np.int32(self.half)).view(np.uint32)
        return np.minimum(shifted, np.uint32(self.escape), out=shifted)

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
        steps = heights @ matrix.T
        steps += self.middle
        whole = steps.astype(np.int32)
        phase = whole & np.int32(self.phases - 1)
        whole >>= self.log_phases
        whole -= np.int32(LIFT)
        return np.subtract(heights.astype(np.int32), whole, out=whole), phase

    @property
    def raised(self) -> int:
        """How far a table entry, or its sum with a lifted prediction, is above the height that it stands for."""
        return self.half + (0 if self.coefficients is None else LIFT)

    @property
    def middle(self) -> np.float32:
        """What predictions, as `lag_matrix` makes them, need to be lifted by `LIFT` and rounded where they are cut."""
        return np.float32(0.5 + self.phases // 2 + LIFT * self.phases)


class Predictor:
    """Predicts one height of many kernels at a time, from heights that are all raised by `Model.raised`.

    With heights so far off, a prediction is above 0 and rounding it is cutting it; floats are exact all the same, since
    no sum of 64ths has more than 24 bits. In the style of `words.Encoder`.
    """

    def __init__(self, model: Model, count: int) -> None:
        matrix = model.lag_matrix()
        assert matrix is not None
        self._matrix = matrix
        middles = model.middle - np.float32(model.raised) * matrix.sum(axis=1)
        self._middles = np.repeat(middles, count).reshape(-1, count)
        self._steps, self._whole, self._phase = np.empty(count, np.float32), *np.empty((2, count), np.int64)
        constants = np.array([model.phases - 1, PRECISION, model.log_phases], np.int64)
        self._mask, self._precision, self._shift = np.repeat(constants, count).reshape(3, count)
        self._one_phase = model.phases == 1

    def __call__(self, near: Floats, base: NDArray[np.int64]) -> NDArray[np.int64]:
        """Predicted heights, lifted, after the raised heights in the kernels so far; valid until the next call.

        `near` has shape (place in the kernel, kernels). Adds the slots of the tables before that of the phase to
        `base`.
        """
        steps, whole, phase = self._steps, self._whole, self._phase
        np.dot(self._matrix[len(near), : len(near)], near, steps)
        np.add(steps, self._middles[len(near)], steps)
        whole[...] = steps
        if not self._one_phase:
            np.bitwise_and(whole, self._mask, phase)
            np.left_shift(phase, self._precision, phase)
            np.add(base, phase, base)
            np.right_shift(whole, self._shift, whole)
        return whole
