"""How far a decoded model's outputs are from the original's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wcodec.errors import MismatchError
from wcodec.model import Array


@dataclass(frozen=True)
class Fidelity:
    """`kl` is the mean Kullback-Leibler divergence of the decoded model's classes from the original's, in nats;
    `top1` the fraction of inputs that both give the same first class; `snr_db` that of the logits, in dB.
    """

    inputs: int
    kl: float
    top1: float
    snr_db: float


def fidelity(original: Array, decoded: Array) -> Fidelity:
    """Compare the logits, shape (inputs, classes), that a classifier and its decoded copy give for the same inputs."""
    if original.shape != decoded.shape or original.ndim != 2 or not len(original):
        raise MismatchError(f"logits of shapes {original.shape} and {decoded.shape} cannot be compared")
    p, q = (_log_softmax(logits.astype(np.float64)) for logits in (original, decoded))
    noise = np.square(original - decoded, dtype=np.float64).sum()
    with np.errstate(divide="ignore"):
        snr = 10 * np.log10(np.square(original, dtype=np.float64).sum() / noise)
    return Fidelity(
        inputs=len(original),
        kl=float((np.exp(p) * (p - q)).sum(1).mean()),
        top1=float((original.argmax(1) == decoded.argmax(1)).mean()),
        snr_db=float(snr),
    )


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
