"""SPEC.md's tables against the code's own records, limits, constants and field names."""

from __future__ import annotations

import itertools
import re
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from wcodec.formats import index, layout, shards
from wcodec.model import DTYPES

SPEC = (Path(layout.__file__).parent / "SPEC.md").read_text()

Rows = list[dict[str, str]]


def table(heading: str) -> Rows:
    """The first table under a heading, a row a dict; backquotes are taken off."""
    section = re.split(r"^#+ ", SPEC.partition(f"# {heading}\n")[2], flags=re.MULTILINE)[0]
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), section.splitlines())
    rows = [line[1:-1] for line in itertools.takewhile(lambda line: line.startswith("|"), lines)]
    first, rule, *others = [[cell.strip().strip("`") for cell in row.split("|")] for row in rows]
    assert set(map(frozenset, rule)) == {frozenset("-")}
    return [dict(zip(first, row, strict=True)) for row in others]


def number(text: str) -> int:
    """The number that "12", "2^28" or "2^62 - 1" stands for."""
    match = re.fullmatch(r"(\d+)(?:\^(\d+))?(?: - (\d+))?", text)
    assert match
    base, exponent, less = match.groups(default="")
    return int(int(base) ** int(exponent or 1)) - int(less or 0)


@pytest.mark.parametrize(
    ("heading", "record", "fields"),
    [("Header", layout.HEADER, layout.Header), ("Trailer", layout.TRAILER, layout.Trailer)],
    ids=["header", "trailer"],
)
def test_records(heading: str, record: struct.Struct, fields: Any) -> None:
    rows = table(heading)
    assert [row["field"] for row in rows] == list(fields._fields)
    codes = {("u16", 2): "H", ("u64", 8): "Q"}
    form, end = "<", 0
    for row in rows:
        size = int(row["size"])
        assert int(row["offset"]) == end
        end += size
        form += codes.get((row["type"], size)) or {"bytes": f"{size}s"}[row["type"]]
    assert form == record.format
    assert end == record.size == 64


def test_constants() -> None:
    rows = table("Constants")
    assert {row["constant"] for row in rows} == {"MAGIC", "END_MAGIC", "VERSION", "FLAGS", "ALIGNMENT"}
    for row in rows:
        value = getattr(layout, row["constant"])
        assert (value if isinstance(value, bytes) else bytes([value])) == bytes.fromhex(row["value"])


def test_limits() -> None:
    """The table has every limit of the code and no other."""
    limits = {
        name: value
        for module in (index, shards)
        for name, value in vars(module).items()
        if name.startswith("MAX_") or name == "RATIO_SLACK"
    }
    assert {row["limit"]: number(row["value"]) for row in table("Limits")} == limits


def test_dtypes() -> None:
    assert [(row["dtype"], int(row["bytes"])) for row in table("Dtypes")] == [
        (name, dtype.itemsize) for name, dtype in DTYPES.items()
    ]


def in_words(kind: inspect.Type) -> str:  # noqa: C901
    """A field's type as SPEC.md calls it."""
    records = {
        index.TensorEntry: "tensor",
        index.Chunk: "chunk",
        index.GraphEntry: "graph",
        shards.ShardFile: "shard",
    }
    match kind:
        case inspect.IntType() | inspect.LiteralType(values=[int(), *_]):
            return "integer"
        case inspect.LiteralType(values=[str(), *_]) | inspect.StrType():
            return "string"
        case inspect.RawType():
            return "object"
        case inspect.BoolType():
            return "boolean"
        case inspect.NoneType():
            return "null"
        case inspect.StructType(cls=cls):
            return records[cls]
        case inspect.VarTupleType(item_type=item):
            return f"array of {in_words(item)}"
        case inspect.TupleType(item_types=items):
            return f"[{', '.join(map(in_words, items))}]"
        case inspect.DictType(key_type=inspect.StrType(), value_type=value):
            return f"object of {in_words(value)}"
        case inspect.UnionType(types=types):
            return " or ".join(map(in_words, types))
    raise AssertionError(f"SPEC.md has no word for {kind}")


def struct_of(record: type[msgspec.Struct]) -> inspect.StructType:
    kind = inspect.type_info(record)
    assert isinstance(kind, inspect.StructType)
    assert kind.forbid_unknown_fields
    return kind


@pytest.mark.parametrize(
    ("heading", "record"),
    [
        ("Elements of a tensor", index.TensorEntry),
        ("Elements of a chunk", index.Chunk),
        ("Elements of the graph", index.GraphEntry),
    ],
)
def test_arrays(heading: str, record: type[msgspec.Struct]) -> None:
    kind = struct_of(record)
    assert kind.array_like
    assert all(field.required for field in kind.fields)
    assert [(row["position"], row["name"], row["type"]) for row in table(heading)] == [
        (str(position), field.encode_name, in_words(field.type)) for position, field in enumerate(kind.fields)
    ]


@pytest.mark.parametrize(
    ("heading", "record"),
    [
        ("Members of the index", index.Index),
        ("Members of the JSON index", shards.ShardIndex),
        ("Members of a shard", shards.ShardFile),
    ],
)
def test_objects(heading: str, record: type[msgspec.Struct]) -> None:
    kind = struct_of(record)
    assert not kind.array_like
    assert [(row["name"], row["type"], row["default"]) for row in table(heading)] == [
        (field.encode_name, in_words(field.type), default_of(field)) for field in kind.fields
    ]


def default_of(field: inspect.Field) -> str:
    """A field's default as SPEC.md writes it: JSON, or "absent" where no value stands for it."""
    if field.required:
        return ""
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return "absent" if value is index.NO_REPORT else msgspec.json.encode(value).decode()


def test_every_integer_is_limited() -> None:
    for record in (index.TensorEntry, index.Chunk, index.GraphEntry, shards.ShardFile):
        for field in struct_of(record).fields:
            kind = field.type.item_type if isinstance(field.type, inspect.VarTupleType) else field.type
            if isinstance(kind, inspect.IntType):
                assert (kind.ge, kind.le) == (0, index.MAX_INTEGER)
