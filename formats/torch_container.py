"""The two file formats of torch.save: where the pickle is, and where the storages are that it speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wcodec.errors import CorruptFileError, UnsupportedError
from wcodec.formats.cursor import Cursor
from wcodec.formats.source import FileSource
from wcodec.formats.torch_pickle import load
from wcodec.formats.torch_state import Storage, load_state
from wcodec.formats.zips import members, read_start

_PICKLE_LIMIT = 1 << 26
_OLD_MARK = 0x1950A86A20F9469CFC6C
_OLD_VERSION = 1001

Places = Mapping[str, tuple[int, int]]
"""Where each storage lies in the file: offset and length in bytes."""


def open_zip(source: FileSource) -> tuple[Any, Places]:
    """The value in a file of torch.save's zip format, and the places of its storages."""
    found = members(source)
    pickles = [name for name in found if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise CorruptFileError(source.name, "is a zip file without a data.pkl; this is not a file of torch.save")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in found:
        raise UnsupportedError(f"{source.name}: is a TorchScript program; save its state_dict() instead")
    for member in found.values():
        if member.deflated:
            raise CorruptFileError(member.where, "is compressed, which torch.save never does")
    order = found.get(f"{root}byteorder")
    if order is not None and read_start(source, order, 6) != b"little":
        raise UnsupportedError(f"{source.name}: was saved in big-endian byte order; save it on another machine")
    pickle = found[pickles[0]]
    if pickle.size > _PICKLE_LIMIT:
        raise CorruptFileError(pickle.where, f"has {pickle.size} bytes, more than the names of any model need")
    value, _ = load_state(Cursor(source, pickle.offset, pickle.offset + pickle.size, pickle.where))
    prefix = f"{root}data/"
    places = {
        name.removeprefix(prefix): (member.offset, member.size)
        for name, member in found.items()
        if name.startswith(prefix)
    }
    return value, places


def open_old(source: FileSource) -> tuple[Any, Places]:
    """The value in a file of the format before the zip format, and the places of its storages.

    Such a file is five pickles (a mark, a version, the machine, the value, the keys of the storages) and then the
    storages, each behind its number of elements.
    """
    where = f"{source.name}: pickle"
    cursor = Cursor(source, 0, min(source.size, _PICKLE_LIMIT), where)

    def plain() -> Any:
        return load(cursor, {}, _no_storage)

    if source.size == 0 or bytes(source.read(0, 1)) != b"\x80" or plain() != _OLD_MARK:
        raise CorruptFileError(source.name, "has no mark of torch.save; this is not a PyTorch file")
    if plain() != _OLD_VERSION:
        raise UnsupportedError(f"{source.name}: is of an unknown version of torch.save; load and save it with torch")
    machine = plain()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UnsupportedError(f"{source.name}: was saved in big-endian byte order; save it on another machine")
    value, storages = load_state(cursor)
    keys = plain()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CorruptFileError(where, "has no list of storages")
    return value, _old_places(source, cursor.position, keys, storages)


def _no_storage(_: Any) -> Any:
    raise TypeError("a storage where none can be")


def _old_places(source: FileSource, position: int, keys: list[str], storages: Mapping[str, Storage]) -> Places:
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        where = f"{source.name}: storage {key!r:.100}"
        if key not in storages or key in places:
            raise CorruptFileError(where, "is listed twice, or is of no tensor")
        count = int.from_bytes(source.read(position, 8), "little")
        length = count * storages[key].kind.itemsize
        position += 8
        if length > source.size - position:
            raise CorruptFileError(where, f"claims {count} elements, more than the file has")
        places[key] = (position, length)
        position += length
    if position != source.size:
        raise CorruptFileError(source.name, f"has {source.size} bytes, but its storages end at byte {position}")
    return places
