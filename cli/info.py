"""`wcodec info`: what an archive holds."""

from __future__ import annotations

import click

import wcodec
from wcodec.cli.options import archive_source, json_option
from wcodec.cli.output import fidelity_text, print_json, printable
from wcodec.cli.tables import print_archive
from wcodec.report import describe

_MAX_SHOWN = 200
"""Characters of a value of the metadata that are shown at most: labels go on for pages."""


@click.command(short_help="show what an archive holds")
@click.argument("source", metavar="SRC", type=click.Path())
@json_option
def command(source: str, as_json: bool) -> None:
    """Show the tensors of the archive SRC (a path, a URL, or - for stdin), how each is stored, and its size.

    Only the end of the file is read. bpw is bits per weight.
    """
    with wcodec.open(archive_source(source)) as archive:
        report = describe(archive)
    if as_json:
        print_json(report)
        return
    print_archive(report)
    graph = "with its graph" if report.graph else "weights only"
    click.echo(f"format version {report.version}, {graph}, digest {' '.join(report.digests)}")
    if text := fidelity_text(report.fidelity):
        click.echo(text)
    for key, value in report.metadata.items():
        click.echo(f"{_shown(key)}: {_shown(value)}")


def _shown(text: str) -> str:
    if len(text) <= _MAX_SHOWN:
        return printable(text)
    return f"{printable(text[:_MAX_SHOWN])}... ({len(text):,} characters; --json shows all)"
