"""Which video encoders and decoders this machine has, software and hardware, found by letting each code one frame.

Drivers fail in many ways, some by ending the process, so trials run in child processes with a time limit.
`python -m wcodec.coders.probe KIND NAME [KIND NAME]...` is such a child: it answers each trial with a line.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from wcodec.coders import libav
from wcodec.coders.video import VIDEO_CODERS, Ffv1
from wcodec.errors import WcodecError

if TYPE_CHECKING:
    import av

Kind = Literal["encoder", "decoder"]

_SIDE = 256
_FRAME = np.add.outer(np.arange(_SIDE), np.arange(_SIDE)).astype(np.uint8)[None]
"""What is coded: above the least size that hardware takes."""

_HARDWARE_ONLY = ("av1", "decoder")
"""FFmpeg calls this one software, but it only drives hardware: what counts is it with a device."""

_ANSWER = "wcodec: "
"""Before an answer, because drivers write to stdout too."""


@dataclass(frozen=True, slots=True)
class VideoDevice:
    """An encoder or decoder of one of our codecs. `name` is FFmpeg's, with "+cuda" for a decoder helped by CUDA."""

    name: str
    codec: str
    kind: Kind
    hardware: bool
    works: bool
    reason: str
    """One line on why it does not work, empty if it does."""


def probe_video(seconds: float = 20.0) -> list[VideoDevice]:
    """Every encoder and decoder of our codecs in this build of FFmpeg, by codec; one that hangs costs `seconds`."""
    found = sorted(set(_listed()), key=lambda entry: (entry[2], entry[3], entry[0]))
    batches = [[entry for entry in found if entry[1] == codec] for codec in VIDEO_CODERS]
    with ThreadPoolExecutor(len(batches)) as pool:
        tried = pool.map(lambda batch: _try_all([(kind, name) for name, _, kind, _ in batch], seconds), batches)
        answered = [
            pair for batch, reasons in zip(batches, tried, strict=True) for pair in zip(batch, reasons, strict=True)
        ]
    return [VideoDevice(*entry, not reason, reason) for entry, reason in answered]


def _listed() -> Iterator[tuple[str, str, Kind, bool]]:
    """Name, codec, kind and whether it is hardware."""
    import av
    from av.codec.codec import Capabilities, UnknownCodecError

    for name, kind in itertools.product(av.codec.codecs_available, get_args(Kind)):
        with suppress(UnknownCodecError):
            codec = av.Codec(name, "w" if kind == "encoder" else "r")
            if codec.canonical_name not in VIDEO_CODERS or (kind == "encoder" and _pixel_format(codec) is None):
                continue
            hardware = bool(codec.capabilities & (Capabilities.hardware | Capabilities.hybrid))
            if (codec.name, kind) != _HARDWARE_ONLY:
                yield codec.name, codec.canonical_name, kind, hardware
            if kind == "decoder" and not hardware:
                for config in codec.hardware_configs:
                    yield f"{codec.name}+{config.device_type.name}", codec.canonical_name, kind, True


def _try_all(trials: list[tuple[Kind, str]], seconds: float) -> list[str]:
    """Why each trial failed, in one line, empty if it did not; a child that dies is replaced for the rest."""
    reasons: list[str] = []
    while len(reasons) < len(trials):
        rest = [word for trial in trials[len(reasons) :] for word in trial]
        try:
            # -P: whatever lies in the folder that this process works in is no module of the trial's
            command = [sys.executable, "-P", "-m", "wcodec.coders.probe", *rest]
            child = subprocess.run(command, capture_output=True, timeout=seconds, check=False)  # noqa: S603
            output, death = child.stdout, f"its driver ended the process (exit code {child.returncode})"
        except subprocess.TimeoutExpired as error:
            output, death = error.stdout or b"", f"no answer within {seconds:g} s"
        lines = output.decode(errors="replace").splitlines()
        reasons += [line.removeprefix(_ANSWER).strip() for line in lines if line.startswith(_ANSWER)]
        if len(reasons) < len(trials):
            reasons.append(death)
    return reasons


def _pixel_format(encoder: av.Codec) -> str | None:
    """A format in which a frame's first plane is its luma; drivers that name none take most. None for RGB only."""
    formats = [known.name for known in encoder.video_formats or ()]
    return next((known for known in ("yuv420p", "nv12", "gray") if known in formats or not formats), None)


def _try_decoder(name: str, device: str) -> None:
    import av
    from av.codec.hwaccel import HWAccel

    kind = VIDEO_CODERS[av.Codec(name, "r").canonical_name]
    options = dict(next(Ffv1(depth=8).trials(1))) if kind is Ffv1 else {"g": "1"}
    packets = libav.encode(kind.encoder, "yuv420p", options, _FRAME)
    accelerator = HWAccel(device, allow_software_fallback=False) if device else None
    context = av.VideoCodecContext.create(name, "r", accelerator)
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1
    context.width = context.height = _SIDE
    frames = [frame for packet in (*map(av.Packet, packets), None) for frame in context.decode(packet)]
    if [(frame.width, frame.height) for frame in frames] != [(_SIDE, _SIDE)]:
        raise ValueError("it gave no frame back")
    if device and frames[0].format.name == "yuv420p":
        raise ValueError("it fell back to software")


def _reason(kind: str, name: str) -> str:
    """FFmpeg's own first complaint where there is one: its error codes say little about drivers."""
    import av

    with av.logging.Capture() as logs:
        try:
            if kind == "encoder":
                libav.encode(name, _pixel_format(av.Codec(name, "w")) or "", {}, _FRAME)
            else:
                _try_decoder(*name.partition("+")[::2])
        except (av.FFmpegError, WcodecError, ValueError, RuntimeError) as error:
            said = [message for level, _, message in logs if level <= av.logging.ERROR]
            return " ".join((said or [str(error)])[0].split())[:120]
    return ""


def _main(words: list[str]) -> None:
    import av

    av.logging.set_level(av.logging.ERROR)
    for kind, name in zip(words[::2], words[1::2], strict=True):
        sys.stdout.write(f"\n{_ANSWER}{_reason(kind, name)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main(sys.argv[1:])
