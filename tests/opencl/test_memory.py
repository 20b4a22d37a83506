"""What the host holds while an archive of any size goes to a device: a few chunks."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.containers import assemble, checksum, digest, padded
from wcodec.coders.base import Coder
from wcodec.coders.rans import Rans
from wcodec.coders.raw import Raw
from wcodec.coders.zstd import Zstd
from wcodec.opencl.device import Device
from wcodec.scales import Scales, Uniform
from wcodec.side import pack_scales
from wcodec.tiling import Rows

CHUNKS, SHAPE = 100, (1, 1024, 1024)

LOAD = """
import sys, threading
from pathlib import Path
import numpy as np
import wcodec
from wcodec.opencl.device import Device
from wcodec.opencl.tensors import DeviceTensor

def anonymous():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])

path, name = sys.argv[1:]
device = Device.open(name)
with wcodec.open(path, workers=4) as archive:
    whole = archive.tensor("w")
    small = wcodec.load(archive, device, names=["small"])
    buffer = device.buffer(2 * whole.size, "w")
    # pages of the destination that are there before do not count
    device.cl.enqueue_fill_buffer(device.queue, buffer, np.uint8(255), 0, 2 * whole.size).wait()
    out = {"w": DeviceTensor("w", "f16", whole.shape, None, buffer, device)}
    before, peak, stop = anonymous(), 0, threading.Event()

    def watch():
        global peak
        while not stop.wait(0.002):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    wcodec.load(archive, device, names=["w"], out=out)
    peak = max(peak, anonymous())
    stop.set()
    watcher.join()
    first = np.empty(1024, np.float16)
    device.cl.enqueue_copy(device.queue, first, buffer)
    assert np.array_equal(first, archive["small"].reshape(-1)[:1024].astype(np.float16))
    print(peak - before)
"""


@cache
def archive_of(coder: Coder) -> bytes:
    """A tensor of a hundred chunks that are all the same, and one of a single such chunk."""
    symbols = np.clip(np.rint(np.random.default_rng(0).laplace(size=SHAPE) * 9), -127, 127).astype(np.int8)
    chunk = coder.encode(symbols)
    shape = CHUNKS * SHAPE[1], SHAPE[2]
    quantizer = Uniform(8, True, (0, 0), "max")
    side = pack_scales(Scales(Rows(shape, 1), (0, 0), np.full((1, 1), 0.5, np.float32), None), quantizer, "f32")
    payloads, position = [side, *[chunk] * CHUNKS, side, chunk], 64
    pieces: list[Any] = []
    for payload in payloads:
        pieces.append([position, len(payload), 0 if payload is side else SHAPE[1], checksum(payload)])
        position += len(padded(payload))
    recipe: dict[str, Any] = {
        "quantizer": {"id": "uniform", "bits": 8, "symmetric": True, "block": [0, 0], "fit": "max"},
        "tiling": {"id": "flat"},
        "coder": {"id": coder.id} | {name: getattr(coder, name) for name in coder.__struct_fields__},
    }
    index = {
        "tensors": [
            ["w", "f32", shape, 1, 0, pieces[0], pieces[1 : 1 + CHUNKS]],
            ["small", "f32", SHAPE[1:], 1, 0, *pieces[-2:-1], pieces[-1:]],
        ],
        "recipes": [recipe],
        "digest": digest([piece[3] for piece in pieces]),
    }
    return assemble(payloads, index)


@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory as Linux tells it")
@pytest.mark.parametrize("coder", [Raw(), Zstd(1, "bytes"), Rans(4608, 1)], ids=lambda coder: coder.id)
def test_the_host_holds_no_more_than_64_mib(
    device: Device, coder: Coder, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "w.wcodec").write_bytes(archive_of(coder))
    name = f"opencl:{request.node.callspec.params['device']}"
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "w.wcodec"), name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 * 1024, "KiB"
