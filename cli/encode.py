"""`wcodec encode`: a model file into an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import click
from click.core import ParameterSource

import wcodec
import wcodec.transforms
from wcodec.cli.options import (
    CODER_NAMES,
    archive_target,
    json_option,
    level_option,
    shard_size_option,
    workers_option,
    written_path,
)
from wcodec.cli.output import fidelity_text, human_bytes, print_json, progress_bar
from wcodec.cli.planning import (
    REPLACED,
    Planning,
    planning_options,
    sweep_to,
    take_planning,
    tell_skipped,
    tell_tried,
)
from wcodec.cli.preprocessing import check_described, preprocessing_options, take_metadata
from wcodec.cli.tables import print_archive
from wcodec.infer.preprocess import preprocessing_of
from wcodec.policy import Granularity
from wcodec.report import describe
from wcodec.scales import Fit
from wcodec.writing import check_different

_ONLY_WITH: dict[str, tuple[str, Callable[[dict[str, Any]], bool]]] = {
    "as_json": ("a file to report on", lambda chosen: chosen["target"] != "-"),
    "group_size": ("--per group", lambda chosen: chosen["per"] == "group"),
    "axis": ("--per channel or group", lambda chosen: chosen["per"] != "tensor"),
    **{
        option: ("quantization, which --lossless leaves out", lambda chosen: not chosen["lossless"])
        for option in ("bits", "asymmetric", "per", "fit", "min_size", "keep", "quantize", "lossless_nonfinite")
    },
}
"""Options that others make pointless: what they need, and whether it is so."""


@click.command(short_help="encode a model into an archive")
@click.argument("source", metavar="SRC", type=click.Path())
@click.argument("target", metavar="DST", type=click.Path())
@click.option(
    "--coder",
    type=click.Choice(CODER_NAMES),
    default="auto",
    show_default=True,
    help="How symbols become bytes; auto takes the smallest lossless coder, tensor by tensor.",
)
@click.option("--bits", type=click.IntRange(2, 16), default=8, show_default=True, help="Bits of a symbol.")
@click.option("--qp", type=int, help="Make a video coder lossy: its quantizer, larger is smaller and worse.")
@click.option("--lossless", is_flag=True, help="Quantize nothing: every tensor comes back bit for bit.")
@click.option("--asymmetric", is_flag=True, help="Symbols from 0 up, with a zero point for every scale.")
@click.option(
    "--per",
    type=click.Choice(get_args(Granularity)),
    default="channel",
    show_default=True,
    help="What a scale serves: a tensor, an output channel, or a group of inputs of one.",
)
@click.option("--axis", type=int, help="Axis of channels or groups. [default: as the model tells]")
@click.option("--group-size", type=click.IntRange(min=2), default=32, show_default=True, help="Inputs in a group.")
@click.option(
    "--fit",
    type=click.Choice(get_args(Fit)),
    default="max",
    show_default=True,
    help="Scales that reach the largest weight, or of least squared error: better below 6 bits.",
)
@click.option(
    "--min-size",
    type=click.IntRange(min=0),
    default=1024,
    show_default=True,
    help="Elements below which a tensor is kept as it is.",
)
@click.option("--keep", multiple=True, metavar="GLOB", help="Keep tensors of such names as they are. Repeatable.")
@click.option("--quantize", multiple=True, metavar="GLOB", help="Quantize float tensors of such names. Repeatable.")
@click.option("--fold", is_flag=True, help="First take norms into the weights of the layers before them (ONNX).")
@click.option("--lossless-nonfinite", is_flag=True, help="Keep tensors that hold NaN or infinity, instead of failing.")
@planning_options
@preprocessing_options
@click.option("--detector", metavar="FILE.json|KIND", help="What the outputs of a detector mean, such as yolov8.")
@level_option
@shard_size_option
@workers_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    source: str,
    target: str,
    shard_size: int | None,
    workers: int | None,
    as_json: bool,
    fold: bool,
    **chosen: Any,
) -> None:
    """Encode the model file SRC (.onnx, .safetensors, .pt, .pth, .bin, .npz) into the archive DST.

    Float tensors of two or more axes and at least --min-size elements that are multiplied with are quantized; the
    rest, such as biases, norms and anchors, and every integer tensor, comes back bit for bit. SRC may be the
    .safetensors.index.json of shards, DST - for stdout.

    With --fidelity, --target-bpw or --target-size, an ONNX model is run on the pictures of --calibrate to find out
    which weights matter, and each gets as many bits as its errors do harm.

    Options from --mean to --detector are stored beside the weights for `wcodec run`.
    """
    _refuse_pointless(context, {**chosen, "target": target})
    planning = take_planning(chosen)
    if planning is not None:
        _refuse_replaced(context)
    metadata = take_metadata(chosen)
    policy = wcodec.Policy(symmetric=not chosen.pop("asymmetric"), **chosen)
    try:
        with _opened(source, target, shard_size, fold=fold) as model, progress_bar("encoding") as progress:
            if metadata:
                check_described(metadata, model.graph)
            how: dict[str, Any] = {
                "metadata": metadata,
                "shard_size": shard_size,
                "workers": workers,
                "progress": progress,
            }
            if planning is not None and planning.sweep:
                sweep_to(model, target, policy, planning, metadata, as_json=as_json)
                return
            if planning is None:
                wcodec.encode(model, archive_target(target), policy, **how)
            else:
                _encode_planned(model, target, policy, planning, how)
    except wcodec.NonFiniteError as error:
        raise wcodec.NonFiniteError(f"{error} (--lossless-nonfinite)") from error
    if target == "-":
        return
    written = written_path(target, shard_size)
    with wcodec.open(written) as archive:
        report = describe(archive)
    if as_json:
        print_json(report)
        return
    print_archive(report)
    if text := fidelity_text(report.fidelity):
        click.echo(text)
    click.echo(f"{source} -> {written} {human_bytes(report.file_bytes)}")


def _encode_planned(
    model: wcodec.Model, target: str, policy: wcodec.Policy, planning: Planning, how: dict[str, Any]
) -> None:
    """Encode for a goal, write the plan where that is asked for, and tell what it does."""
    from wcodec.plan.encoding import encode_for

    goal = planning.goal()
    inputs = planning.inputs(preprocessing_of({**model.metadata, **how["metadata"]}))
    with progress_bar("planning", counts_bytes=False) as learning:
        made = encode_for(
            model, archive_target(target), goal, inputs, policy, learning=learning, tell=tell_tried, **how
        )
    if planning.plan_out is not None:
        made.plan.write(planning.plan_out)
    tell_skipped(made.skipped)


def _refuse_replaced(context: click.Context) -> None:
    for option in REPLACED:
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            name = option.replace("_", "-")
            raise wcodec.UsageError(f"--{name} is what a fidelity or a size decides about; leave it out")


@contextmanager
def _opened(source: str, target: str, shard_size: int | None, *, fold: bool) -> Iterator[wcodec.Model]:
    """What is to be encoded; `wcodec.encode` does not see its path, so whether it is the target's is found here."""
    check_different(source, target, shard_size)
    with wcodec.read_model(source) as model:
        yield wcodec.transforms.fold(model) if fold else model


def _refuse_pointless(context: click.Context, chosen: dict[str, Any]) -> None:
    for option, (need, is_met) in _ONLY_WITH.items():
        given = context.get_parameter_source(option) is ParameterSource.COMMANDLINE
        if given and not is_met(chosen):
            name = {"as_json": "json"}.get(option, option).replace("_", "-")
            raise wcodec.UsageError(f"--{name} does nothing without {need}; leave it out")
