"""Choosing a format by suffix, and what any format does with what is no model."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.support.model_files import contents, values
from wcodec.errors import CorruptFileError, UnsupportedError, UsageError
from wcodec.formats import FORMATS, format_of, read_model, write_model
from wcodec.model import Model

SUFFIXES = [suffix for file_format in FORMATS for suffix in file_format.suffixes]
WRITABLE = [suffix for file_format in FORMATS if file_format.writable for suffix in file_format.suffixes]


def small_model() -> Model:
    """A model that any format can hold."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    weight = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    weight.ClearField("raw_data")
    del graph.initializer[:]
    graph.initializer.append(weight)
    model = Model.from_arrays({"w": values("f32", (2,))})
    return Model(model.tensors, graph=helper.make_model(graph).SerializeToString())


def write_any(folder: Path, suffix: str) -> Path:
    """A sound file with a suffix, whether or not wcodec writes such files."""
    path = folder / f"model{suffix}"
    if suffix == ".safetensors.index.json":
        write_model(small_model(), folder / "shard.safetensors")
        path.write_text(json.dumps({"metadata": {}, "weight_map": {"w": "shard.safetensors"}}))
    else:
        write_model(small_model(), path)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_read_by_its_suffix(tmp_path: Path, suffix: str) -> None:
    path = write_any(tmp_path, suffix)
    loud = tmp_path / path.name.upper()
    loud.write_bytes(path.read_bytes())
    for same in (path, str(path), loud):
        with read_model(same) as model:
            assert contents(model) == contents(small_model())


def test_the_table_of_formats_is_sound() -> None:
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    assert SUFFIXES == [".safetensors", ".safetensors.index.json", ".pt", ".pth", ".bin", ".onnx", ".npz"]
    for file_format in FORMATS:
        module = importlib.import_module(f"wcodec.formats.{file_format.module}")
        assert callable(module.read)
        assert hasattr(module, "write") == file_format.writable


@pytest.mark.parametrize("name", ["model", "model.txt", "model.safetensors.txt", "npz", "model.json", ".gitignore"])
def test_unknown_suffixes_are_refused_with_the_known_ones(name: str) -> None:
    for attempt in (
        lambda: format_of(name),
        lambda: read_model(name),
        lambda: write_model(small_model(), name),
    ):
        with pytest.raises(UsageError, match=r"by its suffix; known are \.safetensors .*\.npz$"):
            attempt()


def test_what_is_only_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"only read; write \.safetensors instead"):
        write_model(small_model(), tmp_path / "model.safetensors.index.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("claimed", SUFFIXES)
@pytest.mark.parametrize("suffix", WRITABLE)
def test_contents_that_are_not_what_the_suffix_says_are_refused(tmp_path: Path, suffix: str, claimed: str) -> None:
    right, wrong = (next(f for f in FORMATS if s in f.suffixes) for s in (suffix, claimed))
    path = write_any(tmp_path, suffix).rename(tmp_path / f"other{claimed}")
    if right is wrong:
        read_model(path).close()
        return
    with pytest.raises(CorruptFileError) as caught:
        read_model(path)
    assert "\n" not in str(caught.value)
    if right.name != "ONNX":
        assert f"is a {right.name} file, not {wrong.name}; rename it" in str(caught.value)


def test_the_old_format_of_torch_is_recognized(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "m.npz", _use_new_zipfile_serialization=False)
    with pytest.raises(CorruptFileError, match="is a PyTorch file, not NumPy"):
        read_model(tmp_path / "m.npz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    with pytest.raises(UsageError, match="no such file"):
        read_model(path)
    path.mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        read_model(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(UsageError, match="not a regular file"):
        read_model(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "data", [b"", b"\0", bytes(1000), b"\xff" * 1000, b"<html>\n" * 100, b"PK\x03\x04" + bytes(60)]
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(data)
    with pytest.raises(CorruptFileError) as caught:
        read_model(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 1000


def test_a_model_without_tensors_is_refused(tmp_path: Path) -> None:
    for suffix in WRITABLE:
        with pytest.raises(UsageError, match="no tensors"):
            write_model(Model([], graph=b""), tmp_path / f"model{suffix}")
    (tmp_path / "m.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    np.savez(tmp_path / "m.npz")
    proto = onnx.ModelProto(ir_version=8)
    proto.graph.name = "g"
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    for name in ("m.safetensors", "m.npz", "m.onnx"):
        with pytest.raises(UnsupportedError, match="holds no tensors"):
            read_model(tmp_path / name)


def test_importing_the_formats_is_light() -> None:
    heavy = "torch", "onnx", "google.protobuf", "safetensors", "fsspec"
    script = (
        "import sys, wcodec.formats, wcodec.formats.torch, wcodec.formats.onnx, wcodec.formats.safetensors_index, "
        f"wcodec.formats.npz; print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
