"""Top-k, accuracy per class, average precision."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from videovit.engine.evaluation.measures import average_precision, class_accuracy, topk_correct


def test_topk() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    top1, top2 = topk_correct(scores, torch.tensor([1, 2, 1]), ks=(1, 2))
    assert top1.tolist() == [True, False, False]
    assert top2.tolist() == [True, False, True]
    (top9,) = topk_correct(scores, torch.tensor([1, 2, 1]), ks=(9,))
    assert top9.all()


def test_class_accuracy() -> None:
    accuracy = class_accuracy(np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1]), 3)
    assert accuracy[:2].tolist() == [50.0, 50.0]
    assert np.isnan(accuracy[2])


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_average_precision_equals_scikit_learn(levels: int) -> None:
    """With few levels, most scores are equal to others."""
    rng = np.random.default_rng(levels)
    scores = (rng.integers(0, levels, (60, 9)) / levels).astype(np.float32)
    targets = rng.random((60, 9)) < 0.2
    targets[:, 3] = False
    mine = average_precision(scores, targets)
    assert np.isnan(mine[3])
    for k in set(range(9)) - {3}:
        assert mine[k] == pytest.approx(100 * average_precision_score(targets[:, k], scores[:, k]), abs=1e-9)
