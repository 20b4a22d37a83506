"""What is kept in the user's cache folder: nothing depends on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import wcodec
from tests.support.opencl import encoded, smooth
from wcodec.opencl.cache import cache_root, key_of, remember, remembered
from wcodec.opencl.device import Device


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WCODEC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_kept_is_found_again(folder: Path) -> None:
    assert remembered("kind", "key") is None
    for content in (b"", b"one", bytes(range(256)) * 100):
        remember("kind", "key", content)
        assert remembered("kind", "key") == content
    assert remembered("kind", "other") is None
    assert remembered("other", "key") is None
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()] == ["kind/key"]


def test_where_the_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WCODEC_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "own"
    monkeypatch.delenv("WCODEC_CACHE_DIR")
    assert cache_root() == tmp_path / "xdg" / "wcodec"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == tmp_path / "home" / ".cache" / "wcodec"


def test_a_user_without_a_home_has_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WCODEC_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_root() is None
    remember("kind", "key", b"content")
    assert remembered("kind", "key") is None


def test_keys_tell_parts_apart() -> None:
    parts = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""), (), (b"c", b"ab")]
    assert len({key_of(*each) for each in parts}) == len(parts)
    assert all(name.isalnum() for name in map(key_of, (b"/", b"..", b"\0")))


def test_files_cut_short_or_changed_count_as_none(folder: Path) -> None:
    remember("kind", "key", b"content")
    path = folder / "kind" / "key"
    sound = path.read_bytes()
    for length in range(len(sound)):
        path.write_bytes(sound[:length])
        assert remembered("kind", "key") is None
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        assert remembered("kind", "key") is None
    path.write_bytes(sound + b"\0")
    assert remembered("kind", "key") is None
    remember("kind", "key", b"anew")
    assert remembered("kind", "key") == b"anew"


def test_a_folder_in_place_of_a_file_counts_as_none(folder: Path) -> None:
    (folder / "kind" / "key").mkdir(parents=True)
    remember("kind", "key", b"content")
    assert remembered("kind", "key") is None
    assert [path.name for path in (folder / "kind").iterdir()] == ["key"]


@pytest.mark.parametrize("what", ["a file", "a folder within a file"])
def test_a_folder_that_cannot_be_written_is_done_without(folder: Path, what: str) -> None:
    """A file in the folder's place, which stops root, too."""
    place = folder if what == "a file" else folder / "kind"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"")
    remember("kind", "key", b"content")
    assert remembered("kind", "key") is None


def test_a_full_disk_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember("kind", "key", b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    remember("kind", "key", b"after")
    assert remembered("kind", "key") == b"before"
    assert [path.name for path in (folder / "kind").iterdir()] == ["key"]


WRITER = """
import sys
from wcodec.opencl.cache import remember, remembered
mine = sys.argv[1].encode() * 20_000
both = {letter * 20_000 for letter in (b"a", b"b")}
print("ready", flush=True)
sys.stdin.readline()
for _ in range(300):
    remember("kind", "key", mine)
    assert remembered("kind", "key") in both
"""


def test_processes_that_write_the_same_file_find_it_whole(folder: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, letter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for letter in "ab"
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n", timeout=60)
        assert writer.returncode == 0
    assert remembered("kind", "key") in (b"a" * 20_000, b"b" * 20_000)
    assert [path.name for path in (folder / "kind").iterdir()] == ["key"]


# Programs


def load_with_new_programs(device: Device) -> None:
    """Through a device that has built nothing yet."""
    data = encoded({"w": smooth(np.random.default_rng(1), 40, 30)}, coder="rans")
    found = wcodec.load(data, Device(device.device))["w"].array()
    assert np.array_equal(found, wcodec.load(data)["w"].astype(np.float16))


def test_a_program_is_built_once(device: Device, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_with_new_programs(device)
    [stored] = (folder / "programs").iterdir()
    before = stored.stat().st_mtime_ns, stored.read_bytes()
    built = []
    monkeypatch.setattr("wcodec.opencl.device.remember", lambda *given: built.append(given))
    load_with_new_programs(device)
    assert built == []
    assert (stored.stat().st_mtime_ns, stored.read_bytes()) == before


@pytest.mark.parametrize("damage", ["cut", "changed", "no program", "another program"])
def test_a_damaged_program_is_built_anew(device: Device, folder: Path, damage: str) -> None:
    load_with_new_programs(device)
    [stored] = (folder / "programs").iterdir()
    sound = stored.read_bytes()
    if damage == "cut":
        stored.write_bytes(sound[: len(sound) // 2])
    elif damage == "changed":
        stored.write_bytes(sound[:-9] + b"\xff" + sound[-8:])
    else:
        # with a right checksum: what another version of the driver has left
        remember("programs", stored.name, {"no program": b"no program", "another program": b""}[damage])
    load_with_new_programs(device)
    assert len(stored.read_bytes()) > 1000
    assert len(list((folder / "programs").iterdir())) == 1


def test_a_device_does_without_a_cache(device: Device, folder: Path) -> None:
    folder.write_bytes(b"")
    load_with_new_programs(device)
    assert folder.read_bytes() == b""


def test_what_is_kept_is_written_by_its_owner_alone(folder: Path) -> None:
    """Programs run in the process of whoever loads them."""
    remember("programs", "key", b"content")
    assert not (folder / "programs" / "key").stat().st_mode & 0o022
