"""The units that streams of H.264, HEVC, AV1 and VP9 consist of: which are stored, and what is checked before decoding.

Only what a decoder needs for intra frames is kept, so that a decoder meets nothing else in a stranger's file: no
messages, no frames that refer to others, and no second frame in a packet. The sizes that H.264, HEVC and VP9 promise
are read here: FFmpeg's decoders allocate tables for those of the first two before they look at `max_pixels`. dav1d
looks at it first. FFV1 is range coded from its first bit on, and has neither units nor sizes to look at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from wcodec.coders.packets import Stream
from wcodec.errors import CoderError, CorruptFileError

_START = b"\0\0\1"


class Picture(NamedTuple):
    """What a sequence parameter set says of every frame: sides, padded to whole blocks, and bits of a sample."""

    width: int
    height: int
    depth: int


class _Nal(NamedTuple):
    """How a codec numbers the units it needs: its parameter sets in their order, and slices of intra frames."""

    shift: int
    mask: int
    sets: tuple[int, ...]
    slices: frozenset[int]
    sequence: int
    picture: Callable[[_Bits], Picture]
    block: int

    def kind(self, unit: bytes) -> int:
        return unit[0] >> self.shift & self.mask


class _Bits:
    """Reads bytes bit by bit; `ValueError` past their end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, bits: int) -> int:
        if bits > self._left:
            raise ValueError("a header ends too early")
        self._left -= bits
        return self._value >> self._left & ((1 << bits) - 1)

    def golomb(self) -> int:
        """An unsigned Exp-Golomb code, of a number far beyond any that is allowed here at most."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 16:
                raise ValueError("a header holds a number out of any range")
        return (1 << zeros) - 1 + self.read(zeros)

    def expect(self, value: int, found: int, what: str) -> None:
        if found != value:
            raise ValueError(f"{what} is {found} where only {value} is allowed")


def _h264_picture(bits: _Bits) -> Picture:
    """Sections 7.3.2.1.1 and 7.4.2.1.1 of H.264, as far as the size; gray and progressive only."""
    bits.read(8)
    profile = bits.read(8)
    if profile not in (100, 110, 122, 244):
        raise ValueError(f"H.264 profile {profile} has no gray frames")
    bits.read(16)
    bits.golomb()
    bits.expect(0, bits.golomb(), "chroma_format_idc")
    depth = 8 + bits.golomb()
    bits.golomb()
    bits.read(1)
    bits.expect(0, bits.read(1), "seq_scaling_matrix_present_flag")
    bits.golomb()
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    else:
        bits.expect(2, order, "pic_order_cnt_type")
    bits.golomb()
    bits.read(1)
    width, height = 16 * (bits.golomb() + 1), 16 * (bits.golomb() + 1)
    bits.expect(1, bits.read(1), "frame_mbs_only_flag")
    return Picture(width, height, depth)


def _hevc_picture(bits: _Bits) -> Picture:
    """Section 7.3.2.2.1 of H.265, as far as the bit depth; gray and without temporal sub-layers only."""
    bits.read(16 + 4)
    bits.expect(0, bits.read(3), "sps_max_sub_layers_minus1")
    bits.read(1 + 96)
    bits.golomb()
    bits.expect(0, bits.golomb(), "chroma_format_idc")
    width, height = bits.golomb(), bits.golomb()
    if bits.read(1):
        for _ in range(4):
            bits.golomb()
    return Picture(width, height, 8 + bits.golomb())


_NALS = {
    "h264": _Nal(0, 31, (7, 8), frozenset({5}), 7, _h264_picture, 16),
    "hevc": _Nal(1, 63, (32, 33, 34), frozenset({19, 20}), 33, _hevc_picture, 64),
}

_OBUS = bytes([0x12, 0x0A, 0x32])
"""First bytes of the OBUs kept, in this order: temporal delimiter, sequence header, frame; no extension, and a size."""


def distil(codec: str, packets: list[bytes]) -> Stream:
    """An encoder's packets reduced to what a decoder needs, parameter sets apart; `CoderError` if that is not there."""
    try:
        if codec == "av1":
            units = [[obu.whole for obu in _obus(packet)] for packet in packets]
            return Stream(b"", [b"".join(unit for unit in frame if unit[0] in _OBUS) for frame in units])
        if codec not in _NALS:
            return Stream(b"", packets)
        nal = _NALS[codec]
        units = [_units(packet) for packet in packets]
        sets = [_START + unit for unit in units[0] if nal.kind(unit) in nal.sets]
        slices = [b"".join(_START + unit for unit in frame if nal.kind(unit) in nal.slices) for frame in units]
        return Stream(b"".join(sets), slices)
    except ValueError as error:
        raise CoderError(f"the {codec} encoder wrote what is not understood: {error}") from error


def check(codec: str, stream: Stream, width: int, height: int, depth: int, where: str) -> None:
    """`CorruptFileError` unless a stream has just the units that `distil` keeps, of key frames of this size."""
    try:
        if codec in _NALS:
            _check_nal(_NALS[codec], stream, Picture(width, height, depth))
            return
        if stream.extradata:
            raise ValueError(f"extradata, of which {codec} has none")
        for packet in stream.packets:
            if codec == "av1":
                _check_av1(packet)
            elif codec == "vp9":
                _check_vp9(packet, width, height)
    except ValueError as error:
        raise CorruptFileError(where, str(error)) from error


def _check_nal(nal: _Nal, stream: Stream, frame: Picture) -> None:
    sets = _units(stream.extradata)
    if tuple(map(nal.kind, sets)) != nal.sets:
        raise ValueError("its parameter sets are not one of each kind")
    sequence = sets[nal.sets.index(nal.sequence)]
    picture = nal.picture(_Bits(sequence.replace(b"\0\0\3", b"\0\0")))
    padding = (picture.width - frame.width, picture.height - frame.height)
    if picture.depth != frame.depth or not all(0 <= more < nal.block for more in padding):
        raise ValueError(f"the stream has frames of {picture.height} x {picture.width} at {picture.depth} bits")
    for packet in stream.packets:
        if not nal.slices.issuperset(map(nal.kind, _units(packet))):
            raise ValueError("a packet holds other units than slices of an intra frame")


def _check_av1(packet: bytes) -> None:
    """Sections 5.5.1 and 5.9.2 of AV1, as far as the frame's type; its size is dav1d's to check."""
    obus = _obus(packet)
    if bytes(obu.whole[0] for obu in obus) != _OBUS:
        raise ValueError("a packet is not a temporal delimiter, a sequence header and a frame")
    _, sequence, frame = (_Bits(obu.payload[:1]) for obu in obus)
    sequence.expect(0, sequence.read(3), "seq_profile")
    sequence.read(1)
    sequence.expect(0, sequence.read(1), "reduced_still_picture_header")
    frame.expect(0, frame.read(1), "show_existing_frame")
    frame.expect(0, frame.read(2), "frame_type")
    frame.expect(1, frame.read(1), "show_frame")


def _check_vp9(packet: bytes, width: int, height: int) -> None:
    """Section 6.2 of VP9, as far as the size, and its Annex B: a shown key frame, and no index of several frames."""
    bits = _Bits(packet[:9])
    bits.expect(2, bits.read(2), "frame_marker")
    bits.expect(0, bits.read(2), "the profile")
    bits.expect(0, bits.read(1), "show_existing_frame")
    bits.expect(0, bits.read(1), "frame_type")
    bits.expect(1, bits.read(1), "show_frame")
    bits.read(1)
    bits.expect(0x498342, bits.read(24), "frame_sync_code")
    bits.read(3 + 1)
    bits.expect(width, 1 + bits.read(16), "the frame's width")
    bits.expect(height, 1 + bits.read(16), "the frame's height")
    if packet[-1] >> 5 == 0b110:
        raise ValueError("a packet ends with a superframe index")


def _units(data: bytes) -> list[bytes]:
    """The NAL units of a byte stream (Annex B of H.264 and of H.265), without start codes."""
    start, *units = data.split(_START)
    units = [unit.rstrip(b"\0") for unit in units]
    if start.strip(b"\0") or not units or not all(units):
        raise ValueError("it is not a sequence of NAL units")
    return units


class _Obu(NamedTuple):
    whole: bytes
    payload: bytes


def _obus(data: bytes) -> list[_Obu]:
    """The OBUs of a temporal unit (section 5.3 of AV1), all of which must carry their size."""
    found = []
    start = 0
    while start < len(data):
        if data[start] & 0b10000011 != 0b10:
            raise ValueError("an OBU has no size")
        place = start + (2 if data[start] & 0b100 else 1)
        length = data[place : place + 5]
        size = 0
        for digit, byte in enumerate(length):
            size |= (byte & 127) << 7 * digit
            if byte < 128:
                break
        else:
            raise ValueError("an OBU has a malformed size")
        place += digit + 1
        end = place + size
        if end > len(data):
            raise ValueError("an OBU ends beyond its packet")
        found.append(_Obu(data[start:end], data[place:end]))
        start = end
    return found
