"""`wcodec verify`: whether an archive is whole."""

from __future__ import annotations

import click

import wcodec
from wcodec.cli.options import archive_source, json_option, workers_option
from wcodec.cli.output import counted, human_bytes, print_json, printable, progress_bar
from wcodec.errors import InputError


@click.command(short_help="check that an archive is whole")
@click.argument("source", metavar="SRC", type=click.Path())
@workers_option
@json_option
def command(source: str, workers: int | None, as_json: bool) -> int:
    """Check every byte of the archive SRC (a path, a URL, or - for stdin), and that every tensor decodes.

    Prints every damaged place, and exits with 3 if there is one.
    """
    problems: list[InputError] = []
    size = count = 0
    try:
        with progress_bar("verifying") as progress, wcodec.open(archive_source(source), workers=workers) as archive:
            size, count = archive.file_bytes, len(archive.stored_names())
            problems = wcodec.verify(archive, progress=progress)
    except InputError as error:
        problems = [error]
    if as_json:
        print_json({"source": source, "sound": not problems, "problems": [str(problem) for problem in problems]})
    elif not problems:
        click.echo(f"{source}: sound, {counted(count, 'tensor')}, {human_bytes(size)}")
    for problem in problems:
        click.echo(f"error: {printable(str(problem))}", err=True)
    return InputError.exit_code if problems else 0
