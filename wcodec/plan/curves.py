"""Pictures of curves: what outputs lose against how many bits a weight takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO

from wcodec.errors import MissingDependencyError
from wcodec.formats.atomic import atomic_file

Curve = Sequence[tuple[float, float]]
"""Bits per weight, and what is shown over them."""


def draw(
    curves: Mapping[str, Curve],
    path: str | os.PathLike[str],
    *,
    title: str,
    shown: str,
    logarithmic: bool = False,
    others: Mapping[str, Curve] | None = None,
) -> None:
    """Write a PNG of curves with their names; those of `others` are drawn behind, dashed.

    `shown` says what they show. Raises `MissingDependencyError` without matplotlib, `OutputError` where writing fails.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("curves are drawn by matplotlib; run: pip install 'wcodec[plots]'") from error
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for style, width, group in (("--", 1.0, others or {}), ("-", 1.8, curves)):
        for name, curve in group.items():
            points = sorted(curve)
            bpw, values = [point for point, _ in points], [value for _, value in points]
            axes.plot(bpw, values, style, marker="o", markersize=3.5, linewidth=width, label=name)
    if logarithmic:
        axes.set_yscale("log")
    axes.set_xlabel("bits per weight")
    axes.set_ylabel(shown)
    axes.set_title(title)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize="small")
    page = BytesIO()
    figure.savefig(page, format="png", metadata={"Software": None})
    with atomic_file(path) as stream:
        stream.write(page.getvalue())
