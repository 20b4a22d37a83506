"""Running a model from its archive: its graph lowered, its weights on an OpenCL device, its layers as kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wcodec.infer.engine import Engine

__all__ = ["Engine"]


def __getattr__(name: str) -> Any:
    """The engine, imported where it is asked for: the modules beside it are of use without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wcodec.infer.engine import Engine

    return Engine
