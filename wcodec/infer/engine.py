"""A model of an archive, ready to run on an OpenCL device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import RLock
from types import TracebackType
from typing import Self

import numpy as np

from wcodec.archive import Archive, opened
from wcodec.errors import AllocationError, MismatchError, NonFiniteError, UsageError
from wcodec.formats.source import Target as Source
from wcodec.infer.check import first_bad_layer
from wcodec.infer.forms.launch import Precision
from wcodec.infer.lowering.source import OnnxSource
from wcodec.infer.lowering.walk import OPERATORS, lower
from wcodec.infer.pairs import paired
from wcodec.infer.places import Storage
from wcodec.infer.plan import Plan, Started
from wcodec.infer.ports import Port, checked_inputs
from wcodec.infer.precision import target_of, targets_of, wide_values
from wcodec.infer.schedule import scheduled
from wcodec.infer.weights import Resident, Weights
from wcodec.model import Array
from wcodec.opencl.device import Device, translating

PRECISIONS: tuple[Precision, ...] = ("storage", "half", "float")

RESIDENTS: tuple[Resident, ...] = ("packed", "int8", "coded")

_PLANS = 4
"""Input shapes whose plans are kept; of more, the one used longest ago is given up."""


@dataclass(frozen=True)
class Memory:
    """Bytes on the device: `weights` and other constants, and `arena`, all other values of the shapes kept ready."""

    weights: int
    arena: int


class Pending:
    """Outputs that a device is computing."""

    def __init__(self, parts: list[Started]) -> None:
        self._parts = parts

    def result(self) -> Array | tuple[Array, ...]:
        """Wait for the outputs: the array, or a tuple where the model has several."""
        for part in self._parts:
            part.wait()
        columns = zip(*(part.outputs for part in self._parts), strict=True)
        arrays = tuple(column[0] if len(column) == 1 else np.concatenate(column) for column in columns)
        arrays = tuple(a.astype(np.int64) if a.dtype == np.int32 else a for a in arrays)
        return arrays[0] if len(arrays) == 1 else arrays


class Engine:
    """Call it with NumPy arrays, one for each input, and it gives NumPy arrays.

    Weights are decoded and kernels built when it is opened, or when inputs of a new shape first come; some drivers end
    building when a kernel first runs. Use it as a context manager, or call `close`. Threads that share it take turns.
    """

    def __init__(self, archive: Archive, device: Device, precision: Precision, resident: Resident) -> None:
        """See `open`."""
        if resident not in RESIDENTS:
            raise UsageError(f"resident {resident!r}: there are {', '.join(RESIDENTS)}")
        if precision not in PRECISIONS:
            raise UsageError(f"precision {precision!r}: there are {', '.join(PRECISIONS)}")
        self.device, self.precision, self._resident = device, precision, resident
        self._archive, self._stack = archive, ExitStack()
        self._source = OnnxSource(archive)
        self._source.check_operators(OPERATORS)
        self._target = target_of(device, precision, keeps_more=resident == "packed")
        with translating("opening a queue"):
            self._queue = device.cl.CommandQueue(device.context)
        self._weights: Weights | None = Weights(self._source, device, resident, self._storage)
        self._plans: dict[tuple[tuple[int, ...], ...], Plan] = {}
        self._floats: set[str] = set()
        self._lock = RLock()
        self.inputs = tuple(Port(name, shape) for name, shape in self._source.inputs.items())
        self.outputs: tuple[Port, ...] = tuple(Port(name, shape) for name, shape in self._source.output_shapes())
        if all(isinstance(length, int) for port in self.inputs for length in port.shape[1:]):
            self.plan(*(_with_batch(port, 1) for port in self.inputs))

    @classmethod
    def open(
        cls,
        source: Source | Archive,
        device: str | Device = "opencl",
        *,
        precision: Precision = "storage",
        resident: Resident = "packed",
        workers: int | None = None,
    ) -> Self:
        """Open the archive at a path or URL, or an opened one, on a device: "opencl", "opencl:1", or a `Device`.

        `precision`: "storage" keeps numbers as halves and computes with floats; "half" computes with halves, where the
        device can (cl_khr_fp16), but in the first and last layers and where sums are long; "float" does neither.

        `resident` is for devices with little memory: "packed" keeps weights as kernels read them; "int8" keeps
        symbols of up to 8 bits, a scale for each channel or tensor, as bytes; "coded" keeps payloads of the coder
        `rans`, and decodes each before its layer runs. Weights that are not stored in such a way are packed.

        Raises `UnsupportedError` for an archive without a graph, and for what the engine does not do, with a list of
        what it does; `MissingDependencyError` where there is no such device; `DeviceError` where a kernel cannot be
        built; `AllocationError` where the device has not enough memory.
        """
        with ExitStack() as stack:
            archive = stack.enter_context(opened(source, workers))
            where = device if isinstance(device, Device) else Device.open(device)
            engine = cls(archive, where, precision, resident)
            engine._stack = stack.pop_all()
        return engine

    def __call__(self, *inputs: Array) -> Array | tuple[Array, ...]:
        """Run: see `start`."""
        return self._started(checked_inputs(self.inputs, inputs)).result()

    def start(self, *inputs: Array) -> Pending:
        """Begin to run, and return at once.

        Inputs are arrays of floats in the shapes that `inputs` tells; where the model has a fixed batch, also
        multiples of it, which run one after the other. They may change once this has returned. Raises `MismatchError`
        for other shapes and dtypes, and `NonFiniteError` for NaN and infinities.
        """
        arrays = checked_inputs(self.inputs, inputs)
        shared = map(np.may_share_memory, arrays, inputs)
        return self._started([array.copy() if same else array for array, same in zip(arrays, shared, strict=True)])

    def _started(self, arrays: list[Array]) -> Pending:
        with self._lock:
            return Pending([self._begun(part) for part in self._parts(arrays)])

    def _begun(self, part: list[Array]) -> Started:
        shapes = tuple(array.shape for array in part)
        plan = self.plan(*shapes)
        with self._advising(shapes):
            return plan.start(part)

    def check(self, *inputs: Array) -> tuple[str, ...]:
        """Run layer by layer; names of those whose results were too large, which are stored as f32 from now on.

        Raises `NonFiniteError` naming the first layer that gives NaN or infinities with floats too, and what `start`
        raises.
        """
        arrays = checked_inputs(self.inputs, inputs)
        with self._lock:
            return tuple(name for part in self._parts(arrays) for name in self._moved(part))

    def _moved(self, part: list[Array]) -> Iterator[str]:
        """Names of layers that are moved to floats."""
        shapes = tuple(array.shape for array in part)
        while (found := first_bad_layer(self._planned(shapes, together=False), part)) is not None:
            name, what = found
            if name in self._floats or self.precision == "float":
                raise NonFiniteError(f"layer {name!r} gives {what}, though computed with floats")
            self._floats.add(name)
            self._plans.clear()
            yield name

    @property
    def metadata(self) -> Mapping[str, str]:
        """The archive's own."""
        return self._archive.metadata

    @property
    def memory(self) -> Memory:
        """What is allocated on the device."""
        weights = self._weights.nbytes if self._weights else 0
        return Memory(weights, sum(plan.arena.size for plan in self._plans.values()))

    def close(self) -> None:
        """Let go of the device's memory and of the archive, if it was opened by the engine."""
        with self._lock:
            self._plans.clear()
            self._weights = None
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def plan(self, *shapes: tuple[int, ...]) -> Plan:
        """The plan for inputs of these shapes."""
        found = self._plans.pop(shapes, None)
        if found is None:
            while len(self._plans) >= _PLANS:
                del self._plans[next(iter(self._plans))]
            with self._advising(shapes):
                found = self._fitted(shapes)
        self._plans[shapes] = found
        return found

    def _fitted(self, shapes: tuple[tuple[int, ...], ...]) -> Plan:
        """A new plan, for which older ones are given up where memory is short."""
        while True:
            try:
                return self._planned(shapes, together=self.device.is_cpu)
            except AllocationError:
                if not self._plans:
                    raise
                del self._plans[next(iter(self._plans))]

    @contextmanager
    def _advising(self, shapes: tuple[tuple[int, ...], ...]) -> Iterator[None]:
        """An error for want of memory is told again with what takes less."""
        smaller = ["a smaller batch"] * any(shape and shape[0] > 1 for shape in shapes)
        smaller += [f"resident={name!r}" for name in RESIDENTS[RESIDENTS.index(self._resident) + 1 :]]
        smaller += ["precision='storage'"] * (self.precision == "float") + ["another device"]
        try:
            yield
        except AllocationError as error:
            taken = f"weights take {self.memory.weights:,} bytes of it, intermediate values {self.memory.arena:,}"
            raise AllocationError(f"{error}; {taken}; what may fit: {', '.join(smaller)}") from error

    def _planned(self, shapes: tuple[tuple[int, ...], ...], *, together: bool) -> Plan:
        """A new plan; `together` says that one kernel may compute several layers, which only CPUs gain by."""
        if self._weights is None:
            raise UsageError("the engine is closed; open it again")
        names = (port.name for port in self.inputs)
        graph = lower(self._source, dict(zip(names, shapes, strict=True)))
        wide = set(wide_values(graph)) if self.precision == "storage" else set()
        wide.update(node.output for node in graph.nodes if node.name in self._floats)
        schedule = scheduled(graph, self._storage, wide)
        if together and self.precision != "half":
            schedule = paired(schedule)
        targets = targets_of(schedule, self._target, self._floats)
        return Plan(self.device, self._queue, schedule, targets, self._weights, graph.constants, together=together)

    def _parts(self, arrays: list[Array]) -> list[list[Array]]:
        """Inputs cut into runs of the model's own batch where that is fixed."""
        own = [port.shape[0] if port.shape else "" for port in self.inputs]
        if not own or not all(isinstance(length, int) for length in own):
            return [arrays]
        counts = {len(array) // int(length) for array, length in zip(arrays, own, strict=True)}
        [count] = counts if len(counts) == 1 else [1]
        if count > 1 and not all(port.shape and port.shape[0] in (own[0], "?") for port in self.outputs):
            raise MismatchError(f"the model takes {own[0]} at a time, and its outputs are not one for each of them")
        return [list(part) for part in zip(*(np.split(array, max(1, count)) for array in arrays), strict=True)]

    @property
    def _storage(self) -> Storage:
        return "f32" if self.precision == "float" else "f16"


def _with_batch(port: Port, batch: int) -> tuple[int, ...]:
    return tuple(length if isinstance(length, int) else batch for length in port.shape)
