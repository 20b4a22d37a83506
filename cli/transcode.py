"""`wcodec transcode`: an archive with the same symbols, coded otherwise."""

from __future__ import annotations

import click

import wcodec
from wcodec.cli.options import (
    CODER_NAMES,
    archive_source,
    archive_target,
    level_option,
    shard_size_option,
    workers_option,
    written_path,
)
from wcodec.cli.output import human_bytes, progress_bar
from wcodec.writing import check_different


@click.command(short_help="code an archive's symbols by another coder")
@click.argument("source", metavar="SRC", type=click.Path())
@click.argument("target", metavar="DST", type=click.Path())
@click.option("--coder", type=click.Choice(CODER_NAMES), required=True, help="How symbols are coded in DST.")
@level_option
@shard_size_option
@workers_option
def command(
    source: str, target: str, coder: str, level: int | None, shard_size: int | None, workers: int | None
) -> None:
    """Write the archive DST with the symbols of the archive SRC, coded losslessly by another coder.

    What DST decodes to is bit for bit what SRC decodes to. SRC may be a URL, or - for stdin; DST - for stdout.
    """
    check_different(source, target, shard_size)
    with progress_bar("transcoding") as progress, wcodec.open(archive_source(source), workers=workers) as archive:
        before = archive.file_bytes
        wcodec.transcode(
            archive,
            archive_target(target),
            coder,
            level=level,
            shard_size=shard_size,
            workers=workers,
            progress=progress,
        )
    if target != "-":
        written = written_path(target, shard_size)
        with wcodec.open(written) as archive:
            click.echo(f"{source} {human_bytes(before)} -> {written} {human_bytes(archive.file_bytes)}")
