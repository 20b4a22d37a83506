"""Archives with right checksums and forged payloads, loaded onto devices: errors that name the place, no harm."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import wcodec
from tests.support.attacks import Json
from tests.support.containers import assemble, checksum, digest, dissect, padded
from tests.support.opencl import as_gpu, encoded, laid_open, parts_of, smooth
from tests.test_hostile import forge, put, replace
from wcodec import CorruptFileError
from wcodec.coders.rans import Rans
from wcodec.coders.zstd import Zstd
from wcodec.opencl import loading
from wcodec.opencl.device import Device
from wcodec.opencl.layout import PackedLayout

ROWS, ROW = 90, 4 * 9


@cache
def sound() -> bytes:
    """A tensor of several chunks, each with several lanes, all of whose side information lies open."""
    weights = smooth(np.random.default_rng(4), ROWS, 4, 3, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wcodec.tiling.CHUNK_ELEMENTS", ROWS * ROW // 3)
        data = encoded({"w": weights}, lane=128, coder="rans", min_size=1)
    pieces = dissect(data).index["tensors"][0][6]
    return forge(data, payloads={n: laid_open(data[p[0] : p[0] + p[1]]) for n, p in enumerate(pieces, 1)})


def payload_of(chunk: int) -> bytes:
    place = dissect(sound()).index["tensors"][0][6][chunk]
    return sound()[place[0] : place[0] + place[1]]


def lanes() -> int:
    with wcodec.open(sound()) as archive:
        coder, piece = archive.tensor("w").recipe.coder, archive.tensor("w").pieces[0]
        assert isinstance(coder, Rans)
        assert len(archive.tensor("w").pieces) == 3
        return len(coder.lanes(np.empty((piece.chunk.rows, ROW))))


def both(data: bytes, device: Device, layout: PackedLayout | None = None) -> list[Any]:
    """The array that the host finds in "w", or the error by which it refuses, and a device's."""
    results: list[Any] = []
    for name in ("cpu", device):
        try:
            if isinstance(name, str):
                results.append(wcodec.load(data)["w"].astype(np.float16))
            else:
                results.append(wcodec.load(data, name, layout=layout)["w"].array())
        except CorruptFileError as error:
            results.append(error)
    return results


def test_the_archive_itself_is_sound(device: Device) -> None:
    host, found = both(sound(), device)
    assert isinstance(host, np.ndarray)
    assert np.array_equal(found, host)
    assert lanes() > 3


@pytest.mark.parametrize("part", ["head", "model", "counts", "states", "words", "states as a GPU", "words as a GPU"])
def test_damage_is_found_or_does_none(device: Device, part: str) -> None:
    """What the host refuses the device refuses, at the same place, and what it takes decodes to the same numbers."""
    part, _, driven = part.partition(" as a ")
    if driven:
        device = as_gpu(device)
    rng = np.random.default_rng(len(part))
    refused = 0
    for _ in range(25):
        chunk = int(rng.integers(3))
        payload = bytearray(payload_of(chunk))
        place = int(rng.choice(parts_of(bytes(payload), lanes())[part]))
        payload[place] ^= 1 << int(rng.integers(8))
        host, found = both(forge(sound(), payloads={1 + chunk: bytes(payload)}), device)
        if isinstance(host, CorruptFileError):
            assert str(found) == str(host)
            assert isinstance(found, CorruptFileError)
            assert found.where == f"tensor 'w', chunk {chunk}"
            refused += 1
        else:
            assert np.array_equal(found, host)
    assert refused > 5


@pytest.mark.parametrize("layout", [None, PackedLayout(4, 4)], ids=str)
def test_the_first_damaged_lane_is_named_with_its_chunk(device: Device, layout: PackedLayout | None) -> None:
    for chunk, lane in ((0, 0), (1, 3), (2, lanes() - 1)):
        broken = {}
        for number in range(chunk, 3):
            payload = bytearray(payload_of(number))
            states = parts_of(bytes(payload), lanes())["states"]
            for other in range(lane, lanes()):
                payload[states[3 * lanes() + other]] ^= 64
            broken[1 + number] = bytes(payload)
        host, found = both(forge(sound(), payloads=broken), device, layout)
        assert str(found) == str(host)
        assert f"tensor 'w', chunk {chunk}: rans payload: lane {lane} does not decode" in str(found)


def test_the_first_damaged_batch_is_named(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_BATCH", 1)
    broken = {}
    for chunk in (1, 2):
        payload = bytearray(payload_of(chunk))
        payload[parts_of(bytes(payload), lanes())["states"][-1]] ^= 64
        broken[1 + chunk] = bytes(payload)
    found = both(forge(sound(), payloads=broken), device)[1]
    assert f"tensor 'w', chunk 1: rans payload: lane {lanes() - 1} does not" in str(found)


def test_damage_spares_other_tensors(device: Device) -> None:
    """A device that met damage decodes the next archive."""
    payload = payload_of(0)
    with pytest.raises(CorruptFileError):
        wcodec.load(forge(sound(), payloads={1: payload[:-1] + bytes([payload[-1] ^ 255])}), device)
    assert np.array_equal(wcodec.load(sound(), device)["w"].array(), wcodec.load(sound())["w"].astype(np.float16))


@pytest.mark.parametrize("period", [2, 5, 36, 7, 128])
def test_kernels_of_another_size_than_the_tensors(device: Device, period: int) -> None:
    host, found = both(forge(sound(), put("coder", period=period)), device)
    assert isinstance(host, CorruptFileError)
    assert isinstance(found, CorruptFileError)
    assert "tensor 'w'" in found.where


def test_kernels_within_those_of_the_layout(device: Device) -> None:
    """A sound archive may have kernels that are no places of its tensor; no encoder here makes one."""
    weights = smooth(np.random.default_rng(5), 20, 4, 3, 3)
    data = encoded({"w": weights}, coder="rans", min_size=1)
    with wcodec.open(data) as archive:
        symbols = archive.tensor("w").symbols((0, 20)).reshape(1, 20, ROW)
    forged = forge(data, put("coder", period=1, lane=256), {1: Rans(256, 1).encode(symbols)})
    for layout in (None, PackedLayout(4, 4)):
        host, found = both(forged, device, layout)
        assert isinstance(host, np.ndarray)
        assert np.array_equal(found, host)


@pytest.mark.parametrize("tiling", [{"id": "grid", "line": ROW, "height": 32, "width": ROW}])
def test_rans_in_a_grid_of_frames(device: Device, tiling: Json) -> None:
    host, found = both(forge(sound(), replace("tiling", tiling)), device)
    assert isinstance(found, CorruptFileError)
    assert "tensor 'w'" in found.where
    assert host is not None


@pytest.mark.parametrize("layout", [None, PackedLayout(4, 4)], ids=str)
@pytest.mark.parametrize("per", ["channel", "group"])
@pytest.mark.parametrize("coder", ["raw", "zstd", "rans"])
def test_symbols_beyond_their_range_are_refused(
    device: Device, coder: str, per: str, layout: PackedLayout | None
) -> None:
    weights = np.random.default_rng(6).laplace(size=(40, 37)).astype(np.float32)
    data = encoded({"w": weights}, coder=coder, bits=5, per=per, group_size=5)
    with wcodec.open(data) as archive:
        tensor = archive.tensor("w")
        symbols, kind = tensor.symbols((0, 40)).reshape(1, 40, 37), tensor.recipe.coder
    assert np.abs(symbols).max() == 15
    for place in ((0, 0), (39, 36), (17, 16)):
        for beyond in (16, -16, 127, -128):
            wrong = symbols.copy()
            wrong[0, *place] = beyond
            host, found = both(forge(data, payloads={1: kind.encode(wrong)}), device, layout)
            assert isinstance(host, CorruptFileError)
            assert isinstance(found, CorruptFileError)
            assert found.where == "tensor 'w', chunk 0"
            assert found.problem.startswith(f"{coder} payload: ")


def test_masks_and_halves_of_bytes_hold_what_they_can(device: Device) -> None:
    """Kept integers are not the device's to check."""
    data = encoded({"w": np.ones((8, 9), bool)}, coder="zstd")
    wrong = np.ones((1, 8, 9), np.uint8)
    wrong[0, 3, 3] = 2
    with pytest.raises(CorruptFileError, match=r"tensor 'w', chunk 0: .*symbols beyond 0 to 1"):
        wcodec.load(forge(data, payloads={0: Zstd(3, "bytes").encode(wrong)}), device)
    data = encoded({"w": np.ones((8, 9), np.int8).astype(wcodec.model.DTYPES["i4"])}, coder="rans")
    with wcodec.open(data) as archive:
        coder = archive.tensor("w").recipe.coder
    halves = np.ones((1, 8, 9), np.int8)
    halves[0, 7, 8] = 8
    host, found = both(forge(data, payloads={0: coder.encode(halves)}), device)
    assert isinstance(host, CorruptFileError)
    assert isinstance(found, CorruptFileError)
    assert found.where == "tensor 'w', chunk 0"


def test_scales_that_are_no_numbers_are_refused_before_anything_is_sent(device: Device) -> None:
    host, found = both(forge(sound(), payloads={0: b"\0" * 8}), device)
    assert isinstance(host, CorruptFileError)
    assert str(found) == str(host)


def test_several_tensors_of_which_one_is_damaged(device: Device) -> None:
    """The others' checksums, places and numbers are theirs."""
    rng = np.random.default_rng(7)
    names = ["a", "b", "c"]
    data = encoded({name: smooth(rng, 20, 4, 3, 3) for name in names}, coder="rans", min_size=1)
    index = dissect(data).index
    stored, position, pieces = [], 64, []
    for entry in index["tensors"]:
        for piece in (entry[5], *entry[6]):
            payload = data[piece[0] : piece[0] + piece[1]]
            if entry[0] == "b" and piece is entry[6][0]:
                payload = payload[:-1] + bytes([payload[-1] ^ 0x55])
            piece[0], piece[3] = position, checksum(payload)
            position += len(padded(payload))
            stored.append(payload)
            pieces.append(piece)
    index["digest"] = digest([piece[3] for piece in pieces])
    forged = assemble(stored, index)
    with pytest.raises(CorruptFileError, match="tensor 'b', chunk 0: rans payload: lane 2 "):
        wcodec.load(forged, device)
    found = wcodec.load(forged, device, names=["a", "c"])
    assert all(np.array_equal(found[name].array(), wcodec.load(data)[name].astype(np.float16)) for name in "ac")
