"""Options and helpers that several commands share."""

from __future__ import annotations

import re
import sys
from typing import Any, BinaryIO

import click

from wcodec.coders import CODERS
from wcodec.errors import UsageError
from wcodec.formats.shards import index_path

CODER_NAMES = ("auto", *sorted(CODERS))


def written_path(target: str, shard_size: int | None) -> str:
    """Where an archive that was written to `target` is opened: at the index if it was cut into shards."""
    return target if shard_size is None else index_path(target)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
workers_option = click.option("--workers", type=click.IntRange(min=1), help="Threads to use. [default: one a core]")
level_option = click.option(
    "--level", type=click.IntRange(1, 22), help="Zstandard's level, with --coder zstd or floats. [default: 3]"
)

device_option = click.option(
    "--device", default="opencl", show_default=True, help="The OpenCL device to run on, such as opencl:1."
)
precision_option = click.option(
    "--precision",
    type=click.Choice(("storage", "half", "float")),
    default="storage",
    show_default=True,
    help="Half in memory and float in arithmetic, half in both, or float in both.",
)

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]i?)?b?", re.IGNORECASE)


class Size(click.ParamType[int]):
    """A number of bytes, such as 500000, 2GB or 64MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _SIZE.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is not a size such as 500000, 2GB or 64MiB", param, ctx)
        return int(float(match[1]) * _UNITS[(match[2] or "").lower()])


shard_size_option = click.option(
    "--shard-size", type=Size(), help="Cut the archive into files of about this size, such as 2GB."
)


def archive_source(path: str) -> str | bytes:
    """What to open for an archive argument: a path or URL, or all of stdin for "-"."""
    return sys.stdin.buffer.read() if path == "-" else path


def archive_target(path: str) -> str | BinaryIO:
    """What to write an archive to: a path, or stdout for "-", which must not be a terminal."""
    if path != "-":
        return path
    if sys.stdout.isatty():
        raise UsageError("stdout is a terminal, which an archive would only upset; send it to a file or a pipe")
    return sys.stdout.buffer
