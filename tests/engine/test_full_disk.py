"""What a run writes on a disk without room: the file is named, and what was written before can still be used.

A limit of the size of files stands for the disk: it takes no root, and writes end in the middle as they do there.
"""

import contextlib
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from videovit.engine.checkpoints.folder import Position, best_checkpoint, checkpoint_path
from videovit.engine.checkpoints.resume import load_model, resume
from videovit.engine.checkpoints.saving import Saver, snapshot
from videovit.engine.evaluation.class_report import draw_per_class, write_confusion
from videovit.engine.evaluation.predictions import Prediction, write_predictions
from videovit.engine.reporting.log import RunLog
from videovit.errors import UserError

ROOM = 20_000  # bytes


@contextlib.contextmanager
def without_room() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save(folder: Path, size: int, epoch: int, *, best: bool = False) -> nn.Linear:
    model = nn.Linear(size, size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Saver(folder) as saver:
        state = snapshot(model, position=Position(epoch), cfg_text="", optimizer=optimizer)
        if best:
            saver.save_best(state)
        else:
            saver.save(Position(epoch), state)
    return model


@pytest.mark.parametrize("best", [False, True])
def test_checkpoint_without_room_leaves_the_older_one(tmp_path: Path, best: bool) -> None:
    """Training continues from it."""
    model = save(tmp_path, 10, 1)
    path = best_checkpoint(tmp_path) if best else checkpoint_path(tmp_path, Position(2))
    with without_room(), pytest.raises(UserError, match=f"{path.name}: could not be written, .* bytes free: "):
        save(tmp_path, 200, 2, best=best)
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint_epoch_00001.pyth"]
    other = nn.Linear(10, 10)
    position = resume(tmp_path, model=other, optimizer=torch.optim.SGD(other.parameters(), lr=0.1), scaler=None)
    assert position == Position(1) and torch.equal(other.weight, model.weight)
    load_model(other, checkpoint_path(tmp_path, Position(1)))


def stats(folder: Path, size: int) -> None:
    RunLog(folder).stats("train_epoch", {"text": "x" * size})


def table(folder: Path, size: int) -> None:
    rows = (Prediction(i, f"{i}.mp4", (0,), (0.1,), (2,), (1, 0), (0.5, 0.1)) for i in range(size // 10))
    write_predictions(folder / "predictions.csv", rows, ["a", "b"])


def confusion(folder: Path, size: int) -> None:
    side = max(2, size // 200)
    write_confusion(folder, np.ones((side, side), dtype=np.int32), [f"class {k}" for k in range(side)])


def bars(folder: Path, size: int) -> None:
    draw_per_class(folder / "bars.png", {f"class {k}": 1.0 * k for k in range(size // 500)}, "accuracy")


@pytest.mark.parametrize(
    ("name", "write", "stays"),
    [
        ("stats.jsonl", stats, True),
        ("predictions.csv", table, True),
        ("confusion_matrix.csv", confusion, False),
        ("bars.png", bars, False),
    ],
)
def test_file_without_room_is_named(tmp_path: Path, name: str, write: Callable[[Path, int], None], stays: bool) -> None:
    if stays:
        write(tmp_path, 100)
    before = (tmp_path / name).read_bytes() if stays else b""
    with without_room(), pytest.raises(UserError, match=f"{name}: could not be written, .* bytes free: File too large"):
        write(tmp_path, 50_000)
    if stays:
        assert (tmp_path / name).read_bytes().startswith(before)
    assert not [file.name for file in tmp_path.iterdir() if file.name not in (name, "stdout.log")]
    if name == "stats.jsonl":  # once there is room, records follow half a line
        write(tmp_path, 10)
        assert json.loads((tmp_path / name).read_text().splitlines()[-1])["text"] == "x" * 10
