"""Calibration and mistakes, against independent computations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve

from videovit.analysis.calibration import (
    TEMPERATURES,
    calibration_error,
    fit_temperature,
    reliability,
    try_temperature,
)
from videovit.analysis.mistakes import Pair, confused_pairs, group_by_value, wilson


def overconfident(number: int = 4000, *, classes: int = 6, factor: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `factor` times too large, and labels drawn from the true probabilities."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (number, classes))
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (share.cumsum(1) > rng.random((number, 1))).argmax(1)
    return factor * logits, labels


def test_bins_equal_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    confidence = np.append(rng.random(500), [0.0, 1.0])
    right = rng.random(502) < confidence**2
    bins = [one for one in reliability(confidence, right, 10) if one.number]
    accuracy, mean = calibration_curve(right, confidence, n_bins=10)
    assert [one.accuracy for one in bins] == pytest.approx(accuracy)
    assert [one.confidence for one in bins] == pytest.approx(mean)
    assert sum(one.number for one in bins) == 502


def test_limits_of_bins_belong_to_the_lower_one_as_in_the_paper() -> None:
    bins = reliability(np.array([0.0, 0.5, 0.500001, 1.0]), np.array([True, False, True, True]), 2)
    assert [one.number for one in bins] == [2, 2]
    # By hand: 0.5 x |0.25 - 0.5| + 0.5 x |0.75 - 1|
    assert calibration_error(bins) == pytest.approx(0.25, abs=1e-6)


def test_temperature_is_found_and_mends_what_was_wrong() -> None:
    logits, labels = overconfident()
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(2.5, rel=0.06)
    # No temperature beside it is better, by PyTorch's loss.
    z, y = torch.from_numpy(logits), torch.from_numpy(labels)
    loss = [float(torch.nn.functional.cross_entropy(z / (fitted * f), y)) for f in (0.999, 1.0, 1.001)]
    assert loss[1] == min(loss)
    found = try_temperature(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels)
    assert found.value == pytest.approx(fitted, rel=1e-4)
    assert found.nll_before == pytest.approx(float(torch.nn.functional.cross_entropy(z, y)), rel=1e-6)
    assert found.nll_after < found.nll_before - 0.1
    assert found.ece_before > 0.1 and found.ece_after < 0.03


def test_temperature_of_a_faultless_or_useless_model_stays_within_limits() -> None:
    sure = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert fit_temperature(sure, np.array([0, 1])) == pytest.approx(TEMPERATURES[0], rel=0.01)
    assert fit_temperature(sure, np.array([1, 0])) == pytest.approx(TEMPERATURES[1], rel=0.01)
    assert fit_temperature(sure[:0], np.array([], dtype=np.int64)) == 1
    one = try_temperature(np.array([[0.5, 0.5]]), np.array([0]))
    assert one.nll_before == pytest.approx(np.log(2)) == one.nll_after


def test_pairs_are_counted_and_ordered() -> None:
    videos = [((0,), 1)] * 3 + [((0,), 0)] * 3 + [((1,), 0)] * 2 + [((2, 3), 0), ((2, 3), 3)]
    assert confused_pairs(videos) == [
        Pair(0, 1, 3, 0.5, 2),
        Pair(1, 0, 2, 1.0, 3),
        Pair(2, 0, 1, 0.5, 0),
        Pair(3, 0, 1, 0.5, 0),
    ]
    assert confused_pairs([]) == []


def test_groups_keep_equal_values_together() -> None:
    values = np.repeat([24.0, 25.0, 30.0], [1, 10, 5])
    right = np.arange(16) % 2 == 0
    groups = group_by_value(values, right, np.full(16, 0.75))
    assert [(g.low, g.high, g.number, g.accuracy) for g in groups] == [
        (24, 24, 1, 1),
        (25, 25, 10, 0.5),
        (30, 30, 5, 0.4),
    ]
    assert groups[0].confidence == 0.75
    many = np.append(np.arange(100.0), [3.0] * 60)
    groups = group_by_value(many, np.ones(160, dtype=bool), np.ones(160))
    assert sum(g.number for g in groups) == 160 and len(groups) <= 5
    assert all(first.high < second.low for first, second in itertools.pairwise(groups))


def test_interval_is_that_of_wilson() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
