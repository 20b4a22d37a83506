"""SPEC.md's words on recipes against the code: its tables, and a decoder written from it alone."""

import io
import re

import msgspec
import numpy as np
import pytest
import zstandard
from msgspec import inspect

import wcodec
from tests.formats.test_spec import SPEC, in_words, number, struct_of, table
from tests.support.models import awkward_model
from tests.support.plain_decoder import decode, frames_to_symbols
from wcodec import CorruptFileError, Policy
from wcodec.coders import CODERS, Coder, packets
from wcodec.coders.floats import Floats
from wcodec.coders.rans import Rans
from wcodec.coders.raw import Raw
from wcodec.coders.video import VIDEO_CODERS, QuantizedVideo
from wcodec.coders.zstd import Zstd
from wcodec.coders.zstd import decompress as decompress_payload
from wcodec.formats.index import decompress as decompress_index
from wcodec.model import DTYPES
from wcodec.pipeline import TensorCodec
from wcodec.recipe import Recipe
from wcodec.scales import Keep, Uniform
from wcodec.tiling import Flat, Grid, Rows

STAGES: dict[str, dict[str, type[msgspec.Struct]]] = {
    "Quantizers": {"keep": Keep, "uniform": Uniform},
    "Tilings": {"flat": Flat, "grid": Grid},
    "Coders": dict(CODERS),
}


def members(heading: str) -> dict[str, list[dict[str, str]]]:
    """The rows of a table that have members, by id; several ids may share a row."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in table(heading):
        for name in row["id"].replace("`", "").split(", "):
            found.setdefault(name, [])
            if row["member"]:
                found[name].append(row)
    return found


@pytest.mark.parametrize("heading", STAGES)
def test_the_tables_have_every_id_and_member(heading):
    rows, stages = members(heading), STAGES[heading]
    assert rows.keys() == stages.keys()
    for name, kind in stages.items():
        fields = struct_of(kind).fields
        assert all(field.required for field in fields)
        assert [(row["member"], row["type"]) for row in rows[name]] == [
            (field.encode_name, in_words(field.type)) for field in fields
        ]
        assert kind.__struct_config__.tag == name
        assert kind.__struct_config__.tag_field == "id"


def range_of(kind: inspect.Type) -> tuple[object, ...]:
    """What values a member may have: least and largest integer, or the texts; nothing where all of its type do."""
    match kind:
        case inspect.IntType(ge=low, le=high):
            return low, high
        case inspect.LiteralType(values=values):
            return tuple(values)
        case inspect.VarTupleType(item_type=item):
            return range_of(item)
        case inspect.BoolType():
            return ()
    raise AssertionError(f"SPEC.md has no range for {kind}")


def told_range(text: str) -> tuple[object, ...]:
    if match := re.match(r"(\S+) to ([\d^]+)", text):
        return number(match[1]), number(match[2])
    return tuple(text.replace("`", "").split(", ")) if text else ()


@pytest.mark.parametrize("heading", STAGES)
def test_the_tables_have_the_range_of_every_member(heading):
    for name, rows in members(heading).items():
        fields = {field.encode_name: field.type for field in struct_of(STAGES[heading][name]).fields}
        for row in rows:
            if name in VIDEO_CODERS:
                assert row["range"] == "see below"
            else:
                assert set(told_range(row["range"])) == set(range_of(fields[row["member"]])), (name, row["member"])


def test_the_video_coders_parameters():
    rows = {row["coder"]: row for row in table("Parameters")}
    assert rows.keys() == VIDEO_CODERS.keys()
    samples = {"4:0:0": "gray", "4:2:0": "yuv420p"}
    for name, kind in VIDEO_CODERS.items():
        depths = {field.encode_name: field.type for field in struct_of(kind).fields}["depth"]
        assert set(range_of(depths)) == kind.formats.keys()
        assert rows[name]["depth"] == ", ".join(map(str, kind.formats))
        assert kind.limits is not None
        assert rows[name]["sides of a frame"] == f"{kind.limits.low} to {kind.limits.high}"
        sample = samples[rows[name]["sample format written"]]
        for depth, form in kind.formats.items():
            assert form == (sample if depth == 8 else f"{sample}{depth}le")
        quantizers = kind.quantizers if issubclass(kind, QuantizedVideo) else None
        largest = "none" if quantizers is None else ", ".join(str(quantizers[depth]) for depth in kind.formats)
        assert rows[name]["largest `qp` at each"] == largest
    (row,) = (row for row in table("Payload") if row["field"] == "extradata length")
    assert row["meaning"] == f"E, at most {packets.MAX_EXTRADATA}"


def test_what_coders_take():
    """The last column of the coders' table, over every dtype that symbols may have."""
    wholes = [dtype for dtype in DTYPES.values() if dtype.kind in "iu" and dtype.itemsize <= 2]
    floats = [dtype for name, dtype in DTYPES.items() if name.startswith(("f", "bf"))]
    told = {
        "symbols of any type": list(DTYPES.values()),
        "floats of 1, 2, 4 or 8 bytes": floats,
        "8- and 16-bit integers": wholes,
        "8- and 16-bit integers of at most `depth` bits": wholes,
    }
    coders: dict[str, Coder] = {"raw": Raw(), "zstd": Zstd(3, "planes"), "floats": Floats(3), "rans": Rans(128, 1)}
    coders |= {name: kind.of(8) for name, kind in VIDEO_CODERS.items()}
    for row in table("Coders"):
        if row["takes"]:
            for name in row["id"].replace("`", "").split(", "):
                taken = [dtype for dtype in DTYPES.values() if coders[name].takes(dtype, 4)]
                assert taken == told[row["takes"].removesuffix(", as the layout allows")], name


def test_the_bits_of_symbols_and_samples():
    """A sample has at least the bits of a symbol, and no more than the symbol's dtype."""
    for kind in VIDEO_CODERS.values():
        for depth in kind.formats:
            for dtype in map(np.dtype, (np.int8, np.uint8, np.int16, np.uint16)):
                for bits in range(2, 17):
                    fits = bits <= depth <= 8 * dtype.itemsize
                    assert kind.of(depth).takes(dtype, bits) == fits


@pytest.mark.parametrize("bits", range(2, 17))
def test_symbols_of_quantizers(bits):
    rows = table("Symbols")
    assert [row["symmetric"] for row in rows] == ["true", "false"]
    for row in rows:
        quantizer = Uniform(bits, row["symmetric"] == "true", (0,), "max")
        ends = [eval(row[end].replace("^", "**"), {"bits": bits}) for end in ("lowest", "highest")]
        assert ends == [quantizer.lowest, quantizer.highest]
        kind = {"signed": "i", "unsigned": "u"}[row["symbols"]]
        assert quantizer.symbol_dtype == np.dtype(f"<{kind}{1 if bits <= 8 else 2}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_symbols_of_kept_tensors(dtype):
    codec = TensorCodec(dtype, Rows((1,), 1), Recipe(Keep(), Flat(), Raw()), None)
    halves = {"i4": np.dtype(np.int8), "u4": np.dtype(np.uint8)}
    assert codec.symbol_dtype == halves.get(dtype, DTYPES[dtype])
    assert codec.bits == (4 if dtype in halves else 8 * DTYPES[dtype].itemsize)


def test_how_much_frames_may_hold_beyond_their_chunk():
    (most,) = re.findall(r"hold at most 2n \+ (\d+)\s+symbols", SPEC)
    held, beyond = Grid(line=1, height=20, width=3277), Grid(line=1, height=21, width=3121)
    assert 20 * 3277 == 2 * 2 + int(most) == 21 * 3121 - 1
    TensorCodec("i8", Rows((2,), 1), Recipe(Keep(), held, Raw()), None).check({2})
    with pytest.raises(CorruptFileError, match="far larger"):
        TensorCodec("i8", Rows((2,), 1), Recipe(Keep(), beyond, Raw()), None).check({2})


def test_8_bit_floats():
    """Every encoding of every 8-bit float, by the table and the two formulas below it."""
    rows = table("8-bit floats")
    assert [row["dtype"] for row in rows] == [name for name in DTYPES if name.startswith("f8_")]
    for row in rows:
        exponent_bits, mantissa_bits, bias = (int(row[name]) for name in ("exponent bits", "mantissa bits", "bias"))
        found = np.arange(256, dtype=np.uint8).view(DTYPES[row["dtype"]]).astype(np.float64)
        assert [f"{place:02x}" for place in np.flatnonzero(np.isnan(found))] == row["NaN"].split()
        assert [f"{place:02x}" for place in np.flatnonzero(np.isinf(found))] == row["infinities"].split()
        for byte in np.flatnonzero(np.isfinite(found)):
            exponent = int(byte) >> mantissa_bits & ((1 << exponent_bits) - 1)
            fraction = (int(byte) & ((1 << mantissa_bits) - 1)) / 2**mantissa_bits
            value = 2.0 ** (exponent - bias) * (1 + fraction)
            if exponent == 0 and mantissa_bits:
                value = 2.0 ** (1 - bias) * fraction
            assert found[byte] == (-value if byte >> (exponent_bits + mantissa_bits) else value), (row["dtype"], byte)


CONTENT = b"what a frame holds; " * 9
FRAME = zstandard.ZstdCompressor().compress(CONTENT)
CHECKED = zstandard.ZstdCompressor(write_checksum=True).compress(CONTENT)
SKIPPABLE = bytes.fromhex("50 2a 4d 18 04 00 00 00") + b"skip"
DICTIONARY = zstandard.train_dictionary(1000, [bytes([i % 7, i % 11]) * 9 + CONTENT for i in range(500)])


@pytest.mark.parametrize("decompress", [decompress_index, decompress_payload], ids=["index", "payload"])
def test_zstd_frames(decompress):
    """One rule for the index, the graph and payloads."""
    rest = ("here",) if decompress is decompress_index else ()
    for frame in (FRAME, CHECKED):
        assert decompress(memoryview(frame), len(CONTENT), *rest) == CONTENT
    for frame in (
        CHECKED[:-1] + bytes([CHECKED[-1] ^ 1]),
        SKIPPABLE + FRAME,
        FRAME + SKIPPABLE,
        zstandard.ZstdCompressor().compress(CONTENT[:90]) + zstandard.ZstdCompressor().compress(CONTENT[90:]),
        FRAME + zstandard.ZstdCompressor().compress(b""),
        FRAME + b"\0",
        zstandard.ZstdCompressor(write_content_size=False).compress(CONTENT),
        zstandard.ZstdCompressor(dict_data=DICTIONARY).compress(CONTENT),
    ):
        with pytest.raises(CorruptFileError):
            decompress(memoryview(frame), len(CONTENT), *rest)


def plainly_comparable() -> wcodec.Model:
    """The awkward model without what takes the plain decoder minutes."""
    return wcodec.Model.from_arrays({t.name: t.array() for t in awkward_model().tensors if t.size < 10_000})


@pytest.mark.parametrize(
    "policy",
    [
        Policy(coder="raw"),
        Policy(coder="zstd"),
        Policy(coder="zstd", bits=4),
        Policy(coder="zstd", bits=2, symmetric=False),
        Policy(coder="zstd", bits=11, symmetric=False, per="group", group_size=5),
        Policy(coder="zstd", per="tensor", symmetric=False),
        Policy(lossless=True, coder="floats"),
        Policy(lossless=True, coder="zstd"),
    ],
    ids=str,
)
def test_a_decoder_written_from_the_specification_agrees(policy):
    stream = io.BytesIO()
    wcodec.encode(plainly_comparable(), stream, policy)
    archive, plain = wcodec.open(stream.getvalue()), decode(stream.getvalue())
    assert list(plain) == list(archive)
    for name in archive:
        mine = archive[name]
        if mine.dtype.name == "int4":
            mine = mine.astype(np.int8)
        assert mine.tobytes() == plain[name].tobytes(), name
        assert mine.shape == plain[name].shape


def test_a_grid_decodes_as_the_specification_says():
    symbols = np.arange(7 * 23, dtype=np.uint8).reshape(7, 23)
    grid, coder = Grid(line=46, height=3, width=20), Zstd(3, "bytes")
    recipe = {"tiling": msgspec.to_builtins(grid), "coder": msgspec.to_builtins(coder)}
    payload = coder.encode(grid.tile(symbols))
    assert np.array_equal(frames_to_symbols(recipe, payload, 7, 23, np.dtype(np.uint8)), symbols.reshape(-1))
