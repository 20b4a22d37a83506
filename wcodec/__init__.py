"""A codec and storage format for neural-network weights."""

from wcodec.archive import Archive
from wcodec.archive import open_archive as open  # noqa: A004, `wcodec.open` reads as it should
from wcodec.archived import ArchivedTensor
from wcodec.decode import decode
from wcodec.diff import Difference, diff
from wcodec.encode import encode
from wcodec.errors import (
    AllocationError,
    CoderError,
    CorruptFileError,
    DeviceError,
    InputError,
    MismatchError,
    MissingDependencyError,
    NonFiniteError,
    OutputError,
    UnsupportedError,
    UsageError,
    WcodecError,
)
from wcodec.formats import read_model, write_model
from wcodec.loader import load
from wcodec.model import Model, QuantizedTensor, Tensor
from wcodec.opencl.layout import PackedLayout
from wcodec.policy import Policy
from wcodec.quantize import dequantize, quantize
from wcodec.scales import Uniform
from wcodec.transcode import transcode
from wcodec.verify import verify
from wcodec.workers import Progress

__all__ = [
    "AllocationError",
    "Archive",
    "ArchivedTensor",
    "CoderError",
    "CorruptFileError",
    "DeviceError",
    "Difference",
    "InputError",
    "MismatchError",
    "MissingDependencyError",
    "Model",
    "NonFiniteError",
    "OutputError",
    "PackedLayout",
    "Policy",
    "Progress",
    "QuantizedTensor",
    "Tensor",
    "Uniform",
    "UnsupportedError",
    "UsageError",
    "WcodecError",
    "decode",
    "dequantize",
    "diff",
    "encode",
    "load",
    "open",
    "quantize",
    "read_model",
    "transcode",
    "verify",
    "write_model",
]
