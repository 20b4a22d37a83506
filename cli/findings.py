"""What `wcodec run` tells of a model's outputs: classes, boxes or mere numbers, as data and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click
import numpy as np

from wcodec.cli.output import print_table, printable, shape_text
from wcodec.errors import MismatchError
from wcodec.evaluate import is_classifier, log_probabilities
from wcodec.infer.detect import Detection, label_of
from wcodec.model import Array

Labels = Sequence[str] | None


@dataclass(frozen=True)
class Class:
    index: int
    label: str | None
    probability: float


@dataclass(frozen=True)
class Found:
    """`box` is left, top, right, bottom in pixels of the picture, or of the input where that is an array."""

    index: int
    label: str | None
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Output:
    """min, mean and max are None for an array without elements."""

    name: str
    shape: tuple[int, ...]
    min: float | None
    mean: float | None
    max: float | None


@dataclass(frozen=True)
class Classified:
    input: str
    classes: list[Class]
    saved: list[str]


@dataclass(frozen=True)
class Detected:
    input: str
    detections: list[Found]
    saved: list[str]


@dataclass(frozen=True)
class Raw:
    input: str
    outputs: list[Output]
    saved: list[str]


@dataclass(frozen=True)
class Failed:
    """An input that there is no result of."""

    input: str
    error: str


Report = Classified | Detected | Raw
"""Of one input, or of one of the batch that an array holds; `saved` are the files written."""


def class_scores(outputs: Sequence[Array], labels: Labels) -> Array | None:
    """A classifier's only output as (n, classes), None where the model is no classifier.

    Axes of length 1 may follow where there are labels. `MismatchError` for other labels than classes.
    """
    shape = outputs[0].shape
    if not is_classifier(outputs) or (len(shape) > 2 and labels is None):
        return None
    check_labels(labels, shape[1])
    return outputs[0].reshape(shape[:2])


def check_labels(labels: Labels, classes: int) -> None:
    if labels is not None and len(labels) != classes:
        raise MismatchError(
            f"the model has {classes} classes, but {len(labels)} label{'s' * (len(labels) != 1)}; give others: --labels"
        )


def probabilities(scores: Array) -> Array:
    """Softmax along the classes, unless the scores (n, classes) are probabilities already; f64."""
    return np.asarray(np.exp(log_probabilities(scores)))


def best_classes(odds: Array, labels: Labels, top: int) -> list[Class]:
    """The likeliest of probabilities (classes,)."""
    order = np.argsort(-odds, kind="stable")[:top].tolist()
    return [Class(index, labels[index] if labels else None, float(odds[index])) for index in order]


def found_boxes(detections: Sequence[Detection], labels: Labels) -> list[Found]:
    return [Found(one.index, labels[one.index] if labels else None, one.score, one.box) for one in detections]


def described(name: str, array: Array) -> Output:
    """An output in a few numbers."""
    if not array.size:
        return Output(name, array.shape, None, None, None)
    with np.errstate(invalid="ignore"):
        return Output(name, array.shape, float(array.min()), float(array.mean(dtype=np.float64)), float(array.max()))


def print_report(report: Report, *, first: bool) -> None:
    """A table headed by the input's name, and the files written; below an empty line unless it is the first."""
    if not first:
        click.echo()
    name = printable(report.input)
    if isinstance(report, Classified):
        rows = [[c.label or label_of(c.index, None), _percent(c.probability)] for c in report.classes]
        print_table((name, ">"), rows)
    elif isinstance(report, Raw):
        rows = [[o.name, shape_text(o.shape), *map(_number, (o.min, o.mean, o.max))] for o in report.outputs]
        print_table((name, "shape", ">min", ">mean", ">max"), rows)
    elif report.detections:
        rows = [
            [d.label or label_of(d.index, None), _percent(d.score), *(f"{edge:.0f}" for edge in d.box)]
            for d in report.detections
        ]
        print_table((name, ">", ">left", ">top", ">right", ">bottom"), rows)
    else:
        click.echo(f"{name}: nothing found")
    for file in report.saved:
        click.echo(f"{name} -> {printable(file)}")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"
