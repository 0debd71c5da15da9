"""Mean losses of an epoch, and the time that a training has left."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tests.helpers.runs import run_group
from videovit.engine.training.step import StepResult
from videovit.engine.training.whole import LossMeans, WholeTraining


def step(loss: float, **terms: float) -> StepResult:
    named = {name: torch.tensor(value) for name, value in terms.items()}
    return StepResult(torch.tensor(loss), named, torch.tensor(1.0), 0.25)


def test_loss_is_the_mean_of_all_finite_steps() -> None:
    means = LossMeans()
    assert means.add(step(1.0, labels=2.0, teacher=4.0)) == 1.0
    assert math.isnan(LossMeans().add(step(math.nan)))
    means.add(step(math.nan, labels=math.nan, teacher=1.0))
    assert means.add(step(4.0, labels=3.0, teacher=0.0)) == 2.5
    assert means.over_ranks() == {"loss": 2.5, "loss_labels": 2.5, "loss_teacher": 2.0}
    assert means.lr == 0.25
    assert math.isnan(LossMeans().over_ranks()["loss"])


def mean_of_rank(rank: int, folder: Path) -> None:
    means = LossMeans()
    for loss in [3.0] if rank else [math.nan, 1.0, 1.0]:
        means.add(step(loss, only=loss))
    (folder / f"{rank}.json").write_text(json.dumps(means.over_ranks()))


def test_ranks_report_the_mean_of_all_steps(tmp_path: Path) -> None:
    run_group(mean_of_rank, 2, tmp_path)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [
        {"loss": pytest.approx(5 / 3)}
    ] * 2


def test_time_left_includes_validations() -> None:
    whole = WholeTraining(100, first=40, validation_steps=5, quiet=True)  # 40 steps by an earlier run
    for _ in range(10):
        whole.step()
    whole.trained(20.0)
    assert whole.left_s(validations=3) == 50 * 2.0 + 3 * 5 * 2.0  # as slow as training, until one was measured
    whole.validated(7.0)
    assert whole.left_s(validations=3) == 50 * 2.0 + 3 * 7.0
    assert whole.times(validations=3) == "elapsed 0:00:00, left 0:02:01"
