"""`wcodec eval`: how far an archive's model is from its original, on pictures or arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

import wcodec
from wcodec.cli.options import archive_source, device_option, json_option
from wcodec.cli.output import print_json, print_table, printable, progress_bar
from wcodec.cli.preprocessing import preprocessing_from, preprocessing_options, read_labels, take_given
from wcodec.errors import UsageError
from wcodec.evaluate import Fidelity
from wcodec.infer.classes import by_file, by_folder
from wcodec.infer.inputs import Inputs
from wcodec.infer.preprocess import labels_of, preprocessing_of

if TYPE_CHECKING:
    from wcodec.archive import Archive
    from wcodec.infer.evaluation import LayerSnr, Runtime


@dataclass(frozen=True)
class _Report:
    """What is printed as JSON."""

    fidelity: Fidelity
    layers: list[LayerSnr] | None
    skipped: dict[str, str]


@click.command(short_help="compare a model with its original on pictures")
@click.argument("source", metavar="SRC", type=click.Path())
@click.option("--reference", required=True, type=click.Path(exists=True), metavar="MODEL", help="The original.")
@click.option(
    "--images",
    required=True,
    type=click.Path(exists=True),
    metavar="FOLDER|FILE",
    help="Pictures, in folders too, or an .npy array of inputs.",
)
@click.option(
    "--truth",
    metavar="folders|FILE",
    help='True classes: "folders" that pictures are in, or a file of lines "name,class".',
)
@click.option(
    "--runtime",
    type=click.Choice(("opencl", "torch", "onnxruntime")),
    default="opencl",
    show_default=True,
    help="What runs both models.",
)
@device_option
@click.option("--layers", is_flag=True, help="Tell of each layer too, by torch.")
@preprocessing_options
@json_option
def command(
    source: str,
    reference: str,
    images: str,
    truth: str | None,
    runtime: Runtime,
    device: str,
    layers: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Run the model of the archive SRC and its original, a model file or another archive, on the same pictures.

    Tells the Kullback-Leibler divergence of classes, how often both name the same first, and the signal-to-noise ratio
    of outputs; with --truth, how often each is right. Pictures that cannot be read are named and left out.
    """
    from wcodec.infer.evaluation import evaluate, layer_snr, original

    with wcodec.open(archive_source(source)) as archive, original(reference) as before:
        given = take_given(chosen)
        labels = read_labels(chosen["labels"]) if chosen["labels"] else labels_of(archive.metadata)
        is_array = images.lower().endswith(".npy")
        how = preprocessing_of(archive.metadata) if is_array else preprocessing_from(archive.metadata, given, source)
        if is_array and given:
            raise UsageError(f"--{next(iter(given))} does nothing without a picture; leave it out")
        inputs = Inputs(images, how)
        classes = None if truth is None else _truth(truth, inputs, labels, archive)
        with progress_bar("comparing", counts_bytes=False) as progress:
            found = evaluate(archive, before, inputs, runtime=runtime, device=device, truth=classes, progress=progress)
        each = layer_snr(archive, before, inputs) if layers else None
    for message in inputs.skipped.values():
        click.echo(f"left out: {printable(message)}", err=True)
    if as_json:
        print_json(_Report(found, each, inputs.skipped))
        return
    if each is not None:
        print_table(("layer", ">SNR dB"), [(layer.name, f"{layer.snr_db:.2f}") for layer in each])
    for line in _lines(found):
        click.echo(line)


def _truth(truth: str, inputs: Inputs, labels: tuple[str, ...] | None, archive: Archive) -> Mapping[str, int]:
    from wcodec.infer.lowering.source import declared_classes

    classes = declared_classes(archive.graph() or b"") or len(labels or ())
    if truth == "folders":
        return by_folder(inputs.names, labels, classes)
    return by_file(truth, labels, classes)


def _lines(found: Fidelity) -> list[str]:
    """A fidelity in words."""
    lines = [f"{found.inputs} inputs: outputs at {found.snr_db:.1f} dB"]
    if found.kl is not None and found.top1 is not None and found.top5 is not None:
        lines[0] += f", KL divergence {found.kl:.4f} nats"
        lines.append(f"the same first class on {found.top1:.1%}, among the first five on {found.top5:.1%}")
    if found.accuracy is not None and found.original_accuracy is not None:
        lines.append(f"right on {found.accuracy:.1%}, the original on {found.original_accuracy:.1%}")
    return lines
