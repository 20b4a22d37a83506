"""Every flipped byte, every truncation and many kinds of larger damage: found, named, never silently read."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.golden import make_container as golden
from tests.support.containers import Part, dissect
from wcodec.errors import CorruptFileError
from wcodec.formats.container import ContainerReader, chunk_place, side_place
from wcodec.formats.source import BytesSource

SOUND = golden.PATH.read_bytes()
DISSECTED = dissect(SOUND)
POSITIONS = range(len(SOUND))


class RemoteSource(BytesSource):
    """Bytes that are read as those behind a URL are: the header is left for later."""

    remote = True


def contents(reader: ContainerReader) -> dict[str, bytes | None]:
    """All that can be read of a file by place; None where it is damaged, in which case the error names the place."""
    places: list[tuple[str, Callable[[], bytes | memoryview | None]]] = [("graph", reader.graph)]
    for entry in reader.index.tensors:
        chunks = [(chunk_place(entry.name, number), chunk) for number, chunk in enumerate(entry.chunks)]
        if entry.side is not None:
            chunks.append((side_place(entry.name), entry.side))
        places.extend((where, partial(reader.payload, chunk, where)) for where, chunk in chunks)
    found: dict[str, bytes | None] = {}
    for where, read in places:
        try:
            found[where] = bytes(read() or b"")
        except CorruptFileError as error:
            found[error.where] = None
    assert found.keys() == dict(places).keys()
    return found


def place_of(part: Part) -> str:
    """What verify calls damage in a part of the file."""
    if part.what != "padding":
        return part.what
    return f"padding after {DISSECTED.part_at(part.start - 1).what}"


with ContainerReader(BytesSource(SOUND)) as _reader:
    WHOLE = contents(_reader)


def test_the_file_has_every_kind_of_part() -> None:
    kinds = {part.what.rpartition(", ")[2].rstrip("0123456789 ") for part in DISSECTED.parts}
    assert kinds == {"header", "side information", "chunk", "graph", "padding", "index", "trailer"}
    assert None not in WHOLE.values()


@pytest.mark.parametrize("mask", [1, 128, 255])
@pytest.mark.parametrize("source", [BytesSource, RemoteSource])
def test_every_flipped_byte(source: type[BytesSource], mask: int) -> None:
    for position in POSITIONS:
        data = bytearray(SOUND)
        data[position] ^= mask
        part = DISSECTED.part_at(position)
        if part.what in ("index", "trailer") or (part.what == "header" and source is BytesSource):
            with pytest.raises(CorruptFileError) as caught:
                ContainerReader(source(bytes(data)))
            assert caught.value.where == part.what, position
            continue
        with ContainerReader(source(bytes(data))) as reader:
            assert [problem.where for problem in reader.verify()] == [place_of(part)], position
            assert contents(reader) == WHOLE | ({part.what: None} if part.what in WHOLE else {}), position


@pytest.mark.parametrize("source", [BytesSource, RemoteSource])
def test_every_truncation(source: type[BytesSource]) -> None:
    for length in POSITIONS:
        with pytest.raises(CorruptFileError, match="cut short"):
            ContainerReader(source(SOUND[:length]))


@pytest.mark.parametrize("source", [BytesSource, RemoteSource])
def test_every_missing_beginning(source: type[BytesSource]) -> None:
    for start in range(1, len(SOUND)):
        with pytest.raises(CorruptFileError):
            ContainerReader(source(SOUND[start:]))


ranges = st.tuples(st.integers(0, len(SOUND)), st.integers(0, 200)).map(lambda pair: slice(pair[0], sum(pair)))
damages = st.one_of(
    st.tuples(st.just("overwritten"), ranges, st.binary(max_size=200)),
    st.tuples(st.just("zeroed"), ranges, st.just(b"")),
    st.tuples(st.just("removed"), ranges, st.just(b"")),
    st.tuples(st.just("copied"), ranges, st.integers(0, len(SOUND)).map(lambda start: SOUND[start : start + 200])),
)


def damaged(data: bytes, kind: str, place: slice, new: bytes) -> bytes:
    old = data[place]
    if kind == "zeroed":
        new = bytes(len(old))
    elif kind == "overwritten":
        new = new[: len(old)].ljust(len(old), b"?")
    return data[: place.start] + new + data[place.stop :]


@given(st.lists(damages, min_size=1, max_size=3), st.sampled_from([BytesSource, RemoteSource]))
def test_larger_damage(damage: list[tuple[str, slice, bytes]], source: type[BytesSource]) -> None:
    data = SOUND
    for kind, place, new in damage:
        data = damaged(data, kind, place, new)
    assume(data != SOUND)
    try:
        reader = ContainerReader(source(data))
    except CorruptFileError:
        return
    with reader:
        for where, content in contents(reader).items():
            assert content in (None, WHOLE[where])
        assert reader.verify()


def test_swapped_payloads() -> None:
    """Blocks that are sound in themselves, each in the other's place."""
    starts = [part.start for part in DISSECTED.parts if part.what in WHOLE]
    for first, second in itertools.combinations(starts, 2):
        swapped = bytearray(SOUND)
        swapped[first : first + 64] = SOUND[second : second + 64]
        swapped[second : second + 64] = SOUND[first : first + 64]
        with ContainerReader(BytesSource(bytes(swapped))) as reader:
            found = [where for where, content in contents(reader).items() if content is None]
            assert sorted(found) == sorted(DISSECTED.part_at(start).what for start in (first, second))
