"""Models that the engine cannot run, run elsewhere: whole, by ONNX Runtime, or their lowered graph by torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from wcodec.archive import Archive
from wcodec.errors import MissingDependencyError, UnsupportedError
from wcodec.formats.onnx import write
from wcodec.infer.lowering.source import OnnxSource
from wcodec.infer.lowering.walk import lower
from wcodec.infer.ports import Port, checked_inputs
from wcodec.infer.reference import Reference
from wcodec.model import Array

Elsewhere = Literal["torch", "onnxruntime"]


class Fallback:
    """Called as an `Engine` is, with the same inputs and outputs; nothing runs on a device."""

    def __init__(self, archive: Archive, elsewhere: Elsewhere) -> None:
        """Raises `UnsupportedError` and `CorruptFileError` for graphs that do not run there either, and
        `MissingDependencyError` where the package is not installed.
        """
        source = OnnxSource(archive)
        self.inputs = tuple(Port(name, shape) for name, shape in source.inputs.items())
        self.outputs = tuple(Port(name, shape) for name, shape in source.output_shapes())
        self.metadata: Mapping[str, str] = archive.metadata
        make = _by_onnxruntime if elsewhere == "onnxruntime" else _by_torch
        self._run = make(archive, source)

    def __call__(self, *inputs: Array) -> Array | tuple[Array, ...]:
        """Run. Raises `MismatchError` and `NonFiniteError` as `Engine.start` does."""
        found = self._run(checked_inputs(self.inputs, inputs))
        return found[0] if len(found) == 1 else found


Run = Callable[[list[Array]], tuple[Array, ...]]


def _by_onnxruntime(archive: Archive, source: OnnxSource) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime is not installed; run: pip install onnxruntime") from error
    with TemporaryDirectory(prefix="wcodec-") as folder:
        file = Path(folder) / "model.onnx"
        write(archive.model(), file)
        try:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3  # errors: what it warns of is the model's own
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own errors have no base class but Exception
            raise UnsupportedError(f"ONNX Runtime does not run the model either: {error}") from error
    names = tuple(source.inputs)

    def run(arrays: list[Array]) -> tuple[Array, ...]:
        try:
            return tuple(session.run(None, dict(zip(names, arrays, strict=True))))
        except Exception as error:
            raise UnsupportedError(f"ONNX Runtime: {error}") from error

    return run


def _by_torch(archive: Archive, source: OnnxSource) -> Run:
    executors: dict[tuple[tuple[int, ...], ...], Reference] = {}
    names = tuple(source.inputs)

    def executor(arrays: list[Array]) -> Reference:
        shapes = tuple(array.shape for array in arrays)
        if shapes not in executors:
            graph = lower(source, dict(zip(names, shapes, strict=True)))
            numbers = {name: source.numbers(constant) for name, constant in graph.constants.items()}
            executors[shapes] = Reference(graph, numbers)
        return executors[shapes]

    def run(arrays: list[Array]) -> tuple[Array, ...]:
        return tuple(value.detach().numpy() for value in executor(arrays)(*arrays))

    return run
