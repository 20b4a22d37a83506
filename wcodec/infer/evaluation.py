"""How far an archive's model is from its original: both run on the same inputs, whole or layer by layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import numpy as np

from wcodec.archive import Archive, open_archive
from wcodec.encode import encode
from wcodec.errors import MismatchError
from wcodec.evaluate import Comparison, Fidelity, decibels
from wcodec.formats import read_model
from wcodec.formats.shards import is_archive
from wcodec.infer.classes import class_of
from wcodec.infer.graph import Convolution, Dense, MatMul, Node
from wcodec.infer.inputs import Inputs
from wcodec.infer.lowering.source import OnnxSource
from wcodec.infer.lowering.walk import lower
from wcodec.infer.reference import Reference
from wcodec.model import Array, Model
from wcodec.policy import Policy
from wcodec.workers import Progress, ProgressCallback

if TYPE_CHECKING:
    from torch import Tensor

    from wcodec.infer.ports import Port

Runtime = Literal["opencl", "torch", "onnxruntime"]

_TOGETHER = 8
"""Inputs that run at once where the model takes any number."""


@dataclass(frozen=True)
class LayerSnr:
    """Of the outputs of one layer, in dB; infinite where they are the same."""

    name: str
    snr_db: float


@contextmanager
def original(path: str | os.PathLike[str]) -> Iterator[Archive]:
    """A model file, or an archive, as an archive that holds it bit for bit; it is gone afterwards if it was made."""
    if is_archive(path):
        with open_archive(path) as archive:
            yield archive
        return
    with read_model(path) as model, lossless(model) as archive:
        yield archive


@contextmanager
def lossless(model: Model) -> Iterator[Archive]:
    """A model as an archive that holds it bit for bit, for as long as it is needed."""
    with TemporaryDirectory(prefix="wcodec-") as folder:
        made = Path(folder) / "original.wcodec"
        encode(model, made, Policy(lossless=True, coder="raw"))
        with open_archive(made) as archive:
            yield archive


def evaluate(
    archive: Archive,
    reference: Archive,
    inputs: Inputs,
    *,
    runtime: Runtime = "opencl",
    device: str = "opencl",
    truth: Mapping[str, int] | None = None,
    progress: ProgressCallback | None = None,
) -> Fidelity:
    """Run both models on all inputs and compare their outputs; `truth` tells the class of each input by its name.

    Inputs are read, and outputs kept, a few at a time. Raises what runtimes do, and `MismatchError` for models or
    inputs that do not go together, and inputs without a class.
    """
    names = inputs.names
    for name in names if truth is not None else ():
        class_of(name, truth or {})
    comparison, done = Comparison(), 0
    with _running(archive, runtime, device) as decoded, _running(reference, runtime, device) as before:
        if [port.shape[1:] for port in decoded.ports] != [port.shape[1:] for port in before.ports]:
            raise MismatchError("the two models do not take the same inputs")
        together = decoded.together
        for batch, array in inputs.batches(together):
            classes = None if truth is None else [class_of(name, truth) for name in batch]
            comparison.add(before(array), decoded(array), classes)
            done += len(batch)
            if progress is not None:
                progress(Progress(batch[-1], len(names), done))
    return comparison.result()


def layer_snr(archive: Archive, reference: Archive, inputs: Inputs) -> list[LayerSnr]:
    """How far the outputs of each convolution and matrix product are from the original's, by torch.

    Raises `MismatchError` for models whose graphs are not alike, `MissingDependencyError` without torch.
    """
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    sources = OnnxSource(reference), OnnxSource(archive)
    together = batch_of(next(iter(sources[0].inputs.values())))
    pair: tuple[Reference, Reference] | None = None
    for batch, array in inputs.batches(together):
        filled = padded(array, together)
        if pair is None:
            shapes = dict.fromkeys(sources[0].inputs, filled.shape)
            pair = _executor(sources[0], shapes), _executor(sources[1], shapes)
            if [node.output for node in pair[0].graph.nodes] != [node.output for node in pair[1].graph.nodes]:
                raise MismatchError("the graphs of the two models are not alike")
        _compare_layers(pair, filled, len(batch), signal, noise)
    return [LayerSnr(name, decibels(signal[name], noise[name])) for name in signal]


class _Running:
    """A model on a runtime, given batches that are filled up to its own."""

    def __init__(self, run: Callable[..., Array | tuple[Array, ...]], ports: tuple[Port, ...]) -> None:
        if len(ports) != 1:
            raise MismatchError(f"the model takes {len(ports)} inputs; compare such models' outputs from Python")
        self._run, self.ports = run, ports
        self.together = batch_of(ports[0].shape)

    def __call__(self, array: Array) -> tuple[Array, ...]:
        found = self._run(padded(array, self.together))
        return tuple(each[: len(array)] for each in (found if isinstance(found, tuple) else (found,)))


@contextmanager
def _running(archive: Archive, runtime: Runtime, device: str) -> Iterator[_Running]:
    if runtime == "opencl":
        from wcodec.infer.engine import Engine

        with Engine.open(archive, device, precision="float") as engine:
            yield _Running(engine, engine.inputs)
        return
    from wcodec.infer.fallback import Fallback

    elsewhere = Fallback(archive, runtime)
    yield _Running(elsewhere, elsewhere.inputs)


def batch_of(shape: tuple[int | str, ...]) -> int:
    """How many inputs run at once in a model that takes this shape."""
    first = shape[0] if shape else ""
    return first if isinstance(first, int) else _TOGETHER


def padded(array: Array, count: int) -> Array:
    """A batch filled up to a count with its last input."""
    return array if len(array) == count else np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)])


def _executor(source: OnnxSource, shapes: Mapping[str, tuple[int, ...]]) -> Reference:
    graph = lower(source, shapes)
    return Reference(graph, {name: source.numbers(constant) for name, constant in graph.constants.items()})


def _compare_layers(
    pair: tuple[Reference, Reference], array: Array, count: int, signal: dict[str, float], noise: dict[str, float]
) -> None:
    """Add the squares of outputs of the original's layers, and of the other's error, for the first `count` inputs."""
    import torch

    kept: dict[str, Tensor] = {}

    def keep(node: Node, result: Tensor) -> None:
        if isinstance(node.op, Convolution | Dense | MatMul):
            kept[node.output] = result[:count]

    def compare(node: Node, result: Tensor) -> None:
        before = kept.pop(node.output, None)
        if before is None:
            return
        name = node.name
        signal[name] = signal.get(name, 0.0) + float(before.double().square().sum())
        noise[name] = noise.get(name, 0.0) + float((result[:count].double() - before).square().sum())

    with torch.no_grad():
        for executor, watch in zip(pair, (keep, compare), strict=True):
            executor.run(dict.fromkeys(executor.graph.inputs, torch.from_numpy(array)), watch)
