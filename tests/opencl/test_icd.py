"""The folder that tells OpenCL's loader of runtimes, the system's and those of wheels."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wcodec.opencl import icd
from wcodec.opencl.icd import announced_runtimes


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system's folder of runtimes, and nothing said by the user."""
    folder = tmp_path / "vendors"
    folder.mkdir()
    (folder / "pocl.icd").write_bytes(b"/usr/lib/libpocl.so.2\n")
    (folder / "other.icd").write_bytes(b"libother.so")
    (folder / "README").write_bytes(b"no runtime")
    monkeypatch.setattr(icd, "SYSTEM_FOLDER", folder)
    monkeypatch.delenv("OCL_ICD_VENDORS", raising=False)
    monkeypatch.delenv("OPENCL_VENDOR_PATH", raising=False)
    return folder


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library of an installed wheel, reached by way of a link."""
    library = tmp_path / "env" / "lib" / "libintelocl.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"a library")
    link = tmp_path / "link.so"
    link.symlink_to(library)

    def files(package: str) -> list[SimpleNamespace]:
        if package != "intel-opencl-rt":
            raise PackageNotFoundError(package)
        return [
            SimpleNamespace(name="libother.so", locate=lambda: tmp_path / "nothing"),
            SimpleNamespace(name="libintelocl.so", locate=lambda: link),
        ]

    monkeypatch.setattr(icd, "files", files)
    return library


def announced() -> dict[str, bytes]:
    with announced_runtimes():
        folder = Path(os.environ["OCL_ICD_VENDORS"])
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not folder.exists()
    assert "OCL_ICD_VENDORS" not in os.environ
    return found


def test_the_folder_holds_the_systems_files_and_the_wheels(system: Path, wheel: Path) -> None:
    assert announced() == {
        "pocl.icd": b"/usr/lib/libpocl.so.2\n",
        "other.icd": b"libother.so",
        "intel-opencl-rt.icd": f"{wheel}\n".encode(),
    }


@pytest.mark.parametrize("name", ["OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH"])
@pytest.mark.parametrize("value", ["/somewhere", ""])
def test_what_the_user_says_goes(
    system: Path, wheel: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with announced_runtimes():
        assert dict(os.environ) == before
    assert dict(os.environ) == before


def test_without_a_wheel_nothing_changes(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(package: str) -> None:
        raise PackageNotFoundError(package)

    missing: list[Any] = [files, lambda package: None, lambda package: []]
    for absent in missing:
        monkeypatch.setattr(icd, "files", absent)
        with announced_runtimes():
            assert "OCL_ICD_VENDORS" not in os.environ


def test_a_wheel_whose_library_is_gone_does_not_count(system: Path, wheel: Path) -> None:
    wheel.unlink()
    with announced_runtimes():
        assert "OCL_ICD_VENDORS" not in os.environ


def test_without_a_systems_folder_there_is_the_wheel(
    system: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(icd, "SYSTEM_FOLDER", tmp_path / "none")
    assert list(announced()) == ["intel-opencl-rt.icd"]


def test_nothing_is_left_after_an_error(system: Path, wheel: Path) -> None:
    folders = []

    def fail() -> None:
        with announced_runtimes():
            folders.append(Path(os.environ["OCL_ICD_VENDORS"]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not folders[0].exists()
    assert "OCL_ICD_VENDORS" not in os.environ


LISTS = """
import errno, sys
from pathlib import Path
from wcodec.opencl import icd, platforms
if sys.argv[1] == "full":
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    Path.write_bytes = full
print(*sorted(device.platform for device in platforms.list_devices()), sep="\\n")
"""


def test_a_full_disk_leaves_the_systems_runtimes() -> None:
    if not list(icd.SYSTEM_FOLDER.glob("*.icd")):
        pytest.skip("this system has no runtime of its own")
    found = {}
    for disk in ("full", "roomy"):
        environment = {name: value for name, value in os.environ.items() if name not in icd._USERS_OWN}
        done = subprocess.run(
            [sys.executable, "-c", LISTS, disk],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
            env=environment,
        )
        found[disk] = done.stdout.split("\n")[:-1]
    assert found["full"]
    assert set(found["full"]) <= set(found["roomy"])
