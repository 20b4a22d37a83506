"""The tables that show an archive."""

from __future__ import annotations

import click

from wcodec.cli.output import counted, human_bytes, print_table, shape_text
from wcodec.report import ArchiveReport


def print_archive(report: ArchiveReport) -> None:
    """Every tensor, and the archive's totals."""
    rows = [(t.name, t.dtype, shape_text(t.shape), t.stored_as, f"{t.bytes:,}", f"{t.bpw:.3f}") for t in report.tensors]
    by_name = {t.name: t for t in report.tensors}
    for name, target in report.ties.items():
        rows.append((name, by_name[target].dtype, shape_text(by_name[target].shape), f"tied to {target}", "0", ""))
    print_table(("tensor", "dtype", "shape", "stored as", ">bytes", ">bpw"), rows)
    share = report.file_bytes / max(1, report.decoded_bytes)
    click.echo(
        f"{counted(len(report.tensors), 'tensor')}, {report.elements:,} elements: "
        f"{human_bytes(report.decoded_bytes)} in {human_bytes(report.file_bytes)} ({share:.1%}), "
        f"{report.bpw:.3f} bits per weight"
    )
