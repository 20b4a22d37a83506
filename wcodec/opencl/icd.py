"""Making OpenCL runtimes that came as Python packages known to the loader, without root.

The loader reads a folder of .icd files, each with the path of a runtime's library. Intel's wheel brings the library,
but an .icd file that only conda understands, so wcodec writes a folder of its own: one file for the wheel, and a copy
of every file the system has.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from wcodec.opencl.cache import cache_folder, write_atomically

SYSTEM_FOLDER = Path("/etc/OpenCL/vendors")

_USERS_OWN = ("OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH")
"""Variables by which users tell the loader where to look; wcodec then leaves it alone."""

_WHEELS = {"intel-opencl-rt": "libintelocl.so"}


def announce_runtimes() -> None:
    """Point the loader at the system's runtimes and those of wheels; to be called before pyopencl is imported."""
    if any(name in os.environ for name in _USERS_OWN):
        return
    libraries = {wheel: library for wheel, name in _WHEELS.items() if (library := _library(wheel, name)) is not None}
    if not libraries:
        return
    entries = {path.name: path.read_bytes() for path in sorted(SYSTEM_FOLDER.glob("*.icd"))}
    entries |= {f"{wheel}.icd": os.fsencode(library) + b"\n" for wheel, library in libraries.items()}
    os.environ["OCL_ICD_VENDORS"] = str(_folder_of(entries))


def _library(wheel: str, name: str) -> Path | None:
    try:
        found = [file for file in files(wheel) or () if file.name == name]
    except PackageNotFoundError:
        return None
    path = Path(os.path.realpath(found[0].locate())) if found else None
    return path if path is not None and path.exists() else None


def _folder_of(entries: dict[str, bytes]) -> Path:
    """A folder with these files, named by their content, so that environments with other runtimes have another."""
    folder = cache_folder("icd", *(part for name, content in entries.items() for part in (name.encode(), content)))
    for name, content in entries.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)
    return folder
