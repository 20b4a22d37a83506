"""Makes v1/container.wcodec, which pins the bytes of the container. Run once; golden files are only ever added."""

from __future__ import annotations

import io
from pathlib import Path

from wcodec.formats.container import ContainerWriter

PATH = Path(__file__).parent / "v1" / "container.wcodec"

RECIPES: list[dict[str, object]] = [
    {"quantizer": {"id": "keep"}, "coder": {"id": "raw"}},
    {"quantizer": {"id": "uniform", "bits": 8}, "coder": {"id": "zstd", "level": 12}},
]
GRAPH = b"stands for a graph; " * 20
METADATA = {"author": "wcodec", "note": "line one\nline two \N{SNOWMAN}"}
TIES = {"head.weight": "embedding.weight"}
FIDELITY = {"kl": 0.0033, "top1": 0.964}


def payload(seed: int, length: int) -> bytes:
    """Bytes that any language can make again: a linear congruential generator's high bytes."""
    state, data = seed, bytearray()
    for _ in range(length):
        state = (state * 1103515245 + 12345) % 2**31
        data.append(state >> 23)
    return bytes(data)


def build() -> bytes:
    """The file, which has everything a container can have."""
    stream = io.BytesIO()
    writer = ContainerWriter(stream)
    writer.set_graph(GRAPH)
    writer.add_side(payload(1, 40))
    writer.add_chunk(payload(2, 64), 3)
    writer.add_chunk(payload(3, 100), 2)
    writer.add_tensor("embedding.weight", "f32", (5, 7), row_axes=1, recipe=RECIPES[1])
    writer.add_chunk(payload(4, 1), 1)
    writer.add_tensor("scalar", "i64", (), row_axes=0, recipe=RECIPES[0])
    writer.add_tensor("nothing", "bool", (3, 0), row_axes=1, recipe=RECIPES[0])
    writer.add_chunk(payload(5, 129), 6)
    writer.add_tensor("../naïve/名", "bf16", (2, 3, 11), row_axes=2, recipe=RECIPES[1])
    writer.finish(metadata=METADATA, ties=TIES, fidelity=FIDELITY)
    return stream.getvalue()


if __name__ == "__main__":
    with PATH.open("xb") as file:
        file.write(build())
