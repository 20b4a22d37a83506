"""Translators of the operators that move elements about: none of them computes, but Resize."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wcodec.infer.graph import Concat, Expand, Pad, Reshape, Resize, Slice, Transpose
from wcodec.infer.lowering.site import Site


def _reshape(site: Site) -> None:
    dtype = site.draft.values[site.inputs[0]].dtype
    if site.shape() == site.output_shapes[0]:
        site.stand_for(site.inputs[0])
    else:
        site.emit(Reshape(), site.inputs[:1], dtype=dtype)


def _transpose(site: Site) -> None:
    order = tuple(site.attributes.get("perm") or reversed(range(site.rank())))
    if sorted(order) != [*range(site.rank())]:
        site.deny(f"its order {order} is not one of {site.rank()} axes")
    site.emit(Transpose(order))


def _concat(site: Site) -> None:
    site.emit(Concat(site.axis(0)))


def _slice(site: Site) -> None:
    rank = site.rank()
    starts, steps = [0] * rank, [1] * rank
    given = site.numbers(1)
    assert given is not None
    axes = site.numbers(3) or range(len(given))
    for number, (axis, start) in enumerate(zip(axes, given, strict=True)):
        length = site.shape()[axis]
        steps[axis % rank] = step = (site.numbers(4) or [1] * len(given))[number]
        first = start + length if start < 0 else start
        starts[axis % rank] = min(max(first, 0), length - 1 if step < 0 else length)
        if site.output_shapes[0][axis % rank] == 1:
            steps[axis % rank] = 1  # of which nothing comes, however long it is
    _emit_slice(site, tuple(starts), tuple(steps))


def _emit_slice(site: Site, starts: tuple[int, ...], steps: tuple[int, ...], output: int = 0) -> None:
    if 0 in site.output_shapes[output]:
        site.refuse("takes no element at all")
    if site.output_shapes[output] == site.shape() and set(steps) == {1}:
        site.stand_for(site.inputs[0], output)
    else:
        site.emit(Slice(starts, steps), site.inputs[:1], output=output)


def _split(site: Site) -> None:
    axis, start = site.axis(0), 0
    given = site.numbers(1, "split")
    each = -(-site.shape()[axis] // len(site.outputs))
    for output, shape in enumerate(site.output_shapes):
        starts = tuple(start if place == axis else 0 for place in range(site.rank()))
        if site.outputs[output]:
            _emit_slice(site, starts, (1,) * site.rank(), output)
        # outputs may be left out, and have no shape then
        start += given[output] if given else shape[axis] if shape else each


def _gather(site: Site) -> None:
    """Places at equal distances along an axis: a slice."""
    axis, indices = site.axis(0), site.array(1)
    length = site.shape()[axis]
    places = np.where(indices < 0, indices + length, indices).reshape(-1)
    distances = np.diff(places)
    if indices.ndim > 1 or not places.size or (distances != distances[:1]).any() or 0 in distances:
        site.refuse("gathers places that are not at equal distances, which is not supported")
    if places.min() < 0 or places.max() >= length:
        site.refuse(f"gathers places beyond an axis of length {length}")
    starts, steps = [0] * site.rank(), [1] * site.rank()
    starts[axis], steps[axis] = int(places[0]), int(distances[0]) if distances.size else 1
    if indices.ndim == 1:
        _emit_slice(site, tuple(starts), tuple(steps))
        return
    kept = tuple(1 if place == axis else size for place, size in enumerate(site.shape()))
    site.emit(Reshape(), [site.between(Slice(tuple(starts), tuple(steps)), site.inputs[:1], kept)])


def _pad(site: Site) -> None:
    mode = site.attributes.get("mode", b"constant").decode()
    if mode not in ("constant", "edge", "reflect"):
        site.refuse(f"its mode {mode!r} is not supported; constant, edge and reflect are")
    rank, given = site.rank(), site.numbers(1, "pads")
    assert given is not None
    axes = [axis % rank for axis in site.numbers(3) or range(rank)]
    before, after = [0] * rank, [0] * rank
    for number, axis in enumerate(axes):
        before[axis], after[axis] = given[number], given[number + len(axes)]
    if min(*before, *after) < 0:
        site.refuse("has negative padding; use Slice")
    if mode == "reflect" and any(max(b, a) >= n for b, a, n in zip(before, after, site.shape(), strict=True)):
        site.refuse("reflects more than there is")
    value = site.number(2, "value", 0.0)
    if not any(before) and not any(after):
        site.stand_for(site.inputs[0])
    else:
        site.emit(Pad(tuple(before), mode, value), site.inputs[:1])


def _expand(site: Site) -> None:
    if site.shape() == site.output_shapes[0]:
        site.stand_for(site.inputs[0])
    else:
        site.emit(Expand(), site.inputs[:1])


def _space_to_depth(site: Site) -> None:
    n, channels, height, width = site.shape()
    block = int(site.attributes["blocksize"])
    split = (n, channels, height // block, block, width // block, block)
    parted = site.between(Reshape(), site.inputs, split)
    order = (0, 3, 5, 1, 2, 4)
    moved = site.between(Transpose(order), [parted], tuple(split[axis] for axis in order))
    site.emit(Reshape(), [moved])


def _depth_to_space(site: Site) -> None:
    n, channels, height, width = site.shape()
    block = int(site.attributes["blocksize"])
    left = channels // block**2
    if site.attributes.get("mode", b"DCR") == b"DCR":
        split, order = (n, block, block, left, height, width), (0, 3, 4, 1, 5, 2)
    else:
        split, order = (n, left, block, block, height, width), (0, 1, 4, 2, 5, 3)
    parted = site.between(Reshape(), site.inputs, split)
    moved = site.between(Transpose(order), [parted], tuple(split[axis] for axis in order))
    site.emit(Reshape(), [moved])


_SAMPLED = "half_pixel, pytorch_half_pixel, align_corners and asymmetric"


def _resize(site: Site) -> None:
    mode = site.attributes.get("mode", b"nearest").decode()
    if site.rank() != 4 or site.output_shapes[0][:2] != site.shape()[:2]:
        site.refuse("resizes other axes than the last two of images")
    if mode not in ("nearest", "linear"):
        site.refuse(f"its mode {mode!r} is not supported; nearest and linear are")
    if site.attributes.get("antialias", 0):
        site.refuse("smooths while it resizes (antialias), which is not supported")
    if site.attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        site.refuse("keeps the aspect ratio, which is not supported")
    along = [_sampling(site, axis) for axis in (2, 3)]
    rounding = site.attributes.get("nearest_mode", b"round_prefer_floor").decode().removeprefix("round_")
    if rounding not in ("floor", "ceil", "prefer_floor", "prefer_ceil"):
        site.deny(f"its nearest_mode is {rounding!r}")
    site.emit(
        Resize(
            "nearest" if mode == "nearest" else "linear",
            (along[0][0], along[1][0]),
            (along[0][1], along[1][1]),
            rounding,
        ),
        site.inputs[:1],
    )


def _sampling(site: Site, axis: int) -> tuple[float, float]:  # noqa: RET503, to refuse is not to return
    """Distance and offset of the places that an axis is sampled at."""
    before, after = site.shape()[axis], site.output_shapes[0][axis]
    axes = [place % 4 for place in site.attributes.get("axes") or range(4)]
    scale = after / before
    if site.has(2) and site.array(2).size and axis in axes:
        scale = float(site.array(2).reshape(-1)[axes.index(axis)])
    mode = site.attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    if mode == "asymmetric":
        return 1 / scale, 0.0
    if mode == "align_corners":
        return ((before - 1) / (after - 1), 0.0) if after > 1 else (0.0, 0.0)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and after > 1):
        return 1 / scale, 0.5 / scale - 0.5
    if mode == "pytorch_half_pixel":
        return 0.0, 0.0
    site.refuse(f"its places {mode!r} are not supported; {_SAMPLED} are")


SHAPES: dict[str, Callable[[Site], None]] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
"""What translates which operator."""
