"""Writing checkpoints: complete files only, in the background, never a NaN; old ones are removed."""

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from videovit.engine.checkpoints import saving
from videovit.engine.checkpoints.folder import Position, checkpoint_path, find_checkpoints
from videovit.engine.checkpoints.resume import load_model
from videovit.engine.checkpoints.saving import Saver, prune, snapshot, to_host, write_checkpoint
from videovit.models.convert import CheckpointError


def save(folder: Path, position: Position, model: nn.Module | None = None) -> Path:
    path = checkpoint_path(folder, position)
    write_checkpoint(path, snapshot(model or nn.Linear(3, 2), position=position, cfg_text=""))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def save_for_ever(folder: Path) -> None:
    model = nn.Linear(400, 300)
    with Saver(folder, keep=3) as saver:
        for epoch in range(1, 10**6):
            nn.init.constant_(model.weight, epoch)
            saver.save(Position(epoch), snapshot(model, position=Position(epoch), cfg_text=""))


def test_killed_at_any_moment_leaves_complete_files_only(tmp_path: Path) -> None:
    """The next save removes temporary files of the killed process."""
    moments = random.Random(0)
    epoch = 0
    for _ in range(20):
        child = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(tmp_path,))
        child.start()
        while not find_checkpoints(tmp_path):
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.05))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        for path in find_checkpoints(tmp_path):
            model = nn.Linear(400, 300)
            epoch = load_model(model, path)["epoch"] + 1
            assert torch.equal(model.weight, torch.full_like(model.weight, epoch))
    save(tmp_path, Position(epoch + 10**6))
    assert all(name.endswith(".pyth") for name in names(tmp_path))


def test_changes_while_writing_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda handle: go_on.wait(30))
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with Saver(tmp_path) as saver:
        path = saver.save(Position(1), snapshot(model, position=Position(1), cfg_text=""))
        nn.init.zeros_(model.weight)
        assert not path.exists()
        go_on.set()
    load_model(model, path)
    assert torch.equal(model.weight, before)


def test_to_host_copies_memory() -> None:
    tensor = torch.ones(3)
    copy = to_host({"a": [tensor, (tensor, 1)], "b": "text"})
    tensor.zero_()
    assert copy["a"][0].sum() == 3 and copy["a"][1][0].sum() == 3 and copy["b"] == "text"


def test_failed_write_is_raised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = save(tmp_path, Position(1))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    saver = Saver(tmp_path)
    saver.save(Position(2), snapshot(nn.Linear(3, 2), position=Position(2), cfg_text=""))
    with pytest.raises(CheckpointError, match="disk full.*bytes free"):
        saver.join()
    saver.check()  # raised already
    assert names(tmp_path) == [older.name]


@pytest.mark.parametrize("error", [MemoryError(), KeyError("x"), AssertionError("so"), SystemExit(3)])
@pytest.mark.parametrize("place", ["save_flushed", "prune"])
def test_any_exception_of_the_writer_is_raised(
    error: BaseException, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(saving, place, fail)
    saver = Saver(tmp_path)
    saver.save(Position(2), snapshot(nn.Linear(3, 2), position=Position(2), cfg_text=""))
    with pytest.raises(CheckpointError, match=f"checkpoint_epoch_00002.*{type(error).__name__}"):
        saver.join()
    saver.check()  # raised already
    with pytest.raises(CheckpointError), Saver(tmp_path) as saver:
        saver.save(Position(3), snapshot(nn.Linear(3, 2), position=Position(3), cfg_text=""))


def test_full_disk_keeps_older_file_and_removes_partial_one(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root")
    try:
        older = save(folder, Position(1), nn.Linear(300, 300))
        with pytest.raises(CheckpointError, match=r"disk full\), [\d,]+ bytes free"):
            save(folder, Position(2), nn.Linear(600, 600))
        assert names(folder) == [older.name]
        load_model(nn.Linear(300, 300), older)
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_not_written(tmp_path: Path, value: float) -> None:
    older, model = save(tmp_path, Position(1)), nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.state[model.weight]["exp_avg"][0, 0] = value
    state = snapshot(model, position=Position(2), cfg_text="", optimizer=optimizer)
    with pytest.raises(CheckpointError, match=r"not finite: optimizer_state\.state\.0\.exp_avg"):
        write_checkpoint(checkpoint_path(tmp_path, Position(2)), state)
    assert names(tmp_path) == [older.name]


def test_prune_removes_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for position in (*(Position(epoch) for epoch in range(1, 6)), *(Position(5, step, 9) for step in (1, 2, 3))):
        newest = save(tmp_path, position)
    prune(tmp_path, keep=0, newest=newest)
    assert len([n for n in names(tmp_path) if "step" not in n]) == 5
    prune(tmp_path, keep=2, newest=newest)
    kept = [
        "checkpoint_epoch_00004.pyth",
        "checkpoint_epoch_00005.pyth",
        "checkpoint_epoch_00005_step_000002.pyth",
        "checkpoint_epoch_00005_step_000003.pyth",
    ]
    assert names(tmp_path) == kept

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    prune(tmp_path, keep=1, newest=newest)  # warns only
    assert names(tmp_path) == kept
    assert "checkpoint_epoch_00004.pyth could not be removed: Permission denied" in caplog.text
    monkeypatch.undo()
    prune(tmp_path, keep=1, newest=newest)
    assert names(tmp_path) == kept[1:]


def test_prune_ignores_skipped_files_further_in_training(tmp_path: Path) -> None:
    """Damaged files, or files of another model: neither counted nor removed."""
    for epoch in (1, 2, 3):
        newest = save(tmp_path, Position(epoch))
    beyond = [checkpoint_path(tmp_path, Position(epoch, step, 9)) for epoch in (3, 8, 9) for step in (0, 5)][1:]
    for path in beyond:
        path.write_bytes(b"damaged")
    prune(tmp_path, keep=2, newest=newest)
    kept = [checkpoint_path(tmp_path, Position(epoch)) for epoch in (2, 3)]
    assert names(tmp_path) == sorted(path.name for path in [*kept, *beyond])
