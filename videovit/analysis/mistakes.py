"""Where a classifier errs: pairs of classes that it confuses, and kinds of videos that it gets wrong.

V videos, K classes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_GROUPS = 5  # of videos, by a property
Z_95 = 1.959964  # of the normal distribution


@dataclass(frozen=True)
class Pair:
    """Two classes that are confused.

    Attributes:
        true: class of the videos.
        predicted: class that they were taken for.
        number: of such videos.
        share: of the videos of `true`.
        back: videos of `predicted` that were taken for `true`.
    """

    true: int
    predicted: int
    number: int
    share: float
    back: int


@dataclass(frozen=True)
class Group:
    """Videos with similar values of a property.

    Attributes:
        low, high: values of the first and the last of them.
        number: of videos.
        accuracy: share of right ones.
        interval: 95 % of it, by Wilson.
        confidence: mean score of the predicted class.
    """

    low: float
    high: float
    number: int
    accuracy: float
    interval: tuple[float, float]
    confidence: float


def confused_pairs(videos: Iterable[tuple[Sequence[int], int]]) -> list[Pair]:
    """Pairs of classes, the most frequently confused first; of equally many, the one with the larger share.

    Args:
        videos: classes of each video, and the predicted one. A video with several classes, none of which was
            predicted, counts once for each of them.
    """
    totals: Counter[int] = Counter()
    wrong: Counter[tuple[int, int]] = Counter()
    for true, predicted in videos:
        totals.update(true)
        if predicted not in true:
            wrong.update((one, predicted) for one in true)
    pairs = [Pair(t, p, number, number / totals[t], wrong[p, t]) for (t, p), number in list(wrong.items())]
    return sorted(pairs, key=lambda pair: (-pair.number, -pair.share, pair.true, pair.predicted))


def group_by_value(
    values_V: NDArray[np.float64], right_V: NDArray[np.bool_], confidence_V: NDArray[np.float64]
) -> list[Group]:
    """Accuracy and confidence by a property: a group per value, or about equally many videos in each of `MOST_GROUPS`.

    Videos with equal values are never separated.

    Args:
        values_V: finite.
        right_V: whether each video was classified correctly.
        confidence_V: score of the predicted class.
    """
    different = np.unique(values_V)
    if len(different) > MOST_GROUPS:
        bounds = np.unique(np.quantile(values_V, np.linspace(0, 1, MOST_GROUPS + 1)[1:], method="higher"))
    else:
        bounds = different
    places_V = np.searchsorted(bounds, values_V)
    groups = []
    for place in range(len(bounds)):
        chosen_V = places_V == place
        if not chosen_V.any():
            continue
        number, hits = int(chosen_V.sum()), int(right_V[chosen_V].sum())
        groups.append(
            Group(
                float(values_V[chosen_V].min()),
                float(values_V[chosen_V].max()),
                number,
                hits / number,
                wilson(hits, number),
                float(confidence_V[chosen_V].mean()),
            )
        )
    return groups


def wilson(hits: int, number: int) -> tuple[float, float]:
    """95 % interval of a share; unlike that of the normal approximation it stays within 0 and 1.

    Args:
        hits: of `number`.
        number: at least 1.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference (JASA 22, 1927).
    """
    share, square = hits / number, Z_95**2
    middle = share + square / (2 * number)
    spread = Z_95 * math.sqrt(share * (1 - share) / number + square / (4 * number**2))
    # Rounding would leave 1e-17 where the limit is 0.
    low = (middle - spread) / (1 + square / number) if hits else 0.0
    high = (middle + spread) / (1 + square / number) if hits < number else 1.0
    return low, high
