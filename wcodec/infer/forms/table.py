"""Which function gives the forms of which operation."""

from __future__ import annotations

from collections.abc import Callable

from wcodec.infer.forms.conv import conv_forms
from wcodec.infer.forms.dense import dense_forms, matmul_forms
from wcodec.infer.forms.elements import arg_max_forms, move_forms, pointwise_forms, softmax_forms
from wcodec.infer.forms.images import local_norm_forms, pool_forms, reduce_forms, resize_forms
from wcodec.infer.forms.launch import Form, Target
from wcodec.infer.forms.pair import pair_forms
from wcodec.infer.graph import (
    ArgMax,
    Binary,
    Convolution,
    Dense,
    LocalNorm,
    Map,
    MatMul,
    Pool,
    Reduce,
    Resize,
    Softmax,
)
from wcodec.infer.places import Move, Pair, Task

_FORMS: dict[type, Callable[[Task, Target], list[Form]]] = {
    ArgMax: arg_max_forms,
    Binary: pointwise_forms,
    Convolution: conv_forms,
    Dense: dense_forms,
    LocalNorm: local_norm_forms,
    Map: pointwise_forms,
    MatMul: matmul_forms,
    Move: move_forms,
    Pair: pair_forms,
    Pool: pool_forms,
    Reduce: reduce_forms,
    Resize: resize_forms,
    Softmax: softmax_forms,
}


def forms_of(task: Task, target: Target) -> list[Form]:
    """The ways to compute a task, at least one but for pairs, the likeliest to be fastest first."""
    return _FORMS[type(task.op)](task, target)
