"""One tensor of an archive: what the index says of it, and its rows, decoded when asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from wcodec.coders.rans import Rans
from wcodec.engine import HOST, Engine
from wcodec.errors import AllocationError, CorruptFileError, MismatchError, UsageError
from wcodec.formats.container import ContainerReader, chunk_place, side_place
from wcodec.formats.index import Chunk, TensorEntry
from wcodec.model import BLOCK_BYTES, DTYPES, Array, Tensor
from wcodec.pipeline import TensorCodec, locating
from wcodec.recipe import Recipe
from wcodec.scales import Scales, Uniform
from wcodec.side import unpack_scales
from wcodec.tiling import Rows
from wcodec.workers import Runner


@dataclass(frozen=True)
class Piece:
    """A chunk in its place: its number and the first row it holds."""

    number: int
    start: int
    chunk: Chunk

    @property
    def stop(self) -> int:
        return self.start + self.chunk.rows


@dataclass(eq=False, repr=False)
class ArchivedTensor:
    """A tensor that is decoded on demand: `tensor[10:20]` for rows of its first axis, `tensor.array()` for all.

    `name` is the name it was asked by, which may be tied to another. `run` is how work over chunks is run.
    """

    name: str
    entry: TensorEntry
    container: ContainerReader
    find_recipe: Callable[[], Recipe]
    find_engine: Callable[[], Engine]
    run: Runner

    def __repr__(self) -> str:
        return f"<ArchivedTensor {self.name!r}, {self.dtype} of shape {self.shape}>"

    @property
    def dtype(self) -> str:
        """wcodec's name of the dtype."""
        return self.entry.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded tensor."""
        return self.size * DTYPES[self.dtype].itemsize

    @property
    def stored_bytes(self) -> int:
        """Bytes of the tensor's chunks and side information in the file."""
        side = self.entry.side.length if self.entry.side else 0
        return side + sum(chunk.length for chunk in self.entry.chunks)

    @property
    def rows(self) -> Rows:
        return Rows(self.entry.shape, self.entry.row_axes)

    @cached_property
    def recipe(self) -> Recipe:
        """How the tensor is stored. `UnsupportedError` where that needs a newer version."""
        return self.find_recipe()

    @cached_property
    def pieces(self) -> list[Piece]:
        """The tensor's chunks in order."""
        starts = accumulate((chunk.rows for chunk in self.entry.chunks), initial=0)
        return [Piece(n, start, chunk) for n, (start, chunk) in enumerate(zip(starts, self.entry.chunks, strict=False))]

    @cached_property
    def codec(self) -> TensorCodec:
        """The recipe with the tensor's scales, which are read from its side information."""
        engine = self.find_engine() if isinstance(self.recipe.coder, Rans) else HOST
        codec = TensorCodec(self.dtype, self.rows, self.recipe, self._scales(), engine)
        with locating(self.container.place(f"tensor {self.entry.name!r}")):
            codec.check({piece.chunk.rows for piece in self.pieces})
        return codec

    def _scales(self) -> Scales | None:
        where, quantizer, side = side_place(self.entry.name), self.recipe.quantizer, self.entry.side
        if (side is not None) != (isinstance(quantizer, Uniform) and bool(self.pieces)):
            raise CorruptFileError(self.container.place(where), "is missing, or there without a recipe that needs it")
        if side is None or not isinstance(quantizer, Uniform):
            return None
        payload = self.container.payload(side, where)
        with locating(self.container.place(where)):
            return unpack_scales(payload, quantizer, self.dtype, self.rows)

    def array(self, out: Array | None = None) -> Array:
        """The whole tensor, as a new array or in `out`, which must have its dtype and shape and be C-contiguous."""
        if out is None:
            out = self.empty(self.shape)
        self.check_fits(out)
        self._fill(0, self.rows.count, out)
        return out

    def __getitem__(self, key: object) -> Array:
        """A range of the first axis as a new array; only the chunks that hold it are read."""
        if not self.shape or not isinstance(key, slice):
            raise UsageError(f"tensor {self.name!r}: only ranges of a first axis can be read, as in tensor[10:20]")
        start, stop, step = key.indices(self.shape[0])
        if step != 1:
            raise UsageError(f"tensor {self.name!r}: a range of rows has step 1, not {step}")
        out = self.empty((max(0, stop - start), *self.shape[1:]))
        inner = math.prod(self.shape[1 : self.rows.axes])
        self._fill(start * inner, max(start, stop) * inner, out)
        return out

    def empty(self, shape: tuple[int, ...]) -> Array:
        """An array of the tensor's dtype, its values not set; `AllocationError` where memory does not suffice."""
        try:
            return np.empty(shape, DTYPES[self.dtype])
        except MemoryError as error:
            raise AllocationError(f"tensor {self.name!r}: {error}; read it in ranges of rows") from error

    def check_fits(self, out: Array) -> None:
        """`MismatchError` unless the tensor can be decoded into `out`."""
        dtype = DTYPES[self.dtype]
        if out.shape != self.shape or out.dtype != dtype:
            raise MismatchError(
                f"tensor {self.name!r} is {dtype} of shape {self.shape}, not {out.dtype} of shape {out.shape}"
            )
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise MismatchError(f"tensor {self.name!r}: the array to fill must be writable and C-contiguous")

    def decode_piece(self, piece: Piece, out: Array) -> None:
        """One chunk's numbers into `out`, C-contiguous of the tensor's dtype and shape (rows, *row)."""
        with self.reading(piece) as payload:
            self.codec.decode(payload, piece.start, out)

    def decode_frames(self, piece: Piece, out: Array) -> None:
        """One chunk's frames of symbols into `out`, of one axis: neither untiled nor held against their range."""
        shape = self.recipe.tiling.frames_shape(piece.chunk.rows, self.rows.size)
        with self.reading(piece) as payload:
            self.recipe.coder.decode(payload, out.reshape(shape))

    def symbols(self, rows: tuple[int, int]) -> Array:
        """The symbols of rows [start, stop), shape (stop - start, *row), whatever chunks hold them."""
        start, stop = rows
        out = np.empty((stop - start, *self.rows.trail), self.codec.symbol_dtype)
        for piece in self._touched(start, stop):
            with self.reading(piece) as payload:
                symbols = self.codec.decode_symbols(payload, piece.chunk.rows)
            begin, end = max(piece.start, start), min(piece.stop, stop)
            out[begin - start : end - start] = symbols[begin - piece.start : end - piece.start]
        return out

    @contextmanager
    def reading(self, piece: Piece) -> Iterator[memoryview]:
        """A chunk's payload, its checksum verified; damage that decoding it finds is told with its place."""
        where = chunk_place(self.entry.name, piece.number)
        payload = self.container.payload(piece.chunk, where)
        self.codec  # noqa: B018, what is wrong with it is not the chunk's
        with locating(self.container.place(where)):
            yield payload

    def as_tensor(self) -> Tensor:
        """The tensor as part of a model, decoded block by block while an exporter writes it."""
        chunk_elements = max((piece.chunk.rows for piece in self.pieces), default=1) * max(1, self.rows.size)
        together = max(1, BLOCK_BYTES // (DTYPES[self.dtype].itemsize * chunk_elements))
        return Tensor(self.name, self.dtype, self.shape, self._read_elements, step=together * chunk_elements)

    def _read_elements(self, start: int, stop: int) -> Array:
        size = max(1, self.rows.size)
        first, last = start // size, -(-stop // size)
        out = self.empty((last - first, *self.rows.trail))
        self._fill(first, last, out)
        for piece in self._touched(first, last):
            self.container.release(piece.chunk)
        return out.reshape(-1)[start - first * size : stop - first * size]

    def _fill(self, start: int, stop: int, out: Array) -> None:
        """Rows [start, stop) into `out`, C-contiguous."""
        target = out.reshape(stop - start, *self.rows.trail)

        def decode(piece: Piece) -> None:
            begin, end = max(piece.start, start), min(piece.stop, stop)
            place = target[begin - start : end - start]
            if len(place) == piece.chunk.rows:
                self.decode_piece(piece, place)
            else:
                whole = np.empty((piece.chunk.rows, *self.rows.trail), out.dtype)
                self.decode_piece(piece, whole)
                place[...] = whole[begin - piece.start : end - piece.start]

        touched = self._touched(start, stop)
        if touched:
            self.codec  # noqa: B018, read once, before the threads all want it
        for _ in self.run(decode, touched):
            pass

    def _touched(self, start: int, stop: int) -> list[Piece]:
        return [piece for piece in self.pieces if piece.start < stop and piece.stop > start]
