"""predictions.csv: equal to the measures of the test, complete or absent, and safe to open."""

from __future__ import annotations

import csv
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from videovit.data.records import Batch
from videovit.engine.evaluation.evaluator import Evaluator
from videovit.engine.evaluation.predictions import Prediction, format_mistakes, predictions, write_predictions
from videovit.engine.evaluation.view_ensemble import MultiLabel, TopK, ViewEnsemble

NAMES = [f"class {k}" for k in range(8)]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, evaluator: Evaluator, paths: list[str], names: list[str] = NAMES) -> list[Prediction]:
    rows = evaluator.predictions_of(paths)
    assert rows is not None
    return write_predictions(path, rows, names)


def evaluated(kind: type[ViewEnsemble], labels: torch.Tensor, *, method: str = "sum") -> ViewEnsemble:
    """Coarse scores, so that many are equal, of two views per video; the last video is not read."""
    evaluator = kind(num_videos=len(labels) + 1, num_views=2, num_classes=8, method=method)
    torch.manual_seed(0)
    index = torch.arange(len(labels))
    for view in range(2):
        scores = torch.randint(0, 4, (len(labels), 8)) / 4
        evaluator.update(scores, Batch(torch.empty(len(labels)), labels, index, index * 0 + view, index, []))
    return evaluator


@pytest.mark.parametrize("method", ["sum", "max"])
def test_accuracies_from_the_file_equal_the_measures(method: str, tmp_path: Path) -> None:
    evaluator = evaluated(TopK, torch.arange(300) % 7, method=method)
    mistakes = write(tmp_path / "a.csv", evaluator, [f"{v}.mp4" for v in range(301)])
    rows, result = rows_of(tmp_path / "a.csv"), evaluator.result(skipped=[300])
    assert [row["path"] for row in rows] == [f"{v}.mp4" for v in range(300)]
    hits = np.array([row["true_number"] == row["predicted_number"] for row in rows])
    assert hits.tolist() == [row["correct"] == "1" for row in rows]
    true = np.array([int(row["true_number"]) for row in rows])
    assert 100 * hits.mean() == pytest.approx(result["top1_acc"])
    assert 100 * np.mean([int(row["true_rank"]) <= 5 for row in rows]) == pytest.approx(result["top5_acc"])
    assert np.mean([100 * hits[true == k].mean() for k in range(7)]) == pytest.approx(result["mean_class_acc"])
    in_top5 = [row["true"] in [row[f"top{place}"] for place in range(1, 6)] for row in rows]
    assert in_top5 == [int(row["true_rank"]) <= 5 for row in rows]
    scores = evaluator.state()["scores"] / (2 if method == "sum" else 1)
    for row, scores_K, label in zip(rows, scores, true, strict=False):
        assert float(row["score"]) == float(row["top1_score"]) == scores_K.max()
        assert float(row["true_score"]) == scores_K[label]
        assert [float(row[f"top{n}_score"]) for n in range(1, 6)] == scores_K.sort(descending=True)[0][:5].tolist()
    wrong = sorted((-float(row["score"]), int(row["video"])) for row in rows if row["correct"] == "0")
    assert [row.video for row in mistakes] == [video for _, video in wrong[:10]]


def test_labels_of_videos_with_several_classes(tmp_path: Path) -> None:
    labels = (torch.rand(50, 8, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    labels[7] = 0
    evaluator = evaluated(MultiLabel, labels, method="max")
    write(tmp_path / "a.csv", evaluator, [f"{v}.mp4" for v in range(51)])
    rows, scores = rows_of(tmp_path / "a.csv"), evaluator.state()["scores"]
    assert len(rows) == 50 and rows[7]["true"] == rows[7]["true_score"] == "" and rows[7]["correct"] == "0"
    for row, scores_K, label_K in zip(rows, scores, labels, strict=False):
        true = label_K.nonzero()[:, 0].tolist()
        assert row["true"].split("; ") == ([NAMES[k] for k in true] or [""])
        assert [int(k) for k in row["true_number"].split("; ") if k] == true
        assert [float(s) for s in row["true_score"].split("; ") if s] == scores_K[true].tolist()
        assert (row["correct"] == "1") == (int(scores_K.argmax()) in true)


def some(number: int, *, broken_at: int = -1) -> Iterator[Prediction]:
    for video in range(number):
        if video == broken_at:
            raise KeyboardInterrupt
        yield Prediction(video, f"folder/{video}.mp4", (0,), (0.1,), (2,), (1, 0), (0.5, 0.1))


def test_file_is_complete_or_the_one_before(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a.csv", some(3), NAMES[:2])
    before = (tmp_path / "a.csv").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_predictions(tmp_path / "a.csv", some(5000, broken_at=4000), NAMES[:2])
    assert (tmp_path / "a.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_rows_are_not_kept_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        assert len(write_predictions(tmp_path / "a.csv", some(20_000), NAMES[:2])) == 10
        assert tracemalloc.get_traced_memory()[1] < 500_000  # 20,000 rows take 12 MB
    finally:
        tracemalloc.stop()


def test_names_of_strangers(tmp_path: Path) -> None:
    """Names are quoted, and act neither as formulas nor as escape sequences."""
    names = ['a, "b"', "=1+1", "\x1b[2J; c"]
    paths = ['dir, "1"\n.mp4', "=HYPERLINK(1)", "m\udce4d.mp4"]
    evaluator = TopK(num_videos=3, num_views=1, num_classes=3)
    index = torch.arange(3)
    evaluator.update(torch.eye(3)[[1, 2, 0]], Batch(torch.empty(3), index, index, index * 0, index, []))
    mistakes = write(tmp_path / "a.csv", evaluator, paths, names)
    rows = rows_of(tmp_path / "a.csv")
    assert [row["path"] for row in rows] == [r'dir, "1"\n.mp4', "'=HYPERLINK(1)", r"m\udce4d.mp4"]
    assert [row["true"] for row in rows] == ['a, "b"', "'=1+1", r"\x1b[2J; c"]
    table = format_mistakes(mistakes, names)
    assert len(table.splitlines()) == 5 and "\x1b" not in table
    table.encode()


def test_fewer_classes_than_columns() -> None:
    (row,) = predictions(torch.tensor([[0.2, 0.8]]), torch.tensor([1]), torch.tensor([0]), ["a"])
    assert row.top == (1, 0) and row.true_ranks == (1,) and row.correct
    values: Any = row.top_scores
    assert values == pytest.approx((0.8, 0.2))
