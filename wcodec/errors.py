"""Every error a user of wcodec can meet, drawn once.

    WcodecError                    exit code 1, the base of all
    ├── UsageError                 2  an argument that cannot be right
    ├── InputError                 3  the input cannot be taken as what it claims to be
    │   ├── CorruptFileError       3  damaged or hostile bytes; names the place
    │   └── UnsupportedError       3  sound, but newer or other than this version understands
    ├── MissingDependencyError     4  a device, decoder or optional package is absent; names what to install
    ├── DeviceError                4  a device failed: its driver, a build or a launch; names the kernel
    ├── NonFiniteError             1  a NaN or an infinity where quantization needs numbers
    ├── CoderError                 1  a coder could not store the symbols, or not without loss
    ├── MismatchError              1  names, shapes or dtypes differ from what was asked for
    ├── OutputError                1  the target could not be written
    └── AllocationError            1  there is not enough memory for a tensor

Exceptions of other packages are mapped into this tree where they arise, and kept as `__cause__`.
"""

from __future__ import annotations

from typing import ClassVar


class WcodecError(Exception):
    """Base of every error wcodec raises on purpose; `exit_code` is what the command line exits with."""

    exit_code: ClassVar[int] = 1


class UsageError(WcodecError, ValueError):
    """An argument that cannot be right, whatever the file holds."""

    exit_code = 2


class InputError(WcodecError):
    """The input cannot be taken as what it claims to be."""

    exit_code = 3


class CorruptFileError(InputError):
    """Damaged or hostile bytes.

    `where` names the place: a part of the file ("header", "index", "trailer") or "tensor 'x', chunk 3".
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class UnsupportedError(InputError):
    """Sound input of a version, dtype or kind that this version of wcodec does not understand."""


class MissingDependencyError(WcodecError, ImportError):
    """A device, decoder or optional package is absent; the message names the command that installs it."""

    exit_code = 4


class DeviceError(WcodecError):
    """A device failed at what it should be able to do; names the kernel or the step, with the driver's own words."""

    exit_code = 4


class NonFiniteError(WcodecError, ValueError):
    """A NaN or an infinity where quantization needs numbers; names the tensor and the position."""


class CoderError(WcodecError):
    """A coder could not store the symbols it was given, or could not store them without loss."""


class MismatchError(WcodecError):
    """Names, shapes or dtypes differ from what the caller asked to fill or compare."""


class OutputError(WcodecError, OSError):
    """The target could not be written; what stood there before is untouched."""


class AllocationError(WcodecError, MemoryError):
    """There is not enough memory for a tensor; names it and its size."""
