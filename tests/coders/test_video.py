"""The video coders: exact where they say so, whatever decodes them, and unmoved by hostile payloads."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from typing import Any

import av
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.golden import make_video as golden
from wcodec.coders import CODERS, libav, packets
from wcodec.coders.packets import Stream
from wcodec.coders.video import H264, VIDEO_CODERS, Av1, Ffv1, Hevc, QuantizedVideo, VideoCoder, Vp9
from wcodec.errors import CoderError, CorruptFileError, MissingDependencyError, UsageError
from wcodec.testing import SYMBOL_KINDS, check_coder, symbols_for

LOSSLESS = list(golden.lossless().values())
QUANTIZED: list[type[QuantizedVideo]] = [H264, Hevc, Av1, Vp9]
LOSSY = [kind(depth=depth, qp=24) for kind in QUANTIZED for depth in kind.formats]
EIGHT = [coder for coder in LOSSLESS if coder.depth == 8]


def name(coder: VideoCoder) -> str:
    return "-".join(map(str, msgspec.to_builtins(coder).values()))


def decoded(coder: VideoCoder, payload: bytes, like: NDArray[Any]) -> NDArray[Any]:
    out = np.empty_like(like)
    coder.decode(payload, out)
    return out


@pytest.mark.parametrize("coder", [*LOSSLESS, *LOSSY], ids=name)
def test_contract(coder: VideoCoder) -> None:
    for dtype, bits in SYMBOL_KINDS:
        if coder.takes(dtype, bits):
            check_coder(coder, dtype, bits)


def shapes(coder: VideoCoder) -> Iterator[tuple[int, int, int]]:
    assert coder.limits is not None
    low, high = coder.limits
    yield from ((1, low, high), (1, high, low), (5, low, low + 1), (2, 61, 259), (1, 64, 64), (3, 33, 16))


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("coder", LOSSLESS, ids=name)
def test_lossless_is_exact_at_every_shape(coder: VideoCoder, signed: bool) -> None:
    dtype = np.dtype(f"{'i' if signed else 'u'}{1 if coder.depth == 8 else 2}")
    for shape in shapes(coder):
        symbols = symbols_for(dtype, coder.depth, shape)
        assert np.array_equal(decoded(coder, coder.encode(symbols), symbols), symbols), shape


@pytest.mark.parametrize("coder", LOSSLESS, ids=name)
@pytest.mark.parametrize("fill", ["low", "high", "checkers"])
def test_lossless_is_exact_at_the_extremes(coder: VideoCoder, fill: str) -> None:
    low, high = -(1 << coder.depth - 1), (1 << coder.depth - 1) - 1
    dtype = np.int8 if coder.depth == 8 else np.int16
    odd = np.indices((1, 40, 50)).sum(0) % 2 == 1
    symbols = np.where({"low": False, "high": True, "checkers": odd}[fill], high, low) * np.ones((1, 40, 50), dtype)
    symbols = symbols.astype(dtype)
    assert np.array_equal(decoded(coder, coder.encode(symbols), symbols), symbols)


# A second way to decode: the packets in a container, read back by FFmpeg's demuxers, and by libvpx for VP9.


def ivf(stream: Stream, fourcc: bytes, width: int, height: int) -> bytes:
    head = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, fourcc, width, height, 25, 1, len(stream.packets), 0)
    return head + b"".join(struct.pack("<IQ", len(packet), i) + packet for i, packet in enumerate(stream.packets))


def nut(stream: Stream, coder: VideoCoder, width: int, height: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="nut") as container:
        track = container.add_stream("ffv1", rate=25, options=dict(next(coder.trials(1))))
        assert isinstance(track, av.VideoStream)
        track.width, track.height, track.pix_fmt = width, height, coder.formats[coder.depth]
        for i, data in enumerate(stream.packets):
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.is_keyframe = track, Fraction(1, 25), i == 0
            packet.pts = packet.dts = i
            container.mux_one(packet)
    return file.getvalue()


def other_decoder(coder: VideoCoder, stream: Stream, width: int, height: int) -> list[av.VideoFrame]:
    if coder.id == "vp9":
        codec = av.Codec("libvpx-vp9", "r").create("video")
        return [frame for packet in stream.packets for frame in codec.decode(av.Packet(packet))]
    if coder.id == "av1":
        data, form = ivf(stream, b"AV01", width, height), "ivf"
    elif coder.id == "ffv1":
        data, form = nut(stream, coder, width, height), "nut"
    else:
        data, form = stream.extradata + b"".join(stream.packets), coder.id
    with av.open(io.BytesIO(data), "r", format=form) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize("coder", LOSSLESS, ids=name)
def test_another_decoder_sees_the_levels(coder: VideoCoder) -> None:
    dtype = np.dtype(np.int8 if coder.depth == 8 else np.int16)
    symbols = symbols_for(dtype, coder.depth, (3, 47, 83))
    frames = other_decoder(coder, packets.unpack(coder.encode(symbols), 3, "here"), 83, 47)
    assert len(frames) == 3
    for frame, plane in zip(frames, symbols, strict=True):
        levels = np.frombuffer(memoryview(frame.planes[0]), np.uint8 if coder.depth == 8 else "<u2")
        levels = levels.reshape(frame.height, -1)[:, :83]
        assert np.array_equal(levels, plane.astype(np.int64) + (1 << coder.depth - 1))


@pytest.mark.parametrize("coder", LOSSY, ids=name)
def test_lossy_error_grows_and_size_falls_with_qp(coder: QuantizedVideo) -> None:
    symbols = symbols_for(np.dtype(np.int8 if coder.depth == 8 else np.int16), coder.depth, (2, 96, 128))
    sizes, errors = [], []
    top = coder.quantizers[coder.depth]
    for qp in (1, top // 4, top // 2, top):
        coder = type(coder)(depth=coder.depth, qp=qp)
        payload = coder.encode(symbols)
        difference = decoded(coder, payload, symbols).astype(np.int64) - symbols
        sizes.append(len(payload))
        errors.append(float(np.sqrt(np.mean(difference**2))))
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    assert errors[0] < symbols.std() / 30 < symbols.std() / 3 < errors[-1]


def test_golden_payloads_decode_to_the_same_symbols_for_ever() -> None:
    expected = {coder_name: golden.symbols(coder.depth).tobytes() for coder_name, coder in golden.lossless().items()}
    expected |= {coder_name: (golden.FOLDER / f"{coder_name}.symbols").read_bytes() for coder_name in golden.lossy()}
    assert {file.stem for file in golden.FOLDER.glob("*.bin")} == expected.keys()
    for coder_name, coder in (golden.lossless() | golden.lossy()).items():
        payload = (golden.FOLDER / f"{coder_name}.bin").read_bytes()
        assert decoded(coder, payload, golden.symbols(coder.depth)).tobytes() == expected[coder_name], coder_name


@pytest.mark.parametrize("coder", [*EIGHT, *LOSSY], ids=name)
def test_the_same_frames_give_the_same_bytes_also_in_threads(coder: VideoCoder) -> None:
    symbols = symbols_for(np.dtype(np.int8 if coder.depth == 8 else np.int16), coder.depth, (2, 75, 141))
    with ThreadPoolExecutor(4) as pool:
        payloads = list(pool.map(coder.encode, [symbols] * 8))
    assert set(payloads) == {coder.encode(symbols)}


@pytest.mark.parametrize("coder", EIGHT, ids=name)
def test_payload_is_laid_out_as_specified(coder: VideoCoder) -> None:
    payload = coder.encode(golden.symbols(8))
    count, extradata, *lengths = struct.unpack_from("<4I", payload)
    assert (count, 16 + extradata + sum(lengths)) == (2, len(payload))
    assert (extradata > 0) == (coder.id in ("h264", "hevc"))
    assert b"x264" not in payload
    assert b"x265" not in payload


def test_coding_is_silent_and_leaves_the_environment_alone() -> None:
    script = (
        "import os, sys, numpy as np; from wcodec.coders.video import VIDEO_CODERS\n"
        "assert 'av' not in sys.modules\n"
        "before = dict(os.environ)\n"
        "for kind in [*VIDEO_CODERS.values()] * 2:\n"
        "    frames = np.zeros((1, 32, 32), np.int8)\n"
        "    kind.of(8).decode(kind.of(8).encode(frames), frames)\n"
        "assert os.environ == before\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "SVT_LOG"}
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=environment)
    assert child.stdout + child.stderr == b""


def test_who_asks_for_the_log_of_svt_gets_it() -> None:
    script = "import numpy as np; from wcodec.coders.video import Av1; Av1.of(8).encode(np.zeros((1, 32, 32), np.int8))"
    environment = os.environ | {"SVT_LOG": "3"}
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=environment)
    assert b"SVT-AV1" in child.stderr


# What may not be coded.


@pytest.mark.parametrize("coder", [coder for coder in LOSSLESS if coder.depth < 16], ids=name)
def test_symbols_beyond_the_depth_are_refused_where_they_stand(coder: VideoCoder) -> None:
    for dtype, beyond in (
        (np.int16, 1 << coder.depth - 1),
        (np.int16, -(1 << coder.depth - 1) - 1),
        (np.uint16, 1 << coder.depth),
    ):
        frames = np.zeros((2, 20, 30), dtype)
        frames[1, 3, 7] = beyond
        with pytest.raises(CoderError, match=f"symbol {beyond} at frame 1, row 3, column 7 .* {coder.depth} bits"):
            coder.encode(frames)


def test_frames_of_other_kinds_are_refused() -> None:
    hevc = Hevc.of(8)
    for frames in (
        np.zeros((1, 15, 64), np.int8),
        np.zeros((1, 64, 4097), np.int8),
        np.zeros((64, 64), np.int8),
        np.zeros((0, 64, 64), np.int8),
        np.zeros((1, 64, 64), np.int32),
        np.zeros((1, 64, 64), np.float16),
    ):
        with pytest.raises(CoderError, match=r"hevc|shape"):
            hevc.encode(frames)
        with pytest.raises(CorruptFileError, match="hevc payload"):
            hevc.decode(b"", frames)


def test_parameters_out_of_range_are_refused() -> None:
    wrong: list[tuple[type[VideoCoder], int, int | None]]
    wrong = [(H264, 12, None), (Hevc, 16, None), (Av1, 12, None), (Vp9, 10, None), (Ffv1, 9, None)]
    wrong += [(H264, 8, 52), (H264, 10, 64), (Hevc, 8, 0), (Av1, 8, 64), (Vp9, 8, -1)]
    wrong += [(Ffv1, 8, 20)]
    for kind, depth, qp in wrong:
        fields = {"depth": depth} if kind is Ffv1 and qp is None else {"depth": depth, "qp": qp}
        with pytest.raises(UsageError, match=r"has no depth|takes a qp|has no qp"):
            kind.of(depth, qp)
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"id": kind.__struct_config__.tag, **fields}, kind)
    for kind in QUANTIZED:
        with pytest.raises(msgspec.ValidationError, match="missing required field `qp`"):
            msgspec.convert({"id": kind.__struct_config__.tag, "depth": 8}, kind)


def test_suited_takes_the_least_depth() -> None:
    assert H264.suited(np.dtype(np.int8), 4) == H264.of(8)
    assert H264.suited(np.dtype(np.uint16), 9, 60) == H264.of(10, 60)
    assert Hevc.suited(np.dtype(np.int16), 12) == Hevc.of(12)
    assert Hevc.suited(np.dtype(np.int16), 13) is None
    assert Vp9.suited(np.dtype(np.int16), 9) is None
    assert Ffv1.suited(np.dtype(np.uint16), 16) == Ffv1(depth=16)
    assert Ffv1.suited(np.dtype(np.float16), 16) is None
    assert Ffv1.suited(np.dtype(np.bool_), 8) is None
    assert {kind.__struct_config__.tag for kind in VIDEO_CODERS.values()} == VIDEO_CODERS.keys() <= CODERS.keys()


def test_missing_encoder_decoder_and_format_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = golden.symbols(8)
    payload = H264.of(8).encode(frames)
    monkeypatch.setattr(H264, "encoder", "libnothing")
    with pytest.raises(MissingDependencyError, match=r"no encoder libnothing.*pip install av"):
        H264.of(8).encode(frames)
    monkeypatch.setattr(H264, "decoder", "nothing")
    with pytest.raises(MissingDependencyError, match=r"no decoder nothing.*pip install av"):
        H264.of(8).decode(payload, frames)
    monkeypatch.setattr(Vp9, "formats", {8: "gray"})
    with pytest.raises(MissingDependencyError, match=r"libvpx-vp9 has no gray"):
        Vp9.of(8).encode(frames)


def test_an_encoder_that_fails_is_a_coder_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(H264, "trials", lambda self, count: iter([{"preset": "nonsense"}]))
    with pytest.raises(CoderError, match="libx264 cannot code frames of 19 x 37"):
        H264.of(8).encode(golden.symbols(8))


# Hostile payloads.

Change = Callable[[Stream], bytes]


def header(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


HOSTILE: dict[str, Change] = {
    "nothing": lambda s: b"",
    "half a header": lambda s: packets.pack(s)[:9],
    "a trailing byte": lambda s: packets.pack(s) + b"\0",
    "too few packets": lambda s: packets.pack(Stream(s.extradata, s.packets[:1])),
    "too many packets": lambda s: packets.pack(Stream(s.extradata, [*s.packets, s.packets[0]])),
    "four billion packets": lambda s: header(2**32 - 1, *[0] * 40),
    "lengths whose sum wraps": lambda s: header(2, 0, 2**32 - 1, 1 + len(s.packets[0])) + s.packets[0],
    "an empty packet": lambda s: packets.pack(Stream(s.extradata, [b"", s.packets[0]])),
    "huge extradata": lambda s: packets.pack(Stream(s.extradata + bytes(5000), s.packets)),
    "other extradata": lambda s: packets.pack(Stream(b"\1" * 40, s.packets)),
    "zeros": lambda s: packets.pack(Stream(s.extradata, [bytes(200), bytes(200)])),
    "ones": lambda s: packets.pack(Stream(s.extradata, [b"\xff" * 200] * 2)),
    "two frames in a packet": lambda s: packets.pack(Stream(s.extradata, [b"".join(s.packets), s.packets[0]])),
    "a cut packet": lambda s: packets.pack(Stream(s.extradata, [s.packets[0][:8], s.packets[1]])),
}
TOLERANT = {
    # These decoders stop at a frame's end or its data's end and say nothing; the container's checksum does.
    ("vp9", "two frames in a packet"),
    ("ffv1", "two frames in a packet"),
}


@pytest.mark.parametrize("attack", HOSTILE)
@pytest.mark.parametrize("coder", EIGHT, ids=name)
def test_hostile_payloads_are_refused(coder: VideoCoder, attack: str) -> None:
    frames = golden.symbols(8)
    payload = HOSTILE[attack](packets.unpack(coder.encode(frames), 2, "here"))
    if (coder.id, attack) in TOLERANT:
        coder.decode(payload, frames)
        return
    with pytest.raises(CorruptFileError, match=f"{coder.id} payload"):
        coder.decode(payload, frames)


@pytest.mark.parametrize("coder", [coder for coder in EIGHT if coder.id != "ffv1"], ids=name)
def test_streams_of_larger_frames_or_another_depth_are_refused(
    coder: VideoCoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = coder.encode(np.zeros((1, 1024, 1024), np.int8))
    with pytest.raises(CorruptFileError, match=f"{coder.id} payload"):
        coder.decode(large, np.zeros((1, 32, 32), np.int8))
    with pytest.raises(CorruptFileError, match=f"{coder.id} payload"):
        coder.decode(coder.encode(np.zeros((1, 32, 32), np.int8)), np.zeros((1, 32, 31), np.int8))
    if 10 in coder.formats:
        with pytest.raises(CorruptFileError, match=f"{coder.id} payload"):
            type(coder).of(10).decode(coder.encode(np.zeros((1, 32, 32), np.int8)), np.zeros((1, 32, 32), np.int16))
    if coder.id in ("h264", "hevc"):
        monkeypatch.setattr(libav, "decode", lambda *given: pytest.fail("the decoder saw a stream of larger frames"))
        with pytest.raises(CorruptFileError, match="the stream has frames of 1024 x 1024 at 8 bits"):
            coder.decode(large, np.zeros((1, 32, 32), np.int8))


def inter_frames(coder: VideoCoder) -> Stream:
    """Three frames as the coder's own encoder makes them where later ones may refer to the first."""
    options = dict(next(coder.trials(3)))
    options |= {"g": "100"}
    if "svtav1-params" in options:
        options["svtav1-params"] = options["svtav1-params"].replace("keyint=1", "keyint=100:pred-struct=1")
    levels = np.add.outer(np.arange(3), np.add.outer(np.arange(64), np.arange(64))).astype(np.uint8)
    found = libav.encode(coder.encoder, coder.formats[8], options, levels)
    if coder.id == "av1":
        # what only the first packet has: the header, after the temporal delimiter
        header = found[0][2 : 4 + found[0][3]]
        found = [packet if packet[2] == 0x0A else packet[:2] + header + packet[2:] for packet in found]
    return Stream(b"", found)


def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libav, "decode", lambda *given: pytest.fail("the decoder saw it"))


@pytest.mark.parametrize("coder", [Av1.of(8), Vp9.of(8)], ids=name)
def test_frames_that_refer_to_others_are_refused(coder: VideoCoder, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, out = inter_frames(coder), np.zeros((3, 64, 64), np.int8)
    assert len(list(libav.decode(coder.decoder, stream, (3, 64, 64), 8, "here"))) == 3
    unseen(monkeypatch)
    with pytest.raises(CorruptFileError, match="frame_type is 1 where only 0 is allowed"):
        coder.decode(packets.pack(stream), out)


def test_ffv1_may_have_key_frames_only() -> None:
    frames = golden.symbols(8)
    levels = (frames.astype(np.int16) + 128).astype(np.uint8)
    options = dict(next(Ffv1(depth=8).trials(2)))
    stream = Stream(b"", libav.encode("ffv1", "gray", options | {"g": "1"}, levels))
    assert np.array_equal(decoded(Ffv1(depth=8), packets.pack(stream), frames), frames)


HEADERS = {
    "vp9": [
        (0, 0x40, "frame_marker"),
        (0, 0x20, "the profile"),
        (0, 0x10, "the profile"),
        (0, 0x08, "show_existing_frame"),
        (0, 0x04, "frame_type"),
        (0, 0x02, "show_frame"),
        (1, 0x01, "frame_sync_code"),
        (4, 0x08, "the frame's width is 32805"),
        (8, 0x10, "the frame's height is 20"),
    ],
    "av1": [
        (4, 0x20, "seq_profile"),
        (4, 0x08, "reduced_still_picture_header"),
        (17, 0x80, "show_existing_frame"),
        (17, 0x40, "frame_type"),
        (17, 0x20, "frame_type"),
        (17, 0x10, "show_frame"),
    ],
}
"""Bits of a packet, as (byte, mask), whose change is seen before a decoder sees the packet, and what it is in."""


@pytest.mark.parametrize(
    ("codec", "place", "mask", "what"), [(codec, *case) for codec, cases in HEADERS.items() for case in cases]
)
def test_headers_of_frames_are_held_to_the_specification(
    codec: str, place: int, mask: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    coder = VIDEO_CODERS[codec].of(8)
    stream = packets.unpack((golden.FOLDER / f"{codec}-8.bin").read_bytes(), 2, "here")
    changed = bytearray(stream.packets[1])
    changed[place] ^= mask
    unseen(monkeypatch)
    with pytest.raises(CorruptFileError, match=what):
        coder.decode(packets.pack(Stream(b"", [stream.packets[0], bytes(changed)])), golden.symbols(8))


def test_several_frames_of_vp9_with_an_index_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = packets.unpack((golden.FOLDER / "vp9-8.bin").read_bytes(), 2, "here").packets
    index = struct.pack("<BHHB", 0b11001001, len(first), len(second), 0b11001001)
    split = Stream(b"", [first + second + index])
    assert len(list(libav.decode("vp9", split, (2, 19, 37), 8, "here"))) == 2
    unseen(monkeypatch)
    with pytest.raises(CorruptFileError, match="superframe index"):
        Vp9.of(8).decode(packets.pack(split), golden.symbols(8)[:1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory as Linux tells it")
@pytest.mark.parametrize("coder", EIGHT, ids=name)
def test_a_stream_of_larger_frames_takes_no_memory(coder: VideoCoder) -> None:
    small, large = (coder.encode(np.zeros((1, side, side), np.int8)) for side in (64, 2048))
    script = (
        "import sys, numpy as np; from pathlib import Path; from wcodec.coders.video import VIDEO_CODERS\n"
        f"coder, frames, peaks = VIDEO_CODERS['{coder.id}'].of(8), np.zeros((1, 64, 64), np.int8), []\n"
        f"for payload in (bytes.fromhex('{small.hex()}'), sys.stdin.buffer.read()):\n"
        "    try: coder.decode(payload, frames)\n"
        "    except Exception as error: print(type(error).__name__)\n"
        "    peaks.append(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "print(int(peaks[1]) - int(peaks[0]))\n"
    )
    child = subprocess.run([sys.executable, "-c", script], input=large, capture_output=True, check=True)
    *errors, growth = child.stdout.split()
    # FFV1 does not say how large its frames are: a large one is read as far as a small one goes
    assert errors == ([] if coder.id == "ffv1" else [b"CorruptFileError"])
    assert int(growth) < 2048, "KiB"


GOLDEN = [
    (coder, (golden.FOLDER / f"{file}.bin").read_bytes())
    for file, coder in (golden.lossless() | golden.lossy()).items()
]


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_flipped_bytes_are_refused_or_harmless(data: st.DataObject) -> None:
    coder, payload = data.draw(st.sampled_from(GOLDEN), label="coder")
    damaged = bytearray(payload)
    places = st.one_of(st.integers(0, min(150, len(payload) - 1)), st.integers(0, len(payload) - 1))
    for place, bits in data.draw(
        st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=8), label="flips"
    ):
        damaged[place] ^= bits
    with suppress(CorruptFileError):
        coder.decode(bytes(damaged), golden.symbols(coder.depth))


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="scheduling as Linux has it")
def test_no_encoder_changes_how_the_process_is_scheduled():
    """SVT-AV1 would, where it may: a machine of real-time threads that wait for each other stands still."""
    script = """
import os, threading
import numpy as np
from wcodec.coders.video import VIDEO_CODERS

def scheduling():
    return [(os.sched_getscheduler(int(thread)), os.sched_getparam(int(thread)).sched_priority)
            for thread in os.listdir("/proc/self/task")]

before = scheduling()[0]
def code():
    for kind in VIDEO_CODERS.values():
        kind.of(8).encode(np.zeros((2, 64, 64), np.uint8))
threads = [threading.Thread(target=code) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
code()
assert set(scheduling()) == {before}, scheduling()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
