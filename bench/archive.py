"""What the file and the loader cost: overhead, opening, import, decoding beside Zstandard alone, and memory.

    python -m bench.archive [--update docs/benchmarks.md] [--gigabytes 2]

Times are medians of interleaved runs. Peak memory is the operating system's, of a child process that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import zstandard

import wcodec
from bench.report import machine, table, update
from tests.zoo import imagenet_weights
from wcodec.formats.container import ContainerReader
from wcodec.formats.source import open_source
from wcodec.model import Array

ROUNDS = 7


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def interleaved(*works: Callable[[], object]) -> list[float]:
    """The median time of each, run in turn after one round that does not count."""
    runs = [[seconds(work) for work in works] for _ in range(ROUNDS + 1)][1:]
    return [statistics.median(times) for times in zip(*runs, strict=True)]


def overhead(folder: Path) -> tuple[str, ...]:
    """Bytes of a file of about 10 MB that are not payload."""
    arrays = {
        f"layers.{i}.weight": np.random.default_rng(i).standard_normal((512, 512)).astype(np.float32) for i in range(44)
    }
    path = folder / "overhead.wcodec"
    wcodec.encode(wcodec.Model.from_arrays(arrays), path, wcodec.Policy(coder="zstd"))
    with wcodec.open(path) as archive:
        size, payload, count = archive.file_bytes, sum(t.stored_bytes for t in archive.tensors()), len(archive)
    allowed = 0.001 * size + 200 * count
    return f"overhead of a {size / 1e6:.1f} MB file of {count} tensors", f"{size - payload:,} B", f"{allowed:,.0f} B"


def opening(folder: Path) -> tuple[str, ...]:
    """Opening an archive of 1,000 tensors and listing names, dtypes and shapes."""
    arrays = {
        f"model.layers.{i // 8}.block.{i % 8}.weight": np.ones((64, 9 + i % 7), np.float32) * i for i in range(1000)
    }
    path = folder / "thousand.wcodec"
    wcodec.encode(wcodec.Model.from_arrays(arrays), path, wcodec.Policy(coder="zstd", min_size=1))

    def listed() -> None:
        with wcodec.open(path) as archive:
            assert len([(t.name, t.dtype, t.shape) for t in archive.tensors()]) == 1000

    (median,) = interleaved(listed)
    return "open and list 1,000 tensors", f"{1000 * median:.2f} ms", "5 ms"


def importing() -> tuple[str, ...]:
    def fresh(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    bare, with_wcodec = interleaved(fresh("pass"), fresh("import wcodec"))
    return "`import wcodec`", f"{with_wcodec - bare:.3f} s", "0.3 s"


def zstd_path(folder: Path) -> tuple[str, ...]:
    """Decoding VGG16 (138 M weights, int8) into arrays, beside Zstandard and one NumPy pass on the same chunks."""
    arrays = imagenet_weights("vgg16")
    path = folder / "vgg16.wcodec"
    wcodec.encode(wcodec.Model.from_arrays(arrays), path, wcodec.Policy(coder="zstd"))
    out = {name: np.zeros_like(array) for name, array in arrays.items()}
    del arrays
    with wcodec.open(path) as archive, ContainerReader(open_source(path)) as container:
        quantized = [tensor for tensor in archive.tensors() if tensor.codec.scales is not None]
        pieces = [(tensor, piece) for tensor in quantized for piece in tensor.pieces]
        payloads = [bytes(container.payload(piece.chunk, "chunk")) for _, piece in pieces]
        pool = ThreadPoolExecutor(os.cpu_count())

        def alone(item: tuple[int, bytes]) -> None:
            number, payload = item
            tensor, piece = pieces[number]
            symbols = np.frombuffer(zstandard.ZstdDecompressor().decompress(payload), np.int8)
            target = out[tensor.name].reshape(tensor.rows.count, -1)[piece.start : piece.stop]
            scale = tensor.codec.scales.of_rows(piece.start, piece.stop)[0].reshape(-1, 1)  # type: ignore[union-attr]
            np.multiply(symbols.reshape(target.shape), scale, out=target)

        reference, loaded = interleaved(
            lambda: list(pool.map(alone, enumerate(payloads))), lambda: wcodec.load(path, out=out)
        )
        one_thread, single = interleaved(
            lambda: list(map(alone, enumerate(payloads))), lambda: wcodec.load(path, out=out, workers=1)
        )
        pool.shutdown()
    return (
        f"load VGG16 int8, zstd: {loaded:.3f} s ({138.36 / loaded:.0f} M weights/s); one thread {single:.3f} s",
        f"{loaded / reference:.2f} times (one thread {single / one_thread:.2f})",
        "1.5 times",
    )


def child(work: str) -> int:
    """Peak resident memory in MB of a fresh process that runs `work`."""
    # not getrusage: its maximum begins with that of the process that started this one
    script = f"import wcodec\n{work}\nprint(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    peak = next(line for line in done.stdout.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024 // 10**6


def memory(folder: Path, gigabytes: float) -> list[tuple[str, ...]]:
    """Peak memory of encoding a large safetensors file and of decoding it again."""
    source, archive, decoded = (folder / name for name in ("large.safetensors", "large.wcodec", "decoded.safetensors"))
    write_large(source, gigabytes)
    rows: list[tuple[str, ...]] = []
    for coder in ("zstd", "auto"):
        encoding = f"wcodec.encode({str(source)!r}, {str(archive)!r}, wcodec.Policy(coder={coder!r}))"
        rows.append((f"peak memory, encode {gigabytes:g} GB safetensors, {coder}", f"{child(encoding)} MB", "700 MB"))
    decoding = f"wcodec.decode({str(archive)!r}, {str(decoded)!r})"
    rows.append((f"peak memory, decode to {gigabytes:g} GB safetensors", f"{child(decoding)} MB", "700 MB"))
    return rows


def write_large(path: Path, gigabytes: float) -> None:
    """A safetensors file of f32 matrices of 256 MB, the values repeating every 4 MB."""
    rows = 16384
    block = (np.random.default_rng(0).standard_normal((rows // 64, 4096)) * 0.02).astype(np.float32)

    def read(start: int, stop: int) -> Array:
        return np.resize(block, stop - start)

    count = max(1, round(gigabytes * 1e9 / (rows * 4096 * 4)))
    tensors = [wcodec.Tensor(f"layers.{i}.weight", "f32", (rows, 4096), read) for i in range(count)]
    wcodec.write_model(wcodec.Model(tensors), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", type=Path, help="write the table between the markers of this file")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the file for the memory figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [overhead(folder), opening(folder), importing(), zstd_path(folder), *memory(folder, arguments.gigabytes)]
    text = machine() + "\n\n" + table(("what", "measured", "bound"), rows)
    print(text)
    if arguments.update:
        update(arguments.update, "archive", text)


if __name__ == "__main__":
    main()
