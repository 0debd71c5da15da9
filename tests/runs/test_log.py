"""What a run reports: lines for people in the log, records in stats.jsonl, curves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.runs import Make, stats
from videovit.engine import launch
from videovit.engine.reporting.history import read_history


def lines_of(out: Path) -> list[str]:
    return [line.partition("] ")[2] or line for line in (out / "stdout.log").read_text().splitlines()]


def test_log_of_a_resumed_run(make: Make, tmp_path: Path) -> None:
    """A line per epoch with the loss, also below LOG_PERIOD steps; the second run knows the first one's best epoch."""
    opts = "LOG_PERIOD 100 TRAIN.EVAL_PERIOD 1 TEST.ENABLE False SOLVER.MAX_EPOCH 3 TRAIN.MAX_STEPS"
    launch.run(make(tmp_path, f"{opts} 3"))
    first = (tmp_path / "curves.png").read_bytes()
    launch.run(make(tmp_path, f"{opts} 0"))
    assert (tmp_path / "curves.png").read_bytes() != first
    assert not any("{" in line or "json_stats" in line for line in lines_of(tmp_path))
    epochs = [line for line in lines_of(tmp_path) if line.startswith("epoch ")]
    history = read_history(tmp_path)
    assert len(epochs) == 3 and list(history.epochs) == [1, 2, 3] and stats(tmp_path, "train_iter") == []
    best = max(history.measured().values())
    for number, line in enumerate(epochs, 1):
        loss, top1 = history.epochs[number].train["loss"], history.measured()[number]
        pattern = rf"epoch {number}/3  train loss {loss:.4g}  val top-1 {top1:.1f} \(best .*\)  .*clips/s, .* waiting "
        assert re.match(pattern + r"for data  elapsed 0:00:\d\d, left 0:00:\d\d$", line), line
    assert f"(best {best:.1f}, epoch " in epochs[2] and epochs[2].endswith("left 0:00:00")


def test_loss_of_an_epoch_is_the_mean_of_its_steps(make: Make, tmp_path: Path) -> None:
    """With PySlowFast's lines, on request."""
    launch.run(make(tmp_path, "LOG_JSON True TEST.ENABLE False SOLVER.MAX_EPOCH 1"))
    (record,), steps = stats(tmp_path, "train_epoch"), stats(tmp_path, "train_iter")
    assert record["loss"] == pytest.approx(sum(step["loss"] for step in steps) / 3) and len(steps) == 3
    assert record["lr"] == steps[-1]["lr"]
    text = "\n".join(lines_of(tmp_path))
    assert text.count('json_stats: {"') == 5 and '"_type": "train_epoch"' in text
