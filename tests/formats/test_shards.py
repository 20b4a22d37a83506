"""Models in several files: written whole or not at all, read where they are, never mixed up."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import pytest

from tests.support.attacks import Json, bounded, deep, extend, is_presentable, put
from tests.support.containers import dissect
from tests.support.http_server import serving
from wcodec.errors import CorruptFileError, InputError, OutputError, UnsupportedError, UsageError
from wcodec.formats.container import ContainerReader
from wcodec.formats.shards import ShardedReader, ShardedWriter, parse_shard_index, sharded_writer
from wcodec.formats.source import open_source

RECIPE = {"coder": {"id": "raw"}}
GRAPH = b"graph" * 50
FILES = [f"model-0000{number}-of-00003.wcodec" for number in (1, 2, 3)]
INDEX = "model.wcodec.index.json"


def fill(writer: ShardedWriter, salt: bytes = b"") -> None:
    """Five tensors of two chunks, or none."""
    for number in range(5):
        writer.add_side(b"side" + salt)
        for part in range(2):
            writer.add_chunk(bytes([number, part]) * 500, 2)
        writer.add_tensor(f"tensor {number}", "u8", (4, 9), row_axes=1, recipe=RECIPE)
    writer.add_tensor("empty", "u8", (0,), row_axes=1, recipe=RECIPE)
    writer.set_graph(GRAPH)


def write(path: Path, salt: bytes = b"", ties: dict[str, str] | None = None, error: Exception | None = None) -> None:
    with sharded_writer(path, limit=4000) as writer:
        fill(writer, salt)
        writer.finish(metadata={"a": "b"}, ties=ties or {"tied": "tensor 0"}, fidelity={"kl": 0.5})
        if error is not None:
            raise error


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds a model of three shards."""
    write(tmp_path / "model.wcodec")
    return tmp_path


def test_the_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [*FILES, INDEX]
    indexes = [dissect((folder / name).read_bytes()).index for name in FILES]
    assert [[entry[0] for entry in index["tensors"]] for index in indexes] == [
        ["tensor 0", "tensor 1"],
        ["tensor 2", "tensor 3"],
        ["tensor 4", "empty"],
    ]
    assert [index.keys() - {"tensors", "digest", "recipes"} for index in indexes] == [
        set(),
        set(),
        {"metadata", "graph", "fidelity"},
    ]
    assert json.loads((folder / INDEX).read_text()) == {
        "format": "wcodec",
        "version": 1,
        "shards": [
            {"file": name, "length": (folder / name).stat().st_size, "digest": index["digest"]}
            for name, index in zip(FILES, indexes, strict=True)
        ],
        "weight_map": {
            entry[0]: name for name, index in zip(FILES, indexes, strict=True) for entry in index["tensors"]
        },
        "ties": [["tied", "tensor 0"]],
    }


def test_the_same_calls_write_the_same_bytes(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write(folder / "model.wcodec")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(("limit", "shards"), [(1, 6), (3000, 3), (1 << 30, 1)])
def test_the_limit(tmp_path: Path, limit: int, shards: int) -> None:
    """A file ends with the tensor that reaches the limit; a set of one file is a set as well."""
    with sharded_writer(tmp_path / "model", limit) as writer:
        fill(writer)
        index = writer.finish()
    assert len(index.shards) == shards
    with ShardedReader(tmp_path / INDEX) as reader:
        assert reader.verify() == []
        graphs = [reader.container(shard.file).graph() for shard in index.shards]
        assert graphs == [None] * (shards - 1) + [GRAPH]


@pytest.fixture(params=["path", "memory", "http"])
def address(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """The model's index behind a path and behind URLs, in a folder that needs quoting."""
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    if request.param == "path":
        yield str(folder / INDEX)
    elif request.param == "memory":
        system = fsspec.filesystem("memory")
        system.store.clear()
        for name, data in contents.items():
            system.pipe(f"/a folder/{name}", data)
        yield f"memory://a folder/{INDEX}"
        system.store.clear()
    else:
        with serving() as server:
            server.files = {f"/a%20folder/{name}": data for name, data in contents.items()}
            yield f"{server.url}a%20folder/{INDEX}?token=secret"


def test_reading(address: str) -> None:
    with ShardedReader(address) as reader:
        assert [shard.file for shard in reader.index.shards] == FILES
        assert reader.index.ties == (("tied", "tensor 0"),)
        container = reader.container(reader.index.weight_map["tensor 3"])
        assert container is reader.container(FILES[1])
        entry = container.index.tensors[1]
        assert entry.name == "tensor 3"
        assert bytes(container.payload(entry.chunks[1], "")) == bytes([3, 1]) * 500
        last = reader.container(FILES[2])
        assert last.graph() == GRAPH
        assert last.index.metadata == {"a": "b"}
        assert msgspec.json.decode(last.index.fidelity) == {"kl": 0.5}
        done: list[int] = []
        assert reader.verify(done.append) == []
        assert sum(done) == reader.size == sum(shard.length for shard in reader.index.shards)


def test_shards_are_opened_when_needed(folder: Path) -> None:
    (folder / FILES[0]).unlink()
    with ShardedReader(folder / INDEX) as reader:
        assert reader.container(FILES[1]).verify() == []
        with pytest.raises(CorruptFileError, match=r"cannot be opened .*no such file.*; fetch it") as caught:
            reader.container(FILES[0])
        assert caught.value.where == FILES[0]


def test_every_shard_is_a_file_of_its_own(folder: Path) -> None:
    for name in FILES:
        with ContainerReader(open_source(folder / name)) as reader:
            assert reader.verify() == []


def test_verify_lists_damage_in_every_file(folder: Path) -> None:
    first = bytearray((folder / FILES[0]).read_bytes())
    first[64] ^= 1
    (folder / FILES[0]).write_bytes(first)
    (folder / FILES[1]).write_bytes((folder / FILES[1]).read_bytes()[:-1])
    (folder / FILES[2]).unlink()
    done: list[int] = []
    with ShardedReader(folder / INDEX) as reader:
        places = [getattr(problem, "where", None) for problem in reader.verify(done.append)]
        assert places == [f"{FILES[0]}: tensor 'tensor 0', side information", f"{FILES[1]}: trailer", FILES[2]]
        assert sum(done) == reader.size


def test_shards_in_each_others_place(folder: Path) -> None:
    (folder / FILES[0]).rename(folder / "x")
    (folder / FILES[1]).rename(folder / FILES[0])
    (folder / "x").rename(folder / FILES[1])
    with ShardedReader(folder / INDEX) as reader:
        for name in FILES[:2]:
            with pytest.raises(
                CorruptFileError, match=f"^{name}: index: is not the file that the JSON index describes"
            ):
                reader.container(name)


def test_shards_of_another_set(folder: Path, tmp_path: Path) -> None:
    """A set that was replaced in part: the names, sizes and tensors are right, the contents are not."""
    write(folder / "other.wcodec", salt=b"!")
    shutil.copy(folder / FILES[0].replace("model", "other"), folder / FILES[0])
    with ShardedReader(folder / INDEX) as reader, pytest.raises(CorruptFileError, match="fetch the set again"):
        reader.container(FILES[0])


@pytest.mark.parametrize(
    "change", [put("weight_map", "tensor 0", FILES[1]), put("weight_map", "more", FILES[0])], ids=["moved", "more"]
)
def test_a_map_that_lies(folder: Path, change: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))
    with ShardedReader(folder / INDEX) as reader, pytest.raises(CorruptFileError, match="tensors are not those"):
        reader.container(FILES[0])


def test_a_failed_write_leaves_nothing(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ZeroDivisionError):
        write(folder / "model.wcodec", salt=b"new", error=ZeroDivisionError())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_json_index_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[str] = []
    replace = os.replace

    def note(old: str, new: str) -> None:
        renamed.append(Path(new).name)
        replace(old, new)

    monkeypatch.setattr(os, "replace", note)
    write(tmp_path / "model.wcodec")
    assert renamed == [*FILES, INDEX]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for name in ("a:b", ".hidden", "a\\b", "n" * 235):
        with pytest.raises(UsageError, match="cannot name shards"), sharded_writer(tmp_path / name, 1):
            pytest.fail("the block ran")
    with pytest.raises(UsageError, match="a shard size of 0"), sharded_writer(tmp_path / "model", 0):
        pytest.fail("the block ran")
    with pytest.raises(OutputError, match="folder does not exist"), sharded_writer(tmp_path / "missing" / "model", 1):
        pytest.fail("the block ran")
    for ties in ({"x": "nothing"}, {"empty": "tensor 0"}, {"\ud800": "empty"}, {"": "empty"}):
        with pytest.raises(UsageError, match="cannot store"):
            write(tmp_path / "model", ties=ties)
    with sharded_writer(tmp_path / "model", 1) as writer:
        fill(writer)
        with pytest.raises(UsageError, match="same name"):
            fill(writer)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_index(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        ShardedReader(tmp_path / INDEX)
    (tmp_path / INDEX).write_bytes(b"")
    with pytest.raises(InputError):
        ShardedReader(tmp_path / INDEX)


SOUND_SHARDS: Json = {
    "format": "wcodec",
    "version": 1,
    "shards": [
        {"file": "m-00001-of-00002.wcodec", "length": 1000, "digest": "0" * 32},
        {"file": "m-00002-of-00002.wcodec", "length": 1000, "digest": "0" * 32},
    ],
    "weight_map": {"a": "m-00001-of-00002.wcodec", "b": "m-00002-of-00002.wcodec"},
    "ties": [["c", "a"]],
}

FILE_NAMES = [
    "../x.wcodec",
    "/etc/x.wcodec",
    "a/x.wcodec",
    "a\\x.wcodec",
    "C:x.wcodec",
    "..wcodec",
    ".wcodec",
    ".x.wcodec",
    "x\0.wcodec",
    "x\n.wcodec",
    "x.wcodec\n",
    "http://host/x.wcodec",
    "passwd",
    "",
    "x" * 249 + ".wcodec",
]

SHARD_ATTACKS: dict[str, tuple[Callable[[Json], None], str]] = {
    **{f"file {name!r}": (put("shards", 0, "file", name), "not the plain name") for name in FILE_NAMES},
    "another format": (put("format", "other"), "Invalid enum value"),
    "no format": (lambda index: index.pop("format"), "missing required field `format`"),
    "version that is a float": (put("version", 1.0), "got `float`"),
    "no shards": (put("shards", []), "no shards"),
    "a shard twice": (put("shards", 1, "file", "m-00001-of-00002.wcodec"), "a shard twice"),
    "negative length": (put("shards", 0, "length", -1), "Expected `int` >= 0"),
    "a file that is no shard": (put("weight_map", "a", "x.wcodec"), "not among the shards"),
    "a path for a tensor": (put("weight_map", "a", "../x.wcodec"), "not among the shards"),
    "a tie to nothing": (put("ties", 0, 1, "x"), "tied to 'x'"),
    "a tie called like a tensor": (put("ties", 0, 0, "b"), "same name"),
    "a tie twice": (extend("ties", ["c", "b"]), "same name"),
    "control characters": (put("weight_map", "\x1b[2J", "m-00001-of-00002.wcodec"), "control"),
    "no name": (put("weight_map", "", "m-00001-of-00002.wcodec"), "name has 0 bytes"),
    "an unknown member": (put("comment", "hello"), "unknown field `comment`"),
    "escape sequences in a member": (put("\x1b[2J\n" * 999, 1), r"unknown field `\?\[2J\?\?\[2J"),
    "a version of a thousand digits": (put("version", 10**1000), "Expected `int`|out of range"),
    "deep arrays": (lambda index: index.update(shards=json.loads(deep(b"[", b"]", 500))), "Expected"),
}


@pytest.mark.parametrize("attack", SHARD_ATTACKS)
def test_shard_index(attack: str) -> None:
    change, problem = SHARD_ATTACKS[attack]
    index = json.loads(json.dumps(SOUND_SHARDS))
    parse_shard_index(json.dumps(index).encode())
    change(index)
    with bounded(), pytest.raises(CorruptFileError, match=problem) as caught:
        parse_shard_index(json.dumps(index).encode())
    assert is_presentable(caught.value)


def test_a_newer_shard_index() -> None:
    newer = json.dumps({"format": "wcodec", "version": 2, "parts": []}).encode()
    with pytest.raises(UnsupportedError, match="version 2, this reader knows version 1"):
        parse_shard_index(newer)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff", deep(b"[", b"]"), deep(b'{"shards":', b"}"), bytes((1 << 26) + 1)],
    ids=["nothing", "a beginning", "no text", "deep arrays", "deep objects", "too many bytes"],
)
def test_what_is_no_shard_index(data: bytes) -> None:
    with bounded(), pytest.raises(CorruptFileError, match=r"^shard index: "):
        parse_shard_index(data)
