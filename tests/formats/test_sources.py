"""Every way to read bytes, held to one behaviour; and what is fetched over the network, counted."""

from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
import pytest

from tests.golden import make_container as golden
from tests.support.http_server import Server, serving
from wcodec.errors import CorruptFileError, InputError, MissingDependencyError, UnsupportedError, UsageError
from wcodec.formats.container import TAIL_BYTES, ContainerReader, ContainerWriter
from wcodec.formats.source import ByteSource, BytesSource, FileSource, MmapSource, UrlSource, open_source

DATA = bytes(range(256)) * 100


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, empty before and after."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


class Forgetful(io.BytesIO):
    """A file object without a descriptor, as those of archives and networks are."""

    name = "forgetful"


@pytest.fixture(
    params=["mmap", "path", "file", "unbuffered", "object", "bytes", "bytearray", "array", "memory", "http"]
)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ByteSource]:
    """`DATA` behind every kind of source."""
    path = tmp_path / "data"
    path.write_bytes(DATA)
    kind = request.param
    opened: list[BinaryIO] = []
    if kind in ("file", "unbuffered"):
        opened.append(path.open("rb", buffering=0 if kind == "unbuffered" else -1))
    if kind == "memory":
        request.getfixturevalue("memory").pipe("/data", DATA)
    url = ""
    if kind == "http":
        server = request.getfixturevalue("server")
        server.files["/data"] = DATA
        url = server.url + "data"
    make: dict[str, Callable[[], ByteSource]] = {
        "mmap": lambda: MmapSource(path),
        "path": lambda: FileSource(path),
        "file": lambda: FileSource(opened[0]),
        "unbuffered": lambda: FileSource(opened[0]),
        "object": lambda: FileSource(Forgetful(DATA)),
        "bytes": lambda: BytesSource(DATA),
        "bytearray": lambda: BytesSource(bytearray(DATA)),
        "array": lambda: BytesSource(memoryview(DATA).cast("H")),
        "memory": lambda: UrlSource("memory://data"),
        "http": lambda: UrlSource(url),
    }
    source = make[kind]()
    yield source
    source.close()
    for file in opened:
        assert not file.closed
        file.close()


def test_reading(source: ByteSource) -> None:
    assert source.size == len(DATA)
    assert source.remote == isinstance(source, UrlSource)
    assert source.read(0, len(DATA)) == DATA
    for offset, length in ((0, 1), (100, 5000), (len(DATA) - 1, 1), (7, 0), (len(DATA), 0)):
        view = source.read(offset, length)
        assert isinstance(view, memoryview)
        assert view.nbytes == length
        assert view.format == "B"
        assert view == DATA[offset : offset + length]


@pytest.mark.parametrize(
    ("offset", "length"), [(0, len(DATA) + 1), (len(DATA), 1), (1 << 70, 1), (0, 1 << 70), (-1, 1), (5, -1)]
)
def test_reading_outside(source: ByteSource, offset: int, length: int) -> None:
    with pytest.raises(CorruptFileError, match=f"ends at byte {len(DATA)}") as caught:
        source.read(offset, length)
    assert caught.value.where == source.name


def test_reading_from_threads(source: ByteSource) -> None:
    places = [(number * 37 % 25_000, number % 600) for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        pieces = list(pool.map(lambda place: bytes(source.read(*place)), places))
    assert pieces == [DATA[offset : offset + length] for offset, length in places]


def test_release_changes_nothing(source: ByteSource) -> None:
    for offset, length in ((0, len(DATA)), (0, 0), (5000, 9000), (len(DATA), 0)):
        source.release(offset, length)
        assert source.read(0, len(DATA)) == DATA


def test_what_was_read_outlives_the_source(source: ByteSource) -> None:
    view = source.read(100, 1000)
    source.close()
    assert view == DATA[100:1100]
    with pytest.raises(UsageError, match="already closed"):
        source.read(0, 1)
    source.close()
    source.release(0, len(DATA))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell what is resident")
def test_release_gives_memory_back(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(bytes(32 << 20))

    def resident() -> int:
        """Bytes of this process's mapping of the file that are in memory."""
        maps = Path("/proc/self/smaps").read_text()
        return int(maps.partition(str(path))[2].partition("Rss:")[2].split()[0]) << 10

    source = MmapSource(path)
    assert not any(source.read(0, source.size)[::512])
    assert resident() > 16 << 20
    source.release(0, source.size)
    assert resident() < 1 << 20
    source.close()


@pytest.mark.parametrize("kind", [MmapSource, FileSource])
def test_an_empty_file(kind: type[MmapSource | FileSource], tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    source = kind(path)
    assert source.size == 0
    assert source.read(0, 0).nbytes == 0
    source.release(0, 0)
    source.close()


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (MmapSource, lambda path: path),
        (MmapSource, str),
        (UrlSource, lambda path: f"file://{path}"),
        (BytesSource, lambda path: path.read_bytes()),
        (BytesSource, lambda path: bytearray(path.read_bytes())),
        (BytesSource, lambda path: memoryview(path.read_bytes())),
        (FileSource, lambda path: io.BytesIO(path.read_bytes())),
        (FileSource, lambda path: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(path.read_bytes())))),
    ],
    ids=["path", "str", "url", "bytes", "bytearray", "memoryview", "BytesIO", "GzipFile"],
)
def test_open_source_and_the_reader_on_top(kind: type, make: Callable[[Path], Any]) -> None:
    target = make(golden.PATH)
    source = open_source(target)
    assert type(source) is kind
    with ContainerReader(source) as reader:
        assert reader.verify() == []
        assert reader.graph() == golden.GRAPH
    if hasattr(target, "close"):
        target.close()


def test_wrapped_files_are_read_through_their_wrapper(tmp_path: Path) -> None:
    """A GzipFile has a descriptor, that of the compressed file."""
    path = tmp_path / "data.gz"
    path.write_bytes(gzip.compress(DATA))
    with gzip.open(path) as file:
        assert FileSource(cast(BinaryIO, file)).read(1000, 1000) == DATA[1000:2000]


@pytest.mark.parametrize("kind", [MmapSource, FileSource])
def test_paths_that_cannot_be_read(kind: type[MmapSource | FileSource], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for path, problem in {
        tmp_path / "missing": "no such file",
        tmp_path / "file" / "below": "no such file",
        tmp_path / "a\0b": "cannot be opened",
        tmp_path / ("n" * 300): "cannot be opened",
        tmp_path: "is a directory",
        tmp_path / "pipe": "not a regular file",
        Path("/dev/null"): "not a regular file",
    }.items():
        with pytest.raises(UsageError, match=problem) as caught:
            kind(path)
        assert len(str(caught.value).splitlines()) == 1


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UsageError, match="cannot be opened: Permission denied"):
        MmapSource(tmp_path / "secret")


def test_files_that_do_not_seek(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe, pytest.raises(UsageError, match="not a seekable binary file"):
        FileSource(pipe)
    with golden.PATH.open(errors="replace") as text, pytest.raises(UsageError, match="not a seekable binary file"):
        FileSource(text)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not a seekable binary file"):
        FileSource(5)  # type: ignore[arg-type]


def test_a_file_that_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    source = FileSource(path)
    os.truncate(path, 1000)
    assert source.read(0, 1000) == DATA[:1000]
    with pytest.raises(CorruptFileError, match="ends at byte 1000 of 25600"):
        source.read(990, 20)
    source.close()


def test_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FileSource(golden.PATH)

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(InputError, match=r"cannot be read: .*Input/output error"):
        source.read(0, 1)
    source.close()


def large_file(tensors: int, chunk: int) -> bytes:
    """A file of two chunks of random bytes a tensor."""
    stream = io.BytesIO()
    writer = ContainerWriter(stream)
    for number in range(tensors):
        writer.add_chunk(os.urandom(chunk), 1)
        writer.add_chunk(os.urandom(chunk), 1)
        writer.add_tensor(f"layer.{number}.weight", "u8", (2, 9), row_axes=1, recipe={})
    writer.finish()
    return stream.getvalue()


def test_opening_a_url_reads_the_tail_only(server: Server) -> None:
    server.files["/model"] = data = large_file(tensors=20, chunk=40_000)
    with ContainerReader(open_source(server.url + "model")) as reader:
        assert server.requests == [("HEAD", 0), ("GET", TAIL_BYTES)]
        assert len(reader.index.tensors) == 20
        server.requests.clear()
        first, second = reader.index.tensors[3].chunks
        assert reader.payload(first, "") == data[first.offset : first.offset + first.length]
        assert reader.payload(second, "") == data[second.offset : second.offset + second.length]
        assert server.requests == [("GET", 40_000), ("GET", 40_000)]
        server.requests.clear()
        assert reader.verify() == []
        assert len(server.requests) <= 42
        assert sum(sent for _, sent in server.requests) <= len(data)


def test_an_index_larger_than_the_tail_takes_one_more_read(server: Server) -> None:
    server.files["/model"] = data = large_file(tensors=3000, chunk=20)
    with ContainerReader(open_source(server.url + "model")) as reader:
        assert len(reader.index.tensors) == 3000
        assert [method for method, _ in server.requests] == ["HEAD", "GET", "GET"]
        assert TAIL_BYTES < sum(sent for _, sent in server.requests) < len(data) - 64 * 6000


def test_a_small_file_behind_a_url(server: Server) -> None:
    server.files["/model"] = golden.PATH.read_bytes()
    with ContainerReader(open_source(server.url + "model")) as reader:
        assert reader.verify() == []
    for cut in (0, 100, 600):
        server.files["/cut"] = golden.PATH.read_bytes()[:cut]
        with pytest.raises(CorruptFileError, match="cut short"):
            ContainerReader(open_source(server.url + "cut"))


def test_a_url_of_nothing(server: Server, memory: Any) -> None:
    with pytest.raises(UsageError, match="model: no such file"):
        UrlSource(server.url + "model")
    with pytest.raises(UsageError, match="no such file"):
        UrlSource("memory://nothing")
    memory.mkdir("/folder")
    with pytest.raises(UsageError, match="is a directory"):
        UrlSource("memory://folder")
    with pytest.raises(UsageError, match="Protocol not known"):
        UrlSource("nonsense://x")


def test_a_server_that_is_not_there(server: Server) -> None:
    server.files["/model"] = DATA
    source = UrlSource(server.url + "model")
    unused = Server()
    unused.server_close()
    with pytest.raises(InputError, match=r"cannot be read: .*; check the address and the network") as caught:
        UrlSource(unused.url + "model")
    assert caught.type is InputError
    assert len(str(caught.value).splitlines()) == 1
    server.files.clear()
    with pytest.raises(UsageError, match="no such file"):
        source.read(0, 5)


def test_a_server_without_ranges(server: Server) -> None:
    server.files["/model"] = DATA
    server.ranges = False
    source = UrlSource(server.url + "model")
    with pytest.raises(UnsupportedError, match="ignores range requests; download the file first"):
        source.read(0, 5)
    server.headers = {"Accept-Ranges": "none"}
    with pytest.raises(UnsupportedError, match="refuses range requests; download the file first"):
        UrlSource(server.url + "model")


def test_a_server_that_does_not_tell_the_size(server: Server) -> None:
    server.files["/model"] = DATA
    server.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(UnsupportedError, match="does not tell the size; download the file first"):
        UrlSource(server.url + "model")


def test_a_server_that_sends_too_little(server: Server) -> None:
    server.files["/model"] = DATA
    server.shortfall = 3
    with pytest.raises(CorruptFileError, match="ends at byte 17 of 25600"):
        UrlSource(server.url + "model").read(10, 10)


def test_secrets_stay_out_of_messages(server: Server, memory: Any) -> None:
    """Passwords and signatures, also where the backend's own message repeats them."""
    server.files["/fails"] = DATA
    server.status = 403
    host = server.url.partition("://")[2]
    for url in (f"http://me:hush@{host}fails?token=hush", f"http://{host}none?hush", "memory://me:hush@nothing?hush"):
        with pytest.raises((UsageError, InputError)) as caught:
            UrlSource(url)
        assert "hush" not in str(caught.value)
    with pytest.raises(InputError, match="403"):
        UrlSource(f"{server.url}fails")


@pytest.mark.parametrize(
    ("url", "extra"), [("https://host/x", "http"), ("s3://bucket/x", "s3"), ("simplecache::gs://bucket/x", "gs")]
)
def test_missing_backends_name_the_install_command(url: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError('install "something" first')

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(MissingDependencyError, match=re.escape(f'run: pip install "fsspec[{extra}]"')):
        UrlSource(url)


def test_fsspec_is_not_imported_for_files() -> None:
    code = "import sys, wcodec.formats.container; sys.exit('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
