"""Calibration: is a model right as often as it is confident?

V decisions, K choices of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_BINS = 15
TEMPERATURES = (0.05, 20.0)  # lowest and highest that is fitted
NUM_STEPS = 50  # of the search, which takes about 8
LEAST_SCORE = 1e-12  # stands for scores that are 0 in float32


@dataclass(frozen=True)
class Bin:
    """Decisions with similar confidence.

    Attributes:
        low, high: confidence above `low` up to `high`; the first bin includes 0.
        number: of decisions.
        confidence: mean; 0 if there are none.
        accuracy: share of right ones; 0 if there are none.
    """

    low: float
    high: float
    number: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Temperature:
    """What dividing all logits by one number changes.

    Attributes:
        value: fitted on all decisions; above 1 the model is too confident.
        nll_before, nll_after: mean negative log-likelihood in nats.
        ece_before, ece_after: expected calibration error, from 0 to 1.

    The numbers after it are cross-fitted: each half of the decisions with the temperature of the other half.
    """

    value: float
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float


def reliability(confidence_V: Floats, right_V: NDArray[np.bool_], num_bins: int = NUM_BINS) -> list[Bin]:
    """Sort decisions into bins of equal width: the points of a reliability diagram.

    Args:
        confidence_V: from 0 to 1.
        right_V: whether each decision is right.
        num_bins: between 0 and 1.

    Source: Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599), section 2.
    """
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    places_V = np.clip(np.searchsorted(edges, confidence_V, side="left") - 1, 0, num_bins - 1)
    numbers = np.bincount(places_V, minlength=num_bins)
    shares = np.maximum(numbers, 1)
    confidence = np.bincount(places_V, weights=confidence_V, minlength=num_bins) / shares
    accuracy = np.bincount(places_V, weights=right_V, minlength=num_bins) / shares
    rows = zip(edges[:-1].tolist(), edges[1:].tolist(), numbers.tolist(), confidence, accuracy, strict=True)
    return [Bin(low, high, number, float(c), float(a)) for low, high, number, c, a in rows]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean gap of confidence and accuracy, weighted by the decisions of each bin.

    Source: Guo et al. (arXiv 1706.04599), equation 3.
    """
    total = max(sum(one.number for one in bins), 1)
    return sum(one.number * abs(one.confidence - one.accuracy) for one in bins) / total


def try_temperature(scores_VK: Floats, labels_V: NDArray[np.int64]) -> Temperature:
    """Fit a temperature, and measure what it changes on decisions that it was not fitted on.

    Args:
        scores_VK: probabilities of the K choices; they sum to 1.
        labels_V: the right choices.

    Source: Guo et al. (arXiv 1706.04599), section 4.2.
    """
    logits_VK = np.log(np.maximum(scores_VK, LEAST_SCORE))
    after_VK = np.empty_like(logits_VK)
    for half in (0, 1):  # every second one, since lists are often sorted by class
        fitted = fit_temperature(logits_VK[1 - half :: 2], labels_V[1 - half :: 2])
        after_VK[half::2] = _log_softmax(logits_VK[half::2] / fitted)
    before_VK = _log_softmax(logits_VK)
    return Temperature(
        fit_temperature(logits_VK, labels_V),
        *(_nll(log_VK, labels_V) for log_VK in (before_VK, after_VK)),
        *(_ece(log_VK, labels_V) for log_VK in (before_VK, after_VK)),
    )


def fit_temperature(logits_VK: Floats, labels_V: NDArray[np.int64]) -> float:
    """The temperature T with the lowest negative log-likelihood of softmax(logits / T), within `TEMPERATURES`.

    In b = 1 / T it is convex: d NLL / d b = mean(E_b[z] - z_label) grows with b, so its only zero is found by Newton's
    method, with bisection when a step would leave the interval that contains it.

    Args:
        logits_VK: logits, or log-probabilities.
        labels_V: the right choices; of none, the temperature is 1.
    """
    if not len(labels_V):
        return 1.0
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    highest_V1 = logits_VK.max(axis=1, keepdims=True)
    right_V = np.take_along_axis(logits_VK, labels_V[:, None], axis=1)[:, 0]
    b = 1.0
    for _ in range(NUM_STEPS):
        share_VK = np.exp(b * (logits_VK - highest_V1))
        share_VK /= share_VK.sum(axis=1, keepdims=True)
        mean_V = np.einsum("vk,vk->v", share_VK, logits_VK)
        slope = float((mean_V - right_V).mean())
        low, high = (low, b) if slope > 0 else (b, high)
        square_V = np.einsum("vk,vk,vk->v", share_VK, logits_VK, logits_VK)
        curvature = float((square_V - mean_V**2).mean())  # mean variance of z
        step = b - slope / curvature if curvature > 0 else math.inf
        before, b = b, step if low < step < high else (low + high) / 2
        if abs(b - before) < 1e-6 * before:
            break
    return 1 / b


def _log_softmax(logits_VK: Floats) -> Floats:
    shifted_VK = logits_VK - logits_VK.max(axis=1, keepdims=True)
    found: Floats = shifted_VK - np.log(np.exp(shifted_VK).sum(axis=1, keepdims=True))
    return found


def _nll(log_VK: Floats, labels_V: NDArray[np.int64]) -> float:
    return float(-np.take_along_axis(log_VK, labels_V[:, None], axis=1).mean())


def _ece(log_VK: Floats, labels_V: NDArray[np.int64]) -> float:
    return calibration_error(reliability(np.exp(log_VK.max(axis=1)), log_VK.argmax(axis=1) == labels_V))
