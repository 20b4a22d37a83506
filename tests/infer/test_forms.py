"""Every form of a layer gives what the layer should, not only the one that is fastest here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.infer import (
    BOUNDS,
    archive_of,
    distance,
    every_choice,
    graph_of,
    node,
    oracle,
    outputs_of,
    precisions,
)
from tests.support.opencl import as_gpu
from wcodec.infer.engine import Engine
from wcodec.opencl.device import Device

LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3x3": ((2, 40, 30, 29), (50, 40, 3, 3), {"pads": [1, 1, 1, 1]}),
    "3x3, no padding": ((1, 64, 17, 9), (33, 64, 3, 3), {}),
    "3x3, asymmetric padding": ((1, 32, 9, 14), (64, 32, 3, 3), {"pads": [0, 1, 2, 1]}),
    "3x3, one tile": ((1, 128, 4, 4), (64, 128, 3, 3), {"pads": [1, 1, 1, 1]}),
    "3x3, small results": ((2, 64, 4, 4), (64, 64, 3, 3), {}),
    "3x3, many channels": ((1, 700, 7, 7), (32, 700, 3, 3), {"pads": [1, 1, 1, 1]}),
    "3x3, stride": ((1, 48, 30, 29), (32, 48, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "1x1": ((1, 96, 14, 14), (80, 96, 1, 1), {}),
    "depthwise": ((1, 40, 15, 17), (40, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 40}),
    "pictures": ((2, 3, 30, 30), (24, 3, 5, 5), {"strides": [2, 2]}),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("as_cpu", [True, False])
def test_every_form_of_a_convolution(device: Device, tmp_path, monkeypatch, layer, as_cpu) -> None:
    shape, kernel, attributes = LAYERS[layer]
    rng = np.random.default_rng(5)
    x = rng.standard_normal(shape).astype(np.float32)
    weights = {"w": (rng.standard_normal(kernel) / np.sqrt(np.prod(kernel[1:]))).astype(np.float32)}
    weights["b"] = rng.standard_normal(kernel[0]).astype(np.float32)
    nodes = [node("Conv", "x", "w", "b", outputs=["c"], **attributes), node("Sigmoid", "c", outputs=["s"])]
    model = graph_of([*nodes, node("Mul", "c", "s")], {"x": shape}, weights)
    archive, [wanted] = archive_of(model, tmp_path), oracle(model, x)
    for precision in precisions(device):
        for tried in every_choice(monkeypatch):
            with Engine.open(archive, device if as_cpu else as_gpu(device), precision=precision) as engine:
                [found] = outputs_of(engine, x)
            assert distance(found, wanted) <= BOUNDS[precision], (precision, tried)
        assert len(tried) >= (0 if layer == "depthwise" and not as_cpu else 2)
