"""Markdown for docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def machine(*more: str) -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    packages = ", ".join(f"{name} {version(name)}" for name in ("av", "numpy", "zstandard", *more))
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    width = len(head)
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (width - 1) + "|"]
    lines += ["| " + " | ".join([*row, *[""] * (width - len(row))]) + " |" for row in rows]
    return "\n".join(lines)


def update(path: Path, name: str, text: str) -> None:
    """Replace what stands between the markers `<!-- name -->` and `<!-- /name -->` of a file."""
    before, start, rest = path.read_text().partition(f"<!-- {name} -->\n")
    _, stop, after = rest.partition(f"<!-- /{name} -->")
    if not (start and stop):
        raise SystemExit(f"{path} has no markers <!-- {name} --> and <!-- /{name} -->")
    path.write_text(f"{before}{start}{text}\n{stop}{after}")
