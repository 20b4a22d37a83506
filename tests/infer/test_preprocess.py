"""Pictures into inputs, their geometry, and what a stranger's metadata and pictures may not do."""

from __future__ import annotations

import io
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.attacks import bounded, deep, is_presentable
from wcodec.errors import CorruptFileError, InputError, MissingDependencyError, UnsupportedError, UsageError
from wcodec.infer.preprocess import (
    LABELS_KEY,
    MAX_LABELS,
    MAX_SIDE,
    MAX_STORED_TEXT,
    PREPROCESSING_KEY,
    Preprocessing,
    labels_of,
    place,
    prepare,
    preprocessing_of,
    read_array,
    read_picture,
)
from wcodec.model import Array

IMAGENET = Preprocessing(mean=(123.675, 116.28, 103.53), scale=(1 / 58.395, 1 / 57.12, 1 / 57.375), size=(224, 224))
PLAIN: dict[str, Any] = {"mean": (0.0,), "scale": (1.0,)}


def sound(**changes: Any) -> dict[str, Any]:
    return {**json.loads(IMAGENET.to_json()), **changes}


# Metadata


def test_metadata_comes_back() -> None:
    text = IMAGENET.to_json()
    assert "\n" not in text
    assert preprocessing_of({PREPROCESSING_KEY: text}) == IMAGENET
    assert preprocessing_of({"other": "x"}) is None
    grey = Preprocessing(mean=(0,), scale=(1,), size=(28, 32), resize="stretch", layout="NHWC", order="GRAY")
    assert Preprocessing.from_json(grey.to_json()) == grey


def test_defaults_may_be_left_out() -> None:
    text = '{"mean": [0], "scale": [1], "size": [8, 9]}'
    assert Preprocessing.from_json(text) == Preprocessing(mean=(0.0,), scale=(1.0,), size=(8, 9))


TEXTS = {
    "nothing": ("", "truncated"),
    "null": ("null", "Expected `object`"),
    "a list": ("[]", "Expected `object`"),
    "no fields": ("{}", "mean"),
    "half a character": ("{\ud800", "surrogates"),
    "deep objects": (deep(b'{"a":[', b"]}", 5000).decode(), "recursion"),
    "deep lists": (deep(b"[", b"]").decode(), "Expected"),
    "long": (" " * (MAX_STORED_TEXT + 1), "characters"),
    "infinite": ('{"mean": [1e999], "scale": [1], "size": [8, 8]}', "out of range"),
    "long number": ('{"mean": [' + "9" * 5000 + '], "scale": [1], "size": [8, 8]}', "."),
    "NaN": ('{"mean": [NaN], "scale": [1], "size": [8, 8]}', "malformed"),
}

CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"size": [0, 224]}, "size"),
    ({"size": [224, MAX_SIDE + 1]}, "size"),
    ({"size": [10**30, 1]}, "size"),
    ({"size": [224]}, "size"),
    ({"size": [224, 224, 3]}, "size"),
    ({"size": [True, 3]}, "size"),
    ({"size": "224"}, "size"),
    ({"mean": []}, "0 numbers for mean"),
    ({"mean": [1, 2]}, "2 numbers for mean"),
    ({"mean": ["1"]}, "mean"),
    ({"scale": [None]}, "scale"),
    ({"scale": [1e300]}, "scale"),
    ({"order": "GRAY"}, "3 numbers for mean"),
    ({"crop_ratio": 0}, "crop ratio"),
    ({"crop_ratio": 1e-9}, "crop ratio"),
    ({"resize": 1}, "resize"),
]

UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"resize": "zoom"}, "unknown resize 'zoom'"),
    ({"layout": "NCWH\x1b[2J"}, "unknown layout"),
    ({"order": "CMYK" * 1000}, "unknown order"),
    ({"filter": "bicubic"}, "unknown field 'filter'"),
]


@pytest.mark.parametrize(
    ("text", "kind", "problem"),
    [
        *(pytest.param(text, CorruptFileError, problem, id=name) for name, (text, problem) in TEXTS.items()),
        *(
            pytest.param(json.dumps(sound(**changes)), kind, problem, id=f"{changes}"[:40])
            for kind, cases in ((CorruptFileError, CHANGES), (UnsupportedError, UNKNOWN))
            for changes, problem in cases
        ),
    ],
)
def test_hostile_metadata_is_refused(text: str, kind: type[InputError], problem: str) -> None:
    with bounded(), pytest.raises(kind, match=problem) as caught:
        preprocessing_of({PREPROCESSING_KEY: text})
    assert caught.type is kind
    assert PREPROCESSING_KEY in str(caught.value)
    assert is_presentable(caught.value)


@contextmanager
def understood_or_refused() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        if not is_presentable(error):
            raise


@given(
    st.dictionaries(
        st.sampled_from(Preprocessing.__struct_fields__),
        st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists),
    ),
    st.text(),
)
def test_any_metadata_is_understood_or_refused(changes: dict[str, Any], text: str) -> None:
    for stored in (text, json.dumps(sound(**changes))):
        with understood_or_refused():
            preprocessing_of({PREPROCESSING_KEY: stored})


@pytest.mark.parametrize(
    "changes",
    [{"size": (0, 4)}, {"mean": (1.0, 2.0)}, {"scale": (float("nan"),)}, {"resize": "zoom"}, {"crop_ratio": 2.0}],
)
def test_values_that_cannot_be_are_wrong_usage(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        msgspec.structs.replace(IMAGENET, **changes)


def test_labels() -> None:
    assert labels_of({}) is None
    assert labels_of({LABELS_KEY: "cat\ndog"}) == ("cat", "dog")
    assert labels_of({LABELS_KEY: "cat\r\n\r\ndog\r\n"}) == ("cat", "", "dog")
    assert len(labels_of({LABELS_KEY: "x\n" * MAX_LABELS}) or ()) == MAX_LABELS


@pytest.mark.parametrize(
    "text", ["", "\n\n", "x\n" * (MAX_LABELS + 1), "\n" * 10_000_000], ids=["none", "empty", "one more", "many"]
)
def test_hostile_labels_are_refused(text: str) -> None:
    with bounded(), pytest.raises(CorruptFileError, match="labels"):
        labels_of({LABELS_KEY: text})


# Geometry


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green to the bottom, blue is even."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 50)], axis=-1).round().astype(np.uint8))


def test_the_numbers_of_an_input() -> None:
    picture = Image.new("RGB", (30, 20), (10, 20, 30))
    how = Preprocessing(mean=(1, 2, 3), scale=(2, 3, 4), size=(8, 9))
    array, _ = prepare(picture, how)
    assert (array.shape, array.dtype.name, array.flags.c_contiguous) == ((1, 3, 8, 9), "float32", True)
    assert [np.unique(channel).tolist() for channel in array[0]] == [[18], [54], [108]]
    array, _ = prepare(picture, msgspec.structs.replace(how, order="BGR", layout="NHWC"))
    assert array.shape == (1, 8, 9, 3)
    assert array[0, 0, 0].tolist() == [58, 54, 28]
    grey = Preprocessing(**PLAIN, size=(8, 9), order="GRAY")
    array, _ = prepare(Image.new("RGB", (30, 20), (77, 77, 77)), grey)
    assert array.shape == (1, 1, 8, 9)
    assert np.unique(array).tolist() == [77]


def test_a_crop_is_the_centre() -> None:
    picture = gradient(400, 200)
    array, placement = prepare(picture, Preprocessing(**PLAIN, size=(100, 100), crop_ratio=0.5))
    # the shorter side becomes 200, of which 100 are taken: pixels 150 to 250 of 400, and 50 to 150 of 200
    want = np.asarray(picture, np.float32)[50:150, 150:250].transpose(2, 0, 1)
    assert np.abs(array[0] - want).max() <= 1
    assert placement.to_picture(np.array([[0.0, 0, 100, 100]])).tolist() == [[150, 50, 250, 150]]


def test_a_crop_of_all_is_like_resizing() -> None:
    picture = gradient(300, 300)
    array, _ = prepare(picture, Preprocessing(**PLAIN, size=(64, 64), crop_ratio=1.0))
    want = np.asarray(picture.resize((64, 64), Image.Resampling.BILINEAR), np.float32)
    assert np.array_equal(array[0].transpose(1, 2, 0), want)


def test_stretching_minds_no_proportions() -> None:
    array, placement = prepare(gradient(400, 100), Preprocessing(**PLAIN, size=(50, 50), resize="stretch"))
    assert array[0, 0, 0, 0] < 5
    assert array[0, 0, 0, -1] > 250
    assert array[0, 1, -1, 0] > 250
    assert placement.to_picture(np.array([[25.0, 0, 50, 50]])).tolist() == [[200, 0, 400, 100]]


def test_a_letterbox_has_grey_bars() -> None:
    how = Preprocessing(**PLAIN, size=(60, 40), resize="letterbox")
    array, placement = prepare(Image.new("RGB", (80, 80), (255, 0, 0)), how)
    assert (array[0, :, :10] == 114).all()
    assert (array[0, :, 50:] == 114).all()
    assert (array[0, 0, 10:50] == 255).all()
    assert placement.to_picture(np.array([[0.0, 0, 40, 60], [10, 20, 20, 30]])).tolist() == [
        [0, 0, 80, 80],
        [20, 20, 40, 40],
    ]


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.tuples(st.integers(1, 700), st.integers(1, 700)),
    st.sampled_from(["crop", "stretch", "letterbox"]),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_boxes_come_back_to_the_picture(
    width: int, height: int, size: tuple[int, int], resize: Any, corners: list[float]
) -> None:
    placement = place(width, height, Preprocessing(**PLAIN, size=size, resize=resize))
    box = np.array(corners) * [width, height, width, height]
    there = box * [*placement.scale, *placement.scale] + [*placement.offset, *placement.offset]
    assert np.allclose(placement.to_picture(there[None])[0], box, rtol=1e-9, atol=1e-9 * max(width, height))
    whole = np.array([0, 0, width, height]) * [*placement.scale, *placement.scale] + [*placement.offset] * 2
    if resize == "crop":  # the picture covers the input
        assert (whole[:2] <= 1e-9).all()
        assert (whole[2:] >= np.array(size[::-1]) - 1e-9).all()
    else:
        assert (whole[:2] >= 0).all()
        assert (whole[2:] <= np.array(size[::-1]) + 1e-9).all()


@pytest.mark.parametrize("resize", ["crop", "stretch", "letterbox"])
@pytest.mark.parametrize("extent", [(1, 1), (1, 900), (900, 1), (3, 7)])
def test_pictures_of_any_proportions_fit(resize: Any, extent: tuple[int, int]) -> None:
    array, _ = prepare(Image.new("RGB", extent, (9, 9, 9)), Preprocessing(**PLAIN, size=(32, 48), resize=resize))
    assert array.shape == (1, 3, 32, 48)
    assert 9 in array


# Files


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff", "ppm"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (5, 4), (200, 100, 50)).save(tmp_path / f"x.{suffix}")
    picture = read_picture(tmp_path / f"x.{suffix}")
    assert (picture.mode, picture.size) == ("RGB", (5, 4))
    assert np.abs(np.asarray(picture, int) - [200, 100, 50]).max() < 12


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I"])
def test_modes(tmp_path: Path, mode: str) -> None:
    white = {"I;16": 0xFFFF, "I": 0xFFFF}.get(mode)
    picture = Image.new("RGBA", (5, 4), "white").convert(mode) if white is None else Image.new(mode, (5, 4), white)
    picture.save(tmp_path / "x.tiff") if mode in ("CMYK", "I") else picture.save(tmp_path / "x.png")
    [path] = tmp_path.iterdir()
    found = read_picture(path)
    assert found.mode == "RGB"
    assert (np.asarray(found) == 255).all()


def test_sixteen_bits_are_scaled_and_not_cut(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0x4000, 0x8000, 0xFFFF]], np.uint16)).save(tmp_path / "x.png")
    assert np.asarray(read_picture(tmp_path / "x.png"))[0, :, 0].tolist() == [0, 0x40, 0x80, 0xFF]


def test_a_picture_lying_on_its_side_is_set_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the left by a quarter
    gradient(40, 20).save(tmp_path / "x.png", exif=exif)
    picture = read_picture(tmp_path / "x.png")
    assert picture.size == (20, 40)
    assert np.asarray(picture)[0, 0, 1] > np.asarray(picture)[0, -1, 1]


def png(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(picture: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a picture"),
        (b"hello", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture"),
        (png(20_000, 20_000), "pixels"),
        (png(12_000, 12_000), "pixels"),
        (png(1, 80_000), "pixels"),
        (png(2**31 - 1, 2**31 - 1), "pixels"),
        (encoded(gradient(90, 90), "PNG")[:-60], "not a picture"),
        (encoded(gradient(90, 90), "JPEG")[:400], "not a picture"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "floats"),
    ],
    ids=["empty", "text", "eps", "bomb", "large", "long", "endless", "cut PNG", "cut JPEG", "floats"],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with bounded(), pytest.raises(InputError, match=problem) as caught:
        read_picture(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert is_presentable(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_damaged_picture_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    whole = np.frombuffer(encoded(gradient(40, 30), kind), np.uint8)
    for _ in range(150):
        damaged = whole.copy()
        places = rng.integers(0, min(len(whole), rng.choice([40, 200, 10_000])), 3)
        damaged[places] = rng.integers(0, 256, 3)
        (tmp_path / "x").write_bytes(damaged.tobytes())
        with understood_or_refused():
            assert read_picture(tmp_path / "x").mode == "RGB"


def test_a_picture_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.png"):
        with pytest.raises(UsageError):
            read_picture(path)


def test_without_pillow_its_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'wcodec\[images\]'"):
        read_picture(tmp_path / "x.png")


def test_arrays(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    for saved in (array, np.asfortranarray(array), array.astype(np.int16), array.astype(">f4")):
        np.save(tmp_path / "x.npy", saved)
        found = read_array(tmp_path / "x.npy")
        assert (found.dtype.name, found.flags.c_contiguous) == ("float32", True)
        assert np.array_equal(found, array)


def npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def claimed(header: str) -> bytes:
    """An .npy file of that header and a few values."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + b"\0" * 64


@pytest.mark.parametrize(
    "content",
    [
        claimed("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}"),
        claimed("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
        claimed("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        claimed("(" * 300),
        claimed("\0"),
        npy(np.array([{}])),
        npy(np.array(["x"])),
        npy(np.array([1j])),
        b"",
        b"cos\nsystem\n(S'false'\ntR.",
        b"PK\x03\x04" + b"\0" * 50,
    ],
    ids=["huge", "negative", "objects", "deep", "null", "pickled", "text", "complex", "empty", "pickle", "zip"],
)
def test_what_is_no_array_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with bounded(), pytest.raises(InputError, match="array") as caught:
        read_array(path)
    assert str(path) in str(caught.value)
    assert is_presentable(caught.value)
