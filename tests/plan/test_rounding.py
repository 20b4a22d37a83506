"""Rounding whose errors cancel, against what it promises."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from wcodec import UsageError
from wcodec.model import Array
from wcodec.plan import rounding
from wcodec.plan.rounding import factor_of, rounded_columns

FREE = 1 << 30


def correlated(rng: np.random.Generator, columns: int, inputs: int = 400) -> Array:
    """Second moments of inputs that go together, as images do."""
    mixed = rng.standard_normal((inputs, columns)) @ rng.standard_normal((columns, columns)) + 2
    return np.asarray(mixed.T @ mixed / inputs)


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 300), st.floats(0.01, 3))
@settings(max_examples=60)
def test_no_place_of_the_output_is_further_off_than_half_a_step(
    seed: int, rows: int, columns: int, size: float
) -> None:
    rng = np.random.default_rng(seed)
    weights, steps = rng.standard_normal((rows, columns)), size * rng.uniform(0.5, 2, rows)
    factor = factor_of(correlated(rng, columns), shrinkage=0.1, damping=0.01)
    symbols = rounded_columns(weights, factor, steps, FREE)
    off = (weights - symbols * steps[:, None]) @ factor
    bound = np.abs(np.diagonal(factor)) * steps[:, None] / 2
    assert (np.abs(off) <= bound * (1 + 1e-9) + 1e-9 * np.abs(factor).max()).all()


def test_outputs_are_nearer_than_by_rounding_alone() -> None:
    rng = np.random.default_rng(0)
    moments = correlated(rng, 200)
    weights, steps = rng.standard_normal((50, 200)), np.full(50, 0.3)
    factor = factor_of(moments, shrinkage=0, damping=1e-3)
    found, plain = rounded_columns(weights, factor, steps, FREE), np.rint(weights / 0.3)
    off, more = (np.einsum("kc,cd,kd->", e, moments, e) for e in (weights - 0.3 * found, weights - 0.3 * plain))
    assert off < 0.5 * more


def test_without_correlation_it_is_rounding() -> None:
    rng = np.random.default_rng(1)
    weights, steps = rng.standard_normal((7, 150)), rng.uniform(0.1, 1, 7)
    diagonal = factor_of(np.diag(rng.uniform(0.1, 9, 150)), shrinkage=0, damping=0)
    assert np.array_equal(rounded_columns(weights, diagonal, steps, FREE), np.rint(weights / steps[:, None]))
    unbelieved = factor_of(correlated(rng, 150), shrinkage=1, damping=0)
    assert np.array_equal(rounded_columns(weights, unbelieved, steps, FREE), np.rint(weights / steps[:, None]))


def test_how_many_columns_go_together_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    weights, factor = rng.standard_normal((9, 70)), factor_of(correlated(rng, 70), shrinkage=0.2, damping=0.1)
    found = []
    for together in (1, 16, 128):
        monkeypatch.setattr(rounding, "_TOGETHER", together)
        found.append(rounded_columns(weights, factor, np.full(9, 0.2), FREE))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_symbols_stay_within_their_ends() -> None:
    rng = np.random.default_rng(3)
    weights, factor = rng.standard_normal((9, 70)), factor_of(correlated(rng, 70), shrinkage=0, damping=0.01)
    found = rounded_columns(weights, factor, np.full(9, 0.1), 7)
    assert (found.min(), found.max()) == (-7, 7)


@pytest.mark.parametrize(("shrinkage", "damping"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.3, 0.03)])
def test_the_factor_is_that_of_the_moments_made_sound(shrinkage: float, damping: float) -> None:
    moments = correlated(np.random.default_rng(4), 30)
    factor = factor_of(moments, shrinkage=shrinkage, damping=damping)
    assert np.array_equal(factor, np.triu(factor))
    wanted = moments * (1 - shrinkage)
    np.fill_diagonal(wanted, np.diagonal(moments) + damping * np.diagonal(moments).mean())
    assert np.allclose(factor @ factor.T, wanted)


def test_columns_that_no_input_reached_do_no_harm() -> None:
    rng = np.random.default_rng(5)
    moments = correlated(rng, 20)
    moments[:, 3] = moments[3] = 0
    for reached in (moments, np.zeros((20, 20)), np.ones((20, 20))):
        factor = factor_of(reached, shrinkage=0, damping=0)
        assert np.isfinite(factor).all()
        assert (np.diagonal(factor) > 0).all()


def test_what_does_not_go_together_is_refused() -> None:
    square = np.eye(4)
    for moments in (np.ones((3, 4)), np.ones(4), np.full((2, 2), np.nan)):
        with pytest.raises(UsageError, match="no square matrix of finite numbers"):
            factor_of(moments, shrinkage=0, damping=0)
    with pytest.raises(UsageError, match="no second moments of anything"):
        factor_of(np.array([[1.0, 2.0], [2.0, 1.0]]), shrinkage=0, damping=0)
    for shares in ((-0.1, 0.0), (1.1, 0.0), (0.0, -1.0)):
        with pytest.raises(UsageError, match="shrinkage"):
            factor_of(square, shrinkage=shares[0], damping=shares[1])
    for factor, steps in ((np.eye(3), np.ones(2)), (square, np.ones(3)), (square, np.zeros(2))):
        with pytest.raises(UsageError, match="do not go with"):
            rounded_columns(np.ones((2, 4)), factor, steps, 7)
