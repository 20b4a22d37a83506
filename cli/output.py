"""What the commands print: tables and JSON on stdout, progress and errors on stderr."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any, Literal

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from wcodec.evaluate import Fidelity
from wcodec.workers import Progress, ProgressCallback

_WIDE = 1000
"""Columns of a table that is not printed to a terminal: nothing is cut for those who read it by program."""

_ROOMY = 90
"""Columns of a terminal from which on only the first column of a table has to be folded."""

_DELAY = 1.0
"""Seconds before a progress bar shows."""


def print_json(report: Any) -> None:
    """One JSON document on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(_plain(msgspec.to_builtins(report))), indent=2).decode())


def _plain(value: Any) -> Any:
    """JSON types with what JSON cannot say written out: infinities and NaN as text, bytes that are no UTF-8 as "?"."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def print_error(message: str) -> None:
    """One line on stderr."""
    click.echo("error: " + printable(" ".join(message.split())), err=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout. A column whose head begins with ">" is of numbers and stands to the right.

    On a terminal too narrow for it, the first column is folded.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    console = Console(highlight=False, markup=False)
    for place, column in enumerate(columns):
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        whole = place > 0 and console.width >= _ROOMY
        table.add_column(
            column.lstrip(">"), justify=justify, no_wrap=whole, overflow="fold", min_width=0 if place else 16
        )
    for row in rows:
        table.add_row(*map(printable, row))
    if sys.stdout.isatty():
        console.print(table)
        return
    page = StringIO()
    Console(file=page, width=_WIDE, highlight=False, markup=False).print(table)
    click.echo("\n".join(line.rstrip() for line in page.getvalue().splitlines()))


def human_bytes(count: int) -> str:
    """Such as "12.5 MB", in powers of ten as disks and downloads are sold."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{count} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def printable(text: str) -> str:
    """A stranger's text on one line, with what could steer a terminal written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def fidelity_text(stored: Mapping[str, Any] | None) -> str | None:
    """An archive's own report of its fidelity in words, None where there is none, or one of another kind.

    Such as "KL divergence 0.0098 nats, the same first class on 95.8%, on 168 inputs held out".
    """
    if stored is None:
        return None
    try:
        found = msgspec.convert({name: stored.get(name) for name in Fidelity.__annotations__}, Fidelity)
    except msgspec.ValidationError:
        return None
    where = "made-up inputs, which real ones may differ from" if stored.get("data_free") else "inputs held out"
    if found.kl is None or found.top1 is None:
        return f"outputs at {found.snr_db:.1f} dB, on {found.inputs} {where}"
    same = f"the same first class on {found.top1:.1%}"
    return f"KL divergence {found.kl:.4f} nats, {same}, on {found.inputs} {where}"


def counted(count: int, thing: str) -> str:
    """Such as "1 tensor" or "2 tensors"."""
    return f"{count} {thing}{'s' if count != 1 else ''}"


def shape_text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


@contextmanager
def progress_bar(verb: str, *, counts_bytes: bool = True) -> Iterator[ProgressCallback | None]:
    """A bar on stderr for whatever takes longer than a second; None where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    whole = Column(no_wrap=True)
    bar = Bar(
        TextColumn(verb),
        BarColumn(bar_width=20),
        DownloadColumn(table_column=whole) if counts_bytes else MofNCompleteColumn(table_column=whole),
        TimeRemainingColumn(table_column=whole),
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
    task = bar.add_task("", total=None)
    began = time.monotonic()

    def show(progress: Progress) -> None:
        if not bar.live.is_started and time.monotonic() - began > _DELAY:
            bar.start()
        bar.update(task, completed=progress.done, total=progress.total, description=progress.name)
        if progress.done >= progress.total:
            bar.stop()

    try:
        yield show
    finally:
        bar.stop()
