"""What outputs lose against bits per weight, by every coder and method, on photos that nothing was learnt from.

    python -m bench.rate_distortion [--update docs/benchmarks.md] [--net efficientnet_lite0 vgg16 digits]

Calibrated on every second photo of scikit-image and scikit-learn, measured on crops of the others. The figures of the
MPEG NNC coder were taken on the same crops with its package nncodec 2.1.3; they are recorded here, not taken again.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import skimage
import sklearn
import torch
from numpy.typing import NDArray
from PIL import Image

import wcodec
from bench.report import machine, table, update
from tests import zoo
from tests.support import exported
from tests.support.trained import digits_onnx, vgg16_features
from wcodec.evaluate import Fidelity, fidelity
from wcodec.infer.evaluation import lossless
from wcodec.infer.inputs import Inputs
from wcodec.infer.preprocess import Preprocessing
from wcodec.model import Array
from wcodec.plan.curves import draw
from wcodec.plan.known import dequantized
from wcodec.plan.plan import Choice, Plan
from wcodec.plan.planner import Planner
from wcodec.plan.samples import Samples
from wcodec.plan.sweep import bits_per_weight, per_channel
from wcodec.plan.targets import for_fidelity, with_video

CODERS = ("rans", "zstd", "hevc", "ffv1")
"""Whose sizes of a plan are given; what is decoded is the same by all of them."""

LOSSY = ("auto", "hevc", "av1")
"""Coders that may take tensors with loss, where that is smaller at no more damage."""

NNCODEC: dict[str, dict[str, list[tuple[float, float]]]] = {
    "efficientnet_lite0": {
        "nncodec": [(6.69, 0.0056), (5.66, 0.0202), (4.65, 0.138)],
        "nncodec, opt_qp": [(6.45, 0.0055), (5.55, 0.0119), (4.82, 0.0345), (3.98, 0.102)],
    },
    "vgg16": {
        "nncodec": [(2.785, 21.3), (1.944, 15.4), (1.260, 8.5)],
        "nncodec, opt_qp": [(1.973, 15.1), (1.430, 9.8)],
    },
}
"""Bits per weight, and divergence in nats or decibels."""


@dataclass(frozen=True)
class Subject:
    """A model, what it learns from, and what it is measured on: inputs, and labels where there are."""

    name: str
    path: Path
    how: Preprocessing | None
    inputs: Path | list[Array]
    measured: Array
    truth: Array | None
    targets: tuple[float, ...]
    bits: tuple[int, ...] = (8, 6, 5, 4)


def photos() -> list[Path]:
    """Of the two wheels, by path."""
    folders = Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets" / "images"
    return [Path(name) for name in sorted(str(p) for p in [*folders[0].glob("*.[pj]*g"), *folders[1].glob("*.jpg")])]


def crops(files: Sequence[Path], per_photo: int, size: int) -> NDArray[np.float32]:
    """Random square crops, half to all of the shorter side, in 0 to 255: shape (n, size, size, 3)."""
    rng, found = np.random.default_rng(2), []
    for file in files:
        image = Image.open(file).convert("RGB")
        for _ in range(per_photo):
            side = rng.uniform(0.5, 1) * min(image.size)
            x, y = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
            cut = image.crop((int(x), int(y), int(x + side), int(y + side)))
            found.append(np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC), np.float32))
    return np.stack(found)


def subjects(folder: Path, names: Sequence[str]) -> Iterator[Subject]:
    learnt, others = folder / "photos", photos()[1::2]
    learnt.mkdir()
    for file in photos()[::2]:
        (learnt / file.name).write_bytes(file.read_bytes())
    if "efficientnet_lite0" in names:
        how = Preprocessing(mean=(127.0,), scale=(1 / 128,), size=(224, 224))
        measured = np.ascontiguousarray((crops(others, 12, 224).transpose(0, 3, 1, 2) - 127) / 128)
        path = exported.exported("efficientnet_lite0", folder)
        yield Subject("efficientnet_lite0", path, how, learnt, measured, None, (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08))
    if "vgg16" in names:
        how = Preprocessing(mean=(0.0,), scale=(1 / 255,), size=(240, 240), layout="NHWC")
        path = vgg16_features(folder)
        yield Subject("vgg16", path, how, learnt, crops(others, 6, 240) / 255, None, (21.3, 15.4, 12.0), (5, 4, 3))
    if "digits" in names:
        training, testing = zoo.digits()
        for name in zoo.DIGITS:
            path = digits_onnx(zoo.train_digits(name), folder / f"digits_{name}.onnx")
            arrays = [training.images.numpy()]
            truth = testing.labels.numpy()
            yield Subject(
                f"digits_{name}", path, None, arrays, testing.images.numpy(), truth, (0.001, 0.003, 0.01, 0.1)
            )


@dataclass(frozen=True)
class Row:
    """One way at one rate, by what was promised, if it was, and what came of it."""

    method: str
    bpw: float
    promised: float | None
    found: Fidelity
    accuracy: float | None


def measured(planner: Planner, subject: Subject) -> Callable[[dict[str, Array]], tuple[Fidelity, float | None]]:
    before = planner.network.run(subject.measured)[0]

    def measure(weights: dict[str, Array]) -> tuple[Fidelity, float | None]:
        after = planner.network.run(subject.measured, weights)[0]
        right = None if subject.truth is None else float((after.argmax(1) == subject.truth).mean())
        return fidelity(before, after), right

    return measure


def rows_of(subject: Subject, planner: Planner, model: wcodec.Model) -> tuple[list[Row], float]:
    """All rows, and the seconds that the first search took."""
    measure, rows, seconds = measured(planner, subject), [], 0.0
    for target in subject.targets:
        began = time.perf_counter()
        planned = for_fidelity(planner, target, "rans", lambda line: None)
        ready = planner.ready(planned.plan)
        seconds = seconds or time.perf_counter() - began
        found = measure({name: dequantized(one.quantized) for name, one in ready.items()})
        promised = planned.fidelity.snr_db if planned.fidelity.kl is None else planned.fidelity.kl
        for coder in CODERS:
            coded = {name: replace(one, coder=coder) for name, one in ready.items()}
            rows.append(Row(f"planned, {coder}", bits_per_weight(model, coded), promised, *found))
        for coder in LOSSY:
            plan = Plan(tensors={name: Choice(one.step, coder) for name, one in planned.plan.tensors.items()})
            video = with_video(planner, replace(planned, plan=plan), lambda line: None).plan
            if any(choice.qp is not None for choice in video.tensors.values()):
                bits = bits_per_weight(model, planner.ready(video))
                rows.append(Row(f"planned, {coder} with loss", bits, promised, *measure(planner.decoded(video))))
    for bits in subject.bits:
        plain = per_channel(planner, model, bits, "rans")
        found = measure({name: dequantized(one.quantized) for name, one in plain.items()})
        rows.append(Row("per channel, rans", bits_per_weight(model, plain), None, *found))
    return rows, seconds


def report(subject: Subject, images: Path | None) -> str:
    began = time.perf_counter()
    with wcodec.read_model(subject.path) as model, lossless(model) as archive:
        samples = Samples.of(Inputs(subject.inputs, subject.how))
        prior = Samples.synthetic(samples.shape, subject.how)
        planner = Planner(model, archive, wcodec.Policy(), samples, prior)
        learning = time.perf_counter() - began
        rows, searching = rows_of(subject, planner, model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        value = row.found.snr_db if row.found.kl is None else row.found.kl
        curves.setdefault(row.method, []).append((row.bpw, value))
    if images is not None:
        by_divergence = rows[0].found.kl is not None
        draw(
            curves,
            images / f"{subject.name}.png",
            title=subject.name,
            shown="KL divergence, nats" if by_divergence else "signal to noise of outputs, dB",
            logarithmic=by_divergence,
            others=NNCODEC.get(subject.name),
        )
        if subject.truth is not None:
            right: dict[str, list[tuple[float, float]]] = {}
            for row in rows:
                right.setdefault(row.method, []).append((row.bpw, 100 * (row.accuracy or 0)))
            path = images / f"{subject.name}_accuracy.png"
            draw(right, path, title=subject.name, shown="right of 500 digits, %")
    head = ("method", "bpw", "promised", "found", "same first class", "right")
    text = table(head, [_cells(row) for row in rows])
    took = f"Learning and judging took {learning:.0f} s, finding a plan {searching:.0f} s more"
    return f"### {subject.name}\n\n{text}\n\n{took}, in {peak:.1f} GB at most.\n"


def _cells(row: Row) -> list[str]:
    shown: Callable[[float], str] = "{:.1f} dB".format if row.found.kl is None else "{:.4f}".format
    value = row.found.kl if row.found.kl is not None else row.found.snr_db
    return [
        row.method,
        f"{row.bpw:.3f}",
        "" if row.promised is None else shown(row.promised),
        shown(value),
        "" if row.found.top1 is None else f"{row.found.top1:.1%}",
        "" if row.accuracy is None else f"{row.accuracy:.1%}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", type=Path)
    parser.add_argument("--net", nargs="+", default=["efficientnet_lite0", "digits", "vgg16"])
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    images = None if arguments.update is None else arguments.update.parent / "images"
    if images is not None:
        images.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WCODEC_CACHE_DIR"] = str(Path(folder) / "cache")  # nothing is known beforehand
        for subject in subjects(Path(folder), arguments.net):
            text = report(subject, images)
            print(text, flush=True)
            if arguments.update is not None:
                update(arguments.update, f"rate-distortion {subject.name}", f"{machine()}\n\n{text}")


if __name__ == "__main__":
    main()
