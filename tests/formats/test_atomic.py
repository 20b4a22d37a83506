"""Files that appear whole or not at all, whatever ends the writing."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from wcodec.errors import OutputError, UsageError
from wcodec.formats.atomic import AtomicGroup, atomic_file

OLD, NEW = b"what stood there before", b"what is written now" * 1000


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file with old contents, alone in its folder."""
    path = tmp_path / "target"
    path.write_bytes(OLD)
    return path


def is_untouched(target: Path) -> bool:
    """Whether the target has its old contents and nothing else is in its folder."""
    return target.read_bytes() == OLD and list(target.parent.iterdir()) == [target]


def write_and_raise(target: Path, error: BaseException) -> None:
    with atomic_file(target) as stream:
        stream.write(NEW)
        raise error


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with atomic_file(path) as stream:
        stream.write(NEW)
        stream.flush()
        assert not path.exists()
        assert stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    assert path.read_bytes() == NEW
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_replaced_at_the_end(target: Path) -> None:
    with atomic_file(str(target)) as stream:
        stream.write(NEW)
        stream.flush()
        assert target.read_bytes() == OLD
    assert target.read_bytes() == NEW
    assert list(target.parent.iterdir()) == [target]


def test_all_is_on_disk_before_the_rename(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        state = os.fstat(descriptor)
        events.append("folder" if stat.S_ISDIR(state.st_mode) else f"{state.st_size} bytes")
        sync(descriptor)

    def note_replace(old: str, new: str) -> None:
        events.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    with atomic_file(target) as stream:
        stream.write(NEW)
    assert events == [f"{len(NEW)} bytes", "rename", "folder"]


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), UsageError("x"), GeneratorExit()]
)
def test_exceptions_pass_and_leave_nothing(target: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        write_and_raise(target, error)
    assert caught.value is error
    assert is_untouched(target)


def test_a_failed_write_is_an_output_error(target: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OutputError, match=f"cannot write {target}: the disk is full; free some") as caught:
        write_and_raise(target, full)
    assert caught.value.__cause__ is full
    assert is_untouched(target)


def test_errors_about_other_files_are_not_the_targets(target: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(target):
        target.with_name("missing").open()
    assert is_untouched(target)


def test_a_sync_that_finds_the_disk_full(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full"), atomic_file(target) as stream:
        stream.write(NEW)
    assert is_untouched(target)


def test_a_rename_that_fails(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="Input/output error; choose another target"), atomic_file(target) as stream:
        stream.write(NEW)
    assert is_untouched(target)


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    for path, problem in {
        str(tmp_path / "missing" / "x"): "its folder does not exist; create it first",
        str(tmp_path / "file" / "x"): "its folder is not a folder",
        str(tmp_path): "it is a directory; give the name of a file",
        str(tmp_path / "new") + "/": "it is a directory; give the name of a file",
        "": "it is a directory; give the name of a file",
        str(tmp_path / "pipe"): "it is not a regular file",
        "/dev/null": "it is not a regular file",
        str(tmp_path / ("n" * 300)): "the name is too long",
        str(tmp_path / "loop"): "choose another target",
        str(tmp_path / "a\0b"): "choose another target",
    }.items():
        with pytest.raises(OutputError) as caught, atomic_file(path):
            pytest.fail("the block ran")
        assert str(caught.value).startswith(f"cannot write {path}: {problem}") or "another target" in problem
        assert len(str(caught.value).splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_target_that_may_not_be_written(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renaming over a file needs no permission on it; writing it does, and that is what the user asked for."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="permission denied; choose a target you may write"), atomic_file(target):
        pytest.fail("the block ran")
    assert is_untouched(target)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_new_files_have_the_permissions_of_plain_ones(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_file(tmp_path / "atomic"):
            pass
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_replaced_files_keep_their_permissions(target: Path, mode: int) -> None:
    target.chmod(mode)
    with atomic_file(target) as stream:
        stream.write(NEW)
    assert stat.S_IMODE(target.stat().st_mode) == mode


@pytest.mark.parametrize("exists", [True, False])
def test_links_are_followed(tmp_path: Path, exists: bool) -> None:
    real = tmp_path / "far" / "real"
    real.parent.mkdir()
    if exists:
        real.write_bytes(OLD)
    link = tmp_path / "link"
    link.symlink_to(Path("far") / "real")
    with atomic_file(link) as stream:
        stream.write(NEW)
        assert len(list(real.parent.iterdir())) == 1 + exists
    assert link.is_symlink()
    assert real.read_bytes() == NEW
    assert sorted(tmp_path.iterdir()) == [real.parent, link]


def test_a_relative_target_stays_where_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with atomic_file("new") as stream:
        stream.write(NEW)
        os.chdir("elsewhere")
    assert (tmp_path / "new").read_bytes() == NEW


CHILD = """
import resource, sys, time
from wcodec.errors import OutputError
from wcodec.formats.atomic import atomic_file
if sys.argv[2] != "wait":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    with atomic_file(sys.argv[1]) as stream:
        stream.write(bytes(3 << 20))
        stream.flush()
        print("writing", flush=True)
        if sys.argv[2] == "wait":
            time.sleep(60)
        stream.write(bytes(8 << 20))
except OutputError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def child(target: Path, what: str) -> subprocess.Popen[str]:
    """A process that replaces the target with 11 MiB: it stops after 3 to "wait", or may write only so many bytes."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, target, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_file_that_may_not_grow(target: Path) -> None:
    with child(target, "4194304") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"cannot write {target}: the file grew larger than is allowed" in output
    assert is_untouched(target)


def test_an_interrupt(target: Path) -> None:
    with child(target, "wait") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert len(list(target.parent.iterdir())) == 2
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert is_untouched(target)


def test_a_kill(target: Path) -> None:
    with child(target, "wait") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert target.read_bytes() == OLD


def test_a_group_appears_in_the_order_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").write_bytes(OLD)
    (tmp_path / "b").chmod(0o600)
    renamed: list[str] = []
    replace = os.replace

    def note(old: str, new: str) -> None:
        renamed.append(Path(new).name)
        replace(old, new)

    monkeypatch.setattr(os, "replace", note)
    with AtomicGroup(tmp_path / "index") as group:
        streams = [group.create() for _ in range(4)]
        for number, stream in enumerate(streams):
            stream.write(b"%d" % number)
        group.close(streams[1])
        for stream, name in zip((streams[1], streams[2], streams[0]), ("b", "a", "index"), strict=True):
            group.place(stream, name)
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["b"]
    assert renamed == ["b", "a", "index"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"b": b"1", "a": b"2", "index": b"0"}
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600


def write_group(folder: Path, names: list[str], error: Exception | None = None) -> None:
    with AtomicGroup(folder / "index") as group:
        for name in names:
            stream = group.create()
            stream.write(NEW)
            group.place(stream, name)
            group.close(stream)
        if error is not None:
            raise error


def test_a_group_that_fails_leaves_nothing(target: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_group(target.parent, [target.name, "other"], ZeroDivisionError())
    assert is_untouched(target)


def test_a_group_over_something_else_fails_before_any_rename(target: Path) -> None:
    folder = target.parent / "folder"
    folder.mkdir()
    with pytest.raises(OutputError, match="it is a directory"):
        write_group(target.parent, [target.name, folder.name])
    folder.rmdir()
    assert is_untouched(target)
