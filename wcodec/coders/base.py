"""The contract of every coder: frames of symbols to bytes and back."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[Any]


class FrameLimits(NamedTuple):
    """The sides of frames a coder takes, in symbols: from `low` to `high`."""

    low: int
    high: int


class Coder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id"):
    """A way to turn frames into bytes. The fields of a coder are its parameters, stored in the recipe.

    `id` names one byte format for ever: a coder that writes other bytes is another coder. Instances hold no
    state; `encode` and `decode` may run in several threads at once and release the GIL for the heavy part.
    """

    limits: ClassVar[FrameLimits | None] = None
    """None where frames of any size do: a chunk is then one frame, its rows as they are."""

    @property
    def id(self) -> str:
        """The id stored in recipes."""
        tag = self.__struct_config__.tag
        assert isinstance(tag, str)
        return tag

    def summary(self) -> str:
        """A few words for people: the id, and what distinguishes one use of it from another."""
        return self.id

    @property
    def lossless(self) -> bool:
        """Whether `decode` gives back exactly what `encode` was given."""
        return True

    def takes(self, dtype: np.dtype[Any], bits: int) -> bool:
        """Whether symbols of this dtype, of which the low `bits` carry information, can be coded."""
        raise NotImplementedError

    def encode(self, frames: Frames) -> bytes:
        """Code `frames`, C-contiguous of shape (count, height, width) with at least one symbol.

        The same frames give the same bytes. Raises `CoderError` if a symbol does not fit the coder.
        """
        raise NotImplementedError

    def decode(self, payload: bytes | memoryview, out: Frames) -> None:
        """Fill `out`, C-contiguous with the dtype and shape that `encode` was given, from its bytes.

        The payload is not trusted: whatever it holds, memory beyond `out` stays bounded by the size of `out`,
        and anything but exactly these frames raises `CorruptFileError`.
        """
        raise NotImplementedError
