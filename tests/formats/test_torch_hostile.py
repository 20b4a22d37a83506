"""PyTorch files that must neither run nor hang nor allocate, whatever they say."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.model_files import overwrite, read_contents
from tests.support.torch_files import (
    ORDERED_DICT,
    REBUILD,
    ZEROS,
    call,
    dict_of,
    name,
    number,
    old_file,
    saved,
    storage,
    tensor,
    text,
    torch_contents,
    tuple_of,
    zip_file,
)
from wcodec.errors import CorruptFileError, InputError, UnsupportedError
from wcodec.formats import torch as subject

both_formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])


class Evil:
    """Unpickles by running a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@both_formats
def test_commands_in_pickles_do_not_run(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "was here"
    path = saved(tmp_path / "m.pt", {"w": torch.ones(2), "evil": Evil(f"touch '{mark}'")}, zipped)
    with pytest.raises(UnsupportedError, match=r"holds pickled objects \(posix\.system\); only plain state dicts"):
        subject.read(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the payload would have worked"


@both_formats
def test_whole_modules_are_refused(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "m.pt", torch.nn.Linear(2, 2), zipped)
    with pytest.raises(UnsupportedError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict\(\)"):
        subject.read(path)


def test_a_plain_pickle_with_a_command_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(pickle.dumps(Evil(f"touch '{tmp_path}/was here'"), protocol=2))
    with pytest.raises(UnsupportedError, match="holds pickled objects"):
        subject.read(path)
    assert list(tmp_path.iterdir()) == [path]


def test_files_made_by_hand_are_as_torch_understands_them(tmp_path: Path) -> None:
    state = {"w": torch.zeros(4)}
    for path in (zip_file(tmp_path / "m.pt", dict_of(w=tensor())), old_file(tmp_path / "o.pt", dict_of(w=tensor()))):
        assert torch_contents(torch.load(path, weights_only=True)) == torch_contents(state)
        assert read_contents(subject.read, path) == torch_contents(state)


def nested(levels: int) -> bytes:
    """A tuple of twice the tuple of twice ...: tiny to hold, endless to hash, compare or print."""
    return number(1) + b"q\x00" + b"h\x00\x86q\x00" * levels


LOTS = 1 << 16
HUGE = 2**62

HOSTILE_PICKLES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no sound pickle"),
    "unknown instruction": (b"\xff", "unknown instruction"),
    "text protocol": (b"I1\n", "unknown instruction"),
    "instances by name": (b"(iposix\nsystem\n", "unknown instruction"),
    "objects by extension registry": (b"\x82\x01", "unknown instruction"),
    "text that ends beyond the file": (b"X" + struct.pack("<I", 2**32 - 1), "bytes are needed"),
    "text of negative length": (b"T" + struct.pack("<i", -5), "bytes are needed"),
    "text that is not UTF-8": (b"X" + struct.pack("<I", 1) + b"\xff", "no sound pickle"),
    "nothing to take from the memo": (b"h\x07", "no sound pickle"),
    "nothing to put into the memo": (b"q\x00", "no sound pickle"),
    "item without a dict": (number(1) + number(2) + number(3) + b"s", "not a dict"),
    "item for a list": (b"]" + number(2) + number(3) + b"s", "not a dict"),
    "item for a name": (ORDERED_DICT + number(2) + number(3) + b"s", "not a dict"),
    "key without a value": (b"}(" + number(1) + b"u", "not a dict"),
    "item for a dict's list": (b"}" + number(2) + b"a", "not a list"),
    "mark without an end": (b"(", "no sound pickle"),
    "end without a mark": (b"t", "no sound pickle"),
    "call of a number": (number(1) + b")R", "no sound pickle"),
    "call of a class": (call(name("torch", "Tensor"), number(10**12)), "no sound pickle"),
    "call with a list": (ORDERED_DICT + b"]R", "short tuple"),
    "call with too much": (call(ORDERED_DICT, *[b"N"] * 17), "short tuple"),
    "key that is a nested tuple": (b"}" + nested(64) + number(1) + b"s", "not a plain value"),
    "key that is a list": (b"}]" + number(1) + b"s", "not a plain value"),
    "key of a pair that is a nested tuple": (
        call(ORDERED_DICT, b"]" + tuple_of(nested(64), b"N") + b"a"),
        "not a plain value",
    ),
    "keys that all hash alike": (
        b"}(" + b"".join(number(index * (2**61 - 1)) + b"N" for index in range(1, 10_000)) + b"u",
        "huge number",
    ),
    "dicts of one list over and over": (
        b"](" + b"()t" * LOTS + b"eq\x00" + (ORDERED_DICT + b"h\x00\x85R") * LOTS,
        "no sound pickle",
    ),
    "dicts of one list of pairs over and over": (
        b"](" + b"NN\x86" * LOTS + b"eq\x00" + (ORDERED_DICT + b"h\x00\x85R") * LOTS,
        "over and over",
    ),
    "no storage": (call(REBUILD, *[b"N"] * 6), "no sound pickle"),
    "storage of a tuple": (nested(64) + b"Q", "not a storage"),
    "storage of something": (tuple_of(nested(64), *[b"N"] * 4) + b"Q", "not a storage"),
    "storage of a negative count": (storage(count=-4), "no sound pickle"),
    "storage of two sizes": (tuple_of(storage(count=4), storage(count=5)), "two kinds or sizes"),
    "storage of two kinds": (tuple_of(storage(), storage(kind="IntStorage")), "two kinds or sizes"),
    "negative offset": (dict_of(w=tensor(offset=-1)), "no sound pickle"),
    "negative extent": (dict_of(w=tensor(shape=(-1,))), "no sound pickle"),
    "negative stride": (dict_of(w=tensor(offset=3, strides=(-1,))), "no sound pickle"),
    "65 axes": (dict_of(w=tensor(shape=(1,) * 65, strides=(1,) * 65)), "short tuple"),
    "more strides than axes": (dict_of(w=tensor(strides=(1, 1))), "1 axes, but 2 strides"),
    "offset beyond the storage": (dict_of(w=tensor(offset=1)), "beyond its storage"),
    "shape beyond the storage": (dict_of(w=tensor(shape=(5,))), "beyond its storage"),
    "strides beyond the storage": (dict_of(w=tensor(shape=(2, 2), strides=(3, 1))), "beyond its storage"),
    "elements overflow 64 bits": (dict_of(w=tensor(shape=(HUGE, 4), strides=(0, 0))), "more elements"),
    "elements overflow behind a 0": (dict_of(w=tensor(shape=(0, HUGE, 4), strides=(0, 0, 0))), "more elements"),
    "one element as many": (dict_of(w=tensor(shape=(2**40,), strides=(0,))), "far more tensors"),
    "one storage as many": (
        b"}("
        + b"".join(text(str(index)) + tensor(shape=(2**20, 1 + index), strides=(0, 0)) for index in range(9))
        + b"u",
        "far more tensors",
    ),
    "storage the file lacks": (dict_of(w=tensor(key="1")), "does not have"),
    "storage outside of the folder": (dict_of(w=tensor(key="../data.pkl")), "does not have"),
    "storage shorter than claimed": (dict_of(w=tensor(count=2**40)), "the file has 16 bytes"),
    "storage longer than claimed": (dict_of(w=tensor(count=3, shape=(3,))), "the file has 16 bytes"),
    "tensors within tensors": (
        dict_of(
            w=call(
                name("torch._tensor", "_rebuild_from_type_v2"),
                name("torch._tensor", "_rebuild_from_type_v2"),
                name("torch", "Tensor"),
                b")",
                b"N",
            )
        ),
        "class of its own",
    ),
}


@pytest.mark.parametrize("attack", HOSTILE_PICKLES)
def test_hostile_pickles_are_refused(tmp_path: Path, attack: str) -> None:
    pickled, message = HOSTILE_PICKLES[attack]
    with pytest.raises(InputError, match=message):
        subject.read(zip_file(tmp_path / "m.pt", pickled))


def test_endless_pickles_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wcodec.formats.torch_pickle.MAX_STEPS", 1000)
    subject.read(zip_file(tmp_path / "m.pt", dict_of(w=tensor(), **{f"n{i}": tensor() for i in range(9)}))).close()
    with pytest.raises(CorruptFileError, match="more than 1000 pickle instructions"):
        subject.read(zip_file(tmp_path / "m.pt", b"}" * 1000))


SOUND = dict_of(w=tensor())

HOSTILE_ZIPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no pickle": (lambda path: zipfile.ZipFile(path, "w").close(), "without a data.pkl"),
    "a member twice": (lambda path: zip_file(path, SOUND, ("data/0", bytes(16))), "twice"),
    "compressed": (lambda path: zip_file(path, SOUND, compression=zipfile.ZIP_DEFLATED), "which torch.save never does"),
    "compressed by bzip2": (lambda path: zip_file(path, SOUND, compression=zipfile.ZIP_BZIP2), "by method 12"),
    "a bomb": (
        lambda path: zip_file(path, SOUND, storage=1 << 27, compression=zipfile.ZIP_DEFLATED),
        "refused as a zip bomb",
    ),
    "big-endian": (lambda path: zip_file(path, SOUND, ("byteorder", b"big")), "big-endian"),
    "zip of something else": (lambda path: zipfile.ZipFile(path, "w").writestr("a.npy", b""), "without a data.pkl"),
    "members at one place": (lambda path: patch_directory(path, b"data/0", 42, struct.pack("<I", 0)), "shares bytes"),
    "member beyond the end": (
        lambda path: patch_directory(path, b"data/0", 20, struct.pack("<II", 2**31, 2**31)),
        "shares bytes",
    ),
    "member where there is none": (
        lambda path: patch_directory(path, b"data/0", 42, struct.pack("<I", 150)),
        "shares bytes|has no header",
    ),
    "two sizes": (lambda path: patch_directory(path, b"data/0", 20, struct.pack("<II", 16, 2**31)), "cannot hold"),
    "encrypted": (lambda path: patch_directory(path, b"data/0", 8, b"\x01\x00"), "encrypted"),
}


def patch_directory(path: Path, member: bytes, offset: int, value: bytes) -> None:
    """Write a sound file and overwrite a field of a member's entry in its directory."""
    data = bytearray(zip_file(path, SOUND).read_bytes())
    start = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/" + member)) + offset
    data[start : start + len(value)] = value
    path.write_bytes(data)


@pytest.mark.parametrize("attack", HOSTILE_ZIPS)
def test_hostile_zip_files_are_refused(tmp_path: Path, attack: str) -> None:
    make, message = HOSTILE_ZIPS[attack]
    make(tmp_path / "m.pt")
    with pytest.raises(InputError, match=message):
        subject.read(tmp_path / "m.pt")


HOSTILE_OLD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "not a PyTorch file"),
    "text": (lambda path: path.write_bytes(b"version https://git-lfs"), "not a PyTorch file"),
    "another mark": (lambda path: old_file(path, SOUND, mark=5), "not a PyTorch file"),
    "big-endian": (lambda path: old_file(path, SOUND, little_endian=False), "big-endian"),
    "storage without data": (lambda path: old_file(path, SOUND, keys=[], data=b""), "does not have"),
    "storage twice": (lambda path: old_file(path, SOUND, keys=["0", "0"], data=ZEROS * 2), "listed twice"),
    "storage of no tensor": (lambda path: old_file(path, SOUND, keys=["0", "1"], data=ZEROS * 2), "of no tensor"),
    "keys are no list": (lambda path: old_file(path, SOUND, keys="0"), "no list of storages"),
    "keys are numbers": (lambda path: old_file(path, SOUND, keys=[0]), "no list of storages"),
    "huge count": (lambda path: old_file(path, SOUND, data=struct.pack("<q", 2**62) + bytes(16)), "more than the file"),
    "negative count": (
        lambda path: old_file(path, SOUND, data=struct.pack("<q", -4) + bytes(16)),
        "more than the file",
    ),
    "other count": (lambda path: old_file(path, SOUND, data=struct.pack("<q", 3) + bytes(12)), "the file has 12 bytes"),
    "more after the end": (lambda path: old_file(path, SOUND, data=ZEROS + b"more"), "its storages end at byte"),
    "storages in a tar file": (
        lambda path: path.write_bytes(b"storages" + bytes(249) + b"ustar\x0000" + bytes(760)),
        "not a PyTorch file",
    ),
}


@pytest.mark.parametrize("attack", HOSTILE_OLD)
def test_hostile_files_of_the_old_format_are_refused(tmp_path: Path, attack: str) -> None:
    make, message = HOSTILE_OLD[attack]
    make(tmp_path / "m.pt")
    with pytest.raises(InputError, match=message):
        subject.read(tmp_path / "m.pt")


def small_state() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(3.0), "b": torch.ones(2, 2).t(), "c": torch.ones(2, dtype=torch.bfloat16)}


@both_formats
def test_every_truncation_is_noticed(tmp_path: Path, zipped: bool) -> None:
    data = saved(tmp_path / "m.pt", small_state(), zipped).read_bytes()
    for length in range(0, len(data), 16 if zipped else 1):
        overwrite(tmp_path / "m.pt", data[:length])
        with pytest.raises(InputError):
            subject.read(tmp_path / "m.pt")


@both_formats
def test_flipped_bytes_are_refused_or_change_values_only(tmp_path: Path, zipped: bool) -> None:
    data = saved(tmp_path / "m.pt", small_state(), zipped).read_bytes()
    outcomes = set()
    for position in range(0, len(data), 5 if zipped else 1):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        overwrite(tmp_path / "m.pt", changed)
        try:
            read_contents(subject.read, tmp_path / "m.pt")
            outcomes.add("read")
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
