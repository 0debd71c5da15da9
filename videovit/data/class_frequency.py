"""How often classes occur in a list, and the weights that make up for it.

V videos, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from videovit.data.records import Sample
from videovit.data.sample_list import SampleList


def count_classes(samples: Sequence[Sample], num_classes: int) -> NDArray[np.int64]:
    """(K,): videos of each class; in detection boxes of each class.

    Args:
        samples: of a list.
        num_classes: K.
    """
    # Classes of boxes count from 1.
    first = 1 if len(samples) and samples[0].key is not None else 0
    return np.bincount(classes_of(samples) - first, minlength=num_classes)


def classes_of(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """The classes of all samples: of each video or image, once if it occurs several times in it; of every box.

    Args:
        samples: of a list.
    """
    if isinstance(samples, SampleList) and samples.has_one_label:
        return samples.label_N[samples.label_N >= 0].astype(np.int64)
    boxes = samples.column("box_classes") if isinstance(samples, SampleList) else None
    if boxes is not None:
        return boxes.astype(np.int64)
    found: list[int] = []
    for sample in samples:
        if sample.key is None:
            found += sample.class_ids
        for box in () if sample.key is None else sample.key.boxes:
            found += box.class_ids
    return np.array(found, dtype=np.int64)


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
