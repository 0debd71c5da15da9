"""Measures of scores: top-k; per class accuracy, precision, recall, F1, and average precision.

Shape letters: B clips, V videos, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def topk_correct(scores_BK: Tensor, labels_B: Tensor, ks: tuple[int, ...] = (1, 5)) -> list[Tensor]:
    """Whether the label is among the k highest scores; of equal scores, that of the first class counts as higher.

    This agrees with `argmax`, which the other measures use; `topk` would take any of equal scores.

    Args:
        scores_BK: (B, K) scores or logits, finite.
        labels_B: (B,) class indices.
        ks: the values of k; one above K counts as K.

    Returns:
        For each k a (B,) bool tensor.
    """
    wanted_B1 = scores_BK.gather(1, labels_B[:, None])
    is_before_BK = torch.arange(scores_BK.shape[1], device=labels_B.device) < labels_B[:, None]
    rank_B = ((scores_BK > wanted_B1) | ((scores_BK == wanted_B1) & is_before_BK)).sum(dim=1)
    return [rank_B < k for k in ks]


def class_accuracy(predictions_V: np.ndarray, labels_V: np.ndarray, num_classes: int) -> np.ndarray:
    """(K,) float: percent of the videos of each class that are predicted correctly, NaN for a class without videos.

    Args:
        predictions_V: (V,) predicted classes.
        labels_V: (V,) true classes.
        num_classes: K.
    """
    counts = np.bincount(labels_V, minlength=num_classes).astype(float)
    hits = np.bincount(labels_V[predictions_V == labels_V], minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, 100.0 * hits / counts, np.nan)


def precision_recall_f1(predictions_V: np.ndarray, labels_V: np.ndarray, num_classes: int) -> np.ndarray:
    """(3, K) float: precision, recall and F1 of each class in percent, NaN for a class without videos.

    A class with videos that is never predicted has 0 in all three. Videos that are wrongly taken for a class without
    videos count against the recall of their own class.

    Args:
        predictions_V: (V,) predicted classes.
        labels_V: (V,) true classes.
        num_classes: K.

    Source: scikit-learn's `precision_recall_fscore_support` with `zero_division=0`.
    """
    truths, guesses = (np.bincount(x, minlength=num_classes) for x in (labels_V, predictions_V))
    hits = np.bincount(labels_V[predictions_V == labels_V], minlength=num_classes)
    return _precision_recall_f1(hits, guesses, truths)


def precision_recall_f1_of_several(predicted_VK: NDArray[np.bool_], targets_VK: NDArray[np.bool_]) -> np.ndarray:
    """(3, K) float: the same for videos with any number of classes.

    Args:
        predicted_VK: (V, K), whether the class is predicted.
        targets_VK: (V, K), whether the class occurs.

    Source: as `precision_recall_f1`, for an indicator matrix.
    """
    return _precision_recall_f1(
        (predicted_VK & targets_VK).sum(axis=0), predicted_VK.sum(axis=0), targets_VK.sum(axis=0)
    )


def _precision_recall_f1(hits_K: np.ndarray, guesses_K: np.ndarray, truths_K: np.ndarray) -> np.ndarray:
    """(3, K), in percent, from the numbers of videos."""
    shares = [
        hits_K / np.maximum(guesses_K, 1),
        hits_K / np.maximum(truths_K, 1),
        2 * hits_K / np.maximum(guesses_K + truths_K, 1),
    ]
    return np.where(truths_K > 0, 100.0 * np.stack(shares), np.nan)


def average_precision(scores_VK: NDArray[np.floating], targets_VK: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Area under the precision-recall steps of each class, without interpolation.

    Of videos with equal scores, precision is taken after the last one.

        score      0.9  0.7  0.7  0.2
        target      1    0    1    1        precision 1, 2/3, 3/4 at recall 1/3, 2/3, 1:
        recall     1/3      2/3    1        AP = (1 + 2/3 + 3/4) / 3

    Args:
        scores_VK: (V, K), finite.
        targets_VK: (V, K), whether the class occurs.

    Returns:
        (K,) in percent, NaN for a class that no video shows.

    Source: average precision of scikit-learn, which PySlowFast uses for Charades.
    """
    order = np.argsort(-scores_VK, axis=0, kind="stable")
    ranked = np.take_along_axis(scores_VK, order, axis=0)
    hits = np.take_along_axis(targets_VK, order, axis=0)
    true_so_far = hits.cumsum(axis=0).astype(np.float64)
    precision = true_so_far / np.arange(1, len(hits) + 1)[:, None]
    result = np.full(scores_VK.shape[1], np.nan)
    for k in np.flatnonzero(hits.any(axis=0)):
        ends = np.append(np.flatnonzero(np.diff(ranked[:, k])), len(hits) - 1)
        gained = np.diff(true_so_far[ends, k], prepend=0.0)
        result[k] = 100.0 * (gained * precision[ends, k]).sum() / true_so_far[-1, k]
    return result
