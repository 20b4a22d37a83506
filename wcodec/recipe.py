"""A recipe: how one tensor is quantized, tiled and coded. Stored in the file, and all that decoding needs."""

from __future__ import annotations

from typing import Any

import msgspec

from wcodec.coders import CODERS, Coder
from wcodec.errors import CorruptFileError, UnsupportedError
from wcodec.scales import Keep, Quantizer, Uniform
from wcodec.tiling import Flat, Grid, Tiling

_QUANTIZERS: dict[str, type[Keep] | type[Uniform]] = {"keep": Keep, "uniform": Uniform}
_TILINGS: dict[str, type[Flat] | type[Grid]] = {"flat": Flat, "grid": Grid}


class Recipe(msgspec.Struct, frozen=True):
    """One stage of each kind."""

    quantizer: Quantizer
    tiling: Tiling
    coder: Coder

    @property
    def lossless(self) -> bool:
        """Whether the decoded tensor is the original bit for bit."""
        return isinstance(self.quantizer, Keep) and self.coder.lossless

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON types, as the file's index holds it."""
        return {name: msgspec.to_builtins(getattr(self, name)) for name in ("quantizer", "tiling", "coder")}

    @classmethod
    def from_json(cls, stored: object, where: str) -> Recipe:
        """The recipe of an index; `where` is what an error says holds it.

        Raises `UnsupportedError` for a stage this version does not know, `CorruptFileError` for anything else
        that is not a recipe.
        """
        if not isinstance(stored, dict) or stored.keys() != {"quantizer", "tiling", "coder"}:
            raise CorruptFileError(where, "not a recipe of quantizer, tiling and coder")
        return cls(
            _stage(stored["quantizer"], "quantizer", _QUANTIZERS, where),
            _stage(stored["tiling"], "tiling", _TILINGS, where),
            _stage(stored["coder"], "coder", CODERS, where),
        )

    def __str__(self) -> str:
        return f"{self.quantizer.summary()}, {self.coder.summary()}"


def _stage(stored: object, kind: str, known: Any, where: str) -> Any:
    name = stored.get("id") if isinstance(stored, dict) else None
    if not isinstance(name, str):
        raise CorruptFileError(where, f"its {kind} has no id")
    if name not in known:
        raise UnsupportedError(f"{where}: unknown {kind} {name!r}; a newer wcodec may know it")
    try:
        return msgspec.convert(stored, known[name])
    except msgspec.ValidationError as error:
        raise CorruptFileError(where, f"its {kind} {name!r} is malformed: {error}") from error
