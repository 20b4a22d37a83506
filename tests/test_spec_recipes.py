"""SPEC.md's words on recipes against the code: its tables, and a decoder written from it alone."""

import io

import msgspec
import numpy as np
import pytest

import wcodec
from tests.formats.test_spec import table
from tests.support.models import awkward_model
from tests.support.plain_decoder import decode, frames_to_symbols
from wcodec import Policy
from wcodec.coders import CODERS
from wcodec.coders.video import VIDEO_CODERS
from wcodec.coders.zstd import Zstd
from wcodec.scales import Keep, Uniform
from wcodec.tiling import Flat, Grid


def members(heading: str) -> dict[str, list[str]]:
    """The members of every id in a table; several ids may share a row."""
    found: dict[str, list[str]] = {}
    for row in table(heading):
        for name in row["id"].replace("`", "").split(", "):
            found.setdefault(name, [])
            if row["member"]:
                found[name].append(row["member"])
    return found


@pytest.mark.parametrize(
    ("heading", "stages"),
    [
        ("Quantizers", {"keep": Keep, "uniform": Uniform}),
        ("Tilings", {"flat": Flat, "grid": Grid}),
        ("Coders", dict(CODERS)),
    ],
    ids=["quantizers", "tilings", "coders"],
)
def test_the_tables_have_every_id_and_member(heading, stages):
    assert members(heading) == {name: list(kind.__struct_fields__) for name, kind in stages.items()}
    for name, kind in stages.items():
        assert kind.__struct_config__.tag == name
        assert kind.__struct_config__.tag_field == "id"


def test_the_video_coders_parameters():
    rows = {row["coder"]: row for row in table("Parameters")}
    assert rows.keys() == VIDEO_CODERS.keys()
    for name, kind in VIDEO_CODERS.items():
        assert rows[name]["depth"] == ", ".join(map(str, kind.formats))
        assert kind.limits is not None
        low, high, multiple = kind.limits
        assert rows[name]["sides of a frame"] == f"{low} to {high}"
        assert multiple == 1


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
