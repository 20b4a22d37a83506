"""The tables that show an archive."""

from __future__ import annotations

import click

from wcodec.cli.output import human_bytes, print_table, shape_text
from wcodec.report import ArchiveReport


def print_archive(report: ArchiveReport) -> None:
    """Every tensor, and the archive's totals."""
    rows = [(t.name, t.dtype, shape_text(t.shape), t.stored_as, f"{t.bytes:,}", f"{t.bpw:.3f}") for t in report.tensors]
    rows += [(name, "", "", f"tied to {target}", "0", "") for name, target in report.ties.items()]
    print_table(("tensor", "dtype", "shape", "stored as", ">bytes", ">bpw"), rows)
    click.echo(
        f"{len(report.tensors)} tensors, {report.elements:,} elements: {human_bytes(report.decoded_bytes)} in "
        f"{human_bytes(report.file_bytes)}, {report.bpw:.3f} bits per weight, {report.ratio:.2f} times smaller"
    )
