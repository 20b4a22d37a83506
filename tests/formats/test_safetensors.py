"""safetensors files, against the reference library."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.model_files import SHAPES, Contents, contents, contents_of, overwrite, read_contents, values
from tests.support.torch_files import tensor_of
from wcodec.errors import CorruptFileError, OutputError, UnsupportedError, UsageError
from wcodec.formats import safetensors as subject
from wcodec.formats import safetensors_index
from wcodec.model import Array, Model, Tensor


def reference_bytes(arrays: dict[str, Array], metadata: dict[str, str] | None = None) -> bytes:
    """The file the reference library writes."""
    return safetensors.torch.save({name: tensor_of(array) for name, array in arrays.items()}, metadata)


REFERENCE_NAMES = {
    "BOOL": "bool",
    "F8_E4M3": "f8_e4m3fn",
    "F8_E8M0": "f8_e8m0fnu",
    **{name: name.lower() for name in ("U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")},
    **{name: name.lower() for name in ("F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F16", "BF16", "F32", "F64", "C64")},
}


def reference_contents(data: bytes) -> Contents:
    """What the reference library finds in a file."""
    return {
        name: (REFERENCE_NAMES[tensor["dtype"]], tuple(tensor["shape"]), bytes(tensor["data"]))
        for name, tensor in safetensors.deserialize(data)
    }


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of a header (JSON text, or what to make it of) and data, sound or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def every_dtype() -> dict[str, Array]:
    return {f"{dtype}/{shape}": values(dtype, shape) for dtype in REFERENCE_NAMES.values() for shape in SHAPES}


def test_the_dtype_table_is_complete() -> None:
    assert dict(subject.DTYPE_NAMES) == REFERENCE_NAMES


def test_every_dtype_and_shape_of_the_reference_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(reference_bytes(every_dtype()))
    assert read_contents(subject.read, path) == contents_of(every_dtype())


def test_every_dtype_and_shape_is_written_for_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    subject.write(Model.from_arrays(every_dtype()), path)
    assert reference_contents(path.read_bytes()) == contents_of(every_dtype())


arrays_of_any_kind = st.dictionaries(
    st.text(max_size=12).filter(lambda name: name != "__metadata__"),
    st.builds(
        values,
        st.sampled_from(sorted(REFERENCE_NAMES.values())),
        st.lists(st.integers(0, 5), max_size=4),
        st.integers(0, 2**32),
    ),
    min_size=1,
    max_size=6,
)


@given(arrays=arrays_of_any_kind, metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=1))
def test_the_reference_and_this_module_read_each_other(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Array], metadata: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    theirs = reference_bytes(arrays, metadata or None)
    (folder / "theirs.safetensors").write_bytes(theirs)
    with subject.read(folder / "theirs.safetensors") as model:
        assert contents(model) == contents_of(arrays)
        assert model.metadata == metadata
        subject.write(model, folder / "again.safetensors")
    assert (folder / "again.safetensors").read_bytes() == theirs
    subject.write(Model.from_arrays(arrays, metadata=metadata), folder / "ours.safetensors")
    assert reference_contents((folder / "ours.safetensors").read_bytes()) == contents_of(arrays)


def test_written_bytes_are_these(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {"w": np.array([[1, -2]], np.int16), "é": np.array(True)}
    subject.write(Model.from_arrays(arrays, metadata={"by": "us"}), tmp_path / "m.safetensors")
    header = (
        '{"__metadata__":{"by":"us"},"w":{"dtype":"I16","shape":[1,2],"data_offsets":[0,4]},'
        '"é":{"dtype":"BOOL","shape":[],"data_offsets":[4,5]}}'
    ).encode()
    header += b" " * (-len(header) % 8)
    expected = struct.pack("<Q", len(header)) + header + bytes.fromhex("0100 feff 01")
    assert (tmp_path / "m.safetensors").read_bytes() == expected


def test_order_is_kept_unless_a_tensor_would_be_misaligned(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for size, expected in ((4, ["b", "a", "c"]), (5, ["a", "b", "c"])):
        arrays: dict[str, Array] = {"b": np.ones(size, np.int8), "a": np.ones(2, np.float32), "c": np.ones(1, np.int8)}
        subject.write(Model.from_arrays(arrays), path)
        with subject.read(path) as model:
            assert [tensor.name for tensor in model.tensors] == expected


def test_tied_tensors_are_written_in_full(tmp_path: Path) -> None:
    shared = values("f32", (3, 4))
    model = Model.from_arrays({"embed": shared, "bias": values("bf16", (3,)), "head": shared})
    assert model.ties == {"head": "embed"}
    subject.write(model, tmp_path / "m.safetensors")
    found = reference_contents((tmp_path / "m.safetensors").read_bytes())
    assert found == contents(model)
    assert found["head"] == found["embed"]


@pytest.mark.parametrize("dtype", ["i4", "u4", "c128"])
def test_dtypes_the_format_lacks_are_refused_and_nothing_is_written(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(UsageError, match=f"'odd one'.*{dtype}"):
        subject.write(Model.from_arrays({"odd one": values(dtype, (2,))}), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["__metadata__", "lone \ud800"])
def test_names_the_format_cannot_hold_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        subject.write(Model.from_arrays({name: values("u8", (2,))}), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")

    def fail(start: int, stop: int) -> Array:
        raise OSError("the disk went away")

    with pytest.raises(OutputError):
        subject.write(Model([Tensor("w", "u8", (3,), fail)]), path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


GOOD = entry("U8", [4], 0, 4)
HUGE = 2**63

HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "ends at byte 0"),
    "header longer than allowed": (file_of(b"{}", length=100_000_001), "claims 100000001 bytes"),
    "header of 2^64 - 1 bytes": (file_of(b"{}", length=2**64 - 1), "claims 18446744073709551615 bytes"),
    "header longer than the file": (file_of(b"{}", length=3), "ends at byte 10"),
    "header of no bytes": (file_of(b""), "begin with"),
    "space first": (file_of(b" {}"), "begin with"),
    "millions of strings": (file_of(b"{" + b'"":"",' * 2**19 + b'"":""}'), "more tensors than any model has"),
    "no JSON": (file_of(b'{"w":'), "cannot be understood"),
    "no object": (file_of(b"[]"), "begin with"),
    "nested without end": (file_of(b'{"w":' * 100_000), "cannot be understood"),
    "lists without end": (file_of(b"{" + b'"w":' + b"[" * 1_000_000), "cannot be understood"),
    "invalid UTF-8": (file_of(b'{"\xff":' + json.dumps(GOOD).encode() + b"}", bytes(4)), "cannot be understood"),
    "lone surrogate": (file_of(b'{"\\ud800":' + json.dumps(GOOD).encode() + b"}", bytes(4)), "cannot be understood"),
    "entry is a list": (file_of({"w": []}), "cannot be understood"),
    "entry lacks its shape": (file_of({"w": {"dtype": "U8", "data_offsets": [0, 4]}}, bytes(4)), "shape"),
    "entry has more": (file_of({"w": {**GOOD, "scale": 2}}, bytes(4)), "scale"),
    "metadata is no string map": (file_of({"__metadata__": {"a": 1}, "w": GOOD}, bytes(4)), "cannot be understood"),
    "metadata is null": (file_of({"__metadata__": None, "w": GOOD}, bytes(4)), "cannot be understood"),
    "negative extent": (file_of({"w": entry("U8", [-1, -4], 0, 4)}, bytes(4)), "cannot be understood"),
    "fractional extent": (file_of({"w": entry("U8", [4.0], 0, 4)}, bytes(4)), "cannot be understood"),  # type: ignore[list-item]
    "true as extent": (file_of({"w": entry("U8", [True, 4], 0, 4)}, bytes(4)), "cannot be understood"),
    "elements overflow 64 bits to 4": (file_of({"w": entry("U8", [HUGE, 2, 2, 1], 0, 4)}, bytes(4)), "more elements"),
    "elements overflow behind a 0": (file_of({"w": entry("U8", [0, HUGE, HUGE], 0, 0)}), "more elements"),
    "extent of 40 digits": (file_of({"w": entry("U8", [10**40], 0, 4)}, bytes(4)), "more elements"),
    "65 axes": (file_of({"w": entry("U8", [1] * 64 + [4], 0, 4)}, bytes(4)), "65 axes"),
    "negative offset": (file_of({"w": entry("U8", [4], -4, 0)}, bytes(4)), "cannot be understood"),
    "three offsets": (file_of({"w": {**GOOD, "data_offsets": [0, 2, 4]}}, bytes(4)), "cannot be understood"),
    "end before begin": (file_of({"w": entry("U8", [0], 4, 0)}, bytes(4)), "begins at byte 4"),
    "fewer bytes than the shape": (file_of({"w": entry("F32", [2], 0, 4)}, bytes(4)), "has 4 bytes"),
    "hole before": (file_of({"w": entry("U8", [4], 1, 5)}, bytes(5)), "begins at byte 1"),
    "hole between": (file_of({"v": entry("U8", [1], 5, 6), "w": GOOD}, bytes(6)), "begins at byte 5"),
    "hole after": (file_of({"w": GOOD}, bytes(5)), "tells of"),
    "overlap": (file_of({"v": entry("U8", [4], 2, 6), "w": GOOD}, bytes(6)), "begins at byte 2"),
    "the same bytes twice": (file_of({"v": GOOD, "w": GOOD}, bytes(4)), "begins at byte 0"),
    "data missing": (file_of({"w": GOOD}), "tells of"),
    "repeated name": (file_of(b'{"w":%s,"w":%s}' % ((json.dumps(GOOD).encode(),) * 2), bytes(4)), "twice"),
    "repeated name, once escaped": (
        file_of(b'{"w":%s,"\\u0077":%s}' % ((json.dumps(GOOD).encode(),) * 2), bytes(4)),
        "twice",
    ),
    "repeated metadata": (
        file_of(b'{"__metadata__":{},"__metadata__":{"a":"b"},"w":%s}' % json.dumps(GOOD).encode(), bytes(4)),
        "twice",
    ),
    "repeated key of metadata": (
        file_of(b'{"__metadata__":{"a":"b","a":"c"},"w":%s}' % json.dumps(GOOD).encode(), bytes(4)),
        "twice",
    ),
    "repeated key of an entry": (
        file_of(b'{"w":{"dtype":"F64","dtype":"U8","shape":[4],"data_offsets":[0,4]}}', bytes(4)),
        "twice",
    ),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, attack: str) -> None:
    data, message = HOSTILE[attack]
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=message):
        subject.read(path)


def test_keys_that_only_look_repeated_are_fine(tmp_path: Path) -> None:
    arrays = {'"w":': values("u8", (2,)), "w\\": values("u8", (2,)), 'a":"b": {"c"': values("u8", (2,))}
    (tmp_path / "m.safetensors").write_bytes(reference_bytes(arrays, {"format": 'a":"b\\":', '"': ':":'}))
    assert read_contents(subject.read, tmp_path / "m.safetensors") == contents_of(arrays)


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2", "F128"])
def test_other_dtypes_are_refused_by_name(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(file_of({"w": entry(dtype, [4], 0, 2)}, bytes(2)))
    with pytest.raises(UnsupportedError, match=f"tensor 'w'.*{dtype}"):
        subject.read(tmp_path / "m.safetensors")


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    data = reference_bytes({"a": values("f32", (3, 2)), "b": values("u8", (5,)), "c": values("i64", ())})
    path = tmp_path / "m.safetensors"
    for length in range(len(data)):
        overwrite(path, data[:length])
        with pytest.raises(CorruptFileError):
            subject.read(path)


def test_a_file_cut_short_while_open_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(reference_bytes({"w": values("f32", (1000,))}))
    with subject.read(path) as model:
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CorruptFileError):
            model.tensors[0].array()


def write_shards(folder: Path) -> dict[str, Array]:
    """A checkpoint of two shards, its index as transformers writes it."""
    arrays = {name: values("bf16", (3, 5), seed) for seed, name in enumerate(("a", "b", "c"))}
    shards = {"model-00001-of-00002.safetensors": ("a", "c"), "model-00002-of-00002.safetensors": ("b",)}
    for shard, names in shards.items():
        (folder / shard).write_bytes(reference_bytes({name: arrays[name] for name in names}, {"format": "pt"}))
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    write_index(folder, weight_map)
    return arrays


def write_index(folder: Path, weight_map: object) -> Path:
    index = {"metadata": {"total_size": 90, "total_parameters": 45}, "weight_map": weight_map}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    return path


def test_shards_are_read_as_one_model(tmp_path: Path) -> None:
    arrays = write_shards(tmp_path)
    with safetensors_index.read(tmp_path / "model.safetensors.index.json") as model:
        assert contents(model) == contents_of(arrays)
        assert [tensor.name for tensor in model.tensors] == ["a", "c", "b"]
        assert model.metadata == {"format": "pt"}
    with pytest.raises(UsageError, match="closed"):
        model.tensors[2].array()


def test_shards_may_be_links(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    arrays = write_shards(tmp_path / "blobs")
    for blob in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / blob.name).symlink_to(f"../blobs/{blob.name}")
    path = tmp_path / "snapshot" / "model.safetensors.index.json"
    assert read_contents(safetensors_index.read, path) == contents_of(arrays)


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"

BAD_MAPS: dict[str, tuple[Any, type[Exception], str]] = {
    "parent": ({"a": f"../{FIRST}"}, CorruptFileError, "plain file name"),
    "absolute": ({"a": "/etc/passwd"}, CorruptFileError, "plain file name"),
    "folder": ({"a": f"sub/{FIRST}"}, CorruptFileError, "plain file name"),
    "backslash": ({"a": f"..\\{FIRST}"}, CorruptFileError, "plain file name"),
    "drive": ({"a": f"C:{FIRST}"}, CorruptFileError, "plain file name"),
    "dots": ({"a": ".."}, CorruptFileError, "plain file name"),
    "no name": ({"a": ""}, CorruptFileError, "plain file name"),
    "zero byte": ({"a": "a\0b"}, CorruptFileError, "plain file name"),
    "endless name": ({"a": "a" * 10_000}, UsageError, "cannot be opened"),
    "missing shard": ({"a": "elsewhere.safetensors"}, UsageError, "no such file"),
    "missing tensor": ({"a": FIRST, "c": FIRST, "b": SECOND, "d": SECOND}, CorruptFileError, "'d'.*is not in"),
    "unlisted tensor": ({"a": FIRST, "b": SECOND}, CorruptFileError, "'c'.*not by this index"),
    "tensor in the other shard": ({"a": FIRST, "c": SECOND, "b": SECOND}, CorruptFileError, "'c'"),
    "a number": ({"a": 1}, CorruptFileError, "is not an index"),
    "a list": ([], CorruptFileError, "is not an index"),
}


@pytest.mark.parametrize("attack", BAD_MAPS)
def test_bad_indexes_are_refused(tmp_path: Path, attack: str) -> None:
    write_shards(tmp_path)
    weight_map, error, message = BAD_MAPS[attack]
    with pytest.raises(error, match=message):
        safetensors_index.read(write_index(tmp_path, weight_map))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map":' * 50_000, "\xff"])
def test_indexes_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptFileError, match="is not an index"):
        safetensors_index.read(path)
