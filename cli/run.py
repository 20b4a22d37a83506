"""`wcodec run`: what a model makes of pictures or arrays, run from its archive on a device."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import numpy as np
from click.core import ParameterSource

import wcodec
from wcodec.archive import Archive
from wcodec.cli.findings import (
    Classified,
    Detected,
    Failed,
    Raw,
    Report,
    best_classes,
    check_labels,
    class_scores,
    described,
    found_boxes,
    print_report,
    probabilities,
)
from wcodec.cli.options import archive_source, device_option, json_option, precision_option
from wcodec.cli.output import print_error, print_json, printable
from wcodec.cli.preprocessing import preprocessing_from, preprocessing_options, read_labels, take_given
from wcodec.errors import (
    AllocationError,
    DeviceError,
    InputError,
    MismatchError,
    MissingDependencyError,
    NonFiniteError,
    UnsupportedError,
    UsageError,
)
from wcodec.formats.atomic import atomic_file
from wcodec.infer.detect import Detection, Detector, class_count, detect, detector_of, draw
from wcodec.infer.preprocess import (
    Placement,
    Preprocessing,
    labels_of,
    prepare,
    preprocessing_of,
    read_array,
    read_picture,
)
from wcodec.model import Array
from wcodec.writing import check_different

if TYPE_CHECKING:
    from PIL.Image import Image

    from wcodec.infer.engine import Engine
    from wcodec.infer.fallback import Elsewhere, Fallback
    from wcodec.infer.forms.launch import Precision
    from wcodec.infer.weights import Resident


@dataclass(frozen=True)
class _Input:
    """What one file gives the engine: an array of `size` (height, width), and where in it the picture is, if any."""

    name: str
    array: Array
    size: tuple[int, int]
    placement: Placement
    picture: Image | None = None

    def row_names(self, count: int) -> list[str]:
        return [self.name] if count == 1 else [f"{self.name}[{row}]" for row in range(count)]


@dataclass(frozen=True)
class _Task:
    """What is to be done with every input, settled before a device is started."""

    how: Preprocessing | None
    layout: str
    detector: Detector | None
    labels: tuple[str, ...] | None
    top: int
    targets: Mapping[str, Path] = field(default_factory=dict)
    """Where each input's picture with boxes, or output, is written."""


@click.command(short_help="run a model on pictures or arrays")
@click.argument("source", metavar="SRC", type=click.Path())
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@device_option
@precision_option
@click.option(
    "--resident",
    type=click.Choice(("packed", "int8", "coded")),
    default="packed",
    show_default=True,
    help="Weights on the device: as kernels read them, as symbols of 8 bits, or coded until their layer runs.",
)
@click.option(
    "--fallback",
    type=click.Choice(("torch", "onnxruntime")),
    help="Run elsewhere where no device does: torch, what devices could; onnxruntime, operators unknown to them too.",
)
@click.option("--check", is_flag=True, help="Look for NaN and infinities after every layer; mend what overflows.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to show.")
@preprocessing_options
@click.option("--score", type=click.FloatRange(0, 1), help="Least score of a box.")
@click.option("--iou", type=click.FloatRange(0, 1), help="Most that two boxes of a class may overlap.")
@click.option(
    "--out",
    type=click.Path(),
    metavar="FILE|FOLDER",
    help="Where to draw boxes (.png) [default: NAME.detected.png], or to save outputs (.npy) [default: nowhere].",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    source: str,
    inputs: tuple[str, ...],
    device: str,
    precision: Precision,
    resident: Resident,
    fallback: Elsewhere | None,
    check: bool,
    out: str | None,
    as_json: bool,
    **chosen: Any,
) -> int:
    """Run the model of the archive SRC (a path, a URL, or - for stdin) on each INPUT: a picture, or an .npy array.

    Prints the likeliest classes, the boxes of a detector, or what numbers came out. How pictures become the model's
    input `wcodec encode` stores; options from --mean to --iou go before what it stored. An array goes in as it is. Of
    several inputs, those that fail are told of, and the others done.
    """
    with wcodec.open(archive_source(source)) as archive:
        if not archive.has_graph:
            raise UnsupportedError(f"{source} holds weights only, no graph to run; encode the model from .onnx")
        given = take_given(chosen)
        task = _settle(archive.metadata, given, source, inputs, out, chosen)
        _refuse_pointless(context, task, given, inputs, chosen)
        how = {"device": device, "precision": precision, "resident": resident}
        with _opened(archive, fallback, how) as engine:
            if len(engine.inputs) != 1:
                raise UnsupportedError(f"{source}: the model takes {len(engine.inputs)} inputs; run it from Python")
            names = [port.name for port in engine.outputs]
            run = partial(_checked, engine) if check else engine
            reports: list[Report | Failed] = []
            code = 0
            for path in inputs:
                try:
                    found = _run(path, run, names, task)
                except (InputError, MismatchError, NonFiniteError) as error:
                    if len(inputs) == 1:
                        raise
                    print_error(str(error))
                    code = code or error.exit_code
                    reports.append(Failed(path, str(error)))
                    continue
                for report in found:
                    if not as_json:
                        print_report(report, first=not reports)
                    reports.append(report)
    if as_json:
        print_json(reports)
    return code


def _settle(
    metadata: Mapping[str, str],
    given: Mapping[str, Any],
    source: str,
    inputs: Sequence[str],
    out: str | None,
    chosen: Mapping[str, Any],
) -> _Task:
    """The task of a command line: options go before what the archive says."""
    detector = detector_of(metadata)
    if detector is not None:
        thresholds = {name: chosen[name] for name in ("score", "iou") if chosen[name] is not None}
        detector = msgspec.structs.replace(detector, **thresholds)
    labels = read_labels(chosen["labels"]) if chosen["labels"] else labels_of(metadata)
    pictures = [path for path in inputs if not _is_array(path)]
    how = preprocessing_from(metadata, given, source) if pictures else preprocessing_of(metadata)
    layout = given.get("layout") or (how.layout if how else "NCHW")
    targets: dict[str, Path] = {}
    if detector is not None and not (out or "").endswith(".npy"):
        targets = _targets(out or ".", pictures, ".detected.png")
    elif out:
        targets = _targets(out, inputs, ".npy")
    for target in targets.values():
        for path in (source, *inputs):
            check_different(path, target)
    return _Task(how, layout, detector, labels, chosen["top"], targets)


def _refuse_pointless(
    context: click.Context, task: _Task, given: Mapping[str, Any], inputs: Sequence[str], chosen: Mapping[str, Any]
) -> None:
    """`UsageError` for an option that this task has no use for."""
    top_given, out_given = (
        context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in ("top", "out")
    )
    thresholds = [name for name in ("score", "iou") if chosen[name] is not None]
    of_pictures = [name for name in given if name not in ("layout", "crop_ratio")]
    only_arrays = all(map(_is_array, inputs))
    needs = (
        ("a detector", task.detector is not None, thresholds),
        ("a classifier", task.detector is None, ["top"] if top_given else []),
        ("a picture", not only_arrays, [*of_pictures, *(["out"] if out_given and not task.targets else [])]),
    )
    for need, is_met, options in needs:
        for option in options if not is_met else ():
            raise UsageError(f"--{option} does nothing without {need}; leave it out")


def _is_array(path: str) -> bool:
    return path.lower().endswith(".npy")


def _targets(out: str, inputs: Sequence[str], ending: str) -> dict[str, Path]:
    """The file of every input: `out` itself, or one in the folder `out`. `UsageError` where two would be the same."""
    if not Path(out).is_dir():
        if len(inputs) > 1:
            raise UsageError(
                f"--out {out}: one file does not hold the results of {len(inputs)} inputs; give a folder that exists"
            )
        suffix = ending[ending.rindex(".") :]
        if inputs and not out.endswith(suffix):
            raise UsageError(f"--out {out}: such results go into a {suffix} file, or a folder that exists")
        return {path: Path(out) for path in inputs}
    targets = {path: Path(out) / (Path(path).stem + ending) for path in inputs}
    taken: dict[Path, str] = {}
    for path, target in targets.items():
        if target in taken:
            raise UsageError(f"{path} and {taken[target]} would both be written to {target}; run them one by one")
        taken[target] = path
    return targets


def _input(path: str, task: _Task) -> _Input:
    if not _is_array(path):
        assert task.how is not None
        picture = read_picture(path)
        array, placement = prepare(picture, task.how)
        return _Input(path, array, task.how.size, placement, picture)
    array = read_array(path)
    height, width = 1, 1
    if array.ndim == 4:
        height, width = array.shape[2:] if task.layout == "NCHW" else array.shape[1:3]
    return _Input(path, array, (height, width), Placement(width, height, (1.0, 1.0), (0.0, 0.0)))


@contextmanager
def _opened(archive: Archive, fallback: Elsewhere | None, how: dict[str, Any]) -> Iterator[Engine | Fallback]:
    """The engine, or where it does not do, what runs elsewhere."""
    from wcodec.infer.engine import Engine

    try:
        engine = Engine.open(archive, **how)
    except (AllocationError, DeviceError, MissingDependencyError, UnsupportedError) as error:
        if fallback is None:
            raise
        if fallback == "torch" and isinstance(error, UnsupportedError):
            raise UnsupportedError(f"{error}; torch does not run it either, --fallback onnxruntime may") from error
        from wcodec.infer.fallback import Fallback

        why, *_ = str(error).partition("; these are: ")
        click.echo(f"{why}; running on {fallback} instead", err=True)
        yield Fallback(archive, fallback)
        return
    with engine:
        yield engine


def _checked(engine: Engine | Fallback, array: Array) -> Any:
    """What the engine gives for an array, once it has been checked layer by layer; elsewhere there are only floats."""
    for name in getattr(engine, "check", lambda _: ())(array):
        click.echo(f"layer {printable(name)}: too large for halves, kept as floats", err=True)
    return engine(array)


def _check_finite(path: str, names: Sequence[str], outputs: Sequence[Array]) -> None:
    """`NonFiniteError` for results that are no numbers."""
    for name, array in zip(names, outputs, strict=True):
        bad = int(np.count_nonzero(~np.isfinite(array)))
        if bad:
            raise NonFiniteError(
                f"{path}: {bad} of {array.size} numbers of output {name!r} are NaN or infinite; "
                "--check finds the layer, and mends it where halves are too small; --precision float has none"
            )


def _run(path: str, engine: Callable[[Array], Any], names: Sequence[str], task: _Task) -> list[Report]:
    """The reports of one input, one for every row of its batch."""
    fed = _input(path, task)
    result = engine(fed.array)
    outputs = tuple(np.asarray(array) for array in (result if isinstance(result, tuple) else (result,)))
    scores = None if task.detector else class_scores(outputs, task.labels)
    if task.detector is not None or scores is not None:
        _check_finite(path, names, outputs)
    target = task.targets.get(path)
    saved = _save_arrays(target, outputs, task.targets) if target is not None and target.suffix == ".npy" else []
    if task.detector is not None:
        return list(_detected(fed, outputs, task, task.detector, saved))
    if scores is None:
        return [Raw(path, [described(name, array) for name, array in zip(names, outputs, strict=True)], saved)]
    rows = fed.row_names(len(scores))
    return [
        Classified(name, best_classes(odds, task.labels, task.top), saved)
        for name, odds in zip(rows, probabilities(scores), strict=True)
    ]


def _detected(
    fed: _Input, outputs: Sequence[Array], task: _Task, detector: Detector, saved: list[str]
) -> Iterator[Detected]:
    if fed.array.ndim != 4:
        raise MismatchError(f"{fed.name}: a detector takes arrays of four axes, not {fed.array.ndim}")
    target = task.targets.get(fed.name)
    for row, name in enumerate(fed.row_names(len(fed.array))):
        rows = [array[row : row + 1] for array in outputs]
        check_labels(task.labels, class_count(rows, detector))
        found = detect(rows, detector, fed.size, fed.placement)
        if fed.picture is not None and target is not None and target.suffix != ".npy":
            _save_drawn(fed.picture, found, task.labels, target)
            saved = [str(target)]
        yield Detected(name, found_boxes(found, task.labels), saved)


def _save_arrays(target: Path, outputs: Sequence[Array], inputs: Collection[str]) -> list[str]:
    """Writes x.npy, or x.0.npy, x.1.npy, ... for several outputs; `UsageError` where that is one of the inputs."""
    several = [target.with_suffix(f".{number}.npy") for number in range(len(outputs))]
    files = [target] if len(outputs) == 1 else several
    for file, array in zip(files, outputs, strict=True):
        for path in inputs:
            check_different(path, file)
        with atomic_file(file) as stream:
            np.save(stream, array, allow_pickle=False)
    return [str(file) for file in files]


def _save_drawn(picture: Image, found: Sequence[Detection], labels: tuple[str, ...] | None, target: Path) -> None:
    content = io.BytesIO()
    draw(picture, found, labels).save(content, "PNG")
    with atomic_file(target) as stream:
        stream.write(content.getbuffer())
