"""The folder that tells OpenCL's loader of runtimes, the system's and those of wheels."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wcodec.opencl import icd
from wcodec.opencl.icd import announce_runtimes


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system's folder of runtimes, a cache folder, and nothing said by the user."""
    folder = tmp_path / "vendors"
    folder.mkdir()
    (folder / "pocl.icd").write_bytes(b"/usr/lib/libpocl.so.2\n")
    (folder / "other.icd").write_bytes(b"libother.so")
    (folder / "README").write_bytes(b"no runtime")
    monkeypatch.setattr(icd, "SYSTEM_FOLDER", folder)
    monkeypatch.setenv("WCODEC_CACHE_DIR", str(tmp_path / "cache"))
    # set before it is deleted, so that the end of the test takes back what the test's own call sets
    monkeypatch.setenv("OCL_ICD_VENDORS", "")
    monkeypatch.delenv("OCL_ICD_VENDORS")
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
    announce_runtimes()
    folder = Path(os.environ["OCL_ICD_VENDORS"])
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_holds_the_systems_files_and_the_wheels(system: Path, wheel: Path) -> None:
    assert announced() == {
        "pocl.icd": b"/usr/lib/libpocl.so.2\n",
        "other.icd": b"libother.so",
        "intel-opencl-rt.icd": f"{wheel}\n".encode(),
    }


@pytest.mark.parametrize("name", ["OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH"])
@pytest.mark.parametrize("value", ["/somewhere", ""])
def test_what_the_user_says_goes(
    system: Path, wheel: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    announce_runtimes()
    assert dict(os.environ) == before
    assert not (tmp_path / "cache").exists()


def test_without_a_wheel_nothing_changes(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(package: str) -> None:
        raise PackageNotFoundError(package)

    missing: list[Any] = [files, lambda package: None, lambda package: []]
    for absent in missing:
        monkeypatch.setattr(icd, "files", absent)
        announce_runtimes()
        assert "OCL_ICD_VENDORS" not in os.environ


def test_a_wheel_whose_library_is_gone_does_not_count(system: Path, wheel: Path) -> None:
    wheel.unlink()
    announce_runtimes()
    assert "OCL_ICD_VENDORS" not in os.environ


def test_without_a_systems_folder_there_is_the_wheel(
    system: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(icd, "SYSTEM_FOLDER", tmp_path / "none")
    assert list(announced()) == ["intel-opencl-rt.icd"]


def test_another_system_has_another_folder(system: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announce_runtimes()
    first = os.environ["OCL_ICD_VENDORS"]
    (system / "new.icd").write_bytes(b"libnew.so")
    announce_runtimes()
    assert os.environ["OCL_ICD_VENDORS"] == first, "what is said is not said again"
    monkeypatch.delenv("OCL_ICD_VENDORS")
    assert "new.icd" in announced()
    assert os.environ["OCL_ICD_VENDORS"] != first


def test_a_damaged_folder_is_mended(system: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = announced()
    folder = Path(os.environ["OCL_ICD_VENDORS"])
    (folder / "pocl.icd").write_bytes(b"")
    (folder / "other.icd").unlink()
    monkeypatch.delenv("OCL_ICD_VENDORS")
    assert announced() == sound
    assert os.environ["OCL_ICD_VENDORS"] == str(folder)


def test_a_cache_that_cannot_be_written(system: Path, wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    assert len(announced()) == 3
    assert not Path(os.environ["OCL_ICD_VENDORS"]).is_relative_to(tmp_path / "cache")
