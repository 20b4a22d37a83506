"""How far moments of few inputs are believed, against what is true of all inputs."""

from __future__ import annotations

import numpy as np
import pytest

from wcodec.model import Array
from wcodec.plan.layer import Layer, Trust, coarse, damage, factors_of, row_weights
from wcodec.plan.sensitivity import Moments
from wcodec.plan.trust import layer_of, tuned

ROWS, COLUMNS = 20, 60


def gradients(rng: np.random.Generator, count: int, root: Array, rows: Array) -> Array:
    """Of so many inputs, (count, rows, columns), each of one place: columns go together, rows matter differently."""
    right, left = rng.standard_normal((count, 1, COLUMNS)) @ root, rng.standard_normal((count, ROWS, 1))
    return np.asarray(left * np.sqrt(rows)[:, None] * right, np.float32)


def moments(found: Array) -> Moments:
    columns = np.einsum("nrc,nrd->cd", found, found, optimize=True)[None]
    return Moments([columns.astype(np.float32)], np.square(found).sum((0, 2))[None], len(found))


@pytest.fixture
def case() -> tuple[np.random.Generator, Array, Array, Array, Moments]:
    """A generator, weights, what gradients are made by, and the moments of very many."""
    rng = np.random.default_rng(0)
    root = np.linalg.qr(rng.standard_normal((COLUMNS, COLUMNS)))[0] * np.exp(rng.normal(0, 1.2, COLUMNS))[:, None]
    rows = np.exp(rng.normal(0, 1, ROWS))
    weights = rng.standard_normal((1, ROWS, COLUMNS)).astype(np.float32)
    return rng, weights, root, rows, moments(gradients(rng, 3000, root, rows))


def cost(layer: Layer, truth: Moments) -> float:
    """The logarithm of true damage at equal bits."""
    steps = layer.steps(0.1)
    errors = layer.weights - layer.rounded(steps, 1 << 15) * steps[..., None]
    return float(np.log(damage(errors, truth)) - 2 * np.log(steps).mean())


@pytest.mark.parametrize("count", [8, 30, 1000])
def test_what_is_tuned_is_better_than_either_extreme(
    count: int, case: tuple[np.random.Generator, Array, Array, Array, Moments]
) -> None:
    rng, weights, root, rows, truth = case
    halves = [moments(gradients(rng, count, root, rows)) for _ in range(2)]
    trust, scale = tuned(weights, halves, None)
    whole = halves[0] + halves[1]
    found = cost(layer_of(weights, whole, None, trust, scale), truth)
    blind = Trust(shrinkage=1.0, spread=1e6)
    assert found < cost(layer_of(weights, whole, None, blind), truth) - 0.1
    believing = Trust(shrinkage=0.0, damping=1e-3, spread=0.0)
    assert found < cost(layer_of(weights, whole, None, believing), truth) + 0.02
    if count == 1000:  # much is known
        assert trust.shrinkage < 0.3


def test_a_prior_is_used_where_it_is_right(case: tuple[np.random.Generator, Array, Array, Array, Moments]) -> None:
    rng, weights, root, rows, truth = case
    halves = [moments(gradients(rng, 12, root, rows)) for _ in range(2)]
    with_prior, _ = tuned(weights, halves, truth)
    assert with_prior.prior == 1.0
    wrong = moments(gradients(rng, 500, np.linalg.qr(rng.standard_normal((COLUMNS, COLUMNS)))[0], rows[::-1]) * 30)
    many = [moments(gradients(rng, 400, root, rows)) for _ in range(2)]
    assert tuned(weights, many, wrong)[0].prior < 1.0


def test_a_knob_does_the_damage_that_it_stands_for(
    case: tuple[np.random.Generator, Array, Array, Array, Moments],
) -> None:
    rng, weights, root, rows, truth = case
    halves = [moments(gradients(rng, 50, root, rows)) for _ in range(2)]
    layer = layer_of(weights, halves[0] + halves[1], None, *tuned(weights, halves, None))
    knob = 0.3 * layer.steps(1.0).mean() ** -1
    steps = layer.steps(knob)
    errors = weights - layer.rounded(steps, 1 << 15) * steps[..., None]
    assert 0.4 < damage(errors, truth) / (knob**2 * weights.size / 12) < 1.5


def test_damage_is_what_moments_say() -> None:
    rng = np.random.default_rng(1)
    found = rng.standard_normal((1, 1, COLUMNS)).astype(np.float32)
    one = Moments([np.einsum("nrc,nrd->cd", found, found)[None]], np.square(found).sum((0, 2))[None], 1)
    error = rng.standard_normal((1, 1, COLUMNS)).astype(np.float32)
    assert damage(error, one) == pytest.approx(float((found[0, 0] @ error[0, 0]) ** 2), rel=1e-4)


def test_groups_are_spread_too() -> None:
    moments_of_groups = Moments([np.stack([np.eye(3), np.zeros((3, 3))]).astype(np.float32)], np.ones((2, 4)), 1)
    first, second = factors_of(moments_of_groups, Trust(spread=1.0, shrinkage=0.0, damping=0.0))[0]
    assert np.allclose(first, np.eye(3) * np.sqrt(1.5), atol=1e-3)
    assert np.allclose(second, np.eye(3) * np.sqrt(0.5), atol=1e-3)
    assert np.allclose(row_weights(moments_of_groups).sum(1), 1)


def test_coarse_steps_have_three_bits_and_are_near() -> None:
    steps = np.exp(np.random.default_rng(2).uniform(-20, 20, 1000))
    found = coarse(steps)
    assert ((found.view(np.uint32) & ((1 << 21) - 1)) == 0).all()
    assert (np.abs(np.log(found / steps)) <= np.log(1 + 1 / 8)).all()
