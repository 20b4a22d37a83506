"""ONNX files that are broken, or lead where they must not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.model_files import overwrite, read_contents
from tests.support.onnx_files import model_of, network, onnx_contents, saved, typed
from wcodec.errors import CorruptFileError, InputError, UnsupportedError, UsageError
from wcodec.formats import onnx as subject
from wcodec.model import Model, Tensor


def external(**entries: str) -> onnx.TensorProto:
    """A tensor of four bytes that points to a file."""
    proto = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        proto.external_data.add(key=key, value=value)
    return proto


BAD_REFERENCES: dict[str, tuple[dict[str, str], type[Exception], str]] = {
    "no location": ({}, CorruptFileError, "no path inside"),
    "empty": ({"location": ""}, CorruptFileError, "no path inside"),
    "absolute": ({"location": "/etc/passwd"}, CorruptFileError, "no path inside"),
    "parent": ({"location": "../secret"}, CorruptFileError, "no path inside"),
    "parent of a folder": ({"location": "sub/../../secret"}, CorruptFileError, "no path inside"),
    "backslashes": ({"location": "..\\secret"}, CorruptFileError, "no path inside"),
    "drive": ({"location": "C:secret"}, CorruptFileError, "no path inside"),
    "zero byte": ({"location": "data\0"}, CorruptFileError, "no path inside"),
    "link": ({"location": "link"}, CorruptFileError, "link that leads out"),
    "linked folder": ({"location": "away/secret"}, CorruptFileError, "link that leads out"),
    "itself as folder": ({"location": "m.onnx/x"}, CorruptFileError, "no such file"),
    "missing": ({"location": "nothing"}, CorruptFileError, "no such file"),
    "folder": ({"location": "sub"}, CorruptFileError, "is a directory"),
    "endless": ({"location": "a" * 10_000}, CorruptFileError, "cannot be opened"),
    "pipe": ({"location": "pipe"}, CorruptFileError, "not a regular file"),
    "too short": ({"location": "data", "offset": "1"}, CorruptFileError, "ends at byte 5"),
    "too long": ({"location": "data", "length": "5"}, CorruptFileError, "ends at byte 5"),
    "shorter than its shape": ({"location": "data", "length": "3"}, CorruptFileError, "has 3 bytes"),
    "huge offset": ({"location": "data", "offset": str(2**63)}, CorruptFileError, "ends at byte"),
    "endless offset": ({"location": "data", "offset": "9" * 5000}, CorruptFileError, "number of bytes"),
    "negative offset": ({"location": "data", "offset": "-4"}, CorruptFileError, "number of bytes"),
    "odd digits": ({"location": "data", "offset": "\u0663"}, CorruptFileError, "number of bytes"),
    "no digits": ({"location": "data", "length": ""}, CorruptFileError, "number of bytes"),
}


@pytest.mark.parametrize("attack", BAD_REFERENCES)
def test_references_out_of_the_folder_or_file_are_refused(tmp_path: Path, attack: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(4))
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "data").write_bytes(bytes(4))
    (folder / "link").symlink_to("../secret")
    (folder / "away").symlink_to("..")
    os.mkfifo(folder / "pipe")
    entries, error, message = BAD_REFERENCES[attack]
    path = saved(folder / "m.onnx", model_of(external(**entries)))
    with pytest.raises(error, match=message):
        subject.read(path)


def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"abcdef")
    (tmp_path / "link").symlink_to("data")
    path = saved(tmp_path / "m.onnx", model_of(external(location="link", offset="2")))
    assert read_contents(subject.read, path)["w"] == ("u8", (4,), b"cdef")


def tensor(**fields: Any) -> onnx.TensorProto:
    defaults: dict[str, Any] = {"name": "w", "data_type": TensorProto.UINT8, "dims": [4], "raw_data": bytes(4)}
    return TensorProto(**defaults | fields)


def constant_in_a_file() -> onnx.ModelProto:
    return model_of(nodes=(helper.make_node("Constant", [], ["c"], value=external(location="data")),))


def sparse_in_a_file() -> onnx.ModelProto:
    proto = model_of()
    proto.graph.sparse_initializer.add(values=external(location="data"), indices=tensor(), dims=[9])
    return proto


def function_in_a_file() -> onnx.ModelProto:
    proto = model_of()
    proto.functions.add(name="f", node=constant_in_a_file().graph.node)
    return proto


def training_in_a_file() -> onnx.ModelProto:
    proto = model_of()
    proto.training_info.add(algorithm=model_of(external(location="data")).graph)
    return proto


BAD_MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], type[Exception], str]] = {
    "no graph": (lambda: onnx.ModelProto(ir_version=8), CorruptFileError, "has no graph"),
    "a name twice": (lambda: model_of(tensor(), tensor()), CorruptFileError, "'w'.*twice"),
    "fewer bytes than the shape": (lambda: model_of(tensor(dims=[5])), CorruptFileError, "'w'.*has 4 bytes"),
    "more bytes than the shape": (lambda: model_of(tensor(dims=[3])), CorruptFileError, "'w'.*has 4 bytes"),
    "4 bits in too many bytes": (lambda: model_of(tensor(data_type=22)), CorruptFileError, "'w'.*has 4 bytes"),
    "negative extent": (lambda: model_of(tensor(dims=[-2, -2])), CorruptFileError, "'w'.*negative"),
    "overflow to 4": (lambda: model_of(tensor(dims=[2**62, 2, 2, 1])), CorruptFileError, "'w'.*more elements"),
    "100 axes": (lambda: model_of(tensor(dims=[1] * 99 + [4])), CorruptFileError, "'w'.*100 axes"),
    "no values": (
        lambda: model_of(TensorProto(name="w", data_type=1, dims=[2**40])),
        CorruptFileError,
        "'w'.*do not fit",
    ),
    "fewer values": (
        lambda: model_of(TensorProto(name="w", data_type=1, dims=[4], float_data=[1, 2])),
        CorruptFileError,
        "'w'.*do not fit",
    ),
    "values of another dtype": (
        lambda: model_of(TensorProto(name="w", data_type=1, dims=[2], int64_data=[1, 2])),
        CorruptFileError,
        "'w'.*do not fit",
    ),
    "no dtype": (lambda: model_of(tensor(data_type=0)), UnsupportedError, "'w'.*data type 0"),
    "unknown dtype": (lambda: model_of(tensor(data_type=99)), UnsupportedError, "'w'.*data type 99"),
    "4-bit float": (lambda: model_of(tensor(data_type=23, dims=[8])), UnsupportedError, "'w'.*data type 23"),
    "segment": (
        lambda: model_of(tensor(segment=TensorProto.Segment(begin=0, end=4))),
        UnsupportedError,
        "'w'.*segments",
    ),
    "constant in a file": (constant_in_a_file, UnsupportedError, "'w'.*no initializer"),
    "sparse tensor in a file": (sparse_in_a_file, UnsupportedError, "'w'.*no initializer"),
    "function's constant in a file": (function_in_a_file, UnsupportedError, "'w'.*no initializer"),
    "training's tensor in a file": (training_in_a_file, UnsupportedError, "'w'.*no initializer"),
}


@pytest.mark.parametrize("attack", BAD_MODELS)
def test_bad_models_are_refused(tmp_path: Path, attack: str) -> None:
    make, error, message = BAD_MODELS[attack]
    (tmp_path / "data").write_bytes(bytes(4))
    with pytest.raises(error, match=message):
        subject.read(saved(tmp_path / "m.onnx", make()))


def test_a_stored_graph_cannot_point_to_files(tmp_path: Path) -> None:
    for proto in (constant_in_a_file(), model_of(external(location="/etc/passwd"))):
        model = Model([Tensor.from_array("one", np.ones(1, np.float32))], graph=proto.SerializeToString())
        with pytest.raises(UnsupportedError, match="external file"):
            subject.write(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def field(number: int, body: bytes) -> bytes:
    """A protobuf field of bytes."""
    length, rest = bytearray(), len(body)
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    return bytes([number << 3 | 2, *length, rest]) + body


def nested_graphs(levels: int) -> bytes:
    """A model of a node with a graph of a node with a graph ..., in the shortest form."""
    body = b""
    for _ in range(levels):
        body = field(1, field(5, field(6, body)))
    return field(7, body)


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\n",
    "zeros": bytes(100),
    "field number 0": b"\x02\x00",
    "group": b"\x3b\x3c",
    "unknown wire type": b"\x3f\x00",
    "length beyond the file": b"\x3a\x05abc",
    "length of 64 bits": b"\x3a" + b"\xff" * 9 + b"\x01",
    "length without an end": b"\x3a" + b"\xff" * 11,
    "key cut short": b"\x08\x0a\x80",
    "number cut short": b"\x08",
    "fixed number cut short": b"\x09\x00\x00",
    "initializer beyond the graph": field(7, b"\x2a\x7fabc") + bytes(200),
    "bytes beyond the initializer": field(7, field(5, b"\x4a\x7fabc")) + bytes(200),
    "number across the end of the graph": b"\x3a\x02\x28\x80\x01",
    "fixed number across the end of the graph": b"\x3a\x02\x29\x00" + bytes(7),
    "name that is not UTF-8": field(7, field(5, field(8, b"\xff") + b"\x10\x01\x08\x00")),
    "location that is not UTF-8": field(
        7, field(5, b"\x10\x01\x70\x01" + field(13, field(1, b"k") + field(2, b"\xff")))
    ),
    "nested without end": nested_graphs(2000),
}


@pytest.mark.parametrize("attack", BROKEN)
def test_broken_messages_are_refused(tmp_path: Path, attack: str) -> None:
    (tmp_path / "m.onnx").write_bytes(BROKEN[attack])
    with pytest.raises(CorruptFileError):
        subject.read(tmp_path / "m.onnx")


def test_too_many_fields_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wcodec.formats.onnx_wire._MAX_FIELDS", 100)
    for message in (field(7, b"\x2a\x00" * 100), b"\x08\x00" * 101, field(7, field(5, b"\x10\x01" * 99))):
        (tmp_path / "m.onnx").write_bytes(message)
        with pytest.raises(CorruptFileError, match="more than 100 fields"):
            subject.read(tmp_path / "m.onnx")
    subject.read(saved(tmp_path / "m.onnx", network())).close()


def test_split_messages_are_merged_as_protobuf_does(tmp_path: Path) -> None:
    """A field that occurs twice is merged: the graph's lists are joined, the last of an initializer's bytes count."""
    first, second = model_of(), model_of(tensor())
    second.graph.ClearField("node")
    del second.graph.initializer[0]
    twice = field(5, tensor(raw_data=b"old!").SerializeToString() + field(9, b"new!"))
    more = field(7, twice.replace(b"\x42\x01w", b"\x42\x01v"))
    data = first.SerializeToString() + second.SerializeToString() + more
    (tmp_path / "m.onnx").write_bytes(data)
    expected = onnx_contents(onnx.ModelProto.FromString(data))
    assert expected["v"] == ("u8", (4,), b"new!")
    assert read_contents(subject.read, tmp_path / "m.onnx") == expected


def small_model() -> bytes:
    halves = typed(numpy_helper.from_array(np.arange(3, dtype=np.float16), "typed"))
    return model_of(tensor(), tensor(name="v", data_type=22, dims=[7]), halves).SerializeToString()


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    data = small_model()
    whole = onnx_contents(onnx.ModelProto.FromString(data))
    for length in range(len(data)):
        overwrite(tmp_path / "m.onnx", data[:length])
        try:
            found = read_contents(subject.read, tmp_path / "m.onnx")
        except CorruptFileError:
            continue
        # A cut between two fields of the model itself, behind its graph, leaves a sound message.
        assert found == whole
        assert length > data.index(b"typed")


def test_flipped_bytes_are_refused_or_change_values_only(tmp_path: Path) -> None:
    data = small_model()
    outcomes = set()
    for position in range(len(data)):
        for bit in range(0, 8, 3):
            changed = bytearray(data)
            changed[position] ^= 1 << (bit + position) % 8
            overwrite(tmp_path / "m.onnx", changed)
            try:
                read_contents(subject.read, tmp_path / "m.onnx")
                outcomes.add("read")
            except (InputError, UsageError):
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}
