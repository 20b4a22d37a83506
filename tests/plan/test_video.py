"""Tensors through lossy video codecs: what is foretold of them is what an archive then holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import wcodec
from wcodec import Policy
from wcodec.encode import Ready
from wcodec.model import Array
from wcodec.plan.known import Known, bits_of, dequantized
from wcodec.plan.layer import Trust, damage
from wcodec.plan.matrix import rows_first
from wcodec.plan.sensitivity import Moments
from wcodec.plan.trust import layer_of
from wcodec.plan.video import rival, symbols_for, through

LOSSY = ("h264", "hevc", "av1", "vp9")
SHAPE = (96, 64, 3, 3)


@pytest.fixture(scope="module")
def weights() -> Array:
    """Of few large numbers, as trained ones are."""
    rng = np.random.default_rng(0)
    return (rng.laplace(size=SHAPE) ** 3 / 10 * np.exp(rng.normal(0, 0.3, (96, 1, 1, 1)))).astype(np.float32)


@pytest.fixture(scope="module")
def moments() -> Moments:
    return Moments([np.eye(576, dtype=np.float32)[None]], np.ones((1, 96), np.float32), 1)


@pytest.fixture(scope="module")
def known(weights: Array, moments: Moments) -> Known:
    matrix = rows_first(SHAPE)
    layer = layer_of(matrix.of(weights), moments, None, Trust(shrinkage=0.0, damping=0.0, spread=0.0))
    return Known("w", "f32", matrix, layer, (layer, layer))


@pytest.mark.parametrize("coder", LOSSY)
def test_what_comes_back_is_what_an_archive_holds(coder: str, known: Known, weights: Array, tmp_path: Path) -> None:
    given = symbols_for(known, 0.02)
    decoded, size = through(given, coder, 30)
    assert not np.array_equal(decoded.symbols, given.symbols)
    path = tmp_path / "a.wcodec"
    wcodec.encode({"w": weights}, path, Policy(coder="raw"), ready={"w": Ready(given, coder, 30)})
    with wcodec.open(path) as archive:
        assert np.array_equal(archive["w"], dequantized(decoded))
        assert f"{coder} qp 30" in str(archive.tensor("w").recipe)
        assert size <= archive.tensor("w").stored_bytes <= size + 400  # with the steps of rows


@pytest.mark.parametrize("coder", LOSSY)
def test_a_rival_does_no_more_damage_in_fewer_bits(coder: str, known: Known, moments: Moments) -> None:
    step = known.whole.mean_step(1.0) * 0.6
    rounded = known.rounded(known.whole, step, "auto")
    _, size = through(rounded, "rans", None)
    bits = 8 * size / rounded.symbols.size
    allowed = damage(known.whole.weights - known.matrix.of(dequantized(rounded)), moments)
    found = rival(known, moments, coder, bits, allowed)
    if found is None:
        assert rival(known, moments, coder, 2.4, 3 * allowed) is not None  # there is one for more bits
        return
    decoded, _ = through(symbols_for(known, found.step), coder, found.qp)
    assert found.bits < bits
    assert damage(known.whole.weights - known.matrix.of(dequantized(decoded)), moments) <= allowed


def test_there_is_none_where_much_must_be_kept(known: Known, moments: Moments) -> None:
    assert rival(known, moments, "av1", 4.0, 1.0) is None
    assert rival(known, moments, "av1", 1.0, 1e-9) is None


@pytest.mark.parametrize(("coder", "bits"), [("vp9", 8), ("av1", 10), ("hevc", 12), ("ffv1", 12), ("auto", 12)])
def test_symbols_fit_their_coder(coder: str, bits: int, known: Known) -> None:
    assert bits_of(coder) == bits
    fine = known.rounded(known.whole, 1e-9, coder)
    assert fine.bits <= bits
    assert np.abs(dequantized(fine) - known.matrix.back(known.whole.weights)).max() < np.abs(
        known.whole.weights
    ).max() / (1 << (bits - 2))


def test_a_sample_is_of_the_first_rows(known: Known) -> None:
    some, rows = known.sample(10 * 576)
    assert isinstance(rows, np.ndarray)
    assert (len(rows), some.matrix.shape) == (10, (10, 64, 3, 3))
    assert known.sample(1 << 30) == (known, slice(None))
