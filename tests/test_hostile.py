"""Archives whose checksums are right and whose contents are made to harm: recipes, scales and payloads."""

import io
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wcodec
from tests.support.attacks import Json, bounded
from tests.support.containers import assemble, checksum, digest, dissect, padded
from wcodec import CorruptFileError, InputError, Policy, UnsupportedError
from wcodec.coders import packets
from wcodec.coders.floats import Floats
from wcodec.coders.video import VIDEO_CODERS
from wcodec.coders.zstd import Zstd

RNG = np.random.default_rng(5)
WEIGHTS = {"w": RNG.laplace(size=(64, 64)).astype(np.float32)}
CODERS = ["raw", "zstd", "h264", "hevc", "av1", "vp9", "ffv1"]


def archive_of(coder: str, bits: int = 8, **policy: Any) -> bytes:
    stream = io.BytesIO()
    wcodec.encode(wcodec.Model.from_arrays(WEIGHTS), stream, Policy(coder=coder, bits=bits, **policy))
    return stream.getvalue()


@pytest.fixture(scope="module")
def archives() -> dict[str, bytes]:
    return {coder: archive_of(coder) for coder in CODERS} | {"floats": archive_of("floats", lossless=True)}


def forge(data: bytes, change=None, payloads: dict[int, bytes] | None = None) -> bytes:
    """The file with its index changed and payloads replaced, every checksum and offset made right again."""
    index = dissect(data).index
    entry = index["tensors"][0]
    pieces = [piece for piece in (entry[5], *entry[6]) if piece]
    stored, position = [], 64
    for number, piece in enumerate(pieces):
        payload = (payloads or {}).get(number, data[piece[0] : piece[0] + piece[1]])
        piece[0], piece[1], piece[3] = position, len(payload), checksum(payload)
        position += len(padded(payload))
        stored.append(payload)
    if change is not None:
        change(index)
    index["digest"] = digest([piece[3] for piece in pieces])
    return assemble(stored, index)


def read(data: bytes) -> np.ndarray:
    with wcodec.open(data) as archive:
        return archive["w"]


def put(stage: str, **members: object):
    def change(index: Json) -> None:
        index["recipes"][0][stage].update(members)

    return change


def replace(stage: str, value: object):
    def change(index: Json) -> None:
        index["recipes"][0][stage] = value

    return change


def drop(stage: str):
    def change(index: Json) -> None:
        del index["recipes"][0][stage]

    return change


def dtype(name: str):
    def change(index: Json) -> None:
        index["tensors"][0][1] = name

    return change


def kept_with_scales(index: Json) -> None:
    """The int8 symbols themselves, which would decode, but beside scales that nothing asks for."""
    index["recipes"][0]["quantizer"] = {"id": "keep"}
    index["tensors"][0][1] = "i8"


GRID = {"id": "grid", "line": 64, "height": 64, "width": 64}

ATTACKS = {
    "no coder": ("zstd", drop("coder"), CorruptFileError),
    "coder is a list": ("zstd", replace("coder", []), CorruptFileError),
    "coder without an id": ("zstd", replace("coder", {"level": 3}), CorruptFileError),
    "id is a number": ("zstd", put("coder", id=3), CorruptFileError),
    "unknown coder": ("zstd", put("coder", id="rans9"), UnsupportedError),
    "unknown quantizer": ("zstd", put("quantizer", id="lattice"), UnsupportedError),
    "unknown tiling": ("zstd", put("tiling", id="spiral"), UnsupportedError),
    "a quantizer for a coder": ("zstd", put("coder", id="keep"), UnsupportedError),
    "member too many": ("zstd", put("coder", extra=1), CorruptFileError),
    "level is text": ("zstd", put("coder", level="3"), CorruptFileError),
    "level is a fraction": ("zstd", put("coder", level=3.5), CorruptFileError),
    "layout unknown": ("zstd", put("coder", layout="bits"), CorruptFileError),
    "layout other": ("zstd", put("coder", layout="nibbles"), CorruptFileError),
    "crumbs of 8 bits": (
        "zstd",
        put("coder", layout="crumbs"),
        CorruptFileError,
    ),
    "bits of 40": ("zstd", put("quantizer", bits=40), CorruptFileError),
    "bits of 0": ("zstd", put("quantizer", bits=0), CorruptFileError),
    "bits of 16, payload of 8": ("zstd", put("quantizer", bits=16), CorruptFileError),
    "block of other rank": ("zstd", put("quantizer", block=[1]), CorruptFileError),
    "block below 0": ("zstd", put("quantizer", block=[-1, 0]), CorruptFileError),
    "block finer than the scales": ("zstd", put("quantizer", block=[1, 1]), CorruptFileError),
    "block coarser than the scales": ("zstd", put("quantizer", block=[0, 0]), CorruptFileError),
    "asymmetric without zero points": ("zstd", put("quantizer", symmetric=False), CorruptFileError),
    "keep with side information": ("raw", replace("quantizer", {"id": "keep"}), CorruptFileError),
    "keep and scales": ("zstd", kept_with_scales, CorruptFileError),
    "uniform integers": ("zstd", dtype("i8"), CorruptFileError),
    "uniform f64 with f32 scales": ("zstd", dtype("f64"), CorruptFileError),
    "frames of 2^28": ("ffv1", put("tiling", height=16384, width=16384), CorruptFileError),
    "frames of 2^14 lines": ("zstd", replace("tiling", {**GRID, "height": 16384}), CorruptFileError),
    "a line of 2^24": ("zstd", replace("tiling", {**GRID, "line": 1 << 24}), CorruptFileError),
    "a line of 0": ("ffv1", put("tiling", line=0), CorruptFileError),
    "frames smaller than the stream's": ("ffv1", put("tiling", height=16), CorruptFileError),
    "frames larger than the stream's": ("hevc", put("tiling", height=128), CorruptFileError),
    "other depth": ("hevc", put("coder", depth=10), CorruptFileError),
    "depth of 9": ("hevc", put("coder", depth=9), CorruptFileError),
    "other codec": ("hevc", replace("coder", {"id": "h264", "depth": 8, "qp": None}), CorruptFileError),
    "no qp": ("hevc", replace("coder", {"id": "hevc", "depth": 8}), CorruptFileError),
    "depth below the bits": ("ffv1", put("quantizer", bits=9), CorruptFileError),
    "qp of -5": ("hevc", put("coder", qp=-5), CorruptFileError),
    "video for floats": ("floats", replace("coder", {"id": "ffv1", "depth": 16}), CorruptFileError),
    "floats for symbols": ("zstd", replace("coder", {"id": "floats", "level": 3}), CorruptFileError),
    "raw for zstd": ("zstd", replace("coder", {"id": "raw"}), CorruptFileError),
    "zstd for raw": ("raw", replace("coder", {"id": "zstd", "level": 3, "layout": "bytes"}), CorruptFileError),
}


@pytest.mark.parametrize(("coder", "change", "error"), ATTACKS.values(), ids=ATTACKS.keys())
def test_recipes_that_do_not_fit_are_refused(archives, coder, change, error):
    data = forge(archives[coder], change)
    read(archives[coder])  # what is imported on the way does not count as memory of the attack
    with bounded(), pytest.raises(InputError) as caught:
        read(data)
    assert type(caught.value) is error
    assert "tensor 'w'" in str(caught.value) or "recipe 0" in str(caught.value)
    assert wcodec.verify(data) != []


def test_a_kept_tensor_has_a_lossless_coder():
    weights = {"w": np.arange(4096).astype(np.int8).reshape(64, 64)}
    stream = io.BytesIO()
    wcodec.encode(wcodec.Model.from_arrays(weights), stream, Policy(coder="hevc"))
    assert np.array_equal(read(stream.getvalue()), weights["w"])
    with pytest.raises(CorruptFileError, match="tensor 'w': recipe: keeps a tensor by a lossy coder"):
        read(forge(stream.getvalue(), put("coder", qp=20)))


PEAKS = """
import sys
from pathlib import Path
import wcodec
for path in sys.argv[1:]:
    error = None
    try:
        with wcodec.open(path) as archive:
            archive["w"]
    except wcodec.CorruptFileError as caught:
        error = caught
    print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0], error)
"""


def larger_streams(coder: str) -> dict[str, bytes]:
    """Payloads for the one frame of 32 x 128 that `WEIGHTS` makes, which hold, or say they hold, far larger frames."""
    kind = VIDEO_CODERS[coder]
    found = {"frames of 2048 x 2048": kind.of(8).encode(np.zeros((1, 2048, 2048), np.int8))}
    if coder == "vp9":
        (packet,) = packets.unpack(kind.of(8).encode(np.zeros((1, 32, 128), np.int8)), 1, "here").packets
        # 16 bits each for width and height, after 36 others
        lie = int.from_bytes(packet[:9], "big") | (1 << 36) - 16
        found["frames said to be of 65536 x 65536"] = packets.pack(
            packets.Stream(b"", [lie.to_bytes(9, "big") + packet[9:]])
        )
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory as Linux tells it")
@pytest.mark.parametrize("coder", sorted(VIDEO_CODERS))
def test_video_that_lies_about_its_size_takes_no_memory(archives, coder, tmp_path):
    """FFmpeg's memory included, which tracemalloc does not see: the peak of a process after a sound file's."""
    sound = archives[coder]
    attacks = {what: forge(sound, payloads={1: payload}) for what, payload in larger_streams(coder).items()}
    for height, width in ((256, 256), (4096, 4096), (16, 16)):
        attacks[f"a recipe of {height} x {width}"] = forge(sound, put("tiling", height=height, width=width))
    # FFV1 does not say how large its frames are, and its decoder goes on where a packet has ended
    unnoticed = {"frames of 2048 x 2048", "a recipe of 256 x 256"} if coder == "ffv1" else set()
    paths = []
    for number, data in enumerate([sound, *attacks.values()]):
        paths.append(tmp_path / f"{number}.wcodec")
        paths[-1].write_bytes(data)
    child = subprocess.run([sys.executable, "-c", PEAKS, *paths], capture_output=True, text=True, check=True)
    (first, error), *others = [line.split(maxsplit=1) for line in child.stdout.splitlines()]
    assert error == "None"
    for what, (peak, error) in zip(attacks, others, strict=True):
        assert "tensor 'w'" in error or what in unnoticed, what
        assert int(peak) - int(first) < 3072, f"KiB for {what}"


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_scales_that_are_no_numbers_are_refused(archives, scale):
    scales = np.ones((1, 1, 64), np.float32)
    scales[..., 7] = scale
    coded = Floats(3).encode(scales)
    side = len(coded).to_bytes(4, "little") + coded
    with pytest.raises(CorruptFileError, match=r"side information: .*not a finite number"):
        read(forge(archives["zstd"], payloads={0: side}))


@pytest.mark.parametrize("coder", [*CODERS, "floats"])
@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.integers(0, 40))
def test_a_damaged_payload_with_a_right_checksum_is_refused_or_decodes_to_something(archives, coder, place, bit, cut):
    """Nothing tells a forger's payload from a true one but what it is: no crash, no hang, no other exception."""
    data = archives[coder]
    entry = dissect(data).index["tensors"][0]
    number = 1 if entry[5] else 0
    chunk = entry[6][0]
    payload = bytearray(data[chunk[0] : chunk[0] + chunk[1]])
    payload[int(place * len(payload))] ^= 1 << bit
    forged = forge(data, payloads={number: bytes(payload[: len(payload) - cut]) or b"\0"})
    found, where = None, None
    try:
        found = read(forged)
    except CorruptFileError as error:
        where = error.where
    assert where == "tensor 'w', chunk 0" if found is None else found.shape == (64, 64)


@pytest.mark.parametrize("coder", [*CODERS, "floats"])
def test_every_flipped_byte_is_found(archives, coder):
    """With the checksums as they were: opening, reading or verifying reports every byte of the file."""
    data = archives[coder]
    sound = read(data)
    step = 1 if len(data) < 6000 else 7
    for position in range(0, len(data), step):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        try:
            with wcodec.open(bytes(damaged)) as archive:
                assert wcodec.verify(archive) != [], position
                found = archive["w"]
        except InputError:
            continue
        assert found.tobytes() == sound.tobytes(), position


@pytest.mark.parametrize("coder", ["zstd", "hevc"])
def test_every_truncation_is_found(archives, coder):
    data = archives[coder]
    for length in range(len(data)):
        with pytest.raises(CorruptFileError):
            wcodec.open(data[:length])


def test_a_zstd_bomb_is_refused_before_it_is_unpacked(archives):
    import zstandard

    bomb = zstandard.ZstdCompressor(level=3).compress(bytes(1 << 27))
    unstated = zstandard.ZstdCompressor(level=3, write_content_size=False).compress(bytes(1 << 27))
    lying = zstandard.ZstdCompressor(level=3).compress(bytes(4096)) + bomb
    for payload in (bomb, unstated, lying):
        with bounded(), pytest.raises(CorruptFileError):
            read(forge(archives["zstd"], payloads={1: payload}))


def test_a_small_file_cannot_ask_for_more_scales_than_it_can_hold():
    """Sixteen chunks of constant symbols, and a scale for each of their 2^28 elements."""
    coder, scales = Zstd(3, "bytes"), Floats(3)
    chunk = coder.encode(np.zeros((1, 1, 1 << 24), np.int8))
    planes = scales.encode(np.ones((1, 1, 1 << 24), np.float32))
    side = len(planes).to_bytes(4, "little") + planes
    for elements, rows in ((1 << 28, 16), (1 << 24, 1)):
        payloads, position = [side, *[chunk] * rows], 64
        pieces: list[Any] = []
        for payload in payloads:
            pieces.append([position, len(payload), 1 << 24, checksum(payload)])
            position += len(padded(payload))
        pieces[0][2] = 0
        recipe = {
            "quantizer": {"id": "uniform", "bits": 8, "symmetric": True, "block": [1], "fit": "max"},
            "tiling": {"id": "flat"},
            "coder": {"id": "zstd", "level": 3, "layout": "bytes"},
        }
        index = {
            "tensors": [["w", "f32", [elements], 1, 0, pieces[0], pieces[1:]]],
            "recipes": [recipe],
            "digest": digest([piece[3] for piece in pieces]),
        }
        with (
            bounded(),
            wcodec.open(assemble(payloads, index)) as archive,
            pytest.raises(CorruptFileError, match="scales"),
        ):
            archive.tensor("w")[0:1]


def test_symbols_beyond_their_range_are_refused():
    arrays = {"w": np.ones((8, 8), np.float32), "mask": np.ones(9, bool), "i4": np.ones(7).astype(ml_dtypes.int4)}
    stream = io.BytesIO()
    wcodec.encode(wcodec.Model.from_arrays(arrays), stream, Policy(coder="raw", bits=5, min_size=1))
    for name, bad in (("w", 16), ("mask", 2), ("i4", 8)):
        data = bytearray(stream.getvalue())
        index = dissect(bytes(data)).index
        entry = next(entry for entry in index["tensors"] if entry[0] == name)
        offset, length, _, _ = entry[6][0]
        data[offset] = bad
        entry[6][0][3] = checksum(bytes(data[offset : offset + length]))
        pieces = [piece for e in index["tensors"] for piece in (e[5], *e[6]) if piece]
        index["digest"] = digest([piece[3] for piece in pieces])
        forged = assemble([bytes(data[p[0] : p[0] + p[1]]) for p in pieces], index)
        with pytest.raises(CorruptFileError, match="symbols beyond"), wcodec.open(forged) as archive:
            archive[name]


def test_a_tensor_too_large_for_any_memory_is_an_error_not_a_crash(archives):
    def change(index: Json) -> None:
        index["tensors"][0][2] = [1 << 40, 64]

    with pytest.raises(CorruptFileError):
        wcodec.open(forge(archives["zstd"], change))
