"""`rans`: sizes beside the entropy and its peers, speed of every path beside Zstandard in the same run, lanes.

    python -m bench.rans [--update docs/benchmarks.md]

Sizes count everything but scales, and are exact. Speeds are of whole sets of symbols in memory on all cores, in million
weights a second: medians of runs that take turns. The OpenCL rows are measured on every device that works.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import zstandard

import wcodec
from bench.coders import codec_for
from bench.report import machine, table, update
from bench.sets import entropy, symbol_sets
from wcodec import Policy
from wcodec.archived import ArchivedTensor
from wcodec.coders.rans import Rans
from wcodec.coders.rans.coder import LANE
from wcodec.coders.rans.fit import fit
from wcodec.coders.rans.payload import unpack
from wcodec.coders.zstd import Zstd
from wcodec.model import Array
from wcodec.opencl.accelerate import Accelerator
from wcodec.opencl.batch import Batch, BatchBuilder
from wcodec.opencl.device import Device
from wcodec.opencl.launch import Destination, Factors, Launcher, Source
from wcodec.opencl.layout import PackedLayout
from wcodec.opencl.platforms import list_devices
from wcodec.opencl.tensors import DeviceTensor, make_factors

ROUNDS = 7
NNC = {"VGG16 int8": 6.436, "VGG16 int4": 2.154, "EfficientNet-Lite0 int8": 7.359, "EfficientNet-Lite0 int4": 3.077}
"""Bits per weight of nncodec 2.1.3, recorded."""

LANES = (512, 1024, 2304, 4608, 9216, 16384)


def chunks_of(symbols: Array) -> list[Array]:
    """A tensor's chunks as frames."""
    rows = codec_for(symbols, 8).rows
    return [np.ascontiguousarray(symbols[a:b]).reshape(1, b - a, rows.size) for a, b in rows.chunks()]


def coder_for(symbols: Array, lane: int | None = None) -> Rans:
    suited = Rans.suited(symbols.size, symbols.shape[2:])
    return suited if lane is None else Rans(lane, suited.period)


def sizes(sets: dict[str, list[Array]]) -> str:
    rows = []
    for name, tensors in sets.items():
        weights, bits = sum(symbols.size for symbols in tensors), int(name.rpartition("int")[2])
        ours = fast = 0
        worse, heads = 0, [0.0]
        for symbols in tensors:
            frames, coder = chunks_of(symbols), coder_for(symbols)
            payloads = [coder.encode(chunk) for chunk in frames]
            size = sum(map(len, payloads))
            plain = sum(len(Zstd.suited(3, chunk.dtype, bits).encode(chunk)) for chunk in frames)
            worse += size > 1.001 * plain
            if symbols.size > 1 << 20:
                heads.append(sum(map(overhead, [coder] * len(frames), frames, payloads)) / size)
            ours, fast = ours + size, fast + min(size, plain)
        zeroth = sum(entropy(symbols) * symbols.size for symbols in tensors) / weights
        row = [name, f"{zeroth:.3f}", f"{NNC[name]:.3f}", f"**{8 * ours / weights:.3f}**", f"{8 * fast / weights:.3f}"]
        rows.append((*row, f"{worse} of {len(tensors)}", f"{100 * max(heads):.2f} %"))
        print(rows[-1], flush=True)
    head = ("set", "zeroth-order entropy", "nncodec", "rans", "rans or zstd", "larger than zstd", "lanes and tables")
    return table(head, rows)


def overhead(coder: Rans, frames: Array, payload: bytes) -> int:
    """Bytes of a payload's states, word counts and tables."""
    lanes = coder.lanes(frames[0])
    model, _ = unpack(payload, frames.shape[1], frames.shape[2] // coder.period, coder.period, len(lanes))
    return 6 * len(lanes) + model.classes.nbytes + model.stored.nbytes


def lanes(sets: dict[str, list[Array]]) -> str:
    """Size and decoding speed against the length of lanes, on VGG16's convolutions."""
    device = Accelerator(Device.open())
    rows = []
    for lane in LANES:
        row: list[str] = [f"{lane:,}" + (" (default)" if lane == LANE else ""), f"{138_344_128 / lane:,.0f}"]
        for name in ("VGG16 int8", "VGG16 int4"):
            tensors = [symbols for symbols in sets[name] if symbols.ndim == 4]
            frames = [(coder_for(symbols, lane), chunk) for symbols in tensors for chunk in chunks_of(symbols)]
            payloads = [coder.encode(chunk) for coder, chunk in frames]
            weights, out = sum(chunk.size for _, chunk in frames), [np.empty_like(chunk) for _, chunk in frames]

            def decode() -> None:
                for (coder, _), payload, target in zip(frames, payloads, out, strict=True):  # noqa: B023, called at once
                    device.decode(coder, payload, target)

            row += [f"{8 * sum(map(len, payloads)) / weights:.4f}", f"{weights / interleaved(decode)[0] / 1e6:.0f}"]
        rows.append(tuple(row))
        print(row, flush=True)
    head = ("symbols a lane", "lanes of a VGG16", "int8 bpw", "decode M/s", "int4 bpw", "decode M/s")
    return table(head, rows)


def interleaved(*works: Callable[[], object]) -> list[float]:
    """The median time of each, run in turn after one round that does not count."""
    runs: list[list[float]] = []
    for _ in range(ROUNDS + 1):
        runs.append([])
        for work in works:
            began = time.perf_counter()
            work()
            runs[-1].append(time.perf_counter() - began)
    return [statistics.median(times) for times in zip(*runs[1:], strict=True)]


def speeds(name: str, tensors: list[Array]) -> str:
    """Every path from payloads in memory to numbers, and from symbols to payloads, for the tensors of a set."""
    bits = int(name.rpartition("int")[2])
    arrays = {f"t{n}": symbols.astype(np.float32) for n, symbols in enumerate(tensors)}
    weights = sum(symbols.size for symbols in tensors)
    stream = io.BytesIO()
    wcodec.encode(wcodec.Model.from_arrays(arrays), stream, Policy(coder="rans", bits=bits))
    data, works = stream.getvalue(), dict[str, Callable[[], object]]()
    works |= zstandard_paths(tensors)
    for found in list_devices():
        if found.works:
            works |= device_paths(data, Device.open(f"opencl:{found.number}"), found.platform)
    medians = interleaved(*works.values())
    rows = [(label, f"{weights / median / 1e6:.0f}") for label, median in zip(works, medians, strict=True)]
    rows += [(label, f"{speed:.1f}") for label, speed in coding_paths(tensors).items()]
    return f"### {name}\n\n" + table(("path", "M weights/s"), rows)


def zstandard_paths(tensors: list[Array]) -> dict[str, Callable[[], object]]:
    """Zstandard alone, and with NumPy's dequantization to f16, on as many threads as there are cores."""
    chunks = [chunk[0] for symbols in tensors for chunk in chunks_of(symbols)]
    payloads = [zstandard.ZstdCompressor(level=3).compress(chunk.tobytes()) for chunk in chunks]
    scales = [np.full((len(chunk), 1), 0.01, np.float32) for chunk in chunks]
    halves = [np.empty(chunk.shape, np.float16) for chunk in chunks]
    pool = ThreadPoolExecutor(os.cpu_count())

    def plain(number: int) -> bytes:
        return zstandard.ZstdDecompressor().decompress(payloads[number])

    def dequantized(number: int) -> None:
        symbols = np.frombuffer(plain(number), np.int8).reshape(chunks[number].shape)
        np.multiply(symbols, scales[number], out=halves[number], dtype=np.float32, casting="unsafe")

    return {
        "zstandard -3, symbols": lambda: list(pool.map(plain, range(len(chunks)))),
        "zstandard -3 and NumPy, f16": lambda: list(pool.map(dequantized, range(len(chunks)))),
    }


def device_paths(data: bytes, device: Device, platform: str) -> dict[str, Callable[[], object]]:
    """Loading onto a device: into rows and into packed blocks, f16, everything from the archive's bytes on counted."""
    archive = wcodec.open(data)
    rows = wcodec.load(archive, device)
    packed = wcodec.load(archive, device, layout=PackedLayout())
    uploaded = [batch_on(archive.tensor(name), target) for name, target in packed.items()]
    launcher = Launcher(device)
    statuses = [device.status() for _ in uploaded]

    def kernels() -> None:
        for arguments, status in zip(uploaded, statuses, strict=True):
            launcher.decode(*arguments, status)
        device.queue.finish()

    return {
        f"rans, kernels to packed f16, {platform}": kernels,
        f"rans, load to f16 rows, {platform}": lambda: wcodec.load(archive, device, out=rows),
        f"rans, load to packed f16, {platform}": lambda: wcodec.load(archive, device, out=packed),
    }


def batch_on(tensor: ArchivedTensor, target: DeviceTensor) -> tuple[Rans, Batch, Source, Factors, Destination]:
    """What the kernel takes to decode a tensor into a target: all its chunks as one batch, on the device already."""
    coder, device = tensor.recipe.coder, target.device
    assert isinstance(coder, Rans)
    assert target.layout is not None
    builder = BatchBuilder(coder, tensor.rows.size, device.lanes)
    for piece in tensor.pieces:
        with tensor.reading(piece) as payload:
            builder.add(payload, piece.chunk.rows, piece.start)
    batch = builder.finish()
    flags = device.cl.mem_flags.READ_ONLY | device.cl.mem_flags.COPY_HOST_PTR
    source = device.cl.Buffer(device.context, flags, hostbuf=batch.blob)
    layout = target.layout.kernel_argument(tensor.shape)
    low, high = tensor.codec.symbol_range()
    columns, positions = tensor.shape[1], math.prod(tensor.shape[2:])
    to = Destination(target.buffer, "f16", layout, columns, positions, tensor.rows.size, low=low, high=high)
    return coder, batch, (source, None), make_factors(tensor, device), to


def coding_paths(tensors: list[Array]) -> dict[str, float]:
    """Million weights a second of coding the chunks of the largest tensors, by NumPy and by each device."""
    largest = max(tensors, key=lambda symbols: symbols.size)
    coder, frames = coder_for(largest), [c for t in tensors if t.size == largest.size for c in chunks_of(t)]
    out = [np.empty_like(chunk) for chunk in frames]
    payloads = [coder.encode(chunk) for chunk in frames]
    models = [fit(chunk[0], coder.period) for chunk in frames]
    pool = ThreadPoolExecutor(os.cpu_count())
    works: dict[str, Callable[[], object]] = {
        "rans, NumPy, encode": lambda: [coder.encode(chunk) for chunk in frames],
        "rans, NumPy, decode": lambda: [*map(coder.decode, payloads, out)],
    }
    for found in list_devices():
        if found.works:
            engine = Accelerator(Device.open(f"opencl:{found.number}"))

            def encode(engine: Accelerator = engine) -> object:
                return list(pool.map(lambda chunk: engine.encode(coder, chunk), frames))

            def decode(engine: Accelerator = engine) -> object:
                return list(pool.map(lambda pair: engine.decode(coder, *pair), zip(payloads, out, strict=True)))

            def lanes_alone(engine: Accelerator = engine) -> object:
                return [
                    engine.encode_lanes(model, chunk[0], coder) for model, chunk in zip(models, frames, strict=True)
                ]

            works |= {
                f"rans, {found.platform}, encode": encode,
                f"rans, {found.platform}, encode under known models": lanes_alone,
                f"rans, {found.platform}, decode": decode,
            }
    size = sum(chunk.size for chunk in frames)
    return {label: size / median / 1e6 for label, median in zip(works, interleaved(*works.values()), strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", type=Path, help="write the tables between the markers of this file")
    arguments = parser.parse_args()
    sets = symbol_sets()
    parts = [machine("pyopencl"), sizes(sets), lanes(sets)]
    parts += [speeds(name, sets[name]) for name in ("VGG16 int8", "VGG16 int4")]
    text = "\n\n".join(parts)
    print(text)
    if arguments.update:
        update(arguments.update, "rans", text)


if __name__ == "__main__":
    main()
