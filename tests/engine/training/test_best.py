"""Which validation is the best, and how long ago it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from videovit.config import load_config
from videovit.engine.checkpoints.folder import Position, best_checkpoint
from videovit.engine.training.best import Best, BestSoFar, best_measure

NAN, INF = float("nan"), float("inf")


def best_of(folder: Path, opts: str = "") -> BestSoFar:
    return BestSoFar(load_config(None, ["OUTPUT_DIR", str(folder), *opts.split()]))


@pytest.mark.parametrize(
    ("opts", "measure"),
    [
        ("", "top1_acc"),
        ("TRAIN.BEST macro_f1", "macro_f1"),
        ("DATA.MULTI_LABEL True MODEL.LOSS_FUNC bce MODEL.HEAD_ACT sigmoid TEST.DATASET a TRAIN.DATASET a", "map"),
        ("DETECTION.ENABLE True MODEL.LOSS_FUNC bce MODEL.HEAD_ACT sigmoid TEST.DATASET a TRAIN.DATASET a", "map"),
    ],
)
def test_measure(opts: str, measure: str) -> None:
    assert best_measure(load_config(None, opts.split())) == measure
    assert best_measure(load_config(None, ["TRAIN.BEST", ""])) == ""


@pytest.mark.parametrize(
    ("measure", "values", "improving"),
    [
        ("top1_acc", [NAN, 50.0, 50.0, NAN, INF, 40.0, 60.0, -INF], [1, 6]),
        ("loss", [NAN, 2.0, 2.0, -INF, 3.0, 1.5, INF], [1, 5]),
        ("loss", [INF, NAN], []),
    ],
)
def test_only_better_finite_values_improve(
    measure: str, values: list[float], improving: list[int], tmp_path: Path
) -> None:
    best = best_of(tmp_path, f"TRAIN.BEST {measure}")
    found = [i for i, value in enumerate(values) if best.improves({measure: value, "other": 1e9}, i + 1)]
    assert found == improving
    assert best.record == (Best(measure, values[improving[-1]], improving[-1] + 1) if improving else None)


def test_lower_loss_decides_between_equal_values(tmp_path: Path) -> None:
    best = best_of(tmp_path, "TRAIN.BEST top1_acc")
    values = [(90.0, 1.0), (90.0, 0.8), (90.0, 0.8), (90.0, 0.9), (90.0, NAN), (80.0, 0.1), (95.0, 2.0), (95.0, 1.9)]
    found = [best.improves({"top1_acc": top1, "loss": loss}, epoch) for epoch, (top1, loss) in enumerate(values, 1)]
    assert found == [True, True, False, False, False, False, True, True]
    assert best.record == Best("top1_acc", 95.0, 8, 1.9) and best.state()["loss"] == 1.9


def test_nothing_is_best_if_nothing_is_compared(tmp_path: Path) -> None:
    best = BestSoFar(load_config(None, ["OUTPUT_DIR", str(tmp_path), "TRAIN.BEST", ""]))
    assert not best.improves({"top1_acc": 100.0}, 1) and best.epoch == 0


def test_patience_counts_epochs_at_validations(tmp_path: Path) -> None:
    best = best_of(tmp_path, "TRAIN.EARLY_STOP_EPOCHS 3 TRAIN.EVAL_PERIOD 2")
    assert best.improves({"top1_acc": 50.0}, 2)
    assert [epoch for epoch in range(1, 11) if best.is_long_ago(Position(epoch))] == [6, 8, 10]
    assert not best.is_long_ago(Position(6, 1, 3))
    assert not best_of(tmp_path).is_long_ago(Position(1000))
    # Without any finite measure, epochs count from the start.
    assert best_of(tmp_path, "TRAIN.EARLY_STOP_EPOCHS 3 TRAIN.EVAL_PERIOD 2").is_long_ago(Position(4))


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        ({"best": {"measure": "loss", "value": 0.5, "epoch": 3}}, "chosen by loss, not by top1_acc"),
        ({"best": {"measure": "top1_acc", "value": NAN, "epoch": 3}}, "chosen by nothing known"),
        ({"best": {"measure": "top1_acc", "value": "50", "epoch": 3}}, "chosen by nothing known"),
        ({"best": 7}, "chosen by nothing known"),
        ({}, "chosen by nothing known"),
        (None, "cannot be used"),
    ],
)
def test_record_that_cannot_be_continued_is_named(
    content: dict[str, object] | None, warning: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = best_checkpoint(tmp_path)
    path.parent.mkdir()
    if content is None:
        path.write_bytes(b"PK damaged")
    else:
        torch.save({"model_state": {}, **content}, path)
    best = best_of(tmp_path)
    best.restore(resumed=True)
    assert best.record is None and warning in caplog.text


def test_record_is_continued_by_a_resumed_run_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, record = best_checkpoint(tmp_path), Best("top1_acc", 81.25, 3)
    path.parent.mkdir()
    torch.save({"model_state": {}, "best": {"measure": "top1_acc", "value": 81.25, "epoch": 3}}, path)
    best = best_of(tmp_path)
    best.restore(resumed=True)
    assert best.record == record and not caplog.text
    assert not best.improves({"top1_acc": 81.25}, 4) and best.improves({"top1_acc": 81.3}, 5)
    fresh = best_of(tmp_path)
    fresh.restore(resumed=False)
    assert fresh.record is None and "is of an earlier run" in caplog.text
