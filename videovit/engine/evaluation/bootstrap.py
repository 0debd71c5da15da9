"""How certain a difference between two accuracies on the same videos is: the paired bootstrap over videos.

V videos, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
FEW_VIDEOS = 100
"""Below this number of videos, an interval is itself uncertain."""


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def bootstrap_mean(
    values_V: NDArray[np.floating], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0, confidence: float = CONFIDENCE
) -> Interval:
    """Percentile interval of a mean over videos.

    A resample draws V videos with replacement; the limits are quantiles of the means of R resamples. For a paired
    comparison, a video's value is the difference of two models, or of two frame orders, on that video, so that videos
    that are easy or hard for both do not widen the interval.

        d_v = hit_v(a) - hit_v(b)      m_r = mean of d over resample r      [quantile(m, 0.025), quantile(m, 0.975)]

    How often each different value occurs in a resample has a multinomial distribution, which is drawn directly: time
    and memory depend on R and on the number of different values, not on V.

    Args:
        values_V: one value per video; at least one.
        num_resamples: R.
        seed: of the resamples.
        confidence: share of the resamples between the limits.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), sections 13.3 and 8.3.
    """
    values, counts = np.unique(values_V, return_counts=True)
    num_videos = len(values_V)
    drawn = np.random.default_rng(seed).multinomial(num_videos, counts / num_videos, size=num_resamples)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(drawn @ values / num_videos, (tail, 1.0 - tail))
    return Interval(float(values_V.mean()), float(low), float(high))
