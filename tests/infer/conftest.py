"""A model with layers of many kinds, for tests of what engines do with devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.infer import archive_of, graph_of, node
from wcodec.model import Array

SHAPE = (2, 20, 12, 12)


@pytest.fixture(scope="module")
def model() -> bytes:
    """Layers with weights of every kind: large ones, small ones, constants that are read as values."""
    rng = np.random.default_rng(3)
    weights = {
        "a": rng.laplace(size=(40, 20, 3, 3)),
        "b": rng.laplace(size=(40, 1, 3, 3)),
        "bias": rng.laplace(size=40),
        "table": rng.laplace(size=(1, 40, 12, 1)),
        "c": rng.laplace(size=(40 * 12 * 12, 30)),
    }
    nodes = [
        node("Conv", "x", "a", outputs=["p"], pads=[1, 1, 1, 1]),
        node("Conv", "p", "b", "bias", outputs=["q"], pads=[1, 1, 1, 1], group=40),
        node("Mul", "q", "table", outputs=["r"]),
        node("Flatten", "r", outputs=["s"]),
        node("MatMul", "s", "c"),
    ]
    scaled = {name: (0.1 * array).astype(np.float32) for name, array in weights.items()}
    return graph_of(nodes, {"x": ["batch", *SHAPE[1:]]}, scaled)


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(4).standard_normal(SHAPE).astype(np.float32)


@pytest.fixture
def archive(model: bytes, tmp_path: Path) -> bytes:
    return archive_of(model, tmp_path, coder="rans")
