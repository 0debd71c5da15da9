"""How often classes occur in a list, and the weights that make up for it.

V videos, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from videovit.data.records import Sample


def count_classes(samples: Sequence[Sample], num_classes: int) -> NDArray[np.int64]:
    """(K,): videos of each class; in detection boxes of each class.

    Args:
        samples: of a list.
        num_classes: K.
    """
    counts_K = np.zeros(num_classes, dtype=np.int64)
    for sample in samples:
        if sample.key is None:
            counts_K[list(sample.class_ids)] += 1
        for box in () if sample.key is None else sample.key.boxes:
            counts_K[[class_id - 1 for class_id in box.class_ids]] += 1  # classes of boxes count from 1
    return counts_K


def inverse_frequency(counts_K: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights w = N / (C n) of classes that occur n times among N labels of C different classes.

    All classes together then weigh the same, and the mean weight over the labels is 1. A class that does not occur
    has 1.

    Args:
        counts_K: how often each class occurs.
    """
    occurring_K = counts_K > 0
    total, number = counts_K.sum(), occurring_K.sum()
    return np.where(occurring_K, total / np.maximum(number * counts_K, 1), 1.0)
