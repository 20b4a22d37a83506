"""A net run once by a fresh process: how long each part of that takes, what is built, and how much memory it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from bench.infer_nets import Subject

_SCRIPT = """
import sys, time
stamps = [time.monotonic()]
import json
import numpy as np
from wcodec.infer.engine import Engine
from wcodec.opencl.device import Device
stamps.append(time.monotonic())
archive, image, device = sys.argv[1:]
device = Device.open(device)
stamps.append(time.monotonic())

def resident():
    with open("/proc/self/status") as file:
        return 1024 * sum(int(line.split()[1]) for line in file if line.startswith(("RssAnon", "RssShmem")))

before = resident()
engine = Engine.open(archive, device)
stamps.append(time.monotonic())
engine(np.load(image))
stamps.append(time.monotonic())
print(json.dumps({"stamps": stamps, "growth": resident() - before, "memory": vars(engine.memory)}))
"""


@dataclass(frozen=True)
class Fresh:
    """What one process told. Times are in seconds, memory in bytes.

    start: until Python runs its first line. imports: of wcodec and NumPy. device: loading OpenCL's runtimes and opening
    the device. model: opening the engine. run: the first one. growth: resident memory of its own, files that are mapped
    not counted, from the opened device to the first answer. programs: those in the cache in the end.
    """

    start: float
    imports: float
    device: float
    model: float
    run: float
    weights: int
    arena: int
    growth: int
    programs: int

    @property
    def whole(self) -> float:
        return self.start + self.imports + self.device + self.model + self.run


def fresh(subject: Subject, device: str, caches: Path | None = None) -> Fresh:
    """A process that has the user's caches, or those in a folder."""
    own = {"WCODEC_CACHE_DIR": str(caches / "wcodec"), "POCL_CACHE_DIR": str(caches / "pocl")} if caches else {}
    with tempfile.TemporaryDirectory() as name:
        image = Path(name) / "image.npy"
        np.save(image, subject.photos[0])
        command = [sys.executable, "-c", _SCRIPT, str(subject.archive), str(image), device]
        began = time.monotonic()
        done = subprocess.run(command, env=os.environ | own, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    stamps = [began, *told["stamps"]]
    start, imports, opening, model, run = (later - earlier for earlier, later in pairwise(stamps))
    folder = caches / "wcodec" / "programs" if caches else None
    programs = len(list(folder.iterdir())) if folder is not None and folder.exists() else 0
    memory = told["memory"]
    return Fresh(
        *(start, imports, opening, model, run), memory["weights"], memory["arena"], told["growth"], programs=programs
    )


def cold(subject: Subject, device: str) -> Fresh:
    """A process that finds nothing in any cache."""
    with tempfile.TemporaryDirectory() as name:
        for folder in ("wcodec", "pocl"):
            (Path(name) / folder).mkdir()
        return fresh(subject, device, Path(name))
