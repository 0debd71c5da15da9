"""`errors.json`, for one class per video, several, and scores that are not probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videovit.analysis.calibration import calibration_error, reliability
from videovit.engine.evaluation.error_report import error_report
from videovit.engine.evaluation.predictions import predictions

NAMES = ["a", "b", "c"]


def test_one_class_per_video() -> None:
    labels = torch.arange(90) % 3
    logits = torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    logits[torch.arange(90), labels] += 1
    scores = (4 * logits).softmax(1)  # too confident
    rows = list(predictions(scores, labels, torch.arange(90), [f"{v}.mp4" for v in range(90)]))
    worst = sorted((row for row in rows if not row.correct), key=lambda row: -row.top_scores[0])[:2]
    found = error_report(scores, labels, NAMES, worst)
    counted = {(NAMES[row.true[0]], NAMES[row.top[0]]) for row in rows if not row.correct}
    assert {tuple(row[:2]) for row in found["pairs"]["rows"]} == counted
    assert sum(row[2] for row in found["pairs"]["rows"]) == sum(not row.correct for row in rows)
    assert found["worst"]["rows"][0][1] == worst[0].path
    right = (scores.argmax(1) == labels).numpy()
    expected = calibration_error(reliability(scores.amax(1).double().numpy(), right))
    calibration = found["calibration"]
    assert calibration["ece"] == pytest.approx(100 * expected)
    assert calibration["accuracy"] == pytest.approx(100 * right.mean())
    assert sum(row[2] for row in calibration["rows"]) == 90
    assert calibration["temperature"]["value"] > 2
    assert calibration["temperature"]["ece_before"] == pytest.approx(100 * expected)
    assert calibration["temperature"]["ece_after"] < 100 * expected


def test_several_classes_per_video() -> None:
    rng = torch.Generator().manual_seed(1)
    scores = torch.rand(400, 3, generator=rng)
    labels = (torch.rand(400, 3, generator=rng) < scores).float()
    found = error_report(scores, labels, NAMES, [])
    calibration = found["calibration"]
    # Every class of every video is a decision; these are calibrated.
    assert sum(row[2] for row in calibration["rows"]) == 1200
    assert calibration["ece"] < 6 and calibration["temperature"]["value"] == pytest.approx(1, abs=0.15)
    assert "ece_after" not in calibration["temperature"]
    wrong = [v for v in range(400) if labels[v, scores[v].argmax()] == 0]
    assert sum(row[2] for row in found["pairs"]["rows"]) == sum(int(labels[v].sum()) for v in wrong)
    assert "counts once for each" in found["pairs"]["notes"][1]


def test_logits_have_no_calibration_and_single_sigmoids_no_temperature() -> None:
    labels = torch.tensor([0, 1])
    found = error_report(torch.tensor([[3.0, -1.0, 0.0], [0.0, 2.0, 1.0]]), labels, NAMES, [])
    assert "ece" not in found["calibration"] and "not probabilities" in found["calibration"]["notes"][0]
    found = error_report(torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.6, 0.5]]), labels, NAMES, [])
    assert found["calibration"]["temperature"] is None and found["calibration"]["ece"] == pytest.approx(25)
    assert np.isclose(found["calibration"]["mean_confidence"], 75)
