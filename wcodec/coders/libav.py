"""Planes of levels through FFmpeg's encoders and decoders, by way of PyAV's bare codec contexts.

Rows are copied to and from the planes of frames as they are: no container, no scaling, no colour conversion. One
thread a stream, so that the same planes give the same bytes; work is spread over streams. PyAV is loaded when the
first stream is coded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from wcodec.coders.packets import Stream
from wcodec.errors import CoderError, CorruptFileError, MissingDependencyError

if TYPE_CHECKING:
    import av
    from av.video.plane import VideoPlane

_FULL_RANGE = 2
"""FFmpeg's AVCOL_RANGE_JPEG: every level means itself, none is reserved."""

_DETECTION = "crccheck+bitstream+buffer+explode"

_OPENING_SVT = Lock()
"""Opening one encoder of SVT-AV1 at a time: it changes what belongs to the process."""


def encode(encoder: str, pixel_format: str, options: Mapping[str, str], levels: NDArray[Any]) -> list[bytes]:
    """Code levels of shape (count, height, width), u8 or u16 as `pixel_format` has them, to one packet a frame.

    Chroma, if the format has any, is held at the middle. `CoderError` if the encoder fails,
    `MissingDependencyError` if this build of FFmpeg lacks it.
    """
    import av

    count, height, width = levels.shape
    codec = _codec(encoder, "w")
    formats = {known.name for known in codec.video_formats or ()}
    if formats and pixel_format not in formats:
        raise MissingDependencyError(
            f"this build of {encoder} has no {pixel_format}; install PyAV's own: pip install av"
        )
    context = codec.create("video")
    context.width, context.height, context.pix_fmt = width, height, pixel_format
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.color_range = _FULL_RANGE
    context.thread_count = 1
    context.options = dict(options)
    packets: list[bytes] = []
    try:
        if encoder == "libsvtav1":
            with _OPENING_SVT, _own_scheduling():
                _quiet_svt()
                context.open(strict=False)
        for number, plane in enumerate(levels):
            frame = av.VideoFrame(width, height, pixel_format)
            frame.pts = number
            frame.color_range = _FULL_RANGE
            _rows(frame.planes[0], plane.dtype)[:height, :width] = plane
            for chroma in frame.planes[1:]:
                _rows(chroma, plane.dtype)[...] = 1 << (frame.format.components[0].bits - 1)
            packets += map(bytes, context.encode(frame))
        packets += map(bytes, context.encode(None))
    except (av.FFmpegError, ValueError, RuntimeError) as error:
        raise CoderError(f"{encoder} cannot code frames of {height} x {width}: {error}") from error
    if len(packets) != count:
        raise CoderError(f"{encoder} made {len(packets)} packets of {count} frames")
    return packets


def decode(decoder: str, stream: Stream, shape: tuple[int, int, int], depth: int, where: str) -> Iterator[NDArray[Any]]:
    """Yield the planes of a stream, `shape` being (count, height, width); u16 where `depth` is above 8, else u8.

    A plane is FFmpeg's memory: copy it before asking for the next. `CorruptFileError` naming `where` unless the
    stream decodes cleanly to just these frames; `MissingDependencyError` if this build of FFmpeg lacks the decoder.
    """
    import av

    count, height, width = shape
    context = _codec(decoder, "r").create("video")
    context.thread_count = 1
    if decoder == "ffv1":
        # FFV1 says no size. The others do, and H.264 would crop it to what is set here.
        context.width, context.height = width, height
    # Sizes may be padded to whole blocks, of 64 at most.
    most = (width + 63 & -64) * (height + 63 & -64)
    context.options = {"max_pixels": str(most), "err_detect": _DETECTION}
    if stream.extradata:
        context.extradata = stream.extradata
    done = 0
    try:
        for packet in (*map(av.Packet, stream.packets), None):
            for frame in context.decode(packet):
                done += 1
                _check_frame(frame, done <= count, width, height, depth)
                yield _rows(frame.planes[0], np.dtype(np.uint8 if depth == 8 else "<u2"))[:height, :width]
    except (av.FFmpegError, ValueError, RuntimeError) as error:
        raise CorruptFileError(where, f"{decoder} refuses it: {error}") from error
    if done != count:
        raise CorruptFileError(where, f"it has {done} frames where {count} were expected")


@contextmanager
def _own_scheduling() -> Iterator[None]:
    """Put the process's scheduling back as it was.

    Run by root, SVT-AV1 makes the main thread real-time of the highest priority whenever an encoder is opened, and with
    it all threads and children that are started later: two of them that wait for each other starve the machine.
    """
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    process = os.getpid()
    policy, parameter = os.sched_getscheduler(process), os.sched_getparam(process)
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setscheduler(process, policy, parameter)


@cache
def _quiet_svt() -> None:
    """Keep SVT-AV1 from writing a banner to stderr for every stream, past FFmpeg's log.

    The only switch is a variable of the environment, which SVT-AV1 reads once, when a process creates its first
    encoder. So one is created with the variable set, and the environment left as it was: neither later code nor
    child processes see it. A user's own setting is left alone.
    """
    if "SVT_LOG" in os.environ:
        return
    context = _codec("libsvtav1", "w").create("video")
    context.width, context.height, context.pix_fmt = 64, 64, "yuv420p"
    context.time_base = Fraction(1, 25)
    context.options = {"svtav1-params": "lp=1"}
    os.environ["SVT_LOG"] = "0"
    try:
        context.open(strict=False)
    finally:
        del os.environ["SVT_LOG"]


def _codec(name: str, mode: Literal["r", "w"]) -> av.Codec:
    import av

    try:
        return av.Codec(name, mode)
    except av.codec.codec.UnknownCodecError as error:
        kind = "encoder" if mode == "w" else "decoder"
        raise MissingDependencyError(f"this FFmpeg has no {kind} {name}; install PyAV's own: pip install av") from error


def _check_frame(frame: av.VideoFrame, wanted: bool, width: int, height: int, depth: int) -> None:
    if not wanted:
        raise ValueError("too many frames")
    if frame.is_corrupt:
        raise ValueError("a frame is damaged")
    if (frame.width, frame.height) != (width, height):
        raise ValueError(f"a frame has {frame.height} x {frame.width} samples")
    allowed = ("gray", "yuv420p", "yuvj420p") if depth == 8 else (f"gray{depth}le", f"yuv420p{depth}le")
    if frame.format.name not in allowed:
        raise ValueError(f"a frame has the format {frame.format.name}")


def _rows(plane: VideoPlane, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A plane's memory as rows of samples, those beyond its width included."""
    return np.frombuffer(memoryview(plane), dtype).reshape(-1, plane.line_size // dtype.itemsize)
