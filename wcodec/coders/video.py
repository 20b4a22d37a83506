"""`h264`, `hevc`, `av1`, `vp9`, `ffv1`: frames of symbols as the luma of a video in which no frame refers to another.

A symbol is coded as a level: an unsigned one as itself, a signed one shifted up by half the range of `depth` bits.
Everything in the codecs that serves eyes rather than numbers is off: loop filters, psychovisual tuning, adaptive
quantization, film grain. The settings were chosen by size, at no less than about 1 M symbols/s on one core, on VGG16's
block4_conv2 in int8 and int4 in frames of 512 x 576; the figures beside them are in bits per weight. Weights do not
move: predicting frames from each other saves VP9 half a percent and costs the others up to one. FFV1, whose frames
are always intra, profits by 0.4 to 2 % from keeping its statistics from one frame to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from wcodec.coders import bitstream, libav, packets
from wcodec.coders.base import Coder, FrameLimits, Frames
from wcodec.errors import CoderError, CorruptFileError, UsageError

_GRAY = {8: "gray", 10: "gray10le", 12: "gray12le", 16: "gray16le"}
_COLOUR = {8: "yuv420p", 10: "yuv420p10le"}

Options = Mapping[str, str]


class VideoCoder(Coder, frozen=True, kw_only=True):
    """Frames through one video codec, `depth` bits a sample. The payload is described in `wcodec.coders.packets`."""

    encoder: ClassVar[str]
    decoder: ClassVar[str]
    formats: ClassVar[Mapping[int, str]]
    """FFmpeg's pixel format for every depth the codec has."""

    depth: int

    def __post_init__(self) -> None:
        if self.depth not in self.formats:
            raise UsageError(f"{self.id} has no depth of {self.depth} bits; it has {', '.join(map(str, self.formats))}")

    @classmethod
    def of(cls, depth: int, qp: int | None = None) -> Self:
        """The coder of this depth; `qp` None for lossless, which is all that a codec without one is."""
        if qp is not None:
            raise UsageError(f"{cls.__struct_config__.tag} is lossless and has no qp")
        return cls(depth=depth)

    @classmethod
    def suited(cls, dtype: np.dtype[Any], bits: int, qp: int | None = None) -> Self | None:
        """The coder of the least depth that holds such symbols, None if none does; `qp` None for lossless."""
        depth = next((depth for depth in cls.formats if _holds(depth, dtype, bits)), None)
        return None if depth is None else cls.of(depth, qp)

    def takes(self, dtype: np.dtype[Any], bits: int) -> bool:
        return _holds(self.depth, dtype, bits)

    def encode(self, frames: Frames) -> bytes:
        if (problem := self._misfit(frames)) is not None:
            raise CoderError(problem)
        levels = self._levels(frames)
        coded = (
            libav.encode(self.encoder, self.formats[self.depth], options, levels)
            for options in self.trials(len(frames))
        )
        return min((packets.pack(bitstream.distil(self.id, stream)) for stream in coded), key=len)

    def decode(self, payload: bytes | memoryview, out: Frames) -> None:
        where = f"{self.id} payload"
        if (problem := self._misfit(out)) is not None:
            raise CorruptFileError(where, problem)
        count, height, width = out.shape
        stream = packets.unpack(payload, count, where)
        bitstream.check(self.id, stream, width, height, self.depth, where)
        words = out.view(f"u{out.itemsize}")
        planes = libav.decode(self.decoder, stream, (count, height, width), self.depth, where)
        for symbols, plane in zip(words, planes, strict=True):
            np.subtract(plane, self._offset(out.dtype), out=symbols, dtype=words.dtype)

    def trials(self, count: int) -> Iterator[Options]:
        """Encoder options for `count` frames; if several, the smallest payload is taken."""
        raise NotImplementedError

    def _offset(self, dtype: np.dtype[Any]) -> int:
        return 1 << (self.depth - 1) if dtype.kind == "i" else 0

    def _levels(self, frames: Frames) -> NDArray[Any]:
        """Levels of symbols, u8 at depth 8 and else u16; negative ones wrap round to the top before the check."""
        levels = frames.astype(np.uint16)
        levels += np.uint16(self._offset(frames.dtype))
        if self.depth < 16 and (levels >> self.depth).any():
            place = np.unravel_index(int(np.argmax(levels >> self.depth != 0)), frames.shape)
            raise CoderError(
                f"symbol {frames[place]} at frame {place[0]}, row {place[1]}, column {place[2]} "
                f"does not fit {self.id} at {self.depth} bits; take a greater depth"
            )
        return levels.astype(np.uint8) if self.depth == 8 else levels

    def _misfit(self, frames: Frames) -> str | None:
        """Why frames of this dtype and shape cannot be coded, if they cannot."""
        assert self.limits is not None
        low, high = self.limits
        if frames.ndim != 3 or not frames.size:
            return f"frames of shape {frames.shape} are not (count, height, width)"
        if not all(low <= side <= high for side in frames.shape[1:]):
            return f"{self.id} takes frames with sides of {low} to {high}, not {frames.shape[1:]}"
        if not self.takes(frames.dtype, self.depth):
            return f"{self.id} at {self.depth} bits does not take symbols of {frames.dtype}"
        return None


def _holds(depth: int, dtype: np.dtype[Any], bits: int) -> bool:
    """Whether symbols of `bits` fit samples of this depth, and whatever a decoder makes of those fits their dtype."""
    return dtype.kind in "iu" and dtype.itemsize <= 2 and bits <= depth <= 8 * dtype.itemsize


class QuantizedVideo(VideoCoder, frozen=True, kw_only=True):
    """A codec that can lose: `qp` is its own constant quantizer, None for none."""

    quantizers: ClassVar[Mapping[int, int]]
    """The largest `qp` at every depth; the least is 1."""

    qp: int | None

    @classmethod
    def of(cls, depth: int, qp: int | None = None) -> Self:
        return cls(depth=depth, qp=qp)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.qp is not None and not 1 <= self.qp <= self.quantizers[self.depth]:
            raise UsageError(
                f"{self.id} at {self.depth} bits takes a qp of 1 to {self.quantizers[self.depth]}, not {self.qp}"
            )

    @property
    def lossless(self) -> bool:
        return self.qp is None

    def summary(self) -> str:
        return self.id if self.qp is None else f"{self.id} qp {self.qp}"


class H264(QuantizedVideo, frozen=True, tag="h264", kw_only=True):
    """H.264 through x264; lossless is its High 4:4:4 Predictive profile with the transform bypassed."""

    encoder: ClassVar[str] = "libx264"
    decoder: ClassVar[str] = "h264"
    formats: ClassVar[Mapping[int, str]] = MappingProxyType({depth: _GRAY[depth] for depth in (8, 10)})
    quantizers: ClassVar[Mapping[int, int]] = MappingProxyType({8: 51, 10: 63})
    limits: ClassVar[FrameLimits | None] = FrameLimits(1, 4096)

    depth: Literal[8, 10]

    def trials(self, count: int) -> Iterator[Options]:
        # Lossless at subme=8: 6.84 bpw for int8 and 2.26 for int4, 7 M symbols/s; at subme=1, 6.91 and 2.25, 17 M/s.
        # Lossy at 4.2 dB: 0.81 bpw; with trellis=1 and subme=7, 0.83.
        yield {
            "preset": "medium",
            "qp": str(self.qp or 0),
            "x264-params": "keyint=1:scenecut=0:bframes=0:rc-lookahead=0:sync-lookahead=0:sliced-threads=0:weightp=0:"
            "ipratio=1:mbtree=0:aq-mode=0:no-psy=1:no-deblock=1:trellis=2:subme=8",
        }


class Hevc(QuantizedVideo, frozen=True, tag="hevc", kw_only=True):
    """H.265 through x265."""

    encoder: ClassVar[str] = "libx265"
    decoder: ClassVar[str] = "hevc"
    formats: ClassVar[Mapping[int, str]] = MappingProxyType({depth: _GRAY[depth] for depth in (8, 10, 12)})
    quantizers: ClassVar[Mapping[int, int]] = MappingProxyType({8: 51, 10: 51, 12: 51})
    limits: ClassVar[FrameLimits | None] = FrameLimits(16, 4096)

    depth: Literal[8, 10, 12]

    def trials(self, count: int) -> Iterator[Options]:
        # Lossless: 6.94 bpw for int8 and 2.38 for int4, 2.4 M/s; veryslow 6.93 and 2.38 at 1.6, ultrafast 7.04 and
        # 2.40 at 6.5. Lossy at 4.2 dB: 0.70 bpw, 1.7 M/s; without rdoq, 0.87.
        yield {
            "preset": "superfast",
            "x265-params": "keyint=1:scenecut=0:bframes=0:b-adapt=0:rc-lookahead=0:repeat-headers=1:info=0:"
            "log-level=none:pools=none:frame-threads=1:wpp=0:ipratio=1:cutree=0:aq-mode=0:psy-rd=0:psy-rdoq=0:"
            "no-deblock=1:sao=0:rdoq-level=2:signhide=1:tu-intra-depth=2:"
            + ("lossless=1" if self.qp is None else f"qp={self.qp}"),
        }


class Av1(QuantizedVideo, frozen=True, tag="av1", kw_only=True):
    """AV1 through SVT-AV1 and dav1d; 4:2:0, because SVT-AV1 has no gray."""

    encoder: ClassVar[str] = "libsvtav1"
    decoder: ClassVar[str] = "libdav1d"
    formats: ClassVar[Mapping[int, str]] = MappingProxyType({depth: _COLOUR[depth] for depth in (8, 10)})
    quantizers: ClassVar[Mapping[int, int]] = MappingProxyType({8: 63, 10: 63})
    limits: ClassVar[FrameLimits | None] = FrameLimits(4, 4096)

    depth: Literal[8, 10]

    def trials(self, count: int) -> Iterator[Options]:
        # Lossless at preset 3: 6.99 bpw for int8 and 2.38 for int4, 1.6 M/s; at 6, 7.03 and 2.38, 3.6 M/s.
        # Lossy at preset 5: 0.72 bpw for 4.6 dB, 1.5 M/s; at 6, 4.2 dB, 5 M/s.
        yield {
            "preset": "3" if self.qp is None else "5",
            "svtav1-params": "lp=1:keyint=1:lookahead=0:scd=0:enable-tf=0:film-grain=0:enable-dlf=0:enable-cdef=0:"
            f"enable-restoration=0:aq-mode=0:rc=0:qp={self.qp or 0}" + (":lossless=1" if self.qp is None else ""),
        }


class Vp9(QuantizedVideo, frozen=True, tag="vp9", kw_only=True):
    """VP9 through libvpx, 4:2:0. Deeper samples exist, but not in the libvpx that PyAV brings."""

    encoder: ClassVar[str] = "libvpx-vp9"
    decoder: ClassVar[str] = "vp9"
    formats: ClassVar[Mapping[int, str]] = MappingProxyType({8: _COLOUR[8]})
    quantizers: ClassVar[Mapping[int, int]] = MappingProxyType({8: 63})
    limits: ClassVar[FrameLimits | None] = FrameLimits(1, 4096)

    depth: Literal[8]

    def trials(self, count: int) -> Iterator[Options]:
        # Lossless at cpu-used 5: 6.48 bpw for int8 and 2.41 for int4, 3.5 M/s; at 2, 6.54 and 2.39, 1.3 M/s.
        # Lossy at cpu-used 2: 0.87 bpw for 4.4 dB, 1.5 M/s; at 5, 0.90 for 4.3 dB.
        options = {"deadline": "good", "g": "1", "lag-in-frames": "0", "auto-alt-ref": "0", "aq-mode": "0"}
        options |= {"row-mt": "0", "tile-columns": "0", "frame-parallel": "0"}
        if self.qp is None:
            yield options | {"cpu-used": "5", "lossless": "1"}
        else:
            qp = str(self.qp)
            yield options | {"cpu-used": "2", "b": "0", "crf": qp, "qmin": qp, "qmax": qp}


class Ffv1(VideoCoder, frozen=True, tag="ffv1", kw_only=True):
    """FFV1 version 1, always lossless: one slice a frame and no headers beyond the first."""

    encoder: ClassVar[str] = "ffv1"
    decoder: ClassVar[str] = "ffv1"
    formats: ClassVar[Mapping[int, str]] = MappingProxyType(_GRAY)
    limits: ClassVar[FrameLimits | None] = FrameLimits(1, 4096)

    depth: Literal[8, 10, 12, 16]

    def trials(self, count: int) -> Iterator[Options]:
        # On VGG16 and EfficientNet-Lite0 the first wins at 7 and 8 bits, the last at 3 and 4, by up to 15 %; between
        # them it depends. Each takes 25 to 65 M/s. Beyond 8 bits there are no Golomb-Rice codes.
        trials = (("rice", "0"), ("range_tab", "0"), ("range_tab", "1")) if self.depth == 8 else (("range_tab", "0"),)
        for coder, context in trials:
            yield {"level": "1", "coder": coder, "context": context, "g": str(count)}


VIDEO_CODERS: Mapping[str, type[VideoCoder]] = MappingProxyType(
    {"h264": H264, "hevc": Hevc, "av1": Av1, "vp9": Vp9, "ffv1": Ffv1}
)
