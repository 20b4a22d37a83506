"""Options that ask `wcodec encode` for a fidelity or a size, and what it does then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wcodec.cli.options import Size
from wcodec.cli.output import counted, print_json, print_table, printable, progress_bar
from wcodec.errors import UsageError
from wcodec.infer.preprocess import preprocessing_of

if TYPE_CHECKING:
    from wcodec.infer.inputs import Inputs
    from wcodec.infer.preprocess import Preprocessing
    from wcodec.model import Model
    from wcodec.plan.encoding import Goal
    from wcodec.plan.plan import Plan
    from wcodec.plan.sweep import Point
    from wcodec.policy import Policy

_Command = TypeVar("_Command", bound=Callable[..., Any])

_GOALS = ("fidelity", "target_bpw", "target_size", "plan")
_HOW = ("calibrate", "data_free", "plan_out", "sweep")

REPLACED = ("bits", "asymmetric", "per", "axis", "group_size", "fit", "qp", "lossless", "lossless_nonfinite")
"""Options of `wcodec encode` that a goal decides about itself."""


@dataclass(frozen=True)
class Planning:
    """What was asked for: a goal or the plan of a file, and what is known to reach it by."""

    fidelity: float | None
    target_bpw: float | None
    target_size: int | None
    plan: str | None
    calibrate: str | None
    data_free: bool
    plan_out: str | None
    sweep: bool

    def goal(self) -> Goal | Plan:
        from wcodec.plan.encoding import Goal
        from wcodec.plan.plan import Plan

        if self.plan is not None:
            return Plan.read(self.plan)
        return Goal(self.fidelity, self.target_size, self.target_bpw)

    def inputs(self, how: Preprocessing | None) -> Inputs | None:
        """What to calibrate with, None for nothing."""
        from wcodec.infer.inputs import Inputs

        return None if self.calibrate is None else Inputs(self.calibrate, how)


def planning_options(command: _Command) -> _Command:
    """Adds the options that `take_planning` takes."""
    options = [
        click.option(
            "--fidelity",
            type=click.FloatRange(min=0, min_open=True),
            metavar="NUMBER",
            help="The smallest file whose outputs are this near: at most so many nats of Kullback-Leibler divergence "
            "for a classifier, at least so many decibels for others.",
        ),
        click.option(
            "--target-bpw",
            type=click.FloatRange(min=0, min_open=True),
            metavar="BITS",
            help="The nearest outputs in a file of so many bits for each weight.",
        ),
        click.option("--target-size", type=Size(), help="The nearest outputs in a file of this size, such as 5MB."),
        click.option(
            "--calibrate",
            type=click.Path(exists=True),
            metavar="FOLDER|FILE",
            help="Pictures, or an .npy array of inputs, to learn from what matters.",
        ),
        click.option("--data-free", is_flag=True, help="Learn from pictures made of nothing instead: says less."),
        click.option("--sweep", is_flag=True, help="Draw what outputs lose at all sizes into DST, a .png file."),
        click.option("--plan-out", type=click.Path(), metavar="FILE", help="Write the plan that was found."),
        click.option("--plan", type=click.Path(), metavar="FILE", help="Encode by such a plan, perhaps changed."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def take_planning(chosen: dict[str, Any]) -> Planning | None:
    """Takes the options out of a command's; None where none of them asks for anything."""
    taken = {name: chosen.pop(name) for name in (*_GOALS, *_HOW)}
    goals = [name for name in _GOALS if taken[name] is not None]
    given = [name for name in _HOW if taken[name]]
    if taken["sweep"]:
        goals.append("sweep")
    if not goals:
        if given:
            raise UsageError(
                f"{_option(given[0])} does nothing without --fidelity, --target-bpw, --target-size, --plan or --sweep"
            )
        return None
    if len(goals) > 1:
        raise UsageError(f"{_option(goals[0])} and {_option(goals[1])} ask for different things; leave one out")
    if taken["data_free"] == (taken["calibrate"] is not None):
        raise UsageError(
            f"{_option(goals[0])} needs to know what matters: give pictures with --calibrate FOLDER, or --data-free"
        )
    return Planning(**taken)


def sweep_to(
    model: Model, target: str, policy: Policy, planning: Planning, metadata: Mapping[str, str], *, as_json: bool
) -> None:
    """Draw what the model's outputs lose at all sizes into a picture, and print it as a table."""
    from wcodec.plan.curves import draw
    from wcodec.plan.encoding import planner_for
    from wcodec.plan.sweep import sweep

    if not target.lower().endswith(".png"):
        raise UsageError(f"{target}: --sweep draws a picture; give a name that ends in .png")
    how = preprocessing_of({**model.metadata, **metadata})
    with progress_bar("planning", counts_bytes=False) as learning:
        planner, skipped = planner_for(model, planning.inputs(how), policy, how, learning)
    coders = ("rans", "zstd", "hevc") if policy.coder == "auto" else (policy.coder,)
    points = sweep(planner, model, coders, tell_tried)
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        lost = point.fidelity.snr_db if point.fidelity.kl is None else point.fidelity.kl
        curves.setdefault(point.method, []).append((point.bpw, lost))
    shown = "KL divergence, nats" if planner.is_classifier else "signal to noise of outputs, dB"
    draw(curves, target, title="inputs held out", shown=shown, logarithmic=planner.is_classifier)
    tell_skipped(skipped)
    if as_json:
        print_json(points)
        return
    heads = ("method", ">bpw", ">" + shown, ">same first class")
    print_table(heads, [_cells(point) for point in points])


def _cells(point: Point) -> tuple[str, str, str, str]:
    found = point.fidelity
    lost = f"{found.snr_db:.2f}" if found.kl is None else f"{found.kl:.5f}"
    return point.method, f"{point.bpw:.3f}", lost, "" if found.top1 is None else f"{found.top1:.1%}"


def tell_tried(line: str) -> None:
    """A line for something that was tried, for whoever watches."""
    if sys.stderr.isatty():
        click.echo(line, err=True)


def tell_skipped(skipped: Mapping[str, str]) -> None:
    """Name on stderr what could not be learnt from."""
    if skipped:
        click.echo(f"left out {counted(len(skipped), 'file')} that cannot be read:", err=True)
    for message in skipped.values():
        click.echo(f"  {printable(message)}", err=True)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
