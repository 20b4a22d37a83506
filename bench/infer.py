"""Inference from int8 archives: errors, latency beside other runtimes, use of the processor, start, and memory.

    python -m bench.infer [--update docs/benchmarks.md] [--net NAME] [--device opencl:1] [--part PART] [--folder FOLDER]

Errors are against ONNX Runtime in floats, with the weights that the archive decodes to. Runtimes are timed in turn, so
that what else the machine does meets all of them; each turn is a tenth of a second that does not count and a run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest.mock import patch

from bench.infer_fresh import cold, fresh
from bench.infer_nets import TITLES, Subject, subject
from bench.infer_peers import PEERS, distance, onnx_runtime, opened_peers
from bench.report import machine, table, update
from tests.support.infer import outputs_of, precisions
from wcodec.infer.engine import PRECISIONS, Engine
from wcodec.infer.forms.launch import Precision
from wcodec.infer.profile import measured_peak, profile
from wcodec.model import Array
from wcodec.opencl.device import Device
from wcodec.opencl.platforms import list_devices

PARTS = ("errors", "latency", "peak", "start", "memory")

STARTS = 5

_PAUSE = 0.05
"""Seconds before each turn, since the threads of some runtimes go on waiting busily for a while."""

_SETTLING = 0.1
"""Seconds of runs that do not count, until threads are awake, each on a core of its own, and caches hold the net."""

_SHORT = {"Portable Computing Language": "PoCL", "Intel(R) OpenCL": "Intel"}

Devices = Mapping[str, Device]
"""By names such as "opencl:0"."""


def title_of(device: Device) -> str:
    name: str = device.device.platform.name.strip()
    return _SHORT.get(name, name)


# Errors


def errors(subjects: Sequence[Subject], devices: Devices, wanted: Sequence[Precision]) -> str:
    """Relative L2 errors of all outputs, the worst of some photos."""
    columns = [(device, p) for device in devices.values() for p in precisions(device) if p in wanted]
    rows = []
    for each in subjects:
        reference = onnx_runtime(each)
        rows.append((each.title, *(f"{error(each, *column, reference):.1e}" for column in columns)))
        print(rows[-1], flush=True)
    return table(("net", *(f"{title_of(device)}, {precision}" for device, precision in columns)), rows)


def error(each: Subject, device: Device, precision: Precision, reference: Callable[..., list[Array]]) -> float:
    """Of halves one photo: where the processor has none, arithmetic with them takes a hundred times as long."""
    photos = each.photos[:1] if precision == "half" else each.photos
    with Engine.open(each.archive, device, precision=precision) as engine:
        return max(distance(outputs_of(engine, photo), reference(photo)) for photo in photos)


# Latency


def latency(subjects: Sequence[Subject], devices: Devices, rounds: int) -> str:
    """Milliseconds of one photo, and how many times as long as ONNX Runtime takes."""
    head = ["net", *PEERS]
    for device in devices.values():
        head += [title_of(device), "to ONNX Runtime"]
    rows = []
    for each in subjects:
        rows.append(latency_row(each, devices, rounds))
        print(rows[-1], flush=True)
    return table(head, rows)


def latency_row(each: Subject, devices: Devices, rounds: int) -> tuple[str, ...]:
    running, reasons = opened_peers(each)
    photo = each.photos[0]
    engines = {name: Engine.open(each.archive, device) for name, device in devices.items()}
    works: dict[str, Callable[[], object]] = {name: partial(run, photo) for name, run in running.items()}
    works |= {name: partial(engine, photo) for name, engine in engines.items()}
    times = interleaved(works, rounds)
    for engine in engines.values():
        engine.close()
    cells = [reasons[peer] if peer in reasons else f"{1e3 * statistics.median(times[peer]):.2f}" for peer in PEERS]
    first = next(iter(PEERS))
    for name in engines:
        cells.append(f"**{1e3 * statistics.median(times[name]):.2f}**")
        ratios = [ours / theirs for ours, theirs in zip(times[name], times.get(first, ()), strict=False)]
        cells.append(f"{statistics.median(ratios):.2f}" if ratios else "")
    return each.title, *cells


def interleaved(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, run in turn after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            time.sleep(_PAUSE)
            times[name].append(settled(work))
    return {name: found[1:] for name, found in times.items()}


def settled(work: Callable[[], object]) -> float:
    """Seconds of the last of several runs."""
    ready = time.perf_counter() + _SETTLING
    began = 0.0
    while began < ready:
        work()
        began = time.perf_counter()
    work()
    return time.perf_counter() - began


# Use of the processor


def peak(subjects: Sequence[Subject], devices: Devices, repeats: int) -> str:
    """What of a device's most the 3x3 convolutions of the VGG16s reach, by its own clock."""
    rows = []
    for each in (each for each in subjects if each.net.startswith("vgg16")):
        for device in devices.values():
            rows.append((f"{each.title}, {title_of(device)}", *reached(each, device, repeats)))
            print(rows[-1], flush=True)
            with patch("wcodec.infer.forms.conv.winograd_forms", lambda *_: ()):
                rows.append((f"{each.title}, {title_of(device)}, directly", *reached(each, device, repeats)))
            print(rows[-1], flush=True)
    return table(("net", "layers of 3x3", "GFLOP/s", "peak GFLOP/s", "of the peak"), rows)


def reached(each: Subject, device: Device, repeats: int) -> tuple[str, ...]:
    with Engine.open(each.archive, device) as engine:
        most = measured_peak(device)
        layers = profile(engine, each.photos[0], repeats=repeats).layers
        most = max(most, measured_peak(device))
    chosen = [layer for layer in layers if layer.kind == "convolution 3x3"]
    speed = sum(layer.operations for layer in chosen) / sum(layer.seconds for layer in chosen)
    return str(len(chosen)), f"{speed / 1e9:.1f}", f"{most / 1e9:.1f}", f"{100 * speed / most:.1f} %"


# Start and memory


def start(each: Subject, devices: Devices) -> str:
    """Seconds of a fresh process to the first answer, with warm caches."""
    rows = []
    for name, device in devices.items():
        fresh(each, name)
        found = [fresh(each, name) for _ in range(STARTS)]
        parts = [[one.start, one.imports, one.device, one.model, one.run, one.whole] for one in found]
        medians = [f"{statistics.median(column):.3f}" for column in zip(*parts, strict=True)]
        rows.append((f"{each.title}, {title_of(device)}", *medians[:-1], f"**{medians[-1]}**"))
        print(rows[-1], flush=True)
    return table(("seconds", "process", "imports", "device", "model", "first run", "in all"), rows)


def memory(subjects: Sequence[Subject], devices: Devices) -> str:
    """Device memory, and what a first run with empty caches builds."""
    head = ["net", "weights MB", "arena MB", "process MB"]
    for device in devices.values():
        head += [f"{title_of(device)}, first run s", "programs"]
    rows = []
    for each in subjects:
        colds = [cold(each, name) for name in devices]
        warm = fresh(each, next(iter(devices)))
        sizes = [f"{size / 1e6:.1f}" for size in (warm.weights, warm.arena, warm.growth)]
        built = [text for one in colds for text in (f"{one.model + one.run:.1f}", str(one.programs))]
        rows.append((each.title, *sizes, *built))
        print(rows[-1], flush=True)
    return table(head, rows)


def sections(arguments: argparse.Namespace, subjects: list[Subject], devices: Devices) -> Iterator[str]:
    yield machine(*installed("pyopencl", "onnxruntime", "torch", "openvino", "ncnn", "pnnx"))
    wanted = arguments.part or PARTS
    if "errors" in wanted:
        yield "### Errors\n\n" + errors(subjects, devices, arguments.precision or PRECISIONS)
    if "latency" in wanted:
        yield "### Latency\n\n" + latency(subjects, devices, arguments.rounds)
    if "peak" in wanted:
        yield "### Use of the processor\n\n" + peak(subjects, devices, arguments.rounds)
    if "start" in wanted:
        yield "### Start\n\n" + start(subjects[0], devices)
    if "memory" in wanted:
        yield "### Memory and first run\n\n" + memory(subjects, devices)


def installed(*names: str) -> list[str]:
    found = []
    for name in names:
        try:
            version(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", type=Path, help="write the tables between the markers of this file")
    parser.add_argument("--net", action="append", choices=TITLES, help="measure only this net; may be repeated")
    parser.add_argument("--device", action="append", help="measure only on this device, such as opencl:1; likewise")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="errors only of this; likewise")
    parser.add_argument("--part", action="append", choices=PARTS, help="measure only this; likewise")
    parser.add_argument("--rounds", type=int, default=15, help="turns of every runtime")
    parser.add_argument("--folder", type=Path, help="where models are kept for the next time")
    arguments = parser.parse_args()
    names = arguments.device or [f"opencl:{found.number}" for found in list_devices() if found.works]
    devices = {name: Device.open(name) for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        subjects = [subject(net, folder) for net in arguments.net or TITLES]
        text = "\n\n".join(sections(arguments, subjects, devices))
    print(text)
    if arguments.update:
        update(arguments.update, "infer", text)


if __name__ == "__main__":
    main()
