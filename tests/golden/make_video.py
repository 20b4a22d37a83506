"""Makes v1/video/*.bin, which pin the payloads of the video coders. Run once; golden files are only ever added.

Every codec at every depth, lossless, whose symbols `symbols` makes again; and every lossy codec once, whose decoded
symbols lie beside the payload, because decoding is exact in all of these codecs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wcodec.coders.video import VIDEO_CODERS, QuantizedVideo, VideoCoder

FOLDER = Path(__file__).parent / "v1" / "video"

SHAPE = (2, 19, 37)
"""Two frames of odd sides, so that every codec has to crop or pad."""


def symbols(depth: int, shape: tuple[int, int, int] = SHAPE) -> NDArray[Any]:
    """Signed symbols of `depth` bits, mostly small and with both extremes, made by integer arithmetic alone."""
    low, high = -(1 << depth - 1), (1 << depth - 1) - 1
    state, found = depth, []
    for _ in range(int(np.prod(shape))):
        total = 0
        for _ in range(4):
            state = (state * 1103515245 + 12345) % 2**31
            total += state >> 23
        fine = (state >> 9) % max(1, high + 1 >> 9)
        found.append(max(low, min(high, ((total - 510) * (high + 1) >> 9) + fine)))
    found[0], found[-1] = low, high
    return np.array(found, np.int8 if depth == 8 else np.int16).reshape(shape)


def lossless() -> dict[str, VideoCoder]:
    """The coders by the names of their golden files."""
    return {f"{name}-{depth}": kind.of(depth) for name, kind in VIDEO_CODERS.items() for depth in kind.formats}


def lossy() -> dict[str, VideoCoder]:
    kinds = {name: kind for name, kind in VIDEO_CODERS.items() if issubclass(kind, QuantizedVideo)}
    return {f"{name}-8-qp20": kind(depth=8, qp=20) for name, kind in kinds.items()}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, coder in (lossless() | lossy()).items():
        given = symbols(coder.depth)
        payload = coder.encode(given)
        with (FOLDER / f"{name}.bin").open("xb") as file:
            file.write(payload)
        if not coder.lossless:
            coder.decode(payload, given)
            with (FOLDER / f"{name}.symbols").open("xb") as file:
                file.write(given.tobytes())


if __name__ == "__main__":
    main()
