"""Archives into a device's memory: host threads read and decode, the device unpacks, both at the same time.

`rans` payloads go to the device as they are, and symbols never come back. What other coders decode to is written into
memory that the device reads, in the coder's own frames: untiling, dequantizing and packing are the device's. The host
holds a few chunks at a time, never a tensor.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from wcodec.archive import Archive
from wcodec.archived import ArchivedTensor, Piece
from wcodec.coders.rans import Rans
from wcodec.errors import CorruptFileError, UsageError
from wcodec.filling import Counter, check_all, shared
from wcodec.formats.container import chunk_place
from wcodec.model import DTYPES, Array
from wcodec.opencl.batch import Batch, BatchBuilder
from wcodec.opencl.device import UNBROKEN, Device, translating
from wcodec.opencl.filler import Filler
from wcodec.opencl.launch import Launcher
from wcodec.opencl.layout import PackedLayout
from wcodec.opencl.staging import Slot, Staging
from wcodec.opencl.tensors import DeviceTensor, Scaling, check_target, make_tensor
from wcodec.pipeline import locating
from wcodec.workers import ProgressCallback, Workers

WORKING_SET = 48 << 20
"""Bytes of staging memory, besides which the host holds no more than side information."""

_BATCH = 2 << 20
"""Bytes of payloads, or so, that the device decodes in one launch."""

_LEAST_SLOT = 4 << 20


@dataclass
class _Task:
    """Some chunks of a tensor that go to the device together. `size` is the memory they need, as far as is known."""

    tensor: ArchivedTensor
    filler: Filler
    pieces: list[Piece]
    size: int
    batch: Batch | None = None


def load_onto(
    device: str | Device,
    dtype: str,
    layout: PackedLayout | None,
    archive: Archive,
    wanted: list[ArchivedTensor],
    out: Mapping[str, Any] | None,
    progress: ProgressCallback | None,
    *,
    scaling: Scaling = "whole",
) -> dict[str, DeviceTensor]:
    """Decode tensors onto a device, as `wcodec.load` says; tied ones share a buffer, or have each its own of `out`.

    New tensors have the factors that `scaling` says, as in `DeviceTensor`.
    """
    if dtype not in ("f16", "f32"):
        raise UsageError(f"dtype {dtype!r}: floats on a device are f16 or f32")
    opened = device if isinstance(device, Device) else Device.open(device)
    for _ in archive.run(lambda tensor: tensor.codec, wanted):
        pass
    if out is None:
        targets: dict[str, DeviceTensor] = shared(
            wanted, lambda tensor: make_tensor(tensor, opened, dtype, layout, scaling)
        )
    else:
        check_all(wanted, lambda tensor: check_target(tensor, out[tensor.name], opened))
        targets = dict(out)
    distinct = {id(targets[tensor.name].buffer): tensor for tensor in reversed(wanted)}
    launcher = Launcher(opened)
    targeted = [(tensor, targets[tensor.name]) for tensor in reversed(distinct.values())]
    tasks = [task for tensor, target in targeted for task in _tasks(tensor, target, launcher)]
    if tasks:
        _run(tasks, opened, archive.workers, Counter(distinct.values(), progress))
    return targets


def _tasks(tensor: ArchivedTensor, target: DeviceTensor, launcher: Launcher) -> Iterator[_Task]:
    filler = Filler(tensor, target, launcher)
    if not isinstance(tensor.recipe.coder, Rans):
        for piece in tensor.pieces:
            elements = piece.chunk.rows * tensor.rows.size
            if tensor.codec.scales is not None:
                elements = math.prod(tensor.recipe.tiling.frames_shape(piece.chunk.rows, tensor.rows.size))
            yield _Task(tensor, filler, [piece], elements * _kind(tensor).itemsize)
        return
    together: list[Piece] = []
    for piece in tensor.pieces:
        if together and sum(p.chunk.length for p in together) + piece.chunk.length > _BATCH:
            yield _Task(tensor, filler, together, 0)
            together = []
        together.append(piece)
    if together:
        yield _Task(tensor, filler, together, 0)


def _kind(tensor: ArchivedTensor) -> np.dtype[Any]:
    """The dtype of what host and device exchange: symbols, or kept elements, of f64 rounded to f32."""
    if tensor.codec.scales is None and tensor.dtype == "f64":
        return np.dtype("<f4")
    return tensor.codec.symbol_dtype


def _run(tasks: list[_Task], device: Device, workers: int, done: Callable[[ArchivedTensor, Piece], None]) -> None:
    """Fill slots in threads and send them in order; `CorruptFileError` for the first damage that the device found."""
    size = max(_LEAST_SLOT, *(task.size for task in tasks))
    staging = Staging(device, size, max(2, min(2 * workers + 2, WORKING_SET // size)))
    statuses = [device.status() for _ in tasks]
    waiting: deque[tuple[int, Slot, Future[None]]] = deque()

    def send() -> None:
        number, slot, filled = waiting.popleft()
        filled.result()
        staging.sent(slot, _send(tasks[number], slot, statuses[number]))
        for piece in tasks[number].pieces:
            done(tasks[number].tensor, piece)

    with Workers(workers) as pool:
        for number, task in enumerate(tasks):
            while waiting and not staging.available:
                send()
            waiting.append((number, slot := staging.take(), pool.submit(_fill, task, slot, device.lanes)))
        while waiting:
            send()
    with translating("finishing"):
        device.queue.finish()
    device.let_go()
    for task, status in zip(tasks, statuses, strict=True):
        _check(task, device.read_status(status))


def _fill(task: _Task, slot: Slot, vector: int) -> None:
    """Put what the device needs of a task's chunks into a slot."""
    tensor = task.tensor
    if not isinstance(tensor.recipe.coder, Rans):
        [piece] = task.pieces
        _fill_frames(tensor, piece, slot.bytes[: task.size].view(_kind(tensor)))
        return
    builder = BatchBuilder(tensor.recipe.coder, tensor.rows.size, vector)
    for piece in task.pieces:
        with tensor.reading(piece) as payload:
            builder.add(payload, piece.chunk.rows, task.filler.row_in_batch(piece, task.pieces[0].start))
    task.batch = builder.finish()
    task.size = slot.put(task.batch.blob)
    # the slot has it now; what is left tells whose lane a status names
    task.batch.blob = np.empty(0, np.uint32)


def _fill_frames(tensor: ArchivedTensor, piece: Piece, flat: Array) -> None:
    """Decode a chunk's frames of symbols, or its elements where they are kept, into an array of one axis."""
    if tensor.codec.scales is not None:
        tensor.decode_frames(piece, flat)
    elif tensor.dtype == "f64":
        elements = tensor.empty((piece.chunk.rows, *tensor.rows.trail))
        tensor.decode_piece(piece, elements)
        with np.errstate(over="ignore"):
            flat[...] = elements.reshape(-1)
    else:
        tensor.decode_piece(piece, flat.view(DTYPES[tensor.dtype]).reshape(piece.chunk.rows, *tensor.rows.trail))


def _send(task: _Task, slot: Slot, status: Any) -> Any:
    if task.batch is not None:
        rows = task.pieces[0].start, task.pieces[-1].stop
        return task.filler.decode(task.batch, slot.send(task.size), rows, status)
    [piece] = task.pieces
    source = slot.send(task.size)
    if task.filler.converts:
        return task.filler.unpack(source, piece, _kind(task.tensor), status)
    return task.filler.copy(source, piece)


def _check(task: _Task, status: int) -> None:
    if status == UNBROKEN:
        return
    tensor, piece, what = task.tensor, task.pieces[0], "holds symbols out of range"
    if task.batch is not None:
        chunk, lane = task.batch.owner(status)
        piece, what = task.pieces[chunk], f"lane {lane} does not decode to symbols of its tensor"
    where = tensor.container.place(chunk_place(tensor.entry.name, piece.number))
    with locating(where):
        raise CorruptFileError(f"{tensor.recipe.coder.id} payload", what)
