"""Checkpoints of several safetensors files with a JSON index that tells which tensor is in which."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec

from wcodec.errors import CorruptFileError
from wcodec.formats import safetensors
from wcodec.formats.claims import place
from wcodec.formats.source import FileSource
from wcodec.model import Model, Tensor

_INDEX_LIMIT = safetensors.HEADER_LIMIT


class _Index(msgspec.Struct):
    weight_map: dict[str, str]
    metadata: dict[str, Any] = {}


def read(path: str | os.PathLike[str]) -> Model:
    """The model in the shards that an index names, in the order of the shards' names and of their bytes.

    Shards lie in the index's folder; one may be a link, as the model hubs' caches have them, but a name with a
    folder in it is refused. Raises `CorruptFileError` unless index and shards hold the same tensors.
    """
    name = os.fspath(path)
    weight_map = _read_index(path)
    tensors: list[Tensor] = []
    metadata: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for shard in sorted(set(weight_map.values())):
            model = _open_shard(name, Path(path).parent, shard)
            stack.callback(model.close)
            for tensor in model.tensors:
                if weight_map.pop(tensor.name, None) != shard:
                    raise CorruptFileError(place(name, tensor.name), f"is in {shard!r}, but not by this index")
            tensors += model.tensors
            metadata = model.metadata | metadata
        for missing, shard in weight_map.items():
            raise CorruptFileError(place(name, missing), f"is not in {shard!r}, where this index has it")
        close = stack.pop_all().close
    return Model(tensors, metadata=metadata, close=close)


def _read_index(path: str | os.PathLike[str]) -> dict[str, str]:
    with contextlib.closing(FileSource(path)) as source:
        if source.size > _INDEX_LIMIT:
            raise CorruptFileError(source.name, f"has more than the {_INDEX_LIMIT} bytes an index may have")
        data = source.read(0, source.size)
    try:
        return msgspec.json.decode(data, type=_Index).weight_map
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFileError(os.fspath(path), f"is not an index of safetensors files: {error}") from error


def _open_shard(index: str, folder: Path, shard: str) -> Model:
    if shard in ("", ".", "..") or any(character in shard for character in "/\\:\0"):
        raise CorruptFileError(index, f"names the shard {shard!r:.200}, which is not a plain file name")
    return safetensors.read(folder / shard)
