"""Making OpenCL runtimes that came as Python packages known to the loader, without root.

The loader reads a folder of .icd files, each with the path of a runtime's library, when it is first asked for
platforms. Intel's wheel brings the library, but an .icd file that only conda understands. So wcodec has the loader read
a folder of its own, one file for the wheel and a copy of every file the system has, which is gone once it is read:
nothing is left for the processes that this one starts, or for files that move.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

SYSTEM_FOLDER = Path("/etc/OpenCL/vendors")

_USERS_OWN = ("OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH")
"""Variables by which users tell the loader where to look; wcodec then leaves it alone."""

_WHEELS = {"intel-opencl-rt": "libintelocl.so"}


@contextmanager
def announced_runtimes() -> Iterator[None]:
    """While this lasts, the loader looks for the system's runtimes and those of wheels."""
    libraries = {wheel: library for wheel, name in _WHEELS.items() if (library := _library(wheel, name)) is not None}
    if not libraries or any(name in os.environ for name in _USERS_OWN):
        yield
        return
    entries = {path.name: path.read_bytes() for path in sorted(SYSTEM_FOLDER.glob("*.icd"))}
    entries |= {f"{wheel}.icd": os.fsencode(library) + b"\n" for wheel, library in libraries.items()}
    with tempfile.TemporaryDirectory(prefix="wcodec-", ignore_cleanup_errors=True) as folder:
        for name, content in entries.items():
            (Path(folder) / name).write_bytes(content)
        os.environ["OCL_ICD_VENDORS"] = folder
        try:
            yield
        finally:
            os.environ.pop("OCL_ICD_VENDORS", None)


def _library(wheel: str, name: str) -> Path | None:
    try:
        found = [file for file in files(wheel) or () if file.name == name]
    except PackageNotFoundError:
        return None
    path = Path(os.path.realpath(found[0].locate())) if found else None
    return path if path is not None and path.exists() else None
