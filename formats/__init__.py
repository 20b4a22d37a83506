"""Files on disk: wcodec's own container, and the model files that importers read and exporters write."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Protocol, cast

from wcodec.errors import CorruptFileError, UnsupportedError, UsageError
from wcodec.formats.shards import is_archive
from wcodec.formats.source import FileSource
from wcodec.model import Model

__all__ = ["FORMATS", "Format", "format_of", "read_model", "write_model"]


@dataclass(frozen=True)
class Format:
    """A kind of model file: its suffixes, the module of this package that has `read` and, if writable, `write`, and
    whether its files hold a graph.
    """

    name: str
    suffixes: tuple[str, ...]
    module: str
    writable: bool = True
    has_graph: bool = False


FORMATS: tuple[Format, ...] = (
    Format("safetensors", (".safetensors",), "safetensors"),
    Format("safetensors shards", (".safetensors.index.json",), "safetensors_index", writable=False),
    Format("PyTorch", (".pt", ".pth", ".bin"), "torch"),
    Format("ONNX", (".onnx",), "onnx", has_graph=True),
    Format("NumPy", (".npz",), "npz"),
)


class _Module(Protocol):
    def read(self, path: str | os.PathLike[str]) -> Model: ...
    def write(self, model: Model, path: str | os.PathLike[str]) -> None: ...


def read_model(path: str | os.PathLike[str]) -> Model:
    """The model in a file of any of `FORMATS`, told by its suffix and checked against its first bytes.

    Raises `UsageError` for an unknown suffix or a missing file, `CorruptFileError` for a file that is damaged or of
    another format than its suffix says, `UnsupportedError` for one without tensors, and what the format's own
    `read` raises.
    """
    file_format = format_of(path)
    _check_content(path, file_format)
    model = _module(file_format).read(path)
    if not model.tensors:
        model.close()
        raise UnsupportedError(f"{os.fspath(path)}: holds no tensors; give a file with a model's weights")
    return model


def write_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model in the format its suffix names, whole or not at all.

    Raises `UsageError` for an unknown suffix or a model without tensors, and what the format's own `write` raises.
    """
    file_format = format_of(path)
    if not file_format.writable:
        raise UsageError(f"{os.fspath(path)}: {file_format.name} are only read; write .safetensors instead")
    if not model.tensors:
        raise UsageError(f"{os.fspath(path)}: the model has no tensors to write; check what it was read from")
    _module(file_format).write(model, path)


def format_of(path: str | os.PathLike[str]) -> Format:
    """The format that the suffix of a path names; `UsageError` if there is none."""
    name = os.fspath(path).lower()
    if name == "-" or "://" in name:
        raise UsageError(f"{os.fspath(path)}: model files are local files, not streams or URLs; give a path")
    if is_archive(name):
        raise UsageError(f"{os.fspath(path)}: is an archive, not a model file; transcode or decode it")
    for file_format in FORMATS:
        if name.endswith(file_format.suffixes):
            return file_format
    known = " ".join(suffix for file_format in FORMATS for suffix in file_format.suffixes)
    raise UsageError(f"{os.fspath(path)}: no known model file by its suffix; known are {known}")


def _module(file_format: Format) -> _Module:
    return cast(_Module, importlib.import_module(f"{__name__}.{file_format.module}"))


def _check_content(path: str | os.PathLike[str], file_format: Format) -> None:
    source = FileSource(path)
    try:
        found = _sniff(bytes(source.read(0, min(source.size, 512))))
    finally:
        source.close()
    if found not in (None, file_format.name):
        raise CorruptFileError(os.fspath(path), f"is a {found} file, not {file_format.name}; rename it to what it is")


def _sniff(start: bytes) -> str | None:
    """The name of the format that a file surely has by its first bytes; None if these do not tell."""
    if start.startswith(b"PK\x03\x04"):
        name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
        return "NumPy" if name.endswith(b".npy") else "PyTorch" if name.endswith(b"/data.pkl") else None
    if start.startswith(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."):
        return "PyTorch"
    if start[8:10] in (b'{"', b"{}", b"{ ") and int.from_bytes(start[:8], "little") < 1 << 32:
        return "safetensors"
    return None
