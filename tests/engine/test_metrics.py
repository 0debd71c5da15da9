"""Top-k, the ensemble of views, per-class accuracy."""

import numpy as np
import pytest
import torch

from videovit.engine.metrics import MissingViewsError, NonFiniteScoresError, ViewEnsemble, class_accuracy, topk_correct


def test_topk() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    top1, top2 = topk_correct(scores, torch.tensor([1, 2, 1]), ks=(1, 2))
    assert top1.tolist() == [True, False, False]
    assert top2.tolist() == [True, False, True]
    (top9,) = topk_correct(scores, torch.tensor([1, 2, 1]), ks=(9,))
    assert top9.all()


def feed(ensemble: ViewEnsemble, video: int, view: int, scores: list[float], label: int) -> None:
    ensemble.update(torch.tensor([scores]), torch.tensor([label]), torch.tensor([video]), torch.tensor([view]))


def test_sum_and_max_differ_where_they_should() -> None:
    results = {}
    for method in ("sum", "max"):
        ensemble = ViewEnsemble(num_videos=1, num_views=3, num_classes=2, method=method)
        for view, scores in enumerate([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]]):
            feed(ensemble, 0, view, scores, label=1)
        results[method] = ensemble.result()["top1_acc"]
    assert results == {"sum": 100.0, "max": 0.0}


def test_max_of_negative_scores_is_not_zero() -> None:
    ensemble = ViewEnsemble(num_videos=1, num_views=2, num_classes=2, method="max")
    feed(ensemble, 0, 0, [-3.0, -2.0], 1)
    feed(ensemble, 0, 1, [-4.0, -1.0], 1)
    torch.testing.assert_close(ensemble.scores_VK, torch.tensor([[-3.0, -1.0]]))


def test_a_view_counts_once_and_a_missing_one_is_an_error() -> None:
    ensemble = ViewEnsemble(num_videos=2, num_views=2, num_classes=2)
    feed(ensemble, 0, 0, [1.0, 0.0], 0)
    feed(ensemble, 0, 0, [0.0, 5.0], 0)  # padded sampler: again
    feed(ensemble, 0, 1, [1.0, 0.0], 0)
    with pytest.raises(MissingViewsError, match="2 of 4 views.*video 1, view 0"):
        ensemble.result()
    assert ensemble.result(skipped={1}) == {
        "top1_acc": 100.0,
        "top5_acc": 100.0,
        "num_videos": 1,
        "num_views": 2,
        "num_skipped": 1,
    }
    assert ensemble.predictions().tolist() == [0, -1]


def test_nan_has_no_accuracy() -> None:
    ensemble = ViewEnsemble(num_videos=2, num_views=1, num_classes=2)
    feed(ensemble, 0, 0, [1.0, 0.0], 0)
    feed(ensemble, 1, 0, [float("nan"), 0.0], 0)
    with pytest.raises(NonFiniteScoresError, match="1 of 2 videos.*videos 1"):
        ensemble.result()


def test_class_accuracy() -> None:
    accuracy = class_accuracy(np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1]), 3)
    assert accuracy[:2].tolist() == [50.0, 50.0]
    assert np.isnan(accuracy[2])
