"""Coders by id. An id names one byte format for ever; see formats/SPEC.md for each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from wcodec.coders.base import Coder
from wcodec.coders.floats import Floats
from wcodec.coders.rans import Rans
from wcodec.coders.raw import Raw
from wcodec.coders.video import VIDEO_CODERS
from wcodec.coders.zstd import Zstd

CODERS: Mapping[str, type[Coder]] = MappingProxyType(
    {"raw": Raw, "zstd": Zstd, "floats": Floats, "rans": Rans, **VIDEO_CODERS}
)

__all__ = ["CODERS", "Coder"]
