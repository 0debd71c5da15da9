"""The epochs of a run: their lines in the log, and their curves."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from videovit.engine.reporting.curves import Curves, draw_curves
from videovit.engine.reporting.history import describe_epoch_end, read_history


def write_records(folder: Path, *records: dict[str, Any]) -> None:
    with open(folder / "stats.jsonl", "a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def train(epoch: int, loss: float | None, **values: Any) -> dict[str, Any]:
    rates = {"clips_per_s": 38.06, "data_share": 0.021, "bad_samples": 0, "skipped_steps": 0, "lr": 0.01}
    return {"_type": "train_epoch", "epoch": f"{epoch}/16", "loss": loss, **rates, **values}


def val(epoch: int, **values: float) -> dict[str, Any]:
    return {"_type": "val_epoch", "epoch": f"{epoch}/16", **values}


def test_line_names_the_best_epoch(tmp_path: Path) -> None:
    write_records(tmp_path, train(1, 2.0), val(1, top1_err=40.0, loss=2.1))
    write_records(tmp_path, train(2, 1.5), val(2, top1_err=19.0, loss=1.6))
    write_records(tmp_path, train(3, 1.1501), val(3, top1_err=20.8, loss=1.7))
    assert describe_epoch_end(read_history(tmp_path), 3) == (
        "epoch 3/16  train loss 1.15  val top-1 79.2 (best 81.0, epoch 2)  38.1 clips/s, 2% waiting for data"
    )


def test_line_names_the_epoch_with_the_lower_loss_among_equal_ones(tmp_path: Path) -> None:
    for epoch, loss in enumerate((0.9, 0.5, 0.5, 0.7), 1):
        write_records(tmp_path, train(epoch, 1.0), val(epoch, top1_err=0.0, loss=loss))
    assert "val top-1 100.0 (best 100.0, epoch 2)" in describe_epoch_end(read_history(tmp_path), 4)


def test_line_of_an_epoch_without_validation(tmp_path: Path) -> None:
    terms = {"loss_labels": 1.25, "loss_teacher": 0.5}
    write_records(tmp_path, train(1, None, bad_samples=2, skipped_steps=1), train(2, 0.875, **terms))
    history = read_history(tmp_path)
    assert "loss" not in describe_epoch_end(history, 1)
    assert describe_epoch_end(history, 1).endswith("  2 unreadable videos  1 skipped step")
    assert describe_epoch_end(history, 2).startswith("epoch 2/16  train loss 0.875 (labels 1.25, teacher 0.5)  38.1")


def test_repeated_epoch_and_broken_lines(tmp_path: Path) -> None:
    """A crash after an epoch makes the next run train it again; of equal measures the first counts as best."""
    write_records(tmp_path, train(1, 2.0), val(1, map=90.0), train(1, 1.0), val(1, map=20.0), train(2, 0.5))
    with open(tmp_path / "stats.jsonl", "a") as file:
        file.write('{"_type": "val_epoch", "epoch": "2/\n{"_type": "val_epoch", "epoch": "x"}\n[1, "_epoch"]\n')
    write_records(tmp_path, val(2, map=20.0))
    history = read_history(tmp_path)
    assert list(history.epochs) == [1, 2] and history.epochs[1].train["loss"] == 1.0
    assert history.measured() == {1: 20.0, 2: 20.0}
    assert "val mAP 20.0 (best 20.0, epoch 1)" in describe_epoch_end(history, 2)
    assert read_history(tmp_path / "none").epochs == {}


def test_curves_are_drawn_in_any_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a display; more panels and longer curves change the picture."""
    monkeypatch.delenv("DISPLAY", raising=False)
    write_records(tmp_path, train(1, 2.0))
    pictures = []
    for number in range(2):
        thread = threading.Thread(target=draw_curves, args=(read_history(tmp_path), tmp_path / "curves.png"))
        thread.start()
        thread.join()
        with Image.open(tmp_path / "curves.png") as image:
            pictures.append(np.asarray(image.convert("L")))
        write_records(tmp_path, train(2, 1.0), val(2, top1_err=number + 1.0, loss=1.0))
    assert pictures[1].shape[1] == pictures[0].shape[1] * 3 // 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "stats.jsonl"]


def test_curves_that_cannot_be_written_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "curves.png").mkdir()
    Curves(tmp_path / "curves.png").write(read_history(tmp_path))
    assert "curves.png: could not be written" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_short_epochs_do_not_wait_for_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of epochs that are short beside a picture, the first and the last are drawn."""
    monkeypatch.setattr("videovit.engine.reporting.curves.MOST_OFTEN", 1e9)
    path = tmp_path / "curves.png"
    curves, pictures = Curves(path), []
    for epoch in range(1, 6):
        write_records(tmp_path, train(epoch, 1.0 / epoch))
        curves.write(read_history(tmp_path), last=epoch == 5)
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1] == pictures[3] != pictures[4]
