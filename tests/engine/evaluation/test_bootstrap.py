"""Intervals of the paired bootstrap against other computations of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats  # a dependency of scikit-learn

from videovit.engine.evaluation.bootstrap import bootstrap_mean


def test_all_resamples_counted_by_hand() -> None:
    """Five videos have 5^5 resamples, all equally likely."""
    values = np.array([1.0, 1.0, 0.0, -1.0, 1 / 3])
    means = np.array([np.mean(drawn) for drawn in itertools.product(values, repeat=5)])
    for confidence in (0.95, 0.8):
        tail = (1 - confidence) / 2
        found = bootstrap_mean(values, confidence=confidence, num_resamples=200_000)
        expected = np.quantile(means, (tail, 1 - tail))
        assert found.mean == pytest.approx(values.mean())
        assert (found.low, found.high) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("num_videos", [30, 400])
def test_interval_equals_that_of_scipy(num_videos: int) -> None:
    """Paired: scipy draws the same videos for both orders."""
    rng = np.random.default_rng(3)
    ordered = rng.random(num_videos) < 0.8
    others = (ordered ^ (rng.random((3, num_videos)) < 0.3)).mean(axis=0)
    found = bootstrap_mean(100.0 * (ordered - others), num_resamples=20_000)
    expected = stats.bootstrap(
        (100.0 * ordered, 100.0 * others),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        batch=2_000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    half = (expected.high - expected.low) / 2
    assert (found.low, found.high) == pytest.approx(
        (expected.low, expected.high), abs=0.03 * half + 100 / 3 / num_videos
    )


def test_interval_of_a_million_videos_is_normal() -> None:
    """In the time and memory of a few, since only different values are drawn."""
    hits = np.zeros(1_000_000)
    hits[:300_000] = 1.0
    found = bootstrap_mean(hits)
    deviation = (0.3 * 0.7 / 1e6) ** 0.5
    assert found.low == pytest.approx(0.3 - 1.96 * deviation, abs=0.05 * deviation)
    assert found.high == pytest.approx(0.3 + 1.96 * deviation, abs=0.05 * deviation)


def test_known_cases() -> None:
    same = bootstrap_mean(np.zeros(50))
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    values = np.array([1.0, 0.0, 0.0, 1.0])
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values[::-1].copy(), seed=1)
    assert bootstrap_mean(np.array([2.5])).high == 2.5
    assert str(bootstrap_mean(np.full(3, 1.0))) == "1.00 [1.00, 1.00]"


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Of 400 samples of 200 videos each, about 95 % of the intervals contain the mean that they were drawn from."""
    rng = np.random.default_rng(0)
    samples = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=(400, 200))
    found = [bootstrap_mean(sample, num_resamples=2_000, seed=n) for n, sample in enumerate(samples)]
    covered = np.mean([interval.low <= 0.2 <= interval.high for interval in found])
    assert 0.92 < covered < 0.98
