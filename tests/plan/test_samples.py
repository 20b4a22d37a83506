"""Inputs to learn from: which are taken, that halves have nothing in common, and what variants of them look like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wcodec import NonFiniteError, UsageError
from wcodec.infer.inputs import Inputs
from wcodec.infer.preprocess import Preprocessing
from wcodec.plan.samples import FEWEST, Samples
from wcodec.plan.variants import cropped, synthetic, varied

HOW = Preprocessing(mean=(0.0,), scale=(1.0,), size=(32, 24))


@pytest.fixture
def folder(tmp_path: Path, photos: NDArray[np.uint8]) -> Path:
    """Six photos, and a file that is none."""
    for number, photo in enumerate(photos[:24:4]):
        Image.fromarray(photo).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return tmp_path


def test_pictures_that_cannot_be_read_are_named(folder: Path) -> None:
    samples = Samples.of(Inputs(folder, HOW))
    assert samples.count == 6
    assert [*samples.skipped] == ["broken.png"]
    assert "not a picture" in samples.skipped["broken.png"]


def test_too_few_are_refused(folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.png").unlink()
    with pytest.raises(UsageError, match=f"3 inputs .* too few, give {FEWEST}.*1 cannot be read.*broken"):
        Samples.of(Inputs(folder, HOW))


def test_variants_are_the_same_every_time_and_of_the_right_half(folder: Path) -> None:
    first, second = ([*Samples.of(Inputs(folder, HOW)).training(20)] for _ in range(2))
    assert len(first) >= 20
    assert [half for half, _ in first].count(0) == len(first) / 2
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(first, second, strict=True))
    assert all(array.shape == (1, 3, 32, 24) for _, array in first)
    assert len({array.tobytes() for _, array in first}) == len(first)


def test_halves_to_be_measured_have_no_picture_in_common() -> None:
    flat = [np.full((1, 3, 16, 16), number, np.float32) for number in range(9)]
    samples = Samples.of(Inputs(flat))
    halves = samples.measuring(1000)
    assert [sorted({float(one.mean()) for one in half}) for half in halves] == [[0, 2, 4, 6, 8], [1, 3, 5, 7]]
    fewer = samples.measuring(4)
    assert [len(half) for half in fewer] == [2, 2]
    assert {float(one.mean()) for one in fewer[0]} <= {0, 2, 4, 6, 8}
    for half, array in samples.training(100):
        assert float(array.mean()) % 2 == half


def test_of_many_inputs_some_are_taken_all_over() -> None:
    many = np.arange(2000, dtype=np.float32)[:, None] + np.zeros((1, 5), np.float32)
    samples = Samples.of(Inputs([many]))
    taken = [float(array.mean()) for _, array in samples.training(10)]
    assert 300 < len(taken) <= 448
    assert max(taken) > 1900


def test_arrays_of_pictures_have_variants_in_their_own_range(photos: NDArray[np.uint8]) -> None:
    arrays = (photos[:8].astype(np.float32) / 50 - 2).transpose(0, 3, 1, 2)
    samples = Samples.of(Inputs([arrays]))
    found = [array for _, array in samples.training(40)]
    assert len(found) == 40
    assert all(array.shape == (1, 3, 224, 224) for array in found)
    low, high = min(map(np.min, found)), max(map(np.max, found))
    assert arrays.min() - 1e-3 <= low < high <= arrays.max() + 1e-3
    # the input itself is among them, bit for bit
    assert np.array_equal(found[0][0], arrays[0])


def test_numbers_that_are_none_are_refused() -> None:
    arrays = np.zeros((6, 3, 8, 8), np.float32)
    arrays[4, 1, 2, 3] = np.nan
    with pytest.raises(NonFiniteError, match="input 4"):
        Samples.of(Inputs([arrays]))


def test_keys_tell_contents_apart(folder: Path) -> None:
    key = Samples.of(Inputs(folder, HOW)).key
    assert Samples.of(Inputs(folder, HOW)).key == key
    (folder / "0.png").rename(folder / "zero.png")
    (folder / "zero.png").rename(folder / "0.png")
    assert Samples.of(Inputs(folder, HOW)).key == key
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(folder / "3.png")
    assert Samples.of(Inputs(folder, HOW)).key != key


def test_inputs_made_of_nothing_have_the_model_s_shape() -> None:
    pictures = Samples.synthetic((3, 32, 24), HOW)
    assert next(pictures.training(10))[1].shape == (1, 3, 32, 24)
    assert Samples.synthetic((40,), None).shape == (40,)
    assert Samples.synthetic((24, 32, 1), None).shape == (24, 32, 1)


def test_pictures_made_of_nothing_have_the_spectrum_of_natural_ones() -> None:
    rng = np.random.default_rng(0)
    power = np.zeros((128, 65))
    for _ in range(30):
        grey = np.asarray(synthetic(rng, (128, 128)), np.float64).mean(2)
        power += np.abs(np.fft.rfft2(grey - grey.mean())) ** 2
    radius = np.hypot(np.fft.fftfreq(128)[:, None] * 128, np.arange(65)[None])
    bands = [(2, 4), (4, 8), (8, 16), (16, 32)]
    means = [power[(radius >= low) & (radius < high)].mean() for low, high in bands]
    slopes = -np.diff(np.log2(means))
    assert ((slopes > 1.4) & (slopes < 3)).all(), slopes  # power falls with about the square of frequency


def test_variants_have_the_size_asked_for(photos: NDArray[np.uint8]) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(photos[0])
    other = cropped(picture, rng, (20, 31))
    made = [varied(picture, other, rng, (20, 31)) for _ in range(60)]
    assert {one.size for one in (other, *made)} == {(31, 20)}
    assert len({one.tobytes() for one in made}) == len(made)
