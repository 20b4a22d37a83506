"""`wcodec decode`: an archive back into a model file."""

from __future__ import annotations

import click

import wcodec
from wcodec.cli.options import archive_source, workers_option
from wcodec.cli.output import progress_bar


@click.command(short_help="decode an archive into a model file")
@click.argument("source", metavar="SRC", type=click.Path())
@click.argument("target", metavar="DST", type=click.Path())
@workers_option
def command(source: str, target: str, workers: int | None) -> None:
    """Decode the archive SRC (a path, a URL, or - for stdin) into the model file DST.

    The suffix of DST names the format: .safetensors, .pt, .pth, .bin (PyTorch), .npz, and .onnx
    where the archive holds a graph.
    """
    with progress_bar("decoding") as progress:
        wcodec.decode(archive_source(source), target, workers=workers, progress=progress)
    click.echo(f"{source} -> {target}")
