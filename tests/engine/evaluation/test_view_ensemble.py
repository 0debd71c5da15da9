"""The ensemble of views, with one class per video and with several."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from videovit.data.records import Batch
from videovit.engine.evaluation.measures import precision_recall_f1, topk_correct
from videovit.engine.evaluation.view_ensemble import MultiLabel, TopK
from videovit.errors import UserError


def test_of_equal_scores_the_first_class_counts(tmp_path: Path) -> None:
    """Equal scores are frequent in bf16; accuracy, confusion matrix and accuracy per class must agree."""
    scores_VK = torch.rand(300, 40, generator=torch.Generator().manual_seed(0)).mul(3).round()
    labels_V = torch.arange(300) % 40
    ensemble = TopK(num_videos=300, num_views=1, num_classes=40)
    ensemble.update(scores_VK, batch_of(labels_V, list(range(300)), [0] * 300))
    hits = int((ensemble.predictions() == labels_V.numpy()).sum())
    assert 0 < hits < 300 and ensemble.result()["top1_acc"] == pytest.approx(100 * hits / 300)
    ensemble.write_report(tmp_path, [str(k) for k in range(40)])
    rows = [line.split(",")[1:] for line in (tmp_path / "confusion_matrix.csv").read_text().splitlines()[1:]]
    assert sum(int(row[k]) for k, row in enumerate(rows)) == hits
    best = [sorted(range(40), key=lambda k: (-row[k], k)) for row in scores_VK.tolist()]
    (top5,) = topk_correct(scores_VK, labels_V, ks=(5,))
    assert top5.tolist() == [label in order[:5] for label, order in zip(labels_V.tolist(), best, strict=True)]


def batch_of(labels: torch.Tensor, videos: list[int], views: list[int]) -> Batch:
    index = torch.tensor(videos)
    return Batch(torch.empty(len(videos)), labels, index, torch.tensor(views), index, [])


def feed(ensemble: TopK, video: int, view: int, scores: list[float], label: int) -> None:
    ensemble.update(torch.tensor([scores]), batch_of(torch.tensor([label]), [video], [view]))


def test_sum_and_max() -> None:
    results = {}
    for method in ("sum", "max"):
        ensemble = TopK(num_videos=1, num_views=3, num_classes=2, method=method)
        for view, scores in enumerate([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]]):
            feed(ensemble, 0, view, scores, label=1)
        results[method] = ensemble.result()["top1_acc"]
    assert results == {"sum": 100.0, "max": 0.0}


def test_max_of_negative_scores_is_not_zero() -> None:
    ensemble = TopK(num_videos=1, num_views=2, num_classes=2, method="max")
    feed(ensemble, 0, 0, [-3.0, -2.0], 1)
    feed(ensemble, 0, 1, [-4.0, -1.0], 1)
    torch.testing.assert_close(ensemble.scores_VK, torch.tensor([[-3.0, -1.0]]))


def test_view_counts_once_and_missing_view_is_an_error() -> None:
    ensemble = TopK(num_videos=2, num_views=2, num_classes=2)
    feed(ensemble, 0, 0, [1.0, 0.0], 0)
    feed(ensemble, 0, 0, [0.0, 5.0], 0)  # padded sampler: again
    feed(ensemble, 0, 1, [1.0, 0.0], 0)
    with pytest.raises(UserError, match="2 of 4 views.*video 1, view 0"):
        ensemble.result()
    assert ensemble.result(skipped={1}) == {
        "top1_acc": 100.0,
        "top5_acc": 100.0,
        "mean_class_acc": 100.0,
        "macro_precision": 100.0,
        "macro_f1": 100.0,
        "num_videos": 1,
        "num_views": 2,
        "num_skipped": 1,
    }
    assert ensemble.predictions().tolist() == [0, -1]


def test_nan_is_an_error() -> None:
    ensemble = TopK(num_videos=2, num_views=1, num_classes=2)
    feed(ensemble, 0, 0, [1.0, 0.0], 0)
    feed(ensemble, 1, 0, [float("nan"), 0.0], 0)
    with pytest.raises(UserError, match="1 of 2 videos.*videos 1"):
        ensemble.result()


def test_map_skips_classes_without_positives() -> None:
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.random((6, 4, 5)).astype(np.float32))  # videos, views, classes
    labels = torch.from_numpy((rng.random((6, 5)) < 0.4).astype(np.float32))
    labels[:, 2] = 0
    evaluator = MultiLabel(num_videos=6, num_views=4, num_classes=5, method="max")
    for video in range(6):
        evaluator.update(scores[video], batch_of(labels[video].repeat(4, 1), [video] * 4, [0, 1, 2, 3]))
    best = scores.max(dim=1).values
    expected = [average_precision_score(labels[:, k], best[:, k]) for k in (0, 1, 3, 4)]
    result = evaluator.result()
    assert result["map"] == pytest.approx(100 * np.mean(expected), abs=1e-5)
    assert next(iter(result)) == "map"
    assert (result["num_classes"], result["num_videos"], result["num_views"]) == (4, 6, 24)
    assert evaluator.state()["labels"].equal(labels)


def test_map_without_any_class_is_an_error() -> None:
    evaluator = MultiLabel(num_videos=1, num_views=1, num_classes=2)
    evaluator.update(torch.zeros(1, 2), batch_of(torch.zeros(1, 2), [0], [0]))
    with pytest.raises(UserError, match="none of the 1"):
        evaluator.result()


def test_mean_class_accuracy_weighs_classes_equally() -> None:
    ensemble = TopK(num_videos=4, num_views=1, num_classes=3)
    for video, (predicted, label) in enumerate([(0, 0), (0, 0), (0, 0), (0, 1)]):
        feed(ensemble, video, 0, [float(k == predicted) for k in range(3)], label)
    result = ensemble.result()
    assert (result["top1_acc"], result["mean_class_acc"]) == (75.0, 50.0)


@pytest.mark.parametrize("seed", range(3))
def test_precision_recall_and_f1_equal_scikit_learn(seed: int) -> None:
    """Class 4 has no video but is predicted, class 5 has one and is never predicted, class 6 is in neither."""
    rng = np.random.default_rng(seed)
    labels_V = np.append(rng.integers(0, 4, 60), 5)
    predictions_V = np.append(rng.integers(0, 5, 60), 4)
    occurring = [0, 1, 2, 3, 5]
    found_3K = precision_recall_f1(predictions_V, labels_V, 7)
    per_class = precision_recall_fscore_support(labels_V, predictions_V, labels=occurring, zero_division=0)[:3]
    np.testing.assert_allclose(found_3K[:, occurring], 100 * np.array(per_class))
    assert np.isnan(found_3K[:, [4, 6]]).all()

    ensemble = TopK(num_videos=61, num_views=1, num_classes=7)
    for video, (predicted, label) in enumerate(zip(predictions_V.tolist(), labels_V.tolist(), strict=True)):
        feed(ensemble, video, 0, [float(k == predicted) for k in range(7)], label)
    result = ensemble.result()
    macro = precision_recall_fscore_support(
        labels_V, predictions_V, labels=occurring, average="macro", zero_division=0
    )[:3]
    names = ("macro_precision", "mean_class_acc", "macro_f1")
    np.testing.assert_allclose([result[name] for name in names], 100 * np.array(macro))


def test_precision_recall_and_f1_of_several_classes_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.random((40, 2, 6)).astype(np.float32))  # videos, views, classes
    labels = torch.from_numpy((rng.random((40, 6)) < 0.4).astype(np.float32))
    labels[:, 2] = 0
    scores[:, :, 3] /= 3  # never predicted
    evaluator = MultiLabel(num_videos=40, num_views=2, num_classes=6)
    for video in range(40):
        evaluator.update(scores[video], batch_of(labels[video].repeat(2, 1), [video] * 2, [0, 1]))
    occurring = [0, 1, 3, 4, 5]
    expected = precision_recall_fscore_support(
        labels[:, occurring], scores.mean(dim=1)[:, occurring] >= 0.5, average="macro", zero_division=0
    )
    result = evaluator.result()
    found = [result[name] for name in ("macro_precision", "macro_recall", "macro_f1")]
    np.testing.assert_allclose(found, 100 * np.array(expected[:3]))
