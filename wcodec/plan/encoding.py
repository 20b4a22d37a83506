"""A model into an archive of a fidelity or a size that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from wcodec.encode import encode
from wcodec.errors import UnsupportedError, UsageError
from wcodec.evaluate import Fidelity
from wcodec.infer.evaluation import lossless
from wcodec.infer.inputs import Inputs
from wcodec.infer.lowering.source import declared_shapes
from wcodec.infer.preprocess import Preprocessing, preprocessing_of
from wcodec.model import Model
from wcodec.plan.plan import Plan
from wcodec.plan.planner import Planner
from wcodec.plan.samples import Samples
from wcodec.plan.targets import Planned, for_fidelity, for_size, with_video
from wcodec.policy import Policy
from wcodec.workers import ProgressCallback
from wcodec.writing import Destination

_SIDE = 224
"""Of pictures made of nothing, where neither the model nor anything else tells."""


@dataclass(frozen=True)
class Goal:
    """What is asked for, one of three.

    `fidelity` is a divergence in nats that a classifier's outputs have at most, or a signal-to-noise ratio in decibels
    that others' have at least; `size` is in bytes, `bpw` in bits of the file for every element of the model.
    """

    fidelity: float | None = None
    size: int | None = None
    bpw: float | None = None

    def __post_init__(self) -> None:
        asked = [value for value in (self.fidelity, self.size, self.bpw) if value is not None]
        if len(asked) != 1 or not asked[0] > 0:
            raise UsageError("ask for one of fidelity, size and bpw, above 0")


@dataclass(frozen=True)
class Made:
    """What an archive was made by, and how far its outputs are off; `skipped` are files that are no pictures."""

    plan: Plan
    fidelity: Fidelity
    skipped: Mapping[str, str]


def encode_for(
    model: Model,
    target: Destination,
    goal: Goal | Plan,
    inputs: Inputs | None,
    policy: Policy | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    shard_size: int | None = None,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
    learning: ProgressCallback | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Made:
    """Encode a model with its graph into an archive that meets a goal, or by a plan, as `inputs` tell what matters.

    Without inputs, pictures made of nothing must do, which say less. Half of the inputs at a time is held out: the
    fidelity is that of inputs that nothing was learnt from. `policy` says which tensors are quantized, and the coder.
    `learning` is told of passes through the model and of layers, and `tell` is given a line for everything tried.

    Raises what `encode`, `Planner` and `Samples` do, and `UsageError` for goals that are not reached.
    """
    policy = policy or Policy()
    policy.check_patterns(model.tensors)
    if isinstance(goal, Plan):
        goal.check_names({tensor.name for tensor in model.tensors})
    how = preprocessing_of({**model.metadata, **(metadata or {})})
    planner, skipped = planner_for(model, inputs, policy, how, learning)

    def written(plan: Plan, fidelity: Fidelity, to: Destination, coder: str | None = None) -> None:
        ready = planner.ready(plan)
        if coder is not None:
            ready = {name: replace(one, coder=coder) for name, one in ready.items()}
        encode(
            model,
            to,
            policy,
            ready=ready,
            fidelity=_report(fidelity, data_free=inputs is None),
            metadata=metadata,
            shard_size=shard_size,
            workers=workers,
            progress=progress,
        )

    def size(plan: Plan) -> int:
        # "auto" comes to about what its best coder does, only sooner
        coder = "rans" if policy.coder == "auto" else None
        with TemporaryDirectory(prefix="wcodec-") as folder:
            trial = Path(folder) / "trial.wcodec"
            written(plan, Fidelity(10**5, 1 / 3, 1 / 3, 1 / 3, 1 / 3), trial, coder)
            return trial.stat().st_size

    made = _planned(planner, model, goal, policy.coder, size, tell)
    written(made.plan, made.fidelity, target)
    return Made(made.plan, made.fidelity, skipped)


def planner_for(
    model: Model,
    inputs: Inputs | None,
    policy: Policy,
    how: Preprocessing | None,
    learning: ProgressCallback | None = None,
) -> tuple[Planner, Mapping[str, str]]:
    """What knows a model by its inputs, or by inputs made of nothing, and the files that are no pictures.

    Raises `UnsupportedError` for a model without a graph, and what `Planner` and `Samples` do.
    """
    if model.graph is None:
        raise UnsupportedError("the model has no graph to run, so nothing tells what matters; give an .onnx model")
    if inputs is None:
        samples, prior = Samples.synthetic(_shape(model.graph, how), how), None
    else:
        samples = Samples.of(inputs)
        prior = Samples.synthetic(samples.shape, how or inputs.how)
    with lossless(model) as archive:
        return Planner(model, archive, policy, samples, prior, learning), samples.skipped


def _planned(
    planner: Planner,
    model: Model,
    goal: Goal | Plan,
    coder: str,
    size: Callable[[Plan], int],
    tell: Callable[[str], None],
) -> Planned:
    if isinstance(goal, Plan):
        return Planned(goal, planner.fidelity(goal))
    if goal.fidelity is not None:
        return with_video(planner, for_fidelity(planner, goal.fidelity, coder, tell), tell)
    if goal.size is not None:
        return for_size(planner, goal.size, coder, size, tell)
    assert goal.bpw is not None
    return for_size(planner, int(goal.bpw * sum(tensor.size for tensor in model.tensors) / 8), coder, size, tell)


def _report(fidelity: Fidelity, *, data_free: bool) -> dict[str, object]:
    known = {name: value for name, value in asdict(fidelity).items() if value is not None}
    return {**known, "held_out": True, "data_free": data_free}


def _shape(graph: bytes, how: Preprocessing | None) -> tuple[int, ...]:
    """The shape of one input."""
    if how is not None:
        return how.shape
    shapes, _ = declared_shapes(graph)
    found = shapes[0][1:] if shapes else ()
    return tuple(length if isinstance(length, int) else _SIDE for length in found)
