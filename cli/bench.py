"""`wcodec bench`: how fast an archive is decoded, and with --infer how fast its model runs, layer by layer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import msgspec
import numpy as np
from click.core import ParameterSource

import wcodec
from wcodec.cli.options import archive_source, device_option, json_option, precision_option
from wcodec.cli.output import counted, human_bytes, print_json, print_table, printable, shape_text
from wcodec.cli.preprocessing import Extent
from wcodec.errors import MissingDependencyError, UnsupportedError, UsageError
from wcodec.formats.atomic import atomic_file
from wcodec.model import Array
from wcodec.writing import check_different

if TYPE_CHECKING:
    from wcodec.infer.forms.launch import Precision
    from wcodec.infer.ports import Port
    from wcodec.infer.profile import Layer
    from wcodec.opencl.device import Device

_OF_INFERENCE = ("precision", "batch", "size", "top", "trace")
"""Options that say nothing of decoding."""


@dataclass(frozen=True)
class _Decoding:
    """All tensors decoded into memory that was there already; `bytes` is what they take there."""

    to: str
    seconds: float
    bytes: int
    weights_per_second: float
    bytes_per_second: float


@click.command(short_help="measure decoding, or with --infer the model's layers")
@click.argument("source", metavar="SRC", type=click.Path())
@click.option("--infer", is_flag=True, help="Run the model on random numbers, and show what each layer takes.")
@device_option
@click.option(
    "--repeats", type=click.IntRange(min=1), default=9, show_default=True, help="Runs of which the median is."
)
@precision_option
@click.option("--batch", type=click.IntRange(min=1), help="Inputs at once. [default: 1, or the model's own]")
@click.option("--size", type=Extent(), metavar="HxW", help="Height and width of images, where the model takes any.")
@click.option("--top", type=click.IntRange(min=1), help="Show so many of the slowest layers. [default: all, in order]")
@click.option("--trace", type=click.Path(dir_okay=False), metavar="FILE", help="Write a JSON file for ui.perfetto.dev.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    source: str,
    infer: bool,
    device: str,
    repeats: int,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Measure how fast the archive SRC (a path, a URL, or - for stdin) is decoded to the host and onto a device.

    With --infer, measure how fast its model runs there instead: every layer by the device's own clock, and the whole.
    A layer's speed counts the operations of the result computed directly, a multiplication and an addition being two.
    """
    given = [name for name in ("device", *_OF_INFERENCE) if _is_given(context, name)]
    if not infer:
        for name in given:
            if name != "device":
                raise UsageError(f"--{name} does nothing without --infer; leave it out")
        _decoding(archive_source(source), device, repeats, must="device" in given, as_json=as_json)
        return
    if chosen["trace"] is not None:
        check_different(source, chosen["trace"])
    top = chosen.pop("top")
    run = _inference(archive_source(source), device, repeats, **chosen)
    layers = run.layers if top is None else sorted(run.layers, key=lambda layer: -layer.seconds)[:top]
    if as_json:
        rows = [msgspec.to_builtins(layer) | {"speed": layer.speed} for layer in layers]
        print_json(msgspec.to_builtins(run) | {"layers": rows})
    else:
        _print_run(run, layers)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


# Decoding


def _decoding(source: str | bytes, device: str, repeats: int, *, must: bool, as_json: bool) -> None:
    """Measure decoding, and print what was found; a device that is not there is an error if it `must` be."""
    missing = None
    with wcodec.open(source) as archive:
        stored, size = archive.file_bytes, sum(tensor.nbytes for tensor in archive.tensors())
        found = [_decoded(archive, "host", "cpu", repeats)]
        try:
            opened = _opened(device)
            found.append(_decoded(archive, opened.device.name.strip(), opened, repeats))
        except MissingDependencyError as error:
            if must:
                raise
            missing = str(error)
    if as_json:
        print_json({"file_bytes": stored, "decoding": found, "missing": missing})
        return
    rows = [
        (each.to, f"{each.seconds:.4f}", f"{each.bytes_per_second / 1e6:.0f}", f"{each.weights_per_second / 1e6:.1f}")
        for each in found
    ]
    print_table(("decoded to", ">seconds", ">MB/s", ">M weights/s"), rows)
    click.echo(f"{human_bytes(size)} in {human_bytes(stored)}, {_median_of(repeats)}")
    if missing is not None:
        click.echo(f"no device: {printable(missing)}")


def _opened(device: str) -> Device:
    from wcodec.opencl.device import Device

    return Device.open(device)


def _decoded(archive: wcodec.Archive, to: str, device: str | Device, repeats: int) -> _Decoding:
    out = wcodec.load(archive, device)
    size = sum({id(tensor): int(tensor.nbytes) for tensor in out.values()}.values())
    weights = sum(tensor.size for tensor in archive.tensors())
    seconds = _median_seconds(lambda: wcodec.load(archive, device, out=out), repeats)
    return _Decoding(to, seconds, size, weights / seconds, size / seconds)


def _median_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return max(statistics.median(times), 1e-9)


def _median_of(repeats: int) -> str:
    return f"median of {counted(repeats, 'run')}"


# Inference


@dataclass(frozen=True)
class _Run:
    """A model that was measured; speeds are floating-point operations a second."""

    device: str
    precision: str
    inputs: list[tuple[int, ...]]
    repeats: int
    seconds: float
    kernel_seconds: float
    overhead_seconds: float
    operations: int
    speed: float
    peak: float
    fraction_of_peak: float
    weights_bytes: int
    arena_bytes: int
    layers: tuple[Layer, ...]


def _inference(
    source: str | bytes,
    device: str,
    repeats: int,
    *,
    precision: Precision,
    batch: int | None,
    size: tuple[int, int] | None,
    trace: str | None,
) -> _Run:
    """Measure a model on random input."""
    from wcodec.infer.engine import Engine
    from wcodec.infer.profile import measured_peak, profile

    with Engine.open(source, device, precision=precision) as engine:
        shapes = _shapes(engine.inputs, batch, size)
        rng = np.random.default_rng(0)
        inputs: list[Array] = [rng.standard_normal(shape, np.float32) for shape in shapes]
        found = profile(engine, *inputs, repeats=repeats)
        peak, memory = measured_peak(engine.device), engine.memory
        name = engine.device.device.name.strip()
    if trace is not None:
        with atomic_file(trace) as stream:
            stream.write(msgspec.json.encode(found.trace()))
    speed = found.operations / found.seconds
    return _Run(
        *(name, precision, shapes, repeats, found.seconds, found.seconds - found.overhead, found.overhead),
        *(found.operations, speed, peak, speed / peak, memory.weights, memory.arena),
        found.layers,
    )


def _shapes(ports: Sequence[Port], batch: int | None, size: tuple[int, int] | None) -> list[tuple[int, ...]]:
    """The inputs' shapes with what is free in them filled in; `UsageError` where the options do not fit them."""
    taken = ", ".join(f"{port.name} {'x'.join(map(str, port.shape))}" for port in ports)
    if size is not None and not any(isinstance(length, str) for port in ports for length in port.shape[1:]):
        raise UsageError(f"--size does nothing: the model takes {taken}; leave it out")
    shapes = []
    for port in ports:
        own = port.shape[0] if port.shape else 1
        if batch is not None and isinstance(own, int) and own != batch:
            raise UsageError(f"--batch {batch}: the model takes {taken}; leave it out")
        free = [axis for axis, length in enumerate(port.shape) if axis and isinstance(length, str)]
        if free and size is None:
            raise UsageError(f"the model takes {taken}; say by --size HxW how large its images are")
        if len(free) not in (0, 2):
            raise UnsupportedError(f"the model takes {taken}, which --size does not settle; profile it from Python")
        lengths = iter(size or ())
        shape = [length if isinstance(length, int) else next(lengths) for length in port.shape[1:]]
        shapes.append((batch or 1 if isinstance(own, str) else own, *shape) if port.shape else ())
    return shapes


def _print_run(run: _Run, layers: Sequence[Layer]) -> None:
    rows = [
        (
            *(layer.name, layer.kind, layer.form, shape_text(layer.inputs[0]), shape_text(layer.output)),
            *(
                f"{1e3 * layer.seconds:.3f}",
                f"{layer.seconds / max(run.seconds, run.kernel_seconds):.1%}",
                f"{layer.speed / 1e9:.1f}",
            ),
            human_bytes(layer.weights),
        )
        for layer in layers
    ]
    print_table(
        ("layer", "operation", "form", "input", "output", ">ms", ">share", ">GFLOP/s", ">weights"),
        rows,
    )
    kernels = f"{1e3 * run.kernel_seconds:.2f} in {counted(len(run.layers), 'layer')}"
    # kernels are timed one by one, which takes longer than running them together, as the engine may
    more = f", {1e3 * run.overhead_seconds:.2f} in launches and copies" if run.overhead_seconds > 0 else " one by one"
    click.echo(f"{1e3 * run.seconds:.2f} ms a run ({_median_of(run.repeats)}): {kernels}{more}")
    click.echo(
        f"{run.operations / 1e9:.3f} GFLOP, {run.speed / 1e9:.1f} GFLOP/s, {run.fraction_of_peak:.1%} of the "
        f"{run.peak / 1e9:.1f} GFLOP/s that {printable(run.device)} does at most"
    )
    click.echo(f"on the device: weights {human_bytes(run.weights_bytes)}, arena {human_bytes(run.arena_bytes)}")
