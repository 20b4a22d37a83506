"""Tiling is a bijection, whatever the shape."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wcodec.coders.base import FrameLimits
from wcodec.coders.video import VIDEO_CODERS
from wcodec.pipeline import TensorCodec
from wcodec.recipe import Recipe
from wcodec.scales import Uniform
from wcodec.tiling import CHUNK_ELEMENTS, ROWS_TOGETHER, Flat, Grid, Rows, choose_tiling

SHAPES = st.lists(st.integers(1, 12), min_size=0, max_size=5).map(tuple)
LIMITS = st.sampled_from([FrameLimits(16, 4096), FrameLimits(64, 4096), FrameLimits(1, 64), FrameLimits(32, 128)])


def numbered(rows: Rows) -> np.ndarray:
    return np.arange(rows.count * rows.size, dtype=np.int32).reshape(rows.count, *rows.trail)


@given(SHAPES, LIMITS)
def test_untile_inverts_tile_at_any_rank(shape, limits):
    rows = Rows.of(shape)
    symbols = numbered(rows)
    for tiling in (Flat(), choose_tiling(rows, limits)):
        frames = tiling.tile(symbols)
        assert frames.shape == tiling.frames_shape(rows.count, rows.size)
        assert frames.flags.c_contiguous
        back = tiling.untile(frames, rows.count, rows.size)
        assert np.array_equal(back.reshape(symbols.shape), symbols)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 60), st.integers(1, 20), st.integers(1, 20))
def test_any_grid_is_a_bijection(rows, size, line, height, width):
    grid, symbols = Grid(line, height, width), np.arange(rows * size).reshape(rows, size)
    frames = grid.tile(symbols)
    assert frames.shape == grid.frames_shape(rows, size)
    assert set(frames.reshape(-1)) == set(symbols.reshape(-1))
    assert np.array_equal(grid.untile(frames, rows, size), symbols)


@given(SHAPES, LIMITS)
def test_frames_keep_to_the_coders_limits(shape, limits):
    grid = choose_tiling(Rows.of(shape), limits)
    assert isinstance(grid, Grid)
    for side in (grid.height, grid.width):
        assert limits.low <= side <= limits.high


EVERYDAY = [(4096, 14336), (5120, 13824), (8192, 28672), (17920, 6656), (3072, 24576), (13, 460_000), (1, 3_000_001)]
"""Shapes of layers of well-known language models, and two whose rows fill a chunk badly."""


@given(st.one_of(st.sampled_from(EVERYDAY), st.tuples(st.integers(1, 40_000), st.integers(1, 40_000))))
def test_what_is_written_is_what_a_reader_takes(shape):
    rows = Rows.of(shape)
    ranges = rows.chunks()
    chunks = {stop - start for start, stop in ranges}
    if rows.count < 4 * ROWS_TOGETHER * len(ranges):
        assert max(chunks) - min(chunks) <= 1
    else:
        assert max(chunks) - min(chunks) < 2 * ROWS_TOGETHER
        assert all(start % ROWS_TOGETHER == 0 for start, _ in ranges)
    quantizer = Uniform(8, True, (1, 0), "max")
    for kind in VIDEO_CODERS.values():
        coder = kind.of(8)
        recipe = Recipe(quantizer, choose_tiling(rows, coder.limits), coder)
        TensorCodec("f32", rows, recipe, None).check(chunks)


@pytest.mark.parametrize("shape", [(512, 4608), (64, 3, 3, 3), (1000, 1280), (25088, 64), (3, 1 << 21), (96, 1, 3, 3)])
def test_neighbouring_rows_stay_neighbours_and_little_is_added(shape):
    rows = Rows.of(shape)
    grid = choose_tiling(rows, FrameLimits(16, 4096))
    assert isinstance(grid, Grid)
    assert grid.line % rows.size == 0 or rows.count < 16 or rows.axes > 1
    start, stop = rows.chunks()[0]
    size = (stop - start) * rows.size
    assert math.prod(grid.frames_shape(stop - start, rows.size)) <= 1.13 * size + 2048


@given(st.lists(st.integers(0, 1 << 22), min_size=0, max_size=4).map(tuple))
def test_chunks_cover_the_rows_once_and_evenly(shape):
    rows = Rows.of(shape)
    assert rows.count * rows.size == math.prod(shape)
    if rows.count > 1 << 24:
        return
    chunks = rows.chunks()
    assert chunks == [] if math.prod(shape) == 0 else chunks[0][0] == 0 and chunks[-1][1] == rows.count
    for (_, stop), (start, _) in pairwise(chunks):
        assert stop == start
    assert all(0 < (stop - start) * rows.size <= 2 * CHUNK_ELEMENTS for start, stop in chunks)


def test_a_huge_row_is_cut_along_further_axes():
    assert Rows.of((2, 3, 1 << 20)).axes == 2
    assert Rows.of((1, 1 << 25)).axes == 2
    assert len(Rows.of((1, 1 << 25)).chunks()) == 32
