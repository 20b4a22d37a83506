"""Translators of the operators that work element by element, and of those that weigh elements along an axis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from wcodec.infer.graph import ArgMax, Binary, Map, Reshape, Softmax, Step, StepKind
from wcodec.infer.lowering.site import Site


def _binary(op: Binary, site: Site) -> None:
    if len(site.inputs) != 2:
        site.refuse(f"takes {len(site.inputs)} inputs; 2 are supported")
    site.emit(op)


def _power(site: Site) -> None:
    exponent = site.array(1).reshape(-1) if site.is_constant(1) else np.zeros(0)
    if exponent.size == 1 and exponent[0] == 2:
        site.emit(Binary("mul"), site.inputs[:1] * 2)
    elif exponent.size == 1 and exponent[0] == 0.5:
        site.emit(Map(), site.inputs[:1], steps=(Step("sqrt"),))
    else:
        site.emit(Binary("pow"), (site.inputs[0], _floats(site, 1)))


def _floats(site: Site, place: int) -> str:
    """An input as floats: exponents may be integers."""
    if site.is_constant(place) and not np.issubdtype(site.array(place).dtype, np.floating):
        return site.constant(site.array(place).astype(np.float32))
    return site.inputs[place]


def _map(kind: StepKind, site: Site, **defaults: float) -> None:
    """A step, its parameters taken from the attributes alpha and beta."""
    a, b = (float(site.attributes.get(name, defaults.get(name, 0.0))) for name in ("alpha", "beta"))
    site.emit(Map(), site.inputs[:1], steps=(Step(kind, a, b),))


def _clip(site: Site) -> None:
    low, high = site.number(1, "min", -np.inf), site.number(2, "max", np.inf)
    site.emit(Map(), site.inputs[:1], steps=(Step("clip", low, high),))


def _swish(site: Site) -> None:
    if float(site.attributes.get("alpha", 1.0)) != 1:
        site.refuse("its alpha must be 1")
    _map("silu", site)


def _softmax(site: Site, *, log: bool = False) -> None:
    site.emit(Softmax(site.axis(-1), log))


def _arg_max(site: Site) -> None:
    axis = site.axis(0)
    op = ArgMax(axis, bool(site.attributes.get("select_last_index", 0)))
    kept = tuple(1 if place == axis else length for place, length in enumerate(site.shape()))
    if kept == site.output_shapes[0]:
        site.emit(op, dtype="i64")
    else:
        site.emit(Reshape(), [site.between(op, site.inputs, kept, dtype="i64")], dtype="i64")


ARITHMETIC: dict[str, Callable[[Site], None]] = {
    "Add": partial(_binary, Binary("add")),
    "ArgMax": _arg_max,
    "Clip": _clip,
    "Div": partial(_binary, Binary("div")),
    "Exp": partial(_map, "exp"),
    "HardSigmoid": partial(_map, "hard_sigmoid", alpha=0.2, beta=0.5),
    "HardSwish": partial(_map, "hard_swish"),
    "LeakyRelu": partial(_map, "leaky_relu", alpha=0.01),
    "LogSoftmax": partial(_softmax, log=True),
    "Max": partial(_binary, Binary("max")),
    "Min": partial(_binary, Binary("min")),
    "Mul": partial(_binary, Binary("mul")),
    "Neg": partial(_map, "neg"),
    "Pow": _power,
    "Relu": partial(_map, "relu"),
    "Sigmoid": partial(_map, "sigmoid"),
    "Softmax": _softmax,
    "Sqrt": partial(_map, "sqrt"),
    "Sub": partial(_binary, Binary("sub")),
    "Swish": _swish,
    "Tanh": partial(_map, "tanh"),
}
"""What translates which operator."""
