"""What is known about a model's weights, and what it makes of them: symbols for a knob, and how far outputs go off."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from wcodec.archive import Archive
from wcodec.encode import Ready
from wcodec.errors import NonFiniteError, UnsupportedError
from wcodec.evaluate import Comparison, Fidelity, is_classifier
from wcodec.model import Array, Model, QuantizedTensor
from wcodec.opencl.cache import key_of
from wcodec.plan.calibration import Calibration, calibrated
from wcodec.plan.layer import HIGHEST, Layer, coarse
from wcodec.plan.matrix import Matrix
from wcodec.plan.network import Network
from wcodec.plan.plan import Choice, Plan, mean_step
from wcodec.plan.samples import FOLDS, Samples
from wcodec.plan.trust import layer_of, tuned
from wcodec.policy import Policy
from wcodec.scales import Uniform
from wcodec.workers import Progress, ProgressCallback

_WORK = 700_000_000_000
"""Multiplications that measuring once takes, about."""

_FEWEST, _MOST = 32, 168
"""Inputs that are measured, whatever one takes."""

_TINY = 1e-30
"""A step for a row of zeros."""


@dataclass(frozen=True)
class Known:
    """A tensor of the model as matrices, with what all inputs say of it, and what each half of them does."""

    name: str
    dtype: str
    matrix: Matrix
    whole: Layer
    halves: tuple[Layer, ...]


class Planner:
    """A model with what its inputs told of its weights.

    `model` is what is to be encoded, `archive` holds the same bit for bit. What is done to tensors that `policy`
    quantizes, as far as they are factors of layers, is planned here. Raises what `Network` and `Gradients` do,
    `UnsupportedError` where there are no such tensors, and `NonFiniteError` for weights that are no numbers.
    """

    def __init__(
        self,
        model: Model,
        archive: Archive,
        policy: Policy,
        samples: Samples,
        prior: Samples | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        self._network = Network(archive, samples.shape)
        self._dtypes = {tensor.name: tensor.dtype for tensor in model.tensors}
        wanted = [tensor.name for tensor in model.tensors if isinstance(policy.quantizer(tensor), Uniform)]
        tensors = [name for name in wanted if name in self._network.matrices]
        if not tensors:
            raise UnsupportedError(
                "no tensor that is to be quantized is a factor of a layer, so there is nothing to plan"
            )
        for name in tensors:
            if not np.isfinite(self._network.weight(name)).all():
                raise NonFiniteError(f"tensor {name!r} holds NaN or infinities; mend the model, or keep the tensor")
        digest = key_of(archive.graph() or b"", *(digest.encode() for digest in archive.digests))
        learnt = calibrated(self._network, tensors, samples, prior, digest, progress)
        tensors = [name for name in tensors if learnt.all_of(name).rows.any()]  # what no input reaches says nothing
        self.known = [
            self._known(name, learnt, Progress("judging", n, len(tensors)), progress) for n, name in enumerate(tensors)
        ]
        count = int(np.clip(_WORK // max(1, self._network.products), _FEWEST, _MOST))
        self._inputs = samples.measuring(count)
        self._before = [self._network.run(array) for array in self._inputs]

    @property
    def weights(self) -> int:
        """How many there are in all that is planned for."""
        return sum(known.whole.weights.size for known in self.known)

    @property
    def is_classifier(self) -> bool:
        return is_classifier(self._before[0])

    def knob_for(self, error: float) -> float:
        """About the knob with which outputs are off by so much: their divergence in nats, or noise to signal."""
        if self.is_classifier:
            return float(np.sqrt(24 * error / self.weights))
        numbers = sum(output.size for output in self._before[0]) / len(self._inputs[0])
        return float(np.sqrt(12 * error * numbers / self.weights))

    def plan_at(self, knob: float, coder: str) -> Plan:
        """The plan for a knob, all tensors by one coder."""
        return Plan(tensors={one.name: Choice(mean_step(one.whole.steps(knob)), coder) for one in self.known})

    def ready(self, plan: Plan) -> dict[str, Ready]:
        """The symbols that a plan makes of tensors, by all that is known."""
        found = {}
        for one in self.known:
            if one.name in plan.tensors:
                choice = plan.tensors[one.name]
                quantized = quantized_by(one, one.whole, choice.step)
                found[one.name] = Ready(quantized, choice.coder, choice.qp)
        return found

    def fidelity(self, *plans: Plan) -> Fidelity:
        """How far outputs go off for inputs that were not learnt from: of each half, by what the other half told.

        The mean over plans, which are much alike: how roundings turn out is a matter of luck.
        """
        comparison = Comparison()
        for plan in plans:
            for half in range(FOLDS):
                weights = self._weights(plan, half)
                for other in range(FOLDS):
                    if other != half:
                        comparison.add(self._before[other], self._network.run(self._inputs[other], weights))
        return replace(comparison.result(), inputs=sum(map(len, self._inputs)))

    def _weights(self, plan: Plan, half: int) -> dict[str, Array]:
        """What would be decoded of tensors if only one half of the inputs were there."""
        return {
            one.name: dequantized(quantized_by(one, one.halves[half], plan.tensors[one.name].step))
            for one in self.known
            if one.name in plan.tensors
        }

    def _known(self, name: str, learnt: Calibration, done: Progress, progress: ProgressCallback | None) -> Known:
        if progress is not None:
            progress(done)
        matrix = self._network.matrices[name]
        weights = matrix.of(self._network.weight(name)).astype(np.float32)
        prior = None if learnt.prior is None else learnt.prior[name]
        halves = [half[name] for half in learnt.halves]
        trust, scale = tuned(weights, halves, prior)
        whole = layer_of(weights, learnt.all_of(name), prior, trust, scale)
        return Known(
            name,
            self._dtypes[name],
            matrix,
            whole,
            tuple(layer_of(weights, half, prior, trust, scale) for half in halves),
        )


def quantized_by(known: Known, layer: Layer, step: float) -> QuantizedTensor:
    """Symbols with rows' steps of this mean, as a layer spreads and rounds them."""
    unit = layer.steps(1.0).astype(np.float64)
    most = np.abs(layer.weights).max(2)
    # symbols of twice a row's weights must fit, and steps beyond them change nothing
    steps = coarse(np.clip(unit * (step / mean_step(unit)), most / (HIGHEST // 2) + _TINY, 4 * most + _TINY))
    symbols = layer.rounded(steps)
    bits = max(2, int(np.abs(symbols).max(initial=1)).bit_length() + 1)
    return QuantizedTensor(
        known.name,
        known.dtype,
        bits,
        known.matrix.back(symbols.astype(np.int8 if bits <= 8 else np.int16)),
        known.matrix.grid(steps.astype(np.float64 if known.dtype == "f64" else np.float32)),
        None,
        known.matrix.block,
    )


def dequantized(quantized: QuantizedTensor) -> Array:
    """The weights as a decoder gives them, but f32."""
    from wcodec.quantize import dequantize

    return dequantize(quantized).astype(np.float32)
