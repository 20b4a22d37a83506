"""What is known about a model's weights, and what it makes of them: symbols for a knob, and how far outputs go off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from wcodec.archive import Archive
from wcodec.encode import Ready
from wcodec.errors import NonFiniteError, UnsupportedError
from wcodec.evaluate import Comparison, Fidelity, is_classifier
from wcodec.model import Array, Model, QuantizedTensor
from wcodec.opencl.cache import key_of
from wcodec.plan.calibration import Calibration, calibrated
from wcodec.plan.known import Known, dequantized
from wcodec.plan.layer import Layer
from wcodec.plan.network import Network
from wcodec.plan.plan import Choice, Plan
from wcodec.plan.samples import FOLDS, Samples
from wcodec.plan.trust import layer_of, tuned
from wcodec.plan.video import rival, symbols_for, takes_loss, through
from wcodec.policy import Policy
from wcodec.scales import Uniform
from wcodec.workers import Progress, ProgressCallback

_WORK = 700_000_000_000
"""Multiplications that measuring once takes, about."""

_FEWEST, _MOST = 32, 168
"""Inputs that are measured, whatever one takes."""


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
        self.network = Network(archive, samples.shape)
        self._dtypes = {tensor.name: tensor.dtype for tensor in model.tensors}
        wanted = [tensor.name for tensor in model.tensors if isinstance(policy.quantizer(tensor), Uniform)]
        tensors = [name for name in wanted if name in self.network.matrices]
        if not tensors:
            raise UnsupportedError(
                "no tensor that is to be quantized is a factor of a layer, so there is nothing to plan"
            )
        for name in tensors:
            if not np.isfinite(self.network.weight(name)).all():
                raise NonFiniteError(f"tensor {name!r} holds NaN or infinities; mend the model, or keep the tensor")
        digest = key_of(archive.graph() or b"", *(digest.encode() for digest in archive.digests))
        self._learnt = learnt = calibrated(self.network, tensors, samples, prior, digest, progress)
        # what no input reaches says nothing
        tensors = [name for name in tensors if any(half[name].rows.any() for half in learnt.halves)]
        self.known: list[Known] = []
        for name in tensors:
            if progress is not None:
                progress(Progress("judging", len(self.known) + 1, len(tensors)))
            self.known.append(self._known(name, learnt))
        count = int(np.clip(_WORK // max(1, self.network.products), _FEWEST, _MOST))
        self._inputs = samples.measuring(count)
        self._before = [self.network.run(array) for array in self._inputs]

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
        return Plan(tensors={one.name: Choice(one.whole.mean_step(knob), coder) for one in self.known})

    def ready(self, plan: Plan) -> dict[str, Ready]:
        """The symbols that a plan makes of tensors, by all that is known."""
        return {
            one.name: Ready(_symbols(one, one.whole, choice), choice.coder, choice.qp)
            for one, choice in self._chosen(plan)
        }

    def with_video(self, plan: Plan) -> Plan:
        """The plan with tensors by lossy video codecs, where these take less and do no more damage.

        By each tensor's own coder, if it can lose, and by AV1 in the place of "auto".
        """
        return Plan(tensors={**plan.tensors, **dict(self._rivals(plan))})

    def _rivals(self, plan: Plan) -> Iterator[tuple[str, Choice]]:
        for one, choice in self._chosen(plan):
            lossless, lossy = ("rans", "av1") if choice.coder == "auto" else (choice.coder, choice.coder)
            if choice.qp is not None or not takes_loss(lossy):
                continue
            _, size = through(_symbols(one, one.whole, choice), lossless, None)
            # a knob's own damage to each weight, of which steps are made
            allowed = one.whole.weights.size * (choice.step / one.whole.mean_step(1.0)) ** 2 / 12
            bits = 8 * size / one.whole.weights.size
            found = rival(one, self._learnt.all_of(one.name), lossy, bits, allowed)
            if found is not None:
                yield one.name, Choice(found.step, found.coder, found.qp)

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
                        comparison.add(self._before[other], self.network.run(self._inputs[other], weights))
        return replace(comparison.result(), inputs=sum(map(len, self._inputs)))

    def fidelity_of(self, quantized: Mapping[str, QuantizedTensor]) -> Fidelity:
        """How far outputs go off with tensors that nothing was learnt for."""
        weights = {name: dequantized(tensor) for name, tensor in quantized.items()}
        comparison = Comparison()
        for before, array in zip(self._before, self._inputs, strict=True):
            comparison.add(before, self.network.run(array, weights))
        return comparison.result()

    def decoded(self, plan: Plan) -> dict[str, Array]:
        """What is decoded of tensors, f32."""
        return {one.name: _decoded(one, one.whole, choice) for one, choice in self._chosen(plan)}

    def _weights(self, plan: Plan, half: int) -> dict[str, Array]:
        """What would be decoded of tensors if only one half of the inputs were there."""
        return {one.name: _decoded(one, one.halves[half], choice) for one, choice in self._chosen(plan)}

    def _chosen(self, plan: Plan) -> list[tuple[Known, Choice]]:
        return [(one, plan.tensors[one.name]) for one in self.known if one.name in plan.tensors]

    def _known(self, name: str, learnt: Calibration) -> Known:
        matrix = self.network.matrices[name]
        weights = matrix.of(self.network.weight(name)).astype(np.float32)
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


def _symbols(known: Known, layer: Layer, choice: Choice) -> QuantizedTensor:
    """What a tensor's coder is given: rounded as a layer does, unless the coder loses."""
    lossy = choice.qp is not None
    return symbols_for(known, choice.step) if lossy else known.rounded(layer, choice.step, choice.coder)


def _decoded(known: Known, layer: Layer, choice: Choice) -> Array:
    """What comes back of a tensor, f32."""
    given = _symbols(known, layer, choice)
    return dequantized(given if choice.qp is None else through(given, choice.coder, choice.qp)[0])
