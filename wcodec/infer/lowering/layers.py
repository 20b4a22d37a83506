"""Translators of the operators that have weights or windows: convolutions, products, pools, norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from wcodec.infer.graph import Binary, Convolution, Dense, LocalNorm, Map, MatMul, Pool, Reduce, Reshape, Step
from wcodec.infer.lowering.site import Site

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]

_FARTHEST = 1 << 16
"""What kernels, strides, dilations and pads stay below."""


def _pair(site: Site, attribute: str, axes: int) -> Pair:
    """An attribute along the two axes of images; signals, of one axis, are images of one row."""
    given = site.attributes.get(attribute) or [1] * axes
    if len(given) != axes or not all(0 < number < _FARTHEST for number in given):
        site.deny(f"its {attribute} are {given}")
    return (1, int(given[0])) if axes == 1 else (int(given[0]), int(given[1]))


def _axes(site: Site) -> int:
    """How many axes windows have; `UnsupportedError` unless one or two."""
    axes = site.rank() - 2
    if axes not in (1, 2):
        site.refuse(f"slides over {axes} axes; 1 and 2 are supported")
    return axes


def _pads(site: Site, kernel: Pair, strides: Pair, dilations: Pair, axes: int) -> Pads:
    """Padding as the attributes `pads` or `auto_pad` give it."""
    auto = site.attributes.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        size = (1, *site.shape()[2:]) if axes == 1 else site.shape()[2:]
        before, after = [0, 0], [0, 0]
        for n in range(2):
            reach = (kernel[n] - 1) * dilations[n] + 1
            whole = max(0, (-(-size[n] // strides[n]) - 1) * strides[n] + reach - size[n])
            before[n] = whole // 2 if auto == "SAME_UPPER" else -(-whole // 2)
            after[n] = whole - before[n]
        return before[0], before[1], after[0], after[1]
    given = [int(pad) for pad in site.attributes.get("pads") or [0] * 2 * axes] if auto == "NOTSET" else [0] * 2 * axes
    if min(given) < 0:
        site.refuse("has negative padding")
    if len(given) != 2 * axes or max(given) >= _FARTHEST:
        site.deny(f"its pads are {given}")
    return (0, given[0], 0, given[1]) if axes == 1 else (given[0], given[1], given[2], given[3])


def _as_images(site: Site, axes: int) -> str:
    """The input, signals as images of one row."""
    if axes == 2:
        return site.inputs[0]
    n, channels, length = site.shape()
    return site.between(Reshape(), site.inputs[:1], (n, channels, 1, length))


def _emit_images(site: Site, op: Convolution | Pool, inputs: tuple[str, ...], axes: int) -> None:
    if axes == 2:
        site.emit(op, inputs)
        return
    n, channels, length = site.output_shapes[0]
    site.emit(Reshape(), [site.between(op, inputs, (n, channels, 1, length))])


def _convolution(site: Site) -> None:
    axes, transposed = _axes(site), site.kind == "ConvTranspose"
    weight = site.draft.constants.get(site.inputs[1])
    if weight is None or len(weight.shape) != axes + 2:
        site.refuse("its weight must be a constant with an axis for each of the input's")
    kernel = (1, weight.shape[2]) if axes == 1 else (weight.shape[2], weight.shape[3])
    _check_channels(site, weight.shape, transposed=transposed)
    strides, dilations = (_pair(site, name, axes) for name in ("strides", "dilations"))
    if transposed:
        pads = _transposed_pads(site, kernel, strides, dilations, axes)
    else:
        pads = _pads(site, kernel, strides, dilations, axes)
    op = Convolution(kernel, strides, dilations, pads, int(site.attributes.get("group", 1)), transposed)
    _emit_images(site, op, (_as_images(site, axes), site.inputs[1], "", site.vector(2)), axes)


def _check_channels(site: Site, weight: tuple[int, ...], *, transposed: bool) -> None:
    """`CorruptFileError` unless weight, bias and result are of one convolution; shape inference does not see to it."""
    groups = int(site.attributes.get("group", 1))
    outer, inner = weight[:2]
    taken, given = (outer, inner * groups) if transposed else (inner * groups, outer)
    if groups < 1 or outer % groups or 0 in weight or taken != site.shape()[1]:
        site.deny(f"its weight {weight} in {groups} groups is not one for {site.shape()[1]} channels")
    kernel = tuple(site.attributes.get("kernel_shape") or weight[2:])
    result, bias = site.output_shapes[0], site.shape(2) if site.has(2) else (given,)
    if kernel != weight[2:] or len(result) != site.rank() or result[1] != given or bias != (given,):
        site.deny(f"its weight {weight} and bias {bias} do not give {result}")


def _transposed_pads(site: Site, kernel: Pair, strides: Pair, dilations: Pair, axes: int) -> Pads:
    """What is cut off before; after, it is what the output's size leaves."""
    if site.attributes.get("auto_pad", b"NOTSET").decode() in ("NOTSET", "VALID") and not site.attributes.get(
        "output_shape"
    ):
        return _pads(site, kernel, strides, dilations, axes)
    size, out = ((1, *shape[2:])[-2:] for shape in (site.shape(), site.output_shapes[0]))
    added = _pair(site, "output_padding", axes) if site.attributes.get("output_padding") else (0, 0)
    pads = [0, 0, 0, 0]
    for n in range(2):
        whole = strides[n] * (size[n] - 1) + added[n] + (kernel[n] - 1) * dilations[n] + 1 - out[n]
        upper = site.attributes.get("auto_pad", b"").decode() == "SAME_UPPER"
        pads[n] = max(0, whole // 2 if upper else whole - whole // 2)
        pads[n + 2] = max(0, whole - pads[n])
    return pads[0], pads[1], pads[2], pads[3]


def _gemm(site: Site) -> None:
    alpha, beta = (float(site.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    flips = [int(site.attributes.get(name, 0)) for name in ("transA", "transB")]
    if not {*flips} <= {0, 1}:
        site.deny(f"its matrices are transposed {flips} times")
    flip_a, flip_b = map(bool, flips)
    rows, columns = site.output_shapes[0]
    bias = site.is_constant(2) and site.draft.shape(site.inputs[2]) in ((columns,), (1, columns))
    if site.is_constant(1) and not flip_a and (bias or not site.has(2)):
        scale = "" if alpha == 1 else site.constant(np.full(columns, alpha, np.float32))
        shift = site.inputs[2] if bias else ""
        if bias and (beta != 1 or site.rank(2) != 1):
            shift = site.constant((beta * site.array(2)).reshape(-1).astype(np.float32))
        site.emit(Dense(rows_first=flip_b), (site.inputs[0], site.inputs[1], scale, shift))
        return
    product = MatMul(flip_a, flip_b, alpha)
    if not site.has(2):
        site.emit(product, site.inputs[:2])
        return
    if beta != 1:
        site.refuse(f"its beta is {beta}; with a matrix that is not constant only 1 is supported")
    site.emit(Binary("add"), (site.between(product, site.inputs[:2], (rows, columns)), site.inputs[2]))


def _matmul(site: Site) -> None:
    if site.rank(0) < 2 or site.rank(1) < 2:
        site.refuse("multiplies vectors; reshape them to matrices")
    if site.is_constant(1) and site.rank(1) == 2:
        site.emit(Dense(rows_first=False), (site.inputs[0], site.inputs[1], "", ""))
    else:
        site.emit(MatMul(), site.inputs)


def _begun_windows(site: Site, strides: Pair, pads: Pads) -> tuple[int, ...]:
    """The shape of a pool's result less windows that begin beyond the input, which shape inference counts."""
    given, found = site.shape()[2:], site.output_shapes[0]
    most = (
        -(-(n + pad) // stride)
        for n, pad, stride in zip(given, pads[2 - len(given) : 2], strides[-len(given) :], strict=True)
    )
    return (*found[:2], *map(min, found[2:], most))


def _pool(kind: Literal["max", "mean"]) -> Callable[[Site], None]:
    def translate(site: Site) -> None:
        if len(site.outputs) > 1 and site.outputs[1]:
            site.refuse("gives the places of maxima, which is not supported")
        axes = _axes(site)
        kernel, strides, dilations = (_pair(site, name, axes) for name in ("kernel_shape", "strides", "dilations"))
        pads = _pads(site, kernel, strides, dilations, axes)
        op = Pool(kind, kernel, strides, dilations, pads, bool(site.attributes.get("count_include_pad", 0)))
        if site.attributes.get("ceil_mode", 0):
            site = replace(site, output_shapes=(_begun_windows(site, strides, pads),))
        _emit_images(site, op, (_as_images(site, axes),), axes)

    return translate


def _global_pool(kind: Literal["max", "mean"]) -> Callable[[Site], None]:
    return lambda site: site.emit(Reduce(kind, tuple(range(2, site.rank()))))


def _reduce(kind: Literal["mean", "max", "sum"]) -> Callable[[Site], None]:
    def translate(site: Site) -> None:
        axes = site.numbers(1, "axes")
        if not axes and site.attributes.get("noop_with_empty_axes", 0):
            site.stand_for(site.inputs[0])
            return
        shape = site.shape()
        chosen = tuple(sorted(axis % len(shape) for axis in axes)) if axes else tuple(range(len(shape)))
        if len(set(chosen)) < len(chosen):
            site.deny(f"its axes are {axes}")
        kept = tuple(1 if axis in chosen else length for axis, length in enumerate(shape))
        if kept == site.output_shapes[0]:
            site.emit(Reduce(kind, chosen), site.inputs[:1])
        else:
            site.emit(Reshape(), [site.between(Reduce(kind, chosen), site.inputs[:1], kept)])

    return translate


def _batch_norm(site: Site) -> None:
    if site.attributes.get("training_mode", 0):
        site.refuse("is in training mode")
    gain, shift, mean, variance = (site.array(place).astype(np.float64) for place in range(1, 5))
    scale = gain / np.sqrt(variance + float(site.attributes.get("epsilon", 1e-5)))
    along = (-1, *(1,) * (site.rank() - 2))
    factors, offsets = (site.constant(a.reshape(along).astype(np.float32)) for a in (scale, shift - mean * scale))
    scaled = site.between(Binary("mul"), (site.inputs[0], factors), site.shape())
    site.emit(Binary("add"), (scaled, offsets))


def _local_norm(site: Site) -> None:
    if site.rank() != 4:
        site.refuse("is supported on images only")
    alpha, beta, bias = (float(site.attributes.get(k, v)) for k, v in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    size = int(site.attributes["size"])
    if not 0 < size < _FARTHEST:
        site.deny(f"its size is {size}")
    site.emit(LocalNorm(size, alpha, beta, bias))


def _prelu(site: Site) -> None:
    slopes = site.array(1)
    channels, spatial = site.shape()[1] if site.rank() > 1 else 1, (1,) * (site.rank() - 2)
    if slopes.size != 1 and slopes.shape not in ((channels, *spatial), (1, channels, *spatial)):
        site.refuse("its slopes must be one, or one a channel")
    if site.rank() == 4:
        each = site.constant(np.broadcast_to(slopes.reshape(-1), (channels,)).astype(np.float32))
        site.emit(Map(), site.inputs[:1], steps=(Step("prelu", operand=each),))
        return
    zero, x, shape = site.constant(np.zeros(1, np.float32)), site.inputs[0], site.shape()
    above, below = (site.between(Binary(kind), (x, zero), shape) for kind in ("max", "min"))
    site.emit(Binary("add"), (above, site.between(Binary("mul"), (below, site.inputs[1]), shape)))


LAYERS: dict[str, Callable[[Site], None]] = {
    "AveragePool": _pool("mean"),
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("mean"),
    "GlobalMaxPool": _global_pool("max"),
    "LRN": _local_norm,
    "MatMul": _matmul,
    "MaxPool": _pool("max"),
    "PRelu": _prelu,
    "ReduceMax": _reduce("max"),
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
}
"""What translates which operator."""
