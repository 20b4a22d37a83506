"""One tensor through quantizer, tiling and coder, a chunk at a time, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wcodec.coders import Coder
from wcodec.coders.rans import Rans
from wcodec.coders.raw import Raw
from wcodec.engine import HOST, Engine
from wcodec.errors import CoderError, CorruptFileError
from wcodec.model import DTYPES, FLOATS, Array, QuantizedTensor, Tensor
from wcodec.recipe import Recipe
from wcodec.scales import Keep, Scales, Uniform, dequantize_rows, quantize_rows, read_rows
from wcodec.tiling import Flat, Rows, choose_tiling

_HALF_BYTES = {"i4": np.dtype(np.int8), "u4": np.dtype(np.uint8)}
"""Symbols of the 4-bit dtypes: NumPy's arithmetic does not know them, coders would not either."""

_PADDING = 1 << 16
"""Symbols that frames may hold beyond twice those of a chunk: what a small tensor in a least frame needs."""


def codec_of(quantized: QuantizedTensor, engine: Engine = HOST) -> TensorCodec:
    """The codec of a tensor that is quantized already; its coder is still to be chosen."""
    rows = Rows.of(quantized.symbols.shape)
    quantizer = Uniform(quantized.bits, quantized.zero_point is None, quantized.block, "mse")
    scales = Scales(rows, quantized.block, quantized.scale, quantized.zero_point)
    return TensorCodec(quantized.dtype, rows, Recipe(quantizer, Flat(), Raw()), scales, engine)


@dataclass(frozen=True)
class TensorCodec:
    """What it takes to code and decode the chunks of one tensor. `scales` is None where the quantizer is `Keep`.

    `engine` is what codes them if the coder is `rans`.
    """

    dtype: str
    rows: Rows
    recipe: Recipe
    scales: Scales | None
    engine: Engine = HOST

    @property
    def symbol_dtype(self) -> np.dtype[Any]:
        if isinstance(self.recipe.quantizer, Keep):
            return _HALF_BYTES.get(self.dtype, DTYPES[self.dtype])
        return self.recipe.quantizer.symbol_dtype

    @property
    def bits(self) -> int:
        """How many bits of a symbol carry information."""
        if isinstance(self.recipe.quantizer, Keep):
            return 4 if self.dtype in _HALF_BYTES else 8 * self.symbol_dtype.itemsize
        return self.recipe.quantizer.bits

    def check(self, chunk_rows: set[int]) -> None:
        """`CorruptFileError` unless a recipe from a file fits the tensor and its chunks of these many rows."""
        if isinstance(self.recipe.quantizer, Uniform) and self.dtype not in FLOATS:
            raise CorruptFileError("recipe", f"quantizes a tensor of {self.dtype}")
        if isinstance(self.recipe.quantizer, Keep) and not self.recipe.coder.lossless:
            raise CorruptFileError("recipe", "keeps a tensor by a lossy coder")
        if not self.recipe.coder.takes(self.symbol_dtype, self.bits):
            raise CorruptFileError("recipe", f"{self.recipe.coder.id} cannot hold symbols of {self.symbol_dtype}")
        for rows in chunk_rows:
            framed = math.prod(self.recipe.tiling.frames_shape(rows, self.rows.size))
            if framed > 2 * rows * self.rows.size + _PADDING:
                raise CorruptFileError("recipe", f"frames of {framed} symbols are far larger than the chunk they hold")

    def with_coder(self, coder: Coder) -> TensorCodec:
        """The same quantization, with another coder and the tiling that suits it."""
        tiling = choose_tiling(self.rows, coder.limits)
        return replace(self, recipe=Recipe(self.recipe.quantizer, tiling, coder))

    def read_symbols(self, tensor: Tensor, start: int, stop: int) -> Array:
        """Rows [start, stop) of the source as symbols, shape (stop - start, *row)."""
        values = read_rows(tensor, self.rows, start, stop)
        if isinstance(self.recipe.quantizer, Keep):
            return values.astype(self.symbol_dtype, copy=False)
        assert self.scales is not None
        return quantize_rows(values, self.recipe.quantizer, self.scales, start)

    def encode(self, symbols: Array) -> bytes:
        """A chunk's symbols to its bytes. Lossless coders are held to it: `CoderError` if the decode differs."""
        coder = self.recipe.coder
        frames = self.recipe.tiling.tile(symbols)
        payload = self.engine.encode(coder, frames) if isinstance(coder, Rans) else coder.encode(frames)
        if coder.lossless:
            decoded = np.empty_like(frames)
            self.decode_frames(payload, decoded)
            if not np.array_equal(decoded.view(np.uint8), frames.view(np.uint8)):
                raise CoderError(f"{coder.id} did not give back the symbols it was given; use another coder")
        return payload

    def decode_frames(self, payload: bytes | memoryview, frames: Array) -> None:
        """A chunk's bytes to its frames, in the tiling's shape."""
        if isinstance(self.recipe.coder, Rans):
            self.engine.decode(self.recipe.coder, payload, frames)
        else:
            self.recipe.coder.decode(payload, frames)

    def decode_symbols(self, payload: bytes | memoryview, rows: int, out: Array | None = None) -> Array:
        """A chunk's bytes to its symbols, shape (rows, *row), in `out` if it is given."""
        tiling = self.recipe.tiling
        shape = tiling.frames_shape(rows, self.rows.size)
        in_place = out is not None and tiling.in_place
        frames = out.reshape(shape) if out is not None and in_place else np.empty(shape, self.symbol_dtype)
        self.decode_frames(payload, frames)
        symbols = tiling.untile(frames, rows, self.rows.size).reshape(rows, *self.rows.trail)
        self._bound(symbols)
        if out is None:
            return symbols
        if not in_place:
            out[...] = symbols
        return out

    def _bound(self, symbols: Array) -> None:
        """Move what a lossy coder gave back into the range of symbols, and refuse what a lossless one did beyond."""
        ends = self._ends()
        if ends is None:
            return
        low, high = ends
        if not self.recipe.coder.lossless:
            np.clip(symbols, low, high, out=symbols)
            return
        numbers = symbols.view(np.uint8) if symbols.dtype == np.bool_ else symbols
        if numbers.min() < low or numbers.max() > high:
            raise CorruptFileError(f"{self.recipe.coder.id} payload", f"holds symbols beyond {low} to {high}")

    def symbol_range(self) -> tuple[int, int]:
        """The least and the greatest symbol, 0 for both where symbols are no integers of 8 or 16 bits."""
        if (ends := self._ends()) is not None:
            return ends
        if self.symbol_dtype.kind not in "iu" or self.symbol_dtype.itemsize > 2:
            return 0, 0
        return int(np.iinfo(self.symbol_dtype).min), int(np.iinfo(self.symbol_dtype).max)

    def _ends(self) -> tuple[int, int] | None:
        """The least and the greatest symbol, where the symbols' dtype goes further."""
        if isinstance(self.recipe.quantizer, Uniform):
            return self.recipe.quantizer.lowest, self.recipe.quantizer.highest
        return {"bool": (0, 1), "i4": (-8, 7), "u4": (0, 15)}.get(self.dtype)

    def decode(self, payload: bytes | memoryview, start: int, out: Array) -> None:
        """A chunk's bytes to numbers in `out`, C-contiguous, of the tensor's dtype and shape (rows, *row).

        `start` is the number of its first row. `CorruptFileError` where the bytes are not such a chunk.
        """
        if self.scales is not None:
            dequantize_rows(self.decode_symbols(payload, len(out)), self.scales, start, out)
        elif self.dtype in _HALF_BYTES:
            out[...] = self.decode_symbols(payload, len(out)).astype(out.dtype)
        else:
            self.decode_symbols(payload, len(out), out)


@contextmanager
def locating(where: str) -> Iterator[None]:
    """A `CorruptFileError` from within is told again with the place in the file that it concerns."""
    try:
        yield
    except CorruptFileError as error:
        raise CorruptFileError(where, f"{error.where}: {error.problem}") from error
