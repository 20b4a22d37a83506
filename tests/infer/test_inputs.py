"""Many inputs for a model, and the true classes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wcodec import CorruptFileError, InputError, MismatchError, UsageError
from wcodec.infer.classes import by_file, by_folder, class_of
from wcodec.infer.inputs import Inputs
from wcodec.infer.preprocess import Preprocessing, prepare, read_picture
from wcodec.model import Array

HOW = Preprocessing(mean=(10.0,), scale=(0.5,), size=(8, 6), resize="stretch")


def drawn(*shape: int) -> Array:
    return np.random.default_rng([*shape]).standard_normal(shape).astype(np.float32)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures in two folders, two files that are none, and a text."""
    folder = tmp_path / "pictures"
    for number, name in enumerate(["b/2.png", "b/1.jpg", "a/3.PNG", "top.webp"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 12), (60 * number, 10, 20)).save(folder / name)
    (folder / "a" / "broken.png").write_bytes(b"no picture")
    (folder / "b" / "cut.jpg").write_bytes((folder / "b" / "1.jpg").read_bytes()[:300])
    (folder / "a" / "notes.txt").write_text("none either")
    return folder


def test_pictures_are_found_in_folders_and_come_in_order(pictures: Path) -> None:
    inputs, found = Inputs(pictures, HOW), []
    for _ in range(2):
        found = list(inputs)
        assert [one.name for one in found] == ["a/3.PNG", "b/1.jpg", "b/2.png", "top.webp"]
        for one in found:
            assert np.array_equal(one.array, prepare(read_picture(pictures / one.name), HOW)[0])
    assert inputs.skipped.keys() == {"a/broken.png", "b/cut.jpg"}
    assert "not a picture" in inputs.skipped["a/broken.png"]
    assert set(inputs.names) == {*inputs.skipped, *(one.name for one in found)}


def test_batches_hold_all_inputs_once(pictures: Path) -> None:
    inputs = Inputs(pictures, HOW)
    batches = list(inputs.batches(3))
    assert [names for names, _ in batches] == [("a/3.PNG", "b/1.jpg", "b/2.png"), ("top.webp",)]
    assert np.array_equal(np.concatenate([array for _, array in batches]), np.concatenate([i.array for i in inputs]))


def test_arrays_are_inputs_row_by_row(tmp_path: Path) -> None:
    array = drawn(5, 3, 2)
    np.save(tmp_path / "x.npy", array.astype(np.float64))
    for source in (tmp_path / "x.npy", [array], [array[:2], array[2:]], iter([array[:4], array[4:]])):
        inputs = Inputs(source)
        for _ in range(2):
            assert [one.name for one in inputs] == ["0", "1", "2", "3", "4"] == inputs.names
            assert np.array_equal(np.concatenate([one.array for one in inputs]), array)
            assert all(one.array.dtype == np.float32 for one in inputs)


def test_inputs_of_several_shapes_do_not_go_together() -> None:
    with pytest.raises(MismatchError, match=r"input 1 is of shape \(1, 3\), not \(1, 2\)"):
        list(Inputs([drawn(1, 2), drawn(1, 3)]).batches(4))


def test_what_holds_no_inputs_is_refused(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", [], [drawn(0, 3)]):
        with pytest.raises(UsageError, match="there are no pictures"):
            Inputs(source, HOW)
    with pytest.raises(UsageError, match="no such file or folder"):
        Inputs(tmp_path / "nowhere", HOW)
    with pytest.raises(UsageError, match="nothing says how pictures become inputs"):
        Inputs(pictures)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match=r"not an \.npy array"):
        Inputs(tmp_path / "bad.npy")


# Classes

LABELS = ("tabby cat", "dog", "2 horses")


def test_folders_are_called_by_labels_or_numbers_or_in_order() -> None:
    assert by_folder(["Tabby_cat/1.png", "dog/deep/2.png"], LABELS, 3) == {"Tabby_cat/1.png": 0, "dog/deep/2.png": 1}
    assert by_folder(["2/1.png", "0/1.png"], LABELS, 3) == {"2/1.png": 2, "0/1.png": 0}
    assert by_folder(["n02/a.png", "n01/a.png", "n03/a.png"], LABELS, 3) == {
        "n01/a.png": 0,
        "n02/a.png": 1,
        "n03/a.png": 2,
    }
    with pytest.raises(MismatchError, match="folder 'bird': 'bird' is no label of the model"):
        by_folder(["bird/1.png", "dog/2.png"], LABELS, 3)
    with pytest.raises(MismatchError, match=r"1\.png: is in no folder"):
        by_folder(["1.png", "dog/2.png"], LABELS, 3)


@pytest.mark.parametrize(
    "text", ["a.png,dog\nb/c.png,0\n", "a.png\tdog\n\nb/c.png\ttabby  cat", '"a.png","1"\nb/c.png,0']
)
def test_files_tell_classes_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "truth.csv").write_text(text)
    found = by_file(tmp_path / "truth.csv", LABELS, 3)
    assert found == {"a.png": 1, "b/c.png": 0}
    assert class_of("somewhere/a.png", found) == 1
    assert class_of("b/c.png", found) == 0
    with pytest.raises(MismatchError, match=r"z\.png: nothing tells its class"):
        class_of("z.png", found)


def test_files_tell_classes_of_rows(tmp_path: Path) -> None:
    (tmp_path / "truth.txt").write_text("1\n0\n2 horses\n")
    assert by_file(tmp_path / "truth.txt", LABELS, 3) == {"0": 1, "1": 0, "2": 2}


@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        (b"a.png,dog,more", CorruptFileError, "line 1: is not a name and a class"),
        (b"a.png,dog\nb.png,bird", MismatchError, "line 2: 'bird' is no label of the model"),
        (b"a.png,3", MismatchError, "'3' is no label of the model, and no number of a class, of which there are 3"),
        (b"a.png,-1", MismatchError, "'-1' is no label"),
        (b"\n\n", CorruptFileError, "holds no classes"),
        (b"\xff\xfe", CorruptFileError, "not a text file in UTF-8"),
    ],
)
def test_bad_files_of_classes_are_refused(tmp_path: Path, content: bytes, error: type[Exception], match: str) -> None:
    (tmp_path / "truth.csv").write_bytes(content)
    with pytest.raises(error, match=match):
        by_file(tmp_path / "truth.csv", LABELS, 3)
