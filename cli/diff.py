"""`wcodec diff`: what differs between two models."""

from __future__ import annotations

import math

import click
import msgspec

import wcodec
from wcodec.cli.options import archive_source, json_option, workers_option
from wcodec.cli.output import counted, print_json, print_table, progress_bar


@click.command(short_help="compare two models, tensor by tensor")
@click.argument("first", metavar="A", type=click.Path())
@click.argument("second", metavar="B", type=click.Path())
@click.option("--all", "show_all", is_flag=True, help="Show tensors that are the same, too.")
@workers_option
@json_option
def command(first: str, second: str, show_all: bool, workers: int | None, as_json: bool) -> int:
    """Compare A and B, each an archive (a path, a URL, or - for stdin) or a model file, and show what differs.

    SNR is that of B's values against A's, in dB. Exits with 0 if all tensors are the same bit for bit, 1 if not.
    """
    with progress_bar("comparing") as progress:
        found = wcodec.diff(archive_source(first), archive_source(second), workers=workers, progress=progress)
    different = [difference for difference in found if difference.kind != "same"]
    if as_json:
        print_json([msgspec.to_builtins(difference) for difference in found])
        return 1 if different else 0
    rows = [
        (d.name, d.kind, _number(d.max_error, ".3g"), _number(d.snr_db, ".2f"))
        for d in (found if show_all else different)
    ]
    if rows:
        print_table(("tensor", "difference", ">largest error", ">SNR dB"), rows)
    click.echo(f"{counted(len(found), 'tensor')}, {len(different)} different")
    return 1 if different else 0


def _number(value: float | None, form: str) -> str:
    return "" if value is None else "inf" if math.isinf(value) else format(value, form)
