"""How far two models' outputs are apart, against the definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wcodec import MismatchError
from wcodec.evaluate import Comparison, fidelity
from wcodec.model import Array


def logits(seed: int, count: int = 50, classes: int = 20) -> Array:
    return np.random.default_rng(seed).standard_normal((count, classes)).astype(np.float32)


def test_classifiers_against_torch() -> None:
    before = logits(0)
    after = before + 0.3 * logits(1)
    truth = np.random.default_rng(2).integers(0, 20, 50)
    found = Comparison()
    for start in range(0, 50, 7):
        part = slice(start, start + 7)
        found.add([before[part]], [after[part]], truth[part].tolist())
    result = found.result()
    p, q = (torch.from_numpy(array).double() for array in (before, after))
    kl = torch.nn.functional.kl_div(q.log_softmax(1), p.softmax(1), reduction="batchmean")
    assert result.inputs == 50
    assert result.kl == pytest.approx(float(kl))
    assert result.top1 == np.mean(before.argmax(1) == after.argmax(1))
    first = before.argmax(1)
    assert result.top5 == np.mean([first[n] in np.argsort(-after[n])[:5] for n in range(50)])
    assert result.accuracy == np.mean(after.argmax(1) == truth)
    assert result.original_accuracy == np.mean(before.argmax(1) == truth)
    noise = np.square(before.astype(np.float64) - after).sum()
    assert result.snr_db == pytest.approx(10 * np.log10(np.square(before, dtype=np.float64).sum() / noise))


def test_probabilities_are_taken_as_they_are() -> None:
    before, after = (torch.from_numpy(logits(seed)).double().softmax(1).numpy() for seed in (0, 1))
    assert fidelity(before, after).kl == pytest.approx(float(np.sum(before * np.log(before / after)) / 50))
    # of classes that cannot be, nothing is asked
    certain = np.array([[1.0, 0.0, 0.0]])
    assert fidelity(certain, certain).kl == 0


def test_equal_outputs_are_no_distance_apart() -> None:
    found = fidelity(logits(0), logits(0))
    assert (found.kl, found.top1, found.top5, found.snr_db) == (0, 1, 1, math.inf)
    assert found.accuracy is None
    assert fidelity(np.zeros((1, 4)), logits(0, 1, 4)).snr_db == -math.inf


def test_outputs_of_no_classes_have_a_signal_to_noise_ratio() -> None:
    rng = np.random.default_rng(0)
    masks, boxes = rng.random((4, 2, 8, 8)), 100 * rng.random((4, 6))
    found = Comparison()
    found.add([masks, boxes], [masks + 1e-3, boxes + 1e-3])
    result = found.result()
    assert result.snr_db == pytest.approx(10 * np.log10(np.square(masks).mean() / 1e-6), abs=1e-3)
    assert (result.kl, result.top1, result.top5, result.accuracy) == (None,) * 4


def test_what_cannot_be_compared_is_refused() -> None:
    for before, after in (
        ([logits(0)], [logits(0)[:4]]),
        ([logits(0)], [logits(0), logits(0)]),
        ([np.zeros((0, 4))], [np.zeros((0, 4))]),
        ([np.float64(3)], [np.float64(3)]),
        ([], []),
    ):
        with pytest.raises(MismatchError, match="cannot be compared"):
            Comparison().add(before, after)  # type: ignore[arg-type]
    with pytest.raises(MismatchError, match="not of classes"):
        Comparison().add([np.ones((2, 3, 4))], [np.ones((2, 3, 4))], [0, 1])
    with pytest.raises(MismatchError, match="no outputs to compare"):
        Comparison().result()
