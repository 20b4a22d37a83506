"""Other runtimes for the same nets, each on as many threads as there are cores. Their packages may be missing."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.infer_nets import MISREAD, REAL, Subject
from wcodec.model import Array

THREADS = os.cpu_count() or 1

_AGREES = 0.02
"""Relative L2 error up to which a peer's result is taken for that of the same net."""

_CONVERTING_SECONDS = 300

Runner = Callable[[Array], list[Array]]


class NotMeasured(Exception):
    """Why a peer does not run a net, in a few words."""


def onnx_runtime(subject: Subject) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    without = [*MISREAD.get(subject.net, ())]
    session = onnxruntime.InferenceSession(
        str(subject.onnx), options, providers=["CPUExecutionProvider"], disabled_optimizers=without
    )
    [port] = session.get_inputs()

    def run(image: Array) -> list[Array]:
        found: list[Array] = session.run(None, {port.name: image})
        return found

    return run


def torch(subject: Subject) -> Runner:
    """The net as torch runs it, with the weights that were encoded: those that were decoded take as long."""
    import torch

    from tests import zoo_nets

    if subject.net == REAL:
        raise NotMeasured("no such module")
    torch.set_num_threads(THREADS)
    module = zoo_nets.ready(subject.net)

    def run(image: Array) -> list[Array]:
        with torch.inference_mode():
            found = module(torch.from_numpy(image))
        return [output.numpy() for output in (found if isinstance(found, tuple) else (found,))]

    return run


def openvino(subject: Subject) -> Runner:
    """In floats: of itself it would compute in bfloat16 where the processor can, with errors of a few percent."""
    import openvino

    core = openvino.Core()
    model = core.read_model(str(subject.onnx))
    model.reshape(list(subject.photos[0].shape))
    options = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(model, "CPU", options)

    def run(image: Array) -> list[Array]:
        return [np.asarray(value) for value in compiled(image).values()]

    return run


def ncnn(subject: Subject) -> Runner:
    """From the ONNX file by pnnx, which the package of this name brings along."""
    import ncnn

    parameters, weights = _converted(subject)
    net = ncnn.Net()
    net.opt.num_threads = THREADS
    if net.load_param(str(parameters)) or net.load_model(str(weights)):
        raise NotMeasured("not loaded")
    [given], wanted = net.input_names(), sorted(net.output_names())

    def run(image: Array) -> list[Array]:
        extractor = net.create_extractor()
        extractor.input(given, ncnn.Mat(image[0]))
        results = [extractor.extract(name) for name in wanted]
        if any(status for status, _ in results):
            raise NotMeasured("does not run")
        return [np.array(mat)[None] for _, mat in results]

    return run


def _converted(subject: Subject) -> list[Path]:
    """ncnn's files of a net, its graph and its weights, made where they are not there yet."""
    import pnnx

    paths = [subject.onnx.with_name(f"{subject.net}.ncnn.{kind}") for kind in ("param", "bin")]
    if all(path.exists() for path in paths):
        return paths
    # it writes much else, all of it beside its source
    with tempfile.TemporaryDirectory(dir=subject.onnx.parent) as name:
        source = Path(name) / f"{subject.net}.onnx"
        source.symlink_to(subject.onnx.resolve())
        shape = ",".join(map(str, subject.photos[0].shape))
        command = [pnnx.EXEC_PATH, str(source), f"inputshape=[{shape}]f32", "fp16=0"]
        try:
            subprocess.run(command, cwd=name, capture_output=True, check=True, timeout=_CONVERTING_SECONDS)
            for path in paths:
                source.with_name(path.name).replace(path)
        except (OSError, subprocess.SubprocessError) as error:
            raise NotMeasured("not converted") from error
    return paths


PEERS: dict[str, Callable[[Subject], Runner]] = {
    "ONNX Runtime": onnx_runtime,
    "torch": torch,
    "OpenVINO": openvino,
    "ncnn": ncnn,
}
"""The first is what the others are checked against."""


def opened_peers(subject: Subject) -> tuple[dict[str, Runner], dict[str, str]]:
    """The peers that run a net, and of the others why they do not."""
    running: dict[str, Runner] = {}
    reasons: dict[str, str] = {}
    wanted: list[Array] = []
    for name, make in PEERS.items():
        try:
            runner = make(subject)
            found = runner(subject.photos[0])
        except ImportError:
            reasons[name] = "not installed"
        except NotMeasured as reason:
            reasons[name] = str(reason)
        else:
            wanted = wanted or found
            # torch has the weights before they were quantized
            if name == "torch" or _agrees(found, wanted):
                running[name] = runner
            else:
                reasons[name] = "wrong result"
    return running, reasons


def _agrees(found: Sequence[Array], wanted: Sequence[Array]) -> bool:
    shapes = [[array.size for array in arrays] for arrays in (found, wanted)]
    return shapes[0] == shapes[1] and distance(found, wanted) < _AGREES


def distance(found: Sequence[Array], wanted: Sequence[Array]) -> float:
    """The relative L2 error of the output whose error is the largest."""
    return max(_relative(*pair) for pair in zip(found, wanted, strict=True))


def _relative(found: Array, wanted: Array) -> float:
    difference: Any = found.astype(np.float64).reshape(-1) - wanted.reshape(-1)
    return float(np.linalg.norm(difference) / max(float(np.linalg.norm(wanted)), 1e-30))
