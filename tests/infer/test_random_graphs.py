"""Graphs drawn at random on every device and in every precision, against the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

from tests.support.graphs import IMAGES, graphs, run_on
from tests.support.infer import precisions
from tests.support.opencl import as_gpu
from wcodec.infer import choice
from wcodec.infer.forms.launch import Precision
from wcodec.infer.graph import Graph
from wcodec.infer.lowering.fuse import fused
from wcodec.infer.reference import Reference
from wcodec.opencl.device import Device

BOUNDS: Mapping[Precision, float] = {"storage": 1e-2, "half": 3e-2, "float": 1e-5}
"""Largest error of up to a dozen nodes, as a share of the largest number that any of them gives."""

LARGEST = 30
"""What no number exceeds: of larger ones, errors that count would be lost."""


@pytest.mark.parametrize("as_cpu", [True, False])
def test_devices_compute_what_the_reference_does(device: Device, as_cpu: bool) -> None:
    own = device if as_cpu else as_gpu(device)
    x = np.random.default_rng(1).standard_normal(IMAGES).astype(np.float32)

    @settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
    @given(graphs())
    def check(graph: Graph) -> None:
        constants: dict[str, Any] = dict(graph.constants)
        sizes = [1.0]
        wanted = Reference(graph, constants, dtype=torch.float64).run(
            {"x": torch.from_numpy(x).double()}, lambda _, result: sizes.append(float(result.abs().max()))
        )
        assume(max(sizes) <= LARGEST)
        fewer = fused(graph, constants.__getitem__)
        for precision in precisions(own):
            for found, want in zip(run_on(own, fewer, precision, [x]), wanted.values(), strict=True):
                assert abs(found - want.numpy()).max() <= BOUNDS[precision] * max(sizes), precision

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "_WORTH_TRYING", 1 << 62)
        check()
