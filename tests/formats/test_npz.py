"""NumPy's .npz files, against NumPy."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from tests.support.model_files import SHAPES, Contents, contents, contents_of, overwrite, read_contents, values
from wcodec.errors import CorruptFileError, InputError, UnsupportedError, UsageError
from wcodec.formats import npz as subject
from wcodec.model import Array, Model

DTYPES_OF_NUMPY = ("bool", "u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f16", "f32", "f64", "c64", "c128")

both_saves = pytest.mark.parametrize("save", [np.savez, np.savez_compressed])


def every_dtype() -> dict[str, Array]:
    return {f"{dtype}/{shape}": values(dtype, shape) for dtype in DTYPES_OF_NUMPY for shape in SHAPES}


def numpy_contents(path: Path) -> Contents:
    with np.load(path) as loaded:
        return contents_of(dict(loaded))


@both_saves
def test_every_dtype_and_shape_is_read(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "m.npz", **every_dtype())
    assert read_contents(subject.read, tmp_path / "m.npz") == contents_of(every_dtype())


def test_every_dtype_and_shape_is_written(tmp_path: Path) -> None:
    subject.write(Model.from_arrays(every_dtype()), tmp_path / "m.npz")
    assert numpy_contents(tmp_path / "m.npz") == contents_of(every_dtype())
    assert read_contents(subject.read, tmp_path / "m.npz") == contents_of(every_dtype())


@given(
    array=st_np.arrays(
        st.sampled_from([">i2", ">f4", ">f8", ">c8", "<i4", "u1", "?"]),
        st_np.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    ),
    fortran=st.booleans(),
    save=st.sampled_from([np.savez, np.savez_compressed]),
)
def test_any_byte_order_and_axis_order_is_read(
    tmp_path_factory: pytest.TempPathFactory, array: Array, fortran: bool, save: Callable[..., None]
) -> None:
    path = tmp_path_factory.mktemp("any") / "m.npz"
    save(path, w=array.copy(order="F" if fortran else "C"))
    little = array.astype(array.dtype.newbyteorder("<"))
    assert read_contents(subject.read, path) == contents_of({"w": little})


def npy(array: Array, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of version 2, which is seldom needed
        np.lib.format.write_array(stream, array, version)
    return stream.getvalue()


def zip_file(path: Path, *members: tuple[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of members with the same name
        for member, data in members:
            archive.writestr(member, data)
    return path


@pytest.mark.parametrize("version", [(2, 0), (3, 0)])
def test_later_versions_are_read(tmp_path: Path, version: tuple[int, int]) -> None:
    array = values("f32", (3, 4))
    path = zip_file(tmp_path / "m.npz", ("w.npy", npy(array, version)))
    assert read_contents(subject.read, path) == contents_of({"w": array})


def test_tied_tensors_are_written_in_full(tmp_path: Path) -> None:
    shared = values("f32", (3, 4))
    model = Model.from_arrays({"embed": shared, "bias": values("i8", (3,)), "head": shared})
    subject.write(model, tmp_path / "m.npz")
    assert numpy_contents(tmp_path / "m.npz") == contents(model)


def test_names_that_stay_inside_are_written(tmp_path: Path) -> None:
    names = ["a/b:0", "", "x.npy", "..a", "a..b/c..", "~", "w:0", "é ü", "a//b", "."]
    model = Model.from_arrays({name: values("u8", (2,), seed) for seed, name in enumerate(names)})
    subject.write(model, tmp_path / "m.npz")
    assert numpy_contents(tmp_path / "m.npz") == contents(model)
    assert read_contents(subject.read, tmp_path / "m.npz") == contents(model)


@pytest.mark.parametrize(
    "name", ["../x", "/abs", "a/../../x", "..", "a\\b", "..\\x", "a\0b", "C:/x", "lone \ud800", "n" * 65_530]
)
def test_names_that_would_leave_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="tensor '"):
        subject.write(Model.from_arrays({"fine": values("u8", (2,)), name: values("u8", (2,))}), tmp_path / "m.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "dtype", ["i4", "u4", "bf16", "f8_e4m3fn", "f8_e4m3fnuz", "f8_e5m2", "f8_e5m2fnuz", "f8_e8m0fnu"]
)
def test_dtypes_numpy_lacks_are_refused(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(UsageError, match=rf"'odd one'.*{dtype}; use \.safetensors"):
        subject.write(Model.from_arrays({"odd one": values(dtype, (2,))}), tmp_path / "m.npz")
    assert list(tmp_path.iterdir()) == []


def test_the_same_model_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject.write(Model.from_arrays(every_dtype()), tmp_path / "a.npz")
    monkeypatch.setattr("time.time", lambda: 2e9)
    subject.write(Model.from_arrays(every_dtype()), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


class Evil:
    """Unpickles by writing a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_pickled_objects_are_refused_and_do_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "was here"
    np.savez(tmp_path / "m.npz", fine=np.ones(2), evil=np.array([Evil(mark)], object))
    with pytest.raises(UnsupportedError, match=r"'evil'.*pickled objects"):
        subject.read(tmp_path / "m.npz")
    assert not mark.exists()
    with np.load(tmp_path / "m.npz", allow_pickle=True) as loaded:
        assert loaded["evil"] is not None
    assert mark.exists(), "the payload would have worked"


ODD_ARRAYS: dict[str, Array] = {
    "text": np.array(["a", "bc"]),
    "bytes": np.array([b"a", b"bc"]),
    "dates": np.array(["2020-01-01"], "datetime64[D]"),
    "fields": np.zeros(2, [("a", "f4"), ("b", "i2")]),
    "fields of one kind": np.zeros(2, [("é", "f4")]),
    "bfloat16 as NumPy saves it": np.zeros(2, ml_dtypes.bfloat16),
    "long double": np.zeros(2, np.longdouble),
}


@pytest.mark.parametrize(
    "descr", ["'!!'", "''", "'<'", "'f4'", "'<f4,<f4'", "'<f3'", "'|V2'", "['<f4']", "3", "('<f4', (2,))", "None"]
)
def test_other_descriptions_are_refused_by_name(tmp_path: Path, descr: str) -> None:
    path = zip_file(tmp_path / "m.npz", ("w.npy", header(described(descr))))
    with pytest.raises(UnsupportedError, match=r"'w': holds values of dtype .* only plain numbers are read"):
        subject.read(path)


@pytest.mark.parametrize("kind", ODD_ARRAYS)
def test_arrays_that_hold_no_plain_numbers_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of version 3, for field names
        zip_file(tmp_path / "m.npz", ("odd one.npy", npy(ODD_ARRAYS[kind])))
    with pytest.raises(UnsupportedError, match="'odd one'"):
        subject.read(tmp_path / "m.npz")


def header(text: str, data: bytes = bytes(4), version: int = 1, length: int | None = None) -> bytes:
    """An .npy file with any text as its header."""
    layout = "<H" if version == 1 else "<I"
    encoded = text.encode("latin-1")
    size = struct.pack(layout, len(encoded) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + encoded + data


def described(descr: str = "'|u1'", order: str = "False", shape: str = "(4,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


BAD_ARRAYS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is no .npy array"),
    "magic only": (b"\x93NUMPY\x01\x00", "is no .npy array"),
    "another magic": (b"\x93NUMPI" + npy(np.ones(2))[6:], "is no .npy array"),
    "header longer than the file": (header(described(), length=500), "header of 500 bytes"),
    "header of 4 GiB": (header(described(), version=2, length=2**32 - 1), "header of 4294967295 bytes"),
    "header too long": (header(described() + " " * 10_000, version=2), "header of 100"),
    "header with a huge number": (header(described(shape=f"({'9' * 5000},)")), "broken header"),
    "header of spaces": (header(" " * 100), "broken header"),
    "header that is no dict": (header("[1, 2]"), "broken header"),
    "header that calls": (header("__import__('os').system('true')"), "broken header"),
    "header nested without end": (header("(" * 9000), "broken header"),
    "header of zero bytes": (header("\0" * 50), "broken header"),
    "a key missing": (header("{'descr': '|u1', 'shape': (4,)}"), "broken header"),
    "a key too many": (header("{'descr': '|u1', 'fortran_order': False, 'shape': (4,), 'x': 1}"), "broken header"),
    "shape of text": (header(described(shape="('4',)")), "broken header"),
    "no shape": (header(described(shape="4")), "broken header"),
    "order is a number": (header(described(order="3")), "broken header"),
    "negative extent": (header(described(shape="(-4,)")), "negative"),
    "two negative extents": (header(described(shape="(-2, -2)")), "negative"),
    "overflow to 4": (header(described(shape="(4611686018427387904, 4, 1)")), "more elements"),
    "overflow behind a 0": (header(described(shape="(0, 4611686018427387904, 4)"), b""), "more elements"),
    "65 axes": (header(described(shape="(" + "1," * 64 + "4)")), "65 axes"),
    "more elements than bytes": (header(described(shape="(5,)")), "not what its dtype and shape need"),
    "fewer elements than bytes": (header(described(shape="(3,)")), "not what its dtype and shape need"),
    "a million million elements": (header(described(shape="(1000000, 1000000)")), "not what its dtype and shape need"),
}


@pytest.mark.parametrize("options", [{}, {"compression": zipfile.ZIP_DEFLATED}], ids=["stored", "deflated"])
@pytest.mark.parametrize("attack", BAD_ARRAYS)
def test_bad_arrays_are_refused_by_name(tmp_path: Path, attack: str, options: dict[str, Any]) -> None:
    data, message = BAD_ARRAYS[attack]
    with pytest.raises(CorruptFileError, match=rf"tensor 'w'.*{message}"):
        subject.read(zip_file(tmp_path / "m.npz", ("w.npy", data), **options))


def bomb(path: Path, size: int) -> None:
    """An honest array of zeros, deflated to a thousandth."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("w.npy", "w") as member:
        member.write(header(described(shape=f"({size},)"), b""))
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))


def nested_bomb(path: Path) -> None:
    """A zip file in a zip file in place of an array."""
    bomb(path, 1 << 20)
    zip_file(path, ("w.npy", path.read_bytes()), compression=zipfile.ZIP_DEFLATED)


def overlapping(path: Path) -> None:
    """Two names for the bytes of one array."""
    zip_file(path, ("a.npy", npy(values("u8", (100,)))), ("b.npy", npy(values("u8", (100,), 1))))
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x01\x02")
    data[start + 42 : start + 46] = bytes(4)
    path.write_bytes(data)


def wrong_size(path: Path, offset: int, size: int) -> None:
    """A deflated array whose size in the zip file's directory is a lie: field `offset` of it has `size`."""
    zip_file(path, ("w.npy", npy(np.zeros(5000, np.uint8))), compression=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x01\x02")
    data[start + offset : start + offset + 4] = struct.pack("<I", size)
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    zip_file(path, ("w.npy", npy(values("u8", (4,)))))
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


ARRAY = npy(values("u8", (4,)))

BAD_ZIPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: path.write_bytes(b""), "not a sound zip file"),
    "text": (lambda path: path.write_bytes(b"version https://git-lfs"), "not a sound zip file"),
    "a bare array": (lambda path: path.write_bytes(ARRAY), "not a sound zip file"),
    "another member": (lambda path: zip_file(path, ("w.npy", ARRAY), ("notes.txt", b"")), "'notes.txt' is no .npy"),
    "a name twice": (lambda path: zip_file(path, ("w.npy", ARRAY), ("w.npy", ARRAY)), "twice"),
    "a bomb": (lambda path: bomb(path, 1 << 27), "refused as a zip bomb"),
    "a bomb in an array's place": (nested_bomb, "is no .npy array"),
    "overlapping arrays": (overlapping, "shares bytes"),
    "claims to inflate to 4 GiB": (lambda path: wrong_size(path, 24, 2**32 - 2), "cannot hold"),
    "claims to have 4 GiB": (lambda path: wrong_size(path, 20, 2**32 - 2), "shares bytes"),
    "claims to inflate to less": (lambda path: wrong_size(path, 24, 1000), "inflates to more than the 1000"),
    "encrypted": (encrypted, "encrypted"),
    "another compression": (
        lambda path: zip_file(path, ("w.npy", ARRAY), compression=zipfile.ZIP_LZMA),
        "compressed by method 14",
    ),
}


@pytest.mark.parametrize("attack", BAD_ZIPS)
def test_bad_zip_files_are_refused(tmp_path: Path, attack: str) -> None:
    make, message = BAD_ZIPS[attack]
    make(tmp_path / "m.npz")
    with pytest.raises(InputError, match=message):
        subject.read(tmp_path / "m.npz")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (bytes(5001), "inflates to more than"),
        (bytes(4999), "instead of"),
        (b"\x01" + bytes(4999), "checksum"),
    ],
    ids=["more", "less", "other"],
)
def test_what_inflates_wrongly_is_noticed(tmp_path: Path, rest: bytes, message: str) -> None:
    """The directory tells the right size and checksum; the bytes are those of another array."""
    right = zip_file(tmp_path / "right", ("w.npy", npy(np.zeros(5000, np.uint8))), compression=zipfile.ZIP_DEFLATED)
    start = npy(np.zeros(5000, np.uint8))[:-5000]
    path = zip_file(tmp_path / "m.npz", ("w.npy", start + rest), compression=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    place, told = data.rindex(b"PK\x01\x02"), right.read_bytes()
    for field in (16, 24):
        value = told[told.rindex(b"PK\x01\x02") + field :][:4]
        data[place + field : place + field + 4] = value
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=message):
        read_contents(subject.read, path)


@both_saves
def test_every_truncation_is_noticed(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "m.npz", a=values("f32", (3, 2)), b=values("u8", (5,)))
    data = (tmp_path / "m.npz").read_bytes()
    for length in range(len(data)):
        overwrite(tmp_path / "m.npz", data[:length])
        with pytest.raises(InputError):
            subject.read(tmp_path / "m.npz")


@both_saves
def test_flipped_bytes_are_refused_or_change_values_only(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "m.npz", a=values("f32", (3, 2)), b=np.asfortranarray(values("u8", (2, 3))))
    data = (tmp_path / "m.npz").read_bytes()
    outcomes = set()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        overwrite(tmp_path / "m.npz", changed)
        try:
            read_contents(subject.read, tmp_path / "m.npz")
            outcomes.add("read")
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
