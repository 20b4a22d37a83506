"""`wcodec encode`: a model file into an archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import wcodec
from wcodec.cli.options import (
    CODER_NAMES,
    archive_target,
    json_option,
    level_option,
    shard_size_option,
    workers_option,
)
from wcodec.cli.output import human_bytes, print_json, progress_bar
from wcodec.cli.tables import print_archive
from wcodec.report import describe


@click.command(short_help="encode a model into an archive")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option(
    "--coder", type=click.Choice(CODER_NAMES), default="auto", show_default=True, help="How symbols are coded."
)
@click.option("--bits", type=click.IntRange(2, 16), default=8, show_default=True, help="Bits of a symbol.")
@click.option("--qp", type=int, help="Quantizer of a lossy video coder; larger is smaller. [default: lossless]")
@click.option("--lossless", is_flag=True, help="Quantize nothing: every tensor comes back bit for bit.")
@click.option("--asymmetric", is_flag=True, help="Symbols from 0 up, with a zero point for every scale.")
@click.option(
    "--per",
    type=click.Choice(["tensor", "channel", "group"]),
    default="channel",
    show_default=True,
    help="What one scale serves.",
)
@click.option("--axis", type=int, help="Axis of channels or groups. [default: output channels; groups: inputs]")
@click.option("--group-size", type=click.IntRange(min=2), default=32, show_default=True, help="With --per group.")
@click.option(
    "--fit", type=click.Choice(["max", "mse"]), default="max", show_default=True, help="How scales are found."
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
@click.option("--lossless-nonfinite", is_flag=True, help="Keep tensors that hold NaN or infinity, instead of failing.")
@level_option
@shard_size_option
@workers_option
@json_option
def command(
    source: str, target: str, shard_size: int | None, workers: int | None, as_json: bool, **chosen: Any
) -> None:
    """Encode the model file SRC (.onnx, .safetensors, .pt, .pth, .npz) into the archive DST.

    Float tensors of two or more axes and at least --min-size elements are quantized; the rest, such as biases and
    norms, and every integer tensor, comes back bit for bit. DST may be - for stdout.
    """
    policy = wcodec.Policy(
        symmetric=not chosen.pop("asymmetric"),
        **chosen,
    )
    with progress_bar("encoding") as progress:
        wcodec.encode(source, archive_target(target), policy, shard_size=shard_size, workers=workers, progress=progress)
    if target == "-":
        return
    written = target if shard_size is None else target.removesuffix(".wcodec") + ".wcodec.index.json"
    with wcodec.open(written) as archive:
        report = describe(archive)
    if as_json:
        print_json(report)
        return
    print_archive(report)
    before = Path(source).stat().st_size
    click.echo(f"{source} {human_bytes(before)} -> {target} {human_bytes(report.file_bytes)}")
