"""`rans` on the host: tables against scipy, payloads against a decoder written from SPEC.md, and hostile ones."""

import math
import struct
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from scipy import stats

from tests.support import plain_rans
from wcodec.coders.rans import Rans
from wcodec.coders.rans.fit import fit
from wcodec.coders.rans.host import encode_lanes
from wcodec.coders.rans.lanes import Lanes
from wcodec.coders.rans.model import Model
from wcodec.coders.rans.payload import pack, unpack
from wcodec.coders.rans.tables import (
    SCALES,
    SHAPES,
    STORED,
    TOTAL,
    alias_table,
    cumulative,
    frequencies,
    measured,
)
from wcodec.coders.rans.words import Streams
from wcodec.coders.zstd import Zstd
from wcodec.errors import CoderError, CorruptFileError
from wcodec.tiling import Rows

SIZES = st.sampled_from([8, 16, 32, 64, 128, 256])


def smooth(rows: int, columns: int, period: int, dtype: str = "i1", scale: float = 15) -> np.ndarray:
    """Rows of kernels whose weights are like their neighbours, as trained ones are, and rows of different scales."""
    rng = np.random.default_rng(rows + columns + period)
    noise = rng.standard_normal((rows, columns, period)) + 1.5 * rng.standard_normal((rows, columns, 1))
    noise *= scale * np.exp2(rng.integers(-2, 2, (rows, 1, 1)))
    ends = np.iinfo(dtype)
    middle = 0 if ends.min else (ends.max + 1) // 2
    return np.clip(np.rint(noise) + middle, ends.min, ends.max).astype(dtype).reshape(1, rows, -1)


def coded(coder: Rans, frames: np.ndarray) -> bytes:
    """The payload of frames, once they were seen to come back."""
    payload = coder.encode(frames)
    out = np.zeros_like(frames)
    coder.decode(payload, out)
    assert np.array_equal(out, frames)
    return payload


# Tables


@given(st.integers(0, len(SHAPES) - 1), st.integers(0, SCALES - 1), st.sampled_from([1, 2, 4, 8]), SIZES, st.data())
def test_every_table_of_the_family_deals_all_slots(shape, scale, phases, size, data):
    phase = data.draw(st.integers(0, phases - 1))
    counts = np.array(frequencies(shape, scale, phase, phases, size))
    assert counts.sum() == TOTAL
    assert counts.max() < TOTAL
    assert counts[-1] > 0
    check_slots(counts)
    assert tuple(counts) == tuple(plain_rans.table(scale, shape, phase, phases, size)[0])


@given(arrays(np.int64, SIZES, elements=st.integers(0, 1000)))
def test_stored_tables_deal_all_slots(counts):
    found = np.array(measured(counts))
    assert found.sum() == TOTAL
    assert found[-1] > 0
    assert ((found > 0) >= (counts > counts.sum() / TOTAL)).all()
    check_slots(found)


def check_slots(counts: np.ndarray) -> None:
    """Each symbol has as many slots as its frequency, of ranks 0 and up, found by either look-up and in `slots`."""
    table = alias_table(counts.astype(np.uint32))
    slots = np.arange(TOTAL)
    cells = 2 * (slots * len(counts) // TOTAL)
    cells += slots >= table.dividers[cells // 2]
    symbols, ranks = table.entries[cells] & 255, (slots + (table.entries[cells] >> 8)) & 4095
    assert (table.entries[cells] >> 20 == counts[symbols]).all()
    assert (table.entries_by_slot == symbols | ranks << 8 | counts[symbols] << 20).all()
    firsts = np.cumsum(counts) - counts
    assert (table.slots[firsts[symbols] + ranks] == slots).all()
    assert (np.bincount(symbols, minlength=len(counts)) == counts).all()


@pytest.mark.parametrize(
    "counts",
    [[4096, *[0] * 7], [512] * 7 + [511], [0] * 8, [1000, 1000, 1000, 1096, 0]],
    ids=["all", "sum", "none", "7"],
)
def test_tables_that_deal_no_slots_are_refused(counts):
    with pytest.raises(ValueError, match="frequencies"):
        alias_table(np.array(counts, np.uint32))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_family_is_students(shape):
    for scale in range(0, SCALES, 5):
        for numerator in range(-300, 301, 7):
            value = numerator / 8 / 2 ** (scale / 4 - 3)
            found = cumulative(shape, scale, numerator, 8) / 2**30
            assert math.isclose(found, stats.t.cdf(value, shape.freedom), abs_tol=1e-4), (scale, value)


# Lanes


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 30), st.integers(128, 400))
def test_lanes_are_those_of_the_specification(rows, kernels, period, lane):
    found = Lanes(rows, kernels * period, period, lane)
    told = plain_rans.lane_ranges(rows, kernels * period, period, lane)
    assert list(zip(found.starts.tolist(), found.starts[1:].tolist(), strict=False)) == told
    flat = np.arange(rows * kernels * period)
    assert np.array_equal(found.flat(found.columns(flat)), flat)
    assert sum(len(places) * count for places, count in found.runs()) == len(flat)


def test_a_large_network_has_tens_of_thousands_of_lanes():
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    shapes = [(outputs, inputs, 3, 3) for inputs, outputs in pairwise(widths)]
    lanes = 0
    for shape in [*shapes, (4096, 25088), (4096, 4096), (1000, 4096)]:
        rows = Rows.of(shape)
        coder = Rans.suited(math.prod(shape), rows.trail_from(2))
        lanes += sum(len(Lanes(b - a, rows.size, coder.period, coder.lane)) for a, b in rows.chunks())
    assert lanes >= 30_000


# Payloads


@settings(max_examples=60)
@given(
    st.sampled_from([1, 2, 9, 25]),
    st.integers(1, 12),
    st.integers(1, 20),
    st.sampled_from(["i1", "u1", "<i2", "<u2"]),
    st.sampled_from([0.2, 1.0, 4.0, 30.0, 3000.0]),
    st.integers(0, 2**32 - 1),
)
def test_a_decoder_written_from_the_specification_agrees(period, rows, columns, dtype, scale, seed):
    rng = np.random.default_rng(seed)
    frames = smooth(rows, columns, period, dtype, scale)
    frames[0, rng.integers(rows)] = rng.integers(np.iinfo(dtype).max, dtype=frames.dtype)
    frames[0, :, rng.integers(frames.shape[2])] = np.iinfo(dtype).min
    payload = coded(Rans(128, period), frames)
    assert plain_rans.decode(payload, rows, columns * period, period, 128) == frames.reshape(-1).tolist()


@settings(max_examples=60)
@given(
    st.sampled_from(["i1", "u1", "<i2", "<u2"]).flatmap(
        lambda dtype: arrays(dtype, st.tuples(st.just(1), st.integers(1, 9), st.sampled_from([9, 18, 270])))
    )
)
def test_whatever_the_symbols_they_come_back(frames):
    for period in (1, 9):
        coded(Rans(128, period), frames)


STATES = [130891510, 3415626766, 491371774, 7540698, 335213, 1427485]
COUNTS = [15, 15, 31, 34, 9, 9]
WORDS = (
    "2d54230e3865981e4a65f57e299687674d96602065b933456bd95554dcbe332e2465049e05962e610a969b205489bac06ad9"
    "055479be615421fe1b65da04021f007eedc703ed01cf00fed0a701ddd507009eb3af026dd5b6003e0225033dd50087d1da9f"
    "049dd500e80eda4f00afd5002167da4f01ffd500a1d3020dd50b00ee0ac5023dd5001d1f4675020dd500a025da3f023dd500"
    "4ddeda0f01ffd500b137da4f00afd500e557da03007f00de24e7da02021f00fe520d041d01cf000e37fb2a862a6ee01b996c"
    "d826c68c3e5b14972aece6acdb2adb1a7488fdf2a5e5fcbe3071"
)


def test_the_bytes_of_a_payload():
    """Every byte under a model that is given: how one is found may change, what it means may not."""
    rows = [[7, 6, 4, 1, -3, -5, -5, -2], [0, 0, 1, -1, 90, 88, 85, 80], [1, 0, 0, -1, 1, 1, 0, 0]]
    frames = np.tile(np.array([rows], np.int8), 17)
    model = Model(
        size=16,
        phases=4,
        origin=-128,
        low=0,
        center=np.array([128], np.uint8),
        row=np.array([2, 1, 0], np.int8),
        column=np.tile(np.array([0, 1], np.int8), 17),
        position=np.array([1, 0, 0, -1], np.int8),
        coefficients=np.array([[0] * 8, [58, *[0] * 7], [70, -20, *[0] * 6], [64, -12, 3, *[0] * 5]], np.int8),
        classes=np.array([[10, 0], [14, 1], [17, 6], [0, STORED]], np.uint8),
        stored=np.tile(np.array([[256] * 16], np.uint16), (1, 4, 1)),
    )
    streams = encode_lanes(model, frames[0], Rans(128, 4).lanes(frames[0]))
    assert streams.states.tolist() == STATES
    assert streams.counts.tolist() == COUNTS
    assert streams.words.tobytes().hex() == WORDS
    payload = pack(model, streams)
    out = np.empty_like(frames)
    Rans(128, 4).decode(payload, out)
    assert np.array_equal(out, frames)
    assert plain_rans.decode(payload, 3, 136, 4, 128) == frames.reshape(-1).tolist()


def test_neighbours_in_kernels_are_worth_prediction():
    frames = smooth(64, 64, 9)
    assert len(coded(Rans(2304, 9), frames)) < 0.93 * len(coded(Rans(2304, 1), frames))
    unlike = np.random.default_rng(0).permuted(frames, axis=2)
    assert fit(frames[0], 9).coefficients is not None
    assert fit(unlike[0], 9).coefficients is None


@pytest.mark.parametrize(("dtype", "value"), [("i1", 0), ("i1", -100), ("u1", 255), ("<i2", 30000), ("<u2", 1)])
def test_a_constant_tensor_costs_next_to_nothing(dtype, value):
    assert len(coded(Rans(4608, 1), np.full((1, 256, 4096), value, dtype))) < 600


def test_rows_of_zeros_cost_next_to_nothing():
    frames = smooth(64, 512, 9)
    full = len(coded(Rans(4608, 9), frames))
    frames[0, ::2] = 0
    assert len(coded(Rans(4608, 9), frames)) < 0.52 * full


@pytest.mark.parametrize("scale", [0.4, 1.0, 5.0, 20.0])
def test_sizes_are_near_the_entropy(scale):
    values = np.arange(-127, 128)
    masses = np.diff(stats.norm.cdf((np.arange(-127, 129) - 0.5) / scale))
    symbols = np.random.default_rng(0).choice(values, 1 << 19, p=masses / masses.sum()).astype(np.int8)
    entropy = -(masses[masses > 0] * np.log2(masses[masses > 0])).sum()
    bits = 8 * len(coded(Rans(4608, 1), symbols.reshape(1, 128, 4096))) / symbols.size
    assert entropy < bits < 1.01 * entropy + 0.015


@pytest.mark.parametrize("zeros", [0.5, 0.9, 0.99])
def test_pruned_weights_are_near_their_entropy(zeros):
    rng = np.random.default_rng(0)
    symbols = np.clip(np.rint(rng.standard_normal((256, 2048)) * 20), -127, 127).astype(np.int8)
    symbols[rng.random(symbols.shape) < zeros] = 0
    counts = np.unique(symbols, return_counts=True)[1] / symbols.size
    entropy = -(counts * np.log2(counts)).sum()
    payload = coded(Rans(4608, 1), symbols[None])
    assert 8 * len(payload) / symbols.size < 1.01 * entropy + 0.03
    assert len(payload) < min(len(Zstd(level, "bytes").encode(symbols[None])) for level in (1, 3, 19))


def test_lines_that_are_not_whole_kernels_are_refused():
    with pytest.raises(CoderError, match="whole kernels of 9"):
        Rans(128, 9).encode(np.zeros((1, 2, 10), np.int8))
    with pytest.raises(CorruptFileError, match="whole kernels of 9"):
        Rans(128, 9).decode(b"", np.zeros((1, 2, 10), np.int8))


# Hostile payloads

FRAMES = smooth(20, 12, 9)
CODER = Rans(128, 9)
PAYLOAD = CODER.encode(FRAMES)


def refused(payload: bytes, match: str | None) -> None:
    with pytest.raises(CorruptFileError, match=match):
        CODER.decode(payload, np.empty_like(FRAMES))


def parts() -> tuple[Model, Streams]:
    """Model and streams of the payload, of which tests forge the classes."""
    model, streams = unpack(PAYLOAD, 20, 12, 9, len(CODER.lanes(FRAMES[0])))
    return replace(model, classes=model.classes.copy()), streams


@given(st.data())
def test_flipped_bits_are_refused_or_harmless(data):
    """Whatever is flipped: an error of ours, or other symbols of the right kind where nothing can tell."""
    damaged = bytearray(PAYLOAD)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(CorruptFileError):
        CODER.decode(bytes(damaged), np.empty_like(FRAMES))


@given(st.integers(0, len(PAYLOAD) - 1))
def test_truncation_is_refused(length):
    refused(PAYLOAD[:length], None)


@pytest.mark.parametrize("flip", range(16))
def test_a_flipped_word_is_found_and_its_lane_named(flip):
    model, streams = parts()
    words = streams.words.copy()
    lane = 5
    words[streams.counts[:lane].sum() + 1] ^= 1 << flip
    refused(pack(model, streams._replace(words=words)), f"lane {lane} ")


def test_a_forged_state_is_found_and_its_lane_named():
    model, streams = parts()
    states = streams.states.copy()
    states[7] ^= 1 << 20
    refused(pack(model, streams._replace(states=states)), "lane 7 ")
    states[7] = 65535
    refused(pack(model, streams._replace(states=states)), "lane 7: begins with a state below")


def test_word_counts_that_do_not_add_up_are_refused():
    model, streams = parts()
    counts = streams.counts.copy()
    counts[3] += 1
    refused(pack(model, streams._replace(counts=counts)), "words")
    counts[4] -= 1
    refused(pack(model, streams._replace(counts=counts)), "lane 3 ")


def test_predictions_without_bound_are_refused():
    model, streams = parts()
    refused(pack(replace(model, coefficients=np.full((9, 8), 127, np.int8)), streams), "lane 0 ")


@pytest.mark.parametrize(
    ("offset", "form", "value", "problem"),
    [
        (0, "B", 2, "parameters"),
        (0, "B", 9, "parameters"),
        (1, "B", 4, "parameters"),
        (2, "B", 8, "parameters"),
        (3, "B", 9, "parameters"),
        (4, "i", 2**31 - 1, "lane 0"),
        (8, "B", 0, "classes"),
        (8, "B", 49, "classes"),
        (9, "B", 49, "parameters"),
        (10, "B", 1, "parameters"),
        (12, "I", 2**31 - 1, "ends within"),
        (12, "I", 2**31 + 5, "side information"),
        (12, "I", 0, "zstd|Unknown|data"),
    ],
)
def test_forged_parameters_are_refused(offset, form, value, problem):
    damaged = bytearray(PAYLOAD)
    struct.pack_into(f"<{form}", damaged, offset, value)
    refused(bytes(damaged), problem)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda counts: counts.__setitem__((0, 3), counts[0, 3] + 1), "add up to 4097, not 4096"),
        (lambda counts: counts.__setitem__(slice(None), 0), "add up to 0, not 4096"),
        (lambda counts: counts.__setitem__((slice(None), -1), 0), "add up to"),
        (lambda counts: counts.__setitem__(slice(None), [4096, *[0] * (counts.shape[1] - 1)]), "without an escape"),
        (lambda counts: counts.__setitem__(slice(None), [*[0] * (counts.shape[1] - 1), 4096]), "without an escape"),
    ],
    ids=["sum", "zeros", "escape", "all", "only escapes"],
)
def test_forged_tables_are_refused(change, problem):
    rng = np.random.default_rng(0)
    frames = rng.choice(np.array([-100, -3, 90], np.int8), (1, 64, 256))
    coder = Rans(2304, 1)
    model, streams = unpack(coder.encode(frames), 64, 256, 1, len(coder.lanes(frames[0])))
    assert (model.classes[:, 1] == STORED).all()
    change(model.stored[0])
    with pytest.raises(CorruptFileError, match=problem):
        coder.decode(pack(model, streams), np.empty_like(frames))


@pytest.mark.parametrize(("place", "value"), [((0, 0), SCALES), ((0, 1), STORED + 1), ((0, 1), STORED)])
def test_tables_that_do_not_exist_are_refused(place, value):
    model, streams = parts()
    model.classes[place] = value
    refused(pack(model, streams), "table that does not exist")
