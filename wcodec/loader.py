"""Archives into memory, the host's or a device's: new arrays and tensors, or such as the caller has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from wcodec.archive import Archive, opened
from wcodec.archived import ArchivedTensor
from wcodec.errors import MismatchError, UsageError
from wcodec.filling import Counter, check_all, shared, summary
from wcodec.formats.source import Target
from wcodec.policy import matches
from wcodec.tensors import Memory, check_torch_device, empty_tensor, memory_of
from wcodec.workers import ProgressCallback

if TYPE_CHECKING:
    from wcodec.opencl.device import Device
    from wcodec.opencl.layout import PackedLayout


def load(
    source: Target | Archive,
    device: str | Device = "cpu",
    *,
    out: Mapping[str, Any] | None = None,
    names: Iterable[str] | None = None,
    strict: bool = True,
    dtype: Literal["f16", "f32"] | None = None,
    layout: PackedLayout | None = None,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Decode an archive, chunks in parallel: name to array, in the archive's order.

    `device` says what the tensors are and where: "cpu" NumPy arrays; "torch" tensors on the CPU that
    `module.load_state_dict` takes, "torch:cuda:1" and the like on torch's device of that name; "opencl" `DeviceTensor`s
    on the first OpenCL device that works, "opencl:1" on that of this number, or a `Device` that was opened before.
    Tied names share one tensor.

    `out` maps names to what is filled in place and returned: arrays or tensors of the same dtype and shape, as in
    `out=module.state_dict()`, on whatever device they are; or `DeviceTensor`s of the same device. `names` restricts
    what is decoded, by name or shell pattern.

    On OpenCL devices, floats become `dtype`, f16 unless it says f32, and those of two or more axes lie in `layout`, or
    in C order; tensors of `out` have their own of both. Nothing is dequantized on the host, which holds no more than
    64 MiB at a time besides scales.

    With `strict`, `out` must name exactly the archive's tensors (those picked by `names`), and every one of `names`
    must match; without, what is missing on either side is passed over. `MismatchError` tells every difference in
    names, dtypes and shapes before anything is filled; `CorruptFileError` a damaged place; `MissingDependencyError`
    that there is no such device, and what to install.
    """
    if out is not None and (dtype is not None or layout is not None):
        raise UsageError("dtype and layout are for new tensors; those of out have their own")
    target = _target(device, dtype, layout)
    with opened(source, workers) as archive:
        wanted = [archive.tensor(name) for name in _wanted(archive, names, out, strict)]
        given = out if out is None else {tensor.name: out[tensor.name] for tensor in wanted}
        return target(archive, wanted, given, progress)


Filled = Callable[[Archive, list[ArchivedTensor], Mapping[str, Any] | None, ProgressCallback | None], dict[str, Any]]


def _target(device: str | Device, dtype: str | None, layout: PackedLayout | None) -> Filled:
    """What loads onto a device; `UsageError` for one that is not known or has no such options."""
    kind = device.partition(":")[0] if isinstance(device, str) else "opencl"
    if kind == "opencl":
        from wcodec.opencl.device import Device
        from wcodec.opencl.layout import PackedLayout
        from wcodec.opencl.loading import load_onto

        if not isinstance(device, str | Device):
            raise UsageError(f"a device is a name, such as 'opencl:0' or 'torch:cuda', or a Device, not {device!r}")
        if not isinstance(layout, PackedLayout | None):
            raise UsageError(f"a layout is a PackedLayout, not {layout!r}")
        return partial(load_onto, device, "f16" if dtype is None else dtype, layout)
    if dtype is not None or layout is not None:
        raise UsageError(f"dtype and layout are for OpenCL devices; on {device!r} tensors have their own")
    if device == "cpu":
        return partial(_load, lambda tensor: tensor.empty(tensor.shape))
    if kind == "torch":
        place = str(device).partition(":")[2] or "cpu"
        check_torch_device(place)
        return partial(_load, lambda tensor: empty_tensor(tensor, place))
    raise UsageError(f"unknown device {device!r}; there are 'cpu', 'torch', 'torch:cuda' and 'opencl'")


def _load(
    make: Callable[[ArchivedTensor], Any],
    archive: Archive,
    wanted: list[ArchivedTensor],
    out: Mapping[str, Any] | None,
    progress: ProgressCallback | None,
) -> dict[str, Any]:
    result = dict(out) if out is not None else shared(wanted, make)
    memory = {name: memory_of(name, given) for name, given in result.items()}
    check_all(wanted, lambda tensor: memory[tensor.name].check(tensor))
    _fill(archive, wanted, memory, progress)
    return result


def _wanted(archive: Archive, names: Iterable[str] | None, out: Mapping[str, Any] | None, strict: bool) -> list[str]:
    """The names to decode, in the archive's order; `MismatchError` where `strict` does not allow a difference."""
    patterns = {"*"} if names is None else {names} if isinstance(names, str) else set(names)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError("names are strings")
    exact = {pattern for pattern in patterns if pattern in archive}
    globs = [pattern for pattern in patterns if set(pattern) & set("*?[")]
    wanted = [name for name in archive if name in exact or any(matches(name, glob) for glob in globs)]
    idle = [p for p in sorted(patterns - exact) if p not in globs or not any(matches(name, p) for name in wanted)]
    problems = [f"nothing is called {pattern!r}" for pattern in idle if names is not None]
    picked = set(wanted)
    if out is not None:
        problems += [f"{name!r} is not in the archive" for name in out if name not in archive]
        problems += [f"{name!r} is given, but not named" for name in out if name in archive and name not in picked]
        problems += [f"nothing was given for {name!r}" for name in wanted if name not in out]
        wanted = [name for name in wanted if name in out]
    if strict and problems:
        raise MismatchError(summary(problems))
    return wanted


def _fill(
    archive: Archive, wanted: list[ArchivedTensor], memory: Mapping[str, Memory], progress: ProgressCallback | None
) -> None:
    """Decode every tensor once; names tied to it get a copy where they have memory of their own."""
    first = {tensor.entry.name: tensor for tensor in reversed(wanted)}
    for _ in archive.run(lambda tensor: tensor.codec, first.values()):
        pass
    work = [(tensor, piece) for tensor in first.values() for piece in tensor.pieces]
    report = Counter(first.values(), progress)
    for (tensor, piece), _ in zip(work, archive.run(lambda item: memory[item[0].name].fill(*item), work), strict=True):
        report(tensor, piece)
    for tensor in wanted:
        memory[tensor.name].copy(memory[first[tensor.entry.name].name])
