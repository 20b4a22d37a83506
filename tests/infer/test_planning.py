"""Properties of what comes between a graph and a device: fewer nodes, tasks in order, memory that is shared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given, settings

from tests.support.graphs import IMAGES, check_order, graphs
from wcodec.infer.arena import Life, arranged
from wcodec.infer.graph import Graph
from wcodec.infer.lowering.fuse import fused
from wcodec.infer.reference import Reference
from wcodec.infer.schedule import scheduled
from wcodec.model import Array

# Memory


@st.composite
def lives(draw: st.DrawFn) -> list[Life]:
    spans = st.tuples(st.integers(0, 1000), st.integers(-1, 12), st.integers(0, 6))
    return [Life(f"v{n}", size, first, first + more) for n, (size, first, more) in enumerate(draw(st.lists(spans)))]


def rounded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def needed(together: Sequence[Life], alignment: int) -> int:
    """The most that values which are needed at one time take."""
    times = {life.first for life in together}
    return max(
        (sum(rounded(a.size, alignment) for a in together if a.first <= time <= a.last) for time in times), default=0
    )


@given(lives(), st.sampled_from([1, 64, 128]))
def test_values_needed_together_lie_apart(together: list[Life], alignment: int) -> None:
    arena = arranged(together, alignment)
    assert arena.offsets.keys() == {life.name for life in together}
    for life in together:
        assert arena.offsets[life.name] % alignment == 0
        assert 0 <= arena.offsets[life.name] <= arena.size - life.size
    for a, b in itertools.combinations(together, 2):
        if a.first <= b.last and b.first <= a.last and a.size and b.size:
            begins, ends = (arena.offsets[a.name], arena.offsets[b.name]), (a.size, b.size)
            assert begins[0] + ends[0] <= begins[1] or begins[1] + ends[1] <= begins[0]


@given(lives(), st.sampled_from([1, 64, 128]))
def test_no_more_memory_is_taken_than_apart_and_no_less_than_needed(together: list[Life], alignment: int) -> None:
    size = arranged(together, alignment).size
    assert size <= max(alignment, sum(rounded(life.size, alignment) for life in together))
    assert size >= needed(together, alignment)


# Fewer nodes


def numbers(graph: Graph) -> dict[str, Any]:
    assert all(isinstance(constant, np.ndarray) for constant in graph.constants.values())
    return dict(graph.constants)


def run(graph: Graph, x: Array) -> list[Array]:
    return [output.numpy() for output in Reference(graph, numbers(graph), dtype=torch.float64)(x)]


@settings(max_examples=200)
@given(graphs())
def test_fewer_nodes_compute_the_same(graph: Graph) -> None:
    x = np.random.default_rng(0).standard_normal(IMAGES).astype(np.float32)
    fewer = fused(graph, lambda name: numbers(graph)[name])
    assert len(fewer.nodes) <= len(graph.nodes)
    assert fewer.outputs == graph.outputs
    made = {node.output for node in fewer.nodes}
    assert {*fewer.values} == {"x", *made}
    for found, wanted in zip(run(fewer, x), run(graph, x), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * (1 + abs(wanted).max()))


@given(graphs())
def test_what_is_fused_once_stays(graph: Graph) -> None:
    def again(graph: Graph) -> Graph:
        return fused(graph, lambda name: numbers(graph)[name])

    once = again(graph)
    assert again(once).nodes == once.nodes


# Tasks in order


@given(graphs(), st.sampled_from(["f16", "f32"]), st.data())
def test_every_task_reads_what_was_written_before(graph: Graph, storage: Any, data: st.DataObject) -> None:
    wide = data.draw(st.sets(st.sampled_from(sorted(graph.values)))) if storage == "f16" else set()
    for each in (graph, fused(graph, lambda name: numbers(graph)[name])):
        schedule = scheduled(each, storage, wide)
        check_order(schedule)
        assert [place.shape for place in schedule.outputs] == [graph.shape(name) for name in graph.outputs]
