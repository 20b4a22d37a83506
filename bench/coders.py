"""Size and speed of every lossless coder on real weights, beside plain Zstandard and the zeroth-order entropy.

    python -m bench.coders [--update docs/benchmarks.md]

Sizes count everything a coder writes for a tensor's symbols; they are exact and repeatable. Speeds are of one thread,
in million weights a second, the median of interleaved runs over the largest tensor of a set. "auto" is the size of the
smallest coder tensor by tensor, as `wcodec encode` picks it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zstandard

from bench.report import machine, table, update
from bench.sets import entropy, symbol_sets
from wcodec.choose import choose, named_coder
from wcodec.coders import CODERS
from wcodec.coders.raw import Raw
from wcodec.model import Array
from wcodec.pipeline import TensorCodec
from wcodec.policy import Policy
from wcodec.recipe import Recipe
from wcodec.scales import Scales, Uniform
from wcodec.tiling import Flat, Rows

ROUNDS = 5
LOSSLESS = ("raw", "zstd", "rans", "ffv1", "h264", "hevc", "av1", "vp9")


def codec_for(symbols: Array, bits: int) -> TensorCodec:
    """A tensor's codec before a coder is chosen; the scales do not matter to the symbols' size."""
    rows = Rows.of(symbols.shape)
    quantizer = Uniform(bits, True, (1, *(0 for _ in symbols.shape[1:])), "max")
    scales = Scales(rows, quantizer.block, np.ones((len(symbols), *(1 for _ in symbols.shape[1:])), np.float32), None)
    return TensorCodec("f32", rows, Recipe(quantizer, Flat(), Raw()), scales)


def coded_size(codec: TensorCodec, symbols: Array) -> int:
    return sum(len(codec.encode(symbols[start:stop])) for start, stop in codec.rows.chunks())


def auto_size(codec: TensorCodec, symbols: Array) -> int:
    choice = choose(codec, lambda chunk: symbols[slice(*chunk)], Policy())
    return coded_size(choice.codec, symbols)


def speed(work: Callable[[], object], weights: int) -> float:
    began = time.perf_counter()
    work()
    return weights / (time.perf_counter() - began) / 1e6


def speeds(symbols: Array, bits: int) -> dict[str, tuple[float, float]]:
    """Encode and decode speed of every coder and of Zstandard alone on one chunk."""
    codec = codec_for(symbols, bits)
    start, stop = codec.rows.chunks()[0]
    chunk = np.ascontiguousarray(symbols[start:stop])
    plain = zstandard.ZstdCompressor(level=3).compress(chunk.tobytes())
    runs: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in (*LOSSLESS, "zstandard -3")}
    for _ in range(ROUNDS):
        for name in LOSSLESS:
            coder = named_coder(name, codec.rows, chunk.dtype, bits, None, None)
            assert coder is not None
            one = codec.with_coder(coder)
            frames = one.recipe.tiling.tile(chunk)
            payload = coder.encode(frames)
            out = np.empty_like(frames)
            runs[name][0].append(speed(lambda: coder.encode(frames), chunk.size))  # noqa: B023, called at once
            runs[name][1].append(speed(lambda: coder.decode(payload, out), chunk.size))  # noqa: B023
        data = chunk.tobytes()
        runs["zstandard -3"][0].append(speed(lambda: zstandard.ZstdCompressor(level=3).compress(data), chunk.size))  # noqa: B023
        runs["zstandard -3"][1].append(speed(lambda: zstandard.ZstdDecompressor().decompress(plain), chunk.size))
    return {name: (statistics.median(e), statistics.median(d)) for name, (e, d) in runs.items()}


def measure(name: str, tensors: list[Array]) -> str:
    bits = int(name.rpartition("int")[2])
    weights = sum(symbols.size for symbols in tensors)
    timed = speeds(max(tensors, key=lambda symbols: symbols.size), bits)
    rows: list[tuple[str, ...]] = [
        ("zeroth-order entropy", f"{sum(entropy(s) * s.size for s in tensors) / weights:.3f}", "", "")
    ]
    for level in (3, 19):
        size = sum(len(zstandard.ZstdCompressor(level=level).compress(s.tobytes())) for s in tensors)
        label = f"zstandard -{level}"
        rows.append((label, f"{8 * size / weights:.3f}", *(f"{v:.0f}" for v in timed.get(label, ()))))
    singles = []
    for coder_name in LOSSLESS:
        size = 0
        for symbols in tensors:
            coder = named_coder(coder_name, Rows.of(symbols.shape), symbols.dtype, bits, None, None)
            assert coder is not None
            size += coded_size(codec_for(symbols, bits).with_coder(coder), symbols)
        singles.append(size)
        rows.append((coder_name, f"{8 * size / weights:.3f}", *(f"{v:.1f}" for v in timed[coder_name])))
        print(name, rows[-1], flush=True)
    size = sum(auto_size(codec_for(symbols, bits), symbols) for symbols in tensors)
    rows.append(("**auto**", f"**{8 * size / weights:.3f}**", "", ""))
    text = f"### {name}, {weights:,} weights\n\n" + table(("coder", "bpw", "encode M/s", "decode M/s"), rows)
    return text + f"\n\nauto is {size / min(singles):.4f} times the best single coder."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", type=Path, help="write the tables between the markers of this file")
    arguments = parser.parse_args()
    assert set(LOSSLESS) == CODERS.keys() - {"floats"}
    text = machine() + "\n\n" + "\n\n".join(measure(name, tensors) for name, tensors in symbol_sets().items())
    print(text)
    if arguments.update:
        update(arguments.update, "coders", text)


if __name__ == "__main__":
    main()
