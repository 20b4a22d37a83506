"""Which values are stored as floats where others are halves."""

from __future__ import annotations

import math

from wcodec.infer.graph import Convolution, Graph

_FIRST = 4
"""Layers from the first on whose inputs and results are looked at."""

_FEW = 256
"""Numbers summed up for one of a result, from which on their rounding errors average out."""


def wide_values(graph: Graph) -> frozenset[str]:
    """The values of a graph that halves would round too coarsely.

    In smooth parts of a picture neighbours are rounded alike, and a layer that sums few numbers does not average such
    errors out: measured on MobileNetV2 and EfficientNet-Lite0, they are most of what halves do to the result. So what
    such layers read at the beginning of a net is f32; and so is what leaves the graph.
    """
    layers = [node for node in graph.nodes if isinstance(node.op, Convolution)]
    early = {*graph.inputs, *(node.output for node in layers[:_FIRST])}
    wide = set(graph.outputs)
    for node in layers[: _FIRST + 1]:
        assert isinstance(node.op, Convolution)
        channels = graph.shape(node.inputs[0])[1] // node.op.groups
        if channels * math.prod(node.op.kernel) < _FEW:
            wide.update(early.intersection(node.inputs[:1]))
    return frozenset(wide)
